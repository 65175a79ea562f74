"""Interpolate: a path of examples from one to another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError
from vaekit.jobs.blocks import PLAINLY, Spelling, decoded, posterior_of
from vaekit.jobs.conditions import features_of_data
from vaekit.jobs.spaces import check_movable, factors_of, way_between
from vaekit.storage import Bundle

PATHS = ("linear", "spherical")


def interpolate(
    bundle: Bundle,
    dataset: Dataset,
    start: int,
    end: int,
    *,
    num_steps: int = 9,
    path: str = "linear",
    spelling: Spelling = PLAINLY,
) -> np.ndarray:
    """Examples on a path between the posterior means of two, both ends included.

        linear:     z(t) = (1 - t) z_i + t z_j
        spherical:  z(t) = sin((1 - t) a) / sin(a) z_i + sin(t a) / sin(a) z_j,  a the angle between z_i and z_j

    The ends are exactly the two reconstructions, and all between them is in the space of the latent: points of a sphere or a
    ball (von Mises-Fisher, Poincare) take its geodesic, whatever the path. A spherical path keeps the norm that latents of the
    prior have, where the two norms are alike: White, "Sampling generative networks" (2016), section 2. Conditions move with t
    as features.

    Args:
        bundle: the model.
        dataset: the examples.
        start: index i of the first.
        end: index j of the last.
        num_steps: how many examples, at least 2.
        path: `linear` or `spherical`.
        spelling: of text, how it is made.

    Returns:
        (num_steps, ...) in the source's layout and dtype.

    Raises:
        ConfigError: if an index is not in the data, an argument cannot be, or latents are codes, which nothing lies between.
    """
    for name, index in (("start", start), ("end", end)):
        if not 0 <= index < len(dataset):
            raise ConfigError(
                f"`{name}` must be an index from 0 to {len(dataset) - 1}, got {index}. Choose an example of the data."
            )
    if num_steps < 2:
        raise ConfigError(f"`num_steps` must be at least 2, got {num_steps}. Both ends are steps.")
    if path not in PATHS:
        raise ConfigError(f"`path` must be linear or spherical, got {path!r}. Use linear when in doubt.")
    factors = factors_of(bundle.vae)
    check_movable(factors, "An interpolation", every=True)
    ends = dataset.select([start, end])
    mean, _ = posterior_of(bundle, ends)
    t = torch.linspace(0, 1, num_steps)[:, None]
    with torch.inference_mode():
        features = features_of_data(bundle, ends)
        along = None if features is None else linear_way(features[0], features[1], t.to(features))
        z = way_between(factors, mean[0], mean[1], t, spherical_way if path == "spherical" else linear_way)
        return decoded(bundle, _with_ends(z, mean[0], mean[1]), along, "mean", spelling=spelling)


def linear_way(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(1 - t) a + t b, with a and b themselves where t is 0 and 1.

    Args:
        a: (..., D).
        b: (..., D).
        t: (..., 1), from 0 to 1.
    """
    return _with_own_ends((1 - t) * a + t * b, a, b, t)


def spherical_way(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """As `linear_way`, along the great circle; linear where a and b point the same way, or opposite ways, or one is 0."""
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)[..., None]
    angle = torch.arccos(cosine.clamp(-1, 1))
    straight = (angle.sin() < 1e-4) | (a.norm(dim=-1, keepdim=True) == 0) | (b.norm(dim=-1, keepdim=True) == 0)
    weights = (torch.sin(share * angle) / angle.sin() for share in (1 - t.double(), t.double()))
    first, second = (torch.where(straight, 0.0, weight) for weight in weights)
    curved = (first * a + second * b).to(a.dtype)
    return torch.where(straight, linear_way(a, b, t), _with_own_ends(curved, a, b, t))


def _with_own_ends(along: Tensor, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return torch.where(t == 0, a, torch.where(t == 1, b, along))


def _with_ends(along: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a[None], along[1:-1], b[None]])
