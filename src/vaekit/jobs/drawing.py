"""A map as a picture: places by label, how dense they lie, and what the decoder sees between them.

Matplotlib draws, without its global state, so that a picture may be made anywhere.
"""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.dataset import spaced
from vaekit.data.output import atomic_file
from vaekit.data.writing import to_pixels
from vaekit.errors import ConfigError, DataError, require
from vaekit.jobs.encode import decode
from vaekit.jobs.reduce import Reduction
from vaekit.storage import Bundle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Ten colours that people with a colour vision deficiency tell apart as well: Petroff, "Accessible color sequences for data
visualization" (2021). Further labels begin anew with another marker."""

MARKERS = ("o", "^", "s", "D", "v", "P")
MOST_LABELS = len(COLOURS) * len(MARKERS)
_MOST_POINTS, _BINS = 20_000, 160
_CROWDED = 3000
"""Places beyond which they are drawn more faintly."""
_MARGIN = 0.06
_UNKNOWN = "unknown"


def draw_map(
    bundle: Bundle,
    reduction: Reduction,
    out: str | Path,
    *,
    column: str | None = None,
    thumbnails: int = 20,
    force: bool = False,
) -> None:
    """The map as a .png: places coloured by a column, contours of their density, and beside them, of a map of images in two
    dimensions, what the decoder makes of a grid of places, faint where no example lies. Of three dimensions each pair is shown.

    At most 20,000 places are drawn, evenly spaced; the density is that of all.

    Args:
        bundle: the model that made the map.
        reduction: where the examples lie.
        out: ending in .png.
        column: by which places are coloured; the first of few categories if None, and no colours where there is none.
        thumbnails: decoded images in a row of the grid; 0 for none.
        force: replace what is there.

    Raises:
        ConfigError: on another ending, a column that is not there or has too many categories, or a negative number.
        DataError: if `out` exists and `force` is False, or fewer than two places differ.
        MissingExtraError: if matplotlib is not installed.

    Example:
        `draw_map(model.bundle, model.reduce("digits.npz"), "map.png")`
    """
    if Path(out).suffix.lower() != ".png":
        raise ConfigError(f"The picture of a map must end in .png, got `{out}`. Choose another ending.")
    if thumbnails < 0:
        raise ConfigError(f"`thumbnails` must be >= 0, got {thumbnails}. Use 0 for none.")
    labels = labels_of(reduction, column)
    spans = _spans(reduction.places)
    require("matplotlib", "map", "Drawing a map")
    figure_module = importlib.import_module("matplotlib.figure")
    importlib.import_module("matplotlib.backends.backend_agg")
    pairs = list(itertools.combinations(range(reduction.places.shape[1]), 2))
    beside = thumbnails > 0 and len(pairs) == 1 and bundle.schema.kind == "images" and bundle.schema.shape[0] in (1, 3, 4)
    panels = len(pairs) + beside
    figure = figure_module.Figure(figsize=(7.0 * panels, 7.4), layout="constrained", facecolor="white")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for pair, axis in zip(pairs, axes, strict=False):
        _draw_places(axis, reduction.places[:, pair], [spans[d] for d in pair], labels, pair)
    if beside:
        _draw_decoded(axes[-1], bundle, reduction.places, spans, thumbnails)
    if labels is not None:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 10), frameon=False, markerscale=4.0)
    with atomic_file(out, force) as path:
        figure.savefig(path, dpi=130, format="png")


def labels_of(reduction: Reduction, column: str | None = None) -> np.ndarray | None:
    """(N,) the texts by which places are coloured; None where there is no column of few categories.

    Raises:
        ConfigError: if the column is not there, or has more categories than there are signs for.
    """
    if column is None:
        few = {name: values for name, values in reduction.columns.items() if values.dtype.kind != "f"}
        counts = {name: len(set(values.tolist())) for name, values in few.items()}
        column = next((name for name, count in counts.items() if 1 < count <= MOST_LABELS), None)
        if column is None:
            return None
    if column not in reduction.columns:
        known = ", ".join(reduction.columns) or "none"
        raise ConfigError(f"The column must be one of those beside the data ({known}), got {column!r}. Choose one of them.")
    values = reduction.columns[column]
    if values.dtype.kind == "f":
        raise ConfigError(f"A map must be coloured by categories, `{column}` is of numbers. Choose another.")
    if (count := len(set(values.tolist()))) > MOST_LABELS:
        raise ConfigError(
            f"A map must be coloured by at most {MOST_LABELS} categories, `{column}` has {count}. Choose another."
        )
    return np.array([value or _UNKNOWN for value in values.tolist()], dtype=object)


