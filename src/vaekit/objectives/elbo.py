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
    warm_up), lets the decoder learn to use z first: Bowman et al. (2016), Sonderby et al. (2016). Repeated, so that each
    rise starts from the latents that the one before has found: Fu et al., "Cyclical annealing schedule: a simple approach
    to mitigating KL vanishing" (2019). Free bits do not charge a group of units j for its first lambda nats, sum_j
    max(lambda, mean_batch KL_j): Kingma et al., "Improved variational inference with inverse autoregressive flow" (2016),
    equation 15. Departure: they are free for the posterior alone; a learned prior goes on following it, for what it lags behind
    is rate that says nothing of the data. Capacity opens the channel to C nats over some steps: Burgess et al.,
    "Understanding disentangling in beta-VAE" (2018), equation 8.

    Args:
        beta: weight of the rate, >= 0.
        warm_up: steps over which beta rises from 0; 0 for none.
        free_bits: lambda, nats a group, >= 0. Where q or p is no product over units, a level shares lambda times its groups.
        capacity: C in nats for a model's whole rate, or None.
        capacity_steps: steps over which the capacity rises from 0 to C; 0 for C at once.
        free_bits_per: the groups of free bits: each `unit`, each `channel` (all positions of one index of the latent's first
            dimension; a unit where the latent is a vector), or each `level`, which is then one group.
        cycles: how often beta rises from 0. Each rise is followed by as many steps at beta, and the last by all that are left.

    Raises:
        ConfigError: for an argument that is negative or not finite, free bits together with a capacity, groups of another
            name, or cycles without a warm-up.

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
        free_bits_per: str = "unit",
        cycles: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ConfigError(f"`beta` must be finite and >= 0, got {beta}. Use `beta=0` to drop the rate.")
        if warm_up < 0 or capacity_steps < 0:
            raise ConfigError(
                f"`warm_up` and `capacity_steps` must be >= 0, got {warm_up} and {capacity_steps}. Use 0 for none."
            )
        if not 0 <= free_bits < math.inf:
            raise ConfigError(f"`free_bits` must be finite and >= 0, got {free_bits}. Use 0 for none.")
        if capacity is not None and not 0 <= capacity < math.inf:
            raise ConfigError(f"`capacity` must be finite and >= 0, or None, got {capacity}. Use None for none.")
        if capacity is not None and free_bits > 0:
            raise ConfigError(
                "`free_bits` and `capacity` must not be set together, got both: each says how much rate is free. Use one."
            )
        if free_bits_per not in ("unit", "channel", "level"):
            raise ConfigError(f"`free_bits_per` must be unit, channel or level, got {free_bits_per!r}. Use `unit`.")
        if cycles < 1 or (cycles > 1 and warm_up == 0):
            raise ConfigError(
                f"`cycles` must be at least 1, and 1 without a warm-up, got {cycles} with `warm_up={warm_up}`. "
                "Set `warm_up` to the steps of one rise."
            )
        self.beta, self.warm_up, self.cycles = beta, warm_up, cycles
        self.free_bits, self.free_bits_per = free_bits, free_bits_per
        self.capacity, self.capacity_steps = capacity, capacity_steps

    def beta_at(self, step: int | None) -> float:
        """beta_t after `step` steps."""
        period = 2 * self.warm_up
        if step is not None and step < self.cycles * period:
            step %= period
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
        units = None if self.free_bits_per == "level" else unit_kl(latent.posterior, latent.prior)
        if units is None:
            groups = {"unit": math.prod(latent.z.shape[2:]), "channel": latent.z.shape[2], "level": 1}[self.free_bits_per]
            means, free = level_rate(latent).mean(), self.free_bits * groups
        else:
            units = units.expand(latent.z.shape) if units.dim() == latent.z.dim() else units
            means, free = units.flatten(0, units.dim() - latent.z.dim() + 1).mean(0), self.free_bits
            if self.free_bits_per == "channel":
                means = means.reshape(means.shape[0], -1).sum(1)
        return means.clamp_min(free).sum() + self._of_prior(latent, (means < free).any())

    def _of_prior(self, latent: Latent, some_free: Tensor) -> Tensor:
        """0, with the gradient of -E_q log p(z) for what is learned of the prior, where clamping has taken it away."""
        cross_entropy = -latent.prior.log_prob(latent.z.detach()).mean()
        return torch.where(some_free, cross_entropy - cross_entropy.detach(), 0.0)
