"""The flags that commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from vaekit.errors import ConfigError

DATA, TRAIN, USE = (Group(name, sort_key=key) for key, name in enumerate(("Data", "Train", "Use")))
SPELLING = Group("Of text", sort_key=4)
READING = Group("Reading the data", sort_key=5)
OUTPUT = Group("Output", sort_key=6)

at_least_0 = validators.Number(gte=0)
at_least_1 = validators.Number(gte=1)
at_least_2 = validators.Number(gte=2)
above_0 = validators.Number(gt=0)

Out = Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)]
Force = Annotated[bool, Parameter(group=OUTPUT, negative=(), help="Replace an output that exists.", show_default=False)]
Seed = Annotated[int, Parameter(validator=at_least_0, help="Seed of everything random.")]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps, or auto for the best that is there.")]
Count = Annotated[int, Parameter(validator=at_least_1)]
Where = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
Draw = Literal["auto", "mean", "sample"]
Beams = Annotated[int | None, Parameter(validator=at_least_1)]

Size = Annotated[str | None, Parameter(group=READING, help="Bring images to HxW, or to a square of side N.")]
Fit = Annotated[
    Literal["crop", "resize", "pad"] | None,
    Parameter(group=READING, help="How: cut the centre, stretch, or fit inside with a border."),
]
Channels = Annotated[Literal[1, 3, 4] | None, Parameter(group=READING, help="Make images grey, RGB or RGBA.")]
SkipBad = Annotated[
    bool, Parameter(group=READING, negative=(), help="Leave out files that cannot be read.", show_default=False)
]
Missing = Annotated[Literal["nan"] | None, Parameter(group=READING, help="NaN stands for a missing value.")]
Delimiter = Annotated[str | None, Parameter(group=READING, help="What stands between the cells of a text table.")]
Text = Annotated[
    str | None, Parameter(group=READING, help="The column of a table, or the field of JSON lines, that holds the text.")
]
Encoding = Annotated[str | None, Parameter(group=READING, help="Of a file of text or a text table, such as cp1252.")]
Long = Annotated[
    Literal["cut", "split"] | None,
    Parameter(group=READING, help="What becomes of texts of more tokens than fit; split makes each several texts."),
]
Sheet = Annotated[str | None, Parameter(group=READING, help="Of an .xlsx file: the sheet's name, or its number from 1.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Screen:
    """What goes to the screen."""

    quiet: Annotated[bool, Parameter(group=OUTPUT, negative=(), help="No progress, no remarks.", show_default=False)] = False
    json: Annotated[
        bool, Parameter(group=OUTPUT, negative=(), help="One JSON object on standard output.", show_default=False)
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How new data is read."""

    size: Size = None
    fit: Fit = None
    channels: Channels = None
    bits: Annotated[Literal[8, 16] | None, Parameter(group=READING, help="Bits a channel.")] = None
    skip_bad: SkipBad = False
    kind: Annotated[
        Literal["images", "vectors", "text", "table"] | None,
        Parameter(group=READING, help="What an array holds, or whether a file is text or a table."),
    ] = None
    layout: Annotated[
        Literal["CHW", "HWC", "HW", "flat"] | None, Parameter(group=READING, help="How an example lies in an array.")
    ] = None
    values: Annotated[
        Literal["binary", "levels", "continuous"] | None, Parameter(group=READING, help="What the values are.")
    ] = None
    levels: Annotated[int | None, Parameter(group=READING, validator=at_least_2, help="How many levels a value has.")] = None
    missing: Missing = None
    type: Annotated[
        tuple[str, ...],
        Parameter(
            group=READING,
            help="What a column of a table is, as COLUMN=TYPE (continuous, integer, count, binary, categorical, ordinal, "
            "datetime, constant, identifier); or a .json file of such pairs. Repeat it for more columns.",
        ),
    ] = ()
    missing_word: Annotated[
        tuple[str, ...], Parameter(group=READING, help="A text that stands for a missing cell of a table. Repeat it for more.")
    ] = ()
    delimiter: Delimiter = None
    sheet: Sheet = None
    text: Text = None
    tokens: Annotated[
        Literal["auto", "byte", "character", "word", "bpe"] | None,
        Parameter(
            group=READING,
            help="What a token of text is; bpe are pairs of bytes merged by their frequency. auto takes characters for short "
            "texts, such as names, and bpe for others.",
        ),
    ] = None
    vocabulary: Annotated[
        int | None, Parameter(group=READING, validator=at_least_1, help="How many tokens at most, the most frequent ones.")
    ] = None
    max_tokens: Annotated[
        int | None, Parameter(group=READING, validator=at_least_1, help="The most tokens of a text; longer ones: see --long.")
    ] = None
    long: Long = None
    encoding: Encoding = None

    def options(self) -> dict[str, Any]:
        """The options that are given."""
        named = {
            name: getattr(self, name) for name in ("fit", "channels", "bits", "kind", "layout", "values", "levels", "missing")
        }
        named |= {"size": None if self.size is None else parse_size(self.size), "skip_bad": self.skip_bad or None}
        file = self.type[0] if len(self.type) == 1 and self.type[0].endswith(".json") else None
        named |= {"types": file or list(self.type) or None, "missing_words": list(self.missing_word) or None}
        named |= {"delimiter": self.delimiter, "sheet": _sheet(self.sheet)}
        named |= {name: getattr(self, name) for name in ("text", "tokens", "vocabulary", "max_tokens", "long", "encoding")}
        return {name: value for name, value in named.items() if value is not None}


