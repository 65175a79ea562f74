"""A posterior whose samples follow the model's own gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.distributions import centre
from vaekit.errors import ConfigError
from vaekit.posteriors.base import Posterior


class Evolved(Distribution):
    """What becomes of the samples of q under Hamiltonian dynamics; only the density at its own last sample is known.

    `log_prob` of the very tensor that `rsample` gave is log q(z_0) + log N(g_0) - log N(r_T), with g_0 the first momentum and
    r_T the last: with it, p(x, z_T) / exp(log_prob) is an unbiased estimate of p(x), as any importance weight is.

    Args:
        q: the start, with samples (K, B, D).
        evolve: maps positions and momenta, (K, B, D) each, to those at the end.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True

    def __init__(self, q: Distribution, evolve: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.q, self.evolve = q, evolve
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample, *batch, D)."""
        start = self.q.rsample(torch.Size(sample_shape))
        momentum = torch.randn_like(start)
        z, last = self.evolve(start, momentum)
        log_q = self.q.log_prob(start) + 0.5 * (last.square() - momentum.square()).sum(-1)
        self._last = (z, log_q)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch): at the last sample.

        Raises:
            NotImplementedError: at any other value, where the density is an integral over momenta.
        """
        if self._last is None or value is not self._last[0]:
            raise NotImplementedError("The density of samples that followed a Hamiltonian is known at the last of them only.")
        return self._last[1]

    @property
    def mean(self) -> Tensor:
        """Not known in closed form."""
        raise NotImplementedError

    def centre(self) -> tuple[Tensor, Tensor]:
        """Where the mean of the start goes without momentum, and the scale of the start, each (*batch, D)."""
        mean, scale = centre(self.q)
        z, _ = self.evolve(mean.unsqueeze(0), torch.zeros_like(mean).unsqueeze(0))
        return z.squeeze(0), scale

    def stopped(self) -> Evolved:
        """Not to be had: the path of a sample depends on the parameters that are to be stopped.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "An objective of path derivatives must have a posterior whose density is known everywhere, got a Hamiltonian one. "
            "Use `ELBO` or `IWAE`."
        )


class Hamiltonian(Posterior):
    """Samples of q that take T leapfrog steps with the energy -log p(x, z|c), tempered: the Hamiltonian VAE.

    A step has the size e_d for unit d; it kicks the momentum r by -(e / 2) grad U(z), moves z by e r, and kicks again. Momenta
    start hot, r_0 = g_0 / sqrt(b_0) with g_0 ~ N(0, I), and after step t they are multiplied by sqrt(b_(t-1) / b_t), where
    1 / sqrt(b_t) = (1 - 1 / sqrt(b_0)) t^2 / T^2 + 1 / sqrt(b_0). The sizes e and b_0 are learned with the rest. Costs T + 1
    gradients of the likelihood a sample; the likelihood must be differentiable twice (the mixture of logistics is not, and
    `VAE` refuses it).

    Caterini, Doucet, Sejdinovic, "Hamiltonian variational auto-encoder" (2018), section 3 and equation 11.

    Args:
        posterior: gives the start, a density over R^D; one that refines itself does so first.
        steps: T >= 1.
        step_size: e at the start, > 0.
        temperature: 1 / b_0 at the start, >= 1; 1 is no tempering, then or later.

    Raises:
        ConfigError: for a number out of range, or a start that has no density over R^D, such as a point, codes or a direction.

    Example:
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import DiagonalNormal
        >>> _ = torch.manual_seed(0)
        >>> posterior = Hamiltonian(DiagonalNormal(MLP(3, [8]), 2), steps=3)
        >>> q = posterior.refine(posterior(torch.zeros(5, 3)), lambda z: -0.5 * z.square().sum(-1))
        >>> q.rsample((7,)).shape
        torch.Size([7, 5, 2])
    """

    differentiates = 2

    def __init__(self, posterior: Posterior, steps: int = 3, step_size: float = 0.05, temperature: float = 1.5) -> None:
        super().__init__()
        if steps < 1 or not step_size > 0 or not temperature >= 1:
            raise ConfigError(
                f"`steps` and `temperature` must be at least 1 and `step_size` above 0, got {steps}, {temperature} and "
                f"{step_size}. Use 1 for no tempering."
            )
        if len(posterior.shape) != 1:
            raise ConfigError(f"`posterior` must have a vector as its latent, got the shape {posterior.shape}. Flatten it.")
        if set(posterior.spaces) != {"real"} or not posterior.has_density:
            raise ConfigError(
                "`posterior` must have a density over all real numbers, as its samples are moved anywhere, got a "
                f"{type(posterior).__name__}. Give one such as `DiagonalNormal`."
            )
        self.posterior, self.shape = posterior, posterior.shape
        self.steps, self.step_size, self.temperature = steps, step_size, temperature
        self.raw_step = nn.Parameter(torch.full(posterior.shape, math.log(math.expm1(step_size))))
        if temperature > 1:
            self.raw_heat = nn.Parameter(torch.tensor(math.log(math.expm1(temperature - 1))))

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        """The start q, batch shape (B,); `refine` lets its samples move."""
        return self.posterior(x, condition, mask)

    def initialize(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> None:
        """The start of the posterior within."""
        self.posterior.initialize(x, condition, mask)

    def refine(self, q: Distribution, log_joint: Callable[[Tensor], Tensor]) -> Evolved:
        """The distribution of the moved samples of the start, after its own steps; see `Posterior.refine`."""
        q = self.posterior.refine(q, log_joint)
        learning = torch.is_grad_enabled()

        def gradient(z: Tensor) -> Tensor:
            z = z if learning and z.requires_grad else z.detach().requires_grad_()
            (found,) = torch.autograd.grad(log_joint(z).sum(), z, create_graph=learning)
            return found

        def evolve(z: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
            with torch.inference_mode(False), torch.enable_grad():
                z, momentum = self._leapfrog(z.clone(), momentum.clone(), gradient)
            return (z, momentum) if learning else (z.detach(), momentum.detach())

        return Evolved(q, evolve)

    def _leapfrog(self, z: Tensor, momentum: Tensor, gradient: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        size = F.softplus(self.raw_step)
        heat = (1 + F.softplus(self.raw_heat)).sqrt() if self.temperature > 1 else torch.ones_like(size[:1])
        before = heat
        momentum = momentum * heat
        force = gradient(z)
        for step in range(1, self.steps + 1):
            momentum = momentum + 0.5 * size * force
            z = z + size * momentum
            force = gradient(z)
            momentum = momentum + 0.5 * size * force
            after = (1 - heat) * (step / self.steps) ** 2 + heat
            momentum, before = momentum * (after / before), after
        return z, momentum
