"""A prior that is fitted after the fact: the bound rises by what the formula says, and what is generated is like the data."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import vaekit
from conftest import LinearGaussian
from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.transforms import Levels
from vaekit.errors import ConfigError, MissingExtraError
from vaekit.likelihoods import Normal
from vaekit.model import Model
from vaekit.networks import MLP
from vaekit.objectives import ELBO, PriorFit
from vaekit.posteriors import Deterministic, DiagonalNormal
from vaekit.posteriors.positive import Gamma
from vaekit.priors import (
    Autoregressive,
    FlowMatching,
    MixtureOfNormals,
    SecondStage,
    Standardized,
    StandardNormal,
    Vamp,
)
from vaekit.priors import Gamma as GammaPrior
from vaekit.storage import Bundle
from vaekit.training.refit import KINDS, PRIOR_FIT, refit_prior
from vaekit.vae import VAE

MODEL = LinearGaussian()
CENTRES = torch.tensor([[4.0, 3.0], [-3.0, 5.0]], dtype=torch.float64)


def far_latents(num: int, seed: int = 0) -> Tensor:
    """Two clusters far from the standard normal: weights 0.7 and 0.3, scales 0.5."""
    generator = torch.Generator().manual_seed(seed)
    which = (torch.rand(num, generator=generator) < 0.3).long()
    return CENTRES[which] + 0.5 * torch.randn(num, 2, generator=generator, dtype=torch.float64)


def far_data(num: int = 1500, seed: int = 0) -> np.ndarray:
    """Their images under the decoder, with its noise."""
    noise = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return (far_latents(num, seed) @ MODEL.weight.T + MODEL.bias + 0.1 * noise).float().numpy()


def far_bundle() -> Bundle:
    """A model with the right decoder and a fair encoder, whose prior is far off."""
    gain = torch.linalg.pinv(MODEL.weight)
    vae = LinearGaussian(scale=0.1).vae(gain, -gain @ MODEL.bias, 0.08 * torch.eye(2).double()).float().eval()
    return Bundle(vae, Levels(), loading.open(far_data()).schema, {"steps": 3}, {"validation_loss": 9.9, "other": 1.0})


SETTINGS: dict[str, dict[str, object]] = {
    "mixture": {"components": 4},
    "mixture-full": {"components": 3},
    "flow": {"hidden": [16], "steps": 100, "learning_rate": 1e-2},
    "flow-matching": {"hidden": [48, 48], "steps": 400, "learning_rate": 5e-3},
    "vae": {"hidden": [48], "steps": 400, "learning_rate": 1e-2},
    "autoregressive": {"hidden": [24], "components": 4, "steps": 400, "learning_rate": 1e-2},
}
ENTROPY = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) + np.log(2 * np.pi * np.e * 0.25)
"""Of the clusters, which do not overlap: what is left of the cross entropy when the fit is perfect, nearly."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_prior_raises_the_bound_and_generates_what_is_like_the_data(kind: str, tmp_path) -> None:
    bundle, x = far_bundle(), far_data()
    before = {name: tensor.clone() for name, tensor in bundle.vae.state_dict().items()}
    fitted = refit_prior(bundle, loading.open(x), kind, seed=1, **SETTINGS[kind])
    fit = fitted.training[PRIOR_FIT]
    # The old cross entropy is known: log(2 pi) + E|z|^2 / 2 with E|z|^2 = 0.7 * 25 + 0.3 * 34 + 2 * 0.25.
    old = np.log(2 * np.pi) + 0.5 * (0.7 * 25 + 0.3 * 34 + 0.5)
    gain = fit["elbo"] - fit["elbo_before"]
    assert gain == pytest.approx(fit["rate_before"] - fit["rate"], abs=1e-3)  # nothing else has changed
    assert old - ENTROPY - 1.2 < gain < old - ENTROPY + 0.2, (gain, old - ENTROPY)
    assert {n: t for n, t in bundle.vae.state_dict().items() if not torch.equal(t, before[n])} == {}
    assert isinstance(bundle.vae.prior, StandardNormal)
    new = Model(fitted)
    made = new.generate(3000, draw="sample", seed=2)
    np.testing.assert_allclose(made.mean(0), x.mean(0), atol=0.35)
    np.testing.assert_allclose(np.cov(made.T), np.cov(x.T), atol=0.12 * np.abs(np.cov(x.T)).max())
    assert np.abs(Model(bundle).generate(3000, draw="sample", seed=2).mean(0) - x.mean(0)).max() > 2
    new.save(tmp_path / "model")
    again = vaekit.load(tmp_path / "model")
    np.testing.assert_array_equal(again.generate(20, seed=5), new.generate(20, seed=5))
    assert again.bundle.training["prior_fit"] == fit
    assert again.bundle.training["steps"] == 3
    assert again.bundle.metrics["validation_elbo"] == fit["elbo"]
    assert "other" not in again.bundle.metrics  # it was measured with the old prior
    assert all(parameter.requires_grad for parameter in fitted.vae.parameters())


