"""The flow posterior: its base and context are the network's, and it fits what no normal can."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vaekit.distributions import positive
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, ConvEncoder
from vaekit.objectives import ELBO
from vaekit.posteriors import DiagonalNormal, Flow
from vaekit.priors import StandardNormal
from vaekit.vae import VAE


def test_base_and_context_are_those_of_the_network() -> None:
    posterior, x = Flow(MLP(3, [5]), 2, "iaf", 4, [6], 2).double(), torch.randn(7, 3).double()
    q = posterior(x)
    features = posterior.network(x)
    mean, raw = posterior.head(features).unbind(-2)
    torch.testing.assert_close(q.base.mean, mean)
    torch.testing.assert_close(q.base.stddev, positive(raw))
    assert q.context is not None
    torch.testing.assert_close(q.context, posterior.context_head(features)[:, 0])
    noise, log_det = posterior.flow.pull(z := q.rsample((3,)), q.context.expand(3, 7, 4))
    torch.testing.assert_close(q.log_prob(z), q.base.log_prob(noise) + log_det)


def test_without_a_context_the_map_is_the_same_for_all() -> None:
    posterior = Flow(MLP(3, [5]), 2, "planar", 0, [], 2)
    q = posterior(torch.randn(7, 3))
    assert q.context is None
    assert q.rsample((2,)).shape == (2, 7, 2)


def a_banana(z: Tensor) -> Tensor:
    """log p(x, z) of z_1 ~ N(0, 1), z_2 ~ N(z_1^2 - 1, 0.4^2), but for the constants."""
    return -0.5 * z[..., 0] ** 2 - 0.5 * ((z[..., 1] - z[..., 0] ** 2 + 1.0) / 0.4) ** 2


def a_ring(z: Tensor) -> Tensor:
    return -0.5 * ((z.norm(dim=-1) - 2.0) / 0.5).square()


def bound_after_training(posterior: DiagonalNormal | Flow, log_joint: Callable[[Tensor], Tensor], steps: int = 200) -> float:
    optimizer, x = torch.optim.Adam(posterior.parameters(), lr=0.02), torch.zeros(1, 3)
    for _ in range(steps):
        q = posterior(x)
        z = q.rsample((64,))
        loss = (q.log_prob(z) - log_joint(z)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        q = posterior(x)
        z = q.sample((4000,))
        return (log_joint(z) - q.log_prob(z)).mean().item()


@pytest.mark.parametrize(
    ("kind", "log_joint", "gain"), [("iaf", a_banana, 0.3), ("nice", a_banana, 0.3), ("planar", a_ring, 0.05)]
)
def test_it_fits_what_no_normal_can(kind: str, log_joint: Callable[[Tensor], Tensor], gain: float) -> None:
    """The bound rises above that of a diagonal normal, and not above the evidence."""
    grid = torch.cartesian_prod(torch.linspace(-6, 6, 601), torch.linspace(-6, 30, 1801))
    evidence = torch.logsumexp(log_joint(grid).double(), 0).item() + math.log(0.02 * 0.02)
    plain = bound_after_training(DiagonalNormal(MLP(3, [8]), 2), log_joint)
    bent = bound_after_training(Flow(MLP(3, [8]), 2, kind, 0, [16], 3), log_joint)
    assert plain + gain < bent < evidence + 0.05


def test_encode_draws_nothing_and_training_works() -> None:
    torch.manual_seed(0)
    encoder = ConvEncoder([1, 4, 4], [4], features=6)
    vae = VAE(StandardNormal(3), Flow(encoder, 3, "iaf", 4, [8], 2), Bernoulli(MLP(3, [8]), [1, 4, 4]))
    x = (torch.rand(5, 1, 4, 4) < 0.5).float()
    state = torch.get_rng_state()
    mean, scale = vae.encode_flat(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert mean.shape == scale.shape == (5, 3)
    assert (scale > 0).all()
    torch.testing.assert_close(vae.encode_flat(x[2:3])[0], mean[2:3])
    ELBO()(vae(x)).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


def test_a_negative_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="`num_context` must be at least 0, got -1"):
        Flow(MLP(3, [5]), 2, num_context=-1)
    with pytest.raises(ConfigError, match="`kind` must be one of"):
        Flow(MLP(3, [5]), 2, kind="none")
