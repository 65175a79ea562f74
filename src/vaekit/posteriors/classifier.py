"""q(c|x): what an example says of the columns beside it, such as its label."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions.scales import full_float
from vaekit.errors import ConfigError
from vaekit.types import as_network


class Classifier(Component):
    """q(c|x) = prod_j Categorical(c_j; softmax(A_j f(x) + b_j)), f one network for all columns c_j.

    The part of inference that guesses what is not known of the columns: q(y|x) of Kingma, Mohamed, Rezende, Welling,
    "Semi-supervised learning with deep generative models" (2014), equation 4. `objectives.SemiSupervised` trains it.

    Args:
        network: maps the data to features, without a condition.
        categories: the number of categories of each column, by name.

    Raises:
        ConfigError: for no column, a column without categories, or what is no network.

    Example:
        >>> import torch
        >>> from vaekit.networks import MLP
        >>> Classifier(MLP(5, [8]), {"label": 3})(torch.zeros(7, 5))["label"].shape
        torch.Size([7, 3])
    """

    def __init__(self, network: Component, categories: Mapping[str, int]) -> None:
        super().__init__()
        if not categories or min(categories.values()) < 1:
            raise ConfigError(
                f"`categories` must give at least one column with at least one category, got {dict(categories)}. Leave the "
                "classifier out for a model that infers no column."
            )
        self.network, self.categories = network, dict(categories)
        make_head = as_network(network, "Classifier").make_head
        self.heads = nn.ModuleList(make_head(count, ()) for count in categories.values())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """log q(c|x), (B, C) by column, in float32 or better.

        Args:
            x: (B, *S), as the posterior reads it.
            mask: (B, *S) bool, True where observed.
        """
        features = self.network(x, None, mask)
        named = zip(self.categories, self.heads, strict=True)
        return {name: F.log_softmax(full_float(head(features)), dim=-1) for name, head in named}
