"""New examples around given ones: draws of their posteriors, ways between two of a class, and draws for their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.component import full_precision
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress, is_point, prepare
from vaekit.jobs.blocks import block_size, decoded, posterior_of
from vaekit.jobs.conditions import conditioned, draw_codes, features_of
from vaekit.jobs.interpolate import PATHS, linear_way, spherical_way
from vaekit.jobs.spaces import Factor, check_movable, factors_of, way_between
from vaekit.storage import Bundle
from vaekit.vae import VAE

HOW = ("auto", "posterior", "interpolate", "generate")
PARTNERS = ("neighbours", "random")
NUM_NEIGHBOURS = 5
"""Of how many nearest examples of the class the other end of a way is chosen: Chawla et al., "SMOTE: synthetic minority
over-sampling technique" (2002), section 4.2."""

_ROWS = 1024
"""Rows of a matrix of distances that are held at once."""


@dataclass(frozen=True)
class Around:
    """M new examples.

    Attributes:
        x: (M, ...) in the source's layout and dtype.
        columns: the codes or the numbers of each column, (M,).
        source: (M, 2) int64, the examples of the data that each was made of; -1 where there is none, or no second.
        weight: (M,) float64, the share t of the way from the first to the second; NaN where there is none.
    """

    x: np.ndarray
    columns: Mapping[str, np.ndarray]
    source: np.ndarray
    weight: np.ndarray


def chosen(bundle: Bundle, dataset: Dataset, how: str) -> tuple[str, str]:
    """How new examples are made, and why, of `auto` or of what was asked for.

    Raises:
        ConfigError: if it is unknown, or cannot be with this model.
    """
    if how not in HOW:
        raise ConfigError(f"`how` must be {', '.join(HOW[:-1])} or {HOW[-1]}, got {how!r}. Use auto when in doubt.")
    names, known = categories_of(dataset), set(conditioned(bundle))
    unasked = [name for name in names if name not in known]
    listed = ", ".join(f"`{name}`" for name in names)
    if how == "generate" and unasked:
        raise ConfigError(
            f"A model must be conditioned on the data's columns to generate for them, it does not know `{unasked[0]}`. Train "
            "with `condition`, or use `posterior`."
        )
    if how != "auto":
        return how, f"{how}: as it was asked for."
    if names and not unasked:
        return (
            "generate",
            f"generate: the model is conditioned on {listed}, so new examples are drawn from p(x|{', '.join(names)}).",
        )
    said = (
        f"the model is not conditioned on {', '.join(f'`{name}`' for name in unasked)}" if names else "the data have no labels"
    )
    if is_point(bundle.vae) and all(factor.movable for factor in factors_of(bundle.vae)):
        return "interpolate", f"interpolate: {said}, and its posterior is a point an example: ways between two of a class."
    return "posterior", f"posterior: {said}, so new examples are drawn around given ones, z ~ q(z|x)."


def categories_of(dataset: Dataset) -> list[str]:
    """The columns of categories beside the data."""
    return [name for name, codes in dataset.columns.items() if codes.dtype.kind in "iu"]


def by_posterior(
    bundle: Bundle, dataset: Dataset, sources: np.ndarray, temperature: float, draw: str, progress: Progress | None = None
) -> Around:
    """x ~ p(x|z, c) at z a share `temperature` of the way from E q(z|x, c) to a draw of q(z|x, c).

    Of a normal posterior that is mean + temperature * scale * noise; 0 gives the reconstructions.

    Args:
        bundle: the model.
        dataset: the examples.
        sources: (M,) which are the sources.
        temperature: factor on the posterior's width, >= 0.
        draw: as in `jobs.blocks.decoded`.
        progress: called with (done, total).
    """
    if temperature > 0 and is_point(bundle.vae):
        raise ConfigError("The posterior must have a width to draw from, this model's is a point. Use `interpolate`.")
    factors = factors_of(bundle.vae)
    if temperature not in (0.0, 1.0):
        check_movable(factors, "A temperature", every=True)
    used, place = np.unique(sources, return_inverse=True)
    mean = posterior_of(bundle, dataset.select(used))[0][place]
    z = mean
    if temperature > 0:
        z = torch.cat([_drawn(bundle, dataset, rows) for rows in _blocks(sources, block_size(bundle.schema))])
        z = z if temperature == 1.0 else between(factors, mean, z, torch.full((len(z), 1), temperature), "linear")
    columns = {name: codes[sources] for name, codes in dataset.columns.items()}
    x = decoded(bundle, z, _features(bundle, columns, len(z)), draw, progress)
    return Around(x, columns, np.stack([sources, np.full_like(sources, -1)], 1), np.full(len(sources), np.nan))


