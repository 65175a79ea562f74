"""A posterior that is a normal bent by a normalising flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.component import Component
from vaekit.distributions import FlowDistribution, diagonal_normal, make_flow
from vaekit.distributions.scales import positive
from vaekit.errors import ConfigError
from vaekit.posteriors.base import NormalPosterior
from vaekit.types import as_network


class Flow(NormalPosterior):
    """q(z|x): z = f(e; h(x)), e ~ N(mean(x), diag(scale(x)^2)), with f an invertible map and h a context.

    For posteriors that are no normals, at the cost of a rate that is sampled. With `iaf`, a draw and its density take one pass
    through each step, however many latents there are; what asks for the density of another z, as the sticking-the-landing and
    doubly reparameterised gradients do, takes D passes.

    Rezende, Mohamed, "Variational inference with normalizing flows" (2015): `planar`, `radial`. Kingma, Salimans, Jozefowicz,
    Chen, Sutskever, Welling, "Improved variational inference with inverse autoregressive flow" (2016): `iaf`. Departure: a step
    scales by a bounded exponential and not by a sigmoid. `make_flow` says what each kind is.

    Args:
        network: maps data to features.
        num_latents: D.
        kind: `iaf`, `planar`, `radial`, `realnvp`, `nice`, `nsf` (draws are fast), `maf` or `nsf-ar` (D passes a draw).
        num_context: width of h; 0 for a flow that is the same for every x.
        hidden: widths of the network in each step.
        num_transforms: how many steps.

    Raises:
        ConfigError: for a number that is too small, an unknown kind, or what is no network.
        MissingExtraError: if the kind needs a package that is not installed.

    Example:
        >>> from vaekit.networks import MLP
        >>> _ = torch.manual_seed(0)
        >>> q = Flow(MLP(3, [8]), num_latents=2, kind="iaf", num_context=4, hidden=[8])(torch.zeros(5, 3))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        network: Component,
        num_latents: int,
        kind: str = "iaf",
        num_context: int = 64,
        hidden: Sequence[int] = (128,),
        num_transforms: int = 2,
    ) -> None:
        super().__init__(network, num_latents, num_parameters=2)
        if num_context < 0:
            raise ConfigError(f"`num_context` must be at least 0, got {num_context}. Use 0 for a flow without a context.")
        make_head = as_network(network, type(self).__name__).make_head
        self.context_head = make_head(1, (num_context,)) if num_context else None
        self.flow = make_flow(kind, num_latents, num_context, hidden, num_transforms)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> FlowDistribution:
        """The flow's distribution, batch shape (B,)."""
        features = self.network(x, condition, mask)
        raw = self.head(features)
        mean, raw_scale = (raw if raw.dtype == torch.float64 else raw.float()).unbind(-2)
        context = None if self.context_head is None else self.context_head(features).squeeze(-2)
        return FlowDistribution(self.flow, context, diagonal_normal(mean, positive(raw_scale)))
