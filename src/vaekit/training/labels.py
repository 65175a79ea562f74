"""What `semi-supervised` makes of a model: a classifier beside it, and how much its labels weigh."""

from __future__ import annotations

import numpy as np

from vaekit.component import Component
from vaekit.data.dataset import Dataset
from vaekit.errors import ConfigError, DataError
from vaekit.networks import MLP
from vaekit.objectives import SemiSupervised
from vaekit.posteriors import Classifier
from vaekit.types import Json
from vaekit.vae import LatentModel

_WEIGHT = 0.1
"""Of the classification of one example: Kingma, Mohamed, Rezende, Welling (2014), section 4."""

_OF_ELBO = ("beta", "warm_up", "cycles", "free_bits", "free_bits_per", "capacity")


def prepared(vae: LatentModel, data: Dataset, asked: Json) -> tuple[SemiSupervised, tuple[str, ...]]:
    """The objective for a data set, and a sentence; a model without a classifier is given one, like its encoder.

    alpha is 0.1 N / (number of examples of which a column is known), which is the paper's.

    Raises:
        ConfigError: if the model has no condition of categories, or arguments of the ELBO are given.
        DataError: if no example has a label.
    """
    given = [name for name in _OF_ELBO if asked.get(name) is not None]
    if given:
        raise ConfigError(f"`{given[0]}` must be left out with the objective `semi-supervised`: it is an argument of `elbo`.")
    categories = {} if vae.condition is None else vae.condition.categories
    if not categories:
        raise ConfigError(
            "The objective `semi-supervised` must have a condition of categories, got none. Give one: `condition=['label']` "
            "(`--condition label`)."
        )
    if vae.classifier is None:
        vae.classifier = Classifier(_network_like(vae, data), categories)
    known = [data.columns[name] >= 0 for name in vae.classifier.categories if name in data.columns]
    num = int(np.any(known, axis=0).sum()) if known else 0
    if not num:
        names = ", ".join(f"`{name}`" for name in vae.classifier.categories)
        raise DataError(f"Some examples must have a known {names} to learn it from, found none. Label a few of each category.")
    reason = (
        f"Objective: semi-supervised; {num} of {len(data)} examples are labelled, and a classifier learns from all of them."
    )
    return SemiSupervised(alpha=_WEIGHT * len(data) / num), (reason,)


def _network_like(vae: LatentModel, data: Dataset) -> Component:
    """A network like the encoder's, but without a condition; where the encoder has no such network, a dense one."""
    network = getattr(getattr(vae, "posterior", None), "network", None)
    if not isinstance(network, Component):
        return MLP(data.schema.shape, [256, 256], observe_mask=data.schema.missing)
    spec = network.spec()
    return type(network).from_spec({**spec, "condition_features": 0} if "condition_features" in spec else spec)
