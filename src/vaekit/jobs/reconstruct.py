"""Reconstruct: each example as the model sees it."""

from __future__ import annotations

import numpy as np
import torch

from vaekit.component import device_of
from vaekit.data.dataset import Dataset
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.blocks import PLAINLY, Spelling, decoded, posterior_of
from vaekit.jobs.conditions import features_of_data
from vaekit.storage import Bundle


def reconstruct(
    bundle: Bundle,
    dataset: Dataset,
    *,
    draw: str = "mean",
    seed: int = 0,
    progress: Progress | None = None,
    spelling: Spelling = PLAINLY,
) -> np.ndarray:
    """E p(x|z, c) at z = E q(z|x, c), for every example: what the model keeps of it.

    Deterministic unless `draw` is `sample`; each row is then the same to the last bit in any company. A condition that
    the data do not have is taken as unknown.

    Args:
        bundle: the model.
        dataset: N examples that fit the model's schema.
        draw: `mean` of p(x|z, c), or a `sample` of it.
        seed: of the samples.
        progress: called with (done, total) as examples are encoded and then decoded, so that total is 2N.
        spelling: of text, how it is made.

    Returns:
        (N, ...) in the source's layout and dtype.

    Raises:
        DataError: if there are no examples.
        ConfigError: if `draw` is unknown.
    """
    check_examples(dataset)
    total = 2 * len(dataset)
    encoding = None if progress is None else lambda done, num: progress(done, total)
    decoding = None if progress is None else lambda done, num: progress(num + done, total)
    mean, _ = posterior_of(bundle, dataset, encoding)
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)):
        return decoded(bundle, mean, features_of_data(bundle, dataset), draw, decoding, spelling)
