"""The continuous Bernoulli in its logit."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import ContinuousBernoulli as TorchContinuousBernoulli


class ContinuousBernoulli(TorchContinuousBernoulli):
    """log p(x) = x l - softplus(l) + log C, C = l / tanh(l / 2), a density over [0, 1] with the logit l.

    The formulas are those of torch, written in l and not in p: torch clamps p to 1 - eps, so that beyond l = 16 in
    float32 its density loses mass (half of it at l = 30) and its mean stops moving.

    Example:
        >>> p = ContinuousBernoulli(logits=torch.tensor(30.0))
        >>> round(p.log_prob(torch.tensor(1.0)).exp().item(), 4), round(p.mean.item(), 4)
        (30.0, 0.9667)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): the log-density of each value."""
        small = self.logits.abs() < 0.1
        away = torch.where(small, 1.0, self.logits)
        square = self.logits.square()
        series = math.log(2.0) + square * (1 / 12 - square * (7 / 1440 - square * (31 / 90720)))
        log_constant = torch.where(small, series, torch.log(away / torch.tanh(0.5 * away)))
        return value * self.logits - F.softplus(self.logits) + log_constant

    @property
    def mean(self) -> Tensor:
        """(*batch): 1 / (1 - exp(-l)) - 1 / l."""
        small = self.logits.abs() < 0.1
        away = torch.where(small, 1.0, self.logits)
        series = 0.5 + self.logits * (1 / 12 - self.logits.square() * (1 / 720 - self.logits.square() / 30240))
        return torch.where(small, series, -1.0 / torch.expm1(-away) - 1.0 / away)

    def icdf(self, value: Tensor) -> Tensor:
        """(*batch): x with mass `value` below it, log(1 + value (exp(l) - 1)) / l, by symmetry at -|l|, where exp is small."""
        size = self.logits.abs()
        small = size < 1e-3
        away = torch.where(small, 1.0, size)
        turned = torch.where(self.logits > 0, 1.0 - value, value)
        near = turned + 0.5 * size * turned * (turned - 1.0)
        x = torch.where(small, near, -torch.log1p(turned * torch.expm1(-away)) / away)
        return torch.where(self.logits > 0, 1.0 - x, x)
