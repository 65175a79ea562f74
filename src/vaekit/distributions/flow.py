"""Normalising flows: noise of a normal, pushed through maps that can be turned back, and the density of what comes out.

    z = f_T(... f_1(e)),   e ~ N(mean, diag(scale^2)),   log p(z) = log N(e) - sum_t log |det df_t / de_t|

Rezende, Mohamed, "Variational inference with normalizing flows" (2015). What a flow may be conditioned on is its context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vaekit.component import stopped_copy
from vaekit.distributions.flow_steps import Autoregressive, DiagonalScale, Planar, Radial, Step, spline_class
from vaekit.distributions.products import Independent, diagonal_normal
from vaekit.errors import ConfigError

FLOW_KINDS = ("iaf", "maf", "nice", "realnvp", "nsf", "nsf-ar", "planar", "radial")
"""Kinds of flows; `make_flow` says what each of them is."""


class Flow(nn.Module):
    """Steps laid end to end, from noise to latents. Called with a context it returns a distribution.

    Args:
        num_units: D.
        steps: each maps D numbers to D numbers.
    """

    zero: Tensor

    def __init__(self, num_units: int, steps: Sequence[Step]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.register_buffer("zero", torch.zeros(num_units), persistent=False)

    def forward(self, context: Tensor | None = None, base: Independent | None = None, temperature: float = 1.0) -> Distribution:
        """p(z|context), batch shape that of context and base.

        Args:
            context: (*batch, F), or None.
            base: the distribution of the noise, a diagonal normal over (*batch, D); None for the standard normal.
            temperature: factor on the scale of the base, > 0.
        """
        return FlowDistribution(self, context, base, temperature)

    def push(self, noise: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents z of noise (*batch, D), and log |det dz / d noise| (*batch)."""
        z, log_det = noise, torch.zeros_like(noise[..., 0])
        for step in self.steps:
            z, change = step(z, context)
            log_det = log_det + change
        return z, log_det

    def pull(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Noise of latents z (*batch, D), and log |det d noise / dz| (*batch)."""
        noise, log_det = z, torch.zeros_like(z[..., 0])
        for step in reversed(list(self.steps)):
            assert isinstance(step, Step)
            noise, change = step.inverse(noise, context)
            log_det = log_det + change
        return noise, log_det


def make_flow(kind: str, num_units: int, num_context: int, hidden: Sequence[int], num_transforms: int) -> Flow:
    """A flow over D numbers that starts near the identity; its order of units changes from step to step.

    | kind | one step is | passes to draw | passes for a density elsewhere |
    |---|---|---|---|
    | `iaf` | z_i = s_i(e_<i) e_i + m_i(e_<i) | 1 | D |
    | `maf` | e_i = s_i(z_<i) z_i + m_i(z_<i) | D | 1 |
    | `nice` | half of the units moved by m(the other half); at the end each unit has a scale | 2 | 1 |
    | `realnvp` | half of the units scaled and moved, given the other half | 2 | 1 |
    | `nsf` | half of the units through splines, given the other half | 2 | 1 |
    | `nsf-ar` | unit i through a spline, given z_<i | D | 1 |
    | `planar` | z = e + u tanh(w e + b) | 1 | one equation in one unknown, solved by iteration |
    | `radial` | z = e + beta (e - c) / (alpha + abs(e - c)) | 1 | 1, in closed form |

    Whatever the kind, the density of the last draw costs nothing (`FlowDistribution`).

    Kingma et al., "Improved variational inference with inverse autoregressive flow" (2016): `iaf`. Papamakarios, Pavlakou,
    Murray, "Masked autoregressive flow for density estimation" (2017): `maf`. Dinh, Krueger, Bengio, "NICE: non-linear
    independent components estimation" (2014): `nice`. Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP"
    (2017): `realnvp`. Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows" (2019): `nsf`, of coupling layers, and
    `nsf-ar`. Rezende, Mohamed (2015), equations 10 and 14: `planar` and `radial`.
    Departures: the log-scale of an affine step is bounded smoothly by log 1000 in size; the half of the units that a
    coupling step is given goes through a map of its own that depends on the context alone.

    Args:
        kind: one of `FLOW_KINDS`.
        num_units: D.
        num_context: width of the context, 0 for none.
        hidden: widths of the network in each step; in a planar or radial flow it turns the context into the parameters.
        num_transforms: how many steps.

    Raises:
        ConfigError: for an unknown kind, or a number that is too small.
        MissingExtraError: if the kind needs a package that is not installed: splines are those of zuko.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> flow = make_flow("iaf", num_units=3, num_context=2, hidden=[8], num_transforms=2)
        >>> flow(torch.zeros(5, 2)).rsample((7,)).shape
        torch.Size([7, 5, 3])
    """
    if kind not in FLOW_KINDS:
        raise ConfigError(
            f"`kind` must be one of {', '.join(FLOW_KINDS)}, got {kind!r}. Use `iaf` for posteriors, `nsf` for priors."
        )
    if min(num_units, num_transforms, *hidden) < 1 or num_context < 0:
        raise ConfigError(
            f"A flow must have units, steps and widths of at least 1 and a context of at least 0, got {num_units} units, "
            f"{num_transforms} steps, widths {tuple(hidden)} and a context of {num_context}. Give numbers that large."
        )
    widths = list(hidden)
    if kind in ("planar", "radial"):
        simple = Planar if kind == "planar" else Radial
        return Flow(num_units, [simple(num_units, num_context, widths) for _ in range(num_transforms)])
    family = {"nice": "additive", "nsf": "spline", "nsf-ar": "spline"}.get(kind, "affine")
    if family == "spline":
        spline_class()
    coupled = kind in ("nice", "realnvp", "nsf")
    steps: list[Step] = []
    for i in range(num_transforms):
        groups = _halves(num_units, i) if coupled else _order(num_units, i)
        steps.append(Autoregressive(groups, num_context, widths, family, draws_in_one_pass=kind == "iaf"))
    return Flow(num_units, [*steps, DiagonalScale(num_units)] if kind == "nice" else steps)


def _order(num_units: int, step: int) -> list[int]:
    """The place of each unit in the order of a step: forwards and backwards in turn."""
    return list(range(num_units)) if step % 2 == 0 else list(range(num_units - 1, -1, -1))


def _halves(num_units: int, step: int) -> list[int]:
    """The group, 0 or 1, of each unit: by parity, the other way round, by halves, the other way round."""
    groups = [(i % 2 if step % 4 < 2 else int(2 * i >= num_units)) ^ (step % 2) for i in range(num_units)]
    return groups if num_units > 1 else [0]


class FlowDistribution(Distribution):
    """What a flow makes of a diagonal normal, over vectors of D numbers.

    The last draw of `rsample` is remembered with its density: `log_prob` of that very tensor costs no pass through the
    flow, which is what makes an inverse autoregressive flow cheap as a posterior. Its gradient is that of a drawn sample:
    it goes through the noise to all parameters. Any other tensor, a detached one too, is turned back to its noise.

    Args:
        flow: what `make_flow` gives.
        context: (*batch, F), or None.
        base: a diagonal normal over (*batch, D), the noise; None for the standard normal.
        temperature: factor on the scale of the base, > 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> p = FlowDistribution(make_flow("maf", 2, 0, [8], 2))
        >>> p.log_prob(p.rsample((5,))).shape
        torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self, flow: Flow, context: Tensor | None = None, base: Independent | None = None, temperature: float = 1.0
    ) -> None:
        base = diagonal_normal(flow.zero, torch.ones_like(flow.zero)) if base is None else base
        lead = torch.broadcast_shapes(base.batch_shape, () if context is None else context.shape[:-1])
        mean, scale = base.base_dist.mean, base.base_dist.stddev * temperature
        shape = lead + base.event_shape
        self.flow, self.context, self.base = flow, context, diagonal_normal(mean.expand(shape), scale.expand(shape))
        self._drawn: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(lead, base.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D), through which gradients reach every parameter."""
        noise = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.flow.push(noise, self.context)
        self._drawn = z, self.base.log_prob(noise) - log_det, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each row of `value` (*batch, D)."""
        if self._drawn is not None and value is self._drawn[0] and (self._drawn[2] or not torch.is_grad_enabled()):
            return self._drawn[1]
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        noise, log_det = self.flow.pull(value.expand(lead + self.event_shape), self.context)
        return self.base.log_prob(noise) + log_det

    def stopped(self) -> FlowDistribution:
        """The same distribution with parameters that no gradient reaches; gradients through a value stay."""
        context = None if self.context is None else self.context.detach()
        mean, scale = self.base.base_dist.mean.detach(), self.base.base_dist.stddev.detach()
        return FlowDistribution(stopped_copy(self.flow), context, diagonal_normal(mean, scale))

    def centre(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (*batch, D), by quadrature: 2 D + 1 points of the noise, pushed through.

        The points are the base's mean, and steps of sqrt(D + k) scales from it along 2 D directions, with k = max(3 - D, 0)
        and weights k / (D + k) and 1 / (2 (D + k)): Julier, Uhlmann, "A new extension of the Kalman filter to nonlinear
        systems" (1997). Exact where the flow is affine. Departure: the directions are not the axes, but the rows of a
        Hartley matrix, so that no coordinate is farther out than 1.5 scales (1.8 where D is 1 or 2), however many there are.
        """
        units = self.event_shape[0]
        extra = max(3 - units, 0)
        angle = torch.arange(units, dtype=torch.float64, device=self.flow.zero.device) * (2 * math.pi / units)
        angle = angle * torch.arange(units, dtype=torch.float64, device=angle.device)[:, None]
        rows = ((angle.cos() + angle.sin()) * math.sqrt((units + extra) / units)).to(self.base.mean.dtype)
        points = torch.cat([torch.zeros_like(rows[:1]), rows, -rows])  # (2 D + 1, D)
        points = points.reshape(-1, *[1] * len(self.batch_shape), units)
        z, _ = self.flow.push(self.base.base_dist.mean + self.base.base_dist.stddev * points, self.context)
        weights = torch.full_like(points[..., :1], 0.5 / (units + extra))
        weights[0] = extra / (units + extra)
        mean = (weights * z).sum(0)
        return mean, (weights * (z - mean).square()).sum(0).sqrt()
