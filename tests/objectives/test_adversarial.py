"""Objectives with a discriminator: their values, who is moved by which loss, and what the player learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vaekit.distributions import diagonal_normal
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.likelihoods import Normal as NormalLikelihood
from vaekit.networks import MLP, ConditionEncoder, ConvEncoder, Spectral
from vaekit.objectives import ELBO, VAEGAN, AdversarialAE, Discriminator, FactorVAE, rate
from vaekit.objectives.adversarial import permuted_units, prior_draws
from vaekit.posteriors import Deterministic, DiagonalNormal
from vaekit.posteriors.deterministic import Point
from vaekit.priors import MixtureOfNormals, StandardNormal
from vaekit.types import Latent, Trace
from vaekit.vae import VAE

DIMS, LATENTS = 5, 2


def make_vae(prior=None, posterior=None, likelihood=None, **options):
    return VAE(
        prior or StandardNormal(LATENTS),
        posterior or DiagonalNormal(MLP(DIMS, [6], "tanh", **options), LATENTS),
        likelihood or NormalLikelihood(MLP(LATENTS, [6], "tanh", **options), [DIMS]),
        ConditionEncoder({"label": 3}, features=options["condition_features"]) if options else None,
    ).double()


def player(dims):
    return MLP(dims, [7], "tanh")


def objectives():
    return {
        "FactorVAE": FactorVAE(player(LATENTS), gamma=3.0).double(),
        "AdversarialAE": AdversarialAE(player(LATENTS), weight=2.0).double(),
        "VAEGAN": VAEGAN(player(DIMS), gamma=0.3).double(),
    }


def examples(num=4):
    return torch.randn(num, DIMS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def gradients(scalar, *modules):
    """The gradient of a scalar by all parameters of the modules, as one vector; zeros where there is none."""
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)])


@pytest.mark.parametrize("name", ["FactorVAE", "AdversarialAE", "VAEGAN"])
def test_each_loss_reaches_its_own_parameters_only(name):
    objective, vae = objectives()[name], make_vae()
    bound = objective(vae(examples(), num_samples=2))
    model, opponent = list(vae.parameters()), list(objective.adversary.parameters())
    for loss, others in ((bound.loss, opponent), (bound.adversary, model)):
        found = torch.autograd.grad(loss, others, retain_graph=True, allow_unused=True)
        assert all(g is None or not g.any() for g in found)
    assert gradients(bound.adversary, objective.adversary).abs().min() > 0
    assert gradients(bound.loss, vae.posterior).abs().min() > 0
    assert gradients(bound.loss, vae.likelihood.network, vae.likelihood.head).abs().min() > 0
    # One backward pass of the sum, as the loop does it, is the two apart.
    apart = torch.cat([gradients(bound.loss, vae), gradients(bound.adversary, objective.adversary)])
    assert torch.equal(gradients(bound.loss + bound.adversary, vae, objective.adversary), apart)


@pytest.mark.parametrize("name", ["FactorVAE", "AdversarialAE", "VAEGAN"])
def test_rate_distortion_and_elbo_are_those_of_the_bound(name):
    objective, vae = objectives()[name], make_vae()
    trace = vae(examples(), num_samples=2)
    with torch.no_grad():
        bound = objective(trace)
    reference = ELBO()(trace)
    for part in ("elbo", "rate", "distortion"):
        assert torch.equal(getattr(bound, part), getattr(reference, part))
    assert torch.isfinite(bound.loss)
    assert torch.isfinite(bound.adversary)
    assert not bound.loss.requires_grad


def test_the_players_settings():
    assert AdversarialAE(player(2)).adversary_settings() == {"betas": (0.5, 0.9)}
    assert FactorVAE(player(2)).adversary_settings() == {"lr": 1e-4, "betas": (0.5, 0.9)}
    assert VAEGAN(player(2), adversary_learning_rate=2e-3, adversary_betas=[0.0, 0.9]).adversary_settings() == {
        "lr": 2e-3,
        "betas": (0.0, 0.9),
    }
    assert isinstance(FactorVAE(player(2)).adversary, Discriminator)
    assert ELBO().adversary is None
    spec = FactorVAE(player(2)).spec()
    assert spec["adversary"]["type"] == "objectives.Discriminator"
    assert spec["adversary"]["network"]["type"] == "networks.MLP"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FactorVAE(player(2), gamma=-1.0), "`gamma` must be >= 0, got -1.0"),
        (lambda: AdversarialAE(player(2), weight=math.nan), "`weight` must be >= 0, got nan"),
        (lambda: VAEGAN(player(2), gamma=0.0), "`gamma` must be > 0, got 0.0"),
        (lambda: VAEGAN(player(2), adversary_learning_rate=0.0), "`adversary_learning_rate` must be > 0 or None, got 0.0"),
        (lambda: FactorVAE(player(2), adversary_betas=[0.5]), "two numbers in"),
        (lambda: FactorVAE(player(2), adversary_betas=[0.5, 1.0]), "two numbers in"),
        (lambda: AdversarialAE(StandardNormal(2)), "The `network` of a Discriminator must be a network"),
    ],
)
def test_arguments_that_cannot_be(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_what_a_trace_must_bring():
    vae = make_vae()
    trace = vae(examples())
    two = Trace(trace.x, trace.likelihood, trace.log_likelihood, trace.latents * 2, decode=trace.decode)
    for name in ("AdversarialAE", "VAEGAN"):
        with pytest.raises(ConfigError, match=f"{name} must be given one level of latents, got 2"):
            objectives()[name](two)
    with pytest.raises(ConfigError, match="VAEGAN must be given a trace with `decode`"):
        objectives()["VAEGAN"](Trace(trace.x, trace.likelihood, trace.log_likelihood, trace.latents))
    assert torch.isfinite(FactorVAE(player(2 * LATENTS)).double()(two).loss)


# ------------------------------------------------------------------------------------------------------------- FactorVAE


def test_permuted_units_shuffle_each_unit_by_itself():
    z = torch.arange(2 * 50 * 3, dtype=torch.float64).reshape(2, 50, 3)
    shuffled = permuted_units(z)
    assert torch.equal(shuffled.sort(dim=1).values, z)  # each unit of each sample keeps its values
    rows = (shuffled / 3).floor()
    assert (rows[..., 0] != rows[..., 1]).any()
    assert (rows[..., 1] != rows[..., 2]).any()
    assert (rows[0] != rows[1] - 50).any()  # and each sample has an order of its own


def test_shuffled_pairs_are_independent():
    """A unit that is a copy of another meets each of its values equally often."""
    num = 6
    z = torch.arange(num, dtype=torch.float64).repeat(2, 1).T.expand(20000, num, 2)
    pairs = permuted_units(z)[:, 0].long()
    counts = torch.bincount(pairs[:, 0] * num + pairs[:, 1], minlength=num * num)
    chi2 = ((counts - 20000 / num**2).square() / (20000 / num**2)).sum()
    assert chi2 < 35 + 4 * math.sqrt(70)


def test_factor_vae_by_hand():
    objective, vae = FactorVAE(player(LATENTS), gamma=3.0).double(), make_vae()
    trace = vae(examples(), num_samples=2)
    torch.manual_seed(5)
    bound = objective(trace)
    torch.manual_seed(5)
    z = trace.latents[0].z
    d, d_shuffled = torch.sigmoid(objective.adversary(z)), torch.sigmoid(objective.adversary(permuted_units(z)))
    total_correlation = (d / (1 - d)).log().mean()
    torch.testing.assert_close(bound.terms["total_correlation"], total_correlation)
    torch.testing.assert_close(bound.loss, ELBO()(trace).loss + 3.0 * total_correlation)
    torch.testing.assert_close(bound.adversary, -0.5 * (d.log().mean() + (1 - d_shuffled).log().mean()))


def gaussian_trace(posterior_samples, prior=None):
    """A trace whose q(z) is that of the samples (B, D); nothing is decoded."""
    z = posterior_samples.unsqueeze(0)
    prior = prior or diagonal_normal(torch.zeros(z.shape[-1]), torch.ones(z.shape[-1]))
    zeros = torch.zeros(z.shape[:2])
    return Trace(zeros, Independent(Normal(0.0 * z, 1.0), 1), zeros, (Latent(z, Point(posterior_samples), prior),))


def train_player(objective, draw, steps, num=512):
    optimizer = torch.optim.Adam(objective.adversary.parameters(), lr=3e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        objective(draw(num)).adversary.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def test_the_players_total_correlation_is_that_of_a_correlated_normal():
    """TC of a normal = sum_d log s_d - 1/2 log |S|, here 0.5108 nats; a fresh player says next to nothing."""
    covariance = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 4.0]])
    truth = 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance))
    assert truth.item() == pytest.approx(-0.5 * math.log(1 - 0.64), rel=1e-5)
    normal = MultivariateNormal(torch.zeros(3), covariance)
    objective = FactorVAE(MLP(3, [64, 64]))
    many = gaussian_trace(normal.sample((20000,)))
    assert abs(objective(many).terms["total_correlation"].item()) < 0.25
    train_player(objective, lambda num: gaussian_trace(normal.sample((num,))), 600)
    with torch.no_grad():
        assert objective(many).terms["total_correlation"].item() == pytest.approx(truth.item(), abs=0.06)


# --------------------------------------------------------------------------------------------------------- AdversarialAE


def test_adversarial_ae_by_hand():
    objective, vae = AdversarialAE(player(LATENTS), weight=2.0).double(), make_vae()
    trace = vae(examples(), num_samples=2)
    torch.manual_seed(5)
    bound = objective(trace)
    torch.manual_seed(5)
    drawn = torch.sigmoid(objective.adversary(prior_draws(trace.latents[0])))
    encoded = torch.sigmoid(objective.adversary(trace.latents[0].z))
    torch.testing.assert_close(bound.loss, -trace.log_likelihood.mean() - 2.0 * encoded.log().mean())
    torch.testing.assert_close(bound.adversary, -drawn.log().mean() - (1 - encoded).log().mean())
    torch.testing.assert_close(bound.terms["aggregate_kl"], ((1 - encoded) / encoded).log().mean())


def test_the_encoder_has_no_gradient_of_a_rate():
    """With the game left out, the loss is the distortion alone."""
    objective, vae = AdversarialAE(player(LATENTS), weight=0.0).double(), make_vae()
    trace = vae(examples(), num_samples=2)
    expected = gradients(-trace.log_likelihood.mean(), vae)
    assert torch.equal(gradients(objective(trace).loss, vae), expected)


def test_the_players_kl_is_that_of_two_normals():
    """q(z) = N(1, 1/4) against N(0, 1): KL = 1/2 (1/4 + 1 - 1 + log 4) = 0.818 nats."""
    truth = 0.5 * (0.25 + 1.0 - 1.0 + math.log(4.0))
    objective = AdversarialAE(MLP(1, [64]))
    train_player(objective, lambda num: gaussian_trace(1.0 + 0.5 * torch.randn(num, 1)), 400)
    with torch.no_grad():
        found = objective(gaussian_trace(1.0 + 0.5 * torch.randn(20000, 1))).terms["aggregate_kl"]
    assert found.item() == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("conditional", [False, True])
def test_prior_draws_are_those_of_the_prior(conditional, within_standard_errors):
    """Of a prior with batch shape () or (B,), as many as there are samples."""
    mean = torch.tensor([[1.0, -2.0], [3.0, 0.5], [-1.0, 0.0]]) if conditional else torch.tensor([1.0, -2.0])
    prior = diagonal_normal(mean, torch.full_like(mean, 0.5))
    z = torch.zeros(2000, 3, 2, requires_grad=True)
    draws = prior_draws(Latent(z, Point(z[0]), prior))
    assert draws.shape == z.shape
    assert not draws.requires_grad
    within_standard_errors(draws, mean.expand(3, 2))
    within_standard_errors((draws - mean).square(), torch.full((3, 2), 0.25))


class Pushed(Distribution):
    """Noise through a network: a prior whose draws and whose density both call it."""

    def __init__(self, network):
        super().__init__(torch.Size(), torch.Size([2]), validate_args=False)
        self.network = network

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.network(torch.randn(*sample_shape, 2))

    def log_prob(self, value):
        return -self.network(value).square().sum(-1)


def test_draws_are_not_rounded_and_leave_the_density_its_gradient():
    network = torch.nn.Linear(2, 2)
    z = torch.zeros(1, 3, 2)
    latent = Latent(z, Point(z[0]), Pushed(network))
    with torch.autocast("cpu", torch.bfloat16):
        draws = prior_draws(latent)
        log_p = latent.log_p.sum()
    log_p.backward()
    assert draws.dtype == torch.float32
    assert not torch.equal(draws, draws.bfloat16().float())
    assert network.bias.grad is not None
    assert network.weight.grad is not None


def test_the_prior_is_asked_for_samples_only():
    """A mixture has no reparameterised samples, and is not trained."""
    vae = make_vae(prior=MixtureOfNormals(LATENTS, num_components=3), posterior=Deterministic(MLP(DIMS, [6]), LATENTS))
    bound = AdversarialAE(player(LATENTS)).double()(vae(examples()))
    assert not gradients(bound.loss, vae.prior).any()
    assert gradients(bound.loss, vae.posterior).any()


# ---------------------------------------------------------------------------------------------------------------- VAEGAN


def parts_by_hand(objective, vae, trace, seed):
    """Rate, features' distortion at z, and the decoder's side of the game at detached latents; each built on its own."""
    torch.manual_seed(seed)
    latent, network = trace.latents[0], objective.adversary.network
    drawn = prior_draws(latent)
    distortion = 0.5 * (network(vae.decode(latent.z).mean) - network(trace.x)).square().sum(-1).mean()
    rebuilt, made = vae.decode(latent.z.detach()).mean, vae.decode(drawn).mean
    game = sum(-torch.sigmoid(objective.adversary(fake)).log().mean() for fake in (rebuilt, made))
    told_apart = -torch.sigmoid(objective.adversary(trace.x)).log().mean() - sum(
        (1 - torch.sigmoid(objective.adversary(fake.detach()))).log().mean() for fake in (rebuilt, made)
    )
    return rate(trace).mean(), distortion, game, told_apart


@pytest.mark.parametrize("num_samples", [1, 3])
def test_who_receives_which_gradient_in_a_vaegan(num_samples):
    objective, vae = VAEGAN(player(DIMS), gamma=0.3).double(), make_vae()
    trace = vae(examples(), num_samples=num_samples)
    torch.manual_seed(5)
    bound = objective(trace)
    rate_, distortion, game, told_apart = parts_by_hand(objective, vae, trace, 5)
    torch.testing.assert_close(bound.loss, rate_ + 0.3 * distortion + game)
    torch.testing.assert_close(bound.terms["feature_distortion"], distortion)
    torch.testing.assert_close(bound.terms["game"], game)
    torch.testing.assert_close(bound.adversary, told_apart)
    encoder, decoder = vae.posterior, vae.likelihood
    # The encoder: rate and features, at full weight, and nothing of the game. The decoder: gamma times the features, and the
    # game, and nothing of the rate. The player: the classification.
    assert not gradients(game, encoder).any()
    assert not gradients(rate_, decoder).any()
    assert gradients(game, decoder).any()
    torch.testing.assert_close(gradients(bound.loss, encoder), gradients(rate_ + distortion, encoder))
    torch.testing.assert_close(gradients(bound.loss, decoder), gradients(0.3 * distortion + game, decoder))
    torch.testing.assert_close(gradients(bound.adversary, objective.adversary), gradients(told_apart, objective.adversary))


def test_a_vaegan_of_images_with_a_condition_missing_pixels_and_a_spectral_player():
    shape = [1, 4, 5]
    vae = VAE(
        StandardNormal(LATENTS),
        DiagonalNormal(MLP(shape, [6], condition_features=2, observe_mask=True), LATENTS),
        Bernoulli(MLP(LATENTS, [6], condition_features=2), shape),
        ConditionEncoder({"label": 3}, features=2),
    )
    objective = VAEGAN(Spectral(ConvEncoder(shape, [3, 4], features=6, input_range=[0, 1])))
    x = torch.randint(0, 2, (4, *shape)).float()
    mask = torch.rand(4, *shape) > 0.3
    hidden = torch.where(mask, x, math.nan)
    label = {"label": torch.tensor([0, 1, 2, -1])}
    objective.eval()
    torch.manual_seed(3)
    bound = objective(vae(hidden, condition=label, mask=mask, num_samples=2))
    torch.manual_seed(3)
    trace = vae(hidden, condition=label, mask=mask, num_samples=2)
    latent = trace.latents[0]
    made = trace.decode(torch.cat([latent.z, prior_draws(latent)])).mean
    logit = objective.discriminator(torch.where(mask, made, 0.5))  # 0.5, the centre of the range, is how a network sees nothing
    torch.testing.assert_close(bound.terms["game"], 2 * F.softplus(-logit).mean())
    (bound.loss + bound.adversary).backward()
    for module in (vae, objective):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    torch.manual_seed(3)
    again = objective(vae(torch.where(mask, x, 0.25), condition=label, mask=mask, num_samples=2))
    assert torch.equal(again.loss, bound.loss)  # what stands at a missing pixel is not read, real or decoded
    assert torch.equal(again.adversary, bound.adversary)


def test_discriminator_is_a_logit():
    discriminator = Discriminator(player(3)).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    logit = discriminator(x)
    assert logit.shape == (2, 4)
    features = discriminator.network(x)
    head = discriminator.head.linear
    torch.testing.assert_close(logit, (features @ head.weight.T + head.bias)[..., 0])
    torch.testing.assert_close(F.softplus(-logit), -torch.sigmoid(logit).log())
