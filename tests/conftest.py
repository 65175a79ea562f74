"""What every test shares: one thread, a seed, and a model whose evidence is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.posteriors import FullNormal
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

torch.set_num_threads(1)
settings.register_profile(  # no clock decides over a test: neither a deadline nor how long examples take to be made
    "vaekit",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("vaekit")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and the commands that they start keep for later is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))


@dataclass(frozen=True)
class LinearGaussian:
    """z ~ N(0, I), x|z ~ N(W z + b, s^2 I), as a VAE of vaekit's own parts in float64.

    The networks are MLPs whose one layer is the pair relu(v), relu(-v), so that heads see v = relu(v) - relu(-v) exactly.
    """

    weight: Tensor = field(default_factory=lambda: torch.tensor([[1.0, -0.5], [0.3, 0.8], [-1.2, 0.4]], dtype=torch.float64))
    bias: Tensor = field(default_factory=lambda: torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64))
    scale: float = 0.7

    @property
    def num_latents(self) -> int:
        return self.weight.shape[1]

    def evidence(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p of the observed elements (S,) of x (B, S), exactly."""
        keep = torch.ones_like(self.bias, dtype=torch.bool) if observed is None else observed
        w, b = self.weight[keep], self.bias[keep]
        covariance = w @ w.T + self.scale**2 * torch.eye(len(b), dtype=torch.float64)
        return MultivariateNormal(b, covariance).log_prob(x[:, keep])

    def exact_posterior(self, observed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A, a, L with p(z|x) = N(A x + a, L L^T); A is 0 in the columns that are missing."""
        keep = torch.ones_like(self.bias) if observed is None else observed.double()
        w = self.weight * keep[:, None]
        covariance = torch.linalg.inv(torch.eye(self.num_latents, dtype=torch.float64) + w.T @ w / self.scale**2)
        gain = covariance @ w.T / self.scale**2
        return gain, -gain @ self.bias, torch.linalg.cholesky(covariance)

    def posterior_at(self, x: Tensor, observed: Tensor | None = None) -> MultivariateNormal:
        """p(z|x), exactly."""
        gain, offset, scale_tril = self.exact_posterior(observed)
        return MultivariateNormal(torch.where(gain.any(0), x, 0.0) @ gain.T + offset, scale_tril=scale_tril)

    def vae(self, gain: Tensor, offset: Tensor, scale_tril: Tensor) -> VAE:
        """The model, with q(z|x) = N(gain x + offset, scale_tril scale_tril^T)."""
        d, s = self.num_latents, len(self.bias)
        likelihood = Normal(MLP(d, [2 * d], "relu"), [s], scale="shared", min_scale=1e-3)
        posterior = FullNormal(MLP(s, [2 * s], "relu"), d)
        vae = VAE(StandardNormal(d), posterior, likelihood).double()
        with torch.no_grad():
            for network, size in ((likelihood.network, d), (posterior.network, s)):
                eye = torch.eye(size, dtype=torch.float64)
                network.layers[0][0].weight.copy_(torch.cat([eye, -eye]))
                network.layers[0][0].bias.zero_()
            likelihood.head.linear.weight.copy_(torch.cat([self.weight, -self.weight], dim=1))
            likelihood.head.linear.bias.copy_(self.bias)
            likelihood.raw_scale.copy_(inverse_softplus(torch.tensor(self.scale - 1e-3, dtype=torch.float64)))
            raw = inverse_softplus(scale_tril.diagonal() - 1e-4) - 0.5413248546
            head = posterior.head.linear
            head.weight.zero_()[:d].copy_(torch.cat([gain, -gain], dim=1))
            head.bias.copy_(torch.cat([offset, raw, scale_tril.flatten()]))
        return vae

    def exact_vae(self, observed: Tensor | None = None) -> VAE:
        return self.vae(*self.exact_posterior(observed))


@pytest.fixture(scope="session")
def linear_gaussian() -> LinearGaussian:
    return LinearGaussian()


@pytest.fixture
def within_standard_errors() -> Callable[..., None]:
    """A check that the mean of independent draws is what it should be.

    The tolerance is `errors` standard errors of the mean: a right formula fails one draw of the seed in 16,000 at 4.
    """

    def check(draws: Tensor, expected: Tensor | float, errors: float = 4.0) -> None:
        draws = draws.double()
        standard_error = draws.std(0) / math.sqrt(draws.shape[0])
        difference = (draws.mean(0) - torch.as_tensor(expected, dtype=torch.float64)).abs()
        assert bool((difference <= errors * standard_error + 1e-9).all()), (difference / standard_error, difference)

    return check