def density(places: np.ndarray, spans: list[tuple[float, float]]) -> np.ndarray:
    """(160, 160): how many places lie around each cell, smoothed by a Gaussian of 1.5 to 8 cells, the narrower the more places
    there are (as N^(-1/6), which is Scott's rule in two dimensions); the first axis is up."""
    counts, _, _ = np.histogram2d(places[:, 1], places[:, 0], bins=_BINS, range=[spans[1], spans[0]])
    spread = float(np.clip(0.08 * _BINS * len(places) ** (-1 / 6), 1.5, 8.0))
    at = np.arange(-int(4 * spread), int(4 * spread) + 1)
    window = np.exp(-0.5 * (at / spread) ** 2)
    window /= window.sum()
    for axis in (0, 1):
        counts = np.apply_along_axis(lambda row: np.convolve(row, window, "same"), axis, counts)
    return counts


def _spans(places: np.ndarray) -> list[tuple[float, float]]:
    """The least and the greatest of each dimension, with a margin."""
    low, high = places.min(0).astype(float), places.max(0).astype(float)
    if not (high > low).any():
        raise DataError("A map must have places that differ, found all at one. Draw more examples.")
    margin = np.maximum(_MARGIN * (high - low), 1e-6)
    return [(float(a), float(b)) for a, b in zip(low - margin, high + margin, strict=True)]


def _draw_places(
    axis: Axes, places: np.ndarray, spans: list[tuple[float, float]], labels: np.ndarray | None, pair: tuple[int, int]
) -> None:
    rows = spaced(len(places), _MOST_POINTS)
    size = float(np.clip(20_000 / len(rows), 2.0, 40.0))
    dots: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.9 if len(rows) <= _CROWDED else 0.6, "rasterized": True}
    _draw_density(axis, places, spans)
    if labels is None:
        axis.scatter(*places[rows].T, color=COLOURS[0], **dots)
    else:
        for index, name in enumerate(_ordered(labels)):
            own = rows[labels[rows] == name]
            colour = "#cccccc" if name == _UNKNOWN else COLOURS[index % len(COLOURS)]
            axis.scatter(*places[own].T, color=colour, marker=MARKERS[index // len(COLOURS)], label=name, **dots)
            _name_cluster(axis, places[labels == name], name)
    axis.set(xlim=spans[0], ylim=spans[1], xlabel=f"z{pair[0]}", ylabel=f"z{pair[1]}")
    axis.spines[["top", "right"]].set_visible(False)


def _ordered(labels: np.ndarray) -> list[str]:
    """The labels, numbers by their size, those that are unknown last."""
    names = sorted(
        set(labels.tolist()) - {_UNKNOWN}, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )
    return names + ([_UNKNOWN] if _UNKNOWN in labels else [])


def _name_cluster(axis: Axes, places: np.ndarray, name: str) -> None:
    """The label itself at the example that is nearest to the median of its places, for who sees no colours."""
    centre = np.median(places, axis=0)
    at = places[np.square(places - centre).sum(1).argmin()]
    short = name if len(name) <= 16 else name[:15] + "…"
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    axis.text(float(at[0]), float(at[1]), short, ha="center", va="center", fontsize=10, fontweight="bold", bbox=box)


def _draw_density(axis: Axes, places: np.ndarray, spans: list[tuple[float, float]]) -> None:
    """Lines of equal density, which hold 20, 50, 80 and 95 % of the examples."""
    found = density(places, spans)
    falling = np.sort(found.ravel())[::-1]
    shares = np.cumsum(falling) / falling.sum()
    levels = sorted({float(falling[np.searchsorted(shares, share)]) for share in (0.2, 0.5, 0.8, 0.95)} - {0.0})
    x, y = (np.linspace(*span, 2 * _BINS + 1)[1::2] for span in spans)
    if levels:
        axis.contourf(x, y, found, levels=[*levels, float(falling[0]) * 1.001], cmap="Greys", alpha=0.35, extend="neither")
        axis.contour(x, y, found, levels=levels, colors="#555555", linewidths=0.6, alpha=0.7)


def _draw_decoded(axis: Axes, bundle: Bundle, places: np.ndarray, spans: list[tuple[float, float]], num: int) -> None:
    """What the decoder makes of the middle of each cell of a grid; faint where there are no examples."""
    across, up = (np.linspace(*span, 2 * num + 1)[1::2] for span in spans)
    grid = np.stack(np.meshgrid(across, up[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)  # the top row first
    pixels = to_pixels(decode(bundle, grid, draw="mean"), bundle.schema, bits=8, full_range=True)
    counts, _, _ = np.histogram2d(places[:, 1], places[:, 0], bins=num, range=[spans[1], spans[0]])
    seen = 0.2 + 0.8 * (counts[::-1].reshape(-1, 1, 1, 1) > 0)
    colours = pixels[..., :3] if pixels.shape[-1] > 1 else pixels.repeat(3, -1)
    faded = 255.0 - seen * (255.0 - colours.astype(np.float32))
    gap = -(-max(faded.shape[1:3]) // 16)
    faded = np.pad(faded, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255.0)
    height, width = faded.shape[1:3]
    sheet = faded.reshape(num, num, height, width, 3).swapaxes(1, 2).reshape(num * height, num * width, 3)
    axis.imshow(sheet.astype(np.uint8), extent=(*spans[0], *spans[1]), aspect="auto", interpolation="antialiased")
    axis.set(xlabel="z0", ylabel="z1", title="decoded")
