"""Sprites: known areas and places, and pictures that do not depend on the machine."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from vaekit.data import loading
from vaekit.data import sprites as module
from vaekit.data.sprites import FACTORS, NUM_VALUES, factor_values, render, sprites
from vaekit.errors import ConfigError, DataError

SQUARE, ELLIPSE, HEART = range(3)


def area(shape: int, scale: float, size: int = 64) -> float:
    full = {
        SQUARE: (2 * 10.9) ** 2,
        ELLIPSE: math.pi * 15.3 * 7.7,
        HEART: (4 + math.pi) * 8.87**2,  # a square, and two halves of a disc
    }
    return full[shape] * scale**2 * (size / 64) ** 2


@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_no_pixel_is_decided_by_rounding(size):
    window = size - module._corner(31, size)[0]
    phases = (0, 1) if size % 64 else (0,)
    nearest = [np.abs(module._outlines(size, window, y, x)).min() for y in phases for x in phases]
    assert min(nearest) > 1e-6


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (64, "3ccd106a214f40193ac2776b08d462cc85cf8fb48d0a5ea7855bf128bc6737da"),
        (32, "6e6b9d0ee85e48b58900184dd4508a7068718a7627e03c2a027f98f618017ac5"),
    ],
)
def test_the_pictures_are_always_the_same(size, digest):
    shape, scale, angle = np.unravel_index(np.arange(720), NUM_VALUES[:3])
    place = np.arange(720)
    images = render(np.stack([shape, scale, angle, 7 * place % 32, 11 * place % 32], axis=1), size=size)
    assert hashlib.sha256(np.packbits(images).tobytes()).hexdigest() == digest


@pytest.mark.parametrize("size", [64, 128])
def test_areas_are_those_of_the_outlines(size):
    for shape in (SQUARE, ELLIPSE, HEART):
        for code, scale in enumerate((0.5, 0.6, 0.7, 0.8, 0.9, 1.0)):
            codes = np.array([[shape, code, angle, 15, 15] for angle in range(39)])
            counts = render(codes, size=size).sum(axis=(1, 2))
            assert counts.mean() == pytest.approx(area(shape, scale, size), rel=0.03)
            assert counts.std() < 0.05 * counts.mean()


@pytest.mark.parametrize("size", [32, 64, 96])
def test_the_centre_is_where_the_factors_say_and_nothing_is_cut(size):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, NUM_VALUES, (300, 5))
    codes[:8, 3:] = [[0, 0], [0, 31], [31, 0], [31, 31]] * 2
    codes[:, 0] = codes[:, 0] % 2  # a square and an ellipse have their centre in the middle
    images = render(codes, size=size).astype(float)
    pixel = np.arange(size) + 0.5
    total = images.sum(axis=(1, 2))
    x, y = (images.sum(1) @ pixel / total, images.sum(2) @ pixel / total)
    expected = (16.5 + codes[:, 3:]) * size / 64
    np.testing.assert_allclose(np.stack([x, y], axis=1), expected, atol=0.35)
    edges = np.concatenate([images[:, [0, -1]].reshape(300, -1), images[:, :, [0, -1]].reshape(300, -1)], axis=1)
    assert size == 32 or edges.max() == 0
    assert total == pytest.approx([area(s, (5 + c) / 10, size) for s, c in codes[:, :2]], rel=0.25 if size == 32 else 0.12)


def test_a_step_in_place_moves_the_picture_by_one_pixel():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, NUM_VALUES, (50, 5))
    centre = codes.copy()
    centre[:, 3:] = 15
    moved = [np.roll(image, (y - 15, x - 15), axis=(0, 1)) for image, (x, y) in zip(render(centre), codes[:, 3:], strict=True)]
    np.testing.assert_array_equal(render(codes), moved)


def test_a_half_turn_is_the_picture_upside_down_and_a_whole_turn_the_picture():
    codes = np.array([[shape, scale, 0, 15, 16] for shape in range(3) for scale in range(6)])
    turned = codes.copy()
    turned[:, 2] = 39
    np.testing.assert_array_equal(render(turned), render(codes))
    outlines = module._outlines(64, 33, 0, 0).reshape(3, 6, 40, 33, 33)
    # angle 13 of 39 steps is a third of a turn, 26 two thirds: the three lie at distances of 120 degrees
    third, two = outlines[HEART, 5, 13] >= 0, outlines[HEART, 5, 26] >= 0
    np.testing.assert_array_equal(third[:, ::-1], two)  # mirror images, as a heart is its own


def test_an_upright_heart_has_two_lobes_above_and_a_point_below():
    (heart,) = render(np.array([[HEART, 5, 0, 15, 15]]))
    lit = np.flatnonzero(heart.any(1))
    widths = heart[lit].sum(1)
    np.testing.assert_array_equal(heart[:, : 2 * 31 + 1], heart[:, : 2 * 31 + 1][:, ::-1])  # the centre is at 31.5
    assert widths[-1] <= 3 < widths[0]
    runs = np.diff(heart[lit[0]].astype(int)).tolist()
    assert runs.count(1) == 2  # two lobes
    assert widths.argmax() < len(widths) / 2


def test_angles_turn_an_ellipse():
    (upright, turned) = render(np.array([[ELLIPSE, 5, 0, 15, 15], [ELLIPSE, 5, 10, 15, 15]]))
    assert upright.any(0).sum() == 31 == turned.any(1).sum()  # 2 * 15.3 pixels
    assert upright.any(1).sum() == 15 == turned.any(0).sum()  # 2 * 7.7


def test_different_combinations_at_random():
    found = sprites(5000, size=32, seed=3)
    assert found.names == FACTORS
    assert len(np.unique(found.factors, axis=0)) == 5000
    assert [len(np.unique(column)) for column in found.factors.T] == list(NUM_VALUES)
    np.testing.assert_array_equal(render(found.factors, size=32), found.images)
    np.testing.assert_array_equal(sprites(5000, size=32, seed=3).factors, found.factors)
    assert (sprites(5000, size=32, seed=4).factors != found.factors).any()
    assert found.images.dtype == np.uint8
    assert set(np.unique(found.images)) == {0, 1}


def test_the_whole_grid_is_in_order(monkeypatch):
    factors = np.stack(np.unravel_index(np.arange(737_280), NUM_VALUES), axis=1)
    assert math.prod(NUM_VALUES) == 737_280
    drawn = []
    monkeypatch.setattr(module, "render", lambda factors, size: drawn.append(factors) or np.zeros((0, size, size), np.uint8))
    assert sprites(size=32).factors.shape == (737_280, 5)
    np.testing.assert_array_equal(drawn[0], factors)
    np.testing.assert_array_equal(drawn[0][[0, 1, 32, 1024, 40_960, 245_760]], [
        [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0],
    ])  # fmt: skip


def test_what_the_codes_mean():
    shapes, scales, angles, x, y = factor_values()
    assert shapes == ("square", "ellipse", "heart")
    assert scales == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert angles[1] == pytest.approx(0.16110732)
    assert angles[-1] == pytest.approx(2 * math.pi)
    assert x == y
    assert (x[0], x[-1]) == (0.0, 1.0)
    assert x[1] == pytest.approx(0.03225806)


def test_they_are_binary_images_to_vaekit():
    data = loading.open(sprites(50).images)
    assert (data.schema.kind, data.schema.values, data.schema.shape) == ("images", "binary", (1, 64, 64))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sprites(0), ConfigError, "`num` must be from 1 to 737,280, got 0"),
        (lambda: sprites(737_281), ConfigError, "got 737281"),
        (lambda: sprites(5, size=50), ConfigError, "`size` must be 32, 64, 96 or 128 pixels, got 50"),
        (lambda: render(np.zeros((2, 5), int), size=0), ConfigError, "`size` must be"),
        (lambda: render(np.zeros((2, 4), int)), DataError, r"must be whole numbers \(N, 5\), got int64 \(2, 4\)"),
        (lambda: render(np.zeros((2, 5))), DataError, "got float64"),
        (lambda: render(np.array([[3, 0, 0, 0, 0]])), DataError, "must be codes from 0 and below"),
        (lambda: render(np.array([[0, 0, 0, -1, 0]])), DataError, "must be codes from 0"),
    ],
)
def test_what_cannot_be_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_no_factors_give_no_pictures():
    assert render(np.zeros((0, 5), int)).shape == (0, 64, 64)
