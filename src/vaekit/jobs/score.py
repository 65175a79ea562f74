"""Score: how likely each example is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vaekit.component import device_of
from vaekit.data.dataset import Dataset
from vaekit.inference import Progress, bounds, check_examples, is_point, seeded
from vaekit.jobs.surprise import Surprises, surprises
from vaekit.storage import Bundle

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
        anomaly: -log_likelihood: greater is stranger. Neither standardised nor a percentile, so the scores of different
            models do not compare, and a threshold is best set at a percentile of the scores of normal data.
        names: the file name of each example, or None.
        warning: a sentence on why the figures bound nothing, where the posterior has no density; else None.
        surprises: of text, what is odd in it; else None.
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

    def __len__(self) -> int:
        return len(self.log_likelihood)

    def to_columns(self) -> dict[str, np.ndarray]:
        """The scores as the columns of a table: index, name, and a column a score. Of text, the text itself too, its perplexity
        a word (or a character, see `unit_of`), and its most surprising words."""
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
        return {**table, "anomaly": self.anomaly}


def score(
    bundle: Bundle, dataset: Dataset, *, num_samples: int = 16, seed: int = 0, progress: Progress | None = None
) -> Scores:
    """The K-sample bound on log p(x|c) of every example, and what it is made of.

        log 1/K sum_k p(x|z_k, c) p(z_k|c) / q(z_k|x, c),   z_k ~ q(z|x, c)

    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8. Of a posterior without a density, such
    as `posteriors.Deterministic`, it is log p(x, z|c) at the point, and no bound: `Scores.warning` says so.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        num_samples: K; more is tighter and slower.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total) as examples are done.

    Raises:
        DataError: if there are no examples.
        ConfigError: if `num_samples` is less than 1.
    """
    check_examples(dataset)
    with seeded(seed, device_of(bundle.vae)):
        parts = [part for _, _, part in bounds(bundle, dataset, num_samples, progress)]
    log_likelihood = np.concatenate([part.log_likelihood for part in parts])
    observed = np.concatenate([part.num_observed for part in parts])
    discrete = bundle.vae.likelihood.discrete
    return Scores(
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
