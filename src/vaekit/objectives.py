"""The bound, as a function of one `Trace`.

    log p(x|c) >= E_q(z|x,c) [ log p(x|z,c) + log p(z|c) - log q(z|x,c) ] = -(distortion + rate)

An objective reads the trace and nothing else, so every objective works with every model. Sums over event dimensions are
done by the distributions; means over examples are done here, in `Bound`.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import closed_form_kl, unit_kl
from vaekit.errors import ConfigError
from vaekit.types import Latent, Trace


@dataclass(frozen=True)
class Bound:
    """What an objective says of a batch; means over its examples, in nats.

    Attributes:
        loss: scalar to minimise.
        elbo: scalar, -(distortion + rate): the evidence lower bound, whatever the loss is.
        rate: scalar, KL(q(z|x, c) || p(z|c)) summed over levels.
        distortion: scalar, -E_q log p(x|z, c).
        terms: further scalars to watch, by name: parts of the loss, or bounds beside the ELBO, as in `k_sample_bound` of IWAE.
            Each is a mean over the examples of the batch, in nats, so that training can average it over steps and processes;
            it is logged under its name, which must not be that of another attribute. Only `loss` is differentiated.
    """

    loss: Tensor
    elbo: Tensor
    rate: Tensor
    distortion: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


def level_rate(latent: Latent) -> Tensor:
    """(B,): KL(q || p) of one level, in closed form where there is one, else the mean of log q - log p over the K samples."""
    kl = closed_form_kl(latent.posterior, latent.prior)
    if kl is None:
        return (latent.log_q - latent.log_p).mean(0)
    return kl.expand(latent.log_q.shape).mean(0)


def rate(trace: Trace) -> Tensor:
    """(B,): KL(q(z|x, c) || p(z|c)) summed over levels."""
    return torch.stack([level_rate(latent) for latent in trace.latents]).sum(0)


def log_mean_weight(trace: Trace) -> Tensor:
    """(B,): log 1/K sum_k w_k, the K-sample bound on log p(x|c) (Burda et al., 2016, equation 8)."""
    log_weights = trace.log_weights
    return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])


class Objective(Component, abc.ABC):
    """A function of one trace that gives a loss."""

    @abc.abstractmethod
    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The bound of a batch.

        Args:
            trace: what inference left behind.
            step: optimiser steps done so far, for schedules; None means that every schedule has ended.
        """


def _bound(trace: Trace, loss: Tensor, rate_: Tensor, **terms: Tensor) -> Bound:
    distortion = -trace.log_likelihood.mean()
    mean_rate = rate_.mean()
    return Bound(loss, -(distortion + mean_rate), mean_rate, distortion, terms)


class ELBO(Objective):
    """loss = distortion + beta_t * rate, or distortion + beta * |rate - capacity_t|.

    beta = 1 is the bound itself: Kingma, Welling, "Auto-Encoding Variational Bayes" (2014), equation 3. beta > 1 presses
    the units apart at the cost of distortion: Higgins et al., "beta-VAE" (2017). Warm-up, beta_t = beta * min(1, t /
    warm_up), lets the decoder learn to use z first: Bowman et al. (2016), Sonderby et al. (2016). Free bits do not charge
    a unit for its first lambda nats, sum_d max(lambda, mean_batch KL_d): Kingma et al., "Improved variational inference
    with inverse autoregressive flow" (2016), equation 15. Capacity opens the channel to C nats over some steps: Burgess
    et al., "Understanding disentangling in beta-VAE" (2018), equation 8.

    Args:
        beta: weight of the rate, >= 0.
        warm_up: steps over which beta rises from 0; 0 for none.
        free_bits: lambda, nats a unit, >= 0. Where q or p is no product over units, a level shares lambda times its units.
        capacity: C in nats for a model's whole rate, or None.
        capacity_steps: steps over which the capacity rises from 0 to C; 0 for C at once.

    Raises:
        ConfigError: for a negative argument, or free bits together with a capacity.

    Example:
        >>> ELBO(beta=4.0).spec()["beta"]
        4.0
    """

    def __init__(
        self,
        beta: float = 1.0,
        warm_up: int = 0,
        free_bits: float = 0.0,
        capacity: float | None = None,
        capacity_steps: int = 0,
    ) -> None:
        super().__init__()
        if not beta >= 0:
            raise ConfigError(f"`beta` must be >= 0, got {beta}. Use `beta=0` to drop the rate.")
        if warm_up < 0 or capacity_steps < 0:
            raise ConfigError(
                f"`warm_up` and `capacity_steps` must be >= 0, got {warm_up} and {capacity_steps}. Use 0 for none."
            )
        if not free_bits >= 0:
            raise ConfigError(f"`free_bits` must be >= 0, got {free_bits}. Use 0 for none.")
        if capacity is not None and not capacity >= 0:
            raise ConfigError(f"`capacity` must be >= 0 or None, got {capacity}. Use None for none.")
        if capacity is not None and free_bits > 0:
            raise ConfigError(
                "`free_bits` and `capacity` must not be set together, got both: each says how much rate is free. Use one."
            )
        self.beta, self.warm_up, self.free_bits = beta, warm_up, free_bits
        self.capacity, self.capacity_steps = capacity, capacity_steps

    def beta_at(self, step: int | None) -> float:
        """beta_t after `step` steps."""
        return self.beta * _progress(step, self.warm_up)

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """distortion + beta_t * rate, with what the arguments change of it."""
        rates = rate(trace)
        beta = self.beta_at(step)
        if self.capacity is not None:
            charged = (rates - self.capacity * _progress(step, self.capacity_steps)).abs().mean()
        elif self.free_bits > 0:
            charged = torch.stack([self._charged(latent) for latent in trace.latents]).sum()
        else:
            charged = rates.mean()
        return _bound(trace, -trace.log_likelihood.mean() + beta * charged, rates)

    def _charged(self, latent: Latent) -> Tensor:
        """The rate of a level beyond what is free, with what is free added as a constant."""
        units = unit_kl(latent.posterior, latent.prior)
        if units is None:
            return level_rate(latent).mean().clamp_min(self.free_bits * math.prod(latent.z.shape[2:]))
        units = units.expand(latent.z.shape) if units.dim() == latent.z.dim() else units
        return units.flatten(0, units.dim() - latent.z.dim() + 1).mean(0).clamp_min(self.free_bits).sum()


def _progress(step: int | None, steps: int) -> float:
    """How far a linear schedule is, in [0, 1]."""
    return 1.0 if step is None or steps == 0 else min(1.0, step / steps)


class IWAE(Objective):
    """loss = -log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), the K-sample bound; K is the trace's number of samples.

    Tighter than the ELBO and rising with K to log p(x).
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8.

    Example:
        >>> IWAE().spec()
        {'type': 'objectives.IWAE'}
    """

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative K-sample bound; its gradient by automatic differentiation through the samples."""
        bound = log_mean_weight(trace).mean()
        return _bound(trace, -bound, rate(trace), k_sample_bound=bound)