def test_the_mixture_is_the_one_that_made_the_latents() -> None:
    fitted = refit_prior(far_bundle(), loading.open(far_data(4000)), "mixture-full", components=2, draws=3)
    prior = fitted.vae.prior
    assert isinstance(prior, MixtureOfNormals)
    order = prior.means[:, 0].argsort(descending=True)
    torch.testing.assert_close(prior().mixture_distribution.probs[order], torch.tensor([0.7, 0.3]), rtol=0, atol=0.03)
    torch.testing.assert_close(prior.means[order], torch.nn.Parameter(CENTRES.float()), rtol=0, atol=0.06)
    covariance = prior().component_distribution.covariance_matrix[order]
    # posterior noise, and what of the data's noise the encoder lets through
    gain = torch.linalg.pinv(MODEL.weight)
    expected = 0.25 * torch.eye(2) + 0.08**2 * torch.eye(2) + 0.01 * (gain @ gain.T).float()
    torch.testing.assert_close(covariance, expected.expand(2, 2, 2), rtol=0, atol=0.03)
    assert fitted.training[PRIOR_FIT]["num_latents"] == 3 * 3600
    assert fitted.training[PRIOR_FIT]["converged"]


def test_latents_of_any_scale_are_fitted_alike() -> None:
    """The latents of a deterministic encoder, a million times smaller: the cross entropy moves by D log of the factor."""
    losses = []
    for factor in (1.0, 1e-6):
        bundle = far_bundle()
        posterior = Deterministic(MLP(3, [6], "relu"), 2)
        posterior.network = bundle.vae.posterior.network
        with torch.no_grad():
            head = bundle.vae.posterior.head.linear
            posterior.head.linear.weight.copy_(factor * head.weight[:2])
            posterior.head.linear.bias.copy_(factor * head.bias[:2])
        bundle.vae.posterior = posterior
        fitted = refit_prior(bundle, loading.open(far_data(600)), "autoregressive", components=4, hidden=[16], steps=120)
        losses.append(fitted.training[PRIOR_FIT]["rate"])
        assert fitted.training[PRIOR_FIT]["num_latents"] == 540  # a point an example
    assert losses[0] - losses[1] == pytest.approx(2 * np.log(1e6), abs=0.15)


def test_the_same_seed_gives_the_same_prior_and_leaves_the_callers_numbers_alone() -> None:
    data, results = loading.open(far_data(300)), []
    for seed in (3, 3, 4):
        bundle = far_bundle()
        torch.manual_seed(8)
        fitted = refit_prior(bundle, data, "flow-matching", hidden=[8], steps=5, seed=seed)
        results.append(torch.cat([p.flatten() for p in fitted.vae.prior.parameters()]))
        after = torch.rand(3)
        torch.manual_seed(8)
        assert torch.equal(after, torch.rand(3))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_prior_of_ones_own() -> None:
    """From where it stands; one that is made of the posterior is given it, and the posterior stays as it is."""
    data = loading.open(far_data(400))
    mine = MixtureOfNormals(2, 5, spread=4.0)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    for prior in (mine, Vamp(2, [3], 20), Standardized(Autoregressive(2, 2, [8]))):
        bundle = far_bundle()
        fitted = refit_prior(bundle, data, prior, steps=150, learning_rate=0.03)
        fit = fitted.training[PRIOR_FIT]
        assert fit["elbo"] > fit["elbo_before"] + 5
        assert fit["kind"] == prior.registered_name
        assert fitted.vae.prior.spec() == prior.spec()
        for name, tensor in bundle.vae.posterior.state_dict().items():
            assert torch.equal(fitted.vae.posterior.state_dict()[name], tensor)
        if isinstance(fitted.vae.prior, Vamp):
            assert fitted.vae.prior.posterior is fitted.vae.posterior
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


