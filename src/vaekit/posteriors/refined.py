"""A posterior that a network starts and gradient steps refine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Independent as TorchIndependent

from vaekit.distributions import Independent, diagonal_normal
from vaekit.errors import ConfigError
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.normal import DiagonalNormal

_LEAST_LOG_SCALE = math.log(1e-4)


class SemiAmortized(Posterior):
    """q(z|x) = N(m, diag(s^2)), where (m, log s) starts at what a network gives and takes T steps up its own bound:

        (m, log s) += learning_rate * gradient of [ mean_k log p(x, m + s e_k) + sum_d log s_d ]

    It narrows the gap between a network's q and the best q, at T times the cost of the likelihood. The steps are the same in
    training, in `encode` and in `evaluate`: the points e_k are fixed, so nothing is drawn, and an example's latent is its own,
    whatever came in with it. They are pairs of opposite rows of an orthogonal matrix, sqrt(D) long, and each step takes the
    next ones; D / (num_samples / 2) steps use all of them, whose mean is 0 and whose covariance is I, as that of noise is.

    Kim, Wiseman, Miller, Sontag, Rush, "Semi-amortized variational autoencoders" (2018), algorithm 1. Departures: fixed points
    in place of noise; steps without momentum; the norm of each example's gradient is bounded.

    Args:
        posterior: gives the start.
        steps: T >= 1.
        learning_rate: > 0.
        num_samples: how many points a step takes, an even number from 2 to 2 D.
        unroll: whether training differentiates through the steps, as in the paper, which takes the memory of T likelihoods, and
            one that is differentiable twice. If not, the gradient at the end is handed to the start as it is, as if the steps
            had added a constant.
        max_norm: bound of each example's gradient, > 0.

    Raises:
        ConfigError: if the posterior is no `DiagonalNormal`, or a number is out of range.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> posterior = SemiAmortized(DiagonalNormal(MLP(3, [8]), 2), steps=100)
        >>> def log_joint(z):  # a posterior N(3, 0.5^2) of each of the two units
        ...     return (-0.5 * ((z - 3.0) / 0.5) ** 2).sum(-1)
        >>> q = posterior.refine(posterior(torch.zeros(1, 3)), log_joint)
        >>> [round(x, 3) for x in (*q.mean[0].tolist(), *q.stddev[0].tolist())]
        [3.0, 3.0, 0.5, 0.5]
    """

    points: Tensor

    def __init__(
        self,
        posterior: DiagonalNormal,
        steps: int = 20,
        learning_rate: float = 0.1,
        num_samples: int = 2,
        unroll: bool = True,
        max_norm: float = 5.0,
    ) -> None:
        super().__init__()
        if not isinstance(posterior, DiagonalNormal):
            raise ConfigError(
                f"`posterior` must be a DiagonalNormal, got a {type(posterior).__name__}. Give one to be refined."
            )
        units = posterior.shape[0]
        if steps < 1 or not (learning_rate > 0 and max_norm > 0):
            raise ConfigError(
                f"`steps` must be at least 1, and `learning_rate` and `max_norm` above 0, got {steps}, {learning_rate} and "
                f"{max_norm}. Use the posterior itself for no steps."
            )
        if num_samples % 2 or not 2 <= num_samples <= 2 * units:
            raise ConfigError(f"`num_samples` must be even and from 2 to {2 * units}, got {num_samples}. Use 2 when in doubt.")
        self.posterior, self.shape = posterior, posterior.shape
        self.steps, self.learning_rate, self.num_samples = steps, learning_rate, num_samples
        self.unroll, self.max_norm = unroll, max_norm
        self.differentiates = 2 if unroll else 1
        self.register_buffer("points", _directions(units), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Independent:
        """The start N(m, diag(s^2)), batch shape (B,); `refine` takes the steps."""
        return self.posterior(x, condition, mask)

    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The start of the posterior within."""
        self.posterior.initialize(x, condition, mask)

    def refine(self, q: Distribution, log_joint: Callable[[Tensor], Tensor]) -> Distribution:
        """q after T steps; see `Posterior.refine`."""
        assert isinstance(q, TorchIndependent)
        learning = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            start = torch.stack([q.base_dist.mean.clone(), q.base_dist.stddev.log()])  # (2, B, D)
            unrolled = learning and self.unroll
            at = start if unrolled else start.detach()
            for step in range(self.steps):
                at = self._step(at, log_joint, self._points_of(step).to(start.dtype), unrolled)
            if learning and not unrolled:
                at = start + (at - start).detach()
            at = at if learning else at.detach()
        return diagonal_normal(at[0], at[1].exp())

    def _points_of(self, step: int) -> Tensor:
        """(num_samples, 1, D): the points of a step, in pairs that are each other's opposite."""
        count, units = self.num_samples // 2, len(self.points)
        rows = torch.cat([self.points, self.points])[(step * count) % units :][:count]
        return torch.cat([rows, -rows]).unsqueeze(1)

    def _step(self, at: Tensor, log_joint: Callable[[Tensor], Tensor], points: Tensor, unrolled: bool) -> Tensor:
        at = at if unrolled and at.requires_grad else at.detach().requires_grad_()
        bound = log_joint(at[0] + at[1].exp() * points).mean(0) + at[1].sum(-1)
        (gradient,) = torch.autograd.grad(bound.sum(), at, create_graph=unrolled)
        square = gradient.square().sum((0, 2), keepdim=True)
        shrink = torch.rsqrt((square / self.max_norm**2).clamp_min(1.0))
        after = at + self.learning_rate * shrink * gradient
        return torch.stack([after[0], after[1].clamp_min(_LEAST_LOG_SCALE)])


def _directions(units: int) -> Tensor:
    """(D, D): orthogonal rows of length sqrt(D). A Hartley matrix, whose columns have signs without a pattern."""
    index = torch.arange(units, dtype=torch.float64)
    angle = (index[:, None] * index) * (2.0 * math.pi / units)
    signs = torch.where(torch.cos(index.square() * math.sqrt(2.0)) < 0, -1.0, 1.0)
    return ((angle.cos() + angle.sin()) * signs).float()
