"""From data to a trained model and back, for likelihoods whose values must come as they stand in the source."""

from __future__ import annotations

import numpy as np
import pytest

import vaekit

rng = np.random.default_rng(0)
CELLS = rng.negative_binomial(2, 0.1, size=(60, 6)) * rng.choice([1, 20], size=(60, 6)) * (rng.random((60, 6)) < 0.7)
DATA = {
    "poisson": rng.poisson(rng.choice([1.0, 9.0], size=(60, 1)), size=(60, 4)) + 2,
    "negative-binomial": CELLS,
    "zinb": CELLS,
    "log-normal": np.exp(3 * rng.normal(size=(60, 4))) * 1e-6,
    "beta": rng.beta(2.0, 3.0, size=(60, 4)),
    "student-t": rng.standard_t(2.5, size=(60, 4)) * 100 + 7,
    "beta-binomial": rng.integers(0, 256, size=(60, 5, 4), dtype=np.uint8),
}


@pytest.mark.parametrize("name", DATA)
def test_train_and_every_job(name: str, tmp_path) -> None:
    x = DATA[name]
    model = vaekit.train(x, tmp_path / "model", likelihood=name, latent=2, steps=20, seed=0)
    report = model.evaluate(x, num_samples=5, split="all")
    assert np.isfinite(report.nll_nats)
    discrete = name in ("poisson", "negative-binomial", "zinb", "beta-binomial")
    assert (report.bits_per_dim is not None) == discrete
    for made in (model.generate(50, draw="sample", seed=1), model.reconstruct(x)):
        assert made.shape[1:] == x.shape[1:]
        assert np.isfinite(made).all()
        if name != "student-t":
            assert made.min() >= (x.min() if name == "poisson" else 0)
        if name == "beta":
            assert made.max() <= 1
    drawn = model.generate(400, draw="sample", seed=2).astype(float)
    if name != "beta-binomial":  # within 3, of the median size of what is not 0: in the units of the source
        ratio = np.median(np.abs(drawn[drawn != 0])) / np.median(np.abs(x[x != 0]))
        assert 1 / 3 < ratio < 3
    loaded = vaekit.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score(x, num_samples=2).elbo, model.score(x, num_samples=2).elbo)


def test_densities_are_in_the_units_of_the_source(tmp_path) -> None:
    """The same positive numbers in another unit: log p moves by the log of the unit, for every value."""
    x = np.exp(2 * rng.normal(size=(60, 4)))
    first = vaekit.train(x, tmp_path / "first", likelihood="log-normal", latent=2, steps=20, seed=0)
    second = vaekit.train(x * 4096.0, tmp_path / "second", likelihood="log-normal", latent=2, steps=20, seed=0)
    difference = second.score(x * 4096.0, num_samples=3).log_likelihood - first.score(x, num_samples=3).log_likelihood
    np.testing.assert_allclose(difference, -4 * np.log(4096.0), rtol=0, atol=2e-3)
