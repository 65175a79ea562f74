"""What "auto" chooses, and that each choice can be trained and overridden."""

import numpy as np
import pytest
import torch

import vaekit
from vaekit import recipes
from vaekit.data.loading import open as open_data
from vaekit.errors import ConfigError, DataError
from vaekit.objectives import ELBO

rng = np.random.default_rng(0)


def levels(*shape, top, dtype):
    """Levels whose brightness differs between examples, so that there is something to learn."""
    share = 0.5 + 0.25 * rng.normal(size=(shape[0], *[1] * (len(shape) - 1))) + 0.05 * rng.normal(size=shape)
    return np.clip(np.rint(share * top), 0, top).astype(dtype)


KINDS = {
    "binary images": rng.integers(0, 2, size=(40, 9, 7)).astype(bool),
    "grey images": levels(40, 9, 7, top=255, dtype="uint8"),
    "colour images": levels(40, 12, 10, 3, top=255, dtype="uint8"),
    "four channels of 16 bits": levels(40, 4, 8, 8, top=65535, dtype="uint16"),
    "digits": levels(40, 8, 8, top=16, dtype="float64"),
    "real images": rng.normal(size=(40, 8, 8)) + 3 * rng.normal(size=(40, 1, 1)),
    "real vectors": rng.normal(size=(40, 1)) * np.arange(1, 6) * 100 + 7 + rng.normal(size=(40, 5)),
    "whole vectors": levels(40, 5, top=8, dtype="int64"),
    "one pixel": levels(40, 1, 1, top=255, dtype="uint8"),
    "one number": rng.choice([-3.0, 3.0], size=(40, 1)) + 0.1 * rng.normal(size=(40, 1)),
    "a strip": levels(40, 1, 70, top=255, dtype="uint8"),
    "counts": rng.negative_binomial(2, 0.01, size=(40, 5)) * rng.integers(1, 4, size=(40, 1)),
}
ASKED = {
    "few counts": rng.poisson(rng.choice([1.0, 9.0], size=(40, 1)), size=(40, 5)) + 2,
    "positive vectors": np.exp(3 * rng.normal(size=(40, 1)) + rng.normal(size=(40, 5))) * 1e-6,
    "shares": rng.beta(2.0, 3.0, size=(40, 5)),
}
EXPECTED = {
    "binary images": ("Bernoulli", "Binarize", "MLP"),
    "grey images": ("DiscretizedLogisticMixture", "Levels", "MLP"),
    "colour images": ("DiscretizedLogisticMixture", "Levels", "ConvEncoder"),
    "four channels of 16 bits": ("DiscretizedLogisticMixture", "Levels", "ConvEncoder"),
    "digits": ("DiscretizedLogisticMixture", "Levels", "MLP"),
    "real images": ("Normal", "Standardize", "MLP"),
    "real vectors": ("Normal", "Standardize", "MLP"),
    "whole vectors": ("DiscretizedLogisticMixture", "Levels", "MLP"),
    "one pixel": ("DiscretizedLogisticMixture", "Levels", "MLP"),
    "one number": ("Normal", "Standardize", "MLP"),
    "a strip": ("DiscretizedLogisticMixture", "Levels", "MLP"),
    "counts": ("NegativeBinomial", "Levels", "LogInput"),
}


def loss_of(recipe, data):
    batch = data.batch(np.arange(len(data)))
    return ELBO()(
        recipe.vae(recipe.transform(batch.x), condition=recipe.vae.condition_of(batch.columns, len(data)), mask=batch.mask)
    ).loss


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_chooses_parts_that_learn(kind):
    data = open_data(KINDS[kind])
    torch.manual_seed(0)
    recipe = recipes.make(data)
    names = (type(recipe.vae.likelihood), type(recipe.transform), type(recipe.vae.posterior.network))
    assert tuple(name.__name__ for name in names) == EXPECTED[kind]
    assert len(recipe.reasons) == 3
    recipe.vae.initialize(recipe.transform(data.batch(np.arange(40)).x))
    assert recipe.vae.likelihood.check(recipe.transform(data.batch(np.arange(40)).x)) is None
    optimizer = torch.optim.Adam(recipe.vae.parameters(), lr=3e-3)
    first = loss_of(recipe, data).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(recipe, data)
        loss.backward()
        optimizer.step()
    assert np.isfinite(first)
    assert loss.item() < first


