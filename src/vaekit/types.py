"""The records and protocols that every tier shares.

Shape letters, used in every docstring:

    K  samples of the latent an example        B  examples in a batch       N  examples in a data set
    D  latent units                            L  latent levels             F  features
    C, H, W  channels, height, width           T  tokens                    V  vocabulary, or levels of a value
    *S  the shape of one example (C, H, W for images)                       *Z  the shape of one latent

The sample axis comes first: a latent is (K, B, *Z). Quantities are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.errors import ConfigError

Condition = Mapping[str, Tensor]
"""What a model is conditioned on: column name -> (B,) codes (int64, -1 where unknown) or numbers (NaN where unknown)."""


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; Apple's does not."""
    return device.type != "mps"


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """The same values on a device, in float32 if they are float64 and it has none; copies from pinned memory do not block."""
    known = values.float() if values.dtype == torch.float64 and not has_float64(device) else values
    return known.to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """B examples as they are stored, before any transform.

    Attributes:
        x: (B, *S) in the storage dtype.
        mask: (B, *S) bool, True where observed; None where everything is.
        columns: what lies beside the data, such as the label, each (B,); a model may be conditioned on some of it.
    """

    x: Tensor
    mask: Tensor | None = None
    columns: Condition | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; copies from pinned memory do not block. The cells of a table, which are float64,
        stay where they are if the device has none: the transform brings what it makes of them there."""

        where = torch.device(device)
        stays = self.x.dtype == torch.float64 and not has_float64(where)
        x = self.x if stays else on_device(self.x, where)
        columns = None if self.columns is None else {name: on_device(t, where) for name, t in self.columns.items()}
        return Batch(x, None if self.mask is None else on_device(self.mask, where), columns)


@dataclass(frozen=True)
class Latent:
    """One level of latents: a sample and where it came from. The densities at the sample are computed when first asked for.

    Attributes:
        z: (K, B, *Z), a sample of the posterior.
        posterior: q(z|x, c), batch shape (B,) or (K, B).
        prior: p(z|c), batch shape (), (B,) or (K, B).
    """

    z: Tensor
    posterior: Distribution
    prior: Distribution

    @cached_property
    def log_q(self) -> Tensor:
        """(K, B): log q(z|x, c) at the sample."""
        return self.posterior.log_prob(self.z)

    @cached_property
    def log_p(self) -> Tensor:
        """(K, B): log p(z|c) at the sample."""
        return self.prior.log_prob(self.z)

    @property
    def posterior_mean(self) -> Tensor:
        """(B, *Z): E_q[z], over the K samples of the levels above where q depends on them."""
        try:
            mean = self.posterior.mean
        except NotImplementedError:
            mean = self.z
        return mean.mean(0) if mean.dim() == self.z.dim() else mean


@dataclass(frozen=True)
class Partners:
    """Where another example stands beside each of a batch, such as one of its nearest neighbours.

    Attributes:
        mean: (B, D), E_q[z|x', c'] of the other example, as `Trace.posterior_mean` has that of the first.
        weight: (B,), how much each pair counts; its mean over the data set is 1.
    """

    mean: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Columns:
    """The columns that a model is conditioned on, and what inference can say of those that are not known.

    Attributes:
        given: each column (B,), as it came: codes, -1 where unknown, or numbers, NaN where unknown.
        infer: the trace of the same examples under other columns, each (M B,): the batch M times over, one after another.
            Nothing that is given is made unknown.
        read: log q(c|x) of each categorical column of a classifier, (B, C); None where the model has none.
    """

    given: Condition
    infer: Callable[[Condition], Trace]
    read: Callable[[], Mapping[str, Tensor]] | None = None


@dataclass(frozen=True)
class Trace:
    """All that inference leaves behind, and all that an objective may read.

    Attributes:
        x: (B, *S), the data as the likelihood saw it.
        likelihood: p(x|z, c), batch shape (K, B).
        log_likelihood: (K, B), log p(x|z, c) over the observed elements.
        latents: one record a level, the level that is sampled first at index 0.
        mask: (B, *S) bool, True where observed, or None.
        condition: the encoded condition (B, F), or None.
        decode: p(x|z, c) at other latents, one tensor (K, B, *Z) a level; None where inference brought none.
        num_data: N, how many examples the data set has; None where it is not known.
        partners: a neighbour of each example, drawn for an objective that asks for them; None otherwise.
        columns: what the model is conditioned on; None where it is on nothing.
    """

    x: Tensor
    likelihood: Distribution
    log_likelihood: Tensor
    latents: tuple[Latent, ...]
    mask: Tensor | None = None
    condition: Tensor | None = None
    decode: Callable[..., Distribution] | None = None
    num_data: int | None = None
    partners: Partners | None = None
    columns: Columns | None = None

    @property
    def posterior_mean(self) -> Tensor:
        """(B, D): E_q[z] of every level, flattened and side by side; the mean of the K samples where it has no closed form."""
        return torch.cat([latent.posterior_mean.flatten(1) for latent in self.latents], dim=1)

    @property
    def log_weights(self) -> Tensor:
        """(K, B): log p(x|z, c) + sum over levels of log p(z|c) - log q(z|x, c)."""
        log_weights = self.log_likelihood
        for latent in self.latents:
            log_weights = log_weights + latent.log_p - latent.log_q
        return log_weights


@runtime_checkable
class Network(Protocol):
    """What a prior, posterior or likelihood asks of the network it is given.

    A network maps its input to features of `out_shape`, and makes the last layer that turns those features
    into the parameters of a family, so that families know nothing of layers and networks nothing of families.
    """

    out_shape: tuple[int, ...]

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> torch.nn.Module:
        """A layer from features (..., *out_shape) to parameters (..., num_parameters, *event_shape)."""
        ...

    def __call__(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Features (..., *out_shape) of an input (..., *in_shape)."""
        ...


def as_network(network: object, owner: str) -> Network:
    """The same object, if it is a network.

    Raises:
        ConfigError: if it lacks what a family asks of its network; `owner` is the family's name.
    """
    if not isinstance(network, Network):
        raise ConfigError(
            f"The `network` of a {owner} must be a network, with `out_shape` and `make_head`, got a {type(network).__name__}. "
            "Use one of vaekit.networks, such as MLP."
        )
    return network


Json = dict[str, Any]
