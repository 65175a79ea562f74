"""A second autoencoder, of the latents of the first."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import Component, stopped_copy
from vaekit.distributions import closed_form_kl
from vaekit.distributions.affine import tempered
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, in_chunks

_MAX_ELEMENTS = 2**23
_WIDTH = 512  # of the networks inside, as memory is reckoned; they do not say


class Marginal(Distribution):
    """p(z) = E_p(u) p(z|u), of which `log_prob` is a bound and a sample is exact.

    Args:
        model: what holds prior, posterior and likelihood.
        temperature: factor on the scales of p(u) and p(z|u).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, model: SecondStage, temperature: float = 1.0) -> None:
        super().__init__(torch.Size(), torch.Size(model.shape), validate_args=False)
        self.model, self.temperature = model, temperature

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): log 1/K sum_k p(z|u_k) p(u_k) / q(u_k|z), u_k ~ q(u|z), at `value` z (..., D): random, and in the mean below
        log p(z)."""
        rows = _MAX_ELEMENTS // (_WIDTH * self.model.num_samples)
        return in_chunks(self._log_prob, value, len(self.event_shape), rows)

    def _log_prob(self, value: Tensor) -> Tensor:
        q, prior = self.model.posterior(value), self.model.prior(None, self.temperature)
        u = q.rsample((self.model.num_samples,))
        log_weights = self._likelihood(u).log_prob(value) + prior.log_prob(u) - q.log_prob(u)
        return torch.logsumexp(log_weights, dim=0) - math.log(len(u))

    def matching_loss(self, value: Tensor) -> Tensor:
        """(...): minus the bound of one sample, with its rate in closed form where there is one: what trains a VAE."""
        flat = value.reshape(-1, *self.event_shape)
        q, prior = self.model.posterior(flat), self.model.prior(None, self.temperature)
        u = q.rsample((1,))
        kl = closed_form_kl(q, prior)
        rate = q.log_prob(u) - prior.log_prob(u) if kl is None else kl
        return (rate - self._likelihood(u).log_prob(flat)).reshape(value.shape[: value.dim() - len(self.event_shape)])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, D): u ~ p(u), then z ~ p(z|u)."""
        with torch.no_grad():
            u = self.model.prior(None, self.temperature).sample((1, math.prod(sample_shape)))
            return self._likelihood(u).sample().reshape(*sample_shape, *self.event_shape)

    def stopped(self) -> Marginal:
        """The same, with parameters that no gradient reaches."""
        return Marginal(stopped_copy(self.model), self.temperature)

    def _likelihood(self, u: Tensor) -> Distribution:
        return tempered(self.model.likelihood(u), self.temperature)


class SecondStage(Prior):
    """p(z) = E_p(u) p(z|u): a VAE of the latents, whose own latents u it can make as wide as those of the data.

    A VAE that reconstructs well leaves its latents on all of the space, but not distributed as its prior is; a second one,
    with as many latents, has nothing to compress and learns just their distribution. Fit it to the latents of a trained model
    (`vaekit refit`). Dai, Wipf, "Diagnosing and enhancing VAE models" (2019), section 4.

    `log_prob` is not the density but the bound of K samples on its logarithm: random, below it in the mean, and closer for a
    larger K. The bound of a model with this prior therefore stays a bound. Temperature multiplies the scales of p(u), and
    those of p(z|u) about its centre.

    Args:
        prior: p(u).
        posterior: q(u|z), a posterior whose data are latents z (N, D).
        likelihood: p(z|u) over latents, which gives the shape of z; a density of real numbers, such as `likelihoods.Normal`.
        num_samples: K.

    Raises:
        ConfigError: for less than one sample, parts that do not fit together, or a posterior that is a point or refines itself.

    Example:
        >>> from vaekit import likelihoods, networks, posteriors, priors
        >>> _ = torch.manual_seed(0)
        >>> prior = SecondStage(
        ...     priors.StandardNormal(2),
        ...     posteriors.DiagonalNormal(networks.MLP(3, [8]), 2),
        ...     likelihoods.Normal(networks.MLP(2, [8]), [3]),
        ... )
        >>> prior.shape, prior().sample((7,)).shape
        ((3,), torch.Size([7, 3]))
    """

    def __init__(self, prior: Prior, posterior: Component, likelihood: Component, num_samples: int = 8) -> None:
        super().__init__()
        if num_samples < 1:
            raise ConfigError(f"`num_samples` must be at least 1, got {num_samples}. 8 is a good start.")
        shapes = [getattr(part, "shape", None) for part in (posterior, likelihood)]
        if shapes[0] is None or shapes[1] is None or tuple(shapes[0]) != tuple(prior.shape):
            raise ConfigError(
                f"Prior and posterior of a second stage must share the shape of u, and its likelihood have that of z, got "
                f"{prior.shape}, {shapes[0]} and {shapes[1]}. Give both the same number of latents."
            )
        if not getattr(posterior, "has_density", True) or getattr(posterior, "refines", False):
            raise ConfigError(
                "The posterior of a second stage must have a density and must not refine itself, as nothing asks it to, got a "
                f"{type(posterior).__name__}. Use `DiagonalNormal`."
            )
        prior.bind(posterior)
        if prior.spaces != getattr(posterior, "spaces", prior.spaces):
            raise ConfigError(
                f"Prior and posterior of a second stage must be over one space, got a {type(prior).__name__} and a "
                f"{type(posterior).__name__}. Use `StandardNormal` and `DiagonalNormal`."
            )
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.shape, self.num_samples = tuple(shapes[1]), num_samples

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> Marginal:
        """The marginal of z, the same for every condition."""
        return Marginal(self, temperature)
