"""Likelihoods of real and positive numbers, counts and shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.likelihoods import (
    Beta,
    BetaBinomial,
    HyperbolicSecant,
    Laplace,
    Logistic,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from vaekit.networks import MLP, ConvDecoder, LogInput

MODES = ("shared", "per_dimension", "predicted")


def in_every_mode(cls: Callable[..., Component], argument: str, *others: Any) -> list[Callable[[], Component]]:
    return [lambda mode=mode: cls(MLP(2, [4]), [3], *others, **{argument: mode}) for mode in MODES]


def inside(component: Any) -> Tensor:
    """log p of numbers strictly between 0 and 1."""
    dtype = next(component.parameters()).dtype
    z, x = torch.linspace(-1, 1, 12, dtype=dtype).reshape(2, 3, 2), torch.linspace(0.1, 0.9, 9, dtype=dtype).reshape(3, 3)
    return component(z).log_prob(x)


EXAMPLES: dict[str, list[Callable[[], Component]]] = {
    "likelihoods.Beta": in_every_mode(Beta, "concentration"),
    "likelihoods.BetaBinomial": in_every_mode(BetaBinomial, "concentration", 5),
    "likelihoods.HyperbolicSecant": in_every_mode(HyperbolicSecant, "scale"),
    "likelihoods.Laplace": in_every_mode(Laplace, "scale"),
    "likelihoods.LogNormal": in_every_mode(LogNormal, "scale"),
    "likelihoods.Logistic": in_every_mode(Logistic, "scale"),
    "likelihoods.NegativeBinomial": [
        *in_every_mode(NegativeBinomial, "dispersion"),
        lambda: NegativeBinomial(ConvDecoder(2, [1, 3, 1], [4]), [1, 3, 1]),
    ],
    "likelihoods.Poisson": [lambda: Poisson(MLP(2, [4]), [3])],
    "likelihoods.StudentT": [
        *in_every_mode(StudentT, "scale"),
        lambda: StudentT(MLP(2, [4]), [3], min_scale=0.01, min_df=1.0),
    ],
    "likelihoods.ZeroInflatedNegativeBinomial": in_every_mode(ZeroInflatedNegativeBinomial, "dispersion"),
    "likelihoods.ZeroInflatedPoisson": [lambda: ZeroInflatedPoisson(MLP(2, [4]), [3])],
    "networks.LogInput": [lambda: LogInput(MLP(3, [4], input_range=[0.0, 5.0]))],
}

NUMBERS: dict[type[Component], Callable[[Any], Tensor]] = {
    Beta: inside,
    LogNormal: inside,
    LogInput: lambda network: network(100 * torch.linspace(-1, 1, 9, dtype=next(network.parameters()).dtype).reshape(3, 3)),
}
