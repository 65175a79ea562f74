"""From columns such as a label or an angle to the features that every part is conditioned on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions.scales import full_float
from vaekit.errors import ConfigError
from vaekit.types import Condition

_HIDDEN = 32


class ConditionEncoder(Component):
    """Features of each column, concatenated: (B,) codes or numbers to (B, F).

    A categorical column has an embedding a category. The code -1 is "unknown" and has an embedding of its own, so a model
    can be asked for any value, and rows whose label is missing still teach it. A column of numbers v is standardised, and a
    small network reads it together with whether it is known,

        features = A silu(B (k (v - mean) / scale, k) + b) + a,    k = 1 where v is known and 0 where it is NaN

    so that what is not known has features of its own as well. In training a share of the values is made unknown, which
    teaches those features even where every row has its label, as in classifier-free guidance: Ho, Salimans (2022),
    section 3.2.

    Args:
        categories: the number of categories of each categorical column, by name, in the order of concatenation.
        features: width of each column's features.
        dropout: the share of values that are made unknown in training, in [0, 1).
        numbers: the mean and the scale (> 0) of each column of numbers, by name; their features come after the others.

    Raises:
        ConfigError: for no column, a column without categories, one that is named twice, a scale that is not > 0, or a
            dropout outside [0, 1).

    Example:
        >>> encoder = ConditionEncoder({"label": 10}, features=4, numbers={"angle": [0.0, 2.0]})
        >>> encoder({"label": torch.tensor([3, -1]), "angle": torch.tensor([0.5, torch.nan])}).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        categories: Mapping[str, int],
        features: int = 16,
        dropout: float = 0.0,
        numbers: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.categories = dict(categories)
        self.numbers = {name: (float(mean), float(scale)) for name, (mean, scale) in (numbers or {}).items()}
        if not (categories or numbers) or min(categories.values(), default=1) < 1:
            raise ConfigError(
                f"`categories` must give at least one column with at least one category, got {dict(categories)}. Leave the "
                "encoder out for a model without conditions."
            )
        if twice := self.categories.keys() & self.numbers.keys():
            raise ConfigError(f"A column must be of categories or of numbers, got both for {', '.join(sorted(twice))}.")
        for name, (mean, scale) in self.numbers.items():
            if not (math.isfinite(mean) and 0 < scale < math.inf):
                raise ConfigError(
                    f"`numbers` must give a finite mean and a scale > 0 for `{name}`, got {mean} and {scale}. Use the mean and "
                    "the standard deviation of its known values."
                )
        if not 0 <= dropout < 1:
            raise ConfigError(f"`dropout` must be in [0, 1), got {dropout}. Use 0 for none.")
        self.dropout = dropout
        self.embeddings = nn.ModuleList(
            # Given its weights, an embedding can be built without memory and without importing torch's compiler.
            nn.Embedding(count + 1, features, _weight=torch.randn(count + 1, features))
            for count in categories.values()
        )
        self.readings = nn.ModuleList(
            nn.Sequential(nn.Linear(2, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, features)) for _ in self.numbers
        )
        self.out_features = features * len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the order of concatenation."""
        return (*self.categories, *self.numbers)

    def unknown(self, name: str, num: int) -> Tensor:
        """(N,): what stands for unknown in a column, -1 or NaN."""
        return torch.full((num,), -1) if name in self.categories else torch.full((num,), math.nan)

    def forward(self, condition: Condition, drop: bool = True) -> Tensor:
        """(B, F) features of the columns.

        Args:
            condition: each column (B,): codes, -1 where unknown, or numbers, NaN where unknown.
            drop: whether a share of the values is made unknown in training.

        Raises:
            ConfigError: if a column is missing.
        """
        missing = [name for name in self.names if name not in condition]
        if missing:
            found = ", ".join(condition) or "none"
            raise ConfigError(
                f"The model is conditioned on {', '.join(self.names)}; {', '.join(missing)} must be given, found {found}. "
                "Give the code -1, or NaN of numbers, where it is unknown."
            )
        drop = drop and self.training and self.dropout > 0
        parts = [
            embedding((condition[name].long() + 1) * (self._kept(condition[name]) if drop else 1))
            for name, embedding in zip(self.categories, self.embeddings, strict=True)
        ]
        parts += [
            reading(self._standardized(name, condition[name], drop))
            for name, reading in zip(self.numbers, self.readings, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def _standardized(self, name: str, values: Tensor, drop: bool) -> Tensor:
        """(B, 2): how many scales from the mean, 0 where unknown, and whether known."""
        mean, scale = self.numbers[name]
        values = full_float(values)
        known = ~values.isnan() & self._kept(values) if drop else ~values.isnan()
        inside = torch.where(known, (values - mean) / scale, 0.0)
        return torch.stack([inside, known.to(inside.dtype)], dim=-1).to(next(self.readings.parameters()).dtype)

    def _kept(self, values: Tensor) -> Tensor:
        """(B,) bool: which values are not made unknown."""
        return torch.rand(values.shape, device=values.device) >= self.dropout
