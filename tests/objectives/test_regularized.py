"""Regularised autoencoders: the terms by hand, the Jacobian exactly, and the point posterior."""

import math

import pytest
import torch

from vaekit.distributions import centre, stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Normal
from vaekit.networks import MLP, ConvDecoder, Spectral
from vaekit.objectives import ELBO, RAE
from vaekit.objectives.regularized import squared_jacobian
from vaekit.posteriors import Deterministic, DiagonalNormal
from vaekit.posteriors.deterministic import Point
from vaekit.priors import StandardNormal
from vaekit.types import Latent, Trace
from vaekit.vae import VAE

DIMS = 5


def autoencoder(likelihood=None, posterior=None):
    return VAE(
        StandardNormal(2),
        posterior or Deterministic(MLP(DIMS, [6], "tanh"), 2),
        likelihood or Normal(MLP(2, [6], "tanh"), [DIMS]),
    ).double()


def examples(num=4):
    return torch.randn(num, DIMS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_point():
    location = torch.randn(3, 2, requires_grad=True)
    point = Point(location)
    assert (point.batch_shape, point.event_shape) == ((3,), (2,))
    z = point.rsample((4,))
    assert torch.equal(z, location.expand(4, 3, 2))
    z.sum().backward()
    assert torch.equal(location.grad, torch.full((3, 2), 4.0))
    assert torch.equal(point.log_prob(z), torch.zeros(4, 3))
    assert torch.equal(point.log_prob(z[0] + 1), torch.zeros(3))
    mean, scale = centre(point)
    assert torch.equal(mean, location)
    assert torch.equal(scale, torch.zeros(3, 2))
    assert not stopped(point).mean.requires_grad
    assert not point.sample((2,)).requires_grad
    images = Point(torch.zeros(3, 1, 4, 5), event_dims=3)
    assert images.rsample((2,)).shape == (2, 3, 1, 4, 5)
    assert images.log_prob(torch.zeros(2, 3, 1, 4, 5)).shape == (2, 3)


def test_deterministic_is_the_heads_output():
    vae, x = autoencoder(), examples()
    posterior = vae.posterior
    features = posterior.network(x)
    expected = features @ posterior.head.linear.weight.T + posterior.head.linear.bias
    torch.testing.assert_close(vae.encode(x).mean, expected)
    assert torch.equal(vae.encode_flat(x)[1], torch.zeros(4, 2, dtype=torch.float64))
    trace = vae(x, num_samples=3)
    assert torch.equal(trace.latents[0].z[0], trace.latents[0].z[2])


def test_the_bound_of_a_point_is_the_most_probable_code():
    """-log p(x, z): the distortion, and the point's cost under the prior."""
    vae, x = autoencoder(), examples()
    bound, z = ELBO()(vae(x)), vae.encode(x).mean
    cost = (0.5 * z.square() + 0.5 * math.log(2 * math.pi)).sum(-1).mean()
    torch.testing.assert_close(bound.rate, cost)
    torch.testing.assert_close(bound.loss, -vae.decode(z.unsqueeze(0)).log_prob(x).mean() + cost)
    torch.testing.assert_close(RAE(beta=1.0)(vae(x)).loss, bound.loss - math.log(2 * math.pi))


@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_rae_by_hand(penalty):
    vae, x = autoencoder(posterior=DiagonalNormal(MLP(DIMS, [6], "tanh"), 2)), examples()
    trace = vae(x, num_samples=3)
    torch.manual_seed(4)
    bound = RAE(0.3, penalty)(trace)
    torch.manual_seed(4)
    half = 0.5 * trace.latents[0].z.square().sum(-1).mean()
    expected = -trace.log_likelihood.mean() + 0.3 * half
    if penalty:
        expected = expected + penalty * squared_jacobian(trace).mean()
    torch.testing.assert_close(bound.loss, expected)
    torch.testing.assert_close(bound.terms["half_square"], half)
    assert ("gradient_penalty" in bound.terms) == (penalty > 0)
    torch.testing.assert_close(bound.elbo, -ELBO()(trace).loss)


def exact_squares(vae, z):
    """(K, B): |dm/dz|^2, the whole Jacobian of every code by itself."""

    def mean(code):
        return vae.decode(code[None, None]).mean.flatten()

    rows = [torch.autograd.functional.jacobian(mean, code).square().sum() for code in z.flatten(0, 1)]
    return torch.stack(rows).reshape(z.shape[:2])


LIKELIHOODS = {
    "Normal": lambda: Normal(MLP(2, [6], "tanh"), [DIMS]),
    "Bernoulli": lambda: Bernoulli(MLP(2, [6], "tanh"), [DIMS]),
    "Mixture": lambda: DiscretizedLogisticMixture(ConvDecoder(2, [1, 1, 5], [4]), [1, 1, 5], levels=9, num_components=2),
    "Levels": lambda: Categorical(MLP(2, [6], "tanh"), [DIMS], levels=4),
    "Spectral": lambda: Normal(Spectral(MLP(2, [6], "tanh")), [DIMS]),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_penalty_is_the_jacobians_square(name, within_standard_errors):
    vae = autoencoder(LIKELIHOODS[name]()).eval()
    z = torch.randn(1, 2, 2, dtype=torch.float64)
    point = Point(z[0])
    trace = Trace(torch.zeros(2), vae.decode(z), torch.zeros(1, 2), (Latent(z, point, vae.prior()),), decode=vae.decode)
    with torch.no_grad():
        draws = torch.stack([squared_jacobian(trace) for _ in range(1000)])
    within_standard_errors(draws, exact_squares(vae, z))
    with torch.no_grad():
        torch.manual_seed(1)
        silent = squared_jacobian(trace)
        assert not silent.requires_grad
    torch.manual_seed(1)
    torch.testing.assert_close(squared_jacobian(trace).detach(), silent)


def test_the_penaltys_gradient_by_finite_differences_and_to_the_decoder_only():
    vae, x = autoencoder(), examples(2)

    def penalty():
        torch.manual_seed(2)
        return squared_jacobian(vae(x)).mean()

    value = penalty()
    assert all(
        g is None for g in torch.autograd.grad(value, list(vae.posterior.parameters()), allow_unused=True, retain_graph=True)
    )
    weight = vae.likelihood.network.layers[0][0].weight
    (found,) = torch.autograd.grad(value, weight)
    for index in [(0, 0), (3, 1), (5, 0)]:
        with torch.no_grad():
            weight[index] += 1e-5
            above = penalty()
            weight[index] -= 2e-5
            below = penalty()
            weight[index] += 1e-5
        assert ((above - below) / 2e-5).item() == pytest.approx(found[index].item(), rel=1e-6, abs=1e-9)


def test_the_penalty_makes_the_decoder_flatter():
    slopes = []
    for penalty in (0.0, 10.0):
        torch.manual_seed(0)
        vae, x = autoencoder(), examples(64)
        objective = RAE(0.01, penalty)
        optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
        for _ in range(60):
            objective(vae(x)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        slopes.append(exact_squares(vae, vae(x[:8]).latents[0].z).mean().item())
    assert slopes[1] < 0.3 * slopes[0]


@pytest.mark.parametrize("name", ["beta", "gradient_penalty"])
def test_arguments_that_cannot_be(name):
    with pytest.raises(ConfigError, match=f"`{name}` must be >= 0, got -1.0"):
        RAE(**{name: -1.0})
    with pytest.raises(ConfigError, match=f"`{name}` must be >= 0, got inf"):
        RAE(**{name: math.inf})


def test_the_penalty_needs_a_decoder():
    trace = autoencoder()(examples())
    bare = Trace(trace.x, trace.likelihood, trace.log_likelihood, trace.latents)
    assert torch.isfinite(RAE()(bare).loss)
    with pytest.raises(ConfigError, match="must be given a trace with `decode`"):
        RAE(gradient_penalty=1.0)(bare)
