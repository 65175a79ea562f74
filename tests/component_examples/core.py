"""The components of the core."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vaekit.component import Component
from vaekit.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, DiscretizedLogisticMixture, Normal
from vaekit.networks import MLP, ConditionEncoder, ConvDecoder, ConvEncoder
from vaekit.objectives import ELBO, IWAE
from vaekit.posteriors import DiagonalNormal, FullNormal
from vaekit.priors import MixtureOfNormals, StandardNormal
from vaekit.vae import VAE


def conditional_vae() -> VAE:
    return VAE(
        MixtureOfNormals(2, num_components=3),
        FullNormal(ConvEncoder([1, 3, 4], [3, 4], features=5, condition_features=3, observe_mask=True), 2),
        DiscretizedLogisticMixture(
            ConvDecoder(2, [1, 3, 4], [3, 4], condition_features=3), [1, 3, 4], levels=9, num_components=2
        ),
        ConditionEncoder({"label": 3}, features=3),
    )


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "likelihoods.Bernoulli": [lambda: Bernoulli(MLP(2, [4]), [3])],
    "likelihoods.Categorical": [lambda: Categorical(MLP(2, [4]), [3], levels=4)],
    "likelihoods.ContinuousBernoulli": [lambda: ContinuousBernoulli(MLP(2, [4]), [3])],
    "likelihoods.DiscretizedLogisticMixture": [
        lambda: DiscretizedLogisticMixture(MLP(2, [4]), [3], levels=9, num_components=2),
        lambda: DiscretizedLogisticMixture(ConvDecoder(2, [3, 2, 2], [4]), [3, 2, 2], levels=9, num_components=3),
    ],
    "likelihoods.Normal": [
        lambda: Normal(MLP(2, [4]), [3]),
        lambda: Normal(MLP(2, [4]), [3], scale="per_dimension", min_scale=0.01),
        lambda: Normal(MLP(2, [4]), [3], "predicted"),
    ],
    "networks.ConditionEncoder": [
        lambda: ConditionEncoder({"label": 3, "type": 2}, features=4),
        lambda: ConditionEncoder({"label": 3, "type": 2}, 4, numbers={"angle": [0.5, 2.0], "size": (1.0, 3)}),
    ],
    "networks.ConvDecoder": [
        lambda: ConvDecoder(2, [1, 3, 5], [3, 4]),
        lambda: ConvDecoder(2, (3, 4, 4), (3,), num_blocks=2),
    ],
    "networks.ConvEncoder": [
        lambda: ConvEncoder([1, 3, 5], [3, 4], features=6),
        lambda: ConvEncoder((3, 4, 4), (3,), num_blocks=2, input_range=(0, 255), observe_mask=True),
    ],
    "networks.MLP": [
        lambda: MLP(3, [4]),
        lambda: MLP([1, 2, 2], [4, 4], "gated", residual=True, input_range=[0, 1], observe_mask=True),
    ],
    "objectives.ELBO": [lambda: ELBO(), lambda: ELBO(2.0, 10, capacity=3.0, capacity_steps=5), lambda: ELBO(free_bits=0.5)],
    "objectives.IWAE": [lambda: IWAE()],
    "posteriors.DiagonalNormal": [lambda: DiagonalNormal(MLP(3, [4]), 2)],
    "posteriors.FullNormal": [lambda: FullNormal(MLP(3, [4]), 2)],
    "priors.MixtureOfNormals": [lambda: MixtureOfNormals(2, num_components=3, spread=0.5)],
    "priors.StandardNormal": [lambda: StandardNormal(2)],
    "vae.VAE": [
        lambda: VAE(StandardNormal(2), DiagonalNormal(MLP(3, [4]), 2), Bernoulli(MLP(2, [4]), [3])),
        conditional_vae,
    ],
}

NUMBERS = {
    ConditionEncoder: lambda encoder: encoder(
        {
            "label": torch.tensor([0, -1, 2]),
            "type": torch.tensor([1, 0, -1]),
            "angle": torch.tensor([0.25, torch.nan, -3.0], dtype=torch.float64),
            "size": torch.tensor([2.0, 5.0, torch.nan]),
        }
    ),
    ConvDecoder: lambda decoder: decoder(torch.linspace(-1, 1, 12, dtype=next(decoder.parameters()).dtype).reshape(2, 3, 2)),
}