@torch.inference_mode()
def _drawn(bundle: Bundle, dataset: Dataset, rows: np.ndarray) -> Tensor:
    """(B, D): a draw of q(z|x, c) for each row, on the CPU."""
    inputs = prepare(bundle, dataset.batch(rows), expected=True)
    with full_precision():
        if isinstance(bundle.vae, VAE):
            z = bundle.vae.encode(inputs.x, condition=inputs.condition, mask=inputs.mask).sample().flatten(1)
        else:
            trace = bundle.vae(inputs.x, condition=inputs.condition, mask=inputs.mask)
            z = torch.cat([latent.z[0].flatten(1) for latent in trace.latents], dim=1)
    return z.cpu()


def by_ways(
    bundle: Bundle,
    dataset: Dataset,
    pairs: np.ndarray,
    weight: np.ndarray,
    path: str,
    draw: str,
    progress: Progress | None = None,
) -> Around:
    """x ~ p(x|z(t), c) on the way from the posterior mean of one example to that of another, see `jobs.interpolate`.

    Columns of categories are those of the first, and columns of numbers move with t.

    Args:
        bundle: the model.
        dataset: the examples.
        pairs: (M, 2) which are the two ends.
        weight: (M,) t, the share of the way, from 0 to 1.
        path: `linear` or `spherical`.
        draw: as in `jobs.blocks.decoded`.
        progress: called with (done, total).
    """
    if path not in PATHS:
        raise ConfigError(f"`path` must be linear or spherical, got {path!r}. Use linear when in doubt.")
    factors = factors_of(bundle.vae)
    check_movable(factors, "An interpolation", every=True)
    used, place = np.unique(pairs, return_inverse=True)
    mean = posterior_of(bundle, dataset.select(used))[0]
    first, second = (mean[rows] for rows in place.reshape(pairs.shape).T)
    z = between(factors, first, second, torch.from_numpy(weight)[:, None].to(mean), path)
    columns = {
        name: codes[pairs[:, 0]]
        if codes.dtype.kind in "iu"
        else (1 - weight) * codes[pairs[:, 0]] + weight * codes[pairs[:, 1]]
        for name, codes in dataset.columns.items()
    }
    x = decoded(bundle, z, _features(bundle, columns, len(z)), draw, progress)
    return Around(x, columns, pairs, weight)


def by_generation(
    bundle: Bundle, dataset: Dataset, sources: np.ndarray, temperature: float, draw: str, progress: Progress | None = None
) -> Around:
    """x ~ p(x|z, c), z ~ p(z|c), with the columns c of given examples, of which nothing else is used.

    Args:
        bundle: the model.
        dataset: the examples.
        sources: (M,) whose columns.
        temperature: factor on the prior's scales, > 0.
        draw: as in `jobs.blocks.decoded`.
        progress: called with (done, total).
    """
    columns = {name: codes[sources] for name, codes in dataset.columns.items()}
    num, latents = len(sources), []
    asked = {name: torch.from_numpy(np.ascontiguousarray(codes)) for name, codes in columns.items()}
    known = {**draw_codes(bundle, num, {}), **{name: codes for name, codes in asked.items() if name in conditioned(bundle)}}
    for rows in _blocks(np.arange(num), block_size(bundle.schema)):
        condition = bundle.vae.condition_of({name: codes[rows] for name, codes in known.items()}, len(rows))
        latents.append(bundle.vae.sample_prior(len(rows), condition=condition, temperature=temperature).flatten(2)[0].cpu())
    x = decoded(bundle, torch.cat(latents), features_of(bundle, known, num), draw, progress)
    return Around(x, columns, np.full((num, 2), -1), np.full(num, np.nan))


