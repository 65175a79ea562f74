"""Which parts go together: what would compute nonsense is refused, in one sentence, and what makes sense is not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from vaekit import likelihoods, objectives, posteriors, priors
from vaekit.errors import ConfigError
from vaekit.likelihoods import DiscretizedLogisticMixture, Normal
from vaekit.networks import MLP
from vaekit.vae import VAE


def net(width: int = 3) -> MLP:
    return MLP(width, [6], "tanh")


def normal(width: int = 4, inputs: int = 3) -> posteriors.DiagonalNormal:
    return posteriors.DiagonalNormal(net(inputs), width)


POSTERIORS: dict[str, Any] = {
    "normal": lambda: normal(),
    "deterministic": lambda: posteriors.Deterministic(net(), 4),
    "gamma": lambda: posteriors.Gamma(net(), 4),
    "sphere": lambda: posteriors.VonMisesFisher(net(), 4),
    "ball": lambda: posteriors.WrappedNormal(net(), 4, curvature=0.25),
    "quantized": lambda: posteriors.VectorQuantized(net(), num_codes=5, code_dims=2, positions=2),
    "finite": lambda: posteriors.FiniteScalar(net(), levels=[5], positions=4),
    "gumbel": lambda: posteriors.GumbelSoftmax(net(), num_categories=2, positions=2),
    "normal, gumbel": lambda: posteriors.Joint([normal(2), posteriors.GumbelSoftmax(net(), 2, 1)]),
    "two spheres": lambda: posteriors.Joint([posteriors.VonMisesFisher(net(), 2), posteriors.VonMisesFisher(net(), 2)]),
    "chain": lambda: posteriors.Chain([normal(2), normal(2, 2)]),
    "semi-amortised": lambda: posteriors.SemiAmortized(normal(), steps=2),
    "hamiltonian": lambda: posteriors.Hamiltonian(normal(), steps=1),
}
PRIORS: dict[str, Any] = {
    "standard": lambda: priors.StandardNormal(4),
    "halves": lambda: priors.Joint([priors.StandardNormal(2), priors.MixtureOfNormals(2, 3)]),
    "flow": lambda: priors.Standardized(priors.Flow(4, kind="maf", hidden=[4])),
    "chain": lambda: priors.Chain(priors.StandardNormal(2), [normal(2, 2)]),
    "exemplar": lambda: priors.Exemplar(4, [3], 3),
    "gamma": lambda: priors.Gamma(4),
    "sphere": lambda: priors.UniformSphere(4),
    "ball": lambda: priors.WrappedNormal(4, curvature=0.25),
    "other ball": lambda: priors.WrappedNormal(4, curvature=1.0),
    "codes (5, 2)": lambda: priors.UniformCodes(4, num_codes=5, num_tokens=2),
    "codes (5, 4)": lambda: priors.CategoricalCodes(4, num_codes=5, num_tokens=4),
    "codes (2, 2)": lambda: priors.CategoricalCodes(4, num_codes=2, num_tokens=2),
    "normal, codes": lambda: priors.Joint([priors.StandardNormal(2), priors.UniformCodes(2, 2, 1)]),
    "two spheres": lambda: priors.Joint([priors.UniformSphere(2), priors.UniformSphere(2)]),
    "vamp": lambda: priors.Vamp(4, [3], 3),
}
REAL = {"standard", "halves", "flow", "chain", "exemplar"}
FITTING: dict[str, set[str]] = {
    "normal": REAL | {"vamp"},
    "deterministic": REAL,
    "gamma": {"gamma", "vamp"},
    "sphere": {"sphere", "vamp"},
    "ball": {"ball", "vamp"},
    "quantized": {"codes (5, 2)"},
    "finite": {"codes (5, 4)"},
    "gumbel": {"codes (2, 2)"},
    "normal, gumbel": {"normal, codes"},
    "two spheres": {"two spheres", "vamp"},
    "chain": REAL | {"vamp"},
    "semi-amortised": REAL | {"vamp"},
    "hamiltonian": REAL | {"vamp"},
}


@pytest.mark.parametrize(("posterior", "prior"), [*itertools.product(POSTERIORS, PRIORS)])
def test_a_model_is_made_of_parts_over_one_space_and_of_no_others(posterior: str, prior: str) -> None:
    def make() -> VAE:
        return VAE(PRIORS[prior](), POSTERIORS[posterior](), Normal(net(4), [3]))

    if prior in FITTING[posterior]:
        assert make().num_latents == 4
    else:
        with pytest.raises(ConfigError, match=r"^[^.]*must .*(got|found) .*\. [A-Z].*\.$"):
            make()


@pytest.mark.parametrize(
    ("posterior", "prior", "message"),
    [
        ("sphere", "standard", r"one space, got real\(4\) and sphere\(4\). Use `priors.UniformSphere`"),
        ("normal", "sphere", r"got sphere\(4\) and real\(4\). Use .*`priors.StandardNormal`"),
        ("ball", "other ball", r"got ball\(4, c=1.0\) and ball\(4, c=0.25\). Use `priors.WrappedNormal` of that curvature"),
        ("normal", "gamma", r"got positive\(4\) and real\(4\)"),
        ("quantized", "standard", r"got real\(4\) and codes\(5 at each of 2\). Use `priors.UniformCodes`"),
        ("normal, gumbel", "standard", r"got real\(4\) and real\(2\) x codes\(2 at each of 1\)"),
        ("gumbel", "vamp", "A Vamp prior must be made of a posterior that has a density, got GumbelSoftmax"),
        ("deterministic", "vamp", "A Vamp prior must be made of a posterior that has a density, got Deterministic"),
    ],
)
def test_what_is_said_of_parts_that_do_not_fit(posterior: str, prior: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VAE(PRIORS[prior](), POSTERIORS[posterior](), Normal(net(4), [3]))


def test_a_part_that_does_not_fit_does_not_take_the_place_of_one_that_does() -> None:
    vae = VAE(priors.Vamp(4, [3], 3), normal(), Normal(net(4), [3]))
    prior, posterior, likelihood = vae.prior, vae.posterior, vae.likelihood
    with pytest.raises(ConfigError, match="one space"):
        vae.prior = priors.UniformSphere(4)
    with pytest.raises(ConfigError, match="has a density"):
        vae.posterior = posteriors.Deterministic(net(), 4)
    with pytest.raises(ConfigError, match="share the latent's shape"):
        vae.prior = priors.StandardNormal(3)
    assert (vae.prior, vae.posterior, vae.likelihood) == (prior, posterior, likelihood)
    assert prior.posterior is posterior
    assert [name for name, _ in vae.named_children() if name in ("prior", "posterior")] == ["prior", "posterior"]
    vae.posterior = posteriors.FullNormal(net(), 4)
    assert prior.posterior is vae.posterior


@pytest.mark.parametrize("wrap", [lambda q: posteriors.Hamiltonian(q, steps=1), lambda q: posteriors.SemiAmortized(q, 1)])
def test_a_likelihood_that_is_differentiated_twice_must_be_differentiable_twice(wrap: Any) -> None:
    likelihood = DiscretizedLogisticMixture(net(4), [3], levels=8, num_components=2)
    with pytest.raises(ConfigError, match=r"differentiable twice, got a DiscretizedLogisticMixture.*unroll=False"):
        VAE(priors.StandardNormal(4), wrap(normal()), likelihood)
    vae = VAE(priors.StandardNormal(4), wrap(normal()), Normal(net(4), [3]))
    with pytest.raises(ConfigError, match="differentiable twice"):
        vae.likelihood = likelihood
    assert isinstance(vae.likelihood, Normal)


def test_it_may_be_differentiated_once() -> None:
    likelihood = DiscretizedLogisticMixture(net(4), [3], levels=8, num_components=2)
    vae = VAE(priors.StandardNormal(4), posteriors.SemiAmortized(normal(), 2, unroll=False), likelihood)
    objectives.ELBO()(vae(torch.tensor([[1.0, 2.0, 7.0]]))).loss.backward()
    assert all(p.grad is not None for p in vae.posterior.parameters())


def test_the_flag_of_a_likelihood_is_true() -> None:
    """Differentiating a likelihood twice fails where it says so and nowhere else."""
    x, failed = torch.tensor([[1.0, 2.0, 1.0]]), set()
    for cls in (DiscretizedLogisticMixture, likelihoods.Categorical, likelihoods.Normal, likelihoods.Poisson):
        likelihood = cls(net(4), [3], **({"levels": 3} if cls.discrete and cls is not likelihoods.Poisson else {}))
        z = torch.zeros(1, 1, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(likelihood(z).log_prob(x).sum(), z, create_graph=True)
        try:
            gradient.square().sum().backward()
        except RuntimeError:
            failed.add(cls)
        assert cls.twice_differentiable == (cls not in failed)
    assert failed == {DiscretizedLogisticMixture}


@pytest.mark.parametrize("name", ["deterministic", "gamma", "sphere", "ball", "quantized", "gumbel", "normal, gumbel"])
def test_a_hamiltonian_starts_at_a_density_over_real_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match="must have a density over all real numbers"):
        posteriors.Hamiltonian(POSTERIORS[name]())


@pytest.mark.parametrize("name", ["semi-amortised", "hamiltonian"])
def test_what_is_refined_is_refused_where_nothing_would_refine_it(name: str) -> None:
    refined, like = POSTERIORS[name](), "must not refine themselves"
    with pytest.raises(ConfigError, match=like):
        posteriors.Joint([normal(1), refined])
    with pytest.raises(ConfigError, match=like):
        posteriors.Chain([refined, normal(2, 4)])
    with pytest.raises(ConfigError, match=like):
        priors.Chain(priors.StandardNormal(3), [refined])
    with pytest.raises(ConfigError, match="must not refine itself"):
        priors.SecondStage(priors.StandardNormal(4), refined, Normal(net(4), [3]))


def test_a_chain_of_priors() -> None:
    for top in (priors.Vamp(2, [3], 3), priors.Exemplar(2, [3], 3), priors.UniformCodes(2, 2, 1)):
        with pytest.raises(ConfigError, match="top of a Chain must not be made of the model's posterior, got"):
            priors.Chain(top, [normal(2, 2)])
    for name in ("deterministic", "quantized", "gumbel"):
        with pytest.raises(ConfigError, match="conditionals of a Chain must have densities, got"):
            priors.Chain(priors.StandardNormal(3), [POSTERIORS[name]()])


def test_a_second_stage_has_parts_over_one_space() -> None:
    with pytest.raises(ConfigError, match="one space"):
        priors.SecondStage(priors.UniformSphere(4), normal(), Normal(net(4), [3]))
    with pytest.raises(ConfigError, match="must have a density"):
        priors.SecondStage(priors.StandardNormal(4), POSTERIORS["deterministic"](), Normal(net(4), [3]))


def test_only_real_numbers_have_units_of_their_own() -> None:
    for name in ("gamma", "sphere", "ball", "codes (5, 2)", "normal, codes"):
        with pytest.raises(ConfigError, match="must be over real numbers"):
            priors.Standardized(PRIORS[name]())


def test_a_part_of_a_joint_prior_that_is_made_of_a_posterior_needs_one_of_its_own() -> None:
    def make(posterior: posteriors.Posterior) -> VAE:
        return VAE(priors.Joint([priors.Vamp(2, [3], 3), priors.StandardNormal(2)]), posterior, Normal(net(4), [3]))

    for posterior in (normal(4), posteriors.Joint([normal(1), normal(3)])):
        with pytest.raises(ConfigError, match="must have a posterior of its own"):
            make(posterior)
    assert make(posteriors.Joint([normal(2), normal(2)])).prior.parts[0].posterior.shape == (2,)


def test_a_vamp_prior_off_the_real_numbers_has_no_temperature() -> None:
    vae = VAE(priors.Vamp(4, [3], 3), POSTERIORS["sphere"](), Normal(net(4), [3]))
    assert (vae.sample_prior(5).norm(dim=-1) - 1).abs().max() < 1e-5
    with pytest.raises(ConfigError, match="`temperature` must be 1"):
        vae.sample_prior(5, temperature=0.5)


PATH = [objectives.DReG(), objectives.StickingTheLanding(), objectives.PIWAE(2)]
WEIGHED = [objectives.IWAE(), objectives.MIWAE(2), objectives.CIWAE(0.5), *PATH]


def of_codes(name: str) -> VAE:
    posterior = POSTERIORS[name]()
    prior = priors.StandardNormal(4)
    if name == "normal, gumbel":
        prior = PRIORS["normal, codes"]()
    elif name != "deterministic":
        prior = priors.UniformCodes(4, posterior.num_codes, posterior.num_tokens)
    return VAE(prior, posterior, Normal(net(4), [3]))


@pytest.mark.parametrize("objective", WEIGHED, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", ["gumbel", "normal, gumbel"])
def test_weights_of_relaxed_samples_are_refused_in_training_and_right_in_evaluation(name: str, objective: Any) -> None:
    vae, x = of_codes(name), torch.randn(3, 3)
    with pytest.raises(ConfigError, match=f"{type(objective).__name__} must .* relaxed"):
        objective(vae.train()(x, num_samples=4))
    with torch.no_grad():
        assert torch.isfinite(objective(vae.eval()(x, num_samples=4)).loss)
    objectives.ELBO()(vae.train()(x)).loss.backward()


@pytest.mark.parametrize("objective", PATH, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", ["deterministic", "quantized", "finite"])
def test_path_derivatives_of_points_are_refused(name: str, objective: Any) -> None:
    vae, x = of_codes(name), torch.randn(3, 3)
    with pytest.raises(ConfigError, match=f"{type(objective).__name__} must .* density"):
        objective(vae(x, num_samples=4))
    assert torch.isfinite(objectives.IWAE()(vae(x, num_samples=4)).loss)


def test_path_derivatives_of_codes_that_go_straight_through_are_refused() -> None:
    q = posteriors.GumbelSoftmax(net(), num_categories=2, positions=2, straight_through=True)
    vae, x = VAE(PRIORS["codes (2, 2)"](), q, Normal(net(4), [3])), torch.randn(3, 3)
    for objective in PATH:
        with pytest.raises(ConfigError, match="density"):
            objective(vae(x, num_samples=4))
    objectives.IWAE()(vae(x, num_samples=4)).loss.backward()
