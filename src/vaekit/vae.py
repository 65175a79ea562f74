"""The whole: prior, posterior and likelihood composed."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import Component, device_of
from vaekit.data.schema import UNKNOWN
from vaekit.distributions import MaskableDistribution, centre
from vaekit.errors import ConfigError
from vaekit.likelihoods import Likelihood
from vaekit.networks import ConditionEncoder
from vaekit.posteriors import Posterior
from vaekit.priors import Prior
from vaekit.types import Condition, Latent, Trace


class LatentModel(Component, abc.ABC):
    """What jobs, training and evaluation ask of every composition, whatever its levels of latents.

    A latent is one vector of D numbers to them, all levels side by side.

    Args:
        likelihood: p(x|z, c).
        condition: encodes the columns c; None for a model without conditions.
    """

    def __init__(self, likelihood: Likelihood, condition: ConditionEncoder | None = None) -> None:
        super().__init__()
        self.likelihood, self.condition = likelihood, condition

    @abc.abstractmethod
    def forward(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None, num_samples: int = 1
    ) -> Trace:
        """Inference: K samples of q(z|x, c) and all that gives their densities.

        Args:
            x: (B, *S), on the likelihood's support; what stands at missing elements is not read.
            condition: the columns that the model is conditioned on, each (B,).
            mask: (B, *S) bool, True where observed.
            num_samples: K.

        Returns:
            The trace, with z (K, B, *Z).
        """

    @property
    @abc.abstractmethod
    def num_latents(self) -> int:
        """D, how many numbers a latent has, those of all levels together."""

    @abc.abstractmethod
    def encode_flat(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z|x, c), each (B, D), with nothing drawn.

        In a ladder, whose lower levels depend on the latents above them, those are held at their means.

        Args:
            x: (B, *S), on the likelihood's support.
            condition: the columns that the model is conditioned on, each (B,).
            mask: (B, *S) bool, True where observed.
        """

    @abc.abstractmethod
    def decode_flat(self, z: Tensor, condition: Condition | Tensor | None = None) -> Distribution:
        """p(x|z, c) of flat latents.

        Args:
            z: (B, D), or (K, B, D).
            condition: the columns, each (B,), or their features (B, F) as `encode_condition` gives them.

        Returns:
            A distribution over data of batch shape (B,), or (K, B).
        """

    @abc.abstractmethod
    def sample_prior(self, num_examples: int, *, condition: Condition | None = None, temperature: float = 1.0) -> Tensor:
        """(1, B, D): one latent an example from p(z|c), its scales multiplied by `temperature`."""

    def initialize(self, x: Tensor, mask: Tensor | None = None, condition: Condition | None = None) -> None:
        """Data-dependent start from a batch x (B, *S), of which `mask` (B, *S) says what is observed."""
        self.likelihood.initialize(x, mask)

    def encode_condition(self, condition: Condition | None) -> Tensor | None:
        """(B, F) features of the columns, or None for a model without conditions.

        Raises:
            ConfigError: if a conditional model gets none, or an unconditional model gets some.
        """
        if self.condition is None:
            if condition:
                raise ConfigError(f"The model has no conditions, got {', '.join(condition)}. Train it with `condition`.")
            return None
        return self.condition(condition or {})

    def features_of(self, condition: Condition | Tensor | None) -> Tensor | None:
        """(B, F) features of columns, or the features themselves where they are given."""
        return self.encode_condition(condition) if condition is None or isinstance(condition, Mapping) else condition

    def condition_of(self, columns: Condition | None, num_examples: int) -> Condition | None:
        """Of all the columns beside the data, those that the model is conditioned on, each (B,) on its device.

        A column that is not given is unknown (-1) for every example; a model without conditions gets None.
        """
        if self.condition is None:
            return None
        device, given = device_of(self), columns or {}
        unknown = torch.full((num_examples,), UNKNOWN, dtype=torch.int64)
        return {name: given.get(name, unknown).to(device) for name in self.condition.categories}


