"""Samples that follow a Hamiltonian: volume, unbiasedness of the evidence, and what they gain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaekit.distributions import diagonal_normal, stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.objectives import ELBO, IWAE, DReG
from vaekit.posteriors import DiagonalNormal, Hamiltonian
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

X = torch.tensor([1.3, -0.4]).double()


def log_joint(z: Tensor) -> Tensor:
    """log N(z; 0, I) + log N(x; z, 0.5^2 I): the posterior is N(0.8 x, 0.2), the evidence N(x; 0, 1.25)."""
    return -0.5 * (z.square() + (X - z).square() / 0.25).sum(-1) - 2 * math.log(2 * math.pi) - 2 * math.log(0.5)


EVIDENCE = float(-0.5 * X.square().sum() / 1.25 - math.log(2 * math.pi * 1.25))


def posterior(**options: float) -> Hamiltonian:
    torch.manual_seed(0)
    return Hamiltonian(DiagonalNormal(MLP(3, [4]), 2), **options).double()


def start() -> torch.distributions.Distribution:
    return diagonal_normal(torch.tensor([[0.2, 0.6]]).double(), torch.tensor([[0.9, 0.5]]).double())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_map_of_position_and_first_momentum_keeps_volume(temperature: float) -> None:
    q = posterior(steps=3, step_size=0.3, temperature=temperature).refine(start(), log_joint)

    def flat(both: Tensor) -> Tensor:
        return torch.cat(q.evolve(both[:2].reshape(1, 1, 2), both[2:].reshape(1, 1, 2)), -1).flatten()

    at = torch.randn(4).double()
    step = 1e-6
    columns = [(flat(at + step * e) - flat(at - step * e)) / (2 * step) for e in torch.eye(4).double()]
    assert torch.linalg.det(torch.stack(columns)).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_evidence_is_unbiased(temperature: float) -> None:
    q = posterior(steps=2, step_size=0.2, temperature=temperature).refine(start(), log_joint)
    with torch.no_grad():
        z = q.rsample((200_000,))
        weights = (log_joint(z) - q.log_prob(z)).exp()
    error = weights.std() / math.sqrt(weights.numel())
    assert error < 0.05 * math.exp(EVIDENCE)
    assert abs(weights.mean() - math.exp(EVIDENCE)) < 4 * error


def test_without_tempering_the_energy_is_kept_and_nothing_is_gained() -> None:
    """log p(x, z) - r^2 / 2 is conserved as steps get small, so each weight is that of the start."""
    q = posterior(steps=200, step_size=0.005, temperature=1.0).refine(start(), log_joint)
    with torch.no_grad():
        torch.manual_seed(3)
        z = q.rsample((20,))
        torch.manual_seed(3)
        first = start().rsample((20,))
    assert (z - first).norm(dim=-1).median() > 1  # it did move
    torch.testing.assert_close(log_joint(z) - q.log_prob(z), log_joint(first) - start().log_prob(first), atol=2e-3, rtol=0)


def test_tempering_raises_the_bound() -> None:
    plain = start()
    z = plain.rsample((20_000,))
    before = (log_joint(z) - plain.log_prob(z)).mean()
    q = posterior(steps=10, step_size=0.3, temperature=9.0).refine(start(), log_joint)
    with torch.no_grad():
        moved = q.rsample((20_000,))
        after = (log_joint(moved) - q.log_prob(moved)).mean()
    assert before + 2 < after < EVIDENCE


def test_only_the_last_sample_has_a_density() -> None:
    q = posterior().refine(start(), log_joint)
    z = q.rsample((3,))
    assert q.log_prob(z).shape == (3, 1)
    with pytest.raises(NotImplementedError, match="the last of them"):
        q.log_prob(z.clone())
    with pytest.raises(NotImplementedError):
        _ = q.mean
    with pytest.raises(ConfigError, match="known everywhere"):
        stopped(q)


def model() -> VAE:
    torch.manual_seed(0)
    q = Hamiltonian(DiagonalNormal(MLP(4, [16]), 2), steps=2)
    return VAE(StandardNormal(2), q, Bernoulli(MLP(2, [16]), [4]))


def test_a_model_learns_its_steps_too() -> None:
    vae, x, losses = model(), torch.eye(4).repeat(8, 1), []
    optimizer = torch.optim.Adam(vae.parameters(), 1e-2)
    for _ in range(60):
        loss = ELBO()(vae(x)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10]) - 3
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in vae.parameters())
    assert math.isfinite(IWAE()(vae(x, num_samples=5)).loss.item())
    with pytest.raises(ConfigError, match="known everywhere"):
        DReG()(vae(x, num_samples=5))


def test_encoding_draws_nothing_and_works_without_gradients() -> None:
    vae, x = model().eval(), torch.eye(4)
    with torch.inference_mode():
        first, second = vae.encode_flat(x), vae.encode_flat(x)
        assert torch.equal(first[0], second[0])
        assert torch.isfinite(vae(x, num_samples=3).log_weights).all()
        one = vae.encode_flat(x[1:2])[0]
        torch.testing.assert_close(one, first[0][1:2])


@pytest.mark.parametrize("options", [{"steps": 0}, {"step_size": 0.0}, {"temperature": 0.5}])
def test_refusals(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        posterior(**options)
