"""Augment: new examples to train on beside given ones, of the rare classes or of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from vaekit.component import device_of
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Column
from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.around import Around, by_generation, by_posterior, by_ways, categories_of, chosen, pairs_within
from vaekit.jobs.blocks import draws_mean
from vaekit.jobs.conditions import printed
from vaekit.jobs.rows import RowsWhere, Table
from vaekit.storage import Bundle


@dataclass(frozen=True)
class Augmented:
    """New examples beside data.

    Attributes:
        x: (M, ...) the new examples, class by class where a column is balanced: in the source's layout and dtype; of a table
            its cells (M, C), float64.
        counts: of each category of the balanced column, (examples in the data, new ones); without a column one entry, named
            ``"rows"`` of a table, and else ``"examples"``.
        notes: what a person should know.
        columns: (M,) of each column beside the data, texts or numbers; none of a table.
        provenance: (M,) each, and none of a table: `how`, the `source` and the `other` example that it was made of (indices of
            the data, -1 for none), `weight`, the share of the way from the one to the other (NaN for none), and `seed`.
        how: `posterior`, `interpolate` or `generate`; of a table always the last.
        reason: why, in a sentence.
    """

    x: np.ndarray
    counts: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, np.ndarray] = field(default_factory=dict)
    how: str = "generate"
    reason: str = "generate: a table's rows are drawn from p(row|category)."

    @property
    def cells(self) -> np.ndarray:
        """(M, C) of a table: what `x` is."""
        return self.x


def augment(
    bundle: Bundle,
    dataset: Dataset,
    *,
    balance: str | None = None,
    factor: float | None = None,
    how: str = "auto",
    temperature: float = 1.0,
    path: str = "linear",
    partners: str = "neighbours",
    draw: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Augmented:
    """New examples to train on beside the data, which keep the class of what they are made of.

    With `balance`, so many that every category has as many as the most frequent one has times `factor`. Without,
    `factor` - 1 new examples for each of the data. Each example of a class serves as a source as often as any other, give or
    take one.

        posterior:    x ~ p(x|z, c),  z ~ q(z|x_i, c), its width times `temperature`
        interpolate:  x ~ p(x|z, c),  z on the way from E q(z|x_i) to E q(z|x_j) of the same class
        generate:     x ~ p(x|z, c),  z ~ p(z|c), its width times `temperature`, with the columns c of an example

    `auto` generates where the model is conditioned on the data's columns of categories, and else draws from posteriors (from
    ways between two, where these are points). Rows of a table are drawn from p(row|column = category).

    Args:
        bundle: the model of images, vectors or a table.
        dataset: N examples that fit the model's schema.
        balance: a column of categories.
        factor: see above, >= 1; 1 if None with `balance`, 2 without.
        how: `auto`, `posterior`, `interpolate` or `generate`; for images and vectors.
        temperature: factor on the width, > 0; for `posterior` also 0, which gives reconstructions.
        path: of `interpolate`, `linear` or `spherical`.
        partners: of `interpolate`: `neighbours`, one of the 5 nearest of the class, or `random`, any of the class.
        draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images, a sample for vectors.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total).

    Raises:
        ConfigError: if an argument cannot be, or does not fit the model.
        DataError: if there are no examples, no such column, or too few of a class.
    """
    if bundle.schema.kind == "text":
        raise ConfigError("A model must be of images, arrays or a table to augment, got one of text. Use `generate`.")
    check_examples(dataset)
    factor = (1.0 if balance is not None else 2.0) if factor is None else factor
    if not 1.0 <= factor < float("inf") or not 0 <= temperature < float("inf"):
        raise ConfigError(
            f"`factor` must be at least 1 and `temperature` above 0, got {factor} and {temperature}. Leave both "
            "out when in doubt."
        )
    if bundle.schema.kind == "table":
        if how not in ("auto", "generate"):
            raise ConfigError(f"`how` must be auto or generate for a table, got {how!r}. Leave it out.")
        _check_warm(temperature, "a table")
        return _rows(bundle, dataset, balance, factor, temperature, seed, progress)
    draws_mean(bundle, draw)
    found, reason = chosen(bundle, dataset, how)
    if found == "generate":
        _check_warm(temperature, "`generate`")
    rng = np.random.default_rng(seed)
    sources, counts, notes = _sources(dataset, balance, factor, found == "interpolate", rng)
    if len(sources) == 0:
        return _nothing(dataset, counts, notes, found, reason)
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)):
        if found == "interpolate":
            pairs, weight = pairs_within(bundle, dataset, sources, partners, rng)
            made = by_ways(bundle, dataset, pairs, weight, path, draw, progress)
        else:
            by = by_generation if found == "generate" else by_posterior
            made = by(bundle, dataset, sources, temperature, draw, progress)
    return _told(made, dataset, counts, notes, found, reason, seed)


def _check_warm(temperature: float, what: str) -> None:
    if temperature == 0:
        raise ConfigError(f"`temperature` must be above 0 for {what}, got 0. Use a small value for typical examples.")


def _nothing(dataset: Dataset, counts: dict[str, tuple[int, int]], notes: tuple[str, ...], how: str, reason: str) -> Augmented:
    none = np.empty(0, np.int64)
    empty = Around(
        dataset.raw()[:0], {name: codes[:0] for name, codes in dataset.columns.items()}, none.reshape(0, 2), np.empty(0)
    )
    return _told(empty, dataset, counts, notes, how, reason, 0)


def _told(
    made: Around,
    dataset: Dataset,
    counts: dict[str, tuple[int, int]],
    notes: tuple[str, ...],
    how: str,
    reason: str,
    seed: int,
) -> Augmented:
    num = len(made.x)
    provenance = {
        "how": np.full(num, how, dtype=object),
        "source": made.source[:, 0],
        "other": made.source[:, 1],
        "weight": made.weight,
        "seed": np.full(num, seed, np.int64),
    }
    return Augmented(made.x, counts, notes, printed(dataset.schema, made.columns), provenance, how, reason)


def _sources(
    dataset: Dataset, balance: str | None, factor: float, known_only: bool, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, tuple[int, int]], tuple[str, ...]]:
    """(M,) of which example each new one is made, how many that are of each category, and what a person should know."""
    rows, notes = np.arange(len(dataset)), []
    names = categories_of(dataset) if known_only else []
    known = np.logical_and.reduce([dataset.columns[name] >= 0 for name in names]) if names else np.ones(len(rows), bool)
    if not known.all():
        notes.append(f"{int((~known).sum()):,} examples of unknown class are not interpolated.")
        rows = rows[known]
    if balance is None:
        num = round((factor - 1.0) * len(rows))
        return _often(rows, num, rng), {"examples": (len(dataset), num)}, tuple(notes)
    column = _column(dataset, balance)
    codes = dataset.columns[balance][rows]
    if (codes < 0).any():
        notes.append(f"{int((codes < 0).sum()):,} examples of unknown `{balance}` are left out.")
    counts = np.bincount(codes[codes >= 0], minlength=len(column.categories))
    goal, parts, told = round(factor * counts.max()), [], {}
    for code, (name, count) in enumerate(zip(column.categories, counts.tolist(), strict=True)):
        if count == 0:
            notes.append(f"No example is `{name}`: none is made.")
        new = goal - count if count else 0
        parts.append(_often(rows[codes == code], new, rng))
        told[name] = count, new
    return np.concatenate(parts), told, tuple(notes)


def _often(rows: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """(num,) of the rows, each as often as any other, give or take one."""
    if num == 0:
        return rows[:0]
    whole, rest = divmod(num, len(rows))
    return np.sort(np.concatenate([rows.repeat(whole), rng.choice(rows, rest, replace=False)]), kind="stable")


def _column(dataset: Dataset, balance: str) -> Column:
    if balance not in dataset.columns:
        found = ", ".join(dataset.columns) or "none"
        raise DataError(f"The data must have the column `{balance}` to balance, found {found}. Choose one beside the data.")
    column = dataset.schema.column(balance)
    if not isinstance(column, Column):
        raise ConfigError(
            f"The column to balance must have categories, found `{balance}`, which is of numbers. Choose another."
        )
    if not (dataset.columns[balance] >= 0).any():
        raise DataError(f"Some examples must have a known `{balance}` to balance, found none. Give labelled ones.")
    return column


def _rows(
    bundle: Bundle,
    dataset: Dataset,
    balance: str | None,
    factor: float,
    temperature: float,
    seed: int,
    progress: Progress | None,
) -> Augmented:
    """New rows of a table: x ~ p(x | column = category), or p(x)."""
    table = Table.of(bundle, "augment")
    wanted = _wanted(table, dataset, balance, factor)
    total, done, parts, notes = sum(new for _, new in wanted.values()), 0, [], []
    with torch.inference_mode(), seeded(seed, table.device):
        for name, (_, new) in wanted.items():
            if new == 0:
                continue
            where = {} if balance is None else {balance: name}
            drawn = RowsWhere(table, where, temperature).draw(new)
            parts.append(table.grid.inverse(drawn.x.cpu()).numpy())
            note = drawn.note()
            notes += [] if note is None else [f"{name}: {note}"]
            done += new
            if progress is not None:
                progress(done, total)
    cells = np.concatenate(parts) if parts else np.empty((0, len(table.grid.sizes)))
    return Augmented(cells, wanted, tuple(notes))


def _wanted(table: Table, dataset: Dataset, balance: str | None, factor: float) -> dict[str, tuple[int, int]]:
    """Of each category the rows in the data and the rows to make."""
    if balance is None:
        return {"rows": (len(dataset), round((factor - 1.0) * len(dataset)))}
    names = [column.name for column in table.columns]
    if balance not in names:
        raise DataError(f"The table must have the column `{balance}` to balance; it has {', '.join(names[:20])}. Choose one.")
    index = names.index(balance)
    column = table.columns[index]
    if not column.is_coded or len(column.categories) < 2:
        raise ConfigError(
            f"The column to balance must have categories, found `{balance}`, which is {column.type}. Choose another, or read "
            f"it with the type `{balance}=categorical` and train anew."
        )
    codes = dataset.stored()[:, index]
    counts = np.bincount(codes[~np.isnan(codes)].astype(np.int64), minlength=len(column.categories))
    goal = round(factor * counts.max())
    return {name: (int(n), int(max(0, goal - n))) for name, n in zip(column.categories, counts, strict=True)}
