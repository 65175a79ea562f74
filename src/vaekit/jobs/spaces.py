"""The spaces that latents are in: what is inside of them, how a unit moves in them, and the way from one point to another."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.distributions.hyperbolic import WrappedNormal, mobius_add
from vaekit.errors import ConfigError, DataError
from vaekit.inference import seeded
from vaekit.posteriors import Chain, Joint, Posterior
from vaekit.posteriors.codes import CodePosterior
from vaekit.priors import Joint as JointPrior
from vaekit.priors import Prior, StandardNormal
from vaekit.vae import VAE, LatentModel

DRAWN = 4096
"""How many samples of the prior say where it is and how far it reaches."""

_ROUNDING = 1e-3  # of numbers that a table holds in a few digits
_ROWS = 256


@dataclass(frozen=True)
class Factor:
    """Numbers of a latent that are in one space together.

    Attributes:
        name: of the space, as `Posterior.spaces` has it.
        kind: its first word: `real`, `positive`, `sphere`, `ball`, `codes`, or one that is not known here.
        start: the first number.
        stop: behind the last number.
        curvature: c of a ball, whose points are shorter than 1 / sqrt(c).
    """

    name: str
    kind: str
    start: int
    stop: int
    curvature: float = 0.0

    @property
    def movable(self) -> bool:
        """Whether there is a way from any point to any other."""
        return self.kind in ("real", "positive", "sphere", "ball")


def factors_of(vae: LatentModel) -> list[Factor]:
    """The spaces of which that of the latent is the product; all levels of a ladder are real numbers."""
    names = vae.posterior.spaces if isinstance(vae, VAE) else ("real",) * vae.num_latents
    factors: list[Factor] = []
    start = 0
    while start < len(names):
        name = names[start]
        kind, curvature = name.partition("(")[0], 0.0
        if found := re.fullmatch(r"(?:sphere|ball)\((\d+)(?:, c=(.+))?\)", name):
            stop, curvature = start + int(found[1]), float(found[2] or 0.0)
        else:
            stop = next((d for d in range(start, len(names)) if names[d] != name), len(names))
        factors.append(Factor(name, kind, start, stop, curvature))
        start = stop
    return factors


def check_inside(vae: LatentModel, z: Tensor) -> None:
    """Refuses latents (N, D) that are not in the space of the model's.

    Raises:
        DataError: if a row is outside by more than rounding.
    """
    for factor in factors_of(vae):
        part = z[:, factor.start : factor.stop].double()
        length = part.norm(dim=1)
        if factor.kind == "positive":
            outside, must, found = (part < 0).any(1), "be positive", part.amin(1)
        elif factor.kind == "sphere":
            outside, must, found = (length - 1).abs() > _ROUNDING, "be a point on the sphere, of length 1", length
        elif factor.kind == "ball":
            edge = 1 / math.sqrt(factor.curvature)
            outside, must, found = length >= edge, f"be a point in the ball, of length below {edge:g}", length
        else:
            continue
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            _refuse(factor.start, factor.stop, must, f"{float(found[row]):g}", row)
    if isinstance(vae, VAE):
        _check_codes(vae.posterior, z, 0)


def _refuse(start: int, stop: int, must: str, found: str, row: int) -> None:
    units = f"z{start}" if stop == start + 1 else f"z{start} to z{stop - 1}"
    raise DataError(
        f"Latents {units} of this model must {must}, found {found} in row {row}. Give latents that `encode` wrote with it."
    )


@torch.no_grad()
def _check_codes(posterior: Posterior, z: Tensor, start: int) -> None:
    """Refuses codes that are none in z (N, D), of which those of the posterior begin at number `start`."""
    if isinstance(posterior, Joint | Chain):
        for part in posterior.parts if isinstance(posterior, Joint) else posterior.posteriors:
            assert isinstance(part, Posterior)
            _check_codes(part, z, start)
            start += math.prod(part.shape)
    if not isinstance(posterior, CodePosterior):
        return
    like = next(posterior.head.parameters())
    stop = start + math.prod(posterior.shape)
    for first in range(0, len(z), _ROWS):
        rows = z[first : first + _ROWS, start:stop].to(like).unflatten(-1, tuple(posterior.shape))
        weights = posterior.weights_of(rows)
        if weights is None:
            exact = posterior.embed(posterior.codes_of(rows))
            off = (rows - exact).abs() > _ROUNDING * exact.abs().clamp_min(1)
        else:
            off = torch.cat([weights < -_ROUNDING, (weights.sum(-1, keepdim=True) - 1).abs() > 10 * _ROUNDING], dim=-1)
        outside = off.flatten(1).any(1)
        if bool(outside.any()):
            _refuse(start, stop, "be vectors of its codes", "one of no code", first + int(outside.nonzero()[0]))


def check_movable(factors: list[Factor], what: str, every: bool) -> None:
    """Refuses spaces without a way from one point to another, such as codes.

    Raises:
        ConfigError: if one of them, or (`every` False) each, is such a space.
    """
    stuck = [factor.name for factor in factors if not factor.movable]
    if stuck and (every or len(stuck) == len(factors)):
        raise ConfigError(
            f"{what} must have latents with a way from one to another, got {stuck[0]}. Use `generate` for new examples, "
            "and `reconstruct` for what the latents of given ones keep."
        )


class Moves:
    """How each unit of a model's latent moves within its space.

    A column stands at a position p, 0 in the middle.

        real:      z_d = mean_d + p scale_d, of the prior; 0 and 1 where that is a standard normal
        positive:  z_d is the quantile Phi(p) of the prior's
        sphere:    z is turned by the angle p towards the axis d
        ball:      z goes the hyperbolic distance p scale_d along the geodesic in the direction of the axis d, where scale_d is
                   the prior's in the tangent space at 0

    The first two are places of the prior, and the last two ways from where the latent is held. Mean, scale and quantiles are
    those of samples of the prior, drawn from a fixed seed.

    Args:
        vae: the model.
        features: (1, F), the encoded condition, or None.

    Raises:
        ConfigError: if there is no way from one latent to another.
    """

    def __init__(self, vae: LatentModel, features: Tensor | None) -> None:
        self.factors = factors_of(vae)
        check_movable(self.factors, "A traversal", every=False)
        num = vae.num_latents
        self.centre = torch.zeros(num)
        self.mean, self.scale = torch.zeros(num, dtype=torch.float64), torch.ones(num, dtype=torch.float64)
        self.sorted = torch.empty(0, num, dtype=torch.float64)
        standard = _standard_units(vae.prior) if isinstance(vae, VAE) else torch.ones(num, dtype=torch.bool)
        if isinstance(vae, VAE) and not bool(standard.all()):
            drawn = _drawn(vae, features)
            for factor in self.factors:
                self._measure(factor, drawn[:, factor.start : factor.stop], standard)
            self.sorted = drawn.double().sort(0).values if any(f.kind == "positive" for f in self.factors) else self.sorted
        self._place()

    def _measure(self, factor: Factor, drawn: Tensor, standard: Tensor) -> None:
        """Where the prior's samples of a factor are, and how far they reach."""
        part, exact = slice(factor.start, factor.stop), drawn.double()
        if factor.kind == "real":
            known = standard[part]
            self.mean[part] = torch.where(known, 0.0, exact.mean(0))
            self.scale[part] = torch.where(known, 1.0, exact.std(0))
            self.centre[part] = self.mean[part].float()
        elif factor.kind == "ball":
            zero = torch.zeros(factor.stop - factor.start, dtype=torch.float64)
            self.scale[part] = WrappedNormal(zero, torch.ones_like(zero), factor.curvature).tangent(exact).std(0)
        elif not factor.movable:
            self.centre[part] = drawn[0]

    def _place(self) -> None:
        """Where positive numbers and points on a sphere are held without an example: the median, as far from every axis."""
        for factor in self.factors:
            part, width = slice(factor.start, factor.stop), factor.stop - factor.start
            if factor.kind == "positive":
                units = torch.arange(factor.start, factor.stop)
                self.centre[part] = self._quantiles(units, torch.zeros(1, dtype=torch.float64))[:, 0].float()
            elif factor.kind == "sphere":
                self.centre[part] = 1 / math.sqrt(width)

    @property
    def units(self) -> Tensor:
        """(M,): the units that move, all but those of codes."""
        return torch.cat([torch.arange(f.start, f.stop) for f in self.factors if f.movable])

    def along(self, held: Tensor, units: Tensor, positions: Tensor) -> Tensor:
        """(U, S, D): each of the units (U,) at each of the positions (S,), the others where `held` (D,) is.

        On a sphere or in a ball, the numbers of the point move together. Angles of more than pi are none: beyond, the positions
        are shrunk to it.
        """
        z = held.repeat(len(units), len(positions), 1)
        for factor in self.factors:
            rows = torch.nonzero((units >= factor.start) & (units < factor.stop)).flatten()
            chosen, part = units[rows], slice(factor.start, factor.stop)
            if not len(rows):
                continue
            if factor.kind == "real":
                z[rows, :, chosen] = (self.mean[chosen, None] + self.scale[chosen, None] * positions).float()
            elif factor.kind == "positive":
                z[rows, :, chosen] = self._quantiles(chosen, positions).float()
            elif factor.kind == "sphere":
                angles = positions * min(1.0, math.pi / float(positions.abs().max().clamp_min(1e-30)))
                z[rows, :, part] = _turned(held[part].double(), chosen - factor.start, angles).float()
            elif factor.kind == "ball":
                steps = torch.zeros(len(rows), len(positions), factor.stop - factor.start, dtype=torch.float64)
                steps[torch.arange(len(rows)), :, chosen - factor.start] = self.scale[chosen, None] * positions
                z[rows, :, part] = _moved_in_ball(held[part].double(), steps, factor.curvature).float()
        return z

    def _quantiles(self, units: Tensor, positions: Tensor) -> Tensor:
        """(U, S): what share Phi(p) of the prior's samples of a unit is below."""
        at = torch.special.ndtr(positions) * (len(self.sorted) - 1)
        below = at.floor().long()
        share = (at - below)[:, None]
        low, high = self.sorted[below][:, units], self.sorted[(below + 1).clamp_max(len(self.sorted) - 1)][:, units]
        return ((1 - share) * low + share * high).T


