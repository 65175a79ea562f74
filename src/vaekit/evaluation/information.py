"""What latent and data share, and how far the aggregate posterior lies from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset, spaced
from vaekit.data.text.batches import trimmed
from vaekit.distributions.aggregate import information_terms, mixture_log_probs
from vaekit.inference import MAX_ELEMENTS, is_point, prepare, seeded
from vaekit.storage import Bundle

_BLOCK = 256


@dataclass(frozen=True)
class Information:
    """The rate taken apart, in nats; means over N examples.

        E_x KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)),   q(z) = E_x q(z|x)

    The two estimates of each lie, in expectation, on either side of its value in the population that the examples are of.

    Attributes:
        mutual_information: I(x; z) from below, at most log N. Of the N examples themselves it is the very value.
        mutual_information_upper: from above; at a true value near log N or beyond, it is far above. None where it is infinite.
        mutual_information_error: standard error of `mutual_information`.
        marginal_kl: KL(q(z) || p(z)) from above. What a better prior could save of the rate. None where the prior depends on
            a condition, or on other levels.
        marginal_kl_lower: from below; it may be negative.
        marginal_kl_error: standard error of `marginal_kl`.
        log_num_examples: log N, which `mutual_information` cannot exceed.
        num_examples: N.
        whole_latent: False for a ladder, of which only the level that is sampled first is looked at.
    """

    mutual_information: float
    mutual_information_upper: float | None
    mutual_information_error: float
    marginal_kl: float | None
    marginal_kl_lower: float | None
    marginal_kl_error: float | None
    log_num_examples: float
    num_examples: int
    whole_latent: bool


def information(bundle: Bundle, dataset: Dataset, *, num_examples: int = 2048, seed: int = 0) -> Information | None:
    """I(x; z) and KL(q(z) || p(z)) by the mixture of the posteriors of N examples.

        I >= E_i log q(z_i|x_i) - log 1/N     sum_n       q(z_i|x_n)
        I <= E_i log q(z_i|x_i) - log 1/(N-1) sum_{n!=i} q(z_i|x_n),   z_i ~ q(z|x_i)

    The first is the estimate of Hoffman, Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower
    bound" (2016); that the two are a lower and an upper bound is shown by Poole, Ozair, van den Oord, Alemi, Tucker, "On
    variational bounds of mutual information" (2019), section 2. A conditional model's q(z|x, c) is compared with the mixture
    over all examples, whatever their condition: I is then that of z with x and c together.

    N^2 densities are computed, in bounded memory: quick for normals, slow for posteriors whose density is a network.

    Args:
        bundle: the model.
        dataset: examples that fit the model's schema.
        num_examples: at most so many of them, evenly spaced.
        seed: of all draws; the global random state is left as it was.

    Returns:
        The estimates, or None for fewer than two examples, and where q has no density or not one that is finite.
    """
    dataset = dataset.select(spaced(len(dataset), num_examples)) if len(dataset) > num_examples else dataset
    if len(dataset) < 2 or is_point(bundle.vae):  # a point's log q is 0 everywhere
        return None
    with seeded(seed, device_of(bundle.vae)), torch.inference_mode(), full_precision():
        try:
            parts = _Parts(bundle, dataset)
            own, others = mixture_log_probs(parts.samples, parts.posteriors)
        except NotImplementedError:
            return None
    if not bool(torch.isfinite(own).all()):
        return None
    return _summary(own, others, parts.log_prior(), parts.whole)


class _Parts:
    """The posteriors of N examples in blocks, each with a sample of its own."""

    def __init__(self, bundle: Bundle, dataset: Dataset) -> None:
        self.samples: list[Tensor] = []
        self.posteriors: list[Distribution] = []
        self.priors: list[Tensor | None] = []
        self.whole = True
        block = max(1, min(_BLOCK, MAX_ELEMENTS // bundle.vae.likelihood.peak_elements()))
        for start in range(0, len(dataset), block):
            batch = dataset.batch(np.arange(start, min(start + block, len(dataset))))
            inputs = prepare(bundle, trimmed(batch, dataset.schema))
            trace = bundle.vae(inputs.x, condition=inputs.condition, mask=inputs.mask)
            first = trace.latents[0]
            self.whole = len(trace.latents) == 1
            self.samples.append(first.z[0])
            self.posteriors.append(first.posterior)
            self.priors.append(None if first.prior.batch_shape else first.log_p[0].cpu().double())

    def log_prior(self) -> Tensor | None:
        """(N,): log p(z_i), or None where p is not one for all examples."""
        known = [log_p for log_p in self.priors if log_p is not None]
        return torch.cat(known) if len(known) == len(self.priors) else None


def _summary(own: Tensor, others: Tensor, log_prior: Tensor | None, whole: bool) -> Information:
    num = len(own)
    full = torch.logaddexp(own, others) - math.log(num)
    upper, error = _mean(own - others + math.log(num - 1))
    information, error = _mean(information_terms(own, others))
    marginal = lower = marginal_error = None
    if log_prior is not None and bool(torch.isfinite(log_prior).all()):
        marginal, marginal_error = _mean(full - log_prior)
        lower = _finite(_mean(others - math.log(num - 1) - log_prior)[0])
    return Information(
        mutual_information=information,
        mutual_information_upper=_finite(upper),
        mutual_information_error=error,
        marginal_kl=marginal,
        marginal_kl_lower=lower,
        marginal_kl_error=marginal_error,
        log_num_examples=math.log(num),
        num_examples=num,
        whole_latent=whole,
    )


def _mean(terms: Tensor) -> tuple[float, float]:
    """Mean over the examples, and its standard error."""
    return float(terms.mean()), float(terms.std() / math.sqrt(len(terms)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
