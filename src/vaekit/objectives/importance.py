"""Bounds of several weighted samples, and estimators of their gradients.

Here w_k = p(x, z_k|c) / q(z_k|x, c), theta are the parameters of p and phi those of q. An objective changes the bound, or how
its gradient is estimated, or both:

    bound                             gradient
    IWAE   log 1/K sum_k w_k          DReG   of IWAE, without the part of phi's gradient that is noise alone
    MIWAE  means of smaller IWAEs     StickingTheLanding   of the ELBO, likewise
    CIWAE  between ELBO and IWAE      PIWAE  IWAE for theta, MIWAE for phi

Where parameters serve p and q both, as those of the condition's encoder or of a prior that is made of the posterior, their
gradient is the sum of both uses: what reaches them through the sample or the density of q counts as phi, what reaches them
through the densities of p as theta.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from vaekit.distributions import measures, stopped
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, log_mean_weight, one_level, rate
from vaekit.types import Trace

_JOINT = "Put the levels into one joint latent with `posteriors.Chain`, or use `objectives.IWAE`."
_LEAST_LOG_WEIGHT = math.log(1e-20)


class IWAE(Objective):
    """loss = -log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x), the K-sample bound; K is the trace's number of samples.

    Tighter than the ELBO and rising with K to log p(x).
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8.

    Raises:
        ConfigError: when called, for relaxed samples, as those of `posteriors.GumbelSoftmax` are in training: the weights of
            what lies between codes are no ratio of densities. Those of codes, in evaluation, are one of masses.

    Example:
        >>> IWAE().spec()
        {'type': 'objectives.IWAE'}
    """

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative K-sample bound; its gradient by automatic differentiation through the samples."""
        _check_weights(trace, "IWAE")
        bound = log_mean_weight(trace).mean()
        return bound_of(trace, -bound, rate(trace), k_sample_bound=bound)


class DReG(Objective):
    """The K-sample bound of `IWAE` with the doubly reparameterised gradient.

        d/dphi   = sum_k v_k^2 (d log w_k / dz_k) (dz_k / dphi)
        d/dtheta = sum_k v_k d log w_k / dtheta                       v_k = w_k / sum_j w_j

    The same value and, in expectation, the same gradient as `IWAE`. With more samples the signal of IWAE's phi-gradient
    drowns in its noise; that of this one gains. Where q is the true posterior, the phi-gradient is exactly zero. Prefer it to
    IWAE wherever it applies: latents that are reparameterised, one level.

    The samples' gradient is scaled on its way from the densities into the encoder, so the backward pass of this loss uses the
    trace up: the gradient of another loss of the same trace would be scaled as well.

    Tucker, Lawson, Gu, Maddison, "Doubly reparameterized gradient estimators for Monte Carlo objectives" (2019).

    Raises:
        ConfigError: when called, for a trace of several levels: the path through an upper level would be scaled twice. For
            latents that are not reparameterised (points, codes and relaxed codes), of which the identity does not hold.

    Example:
        >>> DReG().spec()
        {'type': 'objectives.DReG'}
    """

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative K-sample bound, as a value with the gradient above."""
        one_level(trace, "DReG", _JOINT)
        _check_weights(trace, "DReG", path=True)
        trace = _through_samples(trace)
        weights = torch.softmax(trace.log_weights.detach(), dim=0)
        _scale_gradient(trace.latents[0].z, weights)
        bound = log_mean_weight(trace).detach().mean()
        loss = -(bound + _gradient_of(weights, trace.log_weights).mean())
        return bound_of(trace, loss, rate(trace), k_sample_bound=bound)


class StickingTheLanding(Objective):
    """The ELBO, mean of K samples, without the score of q in its gradient.

        d/dphi = 1/K sum_k (d log w_k / dz_k) (dz_k / dphi)

    The score d log q(z; phi) / dphi at a fixed z is zero in expectation. Without it the gradient's variance falls as q nears
    the true posterior, and is zero there; far from it, the closed-form rate of `ELBO` may be the calmer one. Of most use for
    rich posteriors, such as flows. With several levels it is unbiased as well, for each level's score is zero in expectation
    given the levels above; its variance is then small near the posterior, but not zero: for that, put the levels into one
    joint latent with `posteriors.Chain`.

    Roeder, Wu, Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators for variational inference"
    (2017), section 3.

    Raises:
        ConfigError: when called, for latents that are not reparameterised: points, codes and relaxed codes.

    Example:
        >>> StickingTheLanding().spec()
        {'type': 'objectives.StickingTheLanding'}
    """

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative sampled ELBO, whose gradient reaches the posterior through the samples only."""
        _check_weights(trace, "StickingTheLanding", path=True)
        trace = _through_samples(trace)
        return bound_of(trace, -trace.log_weights.mean(), rate(trace))