def _standard_units(prior: Prior) -> Tensor:
    """(D,): the units of which it is known without samples how they move: of a standard normal, and on a sphere."""
    if isinstance(prior, JointPrior):
        return torch.cat([_standard_units(part) for part in prior.parts if isinstance(part, Prior)])
    known = isinstance(prior, StandardNormal) or all(space.startswith("sphere") for space in prior.spaces)
    return torch.full((math.prod(prior.shape),), known)


@torch.no_grad()
def _drawn(vae: VAE, features: Tensor | None) -> Tensor:
    """(N, D) samples of the prior, the same whenever they are drawn."""
    with seeded(0, device_of(vae)):
        prior = vae.prior(None if features is None else features.expand(DRAWN, -1))
        return prior.sample(() if prior.batch_shape else (DRAWN,)).flatten(1).cpu()


def _turned(point: Tensor, axes: Tensor, angles: Tensor) -> Tensor:
    """(U, S, D): a point (D,) of the sphere turned towards each of the axes (U,), from which it may not be told apart."""
    point = point / point.norm()
    directions = []
    for axis in axes.tolist():
        one = torch.zeros_like(point)
        one[axis] = 1.0
        directions.append(_across(point, one))
    return angles.cos()[None, :, None] * point + angles.sin()[None, :, None] * torch.stack(directions)[:, None]


