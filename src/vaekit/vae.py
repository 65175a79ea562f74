"""The whole: prior, posterior and likelihood composed."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import Component, device_of
from vaekit.distributions import Independent, centre, diagonal_normal
from vaekit.distributions.scales import full_float, positive
from vaekit.errors import ConfigError
from vaekit.likelihoods import Likelihood
from vaekit.networks import ConditionEncoder, Ladder, Tail
from vaekit.parts import check_parts, check_temperature, differentiable, masked_log_prob
from vaekit.posteriors import Classifier, Posterior
from vaekit.priors import Prior
from vaekit.types import Columns, Condition, Latent, Trace, on_device


class LatentModel(Component, abc.ABC):
    """What jobs, training and evaluation ask of every composition, whatever its levels of latents.

    A latent is one vector of D numbers to them, all levels side by side.

    Args:
        likelihood: p(x|z, c).
        condition: encodes the columns c; None for a model without conditions.
        classifier: q(c|x); None where no column is inferred.

    Raises:
        ConfigError: if the classifier is of columns that the model is not conditioned on.
    """

    def __init__(
        self, likelihood: Likelihood, condition: ConditionEncoder | None = None, classifier: Classifier | None = None
    ) -> None:
        super().__init__()
        self.likelihood, self.condition, self.classifier = likelihood, condition, classifier
        known = {} if condition is None else condition.categories
        if classifier is not None and not classifier.categories.items() <= known.items():
            raise ConfigError(
                f"`classifier` must be of categorical columns of the condition, {dict(known)}, got {classifier.categories}. "
                "Make it with `condition.categories`."
            )

    def forward(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None, num_samples: int = 1
    ) -> Trace:
        """Inference: K samples of q(z|x, c) and all that gives their densities.

        Args:
            x: (B, *S), on the likelihood's support; what stands at missing elements is not read.
            condition: the columns that the model is conditioned on, each (B,).
            mask: (B, *S) bool, True where observed.
            num_samples: K.

        Returns:
            The trace, with z (K, B, *Z).
        """
        encoder, classifier = self.condition, self.classifier
        trace = self.infer(x, self.encode_condition(condition), mask, num_samples)
        if encoder is None or condition is None:
            return trace

        def again(columns: Condition) -> Trace:
            times = len(next(iter(columns.values()))) // len(x)
            seen, observed = (None if t is None else t.repeat(times, *[1] * (t.dim() - 1)) for t in (x, mask))
            assert seen is not None
            return self.infer(seen, encoder(columns, drop=False), observed, num_samples)

        read = None if classifier is None else lambda: classifier(x, mask)
        return replace(trace, columns=Columns(condition, again, read))

    @abc.abstractmethod
    def infer(self, x: Tensor, features: Tensor | None, mask: Tensor | None, num_samples: int) -> Trace:
        """What `forward` does, of features (B, F) of the columns."""

    @property
    @abc.abstractmethod
    def num_latents(self) -> int:
        """D, how many numbers a latent has, those of all levels together."""

    @abc.abstractmethod
    def encode_flat(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z|x, c), each (B, D), with nothing drawn.

        In a ladder, whose lower levels depend on the latents above them, those are held at their means.

        Args:
            x: (B, *S), on the likelihood's support.
            condition: the columns that the model is conditioned on, each (B,).
            mask: (B, *S) bool, True where observed.
        """

    @abc.abstractmethod
    def decode_flat(self, z: Tensor, condition: Condition | Tensor | None = None) -> Distribution:
        """p(x|z, c) of flat latents.

        Args:
            z: (B, D), or (K, B, D).
            condition: the columns, each (B,), or their features (B, F) as `encode_condition` gives them.

        Returns:
            A distribution over data of batch shape (B,), or (K, B).
        """

    @abc.abstractmethod
    def sample_prior(self, num_examples: int, *, condition: Condition | None = None, temperature: float = 1.0) -> Tensor:
        """(1, B, D): one latent an example from p(z|c), its scales multiplied by `temperature`."""

    def initialize(self, x: Tensor, mask: Tensor | None = None, condition: Condition | None = None) -> None:
        """Data-dependent start from a batch x (B, *S), of which `mask` (B, *S) says what is observed.

        A likelihood that is not trained, all of its parameters frozen, stays as it is.
        """
        if any(parameter.requires_grad for parameter in self.likelihood.parameters()):
            self.likelihood.initialize(x, mask)

    def peak_elements(self) -> int:
        """Elements of the widest tensor that decoding one latent makes: callers choose by it how many to decode at once."""
        return self.likelihood.peak_elements()

    def encode_condition(self, condition: Condition | None) -> Tensor | None:
        """(B, F) features of the columns, or None for a model without conditions.

        Raises:
            ConfigError: if a conditional model gets none, or an unconditional model gets some.
        """
        if self.condition is None:
            if condition:
                raise ConfigError(f"The model has no conditions, got {', '.join(condition)}. Train it with `condition`.")
            return None
        return self.condition(condition or {})

    def features_of(self, condition: Condition | Tensor | None) -> Tensor | None:
        """(B, F) features of columns, or the features themselves where they are given."""
        return self.encode_condition(condition) if condition is None or isinstance(condition, Mapping) else condition

    def condition_of(self, columns: Condition | None, num_examples: int) -> Condition | None:
        """Of all the columns beside the data, those that the model is conditioned on, each (B,) on its device.

        A column that is not given is unknown (-1, or NaN of numbers) for every example; a model without conditions gets None.
        """
        encoder = self.condition
        if encoder is None:
            return None
        device, given = device_of(self), columns or {}
        found = {name: given[name] if name in given else encoder.unknown(name, num_examples) for name in encoder.names}
        return {name: on_device(values, device) for name, values in found.items()}


