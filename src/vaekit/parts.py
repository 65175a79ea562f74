"""What a composition asks of its parts: that they fit each other, and what they make of masks and temperatures."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions import MaskableDistribution
from vaekit.errors import ConfigError
from vaekit.likelihoods import Likelihood
from vaekit.posteriors import Posterior
from vaekit.priors import Prior


def check_parts(prior: Prior, posterior: Posterior, likelihood: Likelihood) -> None:
    """Binds prior and posterior, and refuses parts that together compute nonsense.

    Raises:
        ConfigError: if they do not fit; see `VAE`.
    """
    if tuple(prior.shape) != tuple(posterior.shape):
        raise ConfigError(
            f"Prior and posterior must share the latent's shape, got {prior.shape} and {posterior.shape}. "
            "Give both the same number of latents."
        )
    prior.bind(posterior)
    if prior.spaces != posterior.spaces:
        other = next(q for p, q in zip(prior.spaces, posterior.spaces, strict=True) if p != q)
        raise ConfigError(
            f"Prior and posterior must be over one space, got {_described(prior.spaces)} and {_described(posterior.spaces)}. "
            f"Use {_PRIOR_OVER.get(other.partition('(')[0], 'a prior that says it is over ' + other)} with the "
            f"{type(posterior).__name__}."
        )
    if prior.made_of_posterior and any(isinstance(m, Posterior) and m.mixes_examples for m in posterior.modules()):
        raise ConfigError(
            f"A {type(prior).__name__} prior must be made of a posterior that reads each example by itself, got a "
            f"{type(posterior).__name__}. Use another prior, or a `DiagonalNormal` posterior."
        )
    if posterior.differentiates > 1 and not likelihood.twice_differentiable:
        raise ConfigError(
            f"The likelihood of a {type(posterior).__name__} posterior must be differentiable twice, got a "
            f"{type(likelihood).__name__}. Use `SemiAmortized(..., unroll=False)`, or another likelihood."
        )


_PRIOR_OVER = {
    "real": "a prior over real numbers, such as `priors.StandardNormal`,",
    "positive": "`priors.Gamma`",
    "sphere": "`priors.UniformSphere`",
    "ball": "`priors.WrappedNormal` of that curvature",
    "codes": "`priors.UniformCodes`",
}
"""What goes with a posterior over a space, by the first word of its name."""


def _described(spaces: Sequence[str]) -> str:
    """real(2) x sphere(3): the factors of a space, of the space that each number belongs to."""
    factors = [(space, len(list(numbers))) for space, numbers in itertools.groupby(spaces)]
    return " x ".join(space if "(" in space else f"{space}({num})" for space, num in factors)


def check_temperature(temperature: float) -> None:
    """Raises a ConfigError unless the temperature is above 0."""
    if not temperature > 0:
        raise ConfigError(f"`temperature` must be > 0, got {temperature}. Use a small value for typical samples.")


def differentiable(value: Tensor | None) -> Tensor | None:
    """The same tensor; a copy if it was made in inference mode, which has been left: autograd refuses such tensors."""
    if value is None or not value.is_inference() or torch.is_inference_mode_enabled():
        return value
    return value.clone()


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
