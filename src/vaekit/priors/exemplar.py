"""A mixture of normals about the encodings of stored examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from vaekit.distributions import centre, diagonal_normal
from vaekit.distributions.scales import SOFTPLUS_ONE
from vaekit.errors import ConfigError
from vaekit.priors.base import Prior, check_num_latents

_DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


def _count_anew(prior: nn.Module, _: Any) -> None:
    """After loading, reads the number of stored examples."""
    assert isinstance(prior, Exemplar)
    prior.num = int(prior.num_stored)


class NormalsOfOneScale(MixtureSameFamily):
    """sum_m w_m N(z; mean_m, scale^2 I), by the distances to the means, so that no tensor is M times D wide.

    Args:
        logits: (*batch, M), log w up to a constant; -inf leaves a component out.
        means: (M, D).
        scale: one number.
    """

    def __init__(self, logits: Tensor, means: Tensor, scale: Tensor) -> None:
        self.means, self.scale = means, scale
        expanded = means.expand(*logits.shape, means.shape[-1])
        super().__init__(
            Categorical(logits=logits, validate_args=False),
            diagonal_normal(expanded, scale.expand_as(expanded)),
            validate_args=False,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """(*batch): the log-density of `x` (*batch, D)."""
        square = _square_distance(x.reshape(-1, x.shape[-1]), self.means).reshape(*x.shape[:-1], len(self.means))
        constant = x.shape[-1] * (self.scale.log() + 0.5 * math.log(2 * math.pi))
        terms = self.mixture_distribution.logits - 0.5 * square / self.scale.square()
        return torch.logsumexp(terms, dim=-1) - constant

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch, D): a component first, then of that one alone."""
        with torch.no_grad():
            chosen = self.means[self.mixture_distribution.sample(sample_shape)]
            return chosen + self.scale * torch.randn_like(chosen)


def _square_distance(x: Tensor, means: Tensor) -> Tensor:
    """(N, M): |x_n - mean_m|^2 of x (N, D) and means (M, D), with derivatives of every order.

    The value is that of the differences, as the expanded square loses all its digits near a mean. The derivatives are those of
    the expanded square: they do not cancel, and `cdist` has only the first.
    """
    exact = torch.cdist(x.detach(), means.detach(), compute_mode="donot_use_mm_for_euclid_dist").square()
    if not (torch.is_grad_enabled() and (x.requires_grad or means.requires_grad)):
        return exact
    with torch.autocast(x.device.type, enabled=False):
        origin = means.detach().mean(0)
        x, means = x - origin, means - origin
        expanded = x.square().sum(-1, keepdim=True) + means.square().sum(-1) - 2 * x @ means.T
    return expanded + (exact - expanded).detach()


