"""Logistics cut at half-levels, and their mixtures."""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Categorical, constraints

from vaekit.distributions.products import MaskableDistribution


class DiscretizedLogisticMixture(MaskableDistribution):
    """A mixture of logistics cut at the half-levels, with channels conditioned on each other.

    The C channels at one position share a component k; channel c of level x_c in 0..V-1, on the scale
    u = 2 x / (V - 1) - 1, has

        p(x_c | k, x_<c) = F((u + h - m_ck) / s_ck) - F((u - h - m_ck) / s_ck),   h = 1 / (V - 1),
        m_ck = mean_ck + sum_{b < c} a_cbk u_b,

    where F is the logistic distribution function, the first level reaches down to -inf and the last up to +inf, so that
    the levels sum to one. Salimans, Karpathy, Chen, Kingma, "PixelCNN++" (2017), equations 1 to 3. Departures: the
    difference of two sigmoids is written as F(b) F(-a) (1 - exp(a - b)), which has no cancellation anywhere, so there is
    no special case for small probabilities and 65,536 levels work in float32; the coefficients a are not squashed.

    Args:
        logits: (*batch, M, P), unnormalised log-weights of the M components at P positions.
        mean: (*batch, M, C, P), on the scale [-1, 1].
        log_scale: (*batch, M, C, P).
        coefficients: (*batch, M, C (C - 1) / 2, P), a_cb in the order (1,0), (2,0), (2,1), ...; None when C = 1.
        levels: V, at least 2.
        event_shape: the shape of an example, C * P values, channels first: (C, H, W), or (D,) with C = 1.

    Example:
        >>> zero = torch.zeros(4, 1, 1, 1)
        >>> p = DiscretizedLogisticMixture(zero[0], zero, zero, None, levels=4, event_shape=(1,))
        >>> round(p.log_prob(torch.arange(4.0).reshape(4, 1)).exp().sum().item(), 5)
        1.0
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        mean: Tensor,
        log_scale: Tensor,
        coefficients: Tensor | None,
        levels: int,
        event_shape: tuple[int, ...],
    ) -> None:
        self.logits, self.component_mean, self.log_scale, self.coefficients = logits, mean, log_scale, coefficients
        self.levels = levels
        super().__init__(mean.shape[:-3], torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers 0..V-1."""
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), len(self.event_shape))

    @property
    def num_channels(self) -> int:
        """C."""
        return self.component_mean.shape[-2]

    def _positions(self, x: Tensor) -> Tensor:
        """(*batch, *event) to (*batch, C, P)."""
        return x.reshape(*x.shape[: x.dim() - len(self.event_shape)], self.num_channels, -1)

    def _unit(self, x: Tensor) -> Tensor:
        """Levels to the scale [-1, 1]."""
        return x * (2.0 / (self.levels - 1)) - 1.0

    def _conditional_mean(self, u: Tensor) -> Tensor:
        """(*batch, M, C, P): m given the channels of u (*batch, C, P)."""
        if self.coefficients is None:
            return self.component_mean
        means, at = [], 0
        for c in range(self.num_channels):
            a = self.coefficients[..., at : at + c, :]
            means.append(self.component_mean[..., c, :] + (a * u[..., None, :c, :]).sum(-2))
            at += c
        return torch.stack(means, dim=-2)

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(*batch): log p of levels `value` (*batch, *event), given as whole numbers in any dtype.

        Args:
            value: levels 0..V-1.
            mask: broadcasts to `value`. Channels depend on each other, so a position of which some channels are missing counts
                as missing altogether. That is no error here, because looking for one would synchronise the device at every
                step; `check` of the likelihood refuses such masks before training.
        """
        u = self._unit(self._positions(value.to(self.log_scale.dtype)))
        if mask is None:
            return self._position_log_prob(u).sum(-1)
        observed = self._positions(mask.expand(value.shape)).all(-2)  # (*batch, P)
        log_p = self._position_log_prob(torch.where(observed.unsqueeze(-2), u, 0.0))
        return torch.where(observed, log_p, 0.0).sum(-1)

    def cdf_ends(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """(*batch, *event) each: P(X_c < x_c | x_<c) and P(X_c <= x_c | x_<c), x_<c being the channels before it.

        The components' weights are those given the channels before: w_k prop. to w_k prod_{b < c} p(x_b | k, x_<b).

        Args:
            value: levels 0..V-1, (*batch, *event).
        """
        u, half = self._unit(self._positions(value.to(self.log_scale.dtype))), 1.0 / (self.levels - 1)
        mean, inverse_scale = self._conditional_mean(u), torch.exp(-self.log_scale)
        log_p = discretized_logistic_log_prob(u[..., None, :, :], mean, self.log_scale, self.levels)
        before = log_p.cumsum(-2) - log_p  # (*batch, M, C, P)
        weights = torch.softmax(self.logits.unsqueeze(-2) + before, dim=-3)
        centred = u[..., None, :, :] - mean
        below = (weights * torch.sigmoid((centred - half) * inverse_scale)).sum(-3)
        above = (weights * torch.sigmoid((centred + half) * inverse_scale)).sum(-3)
        below, above = torch.where(u < half - 1.0, 0.0, below), torch.where(u > 1.0 - half, 1.0, above)
        shape = self.batch_shape + self.event_shape
        return below.reshape(shape), above.reshape(shape)

    def _position_log_prob(self, u: Tensor) -> Tensor:
        """(*batch, P): log p of all channels at each position."""
        log_p = discretized_logistic_log_prob(u[..., None, :, :], self._conditional_mean(u), self.log_scale, self.levels)
        return torch.logsumexp(log_p.sum(-2) + torch.log_softmax(self.logits, dim=-2), dim=-2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, *event) levels, as floats; channel by channel."""
        shape = torch.Size(sample_shape)
        chosen = self._draw_components(shape)
        mean, scale = (self.component_mean * chosen).sum(-3), (self.log_scale.exp() * chosen).sum(-3)
        coefficients = None if self.coefficients is None else (self.coefficients * chosen).sum(-3)
        uniform = torch.rand_like(mean).clamp(1e-7, 1 - 1e-7)
        drawn = mean + scale * (uniform.log() - (-uniform).log1p())
        levels: list[Tensor] = []
        at = 0
        for c in range(self.num_channels):
            u = drawn[..., c, :]
            for b in range(c):
                assert coefficients is not None
                u = u + coefficients[..., at + b, :] * self._unit(levels[b])
            at += c
            levels.append(self._nearest_level(u))
        return torch.stack(levels, dim=-2).reshape(shape + self.batch_shape + self.event_shape)

    def _draw_components(self, sample_shape: torch.Size) -> Tensor:
        """A one-hot draw of the component at every position, (*sample, *batch, M, 1, P)."""
        logits = self.logits.movedim(-2, -1)
        chosen = Categorical(logits=logits, validate_args=False).sample(sample_shape)
        return F.one_hot(chosen, logits.shape[-1]).movedim(-1, -2).unsqueeze(-2).to(self.component_mean.dtype)

    def _nearest_level(self, u: Tensor) -> Tensor:
        return ((u + 1.0) * (0.5 * (self.levels - 1))).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """(*batch, *event), in levels: sum_k w_k mean_kc, where mean_kc is that of one component's channel c.

        One channel: exact up to 32 levels, within half a level above (`discretized_logistic_mean`). Several channels: a
        component's channel is given that component's means of the channels before it, not their values; as m is linear in
        them, that differs only by the rounding to levels, and where the spread of a channel reaches past the ends.
        """
        weights = torch.softmax(self.logits, dim=-2).unsqueeze(-2)
        means: list[Tensor] = []
        at = 0
        for c in range(self.num_channels):
            m = self.component_mean[..., c, :]
            for b in range(c):
                assert self.coefficients is not None
                m = m + self.coefficients[..., at + b, :] * means[b]
            at += c
            means.append(discretized_logistic_mean(m, self.log_scale[..., c, :], self.levels))
        u = (torch.stack(means, dim=-2) * weights).sum(-3)
        return ((u + 1.0) * (0.5 * (self.levels - 1))).reshape(self.batch_shape + self.event_shape)


