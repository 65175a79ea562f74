"""Mixtures fitted to latents, with weights by the condition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import vaekit
from conftest import LinearGaussian
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Levels
from vaekit.errors import ConfigError, DataError
from vaekit.likelihoods import Normal
from vaekit.model import Model
from vaekit.networks import MLP, ConditionEncoder
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import PRIOR_FIT, Bundle
from vaekit.training.mixtures import Told, fit_mixture
from vaekit.vae import VAE

CENTRES = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 6.0], [0.0, -6.0]])
"""Category 0 has the first two, 0.75 and 0.25 of it; category 1 the third; category 2 the fourth."""


def latents(codes: Tensor, seed: int = 0) -> Tensor:
    """A latent for each code; -1 has one of any category's."""
    g = torch.Generator().manual_seed(seed)
    which = torch.where(codes < 0, torch.arange(len(codes)) % 3, codes)
    place = torch.where(which == 0, (torch.rand(len(codes), generator=g) < 0.25).long(), which + 1)
    return CENTRES[place] + 0.5 * torch.randn(len(codes), 2, generator=g)


def encoder(categories: int = 3, numbers: bool = False) -> ConditionEncoder:
    torch.manual_seed(3)
    return ConditionEncoder(
        {} if numbers else {"label": categories}, features=6, numbers={"label": [0.0, 1.0]} if numbers else None
    )


