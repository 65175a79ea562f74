"""Priors that are made of data: the mixture of posteriors at pseudo-inputs, and the mixture about stored examples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vaekit.component import build
from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP, ConditionEncoder
from vaekit.objectives import ELBO
from vaekit.posteriors import DiagonalNormal, FullNormal
from vaekit.priors import Exemplar, Vamp
from vaekit.vae import VAE


def normal_density(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """exp of the log-density of a diagonal normal, by the formula."""
    return torch.exp(-0.5 * ((z - mean) / scale).square()).div(scale * math.sqrt(2 * math.pi)).prod(-1)


def vamp_vae(**arguments: object) -> VAE:
    torch.manual_seed(5)
    prior = Vamp(2, [3], num_pseudo_inputs=4, **arguments)  # pyright: ignore[reportArgumentType]
    return VAE(prior, DiagonalNormal(MLP(3, [8]), 2), Normal(MLP(2, [8]), [3])).double()


def test_vamp_is_the_mean_of_the_posteriors_at_the_pseudo_inputs() -> None:
    vae, z = vamp_vae(input_range=[-1.0, 3.0]), torch.randn(5, 6, 2).double()
    prior = vae.prior
    u = -1.0 + 4.0 / (1.0 + torch.exp(-prior.pseudo))
    for temperature in (1.0, 0.4):
        expected = torch.zeros(5, 6).double()
        for m in range(4):
            q = vae.posterior(u[m : m + 1]).base_dist
            expected = expected + normal_density(z, q.mean[0], temperature * q.stddev[0]) / 4
        torch.testing.assert_close(prior(temperature=temperature).log_prob(z), expected.log())


def test_vamp_sends_gradients_to_pseudo_inputs_and_posterior() -> None:
    """Against finite differences of the very numbers."""
    vae, z = vamp_vae(), torch.randn(3, 2).double()

    def value() -> Tensor:
        return vae.prior().log_prob(z).sum()

    value().backward()
    for parameter in (vae.prior.pseudo, vae.posterior.head.linear.weight, vae.posterior.network.layers[0][0].bias):
        flat, step = parameter.data.view(-1), 1e-6
        before = flat[1].item()
        flat[1] = before + step
        above = value().item()
        flat[1] = before - step
        difference = (above - value().item()) / (2 * step)
        flat[1] = before
        assert parameter.grad is not None
        assert parameter.grad.view(-1)[1].item() == pytest.approx(difference, rel=1e-5)
        assert difference != 0


def test_vamp_starts_at_examples() -> None:
    x = torch.tensor([[0.0, 128.0, 255.0], [10.0, 20.0, 30.0]]).double()
    prior = Vamp(2, [3], num_pseudo_inputs=3, input_range=[0.0, 255.0]).double()
    prior.initialize(x)
    u = prior.pseudo_inputs()
    torch.testing.assert_close(u, x[[0, 1, 0]], rtol=0, atol=0.011 * 255)
    assert not torch.equal(u[0], u[2])
    free = Vamp(2, [3], num_pseudo_inputs=2).double()
    mask = torch.tensor([[True, True, False], [True, False, True]])
    free.initialize(torch.where(mask, x, torch.nan), mask)
    expected = torch.tensor([[0.0, 128.0, 30.0], [10.0, 128.0, 30.0]]).double()
    torch.testing.assert_close(free.pseudo, nn.Parameter(expected), rtol=0, atol=0.06)


def test_vamp_under_conditions_has_features_of_its_own() -> None:
    posterior = DiagonalNormal(MLP(3, [8], condition_features=4), 2)
    encoder = ConditionEncoder({"label": 3}, features=4)
    prior = Vamp(2, [3], num_pseudo_inputs=5, condition_features=4)
    vae = VAE(prior, posterior, Normal(MLP(2, [8], condition_features=4), [3]), encoder).double()
    z = torch.randn(4, 2).double()
    q = posterior(prior.pseudo, prior.pseudo_condition).base_dist
    expected = normal_density(z[:, None], q.mean, q.stddev).mean(1).log()
    for label in (0, 2, -1):
        features = vae.encode_condition({"label": torch.full((4,), label)})
        torch.testing.assert_close(vae.prior(features).log_prob(z), expected)
    vae(torch.randn(3, 3).double(), condition={"label": torch.tensor([0, 1, -1])}).log_weights.sum().backward()
    assert prior.pseudo_condition.grad is not None
    assert prior.pseudo_condition.grad.abs().max() > 0


@pytest.mark.parametrize("prior", [Vamp(2, [3], 4), Exemplar(2, [3], 4)])
def test_the_posterior_is_saved_once_and_bound_again(prior: Vamp | Exemplar) -> None:
    vae = VAE(prior, FullNormal(MLP(3, [8]), 2), Normal(MLP(2, [8]), [3])).eval()
    vae.initialize(torch.randn(4, 3))
    assert not [name for name in vae.state_dict() if name.startswith("prior.posterior")]
    again = build(vae.spec()).eval()
    again.load_state_dict(vae.state_dict())
    z = torch.randn(5, 2)
    torch.testing.assert_close(again.prior().log_prob(z), vae.prior().log_prob(z))
    torch.testing.assert_close(vae.sample_prior(6).shape, torch.Size([1, 6, 2]))
    new = DiagonalNormal(MLP(3, [8]), 2)
    vae.posterior = new
    assert vae.prior.posterior is new


def exemplar_vae(num: int = 4) -> VAE:
    torch.manual_seed(6)
    return VAE(Exemplar(2, [3], num), DiagonalNormal(MLP(3, [8]), 2), Normal(MLP(2, [8]), [3])).double()


def test_exemplar_in_training_leaves_each_example_out_of_its_own_mixture() -> None:
    vae, x = exemplar_vae(), torch.randn(5, 3).double()
    means, sigma = vae.posterior(x).mean, vae.prior.scale.expand(2)
    (latent,) = vae.train()(x, num_samples=2).latents
    for k in range(2):
        for i in range(5):
            others = [normal_density(latent.z[k, i], means[j], sigma) for j in range(5) if j != i]
            torch.testing.assert_close(latent.log_p[k, i], (sum(others) / 4).log())
    latent.log_p.sum().backward()
    assert vae.prior.raw_scale.grad is not None
    assert vae.posterior.head.linear.weight.grad is not None


def test_exemplar_afterwards_is_the_mixture_about_the_stored_examples() -> None:
    vae, x, z = exemplar_vae(), torch.randn(3, 3).double(), torch.randn(6, 2).double()
    vae.prior.initialize(x)  # three of the four places
    vae.eval()
    means = vae.posterior(x).mean
    for temperature in (1.0, 0.5):
        sigma = temperature * vae.prior.scale.expand(2)
        expected = torch.stack([normal_density(z, mean, sigma) for mean in means]).mean(0).log()
        torch.testing.assert_close(vae.prior(temperature=temperature).log_prob(z), expected)
    (latent,) = vae(x).latents  # the stored ones themselves: nothing is left out
    own = torch.stack([normal_density(latent.z, mean, vae.prior.scale.expand(2)) for mean in means]).mean(0).log()
    torch.testing.assert_close(latent.log_p, own)


def test_leaving_out_keeps_the_scale_from_shrinking() -> None:
    """With latents held at N points, the best scale of leave-one-out is the known one; with itself it would go to 0."""
    vae = exemplar_vae()
    x = torch.randn(64, 3).double()
    for parameter in (*vae.posterior.parameters(), *vae.likelihood.parameters()):
        parameter.requires_grad_(False)
    means = vae.posterior(x).mean
    square = torch.cdist(means, means).square()
    square.fill_diagonal_(torch.inf)

    def score(log_scale: Tensor) -> Tensor:
        terms = -0.5 * square / (2 * log_scale).exp() - 2 * log_scale
        return torch.logsumexp(terms, 1).mean()

    candidates = torch.linspace(-6, 2, 1601).double()
    best = candidates[torch.stack([score(c) for c in candidates]).argmax()].exp()
    q = vae.posterior(x)
    optimizer = torch.optim.Adam([vae.prior.raw_scale], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-vae.train().prior.of_batch(q).log_prob(means[None]).mean()).backward()
        optimizer.step()
    assert vae.prior.scale.item() == pytest.approx(best.item(), rel=0.01)


def test_exemplars_of_whole_numbers_are_stored_in_bytes() -> None:
    prior = Exemplar(2, [3], 2, dtype="uint8")
    prior.initialize(torch.tensor([[0.0, 255.0, 7.0], [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]))
    assert prior.exemplars.dtype == torch.uint8
    assert prior.exemplars.tolist() == [[0, 255, 7], [1, 2, 3]]
    posterior = DiagonalNormal(MLP(3, [8], input_range=[0, 255]), 2)
    prior.bind(posterior)
    torch.testing.assert_close(prior.eval()().means, posterior(prior.exemplars.float()).mean)


def test_exemplar_of_incomplete_examples_and_conditions() -> None:
    prior = Exemplar(2, [3], 2)
    x = torch.arange(9.0).reshape(3, 3)
    prior.initialize(x, torch.tensor([[True, True, False], [True, True, True], [False, True, True]]))
    assert prior.num_stored.item() == 1
    assert torch.equal(prior.exemplars[0], x[1])
    with pytest.raises(ConfigError, match="must have examples without missing values, found none"):
        prior.initialize(x, torch.zeros(3, 3, dtype=torch.bool))
    prior.bind(DiagonalNormal(MLP(3, [8]), 2))
    with pytest.raises(ConfigError, match="must have no condition, got one"):
        prior(torch.zeros(3, 4))
    empty = Exemplar(2, [3], 2)
    empty.bind(DiagonalNormal(MLP(3, [8]), 2))
    with pytest.raises(ConfigError, match="must have stored examples, found none"):
        empty()


@pytest.mark.parametrize("kind", ["vamp", "exemplar"])
def test_a_few_steps_improve_the_bound(kind: str) -> None:
    vae = (vamp_vae() if kind == "vamp" else exemplar_vae(32)).float()
    x = torch.randn(64, 3) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.2, 0.1], [0.0, 0.0, 0.1]])
    vae.initialize(x)
    optimizer, bounds = torch.optim.Adam(vae.parameters(), lr=0.01), []
    for _ in range(150):
        optimizer.zero_grad()
        bound = ELBO()(vae(x))
        bound.loss.backward()
        optimizer.step()
        bounds.append(bound.elbo.item())
    assert sum(bounds[-20:]) / 20 > sum(bounds[:5]) / 5 + 0.5
    with torch.no_grad():
        assert ELBO()(vae.eval()(x, num_samples=32)).elbo.item() > bounds[0]
