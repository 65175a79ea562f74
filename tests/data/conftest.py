"""Image files of every kind, made here; and a cache that belongs to one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache-of-vaekit"
    monkeypatch.setenv("VAEKIT_CACHE", str(folder))
    return folder


def _write_image(path: Path, pixels: np.ndarray) -> None:
    """(H, W) or (H, W, C), RGB order, 8 or 16 bit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]]
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []
    assert cv2.imwrite(str(path), order, lossless)


@pytest.fixture
def write_image() -> Callable[[Path, np.ndarray], None]:
    return _write_image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray]]:
    """A folder of images with the given names, and their pixels (N, H, W, C) in the order of the names."""

    def make(names: list[str], size: tuple[int, int] = (8, 6), channels: int = 3, seed: int = 0) -> tuple[Path, np.ndarray]:
        pixels = np.random.default_rng(seed).integers(0, 256, (len(names), *size, channels), dtype=np.uint8)
        for name, image in zip(names, pixels, strict=True):
            _write_image(tmp_path / "images" / name, image.squeeze() if channels == 1 else image)
        return tmp_path / "images", pixels

    return make