def told_of(codes: Tensor, features: ConditionEncoder) -> Told:
    different = torch.unique(codes)
    with torch.no_grad():
        rows = features({"label": different}, drop=False).double()
        unknown = features({"label": torch.tensor([-1])}, drop=False).double()[0]
    index = torch.searchsorted(different, codes).numpy()
    return Told(rows, unknown, index, codes.numpy())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_each_category_has_the_mixture_of_its_own_latents(covariance: str) -> None:
    codes = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1]).repeat(500)
    features = encoder()
    prior, how = fit_mixture(latents(codes), 8, covariance, 0, told_of(codes, features))
    assert how["converged"]
    with torch.no_grad():
        p = prior(features({"label": torch.tensor([0, 1, 2, -1])}, drop=False))
        assert p.batch_shape == (4,)
        z = p.sample((4000,))
        near = (z[:, :, None] - CENTRES).norm(dim=-1).argmin(-1)
        shares = torch.stack([(near == place).float().mean(0) for place in range(4)], dim=1)
        everywhere = torch.tensor([0.406, 0.135, 0.292, 0.167])  # the shares of all latents; of those without a label a third
        unknown = (500 * torch.tensor([3 / 12, 1 / 12, 1 / 3, 1 / 3]) + 400 * everywhere) / 900  # and a tenth of all as well
        expected = torch.stack([*torch.tensor([[0.75, 0.25, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), unknown])
        torch.testing.assert_close(shares[:3], expected[:3], rtol=0, atol=0.03)
        torch.testing.assert_close(shares[3], expected[3], rtol=0, atol=0.04)
        # the density under a label is that of its normals, and without any condition that of all
        for label, weights in enumerate(expected[:3]):
            at = CENTRES[weights > 0] + torch.tensor([0.3, -0.2])
            squares = (at[:, None] - CENTRES).square().sum(-1)
            truth = (weights * torch.exp(-squares / 0.5) / (2 * torch.pi * 0.25)).sum(-1).log()
            torch.testing.assert_close(p.log_prob(at[:, None])[:, label], truth, rtol=0, atol=0.25)
        near = (prior().sample((4000,))[:, None] - CENTRES).norm(dim=-1).argmin(-1)
        torch.testing.assert_close(near.bincount(minlength=4) / 4000, everywhere, rtol=0, atol=0.04)


def test_a_batch_of_mixtures_is_each_mixture_by_itself() -> None:
    torch.manual_seed(0)
    for covariance in ("diagonal", "full"):
        prior = vaekit.priors.MixtureOfNormals(3, 5, covariance=covariance, condition_features=4).double()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
        f, z = torch.randn(6, 4).double(), torch.randn(2, 6, 3).double()
        batch = prior(f, 0.8)
        assert prior.gate is not None
        for i in range(6):
            alone = vaekit.priors.MixtureOfNormals(3, 5, covariance=covariance).double()
            alone.load_state_dict({name: value for name, value in prior.state_dict().items() if name != "gate"})
            alone.logits.data += prior.gate @ f[i]
            torch.testing.assert_close(batch.log_prob(z)[:, i], alone(None, 0.8).log_prob(z[:, i]))
            torch.testing.assert_close(batch.mean[i], alone(None, 0.8).mean)
            torch.testing.assert_close(batch.variance[i], alone(None, 0.8).variance)
        drawn = batch.sample((20000,))
        torch.testing.assert_close(drawn.mean(0), batch.mean, rtol=0, atol=0.06)
        torch.testing.assert_close(drawn.var(0), batch.variance, rtol=0.06, atol=0)


def test_without_conditions_it_is_the_mixture_of_all() -> None:
    z = latents(torch.tensor([0, 1, 2]).repeat(400))
    prior, _ = fit_mixture(z, 4, "diagonal", 0)
    assert prior.gate is None
    assert prior.spec()["condition_features"] == 0
    order = torch.cdist(CENTRES, prior.means.detach()).argmin(1)
    torch.testing.assert_close(prior.means.detach()[order], CENTRES, rtol=0, atol=0.15)
    weights = prior().mixture_distribution.probs.detach()[order]
    torch.testing.assert_close(weights, torch.tensor([0.25, 1 / 12, 1 / 3, 1 / 3]), rtol=0, atol=0.02)


def test_limits() -> None:
    with pytest.raises(DataError, match="at least 2 latents"):
        fit_mixture(torch.zeros(1, 2), None, "full", 0)
    with pytest.raises(ConfigError, match="Use at most 5"):
        fit_mixture(torch.randn(100, 2), 6, "full", 0)
    with pytest.raises(ConfigError, match="condition_features"):
        vaekit.priors.MixtureOfNormals(2, condition_features=-1)
    codes = torch.tensor([0] * 199 + [1])  # a category of one latent cannot have a normal of its own: all are shared
    prior, _ = fit_mixture(latents(codes), 3, "diagonal", 0, told_of(codes, encoder()))
    assert len(prior.logits) == 3


def bundle_of(data: Dataset, condition: ConditionEncoder) -> Bundle:
    """A model that decodes a latent exactly and encodes a value as it is, whatever the condition."""
    truth = LinearGaussian(scale=0.1)
    gain = torch.linalg.pinv(truth.weight).float()
    width = condition.out_features
    torch.manual_seed(0)
    posterior = DiagonalNormal(MLP(3, [2], "relu", condition_features=width), 2)
    likelihood = Normal(MLP(2, [2], "relu", condition_features=width), [3])
    vae = VAE(StandardNormal(2), posterior, likelihood, condition)
    vae.posterior.network = Linear(gain, -gain @ truth.bias.float())
    vae.posterior.head = Head(torch.full((2,), -2.0))
    return Bundle(vae.eval(), Levels(), data.schema, {"steps": 3}, {})


class Linear(torch.nn.Module):
    """W x + b, with no heed of the condition."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return x @ self.weight.T + self.bias


class Head(torch.nn.Module):
    """The features as means, and raw scales that are always the same."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(raw)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([features, self.raw.expand_as(features)], dim=-2)


@pytest.mark.parametrize("numbers", [False, True])
def test_a_model_with_conditions_draws_latents_of_the_condition(numbers: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 1200)
    z = latents(torch.from_numpy(codes)).double()
    truth = LinearGaussian(scale=0.1)
    x = (z @ truth.weight.T + truth.bias).float().numpy()
    column = codes.astype(np.float32) + rng.uniform(-0.2, 0.2, 1200).astype(np.float32) if numbers else codes
    data = loading.open(x, y=column)
    fitted = Model(bundle_of(data, encoder(numbers=numbers))).refit_prior(data, "mixture-full", components=12)
    vae = fitted.bundle.vae
    assert fitted.bundle.training[PRIOR_FIT]["elbo"] > fitted.bundle.training[PRIOR_FIT]["elbo_before"] + 5
    for code in range(3):
        where = vae.condition_of({"label": torch.full((500,), float(code) if numbers else code)}, 500)
        torch.manual_seed(1)
        near = (vae.sample_prior(500, condition=where)[0][:, None] - CENTRES).norm(dim=-1).argmin(-1)
        right = (near <= 1) if code == 0 else (near == code + 1)
        assert right.float().mean() > (0.9 if numbers else 0.99)


def test_a_fit_of_another_model_leaves_out_what_it_does_not_know() -> None:
    data = loading.open(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), y=np.arange(50) % 3)
    bundle = bundle_of(data, encoder())
    told = Told.of(bundle.vae, data, 2)
    assert told is not None
    assert told.index.tolist() == [*(i % 3 for i in range(50))] * 2
    assert told.groups is not None
    assert told.groups.tolist() == told.index.tolist()
    with torch.no_grad():
        assert bundle.vae.condition is not None
        expected = bundle.vae.condition({"label": torch.arange(3)}, drop=False)
    torch.testing.assert_close(told.features.float(), expected)
    plain = LinearGaussian().vae(torch.zeros(2, 3), torch.zeros(2), torch.eye(2))
    assert Told.of(plain, data, 1) is None
