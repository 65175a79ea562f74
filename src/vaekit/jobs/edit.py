"""Edit: each example as it would be with another value of a column, such as its label, or further along a named direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import device_of
from vaekit.data.dataset import Dataset
from vaekit.data.schema import UNKNOWN
from vaekit.data.tables.columns import state_channels
from vaekit.distributions import TokenSequence, guided
from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.blocks import PLAINLY, Spelling, decoded, posterior_of
from vaekit.jobs.conditions import beyond, columns_of, conditioned, features_of, filled, printed
from vaekit.jobs.directions import is_column, moved, named, parse_move
from vaekit.jobs.spaces import factors_of
from vaekit.storage import Bundle

Method = Literal["auto", "vector", "condition"]

METHODS = ("auto", "vector", "condition")


@dataclass(frozen=True)
class Edited:
    """Examples with other values of some columns.

    Attributes:
        x: (N, ...) in the source's layout and dtype; of a table its cells (N, C), float64, of text (N,) texts.
        columns: the data's columns as text, each (N,), those that were set as they were set; empty text where unknown.
        methods: how each column was set, `vector` or `condition`; of what is no column, `direction`.
        notes: what a person should know.
    """

    x: np.ndarray
    columns: Mapping[str, np.ndarray]
    methods: Mapping[str, str]
    notes: tuple[str, ...] = ()


def edit(
    bundle: Bundle,
    dataset: Dataset,
    values: Mapping[str, str | float],
    *,
    strength: float = 1.0,
    method: Method = "auto",
    training: Dataset | None = None,
    draw: str = "mean",
    seed: int = 0,
    progress: Progress | None = None,
    spelling: Spelling = PLAINLY,
) -> Edited:
    """Each example decoded from its own latent, with columns set to other values, or moved along named directions.

        condition:  x' ~ p(x | z, f + s (f* - f)),     z = E q(z|x, c), f the features of c, f* those with the values set
                    (a number c is set to c + s (c* - c) in both);
                    of text  p_s(x_t | x_<t, z)  with  log p_s = (1 - s) log p(. | f) + s log p(. | f*) - log of its sum
        vector:     x' ~ p(x | z + s (m* - m), c),     m* the mean latent of examples with the value, m of those with x's own
        direction:  x' ~ p(x | z + s a v, c),          v one step of the direction, a how many; see `jobs.directions.moved`

    By its condition, where the model is conditioned on the column: z then has the rest, as far as training has kept it apart.
    By a vector between mean latents otherwise: Larsen, Sonderby, Larochelle, Winther, "Autoencoding beyond pixels using a
    learned similarity metric" (2016), section 4; of text Shen, Mueller, Barzilay, Jaakkola, "Educating text autoencoders:
    latent representation guidance via denoising" (2020), section 5. Departure from both: an example of a known value moves by
    the difference to its own value's mean, so that one that has the value already stays; m is the mean of all other examples
    only where its own value is not known.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        values: column -> the category that it is to have, or of numbers the number, or text such as `+0.5` to
            be added to each example's own (see `parse_number`). A condition's column need not be in the data: it is unknown
            there. Or a name that a direction of the model has -> steps, as a number or as `+2`; `=2` puts examples at that
            position after all steps. Any number of them; columns and directions may stand together.
        strength: s; 0 reconstructs, and more than 1 exaggerates (of text under a condition, see `distributions.guided`).
        method: of all columns; `auto`: by the condition where there is one, else by a vector.
        training: examples with the columns, of which the means are; `dataset` itself if None.
        draw: `mean` of p(x|z, c) (the likeliest tokens of text), or a `sample` of it.
        seed: of the samples.
        progress: called with (done, total) as examples are encoded and then decoded.
        spelling: of text, how it is made.

    Raises:
        ConfigError: if nothing is set, a column cannot be set by this method, latents are not real numbers, or what a
            direction is set to says neither steps nor a position.
        DataError: if there is no such column or category, or no example to make a mean of.
    """
    check_examples(dataset)
    if not values:
        raise ConfigError(
            "A column must be set to another value, or a direction, got none. Give one, as `sentiment=positive` or `slant=+2`."
        )
    if not math.isfinite(strength):
        raise ConfigError(f"`strength` must be a number, got {strength}. Use 1 when in doubt.")
    along = {name: parse_move(name, value) for name, value in values.items() if _is_direction(bundle, name, value)}
    values = {name: value for name, value in values.items() if name not in along}
    methods = _methods(bundle, values, method)
    means = _Means(bundle, dataset if training is None else training) if "vector" in methods.values() else None
    total = 2 * len(dataset)
    encoding = None if progress is None else lambda done, num: progress(done, total)
    decoding = None if progress is None else lambda done, num: progress(num + done, total)
    z, _ = posterior_of(bundle, dataset, encoding)
    numbers = {name: parse_number(bundle, name, value) for name, value in values.items() if _is_number(bundle, name)}
    codes = {name: _Labels.of(dataset, name).code(str(value)) for name, value in values.items() if name not in numbers}
    told, notes = _told(bundle, dataset, numbers, strength)
    for name in (name for name, how in methods.items() if how == "vector"):
        assert means is not None
        shift, counts = means.shift(name, codes[name], _Labels.of(dataset, name).codes)
        z = z + strength * shift.to(z)
        notes += [] if min(counts) >= _FEW else [_few(name, min(counts))]
    z = moved(bundle, z, along, strength)
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)):
        given = {name: codes[name] for name, how in methods.items() if how == "condition" and name in codes}
        features, decode = _conditions(bundle, {**columns_of(dataset), **told}, len(dataset), given, strength)
        x = decoded(bundle, z, features, draw, decoding, spelling, decode)
    methods |= dict.fromkeys(along, "direction")
    if bundle.schema.kind == "table":
        _write_cells(dataset, x, codes)
        return Edited(x, {}, methods, tuple(notes))
    columns = printed(dataset.schema, dataset.columns)
    columns |= {name: np.full(len(dataset), str(values[name]), dtype=object) for name in codes}
    columns |= {name: set_to.numpy() for name, set_to in told.items()}
    return Edited(x, columns, methods, tuple(notes))


def _is_direction(bundle: Bundle, name: str, value: str | float) -> bool:
    """Whether a direction is meant, and not a column: of one name, the column.

    Raises:
        ConfigError: if steps are asked for along what is neither.
    """
    if is_column(bundle, name):
        return False
    if str(value)[:1] in ("+", "-", "="):
        named(bundle, name)
    return name in bundle.directions


_FEW = 20


def _few(name: str, num: int) -> str:
    return (
        f"The direction of `{name}` comes from no more than {num} examples on one side, and holds much that is theirs alone. "
        "Give labelled training data."
    )


def _methods(bundle: Bundle, values: Mapping[str, str | float], method: str) -> dict[str, str]:
    """How each column is set."""
    if method not in METHODS:
        raise ConfigError(f"`method` must be auto, vector or condition, got {method!r}. Use auto when in doubt.")
    conditions = conditioned(bundle)
    found = {name: ("condition" if name in conditions else "vector") if method == "auto" else method for name in values}
    for name, how in found.items():
        if how == "vector" and _is_number(bundle, name):
            raise ConfigError(
                f"`{name}` is of numbers, which are set by a condition alone. Train with `condition` on it, or learn a "
                "direction from examples: `vaekit name`."
            )
        if how == "condition" and name not in conditions:
            known = f"it is conditioned on {', '.join(conditions)}" if conditions else "it has no conditions"
            raise ConfigError(
                f"The model must be conditioned on `{name}` to set it so, but {known}. Use the method `vector`, or train with "
                "`condition`."
            )
    if "vector" in found.values() and any(factor.kind != "real" for factor in factors_of(bundle.vae)):
        kinds = ", ".join(dict.fromkeys(factor.name for factor in factors_of(bundle.vae)))
        raise ConfigError(f"Latents must be real numbers to be added to, found {kinds}. Train a model with a condition.")
    return found


def _conditions(
    bundle: Bundle, own: Mapping[str, Tensor], num: int, given: Mapping[str, int], strength: float
) -> tuple[Tensor | None, Callable[[Tensor, Tensor | None], Distribution]]:
    """(N, F): the features of the examples' own columns moved towards those with some categories set, and p(x|z, them).

    Of text, the features of both stand side by side, (N, 2 F), and the distributions are what is moved.
    """
    features = features_of(bundle, own, num)
    if features is None or not given:
        return features, bundle.vae.decode_flat
    told = features_of(bundle, {**own, **{name: filled(code, num) for name, code in given.items()}}, num)
    assert told is not None
    if strength == 1:
        return told, bundle.vae.decode_flat
    if bundle.schema.kind != "text":
        return features + strength * (told - features), bundle.vae.decode_flat

    def decode(z: Tensor, both: Tensor | None) -> Distribution:
        assert both is not None
        start, end = (bundle.vae.decode_flat(z, part) for part in both.chunk(2, dim=-1))
        assert isinstance(start, TokenSequence)
        assert isinstance(end, TokenSequence)
        return guided(start, end, strength)

    return torch.cat([features, told], dim=-1), decode


def parse_number(bundle: Bundle, name: str, value: str | float) -> tuple[float, bool]:
    """What a column of numbers is to be: the number, and whether it is added to each example's own.

    A number, and text such as `1.2` or `=-1.2`, is what the column is set to; text that begins with a sign is added.

    Raises:
        DataError: if it is no finite number.
    """
    column, text = bundle.schema.column(name), str(value)
    adds = isinstance(value, str) and text[:1] in ("+", "-")
    return float(column.code(text.removeprefix("="))), adds


def _is_number(bundle: Bundle, name: str) -> bool:
    return any(column.name == name and column.kind == "number" for column in bundle.schema.columns)


def _told(
    bundle: Bundle, dataset: Dataset, numbers: Mapping[str, tuple[float, bool]], strength: float
) -> tuple[dict[str, Tensor], list[str]]:
    """(N,) what each column of numbers becomes, and sentences on it.

    An example whose own number is known goes `strength` of the way; one whose own is not stands at what it is set to.
    """
    told, notes = {}, []
    for name, (number, adds) in numbers.items():
        own = np.asarray(dataset.columns.get(name, np.full(len(dataset), np.nan)), dtype=np.float64)
        known = ~np.isnan(own)
        goal = own + number if adds else np.full(len(own), number)
        told[name] = torch.from_numpy(np.where(known, own + strength * (goal - own), goal))
        if adds and not known.all():
            notes.append(f"{int((~known).sum())} examples have no `{name}` to be added to, and keep it unknown.")
        if adds and number < 0:
            notes.append(f"{-number:g} is taken from each `{name}`; write `{name}=={number:g}` to set it to {number:g}.")
        reached = told[name][~told[name].isnan()]
        if len(reached):
            notes += beyond(bundle, {name: (float(reached.min()), float(reached.max()))})
    return told, notes


@dataclass(frozen=True)
class _Labels:
    """A column of categories beside data, or within a table.

    Attributes:
        name: of the column.
        codes: (N,) int64, -1 where unknown.
        categories: as they print.
    """

    name: str
    codes: np.ndarray
    categories: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> _Labels:
        """The column of that name.

        Raises:
            DataError: if the schema has none of categories.
        """
        schema = dataset.schema
        if schema.kind != "table":
            column = schema.column(name)
            codes = dataset.columns.get(name, column.unknown(len(dataset)))
            return cls(name, codes, column.categories)
        names = [column.name for column in schema.table]
        if name not in names:
            raise DataError(f"The table must have the column `{name}`; it has {', '.join(names[:20])}. Choose one of them.")
        index = names.index(name)
        if not schema.table[index].is_coded:
            raise DataError(
                f"The column `{name}` must have categories to be set, found one that is {schema.table[index].type}."
            )
        cells = dataset.stored()
        state = state_channels(schema.table).get(index)
        plain = ~np.isnan(cells[:, index]) & (True if state is None else cells[:, state] == 0)
        codes = np.where(plain, np.nan_to_num(cells[:, index]), UNKNOWN).astype(np.int64)
        return cls(name, codes, tuple(schema.table[index].categories))

    def code(self, value: str) -> int:
        """The code of a category.

        Raises:
            DataError: if it is none of them.
        """
        if value not in self.categories:
            known = ", ".join(self.categories[:20]) + (", ..." if len(self.categories) > 20 else "")
            raise DataError(f"`{self.name}` must be one of {known}; got {value!r}. Choose one of them.")
        return self.categories.index(value)


class _Means:
    """Mean latents of labelled examples."""

    def __init__(self, bundle: Bundle, dataset: Dataset) -> None:
        check_examples(dataset)
        self.dataset = dataset
        self.latents = posterior_of(bundle, dataset)[0].double()

    def shift(self, name: str, code: int, own: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """(N, D): from the mean latent of each example's own value, or of all others, to that of `code`; the numbers of
        examples that the mean of `code`, and the least of the other means, are of.

        Raises:
            DataError: if no example has the value, or none another one.
        """
        labels = _Labels.of(self.dataset, name)
        target = np.flatnonzero(labels.codes == code)
        others = np.flatnonzero((labels.codes != code) & (labels.codes != UNKNOWN))
        for rows, which in ((target, f"be {labels.categories[code]!r} in `{name}`"), (others, f"have another `{name}`")):
            if not len(rows):
                raise DataError(
                    f"Some examples must {which} to find the direction, found none. Give labelled data with `training` "
                    "(`--training`)."
                )
        goal = self.latents[target].mean(0)
        shift = (goal - self.latents[others].mean(0)).repeat(len(own), 1)
        least = len(others)
        for value in np.unique(own[own != UNKNOWN]).tolist():
            rows = np.flatnonzero(labels.codes == value)
            if len(rows):  # else, as if it were not known
                shift[own == value] = goal - self.latents[rows].mean(0)
                least = min(least, len(rows))
        return shift, (len(target), least)


def _write_cells(dataset: Dataset, cells: np.ndarray, codes: Mapping[str, int]) -> None:
    """Writes what was set into the cells of a table."""
    names, states = [column.name for column in dataset.schema.table], state_channels(dataset.schema.table)
    for name, code in codes.items():
        index = names.index(name)
        cells[:, index] = code
        if index in states:
            cells[:, states[index]] = 0