def reasons_of(array, **options):
    return " ".join(recipes.make(open_data(array, **options)).reasons)


COUNTS = rng.negative_binomial(2, 0.01, size=(60, 3))


def test_whole_numbers_beyond_the_levels_are_counts():
    assert "Likelihood: negative-binomial, because the values are counts" in reasons_of(COUNTS)
    assert "negative-binomial" in reasons_of(COUNTS.astype("float64"))
    missing = COUNTS.astype("float32")
    missing[3, 1] = np.nan
    assert "negative-binomial" in reasons_of(missing, missing="nan")


@pytest.mark.parametrize(
    "array",
    [
        COUNTS + 0.5,
        COUNTS - 1000,
        COUNTS + 10_000,  # such as years: far from 0, they vary less than counts do
        COUNTS * 10**6,  # beyond what a float32 holds exactly
        COUNTS.reshape(-1, 3, 1) * np.ones((1, 1, 4)) + 0.25,
    ],
)
def test_what_is_no_count_is_normal(array):
    assert "Likelihood: normal with a learned scale" in reasons_of(array)


def test_counts_are_told_better_by_their_likelihood():
    """The density of a normal on whole numbers is in the units of their mass, so the two bounds compare."""
    draw = np.random.default_rng(0)
    means = np.exp(draw.normal(size=(600, 2)) @ draw.normal(size=(2, 8)) + 3.0)
    x = draw.poisson(means * draw.gamma(3.0, 1 / 3.0, size=means.shape))
    assert x.max() > 256
    bounds = {}
    for name in (None, "normal"):
        model = vaekit.train(x, likelihood=name, steps=300, latent=2, display="quiet", precision="float32")
        bounds[name] = model.evaluate(x, num_samples=20).nll_nats
    assert bounds[None] < bounds["normal"] - 1.0


def test_positive_numbers_over_decades_have_log_normal_named():
    draw = np.random.default_rng(0)
    hint = "try `--likelihood log-normal`"
    assert hint in reasons_of(np.exp(draw.normal(size=(300, 4)) * 2))
    assert hint not in reasons_of(draw.random((2000, 4)) + 1e-9)  # many decades near 0, which say nothing
    assert hint not in reasons_of(draw.normal(10.0, 1.0, size=(300, 4)) * np.array([1e-3, 1.0, 1e3, 1e6]))
    assert hint not in reasons_of(np.exp(draw.normal(size=(300, 4)) * 2) - 1.0)


@pytest.mark.parametrize("name", [name for name in recipes.LIKELIHOODS if name not in ("auto", "log-normal", "beta")])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_every_likelihood_and_network_can_be_asked_for(name, network):
    data = open_data(rng.integers(0, 256, size=(20, 6, 6), dtype=np.uint8))
    recipe = recipes.make(data, recipe=network, likelihood=name, latent=5)
    assert recipe.vae.prior.shape == (5,)
    recipe.vae.initialize(recipe.transform(data.batch(np.arange(20)).x))
    assert torch.isfinite(loss_of(recipe, data))


FITS = {
    "real vectors": ("laplace", "logistic", "log-cosh", "student-t"),
    "counts": ("poisson", "negative-binomial", "zero-inflated-poisson", "zinb", "student-t"),
    "few counts": ("poisson", "negative-binomial", "beta-binomial", "log-normal"),
    "positive vectors": ("log-normal",),
    "shares": ("beta", "continuous-bernoulli"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FITS.items() for name in names])
