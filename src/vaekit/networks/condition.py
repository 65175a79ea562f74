"""From columns such as a label to the features that every part is conditioned on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.types import Condition


class ConditionEncoder(Component):
    """One embedding a categorical column, concatenated: (B,) codes to (B, F).

    The code -1 is "unknown" and has an embedding of its own, so a model can be asked for any value, and rows whose label
    is missing still teach it. In training a share of the codes is made unknown, which teaches that embedding even where
    every row has its label, as in classifier-free guidance: Ho, Salimans (2022), section 3.2.

    Args:
        categories: the number of categories of each column, by name, in the order of concatenation.
        features: width of each column's embedding.
        dropout: the share of codes that are made unknown in training, in [0, 1).

    Raises:
        ConfigError: for no column, a column without categories, or a dropout outside [0, 1).

    Example:
        >>> ConditionEncoder({"label": 10}, features=4)({"label": torch.tensor([3, -1])}).shape
        torch.Size([2, 4])
    """

    def __init__(self, categories: Mapping[str, int], features: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        if not categories or min(categories.values()) < 1:
            raise ConfigError(
                f"`categories` must give at least one column with at least one category, got {dict(categories)}. Leave the "
                "encoder out for a model without conditions."
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"`dropout` must be in [0, 1), got {dropout}. Use 0 for none.")
        self.categories, self.dropout = dict(categories), dropout
        self.embeddings = nn.ModuleList(
            # Given its weights, an embedding can be built without memory and without importing torch's compiler.
            nn.Embedding(count + 1, features, _weight=torch.randn(count + 1, features))
            for count in categories.values()
        )
        self.out_features = features * len(categories)

    def forward(self, condition: Condition) -> Tensor:
        """(B, F) features of the columns.

        Raises:
            ConfigError: if a column is missing.
        """
        missing = [name for name in self.categories if name not in condition]
        if missing:
            found = ", ".join(condition) or "none"
            raise ConfigError(
                f"The model is conditioned on {', '.join(self.categories)}; {', '.join(missing)} must be given, found {found}. "
                "Give the code -1 where it is unknown."
            )
        parts = [
            embedding(self._drop(condition[name].long() + 1))
            for name, embedding in zip(self.categories, self.embeddings, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def _drop(self, codes: Tensor) -> Tensor:
        """Codes with a share of them made unknown, which is 0 here."""
        if not self.training or self.dropout == 0:
            return codes
        return codes * (torch.rand(codes.shape, device=codes.device) >= self.dropout)
