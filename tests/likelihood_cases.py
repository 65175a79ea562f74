"""Every likelihood over real numbers, positive ones, counts and shares, with the grid on which its density is summed up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.likelihoods import (
    Beta,
    BetaBinomial,
    HyperbolicSecant,
    Laplace,
    Likelihood,
    Logistic,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from vaekit.likelihoods.counts import Counts
from vaekit.networks import MLP, ConvDecoder

K, B, D = 2, 3, 2
MODES = ("shared", "per_dimension", "predicted")


@dataclass(frozen=True)
class Case:
    """A likelihood and its support: `real`, `positive`, `unit`, `count`, or a number of levels."""

    make: Callable[[], Likelihood]
    support: str | int

    @property
    def discrete(self) -> bool:
        return self.support == "count" or isinstance(self.support, int)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Points (N,) and weights (N,) with sum_i w_i f(x_i) the sum, or the integral, of f; in float64.

        Integrals are trapezoids in t with x = sinh t, exp t or sigmoid t, in which the integrands are smooth and vanish at
        both ends, so that they converge faster than any power of the step.
        """
        if self.discrete:
            x = torch.arange(4001 if self.support == "count" else float(self.support), dtype=torch.float64)
            return x, torch.ones_like(x)
        reach = {"real": 30.0, "positive": 45.0, "unit": 36.0}[str(self.support)]
        t = torch.linspace(-reach, reach, 20_001, dtype=torch.float64)
        step = 2 * reach / 20_000
        if self.support == "real":
            return torch.sinh(t), torch.cosh(t) * step
        if self.support == "positive":
            return torch.exp(t), torch.exp(t) * step
        return torch.sigmoid(t), torch.sigmoid(t) * torch.sigmoid(-t) * step

    def data(self, *shape: int) -> Tensor:
        """Random numbers on the support, in float64."""
        normal = torch.randn(*shape, dtype=torch.float64)
        if self.support == "count":
            return torch.poisson(2.0 * normal.exp())
        if isinstance(self.support, int):
            return torch.randint(self.support, shape).double()
        return {"real": normal, "positive": normal.exp(), "unit": torch.sigmoid(normal)}[self.support]

    def bad(self) -> list[float]:
        """Numbers that are not on it."""
        if self.support == "count":
            return [-1.0, 0.5, math.inf, math.nan]
        if isinstance(self.support, int):
            return [-1.0, 0.5, float(self.support), math.nan]
        return {"real": [math.nan, math.inf], "positive": [0.0, -1.0, math.inf], "unit": [0.0, 1.0, math.nan]}[self.support]


def mlp() -> MLP:
    return MLP(D, [6], "tanh")


def in_modes(name: str, cls: Callable[..., Likelihood], argument: str, support: str | int, *others: int) -> dict[str, Case]:
    return {f"{name} {mode}": Case(lambda mode=mode: cls(mlp(), [3], *others, **{argument: mode}), support) for mode in MODES}


CASES: dict[str, Case] = {
    **in_modes("normal", Normal, "scale", "real"),
    **in_modes("laplace", Laplace, "scale", "real"),
    **in_modes("logistic", Logistic, "scale", "real"),
    **in_modes("secant", HyperbolicSecant, "scale", "real"),
    **in_modes("student", StudentT, "scale", "real"),
    **in_modes("lognormal", LogNormal, "scale", "positive"),
    **in_modes("beta", Beta, "concentration", "unit"),
    **in_modes("betabinomial", BetaBinomial, "concentration", 9, 9),
    **in_modes("negativebinomial", NegativeBinomial, "dispersion", "count"),
    **in_modes("zinb", ZeroInflatedNegativeBinomial, "dispersion", "count"),
    "poisson": Case(lambda: Poisson(mlp(), [3]), "count"),
    "zip": Case(lambda: ZeroInflatedPoisson(mlp(), [3]), "count"),
    "poisson conv": Case(lambda: Poisson(ConvDecoder(D, [3, 1, 1], [4]), [3, 1, 1]), "count"),
    "student conv": Case(lambda: StudentT(ConvDecoder(D, [3, 1, 1], [4]), [3, 1, 1], "predicted"), "real"),
}


def wild(likelihood: Likelihood) -> Likelihood:
    """Float64, with every parameter far from its start, so that no term of a formula is near zero.

    Outputs that go through an exponential are kept within the grids: counts near 1, Beta densities that fall at both ends.
    """
    likelihood = likelihood.double()
    with torch.no_grad():
        for name, parameter in likelihood.named_parameters():
            in_logs = isinstance(likelihood, Beta | Counts) and name.startswith("head")
            parameter.add_(torch.randn_like(parameter) * (0.2 if in_logs else 0.7))
            if isinstance(likelihood, Beta):
                if name == "log_concentration":
                    parameter.add_(3.0)
                elif name.endswith("linear.bias") and likelihood.concentration == "predicted":
                    parameter.view(2, -1)[1].add_(3.0)
    return likelihood


def latents() -> Tensor:
    return torch.randn(K, B, D, dtype=torch.float64)


def without_features(likelihood: Likelihood) -> Likelihood:
    """The same likelihood with a network that says nothing, so that only the head's bias speaks."""
    network = likelihood.network
    out_shape = network.out_shape
    network.forward = lambda z, condition=None, mask=None: torch.zeros(*z.shape[:-1], *out_shape, dtype=z.dtype)
    return likelihood
