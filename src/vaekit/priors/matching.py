"""A continuous normalising flow that is trained without solving its equation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.component import stopped_copy
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents, in_chunks

EXACT_UP_TO = 64
"""The most units for which `divergence="auto"` computes the divergence exactly."""

_FREQUENCIES = 4
_MAX_ELEMENTS = 2**23


class Velocity(nn.Module):
    """v(z, t): (..., D) and a time in [0, 1] to (..., D); dense layers, each as wide as its input adding it. 0 at the start.

    The time enters as t, cos(k pi t) and sin(k pi t), k = 1 to 4.

    Args:
        num_units: D.
        hidden: width of each layer.
    """

    def __init__(self, num_units: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.num_units = num_units
        self.first = nn.Linear(num_units + 1 + 2 * _FREQUENCIES, hidden[0])
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(hidden))
        self.last = nn.Linear(hidden[-1], num_units)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """v: z is (..., D), t broadcasts to (...)."""
        h = nn.functional.silu(self.first(_with_time(z, t)))
        for layer in self.layers:
            out = nn.functional.silu(layer(h))
            h = h + out if out.shape == h.shape else out
        return self.last(h)

    def with_divergence(self, z: Tensor, t: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
        """v (N, D), and sum_d dv_d/dz_d (N,) at z (N, D).

        Derivatives along P directions go through the layers beside the values: forward mode, by hand, so that it works
        whatever state autograd is in, and is itself differentiable.

        Args:
            z: (N, D).
            t: broadcasts to (N,).
            probe: (N, D) of signs for the estimate probe^T J probe (Hutchinson); None for all D directions, exactly.
        """
        own = self.first.weight[:, : self.num_units]
        a = self.first(_with_time(z, t))
        tangent = own.T[:, None] if probe is None else (probe @ own.T)[None]  # (P, 1 or N, H)
        h, slope = _silu(a)
        tangent = slope * tangent
        for layer in self.layers:
            out, slope = _silu(layer(h))
            moved = slope * nn.functional.linear(tangent, layer.weight)  # pyright: ignore[reportArgumentType]
            same = out.shape == h.shape
            h, tangent = (h + out, tangent + moved) if same else (out, moved)
        weight = self.last.weight if probe is None else probe @ self.last.weight  # (D, H), or (N, H)
        divergence = torch.einsum("pnh,ph->n", tangent, weight) if probe is None else (tangent[0] * weight).sum(-1)
        return self.last(h), divergence


def _with_time(z: Tensor, t: Tensor) -> Tensor:
    angles = t[..., None] * torch.arange(1, _FREQUENCIES + 1, dtype=z.dtype, device=z.device) * math.pi
    features = torch.cat([t[..., None], angles.cos(), angles.sin()], dim=-1).to(z.dtype)
    return torch.cat([z, features.expand(*z.shape[:-1], features.shape[-1])], dim=-1)


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    """a sigmoid(a) and its derivative."""
    gate = torch.sigmoid(a)
    return a * gate, gate * (1 + a * (1 - gate))


class FlowOfVelocity(Distribution):
    """Where noise z_0 ~ N(0, scale^2 I) is at t = 1 when it moves with dz/dt = v(z, t).

    The equation is solved in equal steps by Heun's rule, whose error falls with the square of their number:
    log p(z_1) = log N(z_0) - integral of div v along the way, backwards from z_1.

    Args:
        velocity: v.
        num_steps: steps of the solver, of two evaluations each.
        exact: whether the divergence is exact; else one draw of Hutchinson's estimate a latent, and log p is then random,
            right in the mean.
        scale: of the noise.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, velocity: Velocity, num_steps: int, exact: bool, scale: float = 1.0) -> None:
        super().__init__(torch.Size(), torch.Size([velocity.num_units]), validate_args=False)
        self.velocity, self.num_steps, self.exact, self.scale = velocity, num_steps, exact, scale

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, D), with gradients to the parameters of v."""
        weight = self.velocity.last.weight
        noise = torch.randn(torch.Size(sample_shape) + self.event_shape, dtype=weight.dtype, device=weight.device)

        def move(state: tuple[Tensor, ...], t: Tensor) -> tuple[Tensor, ...]:
            return (self.velocity(state[0], t),)

        with torch.autocast(weight.device.type, enabled=False):
            (z,) = _heun(move, (self.scale * noise,), 0.0, 1.0, self.num_steps)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): the log-density of `value` (..., D)."""
        width = max(layer.out_features for layer in self.velocity.modules() if isinstance(layer, nn.Linear))
        rows = _MAX_ELEMENTS // (width * (self.event_shape[0] if self.exact else 2))
        return in_chunks(self._log_prob, value, 1, rows)

    def _log_prob(self, value: Tensor) -> Tensor:
        probe = None if self.exact else torch.randint_like(value, 2) * 2 - 1

        def move(state: tuple[Tensor, ...], t: Tensor) -> tuple[Tensor, ...]:
            return self.velocity.with_divergence(state[0], t, probe)

        with torch.autocast(value.device.type, enabled=False):
            # Backwards, the divergence that is gathered is minus its integral from 0 to 1, which is what the density needs.
            noise, gathered = _heun(move, (value, value.new_zeros(len(value))), 1.0, 0.0, self.num_steps)
        constant = value.shape[-1] * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * (noise / self.scale).square().sum(-1) - constant + gathered

    def matching_loss(self, value: Tensor) -> Tensor:
        """(...): ||v(z_t, t) - (z - e)||^2 at one time t and one noise e, drawn anew, of each row z of `value` (..., D)."""
        t = torch.rand(value.shape[:-1], dtype=value.dtype, device=value.device)
        noise = torch.randn_like(value)
        between = noise + t[..., None] * (value - noise)
        return (self.velocity(between, t).to(value.dtype) - (value - noise)).square().sum(-1)

    def stopped(self) -> FlowOfVelocity:
        """The same, with a velocity that no gradient reaches."""
        return FlowOfVelocity(stopped_copy(self.velocity), self.num_steps, self.exact, self.scale)


