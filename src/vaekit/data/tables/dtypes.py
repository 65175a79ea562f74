"""Polars dtypes as text, which a saved schema has, and back."""

from __future__ import annotations

import ast
import re
from typing import Any

import polars as pl

_BITS = "|".join(("Int8", "Int16", "Int32", "Int64", "Int128", "UInt8", "UInt16", "UInt32", "UInt64", "UInt128", "Float16"))
_PLAIN = f"{_BITS}|Float32|Float64|Boolean|String|Date|Time|Null"


def dtype_name(dtype: Any) -> str:
    """A dtype as text.

    Example:
        >>> dtype_name(pl.Datetime("us", "UTC"))
        'Datetime[us, UTC]'
    """
    if isinstance(dtype, pl.Datetime):
        return f"Datetime[{dtype.time_unit}, {dtype.time_zone}]" if dtype.time_zone else f"Datetime[{dtype.time_unit}]"
    if isinstance(dtype, pl.Duration):
        return f"Duration[{dtype.time_unit}]"
    if isinstance(dtype, pl.Decimal):
        return f"Decimal[{dtype.precision}, {dtype.scale}]"
    if isinstance(dtype, pl.Enum):
        return f"Enum[{dtype.categories.to_list()!r}]"
    if dtype == pl.Categorical:
        return "Categorical"
    return str(dtype)


def dtype_of(name: str) -> Any:
    """The dtype of a text.

    Example:
        >>> dtype_of("Datetime[us, UTC]")
        Datetime(time_unit='us', time_zone='UTC')
    """
    if re.fullmatch(_PLAIN, name):
        return getattr(pl, name)()
    if name == "Categorical":
        return pl.Categorical()
    kind, _, rest = name.partition("[")
    rest = rest.removesuffix("]")
    if kind == "Datetime":
        unit, _, zone = rest.partition(", ")
        return pl.Datetime(unit, zone or None)  # type: ignore[arg-type]
    if kind == "Duration":
        return pl.Duration(rest)  # type: ignore[arg-type]
    if kind == "Decimal":
        precision, scale = rest.split(", ")
        return pl.Decimal(None if precision == "None" else int(precision), int(scale))
    if kind == "Enum":
        return pl.Enum(ast.literal_eval(rest))
    raise ValueError(f"{name!r} is no dtype of a column")