class MIWAE(Objective):
    """loss = -1/M sum_m log 1/L sum_l w_(m,l): the mean of M bounds of L = K / M samples each.

    Between the ELBO (M = K) and IWAE (M = 1): the looser bound gives a better phi-gradient for the same K samples.
    Rainforth et al., "Tighter variational bounds are not necessarily better" (2018).

    Args:
        num_groups: M, a divisor of K. A trace of one sample, as validation has it by default, is one group.

    Raises:
        ConfigError: for fewer than one group; when called, where M does not divide K, or for relaxed samples (see `IWAE`).

    Example:
        >>> MIWAE(num_groups=4).spec()
        {'type': 'objectives.MIWAE', 'num_groups': 4}
    """

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        self.num_groups = _check_num_groups(num_groups)

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative mean of the groups' bounds."""
        _check_weights(trace, "MIWAE")
        bound = _group_bound(_grouped(trace.log_weights, self.num_groups)).mean()
        k_sample_bound = log_mean_weight(trace).detach().mean()
        return bound_of(trace, -bound, rate(trace), group_bound=bound, k_sample_bound=k_sample_bound)


class CIWAE(Objective):
    """loss = -(beta ELBO + (1 - beta) log 1/K sum_k w_k): a mixture of the two bounds.

    beta = 1 is the ELBO, beta = 0 is IWAE.
    Rainforth et al., "Tighter variational bounds are not necessarily better" (2018). Departure: the rate of the ELBO
    is in closed form where there is one, as in `ELBO`.

    Args:
        beta: weight of the ELBO, in [0, 1].

    Raises:
        ConfigError: for a weight outside; when called, for relaxed samples (see `IWAE`).

    Example:
        >>> CIWAE(beta=0.05).spec()
        {'type': 'objectives.CIWAE', 'beta': 0.05}
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ConfigError(f"`beta` must be in [0, 1], got {beta}. Use 1 for the ELBO, 0 for IWAE.")
        self.beta = beta

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The negative mixture of the ELBO and the K-sample bound."""
        _check_weights(trace, "CIWAE")
        rates, k_sample_bound = rate(trace), log_mean_weight(trace).mean()
        elbo = trace.log_likelihood.mean() - rates.mean()
        loss = -(self.beta * elbo + (1 - self.beta) * k_sample_bound)
        return bound_of(trace, loss, rates, k_sample_bound=k_sample_bound)