def _across(point: Tensor, other: Tensor) -> Tensor:
    """The unit vector across a point of the sphere that leads to the other; any, where all lead there or none does."""
    across = other - (other @ point) * point
    if float(across.norm()) < 1e-6:
        across = torch.zeros_like(point)
        across[point.abs().argmin()] = 1.0
        across = across - (across @ point) * point
    across = across / across.norm()
    across = across - (across @ point) * point  # twice, for the first leaves rounding behind
    return across / across.norm()


def _moved_in_ball(point: Tensor, steps: Tensor, curvature: float) -> Tensor:
    """(..., D): the exponential map at a point (D,) of tangent vectors (..., D) in its orthonormal frame."""
    root, length = math.sqrt(curvature), steps.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    moved = mobius_add(point, torch.tanh(0.5 * root * length) * steps / (root * length), curvature)
    edge = (1 - 1e-5) / root  # what float32 can tell from the border
    return moved * (edge / moved.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)


def way_between(
    factors: list[Factor], a: Tensor, b: Tensor, t: Tensor, flat: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """(S, D) from a (D,) to b (D,) at the shares t (S, 1) of the way, within the space.

    Args:
        factors: the spaces of the latent, each with a way.
        a: where it begins.
        b: where it ends.
        t: from 0 to 1.
        flat: gives the way between real or positive numbers; on a sphere and in a ball it is the geodesic.
    """
    parts = []
    for factor in factors:
        start, end = a[factor.start : factor.stop], b[factor.start : factor.stop]
        if factor.kind == "sphere":
            way = _great_circle(start.double(), end.double(), t.double())
        elif factor.kind == "ball":
            zero = torch.ones_like(start, dtype=torch.float64)
            tangent = WrappedNormal(start.double(), zero, factor.curvature).tangent(end.double())
            way = _moved_in_ball(start.double(), t.double() * tangent, factor.curvature)
        else:
            way = flat(start, end, t)
        parts.append(way.to(a.dtype))
    return torch.cat(parts, dim=1)


def _great_circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(S, D): the shorter way on the sphere; one of them, between opposite points."""
    a, b = a / a.norm(), b / b.norm()
    across = _across(a, b)
    angle = torch.atan2((b - (a @ b) * a).norm(), a @ b)
    return torch.cos(t * angle) * a + torch.sin(t * angle) * across
