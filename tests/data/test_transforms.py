from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from vaekit.component import build, registered
from vaekit.data import transforms
from vaekit.data.loading import open
from vaekit.data.transforms import Binarize, Levels, Standardize, Transform
from vaekit.errors import ConfigError

MEMBERS = [Levels(), Binarize(2), Binarize(256), Standardize(3.0, 2.0), Standardize([1.0, -2.0, 0.5], [0.5, 3.0, 1.0])]


@pytest.mark.parametrize("transform", MEMBERS, ids=str)
def test_every_transform(transform: Transform) -> None:
    x = torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=torch.uint8)
    y = transform(x)
    assert (y.dtype, y.shape) == (torch.float32, x.shape)
    assert transform.spec() == build(transform.spec()).spec()
    assert not transform.state_dict()
    log_abs_det = transform.log_abs_det(x)
    assert (log_abs_det.dtype, log_abs_det.shape) == (torch.float64, (2,))
    assert torch.equal(transform.log_abs_det(x, torch.ones_like(x, dtype=torch.bool)), log_abs_det)
    if not isinstance(transform, Standardize):
        assert not log_abs_det.any()
    if not transform.stochastic:
        assert torch.allclose(transform.inverse(y), x.float())
        assert torch.equal(build(transform.spec())(x), y)


def test_they_are_registered() -> None:
    assert set(registered(Transform)) == {
        f"data.{name}" for name in ("Binarize", "CellGrid", "Levels", "Standardize", "Tokens")
    }


def test_levels_of_16_bits() -> None:
    x = torch.tensor([[0, 40000, 65535]], dtype=torch.uint16)
    assert Levels()(x).tolist() == [[0.0, 40000.0, 65535.0]]


def test_binarize_draws_with_the_right_frequency() -> None:
    torch.manual_seed(0)
    x = torch.tensor([0, 64, 128, 255], dtype=torch.uint8).expand(40_000, 4)
    transform = Binarize(256)
    first, second = transform(x), transform(x)
    expected = torch.tensor([0, 64, 128, 255]) / 255
    tolerance = 4 * torch.sqrt(expected * (1 - expected) / 40_000)
    assert bool(((first.mean(0) - expected).abs() <= tolerance).all())
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    draws = [transform(x, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert transform.stochastic
    assert not Binarize(2).stochastic
    with pytest.raises(ConfigError, match="at least 2"):
        Binarize(1)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_the_log_determinant_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    for transform in (Standardize(1.5, 0.3), Standardize([1.0, -2.0, 0.5], [0.5, 3.0, 0.1])):
        x = torch.randn(2, *shape)
        step = 0.5
        slopes = (transform(x + step) - transform(x - step)) / (2 * step)  # of a linear map, exact but for rounding
        expected = slopes.double().log().flatten(1).sum(1)
        assert torch.allclose(transform.log_abs_det(x), expected, rtol=1e-5)


def test_densities_integrate_to_one() -> None:
    transform = Standardize(10.0, 4.0)
    x = torch.linspace(-30, 50, 20_001)[:, None]
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(transform(x)).sum(-1) + transform.log_abs_det(x)
    assert float(torch.trapezoid(log_p.exp(), x[:, 0])) == pytest.approx(1.0, abs=1e-4)


def test_standardize_fit() -> None:
    array = np.random.default_rng(0).normal([3.0, -1.0, 0.3], [2.0, 0.01, 0.0], (500, 3)).astype(np.float32)
    data = open(array)
    y = Standardize.fit(data, per_dimension=True)(torch.from_numpy(array))
    assert torch.allclose(y.mean(0), torch.zeros(3), atol=1e-4)
    assert y[:, :2].std(0, correction=0).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert y[:, 2].abs().max() < 1e-6  # constant: scale 1
    whole = Standardize.fit(data, per_dimension=False)
    assert float(whole.shift) == pytest.approx(array.mean(), rel=1e-5)
    assert float(whole.scale) == pytest.approx(array.std(), rel=1e-5)
    images = open(np.random.default_rng(0).normal(size=(50, 4, 6)))
    fitted = Standardize.fit(images, per_dimension=True)
    assert fitted.shift.shape == (1, 4, 6)
    assert bool(fitted.log_abs_det(torch.zeros(5, 1, 4, 6)).isfinite().all())
    mask = torch.rand(5, 1, 4, 6) > 0.5
    kept = [-fitted.scale.double().log().expand(1, 4, 6)[m].sum() for m in mask]
    assert torch.allclose(fitted.log_abs_det(torch.zeros(5, 1, 4, 6), mask), torch.stack(kept))


def test_standardize_fit_leaves_missing_values_out() -> None:
    array = np.array([[1.0, 5.5], [3.0, np.nan], [np.nan, 7.5]])
    fitted = Standardize.fit(open(array, missing="nan"), per_dimension=True)
    assert fitted.shift.tolist() == [2.0, 6.5]
    assert fitted.scale.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_standardize_fits_in_chunks(monkeypatch: pytest.MonkeyPatch, per_dimension: bool, missing: bool) -> None:
    array = np.random.default_rng(0).normal([1e3, -1.0, 0.3], [2.0, 0.01, 5.0], (500, 3)).astype(np.float32)
    if missing:
        array[np.random.default_rng(1).random(array.shape) < 0.3] = np.nan
        array[:9] = np.nan  # a chunk in which there is nothing
    data = open(array, missing="nan" if missing else None).select(np.arange(500)[::-1])
    monkeypatch.setattr(transforms, "_CHUNK_ELEMENTS", 21)
    fitted, axis = Standardize.fit(data, per_dimension), 0 if per_dimension else None
    exact = array.astype(np.float64)
    np.testing.assert_allclose(fitted.shift, np.nanmean(exact, axis=axis), rtol=1e-6)
    np.testing.assert_allclose(fitted.scale, np.nanstd(exact, axis=axis), rtol=1e-6)


def test_standardize_fits_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open(np.random.default_rng(0).normal(size=(5000, 2048)).astype(np.float32))
    tracemalloc.start()
    whole = Standardize.fit(data, per_dimension=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # a copy in float64 alone would take 78 MiB
    monkeypatch.setattr(transforms, "_FIT_BYTES", 100 * 2048 * 4)
    some = Standardize.fit(data, per_dimension=False)
    assert float(some.scale) == pytest.approx(1.0, abs=0.01)
    assert not np.array_equal(some.scale, whole.scale.mean())


def test_scales_must_be_positive() -> None:
    for scale in (0.0, -1.0, math.nan, [1.0, 0.0]):
        with pytest.raises(ConfigError, match="`scale` must be above 0"):
            Standardize(0.0, scale)