class VAE(LatentModel):
    """One latent: p(x, z|c) = p(x|z, c) p(z|c), inferred by q(z|x, c).

    Kingma, Welling, "Auto-Encoding Variational Bayes" (2014); Rezende, Mohamed, Wierstra, "Stochastic backpropagation
    and approximate inference in deep generative models" (2014).

    Args:
        prior: p(z|c); a prior that is made of the posterior is given it.
        posterior: q(z|x, c).
        likelihood: p(x|z, c).
        condition: encodes the columns c; None for a model without conditions.
        classifier: q(c|x); None where no column is inferred.

    Raises:
        ConfigError: if prior and posterior disagree on the shape of the latent or on its space (the rate would compare
            densities over different things), a prior is made of a posterior that mixes examples of a batch, or the posterior
            differentiates twice a likelihood that is differentiable once. A part that is replaced later must fit as well; to
            change the space of the latent, make another VAE.

    Example:
        >>> from vaekit import likelihoods, networks, objectives, posteriors, priors
        >>> _ = torch.manual_seed(0)
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(networks.MLP(5, [8]), num_latents=2),
        ...     likelihood=likelihoods.Bernoulli(networks.MLP(2, [8]), shape=[5]),
        ... )
        >>> trace = vae(torch.ones(3, 5), num_samples=7)
        >>> trace.log_weights.shape
        torch.Size([7, 3])
    """

    prior: Prior
    posterior: Posterior

    def __init__(
        self,
        prior: Prior,
        posterior: Posterior,
        likelihood: Likelihood,
        condition: ConditionEncoder | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(likelihood, condition, classifier)
        self.prior, self.posterior = prior, posterior

    def __setattr__(self, name: str, value: Any) -> None:
        """A new prior or posterior is bound to the other; a part that does not fit is refused, and nothing changes."""
        before = self.__dict__.get("_modules", {}).get(name)
        super().__setattr__(name, value)
        if name not in ("prior", "posterior", "likelihood") or not {"prior", "posterior"} <= self._modules.keys():
            return
        try:
            check_parts(self.prior, self.posterior, self.likelihood)
        except ConfigError:
            if before is not None:
                super().__setattr__(name, before)
                self.prior.bind(self.posterior)
            raise

    def infer(self, x: Tensor, features: Tensor | None, mask: Tensor | None, num_samples: int) -> Trace:
        """See `LatentModel.infer`."""
        posterior, prior = self._infer(x, features, mask)
        prior = self.prior.of_batch(posterior, features) if prior is None else prior
        z = posterior.rsample((num_samples,))
        likelihood = self.likelihood(z, features)

        def decode(z: Tensor) -> Distribution:
            return self.likelihood(z, features)

        log_likelihood = masked_log_prob(likelihood, x, mask)
        return Trace(x, likelihood, log_likelihood, (Latent(z, posterior, prior),), mask, features, decode)

    def _infer(self, x: Tensor, features: Tensor | None, mask: Tensor | None) -> tuple[Distribution, Distribution | None]:
        """q(z|x, c); where the posterior refines itself, refined, and the prior of the batch that it was refined under.

        That prior is made once, of the posterior before its refinement, which asks for the density at every step.
        """
        if not self.posterior.refines:
            return self.posterior(x, features, mask), None
        learning = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(learning):  # the steps take gradients whatever the caller does
            seen, told, observed = (differentiable(t) for t in (x, features, mask))
            assert seen is not None
            start = self.posterior(seen, told, observed)
            prior = self.prior.of_batch(start, told)

            def log_joint(z: Tensor) -> Tensor:
                return masked_log_prob(self.likelihood(z, told), seen, observed) + prior.log_prob(z)

            return self.posterior.refine(start, log_joint), prior

    def encode(self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None) -> Distribution:
        """q(z|x, c), batch shape (B,)."""
        return self._infer(x, self.encode_condition(condition), mask)[0]

    def decode(self, z: Tensor, *, condition: Condition | None = None) -> Distribution:
        """p(x|z, c), batch shape (K, B), of latents (K, B, *Z)."""
        return self.likelihood(z, self.encode_condition(condition))

    @property
    def num_latents(self) -> int:
        """D, how many numbers a latent has."""
        return math.prod(self.prior.shape)

    def encode_flat(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `LatentModel.encode_flat`; of a family without closed moments, what `distributions.centre` gives."""
        mean, scale = centre(self.encode(x, condition=condition, mask=mask))
        return mean.flatten(1), scale.flatten(1)

    def decode_flat(self, z: Tensor, condition: Condition | Tensor | None = None) -> Distribution:
        """See `LatentModel.decode_flat`."""
        return self.likelihood(z.unflatten(-1, tuple(self.prior.shape)), self.features_of(condition))

    @torch.no_grad()
    def sample_prior(self, num_examples: int, *, condition: Condition | None = None, temperature: float = 1.0) -> Tensor:
        """See `LatentModel.sample_prior`."""
        check_temperature(temperature)
        prior = self.prior(self.encode_condition(condition), temperature)
        return prior.sample(() if prior.batch_shape else (num_examples,)).flatten(1).unsqueeze(0)

    def initialize(self, x: Tensor, mask: Tensor | None = None, condition: Condition | None = None) -> None:
        """Data-dependent start of all three parts from a batch x (B, *S), of which `mask` (B, *S) says what is observed."""
        super().initialize(x, mask, condition)
        self.posterior.initialize(x, self.encode_condition(condition), mask)
        self.prior.initialize(x, mask)


class HierarchicalVAE(LatentModel):
    """Levels of latents, each given those above it.

        p(x, z|c) = p(x|z, c) prod_l p(z_l|z_<l, c),    q(z|x, c) = prod_l q(z_l|z_<l, x, c)

    Both walk the ladder downwards, so the posterior corrects the prior level by level. Every p and q is a diagonal normal.

    The latents of a trace are standardised: the ladder reads z_l = mean_p + scale_p e_l, and e_l is what is inferred, drawn
    and handed over, with p(e_l) = N(0, I) at every level and

        q(e_l|z_<l, x) = N((mean_q - mean_p) / scale_p, (scale_q / scale_p)^2)

    Rate, log-weights and bounds are those of z, as the map between the two is one-to-one. In these units a unit that the
    data do not use has mean 0 and scale 1, all of the levels share one prior to be drawn from, walked along and cooled,
    and what is moved at a level goes along with the levels above it.

    Use it where the likelihood counts: depth of the hierarchy beats the width of its networks.
    Sonderby et al., "Ladder variational autoencoders" (2016), section 2; Child, "Very deep VAEs generalize autoregressive
    models and can outperform them on images" (2021), section 2. `relative` has the posterior's network speak of e_l and
    not of z_l: Vahdat, Kautz, "NVAE: a deep hierarchical variational autoencoder" (2020), equation 3. Departure from all:
    scales are made by a softplus and not by an exponential.

    Args:
        ladder: the networks of all levels.
        likelihood: p(x|z, c), whose network (such as `networks.Tail`) takes the ladder's last state.
        condition: encodes the columns c; None for a model without conditions.
        relative: whether the posterior's network gives mean and scale of e_l; of z_l otherwise.
        min_scale: the least scale of every normal.

    Raises:
        ConfigError: if the likelihood's tail is made for another state than the ladder's, or `min_scale` is not above 0.

    Example:
        >>> from vaekit import likelihoods, networks
        >>> _ = torch.manual_seed(0)
        >>> vae = HierarchicalVAE(
        ...     networks.DenseLadder(5, num_latents=[2, 3], width=8),
        ...     likelihoods.Bernoulli(networks.Tail([8]), shape=[5]),
        ... )
        >>> trace = vae(torch.ones(4, 5), num_samples=7)
        >>> [latent.z.shape for latent in trace.latents], trace.log_weights.shape
        ([torch.Size([7, 4, 2]), torch.Size([7, 4, 3])], torch.Size([7, 4]))
    """

    def __init__(
        self,
        ladder: Ladder,
        likelihood: Likelihood,
        condition: ConditionEncoder | None = None,
        relative: bool = True,
        min_scale: float = 1e-3,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__(likelihood, condition, classifier)
        if isinstance(likelihood.network, Tail) and likelihood.network.out_shape != ladder.out_shape:
            raise ConfigError(
                f"The likelihood's tail must take the ladder's state {ladder.out_shape}, got a tail for "
                f"{likelihood.network.out_shape}. Make it with `networks.Tail(ladder.out_shape)`."
            )
        if not min_scale > 0:
            raise ConfigError(f"`min_scale` must be > 0, got {min_scale}. Use 1e-3 when in doubt.")
        self.ladder, self.relative, self.min_scale = ladder, relative, min_scale

    def infer(self, x: Tensor, features: Tensor | None, mask: Tensor | None, num_samples: int) -> Trace:
        """See `LatentModel.infer`; the trace has one `Latent` a level, that which is sampled first at index 0.

        The data are read once for all K samples. The first posterior has batch shape (B,), all others (K, B).
        """
        evidence = self.ladder.bottom_up(x, features, mask)
        latents: list[Latent] = []

        def infer(level: int, state: Tensor, prior: Independent) -> Tensor:
            q = self._posterior(level, state, evidence[level], prior)
            noise = q.rsample(() if level else (num_samples,))
            latents.append(Latent(noise, q, _standard(noise, self.ladder.latent_shapes[level])))
            return noise

        likelihood = self.likelihood(self._descend(features, infer), features)

        def decode(*z: Tensor) -> Distribution:
            return self._decode(z, features)

        log_likelihood = masked_log_prob(likelihood, x, mask)
        return Trace(x, likelihood, log_likelihood, tuple(latents), mask, features, decode)

    def _descend(self, condition: Tensor | None, choose: Callable[[int, Tensor, Independent], Tensor]) -> Tensor:
        """The ladder's last state, where `choose` gives e_l (..., *Z) of a level, its state, and p(z_l|z_<l)."""
        state = None
        for level in range(len(self.ladder.latent_shapes)):
            state = self.ladder.enter(level, state, condition)
            parameters, after = self.ladder.prior(level, state)
            p = self._normal(*parameters)
            z = p.base_dist.loc + p.base_dist.scale * choose(level, state, p)
            state = self.ladder.update(level, after, z)
        return full_float(self.ladder.enter(len(self.ladder.latent_shapes), state, condition))

    def _posterior(self, level: int, state: Tensor, evidence: Tensor, prior: Independent) -> Independent:
        """q(e_l|z_<l, x)."""
        q = self._normal(*self.ladder.posterior(level, state, evidence))
        if self.relative:
            return q
        p, q = prior.base_dist, q.base_dist
        return diagonal_normal((q.loc - p.loc) / p.scale, q.scale / p.scale, len(self.ladder.latent_shapes[level]))

    def _normal(self, mean: Tensor, raw: Tensor) -> Independent:
        """A normal over one level, of scale 1 where the network says 0, in float32 or better."""
        scale = positive(full_float(raw), self.min_scale)
        return diagonal_normal(full_float(mean), scale, len(self.ladder.latent_shapes[0]))

    def _decode(self, noise: Sequence[Tensor], features: Tensor | None) -> Distribution:
        return self.likelihood(self._descend(features, lambda level, state, prior: noise[level]), features)

    @property
    def num_latents(self) -> int:
        """D, how many numbers the latents of all levels have together."""
        return sum(math.prod(shape) for shape in self.ladder.latent_shapes)

    def encode_flat(
        self, x: Tensor, *, condition: Condition | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `LatentModel.encode_flat`: of the standardised latents, those of the levels above held at their means."""
        features = self.encode_condition(condition)
        evidence = self.ladder.bottom_up(x, features, mask)
        means: list[Tensor] = []
        scales: list[Tensor] = []

        def infer(level: int, state: Tensor, prior: Independent) -> Tensor:
            q = self._posterior(level, state, evidence[level], prior)
            means.append(q.mean.flatten(1))
            scales.append(q.stddev.flatten(1))
            return q.mean

        self._descend(features, infer)
        return torch.cat(means, dim=1), torch.cat(scales, dim=1)

    def decode_flat(self, z: Tensor, condition: Condition | Tensor | None = None) -> Distribution:
        """See `LatentModel.decode_flat`."""
        shapes = self.ladder.latent_shapes
        parts = z.split([math.prod(shape) for shape in shapes], dim=-1)
        noise = [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]
        return self._decode(noise, self.features_of(condition))

    @torch.no_grad()
    def sample_prior(self, num_examples: int, *, condition: Condition | None = None, temperature: float = 1.0) -> Tensor:
        """See `LatentModel.sample_prior`: e ~ N(0, temperature^2 I), so the scale of every level is multiplied by it."""
        check_temperature(temperature)
        self.encode_condition(condition)  # says what is wrong with it
        like = next(self.ladder.parameters())
        return torch.randn(1, num_examples, self.num_latents, dtype=like.dtype, device=like.device) * temperature

    def peak_elements(self) -> int:
        """See `LatentModel.peak_elements`: of the likelihood, the ladder, or all that a trace keeps of the levels."""
        return max(super().peak_elements(), self.ladder.peak_elements())


def _standard(like: Tensor, shape: tuple[int, ...]) -> Independent:
    """N(0, I) over latents of a shape."""
    return diagonal_normal(like.new_zeros(shape), like.new_ones(shape), len(shape))
