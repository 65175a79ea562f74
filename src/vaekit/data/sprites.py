"""Sprites: small pictures of one shape whose true factors are known, on the grid of dSprites."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from vaekit.errors import ConfigError, DataError

SHAPES = ("square", "ellipse", "heart")
NUM_VALUES = (3, 6, 40, 32, 32)
"""How many values each factor takes; 737,280 combinations."""

FACTORS = ("shape", "scale", "orientation", "x", "y")
MOST_SIZE = 128

# Lengths are in 64ths of the picture's side. No sprite reaches further than 16 from its centre, which lies between 16.5 and
# 47.5, so none is cut. No pixel's centre lies within 1e-6 of an outline (there is a test), so rounding decides no pixel.
_SIDE = 64.0
_FIRST_CENTRE = 16.5
_SQUARE = 10.9
_ELLIPSE = 15.3, 7.7
_HEART = 8.87
_HEART_CENTRE = 0.26  # of the least circle around it


@dataclass(frozen=True, eq=False)
class Sprites:
    """N pictures and their factors.

    Attributes:
        images: (N, size, size) uint8, 1 where the sprite is, else 0.
        factors: (N, 5) int64, the codes of shape, scale, orientation, x and y, from 0.
        names: of the factors.
        values: (5,) what the codes of each factor mean: names of shapes, shares of the full size, angles in radians, and the
            place of the centre from left to right and from top to bottom, from 0 to 1.
    """

    images: np.ndarray
    factors: np.ndarray
    names: tuple[str, ...]
    values: tuple[tuple[str | float, ...], ...]


def sprites(num: int | None = None, *, size: int = 64, seed: int = 0) -> Sprites:
    """Pictures of a square, an ellipse or a heart, of six sizes, at 40 angles and 32 x 32 places.

    The grid is that of dSprites: 3 shapes, scales from 0.5 to 1, angles from 0 to 2 pi (the last is the first again), places
    from 0 to 1; the outlines are vaekit's own, so figures are near those of dSprites but not the same. In the order of dSprites
    the last factor changes fastest. One step in x or y is `size` / 64 pixels. All 737,280 pictures are 3.0 GB at 64 x 64;
    for parts of the grid, use `render`. Matthey, Higgins, Hassabis, Lerchner, "dSprites: Disentanglement testing Sprites
    dataset" (2017).

    Args:
        num: so many pictures, different combinations drawn at random; None for all, in order.
        size: pixels a side, 32, 64, 96 or 128.
        seed: of the draw.

    Raises:
        ConfigError: if `num` or `size` cannot be.

    Example:
        >>> found = sprites(100)
        >>> found.images.shape, found.factors.max(0).tolist()
        ((100, 64, 64), [2, 5, 39, 31, 31])
    """
    total = math.prod(NUM_VALUES)
    if num is not None and not 1 <= num <= total:
        raise ConfigError(f"`num` must be from 1 to {total:,}, got {num}. Leave it out for all of them.")
    _check_size(size)
    places = np.arange(total) if num is None else np.random.default_rng(seed).choice(total, num, replace=False)
    factors = np.stack(np.unravel_index(places, NUM_VALUES), axis=1).astype(np.int64)
    return Sprites(render(factors, size=size), factors, FACTORS, factor_values())


def factor_values() -> tuple[tuple[str | float, ...], ...]:
    """What the codes of shape, scale, orientation (radians), x and y mean.

    Example:
        >>> [len(values) for values in factor_values()], factor_values()[1]
        ([3, 6, 40, 32, 32], (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
    """
    scales = tuple((5 + code) / 10 for code in range(NUM_VALUES[1]))
    angles = tuple(2 * math.pi * code / (NUM_VALUES[2] - 1) for code in range(NUM_VALUES[2]))
    places = tuple(code / (NUM_VALUES[3] - 1) for code in range(NUM_VALUES[3]))
    return SHAPES, scales, angles, places, places


def render(factors: np.ndarray, *, size: int = 64) -> np.ndarray:
    """The pictures (N, size, size) uint8 of factors (N, 5), 1 inside of the outline and 0 outside.

    A pixel is inside if its centre is. Memory beside the result is that of a thousandth of it and a few megabytes.

    Args:
        factors: (N, 5) codes of shape, scale, orientation, x and y.
        size: pixels a side, 32, 64, 96 or 128.

    Raises:
        ConfigError: if the size is none of these.
        DataError: if the factors are no codes of the grid.

    Example:
        >>> picture = render(np.array([[0, 0, 0, 31, 0]]))[0]  # the least square, upright, top right
        >>> int(picture.sum()), int(picture[:32, 32:].sum())
        (121, 121)
    """
    _check_size(size)
    codes = np.asarray(factors)
    if codes.ndim != 2 or codes.shape[1] != len(NUM_VALUES) or codes.dtype.kind not in "iu":
        raise DataError(f"`factors` must be whole numbers (N, 5), got {codes.dtype} {codes.shape}. Give a row a picture.")
    if codes.size and (codes.min() < 0 or (codes >= NUM_VALUES).any()):
        raise DataError(f"`factors` must be codes from 0 and below {NUM_VALUES}, got some outside. Count from 0.")
    codes = codes.astype(np.int64)
    patterns = _patterns(size)
    which = (codes[:, 0] * NUM_VALUES[1] + codes[:, 1]) * NUM_VALUES[2] + codes[:, 2]
    images = np.zeros((len(codes), size, size), dtype=np.uint8)
    window = patterns.shape[-1]
    place = codes[:, 4] * NUM_VALUES[3] + codes[:, 3]
    order = np.argsort(place, kind="stable")
    # All pictures of one place at once: a copy of their patterns.
    for rows in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
        if len(rows):
            (left, x_phase), (top, y_phase) = (_corner(int(codes[rows[0], axis]), size) for axis in (3, 4))
            images[rows, top : top + window, left : left + window] = patterns[y_phase, x_phase, which[rows]]
    return images


def _check_size(size: int) -> None:
    if size not in range(32, MOST_SIZE + 1, 32):
        raise ConfigError(f"`size` must be 32, 64, 96 or {MOST_SIZE} pixels, got {size}. Use 64 when in doubt.")


def _corner(code: int, size: int) -> tuple[int, int]:
    """The first pixel of the window around a centre, and whether the centre lies half a pixel beyond its first place."""
    halves = code * size // 32
    return halves // 2, halves % 2


@functools.cache
def _patterns(size: int) -> np.ndarray:
    """(2, 2, 720, w, w) uint8: each shape, scale and orientation, at both phases of y and of x."""
    window = size - _corner(NUM_VALUES[3] - 1, size)[0]
    found = np.stack([np.stack([_outlines(size, window, y, x) >= 0 for x in (0, 1)]) for y in (0, 1)]).astype(np.uint8)
    found.flags.writeable = False
    return found


def _outlines(size: int, window: int, y_phase: int, x_phase: int) -> np.ndarray:
    """(720, w, w): above 0 inside of the outline, below 0 outside, 0 on it; in 64ths of the picture's side."""
    pixel = (np.arange(window) + 0.5) * (_SIDE / size) - _FIRST_CENTRE
    x, y = pixel - 0.5 * x_phase * (_SIDE / size), (pixel - 0.5 * y_phase * (_SIDE / size))[:, None]
    _, scales, angles, _, _ = factor_values()
    found = np.empty((*NUM_VALUES[:3], window, window))
    for a, angle in enumerate(angles):
        # To 12 places, so that the sine of 2 pi is that of 0.
        cosine, sine = round(math.cos(float(angle)), 12), round(math.sin(float(angle)), 12)
        along, across = cosine * x + sine * y, cosine * y - sine * x
        for s, scale in enumerate(map(float, scales)):
            for shape, outline in enumerate((_square, _ellipse, _heart)):
                found[shape, s, a] = scale * outline(along / scale, across / scale)
    return found.reshape(-1, window, window)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _SQUARE - np.maximum(np.abs(x), np.abs(y))


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (1.0 - np.hypot(x / _ELLIPSE[0], y / _ELLIPSE[1])) * _ELLIPSE[1]


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner, and a disc on each of its two upper sides."""
    right, up = (x - y) * math.sqrt(0.5) / _HEART, (-x - y) * math.sqrt(0.5) / _HEART
    right, up = right + _HEART_CENTRE, up + _HEART_CENTRE
    body = 1.0 - np.maximum(np.abs(right), np.abs(up))
    lobes = 1.0 - np.minimum(np.hypot(right - 1.0, up), np.hypot(right, up - 1.0))
    return np.maximum(body, lobes) * _HEART
