"""Score: how likely each example is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset
from vaekit.data.tables.grid import CellGrid
from vaekit.errors import ConfigError
from vaekit.inference import Progress, bounds, check_examples, is_point, seeded
from vaekit.jobs.anomaly import KINDS, Reference, measures, reference_of, stored_reference
from vaekit.jobs.explain import EXPLAINED, ColumnScores, Reason, column_scores, unseen
from vaekit.jobs.rows import Table
from vaekit.jobs.surprise import Surprises, surprises
from vaekit.storage import Bundle
from vaekit.vae import VAE

_POINT = (
    "The posterior, or a part of it, is a point, which has no density: `log_likelihood` is log p(x, z) at it and bounds "
    "nothing. It ranks the examples of one model; `vaekit evaluate --ais 1000` estimates log p(x)."
)


@dataclass(frozen=True)
class Scores:
    """What a model says of N examples: arrays (N,) in float64, in nats unless the name says bits.

    Attributes:
        log_likelihood: the K-sample bound on log p(x|c), of the data as they are stored; see `warning`.
        elbo: -(rate + distortion).
        rate: KL(q(z|x, c) || p(z|c)).
        distortion: -E_q log p(x|z, c).
        bits_per_dim: -log_likelihood / (observed values * ln 2), for discrete likelihoods; None for densities. Of text, bits a
            token, the END counted as one.
        anomaly: greater is stranger. Of images and vectors -log of the share of normal examples that are at least as strange
            (see `vaekit.jobs.anomaly`): 3 nats is once in 20, 7 nats once in 1,000. Of tables and text, and where there is no
            reference, -log_likelihood: neither standardised nor a percentile, so that the scores of different models do not
            compare, and a threshold is best set at a percentile of the scores of normal data.
        names: the file name of each example, or None.
        warning: a sentence on why the figures bound nothing, where the posterior has no density; else None.
        surprises: of text, what is odd in it; else None.
        parts: of images and vectors, by the name of each measure, -log of the share of normal examples that are at least as
            strange by it alone, (N,) each; empty where there is no reference.
        by_column: of a table, how strange each cell of the strangest rows is; None where none was looked at.
        notes: sentences that a person should read.
    """

    log_likelihood: np.ndarray
    elbo: np.ndarray
    rate: np.ndarray
    distortion: np.ndarray
    bits_per_dim: np.ndarray | None
    anomaly: np.ndarray
    names: list[str] | None = None
    warning: str | None = None
    surprises: Surprises | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    by_column: ColumnScores | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.log_likelihood)

    @property
    def columns(self) -> np.ndarray:
        """(N, C) nats: of a table, how strange each cell is given the rest of its row, see `vaekit.jobs.explain`.

        NaN where the row was not looked at, or the cell is unknown to the model. `column_names` says which columns they are.
        """
        found = self._by_column()
        anomaly = np.full((len(self), len(found.names)), np.nan)
        anomaly[found.rows] = found.anomaly
        return anomaly

    @property
    def column_names(self) -> tuple[str, ...]:
        """Of a table, the names of the C columns of `columns`."""
        return self._by_column().names

    def explain(self, index: int, most: int = 3, least: float = -math.inf) -> tuple[Reason, ...]:
        """Of a table, the columns that make an example strange given the rest of it, the strangest first.

        Args:
            index: of the example.
            most: how many columns at most.
            least: nats that a column must have.

        Raises:
            ConfigError: if its columns were not looked at.
        """
        return self._by_column().reasons(index, most, least)

    def _by_column(self) -> ColumnScores:
        if self.by_column is None:
            raise ConfigError("The columns must have been looked at, and were not. Score a table, with `explain` at least 1.")
        return self.by_column

    def to_columns(self, by_column: bool = False) -> dict[str, np.ndarray]:
        """The scores as the columns of a table: index, name, and a column a score. Of text, the text itself too, its perplexity
        a word (or a character, see `unit_of`), and its most surprising words. Of images and vectors `anomaly_NAME` for each of
        the `parts`. Of a table, `because`, the columns that make a row strange.

        Args:
            by_column: of a table, also a column `anomaly_NAME` for each of its columns.
        """
        table: dict[str, np.ndarray] = {"index": np.arange(len(self))}
        if self.names is not None:
            table["name"] = np.array(self.names, dtype=object)
        table.update(log_likelihood=self.log_likelihood, elbo=self.elbo, rate=self.rate, distortion=self.distortion)
        if self.bits_per_dim is not None:
            table["bits_per_dim" if self.surprises is None else "bits_per_token"] = self.bits_per_dim
        if (of_text := self.surprises) is not None:
            name = "perplexity" if of_text.unit == "word" else "character_perplexity"
            table[name] = of_text.perplexity(self.log_likelihood)
            table.update({"num_tokens": of_text.num_tokens, f"num_{of_text.unit}s": of_text.num_units})
            table["odd_words"] = np.array(of_text.odd(), dtype=object)
            table["text"] = np.array(of_text.texts, dtype=object)
        table["anomaly"] = self.anomaly
        table.update({f"anomaly_{name}": part for name, part in self.parts.items()})
        if self.by_column is not None:
            because = np.full(len(self), "", dtype=object)
            because[self.by_column.rows] = self.by_column.texts()
            table["because"] = because
        if by_column:
            table.update({f"anomaly_{name}": part for name, part in zip(self.column_names, self.columns.T, strict=True)})
        return table


def score(
    bundle: Bundle,
    dataset: Dataset,
    *,
    num_samples: int = 16,
    explain: int = EXPLAINED,
    reference: Dataset | Reference | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """The K-sample bound on log p(x|c) of every example, and what it is made of.

        log 1/K sum_k p(x|z_k, c) p(z_k|c) / q(z_k|x, c),   z_k ~ q(z|x, c)

    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8. Of a posterior without a density, such
    as `posteriors.Deterministic`, it is log p(x, z|c) at the point, and no bound: `Scores.warning` says so.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        num_samples: K; more is tighter and slower.
        explain: of a table, so many rows, the strangest, get the anomalies of their columns (see `vaekit.jobs.explain`).
        reference: of images and vectors, at least 20 normal examples that training did not see, with which those are
            compared; what was stored with the model at the end of its training if None.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total) as examples are done.

    Raises:
        DataError: if there are no examples, or too few of the reference.
        ConfigError: if `num_samples` is less than 1, or `explain` less than 0, or a table or text is given a reference.
    """
    check_examples(dataset)
    if explain < 0:
        raise ConfigError(f"`explain` must be at least 0, got {explain}. It is a number of rows.")
    if reference is not None and bundle.schema.kind not in KINDS:
        raise ConfigError(
            f"A reference must be one of images or vectors, the model is one of {bundle.schema.kind}. Leave it out."
        )
    with seeded(seed, device_of(bundle.vae)):
        parts = [part for _, _, part in bounds(bundle, dataset, num_samples, progress)]
    log_likelihood = np.concatenate([part.log_likelihood for part in parts])
    observed = np.concatenate([part.num_observed for part in parts])
    discrete = bundle.vae.likelihood.discrete
    scores = Scores(
        log_likelihood=log_likelihood,
        elbo=np.concatenate([part.elbo for part in parts]),
        rate=np.concatenate([part.rate for part in parts]),
        distortion=np.concatenate([part.distortion for part in parts]),
        bits_per_dim=-log_likelihood / (np.maximum(observed, 1) * math.log(2)) if discrete else None,
        anomaly=-log_likelihood,
        names=None if dataset.names is None else list(dataset.names),
        warning=_POINT if is_point(bundle.vae) else None,
        surprises=surprises(bundle, dataset, seed=seed) if bundle.schema.kind == "text" else None,
    )
    if bundle.schema.kind in KINDS:
        scores = _compared(scores, bundle, dataset, reference, seed)
    cells = isinstance(bundle.transform, CellGrid) and isinstance(bundle.vae, VAE) and bundle.schema.kind == "table"
    return _explained(scores, Table.of(bundle, "score"), dataset, explain, seed, progress) if cells else scores


_NO_REFERENCE = (
    "The anomaly is -log p alone, which plain images escape: no reference was stored with the model. Give normal examples that "
    "training did not see as the reference (`--reference`)."
)


def _compared(scores: Scores, bundle: Bundle, dataset: Dataset, reference: Dataset | Reference | None, seed: int) -> Scores:
    """The scores of images or vectors, their anomaly by comparison with normal examples."""
    given = reference_of(bundle, reference, seed=seed) if isinstance(reference, Dataset) else reference
    found = stored_reference(bundle) if given is None else given
    if found is None:
        return replace(scores, notes=(*scores.notes, _NO_REFERENCE))
    anomaly, parts = found.judged(measures(bundle, dataset, scores.rate, scores.distortion, found.density))
    notes = scores.notes
    if unknown := [name for name in found.conditions if name not in dataset.columns]:
        notes = (
            *notes,
            f"The reference had {', '.join(unknown)}, which these data have not: they look stranger than they are. Give a "
            "reference without, or data with it.",
        )
    return replace(scores, anomaly=anomaly, parts=parts, notes=notes)


def _explained(scores: Scores, table: Table, dataset: Dataset, num: int, seed: int, progress: Progress | None) -> Scores:
    """The scores of a table's rows, the strangest with the anomalies of their columns."""
    notes = (*scores.notes, *unseen(table, dataset))
    if num == 0 or scores.warning is not None:  # a point has no density to weigh latents by
        return replace(scores, notes=notes)
    rows = np.sort(np.argsort(-scores.anomaly, kind="stable")[:num])
    with torch.inference_mode(), full_precision(), seeded(seed, table.device):
        found = column_scores(table, dataset, rows, progress=progress)
    if len(rows) < len(scores):
        notes = (*notes, f"The columns of the {len(rows):,} strangest rows alone were looked at.")
    return replace(scores, by_column=found, notes=notes)
