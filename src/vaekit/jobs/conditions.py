"""What a conditional model is asked for: from printed categories to features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vaekit.data.dataset import Dataset
from vaekit.data.schema import UNKNOWN, Schema
from vaekit.errors import ConfigError
from vaekit.storage import FREQUENCIES, Bundle


def codes_where(bundle: Bundle, where: Mapping[str, str | int] | None) -> dict[str, int]:
    """The codes of the categories that are asked for, by column.

    Raises:
        ConfigError: if the model is not conditioned on a column.
        DataError: if a value is not one of the column's categories.
    """
    conditioned = () if bundle.vae.condition is None else tuple(bundle.vae.condition.categories)
    for name in where or {}:
        if name not in conditioned:
            known = f"it is conditioned on {', '.join(conditioned)}" if conditioned else "it has no conditions"
            raise ConfigError(
                f"`where` must name a column that the model is conditioned on, got {name!r}: {known}. "
                f"Train with `condition` to ask for values of a column."
            )
    return {name: bundle.schema.column(name).code(str(value)) for name, value in (where or {}).items()}


def features_of(bundle: Bundle, columns: Mapping[str, Tensor] | None, num: int) -> Tensor | None:
    """(N, F) features of columns of codes, unknown where a column is not given; None for a model without conditions."""
    return bundle.vae.encode_condition(bundle.vae.condition_of(columns, num))


def features_of_data(bundle: Bundle, dataset: Dataset) -> Tensor | None:
    """(N, F) features of a data set's own columns."""
    columns = {name: torch.from_numpy(np.ascontiguousarray(codes)) for name, codes in dataset.columns.items()}
    return features_of(bundle, columns, len(dataset))


def draw_codes(bundle: Bundle, num: int, fixed: Mapping[str, int]) -> dict[str, Tensor]:
    """(N,) codes of each column of a conditional model: the fixed ones as they are, the others drawn.

    Columns are drawn one by one by the frequencies of their categories in the training data, where the model knows
    them, and evenly otherwise.
    """
    if bundle.vae.condition is None:
        return {}
    drawn = {}
    for name, count in bundle.vae.condition.categories.items():
        weights = _frequencies(bundle, name, count)
        codes = torch.multinomial(weights, num, replacement=True)  # drawn even where fixed: the latents then stay the same
        drawn[name] = torch.full((num,), fixed[name]) if name in fixed else codes
    return drawn


def _frequencies(bundle: Bundle, name: str, count: int) -> Tensor:
    known = bundle.training.get(FREQUENCIES, {})
    counts = known.get(name) if isinstance(known, dict) else None
    if isinstance(counts, list) and len(counts) == count and sum(counts) > 0:
        return torch.tensor(counts, dtype=torch.float64)
    return torch.ones(count, dtype=torch.float64)


def printed(schema: Schema, columns: Mapping[str, Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of codes as columns of text; the empty text where unknown."""
    out = {}
    for name, codes in columns.items():
        names = np.array([*schema.column(name).categories, ""], dtype=object)
        out[name] = names[np.asarray(codes, dtype=np.int64)]  # -1 is the last, the empty text
    return out


def codes_of_text(schema: Schema, columns: Mapping[str, object]) -> dict[str, Tensor]:
    """Columns of text as columns of codes: the inverse of `printed`.

    Raises:
        DataError: if a value is not one of the column's categories.
    """
    out = {}
    for name, values in columns.items():
        column = schema.column(name)
        texts = ["" if value is None else str(value) for value in np.asarray(values, dtype=object).tolist()]
        unknown = "" if "" not in column.categories else None
        codes = {text: UNKNOWN if text == unknown else column.code(text) for text in dict.fromkeys(texts)}
        out[name] = torch.tensor([codes[text] for text in texts], dtype=torch.int64)
    return out
