"""The evidence lower bound, and what changes the weight of its rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.distributions import unit_kl
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, level_rate, progress, rate
from vaekit.types import Latent, Trace


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
        return self.beta * progress(step, self.warm_up)

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """distortion + beta_t * rate, with what the arguments change of it."""
        rates = rate(trace)
        beta = self.beta_at(step)
        if self.capacity is not None:
            charged = (rates - self.capacity * progress(step, self.capacity_steps)).abs().mean()
        elif self.free_bits > 0:
            charged = torch.stack([self._charged(latent) for latent in trace.latents]).sum()
        else:
            charged = rates.mean()
        return bound_of(trace, -trace.log_likelihood.mean() + beta * charged, rates)

    def _charged(self, latent: Latent) -> Tensor:
        """The rate of a level beyond what is free, with what is free added as a constant."""
        units = unit_kl(latent.posterior, latent.prior)
        if units is None:
            return level_rate(latent).mean().clamp_min(self.free_bits * math.prod(latent.z.shape[2:]))
        units = units.expand(latent.z.shape) if units.dim() == latent.z.dim() else units
        return units.flatten(0, units.dim() - latent.z.dim() + 1).mean(0).clamp_min(self.free_bits).sum()