def test_likelihoods_fit_their_data_and_learn(kind, name):
    data = open_data({**KINDS, **ASKED}[kind])
    torch.manual_seed(0)
    recipe = recipes.make(data, likelihood=name, latent=2)
    batch = data.batch(np.arange(40))
    x = recipe.transform(batch.x)
    assert recipe.vae.likelihood.check(x) is None
    recipe.vae.initialize(x)
    mean = recipe.transform.inverse(recipe.vae.decode_flat(torch.zeros(1, 40, 2)).mean)
    assert mean.shape == (1, 40, 5)
    torch.testing.assert_close(recipe.transform.inverse(x), batch.x.float(), rtol=1e-5, atol=1e-5)
    features = recipe.vae.posterior.network(x)
    assert features.abs().max() < 30
    optimizer = torch.optim.Adam(recipe.vae.parameters(), lr=3e-3)
    first = loss_of(recipe, data).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of(recipe, data)
        loss.backward()
        optimizer.step()
    assert np.isfinite(first)
    assert loss.item() < first


@pytest.mark.parametrize(
    ("array", "name", "expected"),
    [
        (np.array([[3], [4], [9]] * 9), "poisson", [[3.0], [4.0], [9.0]]),
        (np.array([[0], [4], [900]] * 9), "zinb", [[0.0], [4.0], [900.0]]),
        (np.array([[0.5], [2.0], [8.0]] * 9), "log-normal", [[0.25], [1.0], [4.0]]),
        (np.array([[2], [3], [7]] * 9), "log-normal", [[2 / 3], [1.0], [7 / 3]]),
        (np.array([[0.2], [0.3], [0.7]] * 9), "beta", [[0.2], [0.3], [0.7]]),
    ],
)
def test_counts_and_shares_reach_their_likelihood_as_they_are(array, name, expected):
    """A level is not its value: 3 may be stored as 0. Positive numbers are told in their median."""
    data = open_data(array)
    recipe = recipes.make(data, likelihood=name)
    x = recipe.transform(data.batch(np.arange(3)).x)
    torch.testing.assert_close(x, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    network = recipe.vae.posterior.network
    assert (type(network).__name__ == "LogInput") == (name != "beta")
    if name != "beta":
        y = network.network.inputs(torch.log1p(x), None)
        torch.testing.assert_close(torch.stack([y.min(), y.max()]), torch.tensor([-1.0, 1.0]), rtol=0, atol=1e-5)


def test_missing_counts_are_left_out():
    values = rng.poisson(50.0, size=(60, 4)).astype("float32") * rng.integers(1, 20, size=(60, 1))
    values[rng.random(values.shape) < 0.3] = np.nan
    data = open_data(values, missing="nan")
    for name in ("negative-binomial", "student-t"):
        recipe = recipes.make(data, likelihood=name, latent=2)
        batch = data.batch(np.arange(60))
        recipe.vae.initialize(recipe.transform(batch.x), batch.mask)
        loss = loss_of(recipe, data)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in recipe.vae.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("kind", "options", "error", "sentence"),
    [
        ("real vectors", {"likelihood": "bernoulli"}, DataError, r"must have values in \[0, 1\], found values from"),
        ("real vectors", {"likelihood": "logistic-mixture"}, DataError, r"found real numbers.*give `levels` \(`--levels`\)"),
        ("four channels of 16 bits", {"likelihood": "categorical"}, DataError, "at most 256 levels, found 65,536"),
        ("real vectors", {"likelihood": "poisson"}, DataError, "must have counts, whole numbers from 0; found values from -"),
        ("real vectors", {"likelihood": "log-normal"}, DataError, "must have values above 0, found values from -"),
        ("real vectors", {"likelihood": "beta"}, DataError, "must have values above 0 and below 1, found values from -"),
        ("real vectors", {"likelihood": "beta-binomial"}, DataError, "must have whole levels, found real numbers"),
        ("real vectors", {"recipe": "conv"}, ConfigError, "must have images, found vectors"),
        (
            "real vectors",
            {"recipe": "magic"},
            ConfigError,
            "`recipe` must be one of auto, mlp, conv, conv-large, ladder, table, lstm, transformer, map; got 'magic'",
        ),
        ("real vectors", {"likelihood": "magic"}, ConfigError, "`likelihood` must be one of auto, bernoulli"),
        ("real vectors", {"latent": 0}, ConfigError, "`latent` must be at least 1, got 0"),
        ("real vectors", {"condition": ["label"]}, DataError, "must have a column `label`; it has no columns"),
    ],
)
def test_what_cannot_be_is_one_sentence(kind, options, error, sentence):
    with pytest.raises(error, match=sentence):
        recipes.make(open_data(KINDS[kind]), **options)


