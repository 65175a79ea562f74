"""A mixture of the model's own posteriors at learned inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from vaekit.distributions.affine import tempered
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents

_MARGIN = 0.01  # the share of the range that data stay away from its ends, where the sigmoid would have no gradient
_JITTER = 0.01


class Vamp(Prior):
    """p(z) = 1/M sum_m q(z|u_m, w_m), with the model's posterior q at pseudo-inputs u_m that are learned.

    The best prior of a trained model is its aggregate posterior, of which this is a summary in M points. It costs an
    encoding of M inputs a step. Gradients reach the pseudo-inputs and the posterior.
    Tomczak, Welling, "VAE with a VampPrior" (2018), equation 8.

    In a conditional model q needs features of a condition: each pseudo-input then has learned features w_m of its own beside
    it, so that the pairs summarise the joint distribution of data and conditions. p(z) itself does not depend on c.

    Where the data have a range the pseudo-inputs stay in it, u = low + (high - low) sigmoid(v). Training starts them at
    examples. Departure: the paper clips to the range (hardtanh), where what leaves it has no gradient.
    The posterior must have a density; over another space than R^D, such as a sphere, the prior has no temperature but 1.
    Where the posterior refines itself example by example, the components are the unrefined ones.

    Args:
        num_latents: D.
        data_shape: the shape of one example *S.
        num_pseudo_inputs: M.
        input_range: (low, high) of the data, as the network sees them; None for real numbers without bounds.
        condition_features: width of the condition's features, 0 for an unconditional model.

    Raises:
        ConfigError: for fewer than one latent or pseudo-input, an empty shape, or a range that does not rise; and when it is
            called without a model's posterior; when bound, for a posterior that is a point or over codes, of which no mixture
            is a density.

    Example:
        >>> from vaekit.networks import MLP
        >>> from vaekit.posteriors import DiagonalNormal
        >>> prior, posterior = Vamp(2, [3], num_pseudo_inputs=5), DiagonalNormal(MLP(3, [8]), num_latents=2)
        >>> prior.bind(posterior)  # as VAE does
        >>> prior().sample((7,)).shape
        torch.Size([7, 2])
    """

    posterior: Callable[..., Distribution] | None = None
    made_of_posterior = True

    def __init__(
        self,
        num_latents: int,
        data_shape: Sequence[int],
        num_pseudo_inputs: int = 500,
        input_range: Sequence[float] | None = None,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        if not data_shape or min(data_shape) < 1:
            raise ConfigError(f"`data_shape` must hold sizes of at least 1, got {tuple(data_shape)}. Give that of one example.")
        if num_pseudo_inputs < 1:
            raise ConfigError(f"`num_pseudo_inputs` must be at least 1, got {num_pseudo_inputs}. 500 is a good start.")
        if input_range is not None and (len(input_range) != 2 or not input_range[0] < input_range[1]):
            raise ConfigError(
                f"`input_range` must be (low, high) with low < high, got {tuple(input_range)}. Use None where there is none."
            )
        if condition_features < 0:
            raise ConfigError(f"`condition_features` must be >= 0, got {condition_features}. Use 0 for no conditions.")
        self.shape = (check_num_latents(num_latents),)
        self.input_range = input_range
        self.pseudo = nn.Parameter(torch.randn(num_pseudo_inputs, *data_shape))
        self.pseudo_condition = nn.Parameter(torch.randn(num_pseudo_inputs, condition_features)) if condition_features else None

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Keeps the posterior.

        Raises:
            ConfigError: if it has no density: a mixture of points, or of masses of codes, is nothing to compare latents with.
        """
        codes = any(space.startswith("codes") for space in getattr(posterior, "spaces", ()))
        if codes or not getattr(posterior, "has_density", True):
            raise ConfigError(
                f"A Vamp prior must be made of a posterior that has a density, got {type(posterior).__name__}. Use a "
                "`MixtureOfNormals` for points, or `CategoricalCodes` for codes."
            )
        self.keep(posterior)

    @property
    def spaces(self) -> tuple[str, ...]:
        """Those of the posterior, once there is one."""
        return getattr(self.posterior, "spaces", super().spaces)

    def pseudo_inputs(self) -> Tensor:
        """(M, *S): u."""
        if self.input_range is None:
            return self.pseudo
        low, high = self.input_range
        return low + (high - low) * torch.sigmoid(self.pseudo)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> MixtureSameFamily:
        """The mixture, the same for every condition; each component is drawn together about its centre by the temperature."""
        if self.posterior is None:
            raise ConfigError("A Vamp prior must have the posterior of a model, got none. Make it a part of a VAE.")
        if temperature != 1 and set(self.spaces) != {"real"}:
            raise ConfigError(
                f"`temperature` must be 1 for a Vamp prior over another space than R^D, which components that are drawn "
                f"together would leave, got {temperature}. Leave it out."
            )
        q = tempered(self.posterior(self.pseudo_inputs(), self.pseudo_condition, None), temperature)
        weights = Categorical(logits=self.pseudo.new_zeros(len(self.pseudo), dtype=torch.float32), validate_args=False)
        return MixtureSameFamily(weights, q, validate_args=False)

    @torch.no_grad()
    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Pseudo-inputs = examples of the batch, each as often as needed, told apart by a little noise.

        What is missing of an example is taken from the mean of that element over the batch.
        """
        x = x.to(self.pseudo.dtype)
        if mask is not None:
            observed = mask.expand(x.shape)
            total = torch.where(observed, x, 0.0).sum(0)
            x = torch.where(observed, x, total / observed.sum(0).clamp_min(1))
        rows = x[torch.arange(len(self.pseudo), device=x.device) % len(x)]
        if self.input_range is not None:
            low, high = self.input_range
            rows = torch.logit(((rows - low) / (high - low)).clamp(_MARGIN, 1 - _MARGIN))
        self.pseudo.copy_(rows + _JITTER * torch.randn_like(rows))
