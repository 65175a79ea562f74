"""What a `Model` says of the columns that it is conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaekit.inference import Progress
from vaekit.jobs.predict import Method, Predicted, predict
from vaekit.model_maps import MapJobs


class ConditionJobs(MapJobs):
    """The jobs of conditions, of a class that has a bundle and reads data."""

    def predict(
        self,
        data: Any,
        columns: Sequence[str] | None = None,
        *,
        method: Method = "auto",
        num_samples: int = 16,
        uniform: bool = False,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Predicted:
        """The label of every example, and what else the model is conditioned on, with their probabilities.

        Args:
            data: N examples; what they say themselves of the columns that are predicted is not read.
            columns: which; all that the model is conditioned on if None (all of its classifier, where it has one).
            method: `classifier`, which the objective `semi-supervised` trains; `bayes`: p(c|x) by p(c) and the bounds on
                log p(x|c); `auto`: the first where there is one.
            num_samples: K of those bounds; more is nearer to the exact posterior, and slower.
            uniform: whether all values are taken to be as likely before the example is seen, and not as often as in training.
            seed: of the draws.
            split: which part of data that come split; of the data that the model was trained on, what was held out if None.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.

        Raises:
            ConfigError: if the model is not conditioned on a column.

        Example:
            found = model.predict("digits.npz"); found.labels["label"], found.probabilities["label"]
        """
        dataset = self.read(data, split, default="held_out", **options)
        how: dict[str, Any] = {"method": method, "num_samples": num_samples, "uniform": uniform, "seed": seed}
        return predict(self.bundle, dataset, columns, **how, progress=progress)
