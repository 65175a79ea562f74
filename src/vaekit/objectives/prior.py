"""The prior alone, fitted to latents of a model that is held as it is."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from vaekit.objectives.base import Bound, Objective
from vaekit.types import Latent, Trace


class PriorFit(Objective):
    """loss = E_q[-log p(z)], the cross entropy of prior and aggregate posterior.

    Of the bound it is all that depends on the prior, so that a model whose posterior and likelihood are held is improved by
    it as by the bound itself, whatever the posterior. The latents are detached. Ghosh et al., "From variational to
    deterministic autoencoders" (2020), section 4, and Dai, Wipf, "Diagnosing and enhancing VAE models" (2019), section 4, fit
    a density after the fact.

    A prior whose distribution has a `matching_loss` of its own, such as `priors.FlowMatching`, is trained by that in its
    place, which asks for no density. As the rate, the loss itself is reported: the entropy of q, which is no matter of the
    prior's, is left out, and `elbo` is the bound less that entropy (of a matching loss, no bound at all).

    Example:
        >>> import torch
        >>> from vaekit.distributions import diagonal_normal
        >>> p = diagonal_normal(torch.zeros(2), torch.ones(2))
        >>> z = torch.zeros(1, 3, 2)
        >>> round(PriorFit()(Trace(z[0], p, torch.zeros(1, 3), (Latent(z, p, p),))).loss.item(), 4)
        1.8379
    """

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The sum over levels of the mean of -log p(z), or of the matching loss."""
        loss = cast(Tensor, sum(_loss(latent) for latent in trace.latents)).mean()
        distortion = -trace.log_likelihood.mean()
        return Bound(loss, -(distortion + loss.detach()), loss.detach(), distortion)


def _loss(latent: Latent) -> Tensor:
    z = latent.z.detach()
    matching = getattr(latent.prior, "matching_loss", None)
    return -latent.prior.log_prob(z) if matching is None else matching(z)
