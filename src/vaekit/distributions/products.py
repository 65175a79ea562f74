"""Products over elements, with masks: elements that are missing are integrated out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal
from torch.distributions import Independent as TorchIndependent


class MaskableDistribution(Distribution):
    """A distribution over data whose elements can be integrated out."""

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(*batch): log p of the elements of `value` where `mask` is True; of all of them where it is None."""
        raise NotImplementedError


class Independent(TorchIndependent, MaskableDistribution):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A product over event dimensions: log p(x) = sum_i m_i log p_i(x_i), with m_i = 1 where x_i is observed.

    Elements of a product are independent, so leaving a term out is integrating that element out exactly.

    Example:
        >>> d = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
        >>> round(d.log_prob(torch.zeros(3), mask=torch.tensor([True, False, True])).item(), 4)
        -1.8379
    """

    def log_prob(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(*batch): the log-density of the observed elements of `value` (*batch, *event).

        Args:
            value: (*batch, *event); what stands at a missing element is not read, NaN included.
            mask: broadcasts to (*batch, *event), True where observed.
        """
        if not value.is_floating_point() and not isinstance(self.base_dist, Categorical):
            value = value.to(self.base_dist.mean.dtype)
        if mask is None:
            return super().log_prob(value)
        safe = torch.where(mask, value, self.base_dist.mean.detach()) if value.is_floating_point() else value
        terms = torch.where(mask, self.base_dist.log_prob(safe), 0.0)
        return terms.sum(dim=tuple(range(-self.reinterpreted_batch_ndims, 0)))


def diagonal_normal(mean: Tensor, scale: Tensor, event_dims: int = 1) -> Independent:
    """N(mean, diag(scale^2)) whose last `event_dims` dimensions are one event; `scale` is a standard deviation."""
    return Independent(Normal(mean, scale, validate_args=False), event_dims, validate_args=False)


def mixture_of_normals(logits: Tensor, mean: Tensor, scale: Tensor) -> MixtureSameFamily:
    """sum_m softmax(logits)_m N(mean_m, diag(scale_m^2)): logits (*batch, M), mean and scale (*batch, M, D)."""
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), diagonal_normal(mean, scale), validate_args=False)
