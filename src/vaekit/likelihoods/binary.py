"""Binary data, and intensities between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributions as td

from vaekit.component import Component
from vaekit.distributions import ContinuousBernoulli as ContinuousBernoulliDistribution
from vaekit.distributions import Independent
from vaekit.likelihoods.base import Likelihood, observed_sums, observed_values, set_bias


class Bernoulli(Likelihood):
    """Binary data: log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i), with logit p_i the network's output.

    For x in {0, 1} only: intensities between are no binary data, and the formula is then no likelihood. Grey images are
    made binary by `data.transforms.Binarize`.
    Kingma, Welling, "Auto-Encoding Variational Bayes" (2014), appendix C.1.

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.

    Raises:
        ConfigError: for an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> p = Bernoulli(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.ones(5, 3)).shape
        torch.Size([1, 5])
    """

    discrete = True

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape, num_parameters=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c) over {0, 1}^S."""
        logits = self.parameters_at(z, condition).squeeze(self.parameter_dim)
        return Independent(td.Bernoulli(logits=logits, validate_args=False), len(self.shape), validate_args=False)

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Bias = logit of each element's mean (Burda et al., 2016), kept off the ends by half a count."""
        total, count = observed_sums(self.head, 1, x, mask)
        set_bias(self.head, [torch.logit((total + 0.5) / (count + 1))])

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must be 0 or 1."""
        x = observed_values(x, mask)
        return None if bool(((x == 0) | (x == 1)).all()) else "A Bernoulli likelihood must have values 0 and 1"


class ContinuousBernoulli(Likelihood):
    """Intensities in [0, 1]: log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i) + log C(p_i).

    C(p) = 2 atanh(1 - 2p) / (1 - 2p) is the constant that makes it a density; the mean is not p.
    Loaiza-Ganem, Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders" (2019).

    Args:
        network: maps latents to features.
        shape: the shape of one example *S.

    Raises:
        ConfigError: for an empty shape, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> p = ContinuousBernoulli(MLP(2, [8]), shape=[3])(torch.zeros(1, 5, 2))
        >>> p.log_prob(torch.tensor([0.0, 0.5, 1.0])).shape
        torch.Size([1, 5])
    """

    def __init__(self, network: Component, shape: Sequence[int]) -> None:
        super().__init__(network, shape, num_parameters=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Independent:
        """p(x|z, c), a density over [0, 1]^S."""
        logits = self.parameters_at(z, condition).squeeze(self.parameter_dim)
        return Independent(
            ContinuousBernoulliDistribution(logits=logits, validate_args=False), len(self.shape), validate_args=False
        )

    def check(self, x: Tensor, mask: Tensor | None = None) -> str | None:
        """Values must lie in [0, 1]."""
        x = observed_values(x, mask)
        return None if bool(((x >= 0) & (x <= 1)).all()) else "A continuous Bernoulli likelihood must have values in [0, 1]"
