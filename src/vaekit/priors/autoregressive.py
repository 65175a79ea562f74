"""One unit after another, each a mixture of normals given those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from vaekit.component import stopped_copy
from vaekit.distributions.flow_steps import Conditioner
from vaekit.distributions.scales import positive
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents, in_chunks

_MAX_ELEMENTS = 2**23


class ChainOfMixtures(Distribution):
    """p(z) = prod_d sum_m w_m N(z_d; mean_m, scale_m^2), with weights, means and scales that are functions of z_<d.

    Args:
        network: maps z (..., D) to (..., D, 3 M): logits, means and raw scales, those of unit d from z_<d alone.
        temperature: factor on the scales.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    support: ClassVar[constraints.Constraint] = constraints.real_vector  # pyright: ignore

    def __init__(self, network: Conditioner, temperature: float = 1.0) -> None:
        super().__init__(torch.Size(), torch.Size([network.num_units]), validate_args=False)
        self.network, self.temperature = network, temperature

    def factors(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and scales of the factors, each (..., D, M), at z (..., D)."""
        logits, mean, raw = self.network(z).to(z.dtype).unflatten(-1, (3, -1)).unbind(-2)
        return logits, mean, positive(raw) * self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): the log-density of `value` (..., D), in one pass."""
        width = max(layer.out_features for layer in self.network.modules() if isinstance(layer, nn.Linear))
        return in_chunks(self._log_prob, value, 1, _MAX_ELEMENTS // width)

    def _log_prob(self, value: Tensor) -> Tensor:
        logits, mean, scale = self.factors(value)
        square = ((value[..., None] - mean) / scale).square()
        terms = logits.log_softmax(-1) - 0.5 * square - scale.log() - 0.5 * math.log(2 * math.pi)
        return terms.logsumexp(-1).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, D), a pass a unit."""
        z = next(self.network.parameters()).new_zeros(torch.Size(sample_shape) + self.event_shape)
        for unit in range(self.event_shape[0]):
            logits, mean, scale = (p[..., unit, :] for p in self.factors(z))
            chosen = Categorical(logits=logits, validate_args=False).sample()[..., None]
            z[..., unit] = torch.normal(mean.gather(-1, chosen), scale.gather(-1, chosen)).squeeze(-1)
        return z

    def stopped(self) -> ChainOfMixtures:
        """The same, with a network that no gradient reaches."""
        return ChainOfMixtures(stopped_copy(self.network), self.temperature)


class Autoregressive(Prior):
    """p(z) = prod_d p(z_d|z_<d), each factor a mixture of normals that a masked network gives.

    The density takes one pass of the network, a sample D passes. It is exact, and it can be of any shape that mixtures of
    so many components can: for few latents, a strong density.
    Uria, Murray, Larochelle, "RNADE: the real-valued neural autoregressive density-estimator" (2013), equation 3, with the
    network of Germain et al., "MADE" (2015). Chen et al., "Variational lossy autoencoder" (2017), section 3.2, is the use of
    such a density as a prior. Temperature multiplies the scales of every factor.

    Args:
        num_latents: D.
        num_components: M, components a factor.
        hidden: width of each layer of the network.

    Raises:
        ConfigError: for fewer than one latent or component, or an empty or non-positive width.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> Autoregressive(3, num_components=4, hidden=[16])().sample((7,)).shape
        torch.Size([7, 3])
    """

    def __init__(self, num_latents: int, num_components: int = 10, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        if num_components < 1:
            raise ConfigError(f"`num_components` must be at least 1, got {num_components}. Use 1 for normal factors.")
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"`hidden` must hold widths of at least 1, got {tuple(hidden)}. Give at least one width.")
        self.shape = (check_num_latents(num_latents),)
        self.network = Conditioner(range(num_latents), 0, hidden, 3 * num_components)
        with torch.no_grad():  # the components start apart, each of scale 1
            head = self.network.layers[-1]
            assert isinstance(head, nn.Linear)
            head.bias.view(num_latents, 3, num_components)[:, 1].normal_()

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> ChainOfMixtures:
        """The chain, the same for every condition."""
        return ChainOfMixtures(self.network, temperature)
