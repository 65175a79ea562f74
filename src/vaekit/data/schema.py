"""What a data set is: its kind, shape, values and columns, as JSON.

The schema chooses the parts of the model, is saved with it, and is what later data is checked against.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vaekit.data.tables.columns import TableColumn, num_channels
from vaekit.data.text.format import TextFormat
from vaekit.errors import DataError

UNKNOWN = -1
"""The code of a category that is missing or was never seen."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Column(_Record):
    """A column beside the data, such as the label: what a model may be conditioned on.

    Attributes:
        name: as in the file; class folders and `y` arrays become `label`.
        kind: `categorical`: codes 0..len(categories)-1, or `UNKNOWN`.
        categories: each category as it prints.
    """

    name: str
    kind: Literal["categorical"] = "categorical"
    categories: tuple[str, ...]

    def code(self, value: Any) -> int:
        """The code of a category, by its printed form.

        Raises:
            DataError: if it is not one of the categories.
        """
        text = str(value)
        if text not in self.categories:
            known = ", ".join(self.categories[:20]) + (", ..." if len(self.categories) > 20 else "")
            raise DataError(f"`{self.name}` must be one of {known}; got {text!r}. Choose one of them.")
        return self.categories.index(text)

    def unknown(self, num: int) -> np.ndarray:
        """(N,) codes of what is not known."""
        return np.full(num, UNKNOWN, np.int64)

    def printed(self, codes: Any) -> np.ndarray:
        """(N,) objects: the texts of codes, empty where unknown."""
        names = np.array([*self.categories, ""], dtype=object)
        return names[np.asarray(codes, dtype=np.int64)]  # -1 is the last, the empty text


class NumberColumn(_Record):
    """A column of numbers beside the data, such as an angle.

    Attributes:
        name: as in the file; a `y` array of measurements becomes `label`.
        kind: `number`: float64, NaN where unknown.
        mean, scale: of the known values: their mean, and their standard deviation, or 1 where they are all the same.
        low, high: the least and the greatest known value.
    """

    name: str
    kind: Literal["number"] = "number"
    mean: float
    scale: float = Field(gt=0)
    low: float
    high: float

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> Self:
        """The column of that name with these values (N,), of which at least one is known.

        Raises:
            DataError: if a value is not finite.
        """
        if np.isinf(values).any():
            raise DataError(f"`{name}` must be finite numbers, found infinities. Write NaN where a number is not known.")
        known = values[~np.isnan(values)]
        low, high = float(known.min()), float(known.max())
        spread = float(known.std()) if high > low else 0.0  # of equal numbers rounding may leave something
        return cls(name=name, mean=float(known.mean()), scale=spread or 1.0, low=low, high=high)

    @property
    def categories(self) -> tuple[str, ...]:
        """None: numbers are no categories."""
        return ()

    def code(self, value: Any) -> float:
        """A number, by its printed form.

        Raises:
            DataError: if it is no finite number.
        """
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"`{self.name}` must be a finite number, such as {self.mean:.4g} (in training {self.low:g} to {self.high:g}); "
                f"got {value!r}. Give one number."
            )
        return number

    def unknown(self, num: int) -> np.ndarray:
        """(N,) NaN."""
        return np.full(num, np.nan)

    def printed(self, codes: Any) -> np.ndarray:
        """(N,) the numbers themselves, NaN where unknown."""
        return np.asarray(codes, dtype=np.float64)


AnyColumn = Annotated[Column | NumberColumn, Field(discriminator="kind")]
"""A column beside the data, of categories or of numbers."""