def _heun(
    move: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...], start: float, end: float, num_steps: int
) -> tuple[Tensor, ...]:
    """The state at `end`, where each entry changes as `move(state, t)` says."""
    step = (end - start) / num_steps
    for i in range(num_steps):
        t = state[0].new_tensor(start + i * step)
        first = move(state, t)
        second = move(tuple(s + step * f for s, f in zip(state, first, strict=True)), t + step)
        state = tuple(s + 0.5 * step * (f + g) for s, f, g in zip(state, first, second, strict=True))
    return state


class FlowMatching(Prior):
    """A continuous normalising flow: noise e ~ N(0, I) that moves with dz/dt = v(z, t) from t = 0 to 1.

    What is cheap is to train v by itself, by conditional flow matching, without solving the equation:

        minimise E ||v(z_t, t) - (z - e)||^2,   z_t = (1 - t) e + t z

    where z are latents: the distribution's `matching_loss`, which `objectives.PriorFit` reads. So it is fitted to the latents
    of a trained model (`vaekit refit`), as diffusion is in latent diffusion. In a model that is trained by its bound, the
    density is used instead, and each step solves the equation.

    Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative modeling" (2023), equations 20 to 23. Departure: their
    least scale sigma_min is 0. Chen, Rubanova, Bettencourt, Duvenaud, "Neural ordinary differential equations" (2018),
    equation 8, is the density, and Grathwohl et al., "FFJORD" (2019), its estimate by Hutchinson's trace.
    The density is that of the equation; sampling and density both solve it in `num_steps` steps, so they agree with one
    another to about the square of a step. Temperature multiplies the scale of the noise.

    Args:
        num_latents: D.
        hidden: width of each layer of v.
        num_steps: of the solver, of two evaluations each.
        divergence: `exact` (D derivatives an evaluation), `hutchinson` (one, random: log p is then right in the mean only), or
            `auto`: exact up to 64 latents.

    Raises:
        ConfigError: for fewer than one latent or step, an empty or non-positive width, or an unknown divergence.

    Example:
        >>> p = FlowMatching(2, hidden=[8])()
        >>> round(p.log_prob(torch.zeros(2)).item(), 4)  # it starts at N(0, I)
        -1.8379
    """

    def __init__(
        self, num_latents: int, hidden: Sequence[int] = (256, 256, 256), num_steps: int = 32, divergence: str = "auto"
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"`hidden` must hold widths of at least 1, got {tuple(hidden)}. Give at least one width.")
        if num_steps < 1:
            raise ConfigError(f"`num_steps` must be at least 1, got {num_steps}. 32 is a good start.")
        if divergence not in ("auto", "exact", "hutchinson"):
            raise ConfigError(f"`divergence` must be auto, exact or hutchinson, got {divergence!r}. Use `auto` when in doubt.")
        self.shape = (check_num_latents(num_latents),)
        self.num_steps = num_steps
        self.exact = divergence == "exact" or (divergence == "auto" and num_latents <= EXACT_UP_TO)
        self.velocity = Velocity(num_latents, hidden)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> FlowOfVelocity:
        """The flow, the same for every condition."""
        return FlowOfVelocity(self.velocity, self.num_steps, self.exact, temperature)
