"""Where an image is strange: a map of it, pixel by pixel."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset, to_source
from vaekit.data.schema import Schema, Source
from vaekit.data.writing import to_pixels, write_examples
from vaekit.errors import ConfigError
from vaekit.inference import MAX_ELEMENTS, Progress, prepare, seeded
from vaekit.storage import Bundle

SHOWN = 16
"""Images of which maps are made unless told otherwise, the strangest."""

WHITE = 6.0
"""Standard deviations that are white in a picture of a map."""

_SAMPLES = 64
_GAP = 2
_VISIBLE_SIDE = 96


@dataclass(frozen=True)
class AnomalyMaps:
    """How strange each pixel of M images is.

    Attributes:
        rows: (M,) which examples.
        deviations: (M, H, W) float32: how far the pixel lies from what the model expects, in standard deviations; the root of
            the mean square over the channels. 0 where it is missing.
        x: (M, ...) the images, in the source's form.
        expected: (M, ...) E p(x|x'), what the model makes of them, likewise.
    """

    rows: np.ndarray
    deviations: np.ndarray
    x: np.ndarray
    expected: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def anomaly_maps(
    bundle: Bundle,
    dataset: Dataset,
    rows: np.ndarray,
    *,
    num_samples: int = _SAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> AnomalyMaps:
    """By how many standard deviations each pixel of images lies off the posterior predictive.

        d_i = |x_i - m_i| / sqrt((v_i + v) / 2),    m_i = E[X_i],  v_i = Var[X_i],  X ~ p(.|z, c),  z ~ q(z|x, c)

    v is the mean of v_i over the image, which keeps a pixel from being strange for a difference of no size. m_i is the mean of
    E p(x_i|z_k, c) over K samples, and v_i that of squared distances of a draw of each to it, so that what the model does not
    know of the latent and what it takes for noise both count.

    Args:
        bundle: of images.
        dataset: that they are among.
        rows: (M,) their indices.
        num_samples: K.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, M).

    Raises:
        ConfigError: if the model is not one of images, or `num_samples` is less than 2.
    """
    if bundle.schema.kind != "images":
        raise ConfigError(f"Maps of pixels must be of images, the model is one of {bundle.schema.kind}. Leave them out.")
    if num_samples < 2:
        raise ConfigError(f"`num_samples` must be at least 2, got {num_samples}. 64 are enough.")
    widest = max(bundle.schema.num_dimensions, bundle.vae.peak_elements())
    at_once = max(1, MAX_ELEMENTS // (num_samples * widest))
    deviations, expected = [], []
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)), full_precision():
        for start in range(0, len(rows), at_once):
            found, mean = _block(bundle, dataset, rows[start : start + at_once], num_samples)
            deviations.append(found)
            expected.append(mean)
            if progress is not None:
                progress(min(start + at_once, len(rows)), len(rows))
    shape = bundle.schema.shape
    some = np.concatenate(deviations) if deviations else np.empty((0, *shape[1:]), np.float32)
    made = np.concatenate(expected) if expected else to_source(np.empty((0, *shape)), bundle.schema)
    return AnomalyMaps(np.asarray(rows), some, dataset.raw(dataset.stored(rows)), made)


def _block(bundle: Bundle, dataset: Dataset, rows: np.ndarray, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = prepare(bundle, dataset.batch(rows), expected=True)
    trace = bundle.vae(inputs.x, condition=inputs.condition, mask=inputs.mask, num_samples=num_samples)
    mean = trace.likelihood.mean.double().mean(0)
    variance = (trace.likelihood.sample().double() - mean).square().mean(0)
    usual = 0.5 * (variance + variance.flatten(1).mean(1).view(-1, 1, 1, 1))
    squared = (inputs.x.double() - mean).square() / usual.clamp_min(1e-12)
    if inputs.mask is not None:
        squared = torch.where(inputs.mask, squared, 0.0)
    return squared.mean(1).sqrt().float().cpu().numpy(), to_source(bundle.transform.inverse(mean.float()), bundle.schema)


def write_maps(maps: AnomalyMaps, schema: Schema, out: str | os.PathLike[str], force: bool = False) -> None:
    """A folder of pictures, the strangest first in the order of their names: the image, what the model expects, and the map.

    Black is as expected, then red, yellow, and white from 6 standard deviations on.

    Args:
        maps: of images.
        schema: of the model.
        out: the folder.
        force: replace one that is there and holds nothing but PNG files.

    Raises:
        ConfigError: if images of so many channels cannot be shown, or the folder cannot be written.
        DataError: if it exists, and `force` is False.
    """
    shown = [_colours(to_pixels(images, schema, bits=8, full_range=True)) for images in (maps.x, maps.expected)]
    heat = _heat(maps.deviations)
    gap = np.full((len(maps), heat.shape[1], _GAP, 3), 128, np.uint8)
    pictures = np.concatenate([shown[0], gap, shown[1], gap, heat], axis=2)
    zoom = max(1, -(-_VISIBLE_SIDE // heat.shape[1]))
    pictures = pictures.repeat(zoom, axis=1).repeat(zoom, axis=2)
    names = [f"{place:03d}-example-{row:05d}.png" for place, row in enumerate(maps.rows.tolist())]
    write_examples(pictures, _of_pictures(pictures), out, force, names)


def _colours(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) of pixels of one, three or four channels."""
    return pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def _heat(deviations: np.ndarray) -> np.ndarray:
    """(M, H, W, 3): black, red, yellow, white."""
    share = np.clip(deviations / WHITE, 0.0, 1.0)[..., None]
    return np.rint(255 * np.clip(3.0 * share - np.arange(3.0), 0.0, 1.0)).astype(np.uint8)


def _of_pictures(pictures: np.ndarray) -> Schema:
    source = Source(form="folder", layout="HWC", dtype="uint8")
    shape = (3, *pictures.shape[1:3])
    about: dict = {"values": "levels", "levels": 256, "low": 0.0, "high": 255.0, "dtype": "uint8"}
    return Schema(kind="images", shape=shape, **about, source=source, num_examples=max(1, len(pictures)))