def discretized_logistic_mean(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """E[u], on the scale [-1, 1], of the logistic whose levels have the masses of `discretized_logistic_log_prob`.

    Up to 32 levels exactly, as the sum over the V - 1 borders e between levels of P(X > e) = F((mean - e) / s). Above, that
    is slow, and the mean of the logistic clamped to [-1, 1] stands for it:

        -1 + s (softplus((mean + 1) / s) - softplus((mean - 1) / s)),

    which leaves out the rounding to the nearest level, and so is within half a level.

    Args:
        mean, log_scale: parameters on the scale [-1, 1], of one shape.
        levels: V.

    Example:
        >>> discretized_logistic_mean(torch.tensor([-5.0, 0.0, 5.0]), torch.full((3,), -4.0), levels=3)
        tensor([-1.,  0.,  1.])
    """
    scale = log_scale.clamp_max(20.0).exp()  # beyond, only the ends have mass, and the scale would overflow
    if levels <= _MOST_LEVELS_SUMMED:
        half = 1.0 / (levels - 1)
        total = torch.zeros_like(mean)
        for v in range(levels - 1):
            total = total + torch.sigmoid((mean + 1.0 - (2 * v + 1) * half) / scale)
        return total * (2.0 * half) - 1.0
    # At -|mean|, by symmetry, no two large numbers are subtracted; for s > 2, softplus(b + 2 / s) - softplus(b) is taken as
    # log(1 + F(b) (exp(2 / s) - 1)).
    size, width = mean.abs(), 2.0 / scale
    above, below = (1.0 - size) / scale, (-1.0 - size) / scale
    wide = torch.log1p(torch.sigmoid(below) * torch.expm1(width.clamp_max(1.0)))
    inside = torch.where(width < 1.0, wide, F.softplus(above) - F.softplus(below))
    return mean.sign() * (1.0 - scale * inside)


_MOST_LEVELS_SUMMED = 32


def discretized_logistic_log_prob(u: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log of F((u + h - mean) / s) - F((u - h - mean) / s), with open ends at the first and the last level.

    With b and a the two arguments, F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)), and b - a = 2 h / s needs no subtraction of
    neighbouring numbers: the log is exact to rounding from the centre of the density to its far tails.

    Args:
        u: levels on the scale [-1, 1]; broadcasts with the parameters.
        mean, log_scale: parameters on the same scale, of one shape.
        levels: V; h = 1 / (V - 1).
    """
    return cast(Tensor, _LogMass.apply(u, mean, log_scale, 1.0 / (levels - 1)))


class _LogMass(Function):
    """The log-mass and its gradient in closed form: a third of the passes over memory that recorded operations take."""

    generate_vmap_rule = True

    @staticmethod
    def _arguments(u: Tensor, mean: Tensor, log_scale: Tensor, half: float) -> tuple[Tensor, ...]:
        """(u - mean) / s, h / s, 1 / s, and 1 where the level has an end above and one below."""
        inverse_scale = torch.exp(-log_scale)
        above, below = (u <= 1.0 - half).to(u.dtype), (u >= half - 1.0).to(u.dtype)
        return (u - mean) * inverse_scale, half * inverse_scale, inverse_scale, above, below

    @staticmethod
    def forward(u: Tensor, mean: Tensor, log_scale: Tensor, half: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        centred, reach, _, above, below = _LogMass._arguments(u, mean, log_scale, half)
        log_mass = F.logsigmoid(centred + reach).mul_(above)
        log_mass += F.logsigmoid(reach - centred).mul_(below)
        log_mass += torch.expm1(-2.0 * reach).neg_().clamp_min_(torch.finfo(u.dtype).tiny).log_().mul(above * below)
        return log_mass

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(*inputs[:3])
        ctx.half = inputs[3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        u, mean, log_scale = ctx.saved_tensors
        centred, reach, inverse_scale, above, below = _LogMass._arguments(u, mean, log_scale, ctx.half)
        by_upper = torch.sigmoid(-(centred + reach)).mul_(above)
        by_lower = torch.sigmoid(centred - reach).mul_(below)
        by_centre, by_reach = by_upper - by_lower, by_upper.add_(by_lower)
        width = (
            (2.0 * reach).clamp_min_(torch.finfo(u.dtype).tiny).clamp_max_(80.0)
        )  # width / (exp(width) - 1) goes from 1 to 0
        by_scale = centred.mul_(by_centre).add_(by_reach.mul_(reach)).add_(width.div_(torch.expm1(width)).mul(above * below))
        by_scale = by_scale.neg_().mul_(gradients[0])
        by_mean = by_centre.mul_(inverse_scale).mul_(gradients[0]).neg_()
        by_u = (-by_mean).sum_to_size(u.shape) if ctx.needs_input_grad[0] else None
        return by_u, by_mean.sum_to_size(mean.shape), by_scale.sum_to_size(log_scale.shape), None


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, exact near 0 and far from it (Maechler, 2012).

    Example:
        >>> log1mexp(torch.tensor([1e-6, 50.0])).exp()
        tensor([1.0000e-06, 1.0000e+00])
    """
    x = x.clamp_min(torch.finfo(x.dtype).tiny)
    near = x < math.log(2.0)
    close = torch.log(-torch.expm1(torch.where(near, -x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, -x)))
    return torch.where(near, close, far)
