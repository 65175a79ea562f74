"""What holds a network's output and the vectors of its codes together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.distributions import Distribution

from vaekit.distributions import Quantized, RelaxedCodes
from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, rate
from vaekit.types import Json, Trace


class Quantization(Objective):
    """loss = distortion + rate + codebook |sg(f(x)) - e|^2 + commitment |f(x) - sg(e)|^2, the loss of the VQ-VAE.

    The commitment keeps the network's output f(x) near the vectors e that it is rounded to; the codebook's distance, which
    counts where vectors are learned by gradients and not as running means, moves the vectors there. sg stops the gradient.
    Van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning" (2017), equation 3. For residual codes, each
    vector is held to the residual that it stands for: Lee et al., "Autoregressive image generation using residual
    quantization" (2022), equation 7, for the commitment.

    Departure: the squared distances of an example are summed over its tokens, as its distortion is summed over its values;
    the paper takes their mean over tokens. Raise or lower the weights where the latent has far fewer numbers than the data, or
    far more. The rate is charged as well: it is constant under `priors.UniformCodes`, and trains every other prior over codes.

    Terms, means over the batch: `commitment` and `codebook` (squared distances without their weights) and `code_entropy`, the
    entropy in nats of how often each code is used in the batch: its exponential is the perplexity that is known from the
    literature, log V at most, and near 0 for a codebook that has collapsed. Averaged over batches it is a little less than
    the entropy over all data, the more so the fewer tokens a batch has.

    Args:
        commitment: weight, >= 0; 0.25 in the paper.
        codebook: weight, >= 0.
        base: an objective that gives the rest of the loss, such as an adversarial one; None for the bound.

    Raises:
        ConfigError: for a negative weight; when called, for a trace without codes.

    Example:
        >>> Quantization(commitment=0.5).spec()
        {'type': 'objectives.Quantization', 'commitment': 0.5, 'codebook': 1.0, 'base': None}
    """

    def __init__(self, commitment: float = 0.25, codebook: float = 1.0, base: Objective | None = None) -> None:
        super().__init__()
        if not commitment >= 0 or not codebook >= 0:
            raise ConfigError(f"`commitment` and `codebook` must be >= 0, got {commitment} and {codebook}. Use 0.25 and 1.")
        self.commitment, self.codebook, self.base = commitment, codebook, base
        if base is not None:  # the base's own module, which is saved once, with the base
            object.__setattr__(self, "adversary", base.adversary)

    def adversary_settings(self) -> Json:
        """Those of the base."""
        return {} if self.base is None else self.base.adversary_settings()

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The bound, or the base's loss, with the distances of all quantised latents."""
        parts = [part for latent in trace.latents for part in _parts(latent.posterior)]
        quantized = [part for part in parts if isinstance(part, Quantized) and part.drawn_together]
        codes = [part for part in parts if isinstance(part, Quantized | RelaxedCodes)]
        if not codes:
            names = ", ".join(type(latent.posterior).__name__ for latent in trace.latents)
            raise ConfigError(f"Quantization must be given latents of codes, got {names}. Use a posterior over codes, or ELBO.")
        if self.base is None:
            rates = rate(trace)
            bound = bound_of(trace, rates.mean() - trace.log_likelihood.mean(), rates)
        else:
            bound = self.base(trace, step)
        none = torch.zeros_like(bound.distortion)
        commitment = torch.stack([none, *(part.commitment.mean() for part in quantized)]).sum()
        codebook = torch.stack([none, *(part.codebook_distance.mean() for part in quantized if part.learned)]).sum()
        loss = bound.loss + self.commitment * commitment + self.codebook * codebook
        entropy = torch.stack([part.usage_entropy() for part in codes]).mean()
        terms = {"commitment": commitment, "codebook": codebook, "code_entropy": entropy}
        return replace(bound, loss=loss, terms={**bound.terms, **{k: v.detach() for k, v in terms.items()}})


def _parts(posterior: Distribution) -> Iterator[Distribution]:
    """The distributions that a joint one is made of, or the one itself."""
    inner = getattr(posterior, "parts", None)
    if inner is None:
        yield posterior
    else:
        for part in inner:
            yield from _parts(part)
