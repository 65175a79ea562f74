"""A conditional linear-Gaussian model whose every density is known, for tests of conditions."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Standardize
from vaekit.distributions.scales import SOFTPLUS_ONE
from vaekit.likelihoods import Normal
from vaekit.networks import ConditionEncoder
from vaekit.networks.mlp import LinearHead
from vaekit.posteriors import Classifier, DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.vae import VAE

LABELS, KINDS = 3, 2
SCALE = 0.8
WEIGHT = torch.tensor([1.2, -0.7], dtype=torch.float64)
QUANTILES = np.linspace(-1.0, 2.0, 101) + 0.2 * np.sin(np.linspace(0, 6, 101))


def inverse_softplus(y: float) -> float:
    return float(np.log(np.expm1(y)))


class Line(nn.Module):
    """The input and the condition, side by side."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.out_shape = (size,)

    def make_head(self, num_parameters: int, event_shape: Sequence[int]) -> LinearHead:
        return LinearHead(self.out_shape[0], num_parameters, tuple(event_shape))

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if condition is None:
            return x
        return torch.cat([x, condition.expand(*x.shape[:-1], condition.shape[-1])], dim=-1)


class Known:
    """x | c ~ N(M f(c) + b, w w^T + s^2 I): z ~ N(0, 1), x | z, c ~ N(w z + M f(c) + b, s^2 I), with the exact q(z|x, c)."""

    def __init__(self, numbers: bool = False, kinds: bool = False) -> None:
        torch.manual_seed(3)
        categories = {"label": LABELS, **({"kind": KINDS} if kinds else {})}
        self.encoder = ConditionEncoder(categories, features=2, dropout=0.3, numbers={"angle": [0.5, 0.9]} if numbers else None)
        width = self.encoder.out_features
        self.shift, self.bias = torch.randn(2, width, dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)
        classifier = Classifier(Line(2), categories)
        self.vae = VAE(
            StandardNormal(1),
            DiagonalNormal(Line(2 + width), 1),
            Normal(Line(1 + width), [2], min_scale=1e-3),
            self.encoder,
            classifier,
        ).double()
        variance = 1 / (1 + WEIGHT @ WEIGHT / SCALE**2)
        gain = variance * WEIGHT / SCALE**2
        with torch.no_grad():
            head = self.vae.likelihood.head.linear
            head.weight.copy_(torch.cat([WEIGHT[:, None], self.shift], dim=1))
            head.bias.copy_(self.bias)
            self.vae.likelihood.raw_scale.fill_(inverse_softplus(SCALE - 1e-3))
            head = self.vae.posterior.head.linear
            head.weight.zero_()[0].copy_(torch.cat([gain, -gain @ self.shift]))
            head.bias.copy_(torch.tensor([-(gain @ self.bias), inverse_softplus(float(variance.sqrt()) - 1e-4) - SOFTPLUS_ONE]))

    def mean(self, columns: dict[str, Tensor]) -> Tensor:
        """(B, 2): E[x|c]."""
        with torch.no_grad():
            return self.encoder(columns, drop=False) @ self.shift.T + self.bias

    @property
    def covariance(self) -> Tensor:
        return WEIGHT[:, None] @ WEIGHT[None] + SCALE**2 * torch.eye(2, dtype=torch.float64)

    def evidence(self, x: Tensor, columns: dict[str, Tensor]) -> Tensor:
        """log p(x|c), exactly."""
        return MultivariateNormal(self.mean(columns), self.covariance).log_prob(x)

    def bundle(self, dataset: Dataset, **training: object) -> Bundle:
        """The model in float32, as it would be loaded."""
        return Bundle(copy.deepcopy(self.vae).float().eval(), Standardize(0.0, 1.0), dataset.schema, training)


def data(num: int = 12, seed: int = 0) -> Dataset:
    """Points of the plane with a label, a kind and an angle, some of them unknown."""
    rng = np.random.default_rng(seed)
    angle = rng.normal(0.5, 0.9, num)
    angle[:2] = np.nan
    label = np.arange(num) % LABELS + np.where(np.arange(num) % 5 == 4, np.nan, 0.0)
    y = {"label": label, "kind": np.array(["a", "b"])[np.arange(num) // 2 % 2], "angle": angle}
    return loading.open(rng.normal(0.0, 2.0, (num, 2)).astype(np.float32), y=y)
