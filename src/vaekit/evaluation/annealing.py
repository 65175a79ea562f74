"""Annealed importance sampling: a check of the K-sample bound that does not need a good posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, constraints

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset, spaced
from vaekit.distributions import Joint, diagonal_normal
from vaekit.distributions.affine import Affine
from vaekit.errors import ConfigError
from vaekit.inference import MAX_ELEMENTS, Inputs, Progress, is_point, prepare, relative_variance, seeded
from vaekit.storage import Bundle
from vaekit.types import Trace
from vaekit.vae import LatentModel, masked_log_prob

Start = Literal["posterior", "prior"]

_ACCEPTANCE = 0.65
_SHARPNESS = 4.0
_TUNING = 20


@dataclass(frozen=True)
class Annealing:
    """What annealed importance sampling says of N examples; means over them, in nats an example, of the data as stored.

    Attributes:
        nll_nats: the estimate of -log p(x|c), an upper bound in expectation, as the K-sample one is.
        standard_error: of `nll_nats` over the examples; None for a single one.
        monte_carlo_error: how far another seed would move it (one standard deviation).
        bound_nll_nats: the K-sample bound of the same examples.
        gap: `bound_nll_nats` - `nll_nats`. Well above 0: the K-sample bound is loose. Well below 0: more steps are needed.
        gap_error: standard error of `gap`; None for a single example.
        effective_sample_size: mean over the examples, from 1 to the number of chains.
        acceptance: the share of proposals that were taken; 0.65 is aimed at.
        num_steps: intermediate distributions.
        num_chains: an example.
        num_samples: K of the K-sample bound.
        num_examples: N.
        start: where the chains begin.
    """

    nll_nats: float
    standard_error: float | None
    monte_carlo_error: float | None
    bound_nll_nats: float
    gap: float
    gap_error: float | None
    effective_sample_size: float
    acceptance: float
    num_steps: int
    num_chains: int
    num_samples: int
    num_examples: int
    start: Start


def anneal(
    bundle: Bundle,
    dataset: Dataset,
    *,
    num_steps: int = 1000,
    num_chains: int = 16,
    num_leapfrogs: int = 10,
    num_samples: int = 100,
    num_examples: int = 100,
    start: Start = "posterior",
    seed: int = 0,
    progress: Progress | None = None,
) -> Annealing:
    """log p(x|c) of some examples by annealed importance sampling with Hamiltonian transitions.

        f_t(z) = s(z)^(1 - b_t) (p(x|z, c) p(z|c))^b_t,   0 = b_0 < b_1 < ... < b_T = 1
        log w = sum_t (b_t - b_{t-1}) (log p(x, z_{t-1}|c) - log s(z_{t-1})),   E[w] = p(x|c)

    z_0 ~ s, and z_t is z_{t-1} after a transition that leaves f_t as it is: a trajectory of leapfrog steps that is accepted
    or not. The logarithm of the mean weight of the chains is below log p(x|c) on average, and rises to it with more steps
    and more chains. Densities are float32, weights are summed in float64.
    Neal, "Annealed importance sampling" (2001); Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of
    decoder-based generative models" (2017), section 3. As there, the b_t lie on a sigmoid and the trajectories have ten steps.
    Departures: the chains begin at a diagonal normal s with the moments that `encode` gives, which takes far fewer steps than
    from the prior (`start="prior"` begins there); momenta are scaled by the spread of the latent on the way from s to that
    normal; and step sizes are adapted in a run beforehand with chains of its own, so that E[w] = p(x|c) holds exactly.

    The latents of a ladder are taken all together, where the prior of each level does not depend on the others.

    Args:
        bundle: the model.
        dataset: examples that fit the model's schema.
        num_steps: T.
        num_chains: an example.
        num_leapfrogs: leapfrog steps a trajectory.
        num_samples: K of the K-sample bound that the estimate is compared with.
        num_examples: at most so many examples, evenly spaced.
        start: s: `posterior`, or `prior`; always the prior where the posterior has no spread.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total) as examples are done.

    Raises:
        ConfigError: if a count is less than 1, `start` is unknown, the prior has no known density on all of R^D, or the priors
            of the levels depend on each other.
    """
    start = "prior" if start == "posterior" and is_point(bundle.vae) else start
    _check_arguments(start, num_steps, num_chains, num_leapfrogs, num_samples, num_examples)
    dataset = dataset.select(spaced(len(dataset), num_examples)) if len(dataset) > num_examples else dataset
    device = device_of(bundle.vae)
    width = max(bundle.schema.num_dimensions, bundle.vae.peak_elements(), bundle.vae.num_latents)
    rows = max(1, MAX_ELEMENTS // (4 * width))  # a backward pass keeps every layer
    block = max(1, min(512, rows // num_chains))
    parts: list[_Part] = []
    with seeded(seed, device), full_precision(), _frozen(bundle.vae):
        for first in range(0, len(dataset), block):
            batch = dataset.batch(np.arange(first, min(first + block, len(dataset)))).to(device)
            inputs = prepare(bundle, batch)
            log_abs_det = bundle.transform.log_abs_det(batch.x, batch.mask).cpu().numpy()
            log_weights, accepted = _Run(bundle.vae, inputs, start, num_steps, num_leapfrogs).weights(num_chains)
            bound = _k_sample_bound(bundle.vae, inputs, num_samples, max(1, rows // len(batch.x))) + log_abs_det
            mean = (torch.logsumexp(log_weights, 0) - math.log(num_chains)).numpy() + log_abs_det
            size = torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)).numpy()
            parts.append((-mean, -bound, size, accepted.numpy()))
            if progress is not None:
                progress(first + len(batch.x), len(dataset))
    return _summary(parts, num_steps, num_chains, num_samples, start)


_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of B examples, each (B,): -log p by the chains, by the K-sample bound, the effective number of chains, the acceptance."""