class Source(_Record):
    """The form in which the data came, and in which outputs are given back.

    Attributes:
        form: where it came from: files of images or arrays, `array` for arrays in memory, the forms of tables, files of text,
            or `list` for texts in memory.
        layout: how an example lies in the source: `CHW`, `HWC`, `HW` (images), `flat` (vectors).
        dtype: NumPy name of the source's values.
        size: (H, W) that differing images were brought to; None where every file was used as it is.
        fit: how: `crop` (cover, then cut the centre), `resize` (stretch), `pad` (fit inside, black border).
        channels: that differing images were brought to; None where every file was used as it is.
        column: in which the texts lay; None where they had no name.
    """

    form: Literal[
        "folder", "zip", "npy", "npz", "idx", "array",
        "csv", "tsv", "parquet", "arrow", "xlsx", "pandas", "polars", "pyarrow", "dict",
        "txt", "jsonl", "list",
    ]  # fmt: skip
    layout: Literal["CHW", "HWC", "HW", "flat"]
    dtype: str
    size: tuple[int, int] | None = None
    fit: Literal["crop", "resize", "pad"] | None = None
    channels: Literal[1, 3, 4] | None = None
    column: str | None = None


class Schema(_Record):
    """A data set in one record.

    Attributes:
        kind: `images` with shape (C, H, W), `vectors` with shape (D,), `table` with a channel for each column's value and
            for each state that is not a plain value (see `data.tables.columns`), or `text` with shape (T,): the tokens of an
            item, their end, and padding.
        shape: the shape of one example as the model sees it.
        values: `binary` (two levels), `levels` (a grid of levels), `continuous`, the `cells` of a table, the `tokens` of text.
        levels: the number of levels V, for binary and levels; a stored value is a level 0..V-1. Of text, the number of codes.
        offset, step: a source value is offset + step * level (binary and levels).
        low, high: the least and the greatest source value that was seen.
        dtype: the storage dtype: uint8 or uint16 for levels, float32 for continuous, float64 for cells; uint16 for tokens, or
            int32 where there are more codes than fit.
        columns: what lies beside the data, such as the label.
        table: the columns of a table.
        text: the tokens of text, and how they are printed.
        source: the form that the data came in.
        num_examples: how many there were.
        missing: whether some elements are missing.
    """

    kind: Literal["images", "vectors", "table", "text"]
    shape: tuple[int, ...] = Field(min_length=1)
    values: Literal["binary", "levels", "continuous", "cells", "tokens"]
    levels: int | None = None
    offset: float = 0.0
    step: float = 1.0
    low: float
    high: float
    dtype: Literal["uint8", "uint16", "int32", "float32", "float64"]
    columns: tuple[AnyColumn, ...] = ()
    table: tuple[TableColumn, ...] = ()
    text: TextFormat | None = None
    source: Source
    num_examples: int
    missing: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.levels is None) != (self.values in ("continuous", "cells")):
            raise ValueError("`levels` must be given for binary, levels and tokens, and only there")
        if (self.kind == "table") != bool(self.table) or (self.kind == "table") != (self.values == "cells"):
            raise ValueError("`table` must be given for tables, whose values are cells, and only there")
        if self.table and self.shape != (num_channels(self.table),):
            raise ValueError(f"a table of {len(self.table)} columns must have the shape ({num_channels(self.table)},)")
        if len({self.kind == "text", self.values == "tokens", self.text is not None}) > 1:
            raise ValueError("`text` must be given for text, whose values are tokens, and only there")
        if self.text is not None and (len(self.shape) != 1 or self.shape[0] < 2 or self.levels != self.text.num_tokens):
            raise ValueError(f"text of {self.text.num_tokens} codes must have as many levels and a shape (T,) of at least 2")
        if self.kind == "images" and len(self.shape) != 3:
            raise ValueError(f"images must have the shape (C, H, W), got {self.shape}")
        return self

    @property
    def num_dimensions(self) -> int:
        """How many values an example has: C*H*W, or D."""
        return math.prod(self.shape)

    def column(self, name: str) -> Column | NumberColumn:
        """The column of that name.

        Raises:
            DataError: if there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns) or "no columns"
        raise DataError(
            f"The data must have a column `{name}`; it has {known}. Choose one of them, or give labels with the data."
        )
