"""What a `Model` of a table does beyond what every model does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.data.dataset import Dataset
from vaekit.data.schema import Schema
from vaekit.errors import ConfigError
from vaekit.inference import Progress
from vaekit.jobs.generate import generate
from vaekit.jobs.impute import Imputed, impute
from vaekit.storage import Bundle

if TYPE_CHECKING:
    from vaekit.evaluation.tables import TableReport


class TableJobs(ABC):
    """The jobs of tables, of a class that has a bundle and reads data.

    Attributes:
        bundle: the model.
    """

    bundle: Bundle

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """What the data is."""

    @abstractmethod
    def read(self, data: Any, split: str | None = None, *, default: str = "test", **options: Any) -> Dataset:
        """Data as a `Dataset` that fits the model's schema."""

    def rows(self, cells: np.ndarray, seed: int = 0) -> Any:
        """Cells (N, C) of a table as a frame: pandas where the model was trained on pandas, else Polars; an array of texts as a
        list. All else is as it is.

        Args:
            cells: as `generate_labelled` or `impute` gives them.
            seed: of fresh identifiers.
        """
        if self.schema.kind == "text":
            return cells.tolist()
        if self.schema.kind != "table":
            return cells
        from vaekit.data.tables import decode as decode_cells
        from vaekit.data.tables import to_form

        return to_form(decode_cells(cells, self.schema.table, "values", seed=seed), self.schema.source.form)

    def impute(
        self,
        data: Any,
        *,
        draw: str = "mean",
        num_imputations: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        **options: Any,
    ) -> Imputed:
        """What is missing in rows of a table, by p(missing|given); `rows(result.cells[0])` is the table filled in.

        Args:
            data: N rows; columns that are not there are imputed whole.
            draw: `mean`: the best guess; or `sample`: draws, of which `num_imputations` make a multiple imputation.
            num_imputations: M.
            seed: of all draws.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = self.read(data, "all", **{"absent": "unknown", **options} if not isinstance(data, Dataset) else options)
        return impute(self.bundle, dataset, draw=draw, num_imputations=num_imputations, seed=seed, progress=progress)

    def evaluate_rows(
        self,
        data: Any,
        *,
        training: Any = None,
        target: str | None = None,
        num: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        **options: Any,
    ) -> TableReport:
        """How good generated rows are: column shapes, pair trends, detection, coverage, utility and privacy.

        Args:
            data: rows that the model has not seen; or those that it was trained on, of which the part that was held out is
                then taken as such.
            training: the rows that it was trained on. Without them, and where `data` are not those, the generated rows are
                compared with `data` alone, and there is no utility and no privacy.
            target: the column that a classifier or a regressor is to predict, for `utility`.
            num: rows to generate; as many as the real ones if None.
            limit: see `evaluation.tables.evaluate_tables`.
            seed: of all draws.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            ConfigError: if the model is not one of a table, or an argument cannot be.
            MissingExtraError: if scikit-learn is not installed.
        """
        if self.schema.kind != "table":
            raise ConfigError(f"The model must be one of a table to evaluate rows, got one of {self.schema.kind}.")
        from vaekit.data.tables import decode, encode
        from vaekit.evaluation.tables import evaluate_tables

        held_out = self.read(data, default="held_out", **options)
        if training is not None:
            real, test = self.read(training, "all", **options), held_out
        else:
            everything = self.read(data, "all", **options)
            known = len(held_out) < len(everything)
            real, test = (self.read(data, "train", **options), held_out) if known else (everything, None)
        made = generate(self.bundle, num or len(real), seed=seed).x
        columns = self.schema.table
        made = encode(decode(made, columns, seed=seed), columns)  # as they would be published
        given = None if test is None else test.stored()
        how = {"target": target, "seed": seed, "limit": limit, "progress": progress}
        return evaluate_tables(real.stored(), made, columns, test=given, **how)
