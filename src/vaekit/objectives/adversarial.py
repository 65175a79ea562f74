"""Objectives with a player of their own: a discriminator that learns to tell two kinds of samples apart.

With D = sigmoid(logit) the probability that a sample is of the first kind, the discriminator minimises the classification
loss -E_1 log D - E_2 log(1 - D). At its best the logit is log p_1 / p_2, which is how a density ratio enters a loss where
neither density is known:

    player's two kinds                                      what the model does with the logit
    FactorVAE       q(z), and the product of its marginals  its mean over q(z), the total correlation, is charged
    AdversarialAE   p(z), and q(z)                          the encoder makes q(z) look like p(z)
    VAEGAN          data, and decoded latents               the decoder makes them look alike; features measure distortion

The generator's side is non-saturating, -E_2 log D: its gradient does not vanish where the discriminator is sure (Goodfellow
et al., "Generative adversarial nets", 2014, section 3). Model and discriminator move in the same step, on the same batch.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.component import Component, call_stopped
from vaekit.distributions.scales import full_float
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, one_level, rate
from vaekit.types import Json, Latent, Trace, as_network


class Discriminator(Component):
    """The logit of D(x), the probability that x is of the first of two kinds: a network and its head.

    Args:
        network: maps what is told apart to features.

    Raises:
        ConfigError: for what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> Discriminator(MLP(3, [8]))(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5])
    """

    def __init__(self, network: Component) -> None:
        super().__init__()
        self.network = network
        self.head = as_network(network, "Discriminator").make_head(1, ())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., *S) to logits (...), in float32 or better; what `mask` says is missing is not read."""
        return full_float(self.head(self.network(x, None, mask))).squeeze(-1)


class Adversarial(Objective, abc.ABC):
    """An objective whose player is a `Discriminator`.

    Args:
        adversary: the discriminator's network, or a `Discriminator`.
        adversary_learning_rate: its peak, > 0; None for that of the model. It follows the model's schedule.
        adversary_betas: of Adam, for the discriminator.
    """

    def __init__(self, adversary: Component, adversary_learning_rate: float | None, adversary_betas: Sequence[float]) -> None:
        super().__init__()
        if adversary_learning_rate is not None and not 0 < adversary_learning_rate < math.inf:
            raise ConfigError(
                f"`adversary_learning_rate` must be > 0 or None, got {adversary_learning_rate}. Use None for the model's."
            )
        if len(adversary_betas) != 2 or not all(0 <= beta < 1 for beta in adversary_betas):
            raise ConfigError(
                f"`adversary_betas` must be two numbers in [0, 1), got {tuple(adversary_betas)}. Use (0.5, 0.9) when in doubt."
            )
        self.adversary = adversary if isinstance(adversary, Discriminator) else Discriminator(adversary)
        self.adversary_learning_rate, self.adversary_betas = adversary_learning_rate, tuple(adversary_betas)

    @property
    def discriminator(self) -> Discriminator:
        """The player, by its own type."""
        assert isinstance(self.adversary, Discriminator)
        return self.adversary

    def adversary_settings(self) -> Json:
        """See `Objective.adversary_settings`."""
        rate_ = {} if self.adversary_learning_rate is None else {"lr": self.adversary_learning_rate}
        return {**rate_, "betas": self.adversary_betas}