def _check_arguments(start: str, *counts: int) -> None:
    if min(counts) < 1:
        raise ConfigError(
            f"Steps, chains, leapfrogs, samples and examples must each be at least 1, got {', '.join(map(str, counts))}. "
            "Leave out what you are not sure of."
        )
    if start not in ("posterior", "prior"):
        raise ConfigError(f"`start` must be posterior or prior, got {start!r}. Use `posterior` when in doubt.")


def _summary(parts: list[_Part], num_steps: int, num_chains: int, num_samples: int, start: Start) -> Annealing:
    nll, bound, size, accepted = (np.concatenate(column) for column in zip(*parts, strict=True))
    count, gap = len(nll), bound - nll
    several = count > 1
    return Annealing(
        nll_nats=float(nll.mean()),
        standard_error=float(nll.std(ddof=1) / math.sqrt(count)) if several else None,
        monte_carlo_error=math.sqrt(relative_variance(size, num_chains).sum()) / count if num_chains > 1 else None,
        bound_nll_nats=float(bound.mean()),
        gap=float(gap.mean()),
        gap_error=float(gap.std(ddof=1) / math.sqrt(count)) if several else None,
        effective_sample_size=float(size.mean()),
        acceptance=float(accepted.mean()),
        num_steps=num_steps,
        num_chains=num_chains,
        num_samples=num_samples,
        num_examples=count,
        start=start,
    )


@contextmanager
def _frozen(vae: LatentModel) -> Iterator[None]:
    """Gradients reach the latents and no parameter: half of a backward pass is saved."""
    asked = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


@torch.no_grad()
def _k_sample_bound(vae: LatentModel, inputs: Inputs, num_samples: int, chunk: int) -> np.ndarray:
    """(B,): the bound on the very x that the chains are given; a stochastic transform is not drawn twice."""
    parts = []
    for first in range(0, num_samples, chunk):
        k = min(chunk, num_samples - first)
        trace = vae(inputs.x, condition=inputs.condition, mask=inputs.mask, num_samples=k)
        parts.append(torch.logsumexp(trace.log_weights.cpu().double(), 0))
    return (torch.logsumexp(torch.stack(parts), 0) - math.log(num_samples)).numpy()


