"""Names for directions of the latent, and how disentangled it is: what a `Model` does for whoever wants to control it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vaekit.data.dataset import Dataset
from vaekit.directions import Direction
from vaekit.errors import ConfigError
from vaekit.inference import Progress
from vaekit.jobs.directions import check_free, learn, named, of_unit
from vaekit.model_maps import MapJobs

if TYPE_CHECKING:
    from vaekit.evaluation.disentanglement import DisentanglementReport


class DirectionJobs(MapJobs):
    """The jobs of named directions, of a class that has a bundle and reads data."""

    @property
    def directions(self) -> Mapping[str, Direction]:
        """The directions that have a name, by name. `name` adds one, and `save` keeps them."""
        return dict(self.bundle.directions)

    def name(
        self,
        name: str,
        unit: int | None = None,
        *,
        positive: Any = None,
        negative: Any = None,
        data: Any = None,
        force: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
        **options: Any,
    ) -> Direction:
        """Gives a unit of the latent a name, or learns a direction from examples, for `edit` and `traverse`.

        The model knows the name from then on; `save(folder, force=True)` writes it.

        Args:
            name: no number, and no column of the data.
            unit: its index, from 0; or leave it out and give examples.
            positive: examples that have the attribute; a list of paths is read one by one.
            negative: examples that have not; if None, draws of the prior stand for all.
            data: examples to measure a unit on, so that a step is their standard deviation; the prior's if None.
            force: replace a direction of that name.
            seed: of draws of the prior.
            progress: called with (done, total).
            **options: `split`, everything if None, and those of `vaekit.data.loading.conform`.

        Returns:
            The direction; `separation` of a learned one says how good it is.

        Raises:
            ConfigError: if the name may not be given, there is no such unit, or neither unit nor examples are given.
            DataError: if examples do not differ by more than chance.

        Example:
            `model.name("slant", 3)`, then `model.edit(data, {"slant": 2.0})`
        """
        check_free(self.bundle, name, force)
        if (unit is None) == (positive is None) or (positive is None and negative is not None):
            raise ConfigError(f"`{name}` must be given a unit, or positive examples. Give one of the two.")
        if unit is not None:
            dataset = None if data is None else self.read(data, default="all", **options)
            direction: Direction = of_unit(self.bundle, unit, dataset, progress)
        elif data is not None:
            raise ConfigError("`data` must come with a unit, which is measured on it, got positive examples. Leave it out.")
        else:
            parts = [[self.read(one, default="all", **options) for one in _several(given)] for given in (positive, negative)]
            direction = learn(self.bundle, *parts, seed=seed, progress=progress)
        self.bundle = replace(self.bundle, directions={**self.bundle.directions, name: direction})
        return direction

    def unname(self, name: str) -> None:
        """Takes a name away.

        Raises:
            ConfigError: if there is none.
        """
        named(self.bundle, name)
        left = {other: direction for other, direction in self.bundle.directions.items() if other != name}
        self.bundle = replace(self.bundle, directions=left)

    def evaluate_disentanglement(
        self,
        data: Any,
        factors: Any = None,
        *,
        limit: int | None = None,
        chance: bool = False,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> DisentanglementReport:
        """How disentangled the latent is, by the true factors of examples: MIG, DCI, SAP, modularity, IRS and more.

        Args:
            data: N examples.
            factors: the path of a table with a row an example, or a mapping of columns (N,); the data's own columns if None.
                See `vaekit.evaluation.disentanglement.factors.read_factors`.
            limit: so many examples, evenly spaced; None for all.
            chance: measure shuffled codes as well.
            seed: of all draws.
            split: which part of data that come split; everything if None.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            DataError: if there are fewer than two factors, or they do not belong to the data.
            MissingExtraError: if scikit-learn is not installed.
        """
        from vaekit.data.dataset import spaced
        from vaekit.evaluation.disentanglement import evaluate_disentanglement
        from vaekit.evaluation.disentanglement.factors import factors_beside
        from vaekit.jobs.encode import encode

        dataset = self.read(data, split, default="all", **options)
        found = factors_beside(dataset, factors)
        rows = found.known()
        rows = rows[spaced(len(rows), len(rows) if limit is None else limit)]
        values, names, continuous, notes = found.varying(rows)
        codes = encode(self.bundle, dataset.select(rows)).mean
        how = {"names": names, "continuous": continuous, "chance": chance, "seed": seed, "progress": progress}
        report = evaluate_disentanglement(codes, values, **how)
        return replace(report, notes=(*notes, *report.notes))


def _several(given: Any) -> Sequence[Any]:
    """Paths or data sets in a list are read one by one; all else is one thing, and None nothing."""
    if given is None:
        return []
    apart = isinstance(given, list | tuple) and all(
        isinstance(one, Dataset | os.PathLike) or (isinstance(one, str) and os.path.exists(one)) for one in given
    )
    return list(given) if apart and len(given) else [given]
