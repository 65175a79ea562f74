"""What a person says a column is, whatever its cells look like."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaekit.data.tables.columns import TYPES, ColumnType
from vaekit.errors import ConfigError

Overrides = Mapping[str, str] | Sequence[str] | str | os.PathLike[str] | None
"""Column -> type, as a dict, as `col=type` texts, or as the path of a JSON file of such a dict."""


@dataclass(frozen=True)
class Override:
    """The type of a column, and what belongs to it.

    Attributes:
        type: of the column.
        order: the categories of an ordinal column, from the least.
        format: of a datetime column.
    """

    type: ColumnType
    order: tuple[str, ...] = ()
    format: str = ""


def parse_overrides(overrides: Overrides, names: Sequence[str] | None = None) -> dict[str, Override]:
    """What is said of each column.

    A type may carry more: `ordinal:low<medium<high` its order, `datetime:%d/%m/%Y` its format.

    Args:
        overrides: a dict, `col=type` texts, or the path of a JSON file.
        names: the columns that there are; None where they are not known.

    Raises:
        ConfigError: on an unknown column or type.

    Example:
        >>> parse_overrides(["size=ordinal:S<M<L"])["size"].order
        ('S', 'M', 'L')
    """
    found = {}
    for name, text in _pairs(overrides, names).items():
        if names is not None and name not in names:
            raise ConfigError(f"A type must be given to a column that is there, got `{name}`. {near(name, names)}")
        kind, _, rest = str(text).partition(":")
        kind = kind.strip().lower()
        if kind not in TYPES:
            raise ConfigError(f"The type of `{name}` must be one of {', '.join(TYPES)}, got {kind!r}. {near(kind, TYPES)}")
        if rest and kind not in ("ordinal", "datetime"):
            raise ConfigError(f"The type of `{name}` must stand alone, got {text!r}. Only ordinal and datetime take more.")
        order = tuple(part.strip() for part in rest.split("<")) if kind == "ordinal" and rest else ()
        if len(set(order)) != len(order):
            raise ConfigError(f"The order of `{name}` must name each category once, got {rest!r}.")
        found[name] = Override(kind, order, rest if kind == "datetime" else "")  # type: ignore[arg-type]
    return found


def near(name: str, known: Sequence[str]) -> str:
    """A sentence that names what is near to an unknown name."""
    close = difflib.get_close_matches(name, list(known), 3, 0.5)
    if not close:
        folded = {other.lower(): other for other in known}
        close = [folded[hit] for hit in difflib.get_close_matches(name.lower(), list(folded), 3, 0.5)]
    if close:
        return f"Did you mean {' or '.join(f'`{hit}`' for hit in close)}?"
    listed = ", ".join(f"`{other}`" for other in list(known)[:20])
    return f"Choose one of {listed}{', ...' if len(known) > 20 else ''}." if known else "There is none."


def _pairs(overrides: Overrides, names: Sequence[str] | None) -> dict[str, str]:
    if overrides is None:
        return {}
    if isinstance(overrides, Mapping):
        return {str(name): str(text) for name, text in overrides.items()}
    if isinstance(overrides, os.PathLike) or (isinstance(overrides, str) and overrides.lower().endswith(".json")):
        try:
            read = json.loads(Path(overrides).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"`{overrides}` must be a JSON file of columns and their types, but: {error}. Mend it."
            ) from error
        if not isinstance(read, dict):
            raise ConfigError(f'`{overrides}` must hold an object such as {{"age": "integer"}}, got {type(read).__name__}.')
        return {str(name): str(text) for name, text in read.items()}
    pairs = {}
    for text in [overrides] if isinstance(overrides, str) else overrides:
        name = max((name for name in names or () if text.startswith(f"{name}=")), key=len, default=None)
        cut = len(name) if name is not None else text.rfind("=")
        if cut < 1:
            raise ConfigError(f"A type must be given as `column=type`, got {text!r}.")
        pairs[text[:cut].strip() if name is None else name] = text[cut + 1 :].strip()
    return pairs
