"""Maps of data: what a `Model` of two or three latent units does beyond what every model does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.inference import Progress
from vaekit.jobs.reduce import Reduction, check_map, reduce
from vaekit.model_text import TextJobs

if TYPE_CHECKING:
    from vaekit.evaluation.latents import MapReport

_JUDGED = 2000


class MapJobs(TextJobs):
    """The jobs of maps, of a class that has a bundle and reads data."""

    def reduce(self, data: Any, *, split: str | None = None, progress: Progress | None = None, **options: Any) -> Reduction:
        """Each example as a place on a map of two or three dimensions: `result.places` is (N, 2) or (N, 3).

        The places are latents, so `decode` gives examples of any place.

        Args:
            data: N examples.
            split: which part of data that come split; everything if None.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            ConfigError: unless the model has two or three latent units; the recipe `map` makes such a model.
        """
        check_map(self.bundle)
        return reduce(self.bundle, self.read(data, split, default="all", **options), progress)

    def draw_map(self, reduction: Reduction, out: str | Path, **options: Any) -> None:
        """The map as a .png: places by label, their density, and decoded images on a grid.

        Args:
            reduction: what `reduce` gave.
            out: ending in .png.
            **options: `column`, `thumbnails` and `force` of `vaekit.jobs.drawing.draw_map`.
        """
        from vaekit.jobs.drawing import draw_map

        draw_map(self.bundle, reduction, out, **options)

    def evaluate_map(
        self, data: Any, *, num_neighbours: int = 5, limit: int = _JUDGED, split: str | None = None, **options: Any
    ) -> MapReport:
        """Whether neighbours in the latent, of any width, are neighbours in the data: trustworthiness and continuity, and with
        labels the accuracy of the neighbours' vote.

        Args:
            data: N examples.
            num_neighbours: k.
            limit: so many examples at most, evenly spaced.
            split: which part of data that come split; everything if None.
            **options: of `vaekit.data.loading.conform`.

        Raises:
            DataError: if there are too few examples for k.
        """
        from vaekit.data.dataset import spaced
        from vaekit.data.neighbours import coordinates
        from vaekit.evaluation.latents import evaluate_map
        from vaekit.jobs.encode import encode
        from vaekit.jobs.features import unconditioned

        dataset = self.read(data, split, default="all", **options)
        dataset = dataset.select(spaced(len(dataset), limit))
        points = coordinates(dataset, self.bundle.transform)
        labels = next((codes for codes in dataset.columns.values() if codes.dtype.kind in "iu"), None)
        return evaluate_map(
            points, encode(self.bundle, unconditioned(dataset)).mean, labels, num_neighbours=num_neighbours, limit=limit
        )
