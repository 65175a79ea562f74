"""New examples as files, with their labels, and what each was made of beside them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vaekit.data.dataset import Dataset
from vaekit.data.output import listed
from vaekit.data.schema import Schema
from vaekit.data.tabular import write_table
from vaekit.data.writing import write_examples
from vaekit.errors import ConfigError
from vaekit.jobs.augment import Augmented

PROVENANCE = "provenance.csv"
SUFFIXES = {"images": ("", ".npz"), "vectors": (".npz", ".csv", ".tsv", ".parquet", ".jsonl")}
"""The endings that hold labels and provenance as well."""

_LABEL = "label"


def check_augmented_output(out: str | os.PathLike[str], schema: Schema) -> None:
    """Refuses an ending that cannot hold new examples with their labels, before the work starts.

    Raises:
        ConfigError: if it cannot.
    """
    endings = SUFFIXES[schema.kind]
    if Path(out).suffix.lower() not in endings:
        raise ConfigError(f"OUT of new {schema.kind} must be {listed(endings)}, got `{out}`. Choose another ending.")


def write_augmented(made: Augmented, dataset: Dataset, out: str | os.PathLike[str], force: bool = False) -> None:
    """New examples in a form that `train` and others read back, with their labels; the ending of `out` chooses it.

    No ending: class folders of PNG files (one folder without a single column of categories), and `provenance.csv`, a row a
    file: `file`, the columns, `how`, `source`, `other`, `weight`, `seed`. `.npz`: `x`, `y` (the column `label`), `y_NAME` (any
    other), and the arrays of the provenance. Of vectors also tables. Sources are file names where the data have them.

    Args:
        made: of images or vectors.
        dataset: what they were made of.
        out: where to.
        force: replace what is there, see `data.writing.write_examples`.

    Raises:
        ConfigError: on another ending; if `out` cannot be written.
        DataError: if `out` exists, and `force` is False.
    """
    check_augmented_output(out, dataset.schema)
    provenance = {**made.provenance, **{end: named(made.provenance[end], dataset) for end in ("source", "other")}}
    if Path(out).suffix == "":
        files = file_names(made)
        table = {"file": np.array(files, dtype=object), **made.columns, **provenance}
        write_examples(made.x, dataset.schema, out, force, names=files, tables={PROVENANCE: table})
        return
    columns = made.columns
    if Path(out).suffix.lower() == ".npz":
        columns = {"y" if name == _LABEL else f"y_{name}": _plain(values) for name, values in columns.items()}
    write_table({"x": made.x, **columns, **provenance}, out, force)


def file_names(made: Augmented) -> list[str]:
    """The relative name of each new image: in a folder of its class where there is one column of categories."""
    texts = [values for values in made.columns.values() if values.dtype.kind != "f"]
    names = [f"{index:05d}.png" for index in range(len(made.x))]
    if len(texts) != 1:
        return names
    folders = [str(text).replace("/", "_") or "unknown" for text in texts[0]]
    return [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]


def named(indices: np.ndarray, dataset: Dataset) -> np.ndarray:
    """File names in place of indices, empty where there is none; the indices themselves where the data have no names."""
    if dataset.names is None:
        return indices
    return np.array(["" if index < 0 else dataset.names[index] for index in indices.tolist()], dtype=object)


def _plain(values: np.ndarray) -> np.ndarray:
    """Texts that print whole numbers as these, -1 where unknown; all else as it is."""
    if values.dtype.kind == "f":
        return values
    texts = ["-1" if text == "" else str(text) for text in values.tolist()]
    whole = all(text.lstrip("-").isdecimal() and str(int(text)) == text for text in texts)
    return np.array(texts, dtype=np.int64) if whole else values.astype(str)
