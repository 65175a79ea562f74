"""What refinement is given: the batch's own prior, made once, and the refined start of the posterior within."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vaekit.likelihoods import Normal
from vaekit.networks import MLP
from vaekit.objectives import ELBO, IWAE
from vaekit.posteriors import DiagonalNormal, Hamiltonian, Joint, SemiAmortized
from vaekit.priors import Exemplar, Standardized, StandardNormal, Vamp
from vaekit.priors import Joint as JointPrior
from vaekit.vae import VAE


def net(width: int) -> MLP:
    return MLP(width, [6], "tanh")


def normal(width: int = 2) -> DiagonalNormal:
    return DiagonalNormal(net(3), width)


def test_a_hamiltonian_starts_where_the_posterior_within_was_refined_to() -> None:
    """Without steps to speak of, log q is that of the refined start: N(3, 0.5^2)."""

    def log_joint(z: Tensor) -> Tensor:
        return (-0.5 * ((z - 3.0) / 0.5) ** 2).sum(-1)

    posterior = Hamiltonian(SemiAmortized(normal(), steps=100), steps=1, step_size=1e-6, temperature=1.0)
    q = posterior.refine(posterior(torch.zeros(1, 3)), log_joint)
    z = q.rsample((5000,)).detach()
    assert z.mean().item() == pytest.approx(3.0, abs=0.03)
    assert z.std().item() == pytest.approx(0.5, abs=0.02)


def test_the_prior_is_made_once_a_batch() -> None:
    prior = Vamp(2, [3], num_pseudo_inputs=50)
    vae, rows = VAE(prior, SemiAmortized(normal(), steps=20), Normal(net(2), [3])), []
    vae.posterior.posterior.network.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    x = torch.randn(7, 3)
    for infer in (vae, vae.encode):
        for inference in (False, True):
            rows.clear()
            with torch.inference_mode(inference):
                infer(x)
            assert sum(rows) == 7 + 50
    vae.posterior = normal()
    vae.posterior.network.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    rows.clear()
    vae.encode(x)
    assert sum(rows) == 7  # nothing refines, so nothing asks for a prior


def test_refinement_climbs_the_bound_under_the_prior_of_the_batch() -> None:
    """The gradient of the first step, by the formula, under the mixture about the other examples."""
    torch.manual_seed(0)
    vae = VAE(Exemplar(2, [3], 4), SemiAmortized(normal(), steps=1, max_norm=1e9), Normal(net(2), [3])).double().train()
    x = torch.randn(5, 3).double()
    start = vae.posterior(x)
    points = vae.posterior._points_of(0).double()
    mean = start.mean.detach().requires_grad_()
    z = mean + start.stddev.detach() * points
    sigma, others = vae.prior.scale.detach(), start.mean.detach()
    square = (z[:, :, None] - others).square().sum(-1)
    terms = -0.5 * square / sigma**2 - 2 * (sigma.log() + 0.5 * math.log(2 * math.pi)) - math.log(4)
    log_p = terms.masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf).logsumexp(-1)
    bound = (vae.likelihood(z).log_prob(x) + log_p).mean(0).sum()
    (gradient,) = torch.autograd.grad(bound, mean)
    expected = mean + 0.1 * gradient
    trace = vae(x)
    torch.testing.assert_close(trace.latents[0].posterior.mean, expected)
    torch.testing.assert_close(vae.encode(x).mean, expected)
    torch.testing.assert_close(trace.latents[0].prior.means, start.mean)


@pytest.mark.parametrize("wrap", [lambda q: Hamiltonian(q, steps=2), lambda q: SemiAmortized(q, steps=2)])
@pytest.mark.parametrize("training", [True, False])
def test_exemplars_go_with_posteriors_that_differentiate_twice(wrap, training: bool) -> None:
    vae, x = VAE(Exemplar(2, [3], 4), wrap(normal()), Normal(net(2), [3])).double(), torch.randn(6, 3).double()
    vae.initialize(x)
    vae.train(training)
    objective = ELBO() if training else IWAE()
    objective(vae(x, num_samples=2)).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    with torch.inference_mode():
        assert torch.isfinite(vae(x, num_samples=2).log_weights).all()


def test_the_density_of_exemplars_has_the_derivatives_of_its_formula() -> None:
    torch.manual_seed(1)
    vae = VAE(Exemplar(2, [3], 4), normal(), Normal(net(2), [3])).double()
    vae.initialize(torch.randn(4, 3).double())
    p = vae.eval().prior()
    z = torch.randn(3, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(p.log_prob, z)
    assert torch.autograd.gradgradcheck(p.log_prob, z)
    far, step = torch.full((1, 2), 1000.0), 2.0**-13  # no digits are lost near a mean that is far from 0
    q, z = type(p)(torch.zeros(1), far, torch.tensor(1e-3)), (far + step).requires_grad_()
    expected = -0.5 * 2 * (step / 1e-3) ** 2 - 2 * (math.log(1e-3) + 0.5 * math.log(2 * math.pi))
    assert q.log_prob(z).item() == pytest.approx(expected, abs=1e-4)


def density(z: Tensor, means: Tensor, scale: Tensor) -> Tensor:
    """log 1/M sum_m N(z; mean_m, scale^2), by the formula; z (D,), means (M, D)."""
    normal = torch.distributions.Normal(means, scale)
    return normal.log_prob(z).sum(-1).logsumexp(0) - math.log(len(means))


def test_parts_of_priors_leave_an_example_out_of_its_own() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3).double()
    keep = [[j for j in range(5) if j != i] for i in range(5)]
    standardized = Standardized(Exemplar(2, [3], 4))
    standardized.fit(torch.tensor([[1.0, -2.0], [5.0, 2.0]]))  # shift (3, 0), scale (2, 2)
    vae = VAE(standardized, normal(), Normal(net(2), [3])).double()
    (latent,) = vae.train()(x).latents
    means, sigma = vae.posterior(x).mean, standardized.prior.scale
    for i in range(5):  # in units of z: the means are where they were, and the scale is 2 sigma
        torch.testing.assert_close(latent.log_p[0, i], density(latent.z[0, i], means[keep[i]], 2 * sigma))
    joint = JointPrior([Exemplar(2, [3], 4), StandardNormal(1)])
    vae = VAE(joint, Joint([normal(2), normal(1)]), Normal(net(3), [3])).double()
    (latent,) = vae.train()(x).latents
    means, sigma = vae.posterior.parts[0](x).mean, joint.parts[0].scale
    for i in range(5):
        z = latent.z[0, i]
        expected = density(z[:2], means[keep[i]], sigma) + torch.distributions.Normal(0.0, 1.0).log_prob(z[2])
        torch.testing.assert_close(latent.log_p[0, i], expected)


def test_a_prior_in_units_of_its_own_speaks_of_the_posterior_in_them() -> None:
    prior = Standardized(Vamp(2, [3], 4))
    prior.fit(torch.tensor([[1.0, -2.0], [5.0, 2.0]]))
    posterior = normal()
    prior.bind(posterior)
    z, q = torch.randn(6, 2), posterior(prior.prior.pseudo)
    expected = torch.distributions.Normal(q.mean, q.stddev).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(prior().log_prob(z), expected.logsumexp(1) - math.log(4))


def test_the_number_of_exemplars_is_known_without_asking_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = VAE(Exemplar(2, [3], 8), normal(), Normal(net(2), [3])).eval()
    vae.initialize(torch.randn(5, 3))
    again = VAE(Exemplar(2, [3], 8), normal(), Normal(net(2), [3])).eval()
    again.load_state_dict(vae.state_dict())
    asked = []
    monkeypatch.setattr(Tensor, "__int__", lambda self: asked.append(self) or 5)
    assert len(vae.prior().means) == len(again.prior().means) == 5
    assert not asked
    monkeypatch.undo()
    vae.prior.store(torch.randn(2, 3))
    again.load_state_dict(vae.state_dict())
    assert len(vae.prior().means) == len(again.prior().means) == 2