class VAE(LatentModel):
    """One latent: p(x, z|c) = p(x|z, c) p(z|c), inferred by q(z|x, c).

    Kingma, Welling, "Auto-Encoding Variational Bayes" (2014); Rezende, Mohamed, Wierstra, "Stochastic backpropagation
    and approximate inference in deep generative models" (2014).

    Args:
        prior: p(z|c); a prior that is made of the posterior is given it.
        posterior: q(z|x, c).
        likelihood: p(x|z, c).
        condition: encodes the columns c; None for a model without conditions.

    Raises:
        ConfigError: if prior and posterior disagree on the shape of the latent.

    Example:
        >>> from vaekit import likelihoods, networks, objectives, posteriors, priors
        >>> _ = torch.manual_seed(0)
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(networks.MLP(5, [8]), num_latents=2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, [8]), shape=[5]),
        ... )
        >>> trace = vae(torch.ones(3, 5), num_samples=7)
        >>> trace.log_weights.shape
        torch.Size([7, 3])
    """

    prior: Prior
    posterior: Posterior

    def __init__(
        self, prior: Prior, posterior: Posterior, likelihood: Likelihood, condition: ConditionEncoder | None = None
    ) -> None:
        super().__init__(likelihood, condition)
        if tuple(prior.shape) != tuple(posterior.shape):
            raise ConfigError(
                f"Prior and posterior must share the latent's shape, got {prior.shape} and {posterior.shape}. "
                "Give both the same number of latents."
            )
        self.prior, self.posterior = prior, posterior

    def __setattr__(self, name: str, value: Any) -> None:
        """A new prior or posterior is bound to the other."""
        super().__setattr__(name, value)
        parts = self.__dict__.get("_modules", {})
        if name in ("prior", "posterior") and "prior" in parts and "posterior" in parts:
            self.prior.bind(self.posterior)

    def forward(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None, num_samples: int = 1
    ) -> Trace:
        """See `LatentModel.forward`."""
        features = self.encode_condition(condition)
        posterior, prior = self._infer(x, features, mask), self.prior(features)
        z = posterior.rsample((num_samples,))
        likelihood = self.likelihood(z, features)

        def decode(z: Tensor) -> Distribution:
            return self.likelihood(z, features)

        log_likelihood = masked_log_prob(likelihood, x, mask)
        return Trace(x, likelihood, log_likelihood, (Latent(z, posterior, prior),), mask, features, decode)

    def _infer(self, x: Tensor, features: Tensor | None, mask: Tensor | None) -> Distribution:
        """q(z|x, c), refined where the posterior does so."""

        def log_joint(z: Tensor) -> Tensor:
            return masked_log_prob(self.likelihood(z, features), x, mask) + self.prior(features).log_prob(z)

        return self.posterior.refine(self.posterior(x, features, mask), log_joint)

    def encode(self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None) -> Distribution:
        """q(z|x, c), batch shape (B,)."""
        return self._infer(x, self.encode_condition(condition), mask)

    def decode(self, z: Tensor, *, condition: Condition | None = None) -> Distribution:
        """p(x|z, c), batch shape (K, B), of latents (K, B, *Z)."""
        return self.likelihood(z, self.encode_condition(condition))

    @property
    def num_latents(self) -> int:
        """D, how many numbers a latent has."""
        return math.prod(self.prior.shape)

    def encode_flat(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `LatentModel.encode_flat`; of a family without closed moments, what `distributions.centre` gives."""
        mean, scale = centre(self.encode(x, condition=condition, mask=mask))
        return mean.flatten(1), scale.flatten(1)

    def decode_flat(self, z: Tensor, condition: Condition | Tensor | None = None) -> Distribution:
        """See `LatentModel.decode_flat`."""
        return self.likelihood(z.unflatten(-1, tuple(self.prior.shape)), self.features_of(condition))

    @torch.no_grad()
    def sample_prior(self, num_examples: int, *, condition: Condition | None = None, temperature: float = 1.0) -> Tensor:
        """See `LatentModel.sample_prior`."""
        check_temperature(temperature)
        prior = self.prior(self.encode_condition(condition), temperature)
        return prior.sample(() if prior.batch_shape else (num_examples,)).flatten(1).unsqueeze(0)

    def initialize(self, x: Tensor, mask: Tensor | None = None, condition: Condition | None = None) -> None:
        """Data-dependent start of all three parts from a batch x (B, *S), of which `mask` (B, *S) says what is observed."""
        self.likelihood.initialize(x, mask)
        self.posterior.initialize(x, self.encode_condition(condition), mask)
        self.prior.initialize(x, mask)


def check_temperature(temperature: float) -> None:
    """Raises a ConfigError unless the temperature is above 0."""
    if not temperature > 0:
        raise ConfigError(f"`temperature` must be > 0, got {temperature}. Use a small value for typical samples.")


def masked_log_prob(distribution: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """(*batch): log p of the observed elements of x.

    Raises:
        ConfigError: if elements are missing and the distribution cannot integrate them out.
    """
    if mask is None:
        return distribution.log_prob(x)
    if not isinstance(distribution, MaskableDistribution):
        raise ConfigError(
            f"{type(distribution).__name__} must take a mask in log_prob to be used with missing elements, it does "
            "not. Choose another likelihood, or fill the missing values in."
        )
    return distribution.log_prob(x, mask=mask)
