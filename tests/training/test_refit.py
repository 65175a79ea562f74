"""A prior that is fitted after the fact: the bound rises by what the formula says, and what is generated is like the data."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

import vaekit
from conftest import LinearGaussian
from small_models import image_bundle, image_data, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.dataset import fingerprint
from vaekit.data.transforms import Levels
from vaekit.errors import ConfigError, DataError, MissingExtraError
from vaekit.likelihoods import DiscretizedLogisticMixture, Normal
from vaekit.model import Model
from vaekit.networks import MLP, GridDecoder, GridEncoder, SumOfLayers
from vaekit.objectives import ELBO, PriorFit
from vaekit.posteriors import (
    Deterministic,
    DiagonalNormal,
    FiniteScalar,
    GumbelSoftmax,
    ResidualQuantized,
    VectorQuantized,
)
from vaekit.posteriors.deterministic import Point
from vaekit.posteriors.positive import Gamma
from vaekit.priors import (
    Autoregressive,
    AutoregressiveCodes,
    CategoricalCodes,
    Flow,
    FlowMatching,
    Joint,
    MixtureOfNormals,
    SecondStage,
    Standardized,
    StandardNormal,
    UniformCodes,
    UniformSphere,
    Vamp,
)
from vaekit.priors import Gamma as GammaPrior
from vaekit.priors.codes import CodePrior
from vaekit.storage import PRIOR_FIT, Bundle
from vaekit.training.refit import KEPT, KINDS, LatentsOnly, refit_prior
from vaekit.training.run import split
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "codes"])
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
        ("mixture", {"components": 0}, "`components` must be from 1 to 1,000"),
        ("flow", {"components": 3}, "must be of mixture, mixture-full or autoregressive, got 3 for flow"),
        ("mixture", {"steps": 10}, "takes no settings of a run, got steps"),
        ("mixture", {"hidden": [3]}, "takes no settings of a run, got hidden"),
        ("mixture", {"draws": 0}, "`draws` must be at least 1"),
        ("mixture", {"components": 5000}, "must be from 1 to 1,000, got 5000. Leave it out for about 10"),
        ("autoregressive", {"components": 5000}, "must be from 1 to 1,000"),
        ("mixture", {"components": 2, "draws": 1}, "no more components than one for 20 latents, got 2 for 27. Use at most 1"),
        ("flow", {"steps": 3, "epochs": 1}, "must have one budget"),
        ("flow", {"seed": -1}, "`seed`"),
        ("flow", {"speed": 1}, "`speed`"),
        (StandardNormal(3), {}, r"must have latents \(4,\), got \(3,\)"),
        (StandardNormal(4), {"steps": 2}, "must have parameters to be fitted, and priors.StandardNormal has none. Use `mix"),
        (UniformSphere(4), {"steps": 2}, "must have parameters to be fitted, and priors.UniformSphere has none"),
        (GammaPrior(4), {}, "must have parameters to be fitted, and priors.Gamma has none"),
        (
            Joint([MixtureOfNormals(2, 2), GammaPrior(2)]),
            {},
            "got priors.Joint over positive and posteriors.DiagonalNormal over real",
        ),
        (Flow(4, hidden=[4]), {"components": 3}, "got 3 for priors.Flow"),
        ("codes", {"components": 3}, "must have a posterior over codes, got codes for a posteriors.DiagonalNormal"),
        (CategoricalCodes(4, 8, 2), {}, "got priors.CategoricalCodes for a posteriors.DiagonalNormal. Use `mixture`"),
    ],
)
def test_what_is_refused(kind, settings, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        refit_prior(vector_bundle(), vector_data(), kind, **settings)


def test_latents_that_no_density_fits() -> None:
    bundle = vector_bundle()
    bundle = replace(bundle, vae=VAE(GammaPrior(4), Gamma(MLP(5, [8]), 4), bundle.vae.likelihood).eval())
    with pytest.raises(ConfigError, match=r"must be real numbers without bounds .* those of a posteriors\.Gamma\. Keep"):
        refit_prior(bundle, vector_data(), "mixture", components=2)


def test_latents_on_a_sphere_are_refused_and_a_few_in_one_place_are_not(monkeypatch) -> None:
    bundle = vector_bundle()
    posterior = Deterministic(MLP(5, [8]), 4)
    bundle = replace(bundle, vae=VAE(StandardNormal(4), posterior, bundle.vae.likelihood).eval())
    forward = Deterministic.forward

    def on_sphere(self: Deterministic, *inputs: Tensor | None) -> Point:
        return Point(torch.nn.functional.normalize(forward(self, *inputs).mean, dim=-1))

    with monkeypatch.context() as patched:
        patched.setattr(Deterministic, "forward", on_sphere)
        with pytest.raises(ConfigError, match="found all on one sphere"):
            refit_prior(bundle, vector_data(), "mixture")
    # Two latents of training and one held out; one of each; and all in one place.
    assert refit_prior(bundle, vector_data(3), "mixture").training[PRIOR_FIT]["num_latents"] == 2
    assert refit_prior(bundle, vector_data(2), "flow", hidden=[4], steps=1).training[PRIOR_FIT]["num_latents"] == 1
    with pytest.raises(DataError, match="at least 2 latents"):
        refit_prior(bundle, vector_data(2), "mixture")
    with torch.no_grad():
        posterior.head.linear.weight.zero_()
    fitted = refit_prior(bundle, vector_data(), "mixture", components=1)
    torch.testing.assert_close(fitted.vae.prior.means, posterior.head.linear.bias[:4].detach().expand(1, 4), check_dtype=False)


def test_a_worse_prior_and_other_data_are_said() -> None:
    data = loading.open(far_data(600))
    summary = {"num_training_examples": 540, "num_validation_examples": 60}
    held_out = {"fraction": 0.1, "maximum": 10_000, "seed": 0, "num_examples": 600, "fingerprint": fingerprint(data)}
    bundle = replace(far_bundle(), training={**summary, "held_out": held_out})
    good = refit_prior(bundle, data, "mixture", components=4)
    assert good.training[PRIOR_FIT]["improved"] is True
    assert good.training[PRIOR_FIT]["notes"] == []
    worse = refit_prior(good, data, Standardized(MixtureOfNormals(2, 1)), steps=1)  # a single normal in place of a mixture
    fit = worse.training[PRIOR_FIT]
    assert fit["improved"] is False
    fall = fit["elbo_before"] - fit["elbo"]
    assert fall > 0.3
    assert fit["notes"] == [f"The new prior is worse than before, by {fall:.2f} nats on held-out examples: keep {KEPT}."]
    other = refit_prior(bundle, loading.open(far_data(600, seed=5)), "mixture", components=4)
    assert other.training[PRIOR_FIT]["notes"] == [
        "The data are not those that the model was trained on: the new prior fits these."
    ]
    part = Model(bundle).refit_prior(data, "mixture", components=4, split="train")
    assert part.bundle.training[PRIOR_FIT]["num_latents"] == 16 * 486
    assert part.bundle.training[PRIOR_FIT]["notes"] == []
    unknown = refit_prior(far_bundle(), data, "mixture", components=4)  # of a model that does not say what it was trained on
    assert unknown.training[PRIOR_FIT]["notes"] == []


def test_bounds_are_in_nats_of_the_data_as_stored() -> None:
    fitted = refit_prior(vector_bundle(), vector_data(), "mixture")
    fit = fitted.training[PRIOR_FIT]
    assert fit["elbo"] == pytest.approx(fitted.metrics["validation_elbo"] - 5 * np.log(3.0), abs=1e-5)  # Standardize(2, 3)
    assert fit["elbo"] - fit["elbo_before"] == pytest.approx(fit["rate_before"] - fit["rate"], abs=1e-4)
    told = Model(fitted).evaluate(vector_data(), split="all", num_samples=100)
    assert abs(told.nll_nats + fit["elbo"]) < 5 * np.log(3.0) / 2


def test_a_mixture_tells_how_far_it_is_and_is_that_of_one_run() -> None:
    told: list[tuple[int, int]] = []
    bundle, data = vector_bundle(), vector_data(300)
    bundle = replace(bundle, vae=VAE(StandardNormal(4), Deterministic(MLP(5, [8]), 4), bundle.vae.likelihood).eval())
    fitted = refit_prior(bundle, data, "mixture", components=5, progress=lambda *at: told.append(at))
    fit = fitted.training[PRIOR_FIT]
    assert fit["converged"]
    assert told == [(10 * i, 300) for i in range(1, len(told))] + [(300, 300)]
    assert len(told) > 1
    assert 10 * (len(told) - 1) < fit["iterations"] <= 10 * len(told)
    z = bundle.vae.encode(bundle.transform(torch.from_numpy(split(data)[0].raw()))).mean.detach().double().numpy()
    one = GaussianMixture(5, covariance_type="diag", max_iter=300, random_state=0).fit((z - z.mean(0)) / z.std(0))
    assert one.n_iter_ == fit["iterations"]
    np.testing.assert_allclose(fitted.vae.prior.means.detach().numpy(), one.means_ * z.std(0) + z.mean(0), atol=1e-4)


def code_bundle(kind: str, prior: type[CodePrior] = UniformCodes) -> Bundle:
    """A model of `vector_data` with three tokens of eight codes, or so, which k-means has placed."""
    torch.manual_seed(4)
    network, bundle = MLP(5, [16]), vector_bundle()
    posterior = {
        "vq": lambda: VectorQuantized(network, num_codes=8, code_dims=2, positions=3),
        "grid": lambda: VectorQuantized(GridEncoder([1, 8, 8], [4, 4]), num_codes=8, code_dims=2, positions=[4, 4]),
        "rvq": lambda: ResidualQuantized(network, num_codes=8, code_dims=2, positions=1, depth=3),
        "fsq": lambda: FiniteScalar(network, [4, 2], positions=3),
        "gumbel": lambda: GumbelSoftmax(network, num_categories=8, positions=3),
    }[kind]()
    decoder = SumOfLayers(MLP(2, [16])) if kind == "rvq" else MLP(posterior.shape[0], [16])
    data, likelihood = vector_data(200), Normal(decoder, [5])
    transform, schema = bundle.transform, data.schema
    if kind == "grid":
        data = loading.open(np.random.default_rng(0).integers(0, 16, (100, 8, 8), dtype=np.uint8), levels=16)
        likelihood = DiscretizedLogisticMixture(GridDecoder(posterior.shape, [1, 8, 8], [4, 4]), [1, 8, 8], levels=16)
        transform, schema = Levels(), data.schema
    vae = VAE(prior(posterior.shape, posterior.num_codes, posterior.num_tokens), posterior, likelihood)
    posterior.initialize(transform(torch.from_numpy(data.stored(np.arange(len(data))))))
    return Bundle(vae.eval(), transform, schema)


@pytest.mark.parametrize("kind", ["vq", "rvq", "fsq", "gumbel"])
def test_codes_are_charged_what_they_hold(kind: str, tmp_path) -> None:
    """Four examples that come again and again: from T log V nats to the cross entropy of which of them it is."""
    bundle = code_bundle(kind)
    posterior = bundle.vae.posterior
    which = np.random.default_rng(1).choice(4, 400, p=[0.5, 0.25, 0.125, 0.125])
    data = loading.open(vector_data(4).raw()[which])
    fitted = refit_prior(bundle, data, "codes", hidden=[16], steps=200, learning_rate=1e-2, learning_rate_warm_up=10, ema=0.9)
    fit, prior = fitted.training[PRIOR_FIT], fitted.vae.prior
    assert isinstance(prior, AutoregressiveCodes)
    if kind != "gumbel":
        assert fit["rate_before"] == pytest.approx(3 * np.log(8), abs=1e-4)
        seen, held_out = (
            [tuple(row) for row in bundle.vae.encode(bundle.transform(torch.from_numpy(part.raw()))).codes.tolist()]
            for part in split(data)
        )
        best = -np.mean([np.log(seen.count(row) / len(seen)) for row in held_out])
        assert 1 < best < np.log(4)
        assert fit["rate"] == pytest.approx(best, abs=0.04)
    assert fit["improved"]
    new = Model(fitted)
    new.save(tmp_path / "model")
    again = vaekit.load(tmp_path / "model")
    np.testing.assert_array_equal(again.generate(5, seed=3), new.generate(5, seed=3))
    assert all(torch.equal(tensor, posterior.state_dict()[name]) for name, tensor in fitted.vae.posterior.state_dict().items())


def test_codes_are_small_by_default_and_any_prior_over_them_will_do() -> None:
    bundle = code_bundle("grid")
    data = loading.open(np.random.default_rng(0).integers(0, 16, (100, 8, 8), dtype=np.uint8), levels=16)
    fitted = refit_prior(bundle, data, "codes", steps=1)
    spec, config = fitted.vae.prior.spec(), fitted.training[PRIOR_FIT]["config"]
    assert {name: spec[name] for name in ("shape", "features", "num_layers", "num_heads")} == {
        "shape": [2, 4, 4],
        "features": 128,
        "num_layers": 2,
        "num_heads": 4,
    }
    assert (config["batch_size"], config["learning_rate"], config["steps"]) == (90, 1e-3, 1)
    small = refit_prior(bundle, data, "codes", hidden=[6, 6, 6], steps=1, batch_size=7)
    spec, config = small.vae.prior.spec(), small.training[PRIOR_FIT]["config"]
    assert (spec["features"], spec["num_layers"], spec["num_heads"], config["batch_size"]) == (6, 3, 2, 7)
    mine = CategoricalCodes([2, 4, 4], 8, 16)
    fit = refit_prior(bundle, data, mine, steps=60, learning_rate=0.05).training[PRIOR_FIT]
    assert (fit["kind"], fit["improved"]) == ("priors.CategoricalCodes", True)


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("mixture", {}, "prior of a posteriors.VectorQuantized must be over codes, got mixture. Use `codes`, or"),
        ("mixture", {"steps": 3}, "must be over codes, got mixture"),  # the model before the settings
        (Flow(6, hidden=[4]), {}, "must be over codes, got priors.Flow. Use `codes`, or `priors.AutoregressiveCodes`"),
        ("gmm", {}, "got 'gmm'. Use `codes` when in doubt"),
        (UniformCodes(6, 8, 3), {}, "must have parameters to be fitted, and priors.UniformCodes has none. Use `codes`"),
        (CategoricalCodes(6, 9, 3), {}, "must have the codes and tokens of the posterior"),
        ("codes", {"hidden": [8, 16]}, r"`hidden` of `codes` must be one width, once a layer, got \[8, 16\]"),
        ("codes", {"hidden": []}, "`hidden` of `codes` must be one width"),
        ("codes", {"components": 3}, "got 3 for codes"),
    ],
)
def test_what_is_refused_of_codes(kind, settings, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        refit_prior(code_bundle("vq"), vector_data(), kind, **settings)


def test_only_a_vae_is_refitted() -> None:
    bundle = replace(vector_bundle(), vae=LatentsOnly(MixtureOfNormals(5, 2)))
    with pytest.raises(ConfigError, match=r"must be a `vae\.VAE` .*, got a training\.LatentsOnly"):
        refit_prior(bundle, vector_data())


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