class Exemplar(Prior):
    """p(z) = 1/M sum_m N(z; mean of q(z|x_m), sigma^2 I), about M stored examples x_m, with one learned scale sigma.

    To generate is to take a stored example, encode it, and move a little away from it.
    Norouzi, Fleet, Norouzi, "Exemplar VAE: linking generative models, nearest neighbor retrieval, and data augmentation"
    (2020), equations 3 and 4.

    An example must not be explained by itself, or the scale would shrink to that of its own posterior. In training the
    mixture that a batch is charged with is therefore that of the other B - 1 examples of the batch, by their place in it:

        p_i(z) = 1/(B - 1) sum_{j != i} N(z; mean of q(z|x_j), sigma^2 I)

    This is exact whatever chance a transform brings in, and costs no further encoding. By Jensen's inequality the mean of
    its logarithm over batches is a lower bound on that of all training examples but x_i, so what is maximised is a bound; it
    is tighter for larger batches. Departure: the paper takes the nearest of all examples in a cache of encodings.
    In evaluation mode the mixture is that of the M stored examples, encoded anew at every call, so a change of weights counts
    at once; examples that are scored are then held out, or may be among the stored ones. The scale is learned for B - 1
    exemplars, and serves M.

    The stored examples are taken from those that training starts with, at most 1,024 (`store` takes others). They are saved
    with the model: do not share one of private data. Models with conditions cannot have this prior.

    Args:
        num_latents: D.
        data_shape: the shape of one example *S.
        num_exemplars: M, at most; fewer where there are fewer examples.
        dtype: `float32`, or `uint8` for data that are whole numbers up to 255, in a quarter of the room.

    Raises:
        ConfigError: for fewer than one latent or exemplar, an empty shape, or an unknown dtype; and when it is called without
            stored examples, without a model's posterior, or with a condition.
    """

    posterior: Callable[..., Distribution] | None = None
    made_of_posterior = True
    exemplars: Tensor
    num_stored: Tensor

    def __init__(self, num_latents: int, data_shape: Sequence[int], num_exemplars: int = 1000, dtype: str = "float32") -> None:
        super().__init__()
        if not data_shape or min(data_shape) < 1:
            raise ConfigError(f"`data_shape` must hold sizes of at least 1, got {tuple(data_shape)}. Give that of one example.")
        if num_exemplars < 1:
            raise ConfigError(f"`num_exemplars` must be at least 1, got {num_exemplars}. 1000 is a good start.")
        if dtype not in _DTYPES:
            raise ConfigError(f"`dtype` must be float32 or uint8, got {dtype!r}. Use `float32` when in doubt.")
        self.shape = (check_num_latents(num_latents),)
        self.raw_scale = nn.Parameter(torch.tensor(SOFTPLUS_ONE))
        self.register_buffer("exemplars", torch.zeros(num_exemplars, *data_shape, dtype=_DTYPES[dtype]))
        self.register_buffer("num_stored", torch.zeros((), dtype=torch.int64))
        self.num = 0  # as `num_stored`, which is saved; reading that one would wait for the device
        self.register_load_state_dict_post_hook(_count_anew)

    @property
    def scale(self) -> Tensor:
        """sigma."""
        return F.softplus(self.raw_scale) + 1e-4

    def bind(self, posterior: Callable[..., Distribution]) -> None:
        """Keeps the posterior."""
        self.keep(posterior)

    def forward(self, condition: Tensor | None = None, temperature: float = 1.0) -> NormalsOfOneScale:
        """The mixture about the stored examples, with its scale multiplied by the temperature."""
        self._check(condition)
        num = self.num
        if num == 0:
            raise ConfigError("An Exemplar prior must have stored examples, found none. Train it, or give some to `store`.")
        assert self.posterior is not None
        examples = self.exemplars[:num].to(self.raw_scale.dtype)
        means, _ = centre(self.posterior(examples, None, None))
        return NormalsOfOneScale(means.new_zeros(num), means, self.scale * temperature)

    def of_batch(self, q: Distribution, condition: Tensor | None = None) -> NormalsOfOneScale:
        """In training, for each of the B examples of a batch the mixture about the B - 1 others; else `forward`."""
        if not self.training or len(q.batch_shape) != 1 or q.batch_shape[0] < 2:
            return self(condition)
        self._check(condition)
        means, _ = centre(q)
        own = torch.eye(len(means), dtype=torch.bool, device=means.device)
        return NormalsOfOneScale(means.new_zeros(own.shape).masked_fill(own, -torch.inf), means, self.scale)

    def _check(self, condition: Tensor | None) -> None:
        if self.posterior is None:
            raise ConfigError("An Exemplar prior must have the posterior of a model, got none. Make it a part of a VAE.")
        if condition is not None:
            raise ConfigError("An Exemplar prior must have no condition, got one. Use `Vamp` in a conditional model.")

    @torch.no_grad()
    def store(self, x: Tensor) -> None:
        """Makes the first M of the examples x (N, *S) the exemplars."""
        num = min(len(self.exemplars), len(x))
        rows = x[:num]
        self.exemplars.zero_()
        self.exemplars[:num] = rows if self.exemplars.is_floating_point() else rows.round().clamp(0, 255).to(torch.uint8)
        self.num_stored.fill_(num)
        self.num = num

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Stores examples of the batch, those of which nothing is missing.

        Raises:
            ConfigError: if something is missing of every one.
        """
        if mask is not None:
            x = x[mask.expand(x.shape).flatten(1).all(1)]
        if len(x) == 0:
            raise ConfigError("An Exemplar prior must have examples without missing values, found none. Use `Vamp`.")
        self.store(x)