class FactorVAE(Adversarial):
    """loss = distortion + rate + gamma TC, with the total correlation TC = KL(q(z) || prod_d q(z_d)) estimated by a player.

    The discriminator tells samples of q(z) from samples whose units are each shuffled over the batch, which is how those of
    prod_d q(z_d) are made; TC is then the mean of its logit over q(z), logged as `total_correlation` (nats). It presses the
    units apart as a beta-VAE does, but leaves alone what they say of x. The estimate starts at 0 and rises towards the truth
    as the discriminator learns. Several levels of latents count as one, all units side by side.

    Kim, Mnih, "Disentangling by factorising" (2018), algorithm 2. Departures: the shuffled samples come from the same batch,
    not from a second one, which has the same expectation; one logit stands for two; the model and the player move at once.

    Args:
        adversary: the discriminator's network, of flat latents (D,).
        gamma: weight of TC, >= 0.
        adversary_learning_rate: its peak, > 0; None for that of the model.
        adversary_betas: of Adam, for the discriminator.

    Raises:
        ConfigError: for a negative `gamma`, settings of Adam that cannot be, or what is no network.

    Example:
        >>> from vaekit.networks import MLP
        >>> FactorVAE(MLP(10, [1000, 1000], "leaky_relu"), gamma=35.0).adversary_settings()
        {'lr': 0.0001, 'betas': (0.5, 0.9)}
    """

    def __init__(
        self,
        adversary: Component,
        gamma: float = 10.0,
        adversary_learning_rate: float | None = 1e-4,
        adversary_betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__(adversary, adversary_learning_rate, adversary_betas)
        self.gamma = _weight(gamma, "gamma", "total correlation")

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The bound and gamma times the estimated total correlation; the player's classification loss."""
        z = torch.cat([latent.z.flatten(2) for latent in trace.latents], dim=-1)
        total_correlation = call_stopped(self.discriminator, z).mean()
        fixed = z.detach()
        told_apart = _told_apart(self.discriminator(fixed), self.discriminator(permuted_units(fixed)))
        rates = rate(trace)
        loss = rates.mean() - trace.log_likelihood.mean() + self.gamma * total_correlation
        return bound_of(trace, loss, rates, 0.5 * told_apart, total_correlation=total_correlation)


class AdversarialAE(Adversarial):
    """loss = distortion - weight E_q(z) log D(z): an autoencoder whose aggregate posterior q(z) is made to look like p(z).

    The discriminator tells draws of the prior from encoded examples, and the encoder is trained to be taken for the prior. No
    density of the latent is asked for, so any prior that can be sampled will do, and any posterior, `Deterministic` included.
    `aggregate_kl` is the player's estimate of KL(q(z) || p(z)) in nats, the mean of -logit over q(z). The loss has no rate; it
    is reported beside it, and is large, or that of a point, where nothing holds it down. The prior itself is not trained.

    With `weight` lambda, a normal likelihood of fixed scale for the cost, and a deterministic posterior it is the WAE-GAN.

    Makhzani et al., "Adversarial autoencoders" (2016), section 2. Tolstikhin et al., "Wasserstein auto-encoders" (2018),
    algorithm 1. Departure: both players move at once.

    Args:
        adversary: the discriminator's network, of latents (*Z).
        weight: of the encoder's side of the game, lambda of the WAE-GAN, >= 0.
        adversary_learning_rate: its peak, > 0; None for that of the model.
        adversary_betas: of Adam, for the discriminator.

    Raises:
        ConfigError: for a negative `weight`, settings of Adam that cannot be, or what is no network; when called, for a trace
            of several levels.

    Example:
        >>> from vaekit.networks import MLP
        >>> AdversarialAE(MLP(8, [256, 256]), weight=10.0).spec()["weight"]
        10.0
    """

    def __init__(
        self,
        adversary: Component,
        weight: float = 1.0,
        adversary_learning_rate: float | None = None,
        adversary_betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__(adversary, adversary_learning_rate, adversary_betas)
        self.weight = _weight(weight, "weight", "game")

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The distortion and the encoder's side of the game; the player's classification loss."""
        latent = one_level(trace, "AdversarialAE", _ONE_LEVEL)
        logit = call_stopped(self.discriminator, latent.z)
        told_apart = _told_apart(self.discriminator(prior_draws(latent)), self.discriminator(latent.z.detach()))
        loss = self.weight * F.softplus(-logit).mean() - trace.log_likelihood.mean()
        return bound_of(trace, loss, rate(trace), told_apart, aggregate_kl=-logit.mean())


class VAEGAN(Adversarial):
    """An autoencoder whose distortion is measured in the features of a discriminator, and whose decoder plays against it.

        encoder         rate + F
        decoder         gamma F - E log D(m(z)) - E log D(m(z'))
        discriminator   -E log D(x) - E log(1 - D(m(z))) - E log(1 - D(m(z')))
        F = E_q 1/2 |h(x) - h(m(z))|^2        z ~ q(z|x), z' ~ p(z)

    m(z) is the mean of p(x|z), and h the features that the discriminator's network gives, its last layer before the head. A
    likelihood of single pixels forgives blur and punishes a sharp edge that lies a pixel off; features see it the other way
    round. The encoder has no gradient of the game, and the decoder none of the rate. The loss is rate + gamma F and the
    decoder's part of the game, with the gradient into the encoder scaled by 1 / gamma; F is logged as `feature_distortion`, the
    game as `game`. Rate and distortion in nats are reported as ever, but nothing minimises the distortion: parameters that only
    the density sees, such as a shared scale, are not trained.

    Larsen et al., "Autoencoding beyond pixels using a learned similarity metric" (2016), algorithm 1. Departures: the decoder's
    side of the game is non-saturating; all players move at once. The discriminator sees no condition.

    Args:
        adversary: the discriminator's network, of examples (*S).
        gamma: weight of the features for the decoder, > 0: high for likeness to the example, low for likeness to data.
        adversary_learning_rate: its peak, > 0; None for that of the model.
        adversary_betas: of Adam, for the discriminator.

    Raises:
        ConfigError: for a `gamma` that is not above 0, settings of Adam that cannot be, or what is no network; when called, for
            a trace of several levels or without `decode`.

    Example:
        >>> from vaekit.networks import ConvEncoder
        >>> VAEGAN(ConvEncoder([1, 8, 8], [8, 16], input_range=[0, 1]), gamma=0.1).spec()["gamma"]
        0.1
    """

    def __init__(
        self,
        adversary: Component,
        gamma: float = 1.0,
        adversary_learning_rate: float | None = None,
        adversary_betas: Sequence[float] = (0.5, 0.9),
    ) -> None:
        super().__init__(adversary, adversary_learning_rate, adversary_betas)
        if not 0 < gamma < math.inf:
            raise ConfigError(f"`gamma` must be > 0, got {gamma}. Use a small value for a decoder that mostly plays.")
        self.gamma = gamma

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """Everybody's part, each with its own gradient; the player's classification loss."""
        latent = one_level(trace, "VAEGAN", _ONE_LEVEL)
        if trace.decode is None:
            raise ConfigError("VAEGAN must be given a trace with `decode`, found none. Call the model to make one.")
        z, mask = latent.z, trace.mask
        # Three kinds in one pass of the decoder: for the features, and for the game, decoded posterior and prior draws.
        decoded = trace.decode(torch.cat([_scale_gradient(z, 1 / self.gamma), z.detach(), prior_draws(latent)])).mean
        rebuilt, made = decoded.split([len(z), 2 * len(z)])
        real, fake = (call_stopped(self.discriminator.network, x, None, mask) for x in (trace.x, rebuilt))
        feature_distortion = 0.5 * (full_float(fake) - full_float(real)).square().flatten(2).sum(-1).mean()
        game = 2 * F.softplus(-call_stopped(self.discriminator, made, mask)).mean()
        told_apart = self._told_apart(trace, made.detach(), mask)
        rates = rate(trace)
        loss = rates.mean() + self.gamma * feature_distortion + game
        return bound_of(trace, loss, rates, told_apart, feature_distortion=feature_distortion, game=game)

    def _told_apart(self, trace: Trace, made: Tensor, mask: Tensor | None) -> Tensor:
        """The player's loss; there are two fakes to each example."""
        return F.softplus(-self.discriminator(trace.x, mask)).mean() + 2 * F.softplus(self.discriminator(made, mask)).mean()


_ONE_LEVEL = "Put the levels into one joint latent with `posteriors.Chain`, or use `objectives.FactorVAE`."


def permuted_units(z: Tensor) -> Tensor:
    """z (K, B, D) with each unit shuffled over the batch by itself: draws of prod_d q(z_d), from draws of q(z)."""
    order = torch.rand(z.shape, device=z.device).argsort(dim=1)
    return z.gather(1, order)


def prior_draws(latent: Latent) -> Tensor:
    """(K, B, *Z): as many draws of p(z|c) as there are samples, through which no gradient goes."""
    prior, z = latent.prior, latent.z
    lead = z.dim() - len(prior.event_shape) - len(prior.batch_shape)
    # In full precision, whatever networks the prior draws through: a player would know rounded numbers from others.
    with torch.autocast(z.device.type, enabled=False):
        return prior.sample(z.shape[:lead]).to(z.dtype)


def _told_apart(first: Tensor, second: Tensor) -> Tensor:
    """-mean log D(first) - mean log(1 - D(second)), of logits."""
    return F.softplus(-first).mean() + F.softplus(second).mean()


def _scale_gradient(z: Tensor, factor: float) -> Tensor:
    """z, exactly, through which the gradient goes multiplied by `factor`."""
    return z.detach() + factor * (z - z.detach())


def _weight(value: float, name: str, of: str) -> float:
    """The same number, if it is one that a term may be weighed with."""
    if not 0 <= value < math.inf:
        raise ConfigError(f"`{name}` must be >= 0, got {value}. Use `{name}=0` to drop the {of}.")
    return value
