"""Real numbers with outliers, and positive ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td

from vaekit import distributions
from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.likelihoods.base import inverse_softplus, observed_values
from vaekit.likelihoods.real import LocationScale
from vaekit.likelihoods.spread import raw_spread


class Laplace(LocationScale):
    """Real numbers with sparse errors: log p(x|z) = -sum_i |x_i - location_i(z)| / scale + log(2 scale).

    The density behind the mean absolute error; the location is the median as well as the mean.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least scale, in units of the data; the standard deviation is sqrt(2) times the scale.

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = Laplace(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.zeros(5, 3)).shape
        torch.Size([1, 5])
    """

    deviation, name = math.sqrt(2.0), "Laplace"

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        super().__init__(network, shape, scale, min_scale)

    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> td.Laplace:
        """Laplace(location, scale)."""
        return td.Laplace(location, scale, validate_args=False)


class Logistic(LocationScale):
    """Real numbers: log p(x|z) = -sum_i 2 log(2 cosh(t_i / 2)) + log scale, t_i = (x_i - location_i(z)) / scale.

    Between the normal and the Laplace: smooth at its centre, with tails that fall as exp(-|t|).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least scale, in units of the data; the standard deviation is pi / sqrt(3) times the scale.

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = Logistic(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.zeros(5, 3)).shape
        torch.Size([1, 5])
    """

    deviation, name = math.pi / math.sqrt(3.0), "logistic"

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        super().__init__(network, shape, scale, min_scale)

    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> distributions.Logistic:
        """Logistic(location, scale)."""
        return distributions.Logistic(location, scale)


class HyperbolicSecant(LocationScale):
    """Real numbers: log p(x|z) = -sum_i log cosh(t_i) + log(pi scale), t_i = (x_i - location_i(z)) / scale.

    The density behind the log-cosh loss, with its normaliser: as a squared error near the centre, as an absolute one far
    from it. Chen, Chen, Zhang, "Log hyperbolic cosine loss improves variational auto-encoder" (2019). Departure: the loss of
    that paper is log cosh(a (x - m)) / a with a hand-set a; here the scale takes the place of 1 / a and is learned, which
    takes the normaliser, and log cosh has the weight 1 that makes it a hyperbolic secant.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least scale, in units of the data; the standard deviation is pi / 2 times the scale.

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = HyperbolicSecant(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.zeros(5, 3)).shape
        torch.Size([1, 5])
    """

    deviation, name = math.pi / 2.0, "hyperbolic secant"

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        super().__init__(network, shape, scale, min_scale)

    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> distributions.HyperbolicSecant:
        """HyperbolicSecant(location, scale)."""
        return distributions.HyperbolicSecant(location, scale)


class StudentT(LocationScale):
    """Real numbers with outliers: log p(x|z) = sum_i log StudentT(x_i; df, location_i(z), scale), with df learned.

    The tails fall as |t|^-(df + 1), so that an outlier moves the model by less the further off it is; with df to infinity it
    is the normal. Takahashi, Iwata, Yamanaka, Yamada, Yagi, "Student-t variational autoencoder for robust density
    estimation" (2018). The degrees of freedom are shared, per dimension or predicted as the scale is. Departure: they stay
    above `min_df`, because `reconstruct` asks for the mean, which needs more than 1, and the mean squared error of
    reconstructions for the variance, which needs more than 2.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least scale, in units of the data; the standard deviation is sqrt(df / (df - 2)) times the scale.
        min_df: the degrees of freedom stay above it; at least 1. They start at `min_df` + 3.

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, a `min_df` below 1, an empty shape, or what is
            no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = StudentT(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.base_dist.df[0, 0].detach()
        tensor([5., 5., 5.])
    """

    name = "Student-t"

    def __init__(
        self,
        network: Component,
        shape: Sequence[int],
        scale: str = "shared",
        min_scale: float = 1e-3,
        min_df: float = 2.0,
    ) -> None:
        if not min_df >= 1:
            raise ConfigError(f"`min_df` must be at least 1, got {min_df}. Below, the distribution has no mean.")
        super().__init__(network, shape, scale, min_scale, num_shapes=1 if scale == "predicted" else 0)
        self.min_df = min_df
        self.deviation = math.sqrt((min_df + 3.0) / (min_df + 1.0))
        if scale != "predicted":
            self.raw_df = raw_spread(scale, self.shape, inverse_softplus(3.0))

    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> distributions.StudentT:
        """StudentT(df, location, scale)."""
        if self.scale == "predicted":
            raw = parameters.select(self.parameter_dim, 2) + inverse_softplus(3.0)
        else:
            assert self.raw_df is not None
            raw = self.raw_df.expand_as(location)
        return distributions.StudentT(self.min_df + F.softplus(raw), location, scale, validate_args=False)


class LogNormal(LocationScale):
    """Positive numbers over orders of magnitude: log p(x|z) = sum_i log N(log x_i; location_i(z), scale^2) - log x_i.

    Times, sizes, concentrations. Location and scale are those of log x, whatever the unit of x; the mean of x is
    exp(location + scale^2 / 2).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.
        scale: `shared` (one number), `per_dimension` (one an element), or `predicted` (by the network, from z).
        min_scale: the least standard deviation of log x; about the least relative error.

    Raises:
        ConfigError: for an unknown `scale`, a `min_scale` that is not above 0, an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = LogNormal(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.ones(5, 3)).shape
        torch.Size([1, 5])
    """

    name = "log-normal"

    def __init__(self, network: Component, shape: Sequence[int], scale: str = "shared", min_scale: float = 1e-3) -> None:
        super().__init__(network, shape, scale, min_scale)

    def family(self, location: Tensor, scale: Tensor, parameters: Tensor) -> distributions.LogNormal:
        """LogNormal(location, scale)."""
        return distributions.LogNormal(location, scale)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """As of real numbers, for log x."""
        observed = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.expand(x.shape)
        super().initialize(torch.where(observed, x, 1).float().log(), mask)

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be finite and above 0."""
        x = observed_values(x, mask)
        fits = bool(((x > 0) & torch.isfinite(x)).all())
        return None if fits else "A log-normal likelihood must have finite values above 0"