def pairs_within(
    bundle: Bundle, dataset: Dataset, sources: np.ndarray, partners: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2) each source with another example of the same categories, and (M,) t, drawn evenly from 0 to 1.

    Args:
        bundle: the model, in whose latents examples are near.
        dataset: the examples.
        sources: (M,) the first of each pair.
        partners: `neighbours`: one of the 5 nearest posterior means of the class; or `random`: any of the class.
        rng: of all draws.

    Raises:
        ConfigError: if `partners` is unknown.
        DataError: if a class has a single example.
    """
    if partners not in PARTNERS:
        raise ConfigError(f"`partners` must be neighbours or random, got {partners!r}. Use neighbours when in doubt.")
    classes = classes_of(dataset)
    pairs = np.stack([sources, np.full_like(sources, -1)], axis=1)
    for one in np.unique(classes[sources]):
        members, rows = np.flatnonzero(classes == one), np.flatnonzero(classes[sources] == one)
        if len(members) < 2:
            raise DataError(
                f"Each class must have two examples to go from one to the other, example {members[0]} is alone in its own. Use "
                "`posterior`."
            )
        place = np.searchsorted(members, sources[rows])
        if partners == "random":
            step = rng.integers(1, len(members), len(rows))  # another one than itself
            pairs[rows, 1] = members[(place + step) % len(members)]
            continue
        z = posterior_of(bundle, dataset.select(members))[0]
        seekers, whose = np.unique(place, return_inverse=True)
        near = nearest(z, torch.from_numpy(seekers), min(NUM_NEIGHBOURS, len(members) - 1))
        pairs[rows, 1] = members[near[whose, rng.integers(0, near.shape[1], len(rows))]]
    return pairs, rng.random(len(sources))


def classes_of(dataset: Dataset) -> np.ndarray:
    """(N,) numbers, the same for examples that agree in every column of categories."""
    names = categories_of(dataset)
    if not names:
        return np.zeros(len(dataset), np.int64)
    table = np.stack([dataset.columns[name] for name in names], axis=1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def nearest(z: Tensor, rows: Tensor, num: int) -> np.ndarray:
    """(M, num) indices of the nearest of z (N, D) to each of the rows (M,), itself left out."""
    found = []
    for part in rows.split(_ROWS):
        distance = torch.cdist(z[part], z)
        distance[torch.arange(len(part)), part] = torch.inf
        found.append(distance.topk(num, largest=False).indices)
    return torch.cat(found).numpy()


def between(factors: list[Factor], a: Tensor, b: Tensor, t: Tensor, path: str) -> Tensor:
    """(M, D): each row the share t (M, 1) of the way from a (M, D) to b (M, D), within the space of the latent."""
    flat = spherical_way if path == "spherical" else linear_way
    curved = [factor for factor in factors if factor.kind in ("sphere", "ball")]
    if not curved:
        beyond = [factor for factor in factors if factor.kind == "positive"] if bool((t > 1).any()) else []
        z = torch.cat([flat(a[:, f.start : f.stop], b[:, f.start : f.stop], t) for f in factors], dim=1)
        for factor in beyond:
            z[:, factor.start : factor.stop].clamp_(min=torch.finfo(z.dtype).tiny)
        return z
    ways = [way_between(factors, first, last, share[None], flat) for first, last, share in zip(a, b, t, strict=True)]
    return torch.cat(ways)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _features(bundle: Bundle, columns: Mapping[str, np.ndarray], num: int) -> Tensor | None:
    with torch.inference_mode():
        given = {name: torch.from_numpy(np.ascontiguousarray(codes)) for name, codes in columns.items()}
        return features_of(bundle, given, num)
