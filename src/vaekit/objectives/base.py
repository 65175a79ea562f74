"""What every objective is, and the quantities that all of them are made of."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.distributions import closed_form_kl
from vaekit.errors import ConfigError
from vaekit.types import Json, Latent, Trace


@dataclass(frozen=True)
class Bound:
    """What an objective says of a batch; means over its examples, in nats.

    Attributes:
        loss: scalar to minimise.
        elbo: scalar, -(distortion + rate): the evidence lower bound, whatever the loss is.
        rate: scalar, KL(q(z|x, c) || p(z|c)) summed over levels.
        distortion: scalar, -E_q log p(x|z, c).
        terms: further scalars to watch, by name: parts of the loss, or bounds beside the ELBO, as in `k_sample_bound` of IWAE.
            Each is a mean over the examples of the batch, in nats, so that training can average it over steps and processes;
            it is logged under its name, which must not be that of another attribute.
        adversary: scalar that the objective's own player minimises, or None where it has none. Of all of these, `loss` and
            `adversary` alone are differentiated.
    """

    loss: Tensor
    elbo: Tensor
    rate: Tensor
    distortion: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    adversary: Tensor | None = None


def level_rate(latent: Latent) -> Tensor:
    """(B,): KL(q || p) of one level, in closed form where there is one, else the mean of log q - log p over the K samples."""
    kl = closed_form_kl(latent.posterior, latent.prior)
    if kl is None:
        return (latent.log_q - latent.log_p).mean(0)
    return kl.expand(latent.z.shape[:2]).mean(0)


def rate(trace: Trace) -> Tensor:
    """(B,): KL(q(z|x, c) || p(z|c)) summed over levels."""
    return torch.stack([level_rate(latent) for latent in trace.latents]).sum(0)


def log_mean_weight(trace: Trace) -> Tensor:
    """(B,): log 1/K sum_k w_k, the K-sample bound on log p(x|c) (Burda et al., 2016, equation 8)."""
    log_weights = trace.log_weights
    return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])


class Objective(Component, abc.ABC):
    """A function of one trace that gives a loss.

    An objective may have a player of its own, such as a discriminator: a module under the name `adversary`. Its parameters
    make a second group of the one optimiser, with the learning rate and the betas that `adversary_settings` gives, and are
    moved by `Bound.adversary`, those of the model by `Bound.loss`. One backward pass serves both, for neither loss reaches
    the parameters of the other: `loss` calls the player through `component.call_stopped`, and `adversary` reads latents
    and data that are detached.

    An objective that has `num_neighbours` above 0 is given `Trace.partners`: training finds so many nearest neighbours of each
    example, and has one of them beside it at every step.
    """

    num_neighbours: int = 0
    adversary: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.adversary = None  # not on the class, where it would hide the module that a subclass registers

    def adversary_settings(self) -> Json:
        """`lr` (its peak) and `betas` for the parameters of `adversary`."""
        return {}

    @abc.abstractmethod
    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The bound of a batch.

        Args:
            trace: what inference left behind.
            step: optimiser steps done so far, for schedules; None means that every schedule has ended.
        """


def one_level(trace: Trace, objective: str, instead: str) -> Latent:
    """The trace's only level of latents.

    Raises:
        ConfigError: if it has several; `instead` is the sentence that says what to do.
    """
    if len(trace.latents) != 1:
        raise ConfigError(f"{objective} must be given one level of latents, got {len(trace.latents)}. {instead}")
    return trace.latents[0]


def bound_of(trace: Trace, loss: Tensor, rate_: Tensor, adversary: Tensor | None = None, **terms: Tensor) -> Bound:
    """The bound with a loss of one's own; `rate_` is (B,)."""
    distortion = -trace.log_likelihood.mean()
    mean_rate = rate_.mean()
    return Bound(loss, -(distortion + mean_rate), mean_rate, distortion, terms, adversary)


def progress(step: int | None, steps: int) -> float:
    """How far a linear schedule is, in [0, 1]."""
    return 1.0 if step is None or steps == 0 else min(1.0, step / steps)
