"""What a `Model` of text does beyond what every model does, and edits of any kind of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vaekit.data.dataset import Dataset, spaced
from vaekit.data.text.reading import as_texts
from vaekit.data.text.sources import find_source
from vaekit.errors import ConfigError
from vaekit.inference import Progress
from vaekit.jobs.blocks import Spelling
from vaekit.jobs.edit import Edited, Method, edit
from vaekit.jobs.fill import BLANK, CANDIDATES, Filled, fill
from vaekit.jobs.generate import generate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.model_tables import TableJobs

if TYPE_CHECKING:
    from vaekit.evaluation.text import TextReport

SAMPLES = 1000
"""How many texts are generated to be judged."""

_RECONSTRUCTED = 1000
_TEXT_OPTIONS = ("text", "encoding", "delimiter", "header", "sheet")


class TextJobs(TableJobs):
    """The jobs of text, of a class that has a bundle and reads data."""

    def impute(self, data: Any, **options: Any) -> Any:
        """What is missing in rows of a table (`TableJobs.impute`), or the blanks of texts (`fill`).

        Args:
            data: N rows with missing cells, or N texts with blanks.
            **options: of the one or the other.

        Returns:
            Of a table `jobs.impute.Imputed`, of text `jobs.fill.Filled`.
        """
        return self.fill(data, **options) if self.schema.kind == "text" else super().impute(data, **options)

    def fill(
        self,
        data: Any,
        *,
        blank: str = BLANK,
        longest: int | None = None,
        draw: str = "mean",
        num: int = 1,
        num_candidates: int = CANDIDATES,
        seed: int = 0,
        progress: Progress | None = None,
        **options: Any,
    ) -> Filled:
        """The blanks of texts, by p(blank | the rest of the text); `result.texts` has the likeliest of each.

        Args:
            data: N texts with any number of blanks, or a file of them.
            blank: what stands for a blank.
            longest: the most tokens of a blank: 3 words, 6 byte pairs, or 12 characters, if None.
            draw: `mean`: the likeliest fills, or `sample`: draws.
            num: so many of each text.
            num_candidates: draws of the latent a text; more is nearer to the exact conditional, and slower.
            seed: of all draws.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            ConfigError: if the model is not one of text, or an argument cannot be.
            DataError: if a text is too long.
        """
        if self.schema.kind != "text":
            raise ConfigError(f"The model must be one of text to fill blanks, got one of {self.schema.kind}.")
        texts, columns = self._texts(data, options)
        how = {"blank": blank, "longest": longest, "draw": draw, "num": num, "num_candidates": num_candidates}
        return fill(self.bundle, texts, columns=columns, **how, seed=seed, progress=progress)

    def _texts(self, data: Any, options: Mapping[str, Any]) -> tuple[list[str], dict[str, torch.Tensor]]:
        """The texts themselves, before they are made tokens, and the codes of the columns beside them."""
        dataset = self.read(data, "all", **({} if isinstance(data, Dataset) else {**options, "long": "cut"}))
        columns = {name: torch.from_numpy(codes) for name, codes in dataset.columns.items()}
        conditions = () if self.bundle.vae.condition is None else self.bundle.vae.condition.names
        known = {name: codes for name, codes in columns.items() if name in conditions}
        if isinstance(data, Dataset):
            return dataset.raw().tolist(), known
        given = as_texts(data)
        how: dict[str, Any] = {name: options.get(name) for name in _TEXT_OPTIONS}
        source = find_source(data if given is None else given, **how, known=self.schema)
        texts = [text for chunk in source.chunks() for text in chunk.texts]
        assert len(texts) == len(dataset)
        return texts, known

    def edit(
        self,
        data: Any,
        values: Mapping[str, str | float],
        *,
        strength: float = 1.0,
        method: Method = "auto",
        training: Any = None,
        draw: str = "mean",
        beams: int | None = None,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Edited:
        """Each example as it would be with other values of some columns, or further along directions that have a name;
        `rows(result.x)` has the source's form.

        Args:
            data: N examples.
            values: column -> the category that it is to have, as in `{"sentiment": "positive"}`; or the name of a direction ->
                steps along it, as in `{"slant": -1.5}`, or `"=2"` for the position 2.
            strength: 0 reconstructs, 1 sets, more exaggerates.
            method: `condition`: decode with another condition; `vector`: move the latent by the difference of mean latents of
                labelled examples; `auto`: the first where the model is conditioned on the column.
            training: labelled examples for those means; the data themselves if None.
            draw: `mean` of p(x|z, c), or a `sample` of it.
            beams: of text: seek the likeliest, keeping so many beginnings at a time.
            seed: of the samples.
            split: which part of data that come split; everything if None.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            ConfigError: if an argument cannot be, or the column cannot be set by this method.
            DataError: if there is no such column or category, or no example to make a mean of.
        """
        dataset = self.read(data, split, default="all", **options)
        labelled = None if training is None else self.read(training, default="all", **options)
        how = {"strength": strength, "method": method, "training": labelled, "draw": draw, "spelling": Spelling(beams=beams)}
        return edit(self.bundle, dataset, values, **how, seed=seed, progress=progress)

    def evaluate_texts(
        self,
        data: Any,
        *,
        training: Any = None,
        num: int = SAMPLES,
        order: int = 5,
        seed: int = 0,
        progress: Progress | None = None,
        **options: Any,
    ) -> TextReport:
        """How good generated and reconstructed texts are: BLEU, variety, novelty, and perplexity under n-grams.

        Args:
            data: texts that the model has not seen; or those that it was trained on, of which the part that was held out is
                then taken as such.
            training: the texts that it was trained on. Without them, and where `data` are not those, nothing is said of
                novelty.
            num: texts to generate.
            order: n of the n-grams.
            seed: of all draws.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            ConfigError: if the model is not one of text, or an argument cannot be.
        """
        if self.schema.kind != "text":
            raise ConfigError(f"The model must be one of text to evaluate texts, got one of {self.schema.kind}.")
        from vaekit.evaluation.text import evaluate_texts

        held_out = self.read(data, default="held_out", **options)
        if training is not None:
            seen = self.read(training, "all", **options)
        else:
            everything = self.read(data, "all", **options)
            seen = self.read(data, "train", **options) if len(held_out) < len(everything) else None
        some = held_out.select(spaced(len(held_out), _RECONSTRUCTED))
        made = generate(self.bundle, num, seed=seed).x.tolist()
        report = evaluate_texts(
            made,
            held_out.raw().tolist(),
            training=None if seen is None else seen.raw().tolist(),
            reconstructed=(some.raw().tolist(), reconstruct(self.bundle, some).tolist()),
            order=order,
            seed=seed,
            progress=progress,
        )
        return report if len(some) == len(held_out) else replace(report, notes=(*report.notes, _some(len(some), len(held_out))))


def _some(num: int, total: int) -> str:
    return f"The reconstructions are those of {num:,} of the {total:,} held-out texts."