def test_missing_values_are_told_to_the_network_and_left_out_of_the_likelihood():
    values = rng.normal(size=(60, 4)).astype("float32")
    values[rng.random(values.shape) < 0.3] = np.nan
    data = open_data(values, missing="nan")
    recipe = recipes.make(data, latent=2)
    assert recipe.vae.posterior.network.inputs.observe_mask
    loss = loss_of(recipe, data)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in recipe.vae.parameters() if p.grad is not None)


def test_a_condition_reaches_both_networks(tmp_path):
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, size=(20, 6, 6), dtype=np.uint8), y=np.arange(20) % 3)
    data = open_data(tmp_path / "data.npz")
    for network in ("mlp", "conv"):
        recipe = recipes.make(data, recipe=network, condition=["label"])
        x, c = recipe.transform(data.batch(np.arange(20)).x), data.batch(np.arange(20)).columns
        other = {"label": (c["label"] + 1) % 3}
        assert not torch.equal(recipe.vae.encode(x, condition=c).mean, recipe.vae.encode(x, condition=other).mean)
        z = torch.zeros(1, 20, *recipe.vae.prior.shape)
        assert not torch.equal(recipe.vae.decode(z, condition=c).mean, recipe.vae.decode(z, condition=other).mean)


@pytest.mark.parametrize("prior", recipes.PRIORS)
@pytest.mark.parametrize("kind", ["digits", "real vectors"])
def test_every_prior_can_be_asked_for(prior, kind):
    recipe = recipes.make(open_data(KINDS[kind]), latent=2, prior=prior)
    assert any(prior in reason for reason in recipe.reasons)
    loss = loss_of(recipe, open_data(KINDS[kind]))
    assert torch.isfinite(loss)
    loss.backward()
    learned = [p for p in recipe.vae.prior.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert bool(learned) == (prior != "standard")


def test_a_vamp_prior_of_counts_has_pseudo_inputs_that_are_counts():
    """The network is given logs, but pseudo-inputs stand where the data do."""
    data = open_data(ASKED["few counts"])
    recipe = recipes.make(data, likelihood="poisson", latent=2, prior="vamp")
    x = recipe.transform(data.batch(np.arange(40)).x)
    recipe.vae.initialize(x)
    found = recipe.vae.prior.pseudo_inputs().detach()
    torch.testing.assert_close(found.max(), x.max(), rtol=0.05, atol=0)
    torch.testing.assert_close(found.mean(), x.mean(), rtol=0.2, atol=0)


def test_a_vamp_prior_has_pseudo_inputs_within_the_data_and_knows_the_condition(tmp_path):
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, size=(20, 6, 6), dtype=np.uint8), y=np.arange(20) % 3)
    data = open_data(tmp_path / "data.npz")
    recipe = recipes.make(data, condition=["label"], prior="vamp")
    spec = recipe.vae.prior.spec()
    assert spec["num_pseudo_inputs"] == 20
    assert spec["input_range"] == [0.0, 255.0]
    assert spec["condition_features"] == recipe.vae.condition.out_features
    assert recipe.vae.sample_prior(4, condition={"label": torch.zeros(4, dtype=torch.long)}).shape[:2] == (1, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prior": "gauss"}, "`prior` must be one of standard, mixture, vamp, flow, autoregressive; got 'gauss'"),
        ({"prior": "vamp", "recipe": "ladder"}, "`prior` must be left out for a ladder"),
    ],
)
def test_priors_that_cannot_be(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        recipes.make(open_data(KINDS["digits"]), **options)
