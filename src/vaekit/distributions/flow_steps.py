"""The steps that flows are made of: maps of D numbers to D numbers with an inverse and a log-determinant."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.errors import require

_UNIT = math.log(math.e - 1)  # softplus^-1(1)
_BINS = 8  # of a spline
_MAX_LOG_SCALE = math.log(1e3)


class Step(nn.Module, abc.ABC):
    """A map from noise e to latents z, given a context."""

    @abc.abstractmethod
    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z (*batch, D) and log |det dz / de| (*batch)."""

    @abc.abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """e (*batch, D) and log |det de / dz| (*batch)."""


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero.

    Args:
        mask: (out_features, in_features) bool, True where a weight is free.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(input, self.weight * self.mask, self.bias)


class Conditioner(nn.Module):
    """P parameters for each of D units; those of a unit depend on the context and on the units of earlier groups alone.

    Masked dense layers: Germain, Gregor, Murray, Larochelle, "MADE: masked autoencoder for distribution estimation" (2015).
    It starts with outputs near zero, and computes in float32 or better whatever the precision around it.

    Args:
        groups: the group of each unit, from 0 without a gap.
        num_context: width of the context, 0 for none.
        hidden: widths of the layers.
        num_parameters: P.
    """

    def __init__(self, groups: Sequence[int], num_context: int, hidden: Sequence[int], num_parameters: int) -> None:
        super().__init__()
        unit = torch.tensor(list(groups))
        self.num_units, self.num_groups, self.num_parameters = len(groups), max(groups) + 1, num_parameters
        first = 0 if num_context or self.num_groups == 1 else 1  # a hidden unit that sees no unit and no context is a constant
        degrees = [_spread(first, self.num_groups - 1, width) for width in hidden]
        masks = [degrees[0][:, None] > unit] if hidden else []
        masks += [after[:, None] >= before for before, after in itertools.pairwise(degrees)]
        last = unit.repeat_interleave(num_parameters)[:, None]
        masks.append(last >= degrees[-1] if hidden else last > unit)
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        width = hidden[0] if hidden else len(groups) * num_parameters
        self.from_context = nn.Linear(num_context, width, bias=False) if num_context else None
        _quieten(self.layers[-1], 0.1)
        if not hidden and self.from_context is not None:
            _quieten(self.from_context, 0.1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(*batch, D) to (*batch, D, P)."""
        with torch.autocast(x.device.type, enabled=False):
            h = x
            for i, layer in enumerate(self.layers):
                h = layer(F.elu(h) if i else h)
                if i == 0 and self.from_context is not None:
                    assert context is not None
                    h = h + self.from_context(context.to(x.dtype))
            return h.unflatten(-1, (-1, self.num_parameters))


def _spread(first: int, last: int, width: int) -> Tensor:
    """`width` whole numbers, evenly from `first` to `last`; only the last where there is but one."""
    if width == 1 or last <= first:
        return torch.full((width,), max(first, last))
    return torch.linspace(first, last, width, dtype=torch.float64).round().long()


def _quieten(layer: nn.Module, factor: float) -> None:
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.zero_()


Univariate = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]
"""(x, parameters (*batch, D, P), inverse) to the mapped numbers and the log-derivatives, each (*batch, D)."""


def _additive(x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    shift = parameters[..., 0]
    return (x - shift if inverse else x + shift), torch.zeros_like(x)


def _affine(x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    shift, raw = parameters.unbind(-1)
    log_scale = raw / (1.0 + raw.abs() / _MAX_LOG_SCALE)
    if inverse:
        return (x - shift) * torch.exp(-log_scale), -log_scale
    return x * torch.exp(log_scale) + shift, log_scale


def _spline(x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    spline = spline_class()(*parameters.split([_BINS, _BINS, _BINS - 1], dim=-1))
    if not inverse:
        return spline.call_and_ladj(x)
    y = spline.inv(x)
    return y, -spline.call_and_ladj(y)[1]


def spline_class() -> Any:
    """zuko's monotonic rational-quadratic spline on [-5, 5], the identity outside.

    Raises:
        MissingExtraError: if zuko is not installed.
    """
    validate = Distribution._validate_args
    transforms = require("zuko.transforms", "flow", "A flow of splines")
    Distribution.set_default_validate_args(validate)  # importing zuko switches the checks of torch's distributions off
    return transforms.MonotonicRQSTransform


_FAMILIES: dict[str, tuple[Univariate, int]] = {
    "additive": (_additive, 1),
    "affine": (_affine, 2),
    "spline": (_spline, 3 * _BINS - 1),
}


class Autoregressive(Step):
    """Each unit through a map of one number, whose parameters depend on the units of earlier groups and on the context.

    Args:
        groups: the group of each unit; two groups are a coupling layer, as many as units a fully autoregressive one.
        num_context: width of the context, 0 for none.
        hidden: widths of the network.
        family: `additive`, `affine` or `spline`.
        draws_in_one_pass: whether the parameters are read off the noise, so that a draw is one pass through the network and a
            density as many as there are groups; otherwise off the latents, and it is the other way round.
    """

    def __init__(
        self, groups: Sequence[int], num_context: int, hidden: Sequence[int], family: str, draws_in_one_pass: bool
    ) -> None:
        super().__init__()
        self.univariate, num_parameters = _FAMILIES[family]
        self.conditioner = Conditioner(groups, num_context, hidden, num_parameters)
        self.draws_in_one_pass = draws_in_one_pass

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z and log |det dz / de|."""
        return self._one_pass(e, context) if self.draws_in_one_pass else self._pass_a_group(e, context)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """e and log |det de / dz|."""
        return self._pass_a_group(z, context) if self.draws_in_one_pass else self._one_pass(z, context)

    def _one_pass(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y, log_slope = self.univariate(x, self.conditioner(x, context), False)
        return y, log_slope.sum(-1)

    def _pass_a_group(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `_one_pass` maps to y: pass i settles group i, given the groups before it."""
        x, log_slope = torch.zeros_like(y), y
        for _ in range(self.conditioner.num_groups):
            x, log_slope = self.univariate(y, self.conditioner(x, context), True)
        return x, log_slope.sum(-1)


class DiagonalScale(Step):
    """z_i = exp(a_i) e_i: NICE, section 3.3."""

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(num_units))

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z and log |det dz / de|."""
        return e * self.log_scale.exp(), self.log_scale.sum().expand(e.shape[:-1])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """e and log |det de / dz|."""
        return z * torch.exp(-self.log_scale), -self.log_scale.sum().expand(z.shape[:-1])


class FromContext(nn.Module):
    """P numbers from a context (*batch, F) by dense layers, or P numbers that are learned where there is none.

    Args:
        num_context: F.
        hidden: widths of the layers.
        start: (P,), about what it gives before training.
    """

    def __init__(self, num_context: int, hidden: Sequence[int], start: Tensor) -> None:
        super().__init__()
        self.offset = nn.Parameter(start)
        widths = [num_context, *hidden, len(start)] if num_context else []
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        if num_context:
            self.layers[-1] = nn.Linear(widths[-2], len(start), bias=False)
            _quieten(self.layers[-1], 0.1)

    def forward(self, context: Tensor | None) -> Tensor:
        """(*batch, P), or (P,)."""
        if not len(self.layers):
            return self.offset
        assert context is not None
        with torch.autocast(context.device.type, enabled=False):
            h = context.to(self.offset.dtype)
            for i, layer in enumerate(self.layers):
                h = layer(F.elu(h) if i else h)
            return h + self.offset


class Planar(Step):
    """z = e + v tanh(w e + b), with v = u + (m(a) - a) w / |w|^2, a = w u, and m(a) = softplus(a + log(e - 1)) - 1.

    |det| = 1 + (w v) (1 - tanh^2), and w v = m(a) > -1 makes the map invertible: Rezende, Mohamed (2015), equations 10 to 12
    and appendix A.1. Departure: their m is moved so that m(0) = 0, for else v grows without bound as w goes to 0.
    The inverse has one unknown t = w e + b, with t + m(a) tanh(t) = w z + b, which rises in t: bisection, then Newton steps.

    Args:
        num_units: D.
        num_context: width of the context, 0 for none.
        hidden: widths of the layers from the context to u, w and b.
    """

    def __init__(self, num_units: int, num_context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        w = torch.randn(num_units) / math.sqrt(num_units)
        start = torch.cat([0.01 * torch.randn(num_units), w, torch.zeros(1)])
        self.parameters_at = FromContext(num_context, hidden, start)

    def _parts(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """v, w, b and 1 + w v, which is positive and known without a subtraction."""
        raw = self.parameters_at(context)
        units = raw.shape[-1] // 2
        u, w, b = raw[..., :units], raw[..., units:-1], raw[..., -1]
        a = (w * u).sum(-1)
        gain = F.softplus(a + _UNIT)
        size = w.square().sum(-1).clamp_min(torch.finfo(w.dtype).tiny)
        return u + ((gain - 1.0 - a) / size).unsqueeze(-1) * w, w, b, gain

    @staticmethod
    def _log_det(t: Tensor, gain: Tensor) -> Tensor:
        square = torch.tanh(t).square()
        return torch.log(square + gain * (1.0 - square))

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z and log |det dz / de|."""
        v, w, b, gain = self._parts(context)
        t = (w * e).sum(-1) + b
        return e + v * torch.tanh(t).unsqueeze(-1), self._log_det(t, gain)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """e and log |det de / dz|; its gradient is that of the equation, whatever steps solved it."""
        v, w, b, gain = self._parts(context)
        s = (w * z).sum(-1) + b
        with torch.no_grad():
            t = _solve(s, gain - 1.0)
        wrong = t + (gain - 1.0) * torch.tanh(t) - s
        slope = 1.0 + (gain - 1.0) * (1.0 - torch.tanh(t).square())
        t = t - wrong / slope.detach()
        return z - v * torch.tanh(t).unsqueeze(-1), -self._log_det(t, gain)


def _solve(s: Tensor, m: Tensor) -> Tensor:
    """t with t + m tanh(t) = s, for m > -1: it lies between s - m and s + m, and halving that 50 times is all of float64."""
    low, high = s - m.abs(), s + m.abs()
    for _ in range(50):
        middle = 0.5 * (low + high)
        above = middle + m * torch.tanh(middle) > s
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high)


class Radial(Step):
    """z = e + beta (e - c) / (alpha + r), r = |e - c|, alpha = softplus(.) and beta = softplus(.) - alpha.

    |det| = (1 + beta / (alpha + r))^(D - 1) (1 + alpha beta / (alpha + r)^2): Rezende, Mohamed (2015), equation 14 and
    appendix A.2. The inverse is the positive root of r^2 + (alpha + beta - R) r = alpha R, with R = |z - c|.

    Args:
        num_units: D.
        num_context: width of the context, 0 for none.
        hidden: widths of the layers from the context to c, alpha and beta.
    """

    def __init__(self, num_units: int, num_context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        start = torch.cat([0.1 * torch.randn(num_units), torch.full((2,), _UNIT)])
        self.parameters_at = FromContext(num_context, hidden, start)

    def _parts(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """c, alpha and alpha + beta, the last two (*batch, 1)."""
        raw = self.parameters_at(context)
        return raw[..., :-2], F.softplus(raw[..., -2:-1]), F.softplus(raw[..., -1:])

    @staticmethod
    def _log_det(r: Tensor, alpha: Tensor, total: Tensor, units: int) -> Tensor:
        away = torch.log(alpha + r)
        log_det = (units - 1) * (torch.log(r + total) - away) + torch.log(r * (r + 2.0 * alpha) + total * alpha) - 2.0 * away
        return log_det.squeeze(-1)

    def forward(self, e: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """z and log |det dz / de|."""
        c, alpha, total = self._parts(context)
        r = _length(e - c)
        return c + (e - c) * (r + total) / (r + alpha), self._log_det(r, alpha, total, e.shape[-1])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """e and log |det de / dz|."""
        c, alpha, total = self._parts(context)
        far = _length(z - c)
        half = 0.5 * (total - far)
        root = torch.sqrt(half.square() + alpha * far)
        r = torch.where(half > 0, alpha * far / (half.clamp_min(0.0) + root), root - half)
        return c + (z - c) * (r + alpha) / (r + total), -self._log_det(r, alpha, total, z.shape[-1])


def _length(x: Tensor) -> Tensor:
    """(*batch, 1): the length of each row, with a gradient at zero too."""
    return x.square().sum(-1, keepdim=True).add(torch.finfo(x.dtype).tiny).sqrt()
