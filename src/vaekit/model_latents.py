"""What a `Model` says of given examples: their latents, features, scores, and how good it is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data import loading
from vaekit.data.dataset import Dataset, fingerprint, spaced
from vaekit.errors import DataError, MissingExtraError, require
from vaekit.evaluation.bounds import BoundReport, evaluate_bounds
from vaekit.evaluation.probe import FEWEST, LIMIT, Probe, probe
from vaekit.inference import Progress
from vaekit.jobs.anomaly_maps import SHOWN, AnomalyMaps, anomaly_maps
from vaekit.jobs.encode import Encoding, encode
from vaekit.jobs.explain import EXPLAINED
from vaekit.jobs.features import Features, Statistics, features
from vaekit.jobs.score import Scores, score
from vaekit.model_maps import MapJobs
from vaekit.storage import HELD_OUT

if TYPE_CHECKING:
    from vaekit.jobs.anomaly import Reference


class LatentJobs(MapJobs):
    """The jobs that look at given examples, of a class that has a bundle and reads data."""

    def encode(self, data: Any, *, split: str | None = None, progress: Progress | None = None, **options: Any) -> Encoding:
        """Mean and scale of q(z|x, c) for every example: the same to the last bit in any batch and in any order.

        Of a model with conditions they are those under the data's own columns, as decoding them needs it; features for a
        classifier are another job (`features`).

        Args:
            data: N examples.
            split: which part of data that come split; everything if None.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.
        """
        return encode(self.bundle, self.read(data, split, default="all", **options), progress)

    def features(
        self,
        data: Any,
        *,
        kind: str = "auto",
        level: Sequence[int] = (),
        like: Any = None,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Features:
        """The latents of examples as features, `result.x` (N, F); every condition is taken as unknown, so no label leaks.

        Args:
            data: N examples.
            kind: `means`, `whitened`, `scales`, `levels` or `auto`, see `vaekit.jobs.features`.
            level: of a ladder, only these levels.
            like: `Features` of other data, or data, which choose the units and the whitening; the data themselves if None. Give
                the training part's to the test part.
            split: which part of data that come split; everything if None.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Example:
            train = model.features("digits.npz", kind="whitened", split="train")
            test = model.features("digits.npz", like=train, split="test")
        """
        dataset = self.read(data, split, default="all", **options)
        if like is not None and not isinstance(like, Features | Statistics):
            like = self.read(like, default="all", **options)
        return features(self.bundle, dataset, kind=kind, level=level, like=like, progress=progress)

    def score(
        self,
        data: Any,
        *,
        num_samples: int = 16,
        explain: int = EXPLAINED,
        reference: Any = None,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Scores:
        """The K-sample bound on log p(x|c) of every example, its rate and distortion, and an anomaly score with its parts; of
        the strangest rows of a table also how strange each cell is (`Scores.columns`, `Scores.explain`).

        Args:
            data: N examples.
            num_samples: K; more is tighter and slower.
            explain: so many rows of a table are the strangest.
            reference: of images and vectors, normal examples that training did not see, or a `Reference` that was made of them;
                what was stored at the end of training if None.
            seed: of all draws.
            split: which part of data that come split.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = self.read(data, split, default="held_out", **options)
        usual = self._reference(reference, **options)
        how: dict[str, Any] = {"num_samples": num_samples, "explain": explain, "reference": usual}
        return score(self.bundle, dataset, **how, seed=seed, progress=progress)

    def _reference(self, reference: Any, **options: Any) -> Dataset | Reference | None:
        from vaekit.jobs.anomaly import Reference

        if reference is None or isinstance(reference, Reference):
            return reference
        return self.read(reference, default="held_out", **options)

    def anomaly_maps(
        self,
        data: Any,
        rows: Sequence[int] | np.ndarray | None = None,
        *,
        num: int = SHOWN,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> AnomalyMaps:
        """Where images are strange: by how many standard deviations each pixel lies off what the model expects.

        Args:
            data: N images.
            rows: of which of them; of the `num` strangest by `score` if None.
            num: how many.
            seed: of all draws.
            split: which part of data that come split, as in `score`.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = self.read(data, split, default="held_out", **options)
        if rows is None:
            rows = np.argsort(-score(self.bundle, dataset, seed=seed).anomaly, kind="stable")[:num]
        return anomaly_maps(self.bundle, dataset, np.asarray(rows), seed=seed, progress=progress)

    def evaluate(
        self,
        data: Any,
        *,
        num_samples: int = 100,
        limit: int | None = None,
        annealing_steps: int = 0,
        labels: bool = True,
        training: Any = None,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> BoundReport:
        """The K-sample bound on log p(x|c) over data that training did not see, with how far it can be trusted, rate and
        distortion, active units, mutual information, the calibration of the reconstructions, and for each column of labels
        how well it is told from the latents (`BoundReport.probes`).

        Args:
            data: N examples.
            num_samples: K.
            limit: so many examples, evenly spaced over the data; None for all.
            annealing_steps: steps of the check by annealed importance sampling, on at most 100 examples; 0 for none.
            labels: whether to tell labels from latents.
            training: labelled examples that what tells labels is fitted on. If None, the training part of `data`, where they
                have one; else cross validation within what is evaluated.
            seed: of all draws.
            split: which part of data that come split.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = self.read(data, split, default="held_out", **options)
        how: dict[str, Any] = {"num_samples": num_samples, "limit": limit, "annealing_steps": annealing_steps}
        found = evaluate_bounds(self.bundle, dataset, **how, seed=seed, progress=progress)
        if not labels or not _labelled(dataset) or self.schema.kind == "table":
            return found
        fitted = self.training_part(data, split, **options) if training is None else self.read(training, "all", **options)
        probes, notes = self._probes(dataset if limit is None else dataset.select(spaced(len(dataset), limit)), fitted, seed)
        return replace(found, probes=probes, notes=(*found.notes, *notes))

    def training_part(self, data: Any, split: str | None = None, **options: Any) -> Dataset | None:
        """What data come with as the split `train`, or were trained on; None where there is no such part, or it is asked for.

        Args:
            data: as `read` takes them.
            split: what is read besides.
            **options: of `vaekit.data.loading.conform`.
        """
        known = self.with_splits(loading.conform(data, self.schema, **options))
        return known.split("train") if "train" in known.splits and split not in ("train", "all") else None

    def _probes(self, dataset: Dataset, fitted: Dataset | None, seed: int) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
        """What can be told of each column, and sentences on what cannot."""
        names = ", ".join(f"`{name}`" for name in _labelled(dataset))
        notes: list[str] = []
        if fitted is not None and len(fitted) > LIMIT:
            notes.append(f"What tells {names} from latents is fitted on {LIMIT:,} of {len(fitted):,} training examples.")
            fitted = fitted.select(spaced(len(fitted), LIMIT))
        dataset = dataset.select(spaced(len(dataset), LIMIT))
        try:
            require("sklearn", "sklearn", "A linear probe")
            if (total := len(dataset) + (0 if fitted is None else len(fitted))) < FEWEST:
                raise DataError(f"At least {FEWEST} examples must be there, found {total}. Give more.")
        except (DataError, MissingExtraError) as error:
            return (), (f"What latents tell of {names} is not measured: {error}",)
        beside = None if fitted is None else features(self.bundle, fitted)
        scored = features(self.bundle, dataset, like=beside)
        probes = []
        for name in _labelled(dataset):
            try:
                given = (None, None) if beside is None or fitted is None else (beside.x, _labels(fitted, name))
                probes.append(probe(scored.x, dataset.columns[name], *given, column=name, seed=seed))
            except DataError as error:
                notes.append(f"What latents tell of `{name}` is not measured: {error}")
        return tuple(probes), tuple(notes)

    def with_splits(self, dataset: Dataset) -> Dataset:
        """The data with the splits `train` and `valid` that training made, if they are what the model was trained on.

        Args:
            dataset: that fits the model's schema.
        """
        held_out = self.bundle.training.get(HELD_OUT)
        if dataset.splits or not isinstance(held_out, dict) or held_out.get("num_examples") != len(dataset):
            return dataset
        if held_out.get("fingerprint") != fingerprint(dataset):
            return dataset
        how = {name: held_out[name] for name in ("fraction", "maximum", "seed")}
        train, valid = loading.holdout(dataset, **how)
        return replace(dataset, splits={"train": train, "valid": valid})


def _labelled(dataset: Dataset) -> tuple[str, ...]:
    """The columns of categories."""
    return tuple(name for name, codes in dataset.columns.items() if codes.dtype.kind in "iu")


def _labels(dataset: Dataset, name: str) -> np.ndarray:
    if name not in dataset.columns:
        known = ", ".join(dataset.columns) or "none"
        raise DataError(f"The training examples must have the column `{name}`, found {known}. Give labelled ones.")
    return dataset.columns[name]