class PIWAE(Objective):
    """`IWAE` of all K samples for theta, `MIWAE` of M groups for phi, from one pass of the model.

        d/dtheta = sum_k a_k d log w_k / dtheta     a_k = w_k / sum_j w_j
        d/dphi   = sum_k b_k d log w_k / dphi       b_k = 1/M w_k / sum_(j in k's group) w_j

    The tight bound where tightness helps, the loose one where it hurts. The loss has the value of IWAE's; its gradient is that
    of no single function. As with `DReG`, the backward pass uses the trace up.

    Rainforth et al., "Tighter variational bounds are not necessarily better" (2018).

    Args:
        num_groups: M, a divisor of K. A trace of one sample, as validation has it by default, is one group.

    Raises:
        ConfigError: for fewer than one group; when called, where M does not divide K, for a trace of several levels, or for
            latents that are not reparameterised: points, codes and relaxed codes.

    Example:
        >>> PIWAE(num_groups=8).spec()
        {'type': 'objectives.PIWAE', 'num_groups': 8}
    """

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        self.num_groups = _check_num_groups(num_groups)

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The value of the negative K-sample bound, with the gradients above."""
        posterior = one_level(trace, "PIWAE", _JOINT).posterior
        _check_weights(trace, "PIWAE", path=True)
        trace = _through_samples(trace)
        z, log_weights = trace.latents[0].z, trace.log_weights.detach()
        groups = _grouped(log_weights, self.num_groups)
        # A weight that underflows would take phi's gradient with it: 1e-20 is nothing to theta, and leaves room for that.
        log_a = torch.log_softmax(log_weights, dim=0).clamp_min(_LEAST_LOG_WEIGHT)
        log_b = torch.log_softmax(groups, dim=1).flatten(0, 1) - math.log(len(groups))
        _scale_gradient(z, (log_b - log_a).exp())
        bound, group_bound = log_mean_weight(trace).detach().mean(), _group_bound(groups).mean()
        gradient = _gradient_of(log_a.exp(), trace.log_weights)
        score = _gradient_of(log_b.exp(), posterior.log_prob(z.detach()))
        loss = -(bound + (gradient - score).mean())
        return bound_of(trace, loss, rate(trace), k_sample_bound=bound, group_bound=group_bound)


def _check_weights(trace: Trace, objective: str, path: bool = False) -> None:
    """Refuses weights that are none, and with `path` gradients through samples that have no density, where any are asked for.

    Raises:
        ConfigError: if a level's samples are relaxed; with `path`, if they are points or codes.
    """
    found = frozenset[str]().union(*(measures(latent.posterior) for latent in trace.latents))
    if "relaxed" in found:
        raise ConfigError(
            f"{objective} must weigh samples by their densities, got relaxed codes, whose log q is no density of them. Use "
            "`objectives.ELBO`."
        )
    if path and "mass" in found and torch.is_grad_enabled():
        raise ConfigError(
            f"{objective} must have latents with a density, for its gradient goes through their samples, got points or codes. "
            "Use `objectives.ELBO`."
        )


def _through_samples(trace: Trace) -> Trace:
    """The same trace, where log q has a gradient through the samples and none through the parameters of q."""
    return replace(trace, latents=tuple(replace(level, posterior=stopped(level.posterior)) for level in trace.latents))


def _gradient_of(weights: Tensor, terms: Tensor) -> Tensor:
    """(B,): zeros, whose gradient is that of sum_k weights_k terms_k; both are (K, B)."""
    return (weights * (terms - terms.detach())).sum(0)


def _scale_gradient(z: Tensor, factor: Tensor) -> None:
    """Multiplies the gradient that goes from all uses of z (K, B, *Z) into what made it by `factor` (K, B).

    Nothing happens where no gradient is asked for. Another call for the same z takes the place of the one before.
    """
    if not (torch.is_grad_enabled() and z.requires_grad):
        return
    shaped = factor.detach().reshape(factor.shape + (1,) * (z.dim() - 2)).to(z.dtype)
    before = getattr(z, "gradient_scaling", None)
    if before is not None:
        before.remove()
    z.gradient_scaling = z.register_hook(lambda gradient: gradient * shaped)  # pyright: ignore[reportAttributeAccessIssue]


def _check_num_groups(num_groups: int) -> int:
    if num_groups < 1:
        raise ConfigError(f"`num_groups` must be at least 1, got {num_groups}. Use 1 for one bound of all samples.")
    return num_groups


def _grouped(log_weights: Tensor, num_groups: int) -> Tensor:
    """(M, K / M, B): the log-weights (K, B) in M groups; one sample is one group."""
    num_samples = log_weights.shape[0]
    groups = min(num_groups, num_samples) if num_samples == 1 else num_groups
    if num_samples % groups:
        raise ConfigError(
            f"`num_groups` must divide the number of samples, got {num_groups} groups of {num_samples} samples. "
            f"Set `num_samples` and `validation_samples` to multiples of {num_groups}."
        )
    return log_weights.unflatten(0, (groups, -1))


def _group_bound(groups: Tensor) -> Tensor:
    """(B,): the mean over groups of log 1/L sum_l w_l, of log-weights (M, L, B)."""
    return (torch.logsumexp(groups, dim=1) - math.log(groups.shape[1])).mean(0)