@pytest.mark.parametrize("kind", ["mixture", "flow-matching"])
def test_conditional_models_and_images(kind: str, tmp_path) -> None:
    bundle = image_bundle(conditional=True)
    settings = {"components": 2} if kind == "mixture" else {"steps": 3, "hidden": [8]}
    model = Model(bundle).refit_prior(image_data(), kind, **settings)
    model.save(tmp_path / "model")
    again = vaekit.load(tmp_path / "model")
    a, b = again.generate(3, where={"label": 1}), again.generate(3, where={"label": 2})
    assert a.shape == (3, 6, 5)
    assert not np.array_equal(a, b)
    assert np.isfinite(again.evaluate(image_data(6, 1), num_samples=3, y=None).nll_nats)


def test_progress_is_told_and_the_split_is_read() -> None:
    x = far_data(200)
    told: list[tuple[int, int]] = []
    model = Model(far_bundle()).refit_prior(
        {"x_train": x[:100], "x_valid": x[100:120], "x_test": x[120:]},
        "flow",
        hidden=[4],
        steps=2,
        draws=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1000, 1000)]
    assert model.bundle.training[PRIOR_FIT]["num_latents"] == 200
    assert model.info()["prior"] == "priors.Standardized"


def test_prior_fit_is_the_cross_entropy_or_the_matching_loss() -> None:
    vae = VAE(Autoregressive(2, 2, [8]), DiagonalNormal(MLP(3, [8]), 2), Normal(MLP(2, [8]), [3])).double()
    trace = vae(torch.randn(4, 3).double(), num_samples=5)
    bound = PriorFit()(trace)
    torch.testing.assert_close(bound.loss, -vae.prior().log_prob(trace.latents[0].z).mean())
    entropy = -trace.latents[0].log_q.mean()
    torch.testing.assert_close(bound.elbo + entropy, ELBO()(trace).elbo)
    bound.loss.backward()
    assert all(parameter.grad is None for parameter in (*vae.posterior.parameters(), *vae.likelihood.parameters()))
    assert all(parameter.grad is not None for parameter in vae.prior.parameters())
    vae.prior = Standardized(FlowMatching(2, [8])).double()
    vae.prior.fit(torch.randn(9, 2).double() * 3 + 1)
    trace = vae(torch.randn(4, 3).double(), num_samples=5)
    torch.manual_seed(1)
    loss = PriorFit()(trace).loss
    torch.manual_seed(1)
    z = (trace.latents[0].z - vae.prior.shift) / vae.prior.scale
    torch.testing.assert_close(loss, vae.prior.prior().matching_loss(z.detach()).mean())


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("gmm", {}, "The prior must be one of mixture, mixture-full, flow"),
        ("mixture", {"components": 0}, "`components` must be at least 1"),
        ("flow", {"components": 3}, "for mixture, mixture-full or autoregressive; got 3 for flow"),
        ("mixture", {"steps": 10}, "takes no settings of a run, got steps"),
        ("mixture", {"hidden": [3]}, "takes no settings of a run, got hidden"),
        ("mixture", {"draws": 0}, "`draws` must be at least 1"),
        ("mixture", {"components": 1000, "draws": 1}, "no more components than latents, got 1000 for 27"),
        ("flow", {"steps": 3, "epochs": 1}, "must have one budget"),
        ("flow", {"seed": -1}, "`seed`"),
        ("flow", {"speed": 1}, "`speed`"),
        (StandardNormal(3), {}, r"must have latents \(4,\), got \(3,\)"),
    ],
)
def test_what_is_refused(kind, settings, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        refit_prior(vector_bundle(), vector_data(), kind, **settings)


def test_latents_that_no_density_fits() -> None:
    bundle = vector_bundle()
    bundle = replace(bundle, vae=VAE(GammaPrior(4), Gamma(MLP(5, [8]), 4), bundle.vae.likelihood).eval())
    with pytest.raises(ConfigError, match="must be real numbers without bounds"):
        refit_prior(bundle, vector_data(), "mixture", components=2)
    with pytest.raises(ConfigError, match="must have parameters to train"):
        refit_prior(vector_bundle(), vector_data(), StandardNormal(4), steps=2)


def test_a_second_stage_is_wide_as_the_latents() -> None:
    fitted = refit_prior(vector_bundle(), vector_data(), "vae", steps=2)
    inner = fitted.vae.prior.prior
    assert isinstance(inner, SecondStage)
    assert inner.prior.shape == inner.shape == (4,)
    assert replace(fitted, training={}).vae.prior().sample((2,)).shape == (2, 4)


def test_without_scikit_learn_the_mixture_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vaekit\[sklearn\]'"):
        refit_prior(vector_bundle(), vector_data(), "mixture", components=2)
