"""New examples to train on beside given ones, and whether they help: what a `Model` does for whoever has too few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Column
from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress
from vaekit.jobs.around import categories_of
from vaekit.jobs.augment import Augmented, augment
from vaekit.model_tables import TableJobs

if TYPE_CHECKING:
    from vaekit.evaluation.augmentation import AugmentationReport


class AugmentJobs(TableJobs):
    """The job of augmentation, of a class that has a bundle and reads data."""

    def augment(
        self,
        data: Any,
        *,
        balance: str | None = None,
        factor: float | None = None,
        how: str = "auto",
        temperature: float = 1.0,
        path: str = "linear",
        partners: str = "neighbours",
        draw: str = "auto",
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Augmented:
        """New examples beside given ones, which keep their class; with `balance`, of the rare ones. See `jobs.augment.augment`.

        Args:
            data: N examples.
            balance: a column of categories, each of which gets as many examples as the most frequent one has.
            factor: so many times; or without `balance`, so many examples in all for each of the data (2).
            how: of images and vectors: `posterior`, draws around each example; `interpolate`, ways between two of a class;
                `generate`, draws for the example's columns; or `auto`, which says why in `reason`.
            temperature: factor on the width of the draws; of `posterior`, 0 gives reconstructions.
            path: of `interpolate`, `linear` or `spherical`.
            partners: of `interpolate`, `neighbours` or `random`.
            draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images, a sample for vectors.
            seed: of all draws.
            split: which part of data that come split; the training part if None, and all of a table.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Returns:
            The new examples `x` with their `columns` and their `provenance`; of a table, `rows(result.x)` is a frame of them.

        Raises:
            ConfigError: if an argument cannot be, or does not fit the model.
            DataError: if there are no examples, no such column, or too few of a class.
        """
        dataset = self.to_augment(data, split, **options)
        given: dict[str, Any] = {"balance": balance, "factor": factor, "how": how, "temperature": temperature, "path": path}
        given |= {"partners": partners, "draw": draw, "seed": seed, "progress": progress}
        return augment(self.bundle, dataset, **given)

    def to_augment(self, data: Any, split: str | None = None, **options: Any) -> Dataset:
        """The examples that `augment` reads: the training part of data that come split, so that none is made of test examples.

        Args:
            data: as `read` takes them.
            split: another part; `all` for everything.
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = self._with_columns(data, options)
        if split == "all":
            return dataset
        if split is not None:
            return dataset.split(split) if split in dataset.splits else self.read(data, split, **options)
        if self.schema.kind == "table" or "train" not in dataset.splits:
            return dataset
        part = dataset.split("train")
        return replace(
            part, notes=(*part.notes, "The part `train` is augmented; `split='all'` (`--split all`) for everything.")
        )

    def _with_columns(self, data: Any, options: dict[str, Any]) -> Dataset:
        """All the data, with their own columns where the model was trained without any, on more examples than have labels."""
        dataset = self.read(data, "all", **options)
        if self.schema.kind not in ("images", "vectors") or self.schema.columns:
            return dataset
        own = data
        if not isinstance(data, Dataset):
            form: dict[str, Any] = {}
            if dataset.names is not None:  # files, which are brought to the model's form
                form = {"size": self.schema.shape[1:], "channels": self.schema.shape[0], **options}
            own = loading.open(data, **form)
        if len(own) != len(dataset) or not own.columns:
            return dataset
        schema = dataset.schema.model_copy(update={"columns": own.schema.columns})
        return replace(dataset, schema=schema, columns=own.columns)

    def _held_out(self, test: Any, options: dict[str, Any]) -> Dataset:
        """What a classifier is tested on: the split `test`, or what training held out, or everything."""
        dataset = self._with_columns(test, options)
        if "test" in dataset.splits:
            return dataset.split("test")
        known = self.read(test, default="held_out", **options)
        return dataset if len(known) == len(dataset) else known

    def evaluate_augmentation(
        self,
        data: Any,
        test: Any,
        *,
        column: str | None = None,
        num_seeds: int = 5,
        num_steps: int = 1000,
        hidden: int = 256,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        reading: dict[str, Any] | None = None,
        **how: Any,
    ) -> AugmentationReport:
        """Whether a classifier gets better by the new examples of `augment`, on real examples held out.

        Two classifiers train by as many updates from the same start, one on `data` and one on `data` and what `augment` makes
        of them; see `evaluation.augmentation.evaluate_augmentation`. Neither the model nor `data` may have seen `test`.

        Args:
            data: labelled examples, as `augment` takes them.
            test: labelled examples that nothing was trained on; the part `test` of data that come split.
            column: the label to be told; the balanced column, or the only one of categories, if None.
            num_seeds: so many draws of new examples and starts of the classifiers.
            num_steps: updates of a classifier.
            hidden: units of its hidden layer.
            seed: the first of the seeds.
            split: which part of `data`.
            progress: called with (done, total).
            reading: options of `vaekit.data.loading.conform`.
            **how: of `augment`: `balance`, `factor`, `how`, `temperature` and so on. With `balance`, classes count the same.

        Raises:
            ConfigError: if the model is of a table, or it is not clear which column is the label.
            DataError: if there are too few labelled examples.
        """
        from vaekit.evaluation.augmentation import evaluate_augmentation

        if self.schema.kind not in ("images", "vectors"):
            raise ConfigError(
                f"The check of augmentation must be of images or vectors, got {self.schema.kind}. Use `evaluate` with `target` "
                "for a table."
            )
        dataset = self.to_augment(data, split, **(reading or {}))
        held_out = self._held_out(test, reading or {})
        name = self._label_of(dataset, held_out, column or how.get("balance"))
        categories = dataset.schema.column(name)
        assert isinstance(categories, Column)

        def coded(part: Dataset | Augmented) -> list[int]:
            """Codes of the labels by the categories of the data; those that they do not have are unknown."""
            texts = part.columns[name] if isinstance(part, Augmented) else part.schema.column(name).printed(part.columns[name])
            known = {text: code for code, text in enumerate(categories.categories)}
            return [known.get(str(text), -1) for text in texts]

        def new(seed: int) -> tuple[Any, Any]:
            made = augment(self.bundle, dataset, **how, seed=seed)
            return made.x, np.array(coded(made), dtype=np.int64)

        return evaluate_augmentation(
            (dataset.raw(), dataset.columns[name]),
            new,
            (held_out.raw(), np.array(coded(held_out))),
            num_seeds=num_seeds,
            num_steps=num_steps,
            hidden=hidden,
            balanced=how.get("balance") is not None,
            seed=seed,
            progress=progress,
        )

    def _label_of(self, dataset: Dataset, test: Dataset, column: str | None) -> str:
        """The column of categories that a classifier is to tell."""
        names = categories_of(dataset)
        found = ", ".join(f"`{name}`" for name in names) or "none"
        if column is None and len(names) != 1:
            raise ConfigError(f"`column` must say which label a classifier is to tell, found {found}. Name one, or balance it.")
        name = column or names[0]
        for part, what in ((dataset, "Data"), (test, "Test examples")):
            if name not in categories_of(part):
                raise DataError(f"{what} must have the column `{name}` of categories, found none. Give labelled ones.")
        return name

    def write_augmented(self, made: Augmented, data: Dataset, out: str | Path, force: bool = False) -> None:
        """New examples as files with labels and provenance; see `jobs.provenance.write_augmented`.

        Args:
            made: by `augment`.
            data: what they were made of, as `to_augment` gives it.
            out: a folder (images) or an .npz file; of vectors also a table.
            force: replace what is there.
        """
        from vaekit.jobs.provenance import write_augmented

        if self.schema.kind not in ("images", "vectors"):
            raise ConfigError("New rows of a table are a frame, `rows(result.x)`. Write that.")
        write_augmented(made, data, out, force)
