"""Several stochastic layers as one latent: the model of two layers of Burda et al. (2016), at a small size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaekit.component import build
from vaekit.distributions import closed_form_kl
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, ConditionEncoder, Part
from vaekit.objectives import ELBO, IWAE, DReG
from vaekit.posteriors import Chain, DiagonalNormal, FullNormal
from vaekit.priors import Chain as ChainPrior
from vaekit.priors import StandardNormal
from vaekit.types import Trace
from vaekit.vae import VAE


def two_layers(condition: bool = False) -> VAE:
    """z = (h1, h2) with 3 and 2 units."""
    width = 2 if condition else 0

    def normal(inputs: int, outputs: int) -> DiagonalNormal:
        return DiagonalNormal(MLP(inputs, [6, 6], "tanh", condition_features=width), outputs)

    return VAE(
        ChainPrior(StandardNormal(2), [normal(2, 3)]),
        Chain([normal(5, 3), normal(3, 2)]),
        Bernoulli(Part(MLP(3, [6, 6], "tanh", condition_features=width), 0, 3), [5]),
        ConditionEncoder({"label": 3}, features=2) if condition else None,
    ).double()


def data() -> Tensor:
    return (torch.rand(4, 5) < 0.5).double()


def test_the_weights_are_those_of_the_two_layers() -> None:
    vae, x = two_layers(), data()
    trace = vae(x, num_samples=7)
    h1, h2 = trace.latents[0].z.split([3, 2], dim=-1)
    first, second = vae.posterior.posteriors
    top, below = vae.prior.top, vae.prior.conditionals[0]
    log_q = first(x).log_prob(h1) + second(h1).log_prob(h2)
    log_p = top().log_prob(h2) + below(h2).log_prob(h1)
    p = vae.likelihood.network.network(h1)
    likelihood = torch.distributions.Bernoulli(logits=vae.likelihood.head(p)[..., 0, :])
    expected = likelihood.log_prob(x).sum(-1) + log_p - log_q
    torch.testing.assert_close(trace.log_weights, expected)
    assert vae.num_latents == 5


def test_the_likelihood_sees_the_first_layer_alone() -> None:
    vae, z = two_layers(), torch.randn(2, 4, 5).double()
    moved = torch.cat([z[..., :3], torch.randn(2, 4, 2).double()], dim=-1)
    assert torch.equal(vae.decode(z).mean, vae.decode(moved).mean)
    assert not torch.equal(vae.decode(z).mean, vae.decode(z + 1.0).mean)


def test_every_objective_reaches_every_parameter() -> None:
    for objective in (ELBO(), IWAE(), DReG()):
        vae = two_layers()
        objective(vae(data(), num_samples=5)).loss.backward()
        for name, parameter in vae.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_doubly_reparameterised_gradients_have_the_mean_of_plain_ones(within_standard_errors) -> None:
    """Both gradients of the K-sample bound to the posterior, on the same draws: their difference has mean 0."""
    vae, x = two_layers(), data()[:1]
    parameters = list(vae.posterior.parameters())

    def gradient(objective: IWAE | DReG, trace: Trace) -> Tensor:
        found = torch.autograd.grad(objective(trace).loss, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    differences = []
    for _ in range(150):
        trace = vae(x, num_samples=4)
        differences.append(gradient(IWAE(), trace) - gradient(DReG(), trace))
    stacked = torch.stack(differences)
    assert stacked.abs().max() > 1e-3
    along = torch.randn(stacked.shape[1], 20).double() / stacked.shape[1] ** 0.5
    within_standard_errors(stacked @ along, 0.0)


def test_encode_is_held_at_means() -> None:
    vae, x = two_layers(), data()
    state = torch.get_rng_state()
    mean, scale = vae.encode_flat(x)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = vae.posterior.posteriors
    torch.testing.assert_close(mean[:, :3], first(x).mean)
    torch.testing.assert_close(mean[:, 3:], second(first(x).mean).mean)
    torch.testing.assert_close(scale[:, 3:], second(first(x).mean).stddev)
    q = vae.encode(x)
    with pytest.raises(NotImplementedError):
        _ = q.mean
    assert closed_form_kl(q, vae.prior()) is None
    trace = vae(x, num_samples=3)
    torch.testing.assert_close(trace.posterior_mean, trace.latents[0].z.mean(0))


def test_draws_of_the_prior_follow_it(within_standard_errors) -> None:
    vae = two_layers()
    z = vae.sample_prior(4000)
    assert z.shape == (1, 4000, 5)
    h1, h2 = z[0].split([3, 2], dim=-1)
    within_standard_errors(h2, 0.0)
    p = vae.prior.conditionals[0](h2)
    within_standard_errors(((h1 - p.mean) / p.stddev).detach(), 0.0)
    within_standard_errors(((h1 - p.mean) / p.stddev).detach() ** 2, 1.0)
    torch.manual_seed(1)
    cold = vae.sample_prior(2000, temperature=0.1)[0]
    assert (cold[:, 3:].std(0) - 0.1).abs().max() < 0.01
    p = vae.prior.conditionals[0](cold[:, 3:])
    assert (((cold[:, :3] - p.mean) / p.stddev).std(0) - 0.1).abs().max() < 0.01


def test_a_condition_reaches_every_level() -> None:
    vae, x = two_layers(condition=True), data()
    one, other = {"label": torch.zeros(4, dtype=torch.int64)}, {"label": torch.ones(4, dtype=torch.int64)}
    z = torch.randn(3, 4, 5).double()
    assert not torch.equal(vae.encode(x, condition=one).log_prob(z), vae.encode(x, condition=other).log_prob(z))
    first, second = (vae.prior(vae.encode_condition(c)).log_prob(z) for c in (one, other))
    assert not torch.equal(first, second)
    assert vae.sample_prior(4, condition=one).shape == (1, 4, 5)
    ELBO()(vae(x, condition=one)).loss.backward()


def test_masks_reach_the_first_level() -> None:
    posterior, x = Chain([DiagonalNormal(MLP(5, [4]), 3), DiagonalNormal(MLP(3, [4]), 2)]), torch.rand(4, 5)
    mask = torch.rand(4, 5) < 0.5
    z = torch.randn(4, 5)
    assert torch.equal(posterior(x, mask=mask).log_prob(z), posterior(torch.where(mask, x, torch.nan), mask=mask).log_prob(z))


def test_a_model_of_chains_is_built_again() -> None:
    vae = two_layers()
    again = build(vae.spec()).double()
    again.load_state_dict(vae.state_dict())
    assert again.spec() == vae.spec()
    torch.testing.assert_close(again.encode_flat(x := data())[0], vae.encode_flat(x)[0])


def test_three_levels_of_any_family() -> None:
    posterior = Chain([FullNormal(MLP(5, [4]), 3), DiagonalNormal(MLP(3, [4]), 2), FullNormal(MLP(2, [4]), 1)])
    q = posterior(torch.rand(4, 5))
    assert q.log_prob(q.rsample((2,))).shape == (2, 4)
    assert posterior.shape == (6,)


def test_what_is_no_chain() -> None:
    with pytest.raises(ConfigError, match="Give at least one"):
        Chain([])
    with pytest.raises(ConfigError, match="parts of a Chain must be over vectors"):
        ChainPrior(StandardNormal(2), [MLP(2, [3])])
    with pytest.raises(ConfigError, match="0 <= start < stop, got 2 and 2"):
        Part(MLP(2, [3]), 2, 2)
    with pytest.raises(ConfigError, match="The `network` of a Part must be a network"):
        Part(StandardNormal(2), 0, 2)
