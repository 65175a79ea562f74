"""A normalising flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from vaekit.distributions.flow import make_flow
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents


class Flow(Prior):
    """z = f(e), e ~ N(0, I): log p(z) = log N(f^-1(z)) + log |det df^-1/dz|, with an invertible f that is learned.

    An exact density of almost any shape. Of the kinds, coupling flows (`nsf`, `realnvp`, `nice`) take one pass to sample and
    one for the density; autoregressive ones (`maf`, `nsf-ar`) are stronger a step and take D passes to sample; an `iaf` takes
    D passes for the density, so it suits posteriors, not priors.
    Chen et al., "Variational lossy autoencoder" (2017), section 3.2, is an autoregressive flow as a prior; the kinds and their
    papers are those of `vaekit.distributions.make_flow`. Temperature multiplies the scale of the noise e, as is the custom
    with flows, so the scales of z themselves follow it exactly only where f is affine.

    Args:
        num_latents: D.
        kind: of the flow, one of `vaekit.distributions.FLOW_KINDS`.
        hidden: widths of the network in each step.
        num_transforms: how many steps.

    Raises:
        ConfigError: for fewer than one latent, an unknown kind, or a number that is too small.
        MissingExtraError: if the kind needs a package that is not installed.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> Flow(2, kind="maf", hidden=[8])().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self, num_latents: int, kind: str = "nsf", hidden: Sequence[int] = (128, 128), num_transforms: int = 4
    ) -> None:
        super().__init__()
        if not hidden:
            raise ConfigError("`hidden` must hold at least one width, got none. Use [128, 128] when in doubt.")
        self.shape = (check_num_latents(num_latents),)
        self.flow = make_flow(kind, num_latents, 0, hidden, num_transforms)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> Distribution:
        """The flow's distribution, the same for every condition."""
        return self.flow(temperature=temperature)
