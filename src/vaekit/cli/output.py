"""What commands say, and the files that they write."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.data.output import EXAMPLE_SUFFIXES, as_json, listed
from vaekit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from vaekit.cli.options import Screen
    from vaekit.data.schema import Schema


def report(screen: Screen, record: Mapping[str, Any], lines: Sequence[tuple[str, str]] | str) -> None:
    """One JSON object on standard output, or the same for people: a table there, or a sentence on standard error."""
    if not _first_process():
        return
    if screen.json:
        print(json.dumps(as_json(record), ensure_ascii=False, allow_nan=False))
    elif isinstance(lines, str):
        remark(screen, lines)
    else:
        width = max((len(name) for name, _ in lines), default=0)
        print("\n".join(f"{name:<{width}}  {value}" for name, value in lines))


def remark(screen: Screen, sentence: str) -> None:
    """A sentence on standard error, unless `--quiet`."""
    if not screen.quiet and _first_process():
        print(sentence, file=sys.stderr, flush=True)


def short(value: object) -> str:
    """A value as a table shows it.

    Example:
        >>> short(1234), short(0.123456), short([1, 2]), short(None)
        ('1,234', '0.12346', '1, 2', 'none')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} ({len(values)} values)" for name, values in value.items()) or "none"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _first_process() -> bool:
    """Whether this is the one of `torchrun`'s processes that speaks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(screen: Screen, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error where that is a terminal; nothing elsewhere."""
    if screen.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """To the millisecond."""
        return round(time.perf_counter() - self.start, 3)


def write(
    values: np.ndarray,
    schema: Schema,
    out: Path,
    force: bool,
    *,
    names: Sequence[str] | None = None,
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Examples in the form that the ending of OUT says: .png is one grid, and all else is what `write_examples` makes of it.

    The cells of a table are printed as they came. Rows and texts are written with what stands beside them.
    """
    from vaekit.data.text.writing import write_texts
    from vaekit.data.writing import write_examples, write_grid

    if schema.kind == "table":
        from polars import Series

        from vaekit.data.tables import decode
        from vaekit.data.tables import write as write_frame

        frame = decode(values, schema.table)
        for place, (name, part) in enumerate((beside or {}).items()):
            frame = frame.insert_column(place, Series(free_name(name, frame.columns), part))
        write_frame(frame, out, force)
        return
    if schema.kind == "text":
        given = {name: list(part) for name, part in (beside or {}).items()}
        write_texts(values.tolist(), out, given, force, column=schema.source.column or "text")
    elif out.suffix.lower() == ".png" and schema.kind == "images":
        write_grid(values, schema, out, columns=columns, force=force, labels=labels)
    else:
        write_examples(values, schema, out, force=force, names=names)


def free_name(name: str, taken: Sequence[str]) -> str:
    """The name, or with as many underscores as it takes for it to be a new one.

    Example:
        >>> free_name("unit", ["unit", "unit_"])
        'unit__'
    """
    while name in taken:
        name += "_"
    return name


def check_ending(out: Path, endings: Sequence[str]) -> None:
    """Refuses an output of another ending before the work starts.

    Raises:
        ConfigError: if the ending is none of them.
    """
    if out.suffix.lower() not in endings:
        raise ConfigError(f"OUT must end in {listed(endings)}, got {str(out)!r}. Choose another ending.")


def check_form(out: Path, schema: Schema) -> None:
    """Refuses an ending that examples of this kind cannot be written in, before the work starts.

    Raises:
        ConfigError: if the ending does not fit.
    """
    endings = EXAMPLE_SUFFIXES[schema.kind]
    if out.suffix.lower() not in endings:
        raise ConfigError(f"OUT of {schema.kind} must be {listed(endings)}; got {str(out)!r}. Choose another ending.")


def usual_output(schema: Schema) -> str:
    """A name for what is generated, with an ending that fits the kind of the data."""
    return "samples." + {"images": "png", "text": "txt"}.get(schema.kind, "csv")


def class_folders(columns: Mapping[str, np.ndarray]) -> list[str] | None:
    """Names that put examples of one condition into class folders, as `train` reads them; None with none or several."""
    if len(columns) != 1:
        return None
    (labels,) = columns.values()
    if labels.dtype.kind == "f":  # numbers are no classes
        return None
    return [f"{str(label).replace('/', '_')}/{index:05d}.png" for index, label in enumerate(labels)]
