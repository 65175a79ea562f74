"""The rate in three parts, against sums over a whole small data set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaekit.distributions import diagonal_normal, mixture_of_normals
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO, TotalCorrelation
from vaekit.types import Latent, Trace

N, D = 5, 2


def data_set() -> tuple[Tensor, Tensor]:
    """Means and scales of q(z|x_n) for the whole data set, each (N, D), with a correlated aggregate."""
    generator = torch.Generator().manual_seed(3)
    mean = torch.randn(N, D, generator=generator, dtype=torch.float64) * 1.5
    mean[:, 1] += mean[:, 0]
    return mean, 0.3 + torch.rand(N, D, generator=generator, dtype=torch.float64)


def trace_of(rows: list[int], num_samples: int = 3, num_data: int | None = N, z: Tensor | None = None) -> Trace:
    mean, scale = data_set()
    q = diagonal_normal(mean[rows], scale[rows])
    p = diagonal_normal(torch.zeros(D).double(), torch.full((D,), 1.2).double())
    z = q.rsample((num_samples,)) if z is None else z
    log_likelihood = torch.arange(z.shape[0] * len(rows)).double().reshape(z.shape[:2]) - 10.0
    return Trace(torch.zeros(len(rows), 1), p, log_likelihood, (Latent(z, q, p),), num_data=num_data)


def log_aggregate(z: Tensor, rows: Sequence[int] = range(N)) -> tuple[Tensor, Tensor]:
    """log q(z) and sum_d log q(z_d) of a data set of these examples, written out."""
    mean, scale = (part[list(rows)] for part in data_set())
    variance = scale**2
    density = torch.exp(-((z[..., None, :] - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)  # (..., N, D)
    return density.prod(-1).mean(-1).log(), density.mean(-2).log().sum(-1)


@pytest.mark.parametrize("estimator", ["mss", "mws"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3, 1], [2]])
def test_the_parts_add_up_to_the_sampled_rate(estimator: str, rows: list[int]) -> None:
    trace = trace_of(rows)
    terms = TotalCorrelation(estimator=estimator)(trace).terms
    latent = trace.latents[0]
    assert sum(t.item() for t in terms.values()) == pytest.approx((latent.log_q - latent.log_p).mean().item(), rel=1e-12)
    assert list(terms) == ["mutual_information", "total_correlation", "dimension_wise_kl"]


@pytest.mark.parametrize("num_samples", [1, 4])
def test_a_batch_of_the_whole_data_set_gives_the_exact_parts(num_samples: int) -> None:
    """Stratified: exactly. Weighted: each estimated density is too small by the factor N."""
    trace = trace_of(list(range(N)), num_samples)
    latent = trace.latents[0]
    log_joint, log_marginals = log_aggregate(latent.z)
    exact = {
        "mutual_information": (latent.log_q - log_joint).mean().item(),
        "total_correlation": (log_joint - log_marginals).mean().item(),
        "dimension_wise_kl": (log_marginals - latent.log_p).mean().item(),
    }
    stratified = TotalCorrelation(estimator="mss")(trace).terms
    weighted = TotalCorrelation(estimator="mws")(trace).terms
    offsets = {"mutual_information": 1, "total_correlation": D - 1, "dimension_wise_kl": -D}
    for name, value in exact.items():
        assert stratified[name].item() == pytest.approx(value, rel=1e-12)
        assert weighted[name].item() == pytest.approx(value + offsets[name] * math.log(N), rel=1e-12)


def estimates(estimator: str, first: int, batch: int, z: Tensor) -> Tensor:
    """exp of log q(z) and of sum_d log q(z_d), (2, batches), at one z of example `first` with all choices of the others."""
    objective = TotalCorrelation(estimator=estimator)
    found = []
    for others in itertools.combinations([n for n in range(N) if n != first], batch - 1):
        latent = trace_of([first, *others], z=z.expand(1, batch, D)).latents[0]
        found.append(torch.stack([part[0, 0] for part in objective.log_aggregate(latent, N)]))
    return torch.stack(found, dim=1).exp()


@pytest.mark.parametrize("batch", [2, 3, 4, 5])
def test_stratified_sampling_has_the_right_expectation(batch: int) -> None:
    """Over all batches that hold the example: q(z) without bias, and its logarithm too low."""
    for first in range(N):
        z = data_set()[0][first] + 0.3
        joint = estimates("mss", first, batch, z)[0]
        exact = log_aggregate(z)[0]
        assert joint.mean().item() == pytest.approx(exact.exp().item(), rel=1e-12)
        assert joint.log().mean().item() <= exact.item() + 1e-12
        assert batch == N or joint.log().mean().item() < exact.item()


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_weighted_sampling_has_the_known_bias(batch: int) -> None:
    """The expectation is 1 / (N B) (q(z|x_i) + (B - 1) mean_(j != i) q(z|x_j)), below q(z)."""
    mean, scale = data_set()
    for first in range(N):
        z = mean[first] + 0.3
        densities = diagonal_normal(mean, scale).log_prob(z).exp()
        others = (densities.sum() - densities[first]) / (N - 1)
        expected = (densities[first] + (batch - 1) * others) / (N * batch)
        joint = estimates("mws", first, batch, z)[0]
        assert joint.mean().item() == pytest.approx(expected.item(), rel=1e-12)
        assert expected < log_aggregate(z)[0].exp()


def test_stratified_sampling_is_the_mean_of_the_papers() -> None:
    """Chen et al. let one example of the batch stand for all that are not in it; the mean over which one."""
    rows, batch = [4, 0, 2], 3
    trace = trace_of(rows, 1)
    latent, others = trace.latents[0], batch - 1
    mean, scale = data_set()
    densities = diagonal_normal(mean[rows], scale[rows]).log_prob(latent.z[0][:, None]).exp()  # (B, B): z of i under q of j
    found = TotalCorrelation().log_aggregate(latent, N)[0][0].exp()
    for i in range(batch):
        rest = [j for j in range(batch) if j != i]
        papers = []
        for last in rest:
            weights = dict.fromkeys(rest, 1 / others) | {last: (N - others) / (N * others), i: 1 / N}
            papers.append(sum(weights[j] * densities[i, j].item() for j in range(batch)))
        assert found[i].item() == pytest.approx(sum(papers) / others, rel=1e-12)


def test_stratified_sampling_has_less_bias_than_weighted() -> None:
    """Mean error of each part over all batches of three, with the samples of each batch."""
    errors = {"mss": torch.zeros(3).double(), "mws": torch.zeros(3).double()}
    for rows in itertools.combinations(range(N), 3):
        trace = trace_of(list(rows), 200)
        latent = trace.latents[0]
        joint, marginals = log_aggregate(latent.z)
        exact = torch.stack([(latent.log_q - joint).mean(), (joint - marginals).mean(), (marginals - latent.log_p).mean()])
        for estimator, error in errors.items():
            error += torch.stack(list(TotalCorrelation(estimator=estimator)(trace).terms.values())) - exact
    assert (errors["mss"].abs() < errors["mws"].abs()).all()


def test_weights_of_the_parts() -> None:
    trace = trace_of([0, 2, 3])
    bound = TotalCorrelation(2.0, 3.0, 5.0)(trace)
    parts = [t.item() for t in bound.terms.values()]
    distortion = -trace.log_likelihood.mean().item()
    assert bound.loss.item() == pytest.approx(distortion + 2 * parts[0] + 3 * parts[1] + 5 * parts[2], rel=1e-13)
    latent = trace.latents[0]
    plain = TotalCorrelation(1.0, 1.0, 1.0)(trace)
    assert plain.loss.item() == pytest.approx(distortion + (latent.log_q - latent.log_p).mean().item(), rel=1e-13)
    for name in ("elbo", "rate", "distortion"):
        assert getattr(bound, name).item() == pytest.approx(getattr(ELBO()(trace), name).item(), rel=1e-14)


@pytest.mark.parametrize("estimator", ["mss", "mws"])
def test_gradient(estimator: str) -> None:
    """The loss with its noise fixed, against central differences."""
    noise = torch.randn(2, 3, D, dtype=torch.float64)

    def loss(mean: Tensor, log_scale: Tensor, prior_mean: Tensor) -> Tensor:
        q, p = diagonal_normal(mean, log_scale.exp()), diagonal_normal(prior_mean, torch.ones_like(prior_mean))
        z = mean + log_scale.exp() * noise
        trace = Trace(torch.zeros(3, 1), p, -z.square().sum(-1), (Latent(z, q, p),), num_data=50)
        return TotalCorrelation(0.5, 4.0, 2.0, estimator)(trace).loss

    arguments = (torch.randn(3, D), torch.randn(3, D) * 0.3, torch.randn(D))
    assert torch.autograd.gradcheck(loss, tuple(a.double().requires_grad_() for a in arguments))


def test_latents_of_any_shape_are_units() -> None:
    """A latent of (2, 1, 3) is six units."""
    mean, scale = torch.randn(4, 2, 1, 3).double(), torch.rand(4, 2, 1, 3).double() + 0.5
    z = mean + scale * torch.randn(2, 4, 2, 1, 3).double()
    found = []
    for shape, dims in (((2, 1, 3), 3), ((6,), 1)):
        q = diagonal_normal(mean.reshape(4, *shape), scale.reshape(4, *shape), dims)
        p = diagonal_normal(torch.zeros(shape).double(), torch.ones(shape).double(), dims)
        trace = Trace(torch.zeros(4, 1), p, torch.zeros(2, 4).double(), (Latent(z.reshape(2, 4, *shape), q, p),), num_data=9)
        found.append(TotalCorrelation()(trace))
    for name, value in found[0].terms.items():
        assert value.item() == pytest.approx(found[1].terms[name].item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ["mss", "mws"])
@pytest.mark.parametrize("num_data", [1, 2, 4])
def test_a_data_set_smaller_than_the_batch(estimator: str, num_data: int) -> None:
    """Batches are laid end to end over epochs, so the same example may come twice: each of the batch then counts alike."""
    rows = [0, 0, 1, 1][: max(2, num_data)]
    trace = trace_of(rows, num_data=num_data)
    latent, small = trace.latents[0], math.log(num_data) if estimator == "mws" else 0.0
    log_joint, log_marginals = log_aggregate(latent.z, rows)
    terms = TotalCorrelation(estimator=estimator)(trace).terms
    expected = {
        "mutual_information": (latent.log_q - log_joint).mean().item() + small,
        "total_correlation": (log_joint - log_marginals).mean().item() + (D - 1) * small,
        "dimension_wise_kl": (log_marginals - latent.log_p).mean().item() - D * small,
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_where_the_size_of_the_data_set_comes_from() -> None:
    trace = trace_of([0, 1, 2], num_data=None)
    assert TotalCorrelation(num_data=N)(trace).loss == TotalCorrelation()(replace(trace, num_data=N)).loss
    assert TotalCorrelation(num_data=7)(replace(trace, num_data=N)).loss == TotalCorrelation()(replace(trace, num_data=N)).loss
    with pytest.raises(ConfigError, match="must know the number of examples in the data set, found none in the trace"):
        TotalCorrelation()(trace)


def test_models_that_have_no_such_parts() -> None:
    good = trace_of([0, 1, 2]).latents[0]
    mixture = mixture_of_normals(torch.zeros(2).double(), torch.randn(2, D).double(), torch.ones(2, D).double())
    full = MultivariateNormal(torch.zeros(3, D).double(), torch.eye(D).double().expand(3, D, D))
    per_sample = diagonal_normal(good.z, torch.ones_like(good.z))
    conditional = diagonal_normal(torch.zeros(3, D).double(), torch.ones(3, D).double())
    refused = [
        ((replace(good, posterior=full),), r"a posterior that is a product over units with batch shape \(3,\), got Multivar"),
        (
            (replace(good, posterior=per_sample),),
            r"a posterior .* batch shape \(3,\), got Independent with batch shape \(3, 3\)",
        ),
        ((replace(good, prior=mixture),), r"a prior that is a product over units with batch shape \(\), got MixtureSameFamily"),
        ((replace(good, prior=conditional),), r"a prior .* got Independent with batch shape \(3,\)"),
        ((good, good), r"TotalCorrelation must be given one level of latents, got 2"),
    ]
    for latents, sentence in refused:
        with pytest.raises(ConfigError, match=sentence):
            TotalCorrelation()(replace(trace_of([0, 1, 2]), latents=latents))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TotalCorrelation(beta=-1.0), "`alpha`, `beta` and `gamma` must be finite and >= 0"),
        (lambda: TotalCorrelation(alpha=math.nan), "`alpha`, `beta` and `gamma` must be finite and >= 0"),
        (lambda: TotalCorrelation(beta=math.inf), "must be finite and >= 0, got 1.0, inf and 1.0"),
        (lambda: TotalCorrelation(estimator="exact"), "`estimator` must be mss or mws, got 'exact'"),
        (lambda: TotalCorrelation(num_data=0), "`num_data` must be at least 1 or None, got 0"),
    ],
)
def test_an_argument_that_cannot_be(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()