def _sheet(sheet: str | None) -> str | int | None:
    return int(sheet) if sheet is not None and sheet.isascii() and sheet.isdigit() else sheet


@Parameter(name="*")
@dataclass(frozen=True)
class Rereading:
    """How data for a model is read: the model knows the rest."""

    split: Annotated[
        str | None, Parameter(group=READING, help="Which part of data that come split: train, test, ..., or all.")
    ] = None
    size: Size = None
    fit: Fit = None
    channels: Channels = None
    skip_bad: SkipBad = False
    missing: Missing = None
    delimiter: Delimiter = None
    sheet: Sheet = None
    text: Text = None
    long: Long = None
    encoding: Encoding = None

    def options(self) -> dict[str, Any]:
        """The options that are given, and the split."""
        plain = ("split", "fit", "channels", "missing", "delimiter", "text", "long", "encoding")
        named = {name: getattr(self, name) for name in plain}
        named["sheet"] = _sheet(self.sheet)
        named |= {"size": None if self.size is None else parse_size(self.size), "skip_bad": self.skip_bad or None}
        return {name: value for name, value in named.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True)
class Spelling:
    """How a text is made of its distribution."""

    token_temperature: Annotated[
        float | None, Parameter(group=SPELLING, validator=above_0, help="Below 1: likelier text, and less varied.")
    ] = None
    top_k: Annotated[
        int | None, Parameter(group=SPELLING, validator=at_least_1, help="Draw from so many of the likeliest tokens.")
    ] = None
    top_p: Annotated[
        float | None, Parameter(group=SPELLING, help="Draw from the fewest tokens that together have this mass, such as 0.9.")
    ] = None
    beams: Annotated[
        int | None,
        Parameter(
            group=SPELLING,
            validator=at_least_1,
            help="In place of draws the likeliest text of each latent, by a search that keeps so many beginnings at a time.",
        ),
    ] = None


SCREEN, READ_AS_FOUND, READ_AS_MODEL, PLAINLY = Screen(), Reading(), Rereading(), Spelling()


def parse_size(text: str) -> int | tuple[int, int]:
    """`64` or `48x64` (height x width).

    Raises:
        ConfigError: if it is neither.

    Example:
        >>> parse_size("64"), parse_size("48x64")
        (64, (48, 64))
    """
    numbers = text.lower().split("x")
    if not all(number.isascii() and number.isdigit() and int(number) > 0 for number in numbers) or len(numbers) > 2:
        raise ConfigError(f"`--size` must be HxW or one number, got {text!r}. Write it as 48x64 or 64.")
    return int(numbers[0]) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


def check_where(pairs: Sequence[str]) -> None:
    """Refuses what compares no column with anything, before a model is loaded that knows its columns.

    Raises:
        ConfigError: if one has no operator.
    """
    for pair in pairs:
        if not any(operator in pair[1:] for operator in "=<>"):
            raise ConfigError(f"`--where` must be COLUMN=VALUE, got {pair!r}. Write it as label=3.")


def parse_where(pairs: Sequence[str]) -> dict[str, str]:
    """`COLUMN=VALUE` pairs of `--where`.

    Raises:
        ConfigError: if one is not a pair, or a column comes twice.

    Example:
        >>> parse_where(["label=3"])
        {'label': '3'}
    """
    return parse_pairs("--where", pairs, "label=3")


def parse_pairs(flag: str, pairs: Sequence[str], example: str) -> dict[str, str]:
    """`COLUMN=VALUE` pairs of a flag.

    Raises:
        ConfigError: if one is not a pair, or a column comes twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ConfigError(f"`{flag}` must be COLUMN=VALUE, got {pair!r}. Write it as {example}.")
        if name in found:
            raise ConfigError(f"`{flag}` must give each column once, got {name!r} twice. Choose one value.")
        found[name] = value
    return found