@dataclass
class _State:
    """Where the chains are: z (C, B, D), and at z, log s and log p(x, z|c) (C, B) with their gradients (C, B, D)."""

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    of_start: Tensor
    of_joint: Tensor

    def gradient(self, beta: float) -> Tensor:
        """(C, B, D): of log f_t."""
        return (1 - beta) * self.of_start + beta * self.of_joint

    def log_density(self, beta: float) -> Tensor:
        """(C, B): log f_t; where log p(x, z|c) is -inf or no number, -inf."""
        return (1 - beta) * self.log_start + beta * self.log_joint if beta > 0 else self.log_start

    def where(self, taken: Tensor, other: _State) -> _State:
        """The other state where `taken` (C, B)."""
        pairs = zip(vars(other).values(), vars(self).values(), strict=True)
        return _State(*(torch.where(taken.view(taken.shape + (1,) * (a.dim() - 2)), a, b) for a, b in pairs))


class _Run:
    """The chains of B examples."""

    def __init__(self, vae: LatentModel, inputs: Inputs, start: Start, num_steps: int, num_leapfrogs: int) -> None:
        self.inputs, self.num_leapfrogs = inputs, num_leapfrogs
        with torch.no_grad():
            self.trace: Trace = vae(inputs.x, condition=inputs.condition, mask=inputs.mask)
            _check(self.trace, vae)
            mean, scale = vae.encode_flat(inputs.x, condition=inputs.condition, mask=inputs.mask)
            scale = scale.clamp_min(1e-4)
            narrow = scale.reciprocal().square()
            self.start: Distribution | None = None
            self.wide = narrow
            if start == "posterior":
                self.start = diagonal_normal(mean, scale)
            else:
                self.wide = self._draw_prior(256, len(mean)).var(0).clamp_min(1e-8).reciprocal()
            self.narrow, self.num_latents = self.wide if is_point(vae) else narrow, mean.shape[1]
        ramp = torch.sigmoid(_SHARPNESS * torch.linspace(-1, 1, num_steps + 1, dtype=torch.float64))
        self.betas = [float(b) for b in (ramp - ramp[0]) / (ramp[-1] - ramp[0])]

    def _draw_prior(self, chains: int, num: int) -> Tensor:
        """(C, B, D): z ~ p(z|c)."""
        drawn = []
        for latent in self.trace.latents:
            shape = (chains,) if latent.prior.batch_shape else (chains, num)
            drawn.append(latent.prior.sample(shape).flatten(2))
        return torch.cat(drawn, dim=2)

    def _state(self, z: Tensor) -> _State:
        z = z.detach().requires_grad_()
        levels = self.trace.latents
        pieces = z.split([latent.z[0, 0].numel() for latent in levels], dim=-1)
        parts = [piece.reshape(*piece.shape[:2], *latent.z.shape[2:]) for piece, latent in zip(pieces, levels, strict=True)]
        assert self.trace.decode is not None
        with torch.enable_grad():
            log_prior = torch.stack([latent.prior.log_prob(part) for part, latent in zip(parts, levels, strict=True)]).sum(0)
            log_joint = log_prior + masked_log_prob(self.trace.decode(*parts), self.inputs.x, self.inputs.mask)
            log_start = log_prior if self.start is None else self.start.log_prob(z)
            (of_start,) = torch.autograd.grad(log_start.sum(), z, retain_graph=True)
            (of_joint,) = torch.autograd.grad(log_joint.sum(), z)
        log_joint = torch.nan_to_num(log_joint.detach(), nan=-math.inf, neginf=-math.inf)
        return _State(z.detach(), log_start.detach(), log_joint, of_start, of_joint)

    def _begin(self, num_chains: int) -> _State:
        num = len(self.inputs.x)
        return self._state(self._draw_prior(num_chains, num) if self.start is None else self.start.sample((num_chains,)))

    def _move(self, state: _State, beta: float, step: Tensor) -> tuple[_State, Tensor]:
        """One transition that leaves f_t as it is, and the probability with which it was to be accepted, (C, B).

        `step` is (B,), in units of the latent's spread at this point of the way.
        """
        spread = ((1 - beta) * self.wide + beta * self.narrow).rsqrt()
        jitter = 0.8 + 0.4 * torch.rand(state.z.shape[:2], device=step.device, dtype=step.dtype)
        size = (jitter * step).unsqueeze(-1) * spread
        momentum = torch.randn_like(state.z)
        energy = state.log_density(beta) - 0.5 * momentum.square().sum(-1)
        there = state
        for _ in range(self.num_leapfrogs):
            momentum = momentum + 0.5 * size * there.gradient(beta)
            there = self._state(there.z + size * momentum)
            momentum = momentum + 0.5 * size * there.gradient(beta)
        change = there.log_density(beta) - 0.5 * momentum.square().sum(-1) - energy
        probability = torch.nan_to_num(change.clamp_max(0.0).exp(), nan=0.0)
        return state.where(torch.rand_like(probability) < probability, there), probability

    def _tuned_steps(self, num_chains: int) -> list[Tensor]:
        """(B,) for each t: step sizes that came near the wished acceptance in a run of its own."""
        state = self._begin(num_chains)
        log_step = torch.full_like(state.z[0, :, 0], -0.25 * math.log(self.num_latents))
        found = []
        for t in [1] * _TUNING + list(range(1, len(self.betas))):
            state, probability = self._move(state, self.betas[t], log_step.exp())
            log_step = log_step + 0.2 * (probability.mean(0) - _ACCEPTANCE)
            found.append(log_step.exp())
        return found[_TUNING:]

    def weights(self, num_chains: int) -> tuple[Tensor, Tensor]:
        """log w (C, B) in float64, and the mean acceptance (B,), on the CPU."""
        steps = self._tuned_steps(max(2, num_chains // 4))
        state = self._begin(num_chains)
        log_weights = torch.zeros(num_chains, len(self.inputs.x), dtype=torch.float64)
        accepted = torch.zeros_like(state.z[0, :, 0])
        for t, step in enumerate(steps, start=1):
            difference = state.log_joint - state.log_start
            log_weights += (self.betas[t] - self.betas[t - 1]) * difference.cpu().double()
            if t < len(steps):  # what is after the last transition has no weight
                state, probability = self._move(state, self.betas[t], step)
                accepted += probability.mean(0)
        return log_weights, (accepted / max(1, len(steps) - 1)).cpu().double()


def _check(trace: Trace, vae: LatentModel) -> None:
    """Refuses latents that chains cannot walk through.

    Raises:
        ConfigError: if a prior has no known density on all of R^D, or that of a level depends on another level.
    """
    if trace.decode is None:
        raise ConfigError(
            "Annealed importance sampling must decode latents of its own, and the model brings no decoder for them."
        )
    for latent in trace.latents:
        if not _is_real(latent.prior):
            raise ConfigError(
                "Annealed importance sampling must have a prior whose density is known on all of R^D, got "
                f"{getattr(vae, 'prior', vae).registered_name}: its latents are discrete or bounded, or its density is an "
                "estimate. Use the K-sample bound with more samples."
            )
        if len(latent.prior.batch_shape) > 1:
            raise ConfigError(
                "Annealed importance sampling must have priors that do not depend on other levels of latents, and those of the "
                "model do. Use the K-sample bound with more samples."
            )


def _is_real(distribution: Distribution) -> bool:
    """Whether it has a density on all of R^D; not where it does not say so."""
    if isinstance(distribution, Affine):
        return _is_real(distribution.base)
    if isinstance(distribution, Joint):
        return all(_is_real(part) for part in distribution.parts)
    if isinstance(distribution, MixtureSameFamily):
        return _is_real(distribution.component_distribution)
    try:
        support = distribution.support
    except NotImplementedError:
        return False
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
