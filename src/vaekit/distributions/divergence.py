"""What compares two distributions, or takes one apart."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal, Transform
from torch.distributions import Independent as TorchIndependent
from torch.distributions.kl import kl_divergence, register_kl

from vaekit.distributions.products import Independent


@register_kl(MultivariateNormal, Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    """KL of a full-covariance normal to a diagonal one, without a factorisation of p's covariance."""
    if not isinstance(p.base_dist, Normal):
        raise NotImplementedError
    precision = p.base_dist.scale.square().reciprocal()
    trace = (q.scale_tril.square().sum(-1) * precision).sum(-1)
    shift = ((q.loc - p.base_dist.loc).square() * precision).sum(-1)
    log_det_p = 2.0 * p.base_dist.scale.log().sum(-1)
    log_det_q = 2.0 * q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (trace + shift - q.loc.shape[-1] + log_det_p - log_det_q)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p), one number an example, or None where no closed form is known.

    Example:
        >>> import torch
        >>> from vaekit.distributions import diagonal_normal
        >>> q, p = diagonal_normal(torch.ones(2), torch.ones(2)), diagonal_normal(torch.zeros(2), torch.ones(2))
        >>> closed_form_kl(q, p)
        tensor(1.)
    """
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def unit_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q_d || p_d) of every unit, (*batch, *Z), where both are products over units; else None.

    A unit is one number, so the factors of both products must be distributions over single numbers: a product of, say,
    two-dimensional normals has no KL of each unit, and gives None.

    Example:
        >>> import torch
        >>> from vaekit.distributions import diagonal_normal
        >>> q, p = diagonal_normal(torch.tensor([0.0, 2.0]), torch.ones(2)), diagonal_normal(torch.zeros(2), torch.ones(2))
        >>> unit_kl(q, p)
        tensor([0., 2.])
    """
    if not (isinstance(q, TorchIndependent) and isinstance(p, TorchIndependent)) or q.event_shape != p.event_shape:
        return None
    if q.base_dist.event_shape or p.base_dist.event_shape:
        return None
    return closed_form_kl(q.base_dist, p.base_dist)


def stopped(distribution: Distribution) -> Distribution:
    """The same distribution with parameters that no gradient reaches; gradients through a value stay.

    A distribution that holds networks has a method `stopped()` of its own; of others, every tensor is detached.

    Example:
        >>> import torch
        >>> mean = torch.zeros(2, requires_grad=True)
        >>> z = torch.ones(2, requires_grad=True)
        >>> from vaekit.distributions import diagonal_normal
        >>> stopped(diagonal_normal(mean, torch.ones(2))).log_prob(z).backward()
        >>> mean.grad, z.grad
        (None, tensor([-1., -1.]))
    """
    own = getattr(distribution, "stopped", None)
    return _detached(distribution) if own is None else own()


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Distribution) and hasattr(value, "stopped"):
        return stopped(value)
    if isinstance(value, Distribution | Transform):
        twin = copy.copy(value)
        twin.__dict__.update({name: _detached(held) for name, held in value.__dict__.items()})
        if isinstance(twin, Transform):
            twin._cached_x_y = None, None  # the inverse of a cached sample would go round that sample
        return twin
    if isinstance(value, list | tuple) and value and isinstance(value[0], Distribution | Transform):
        return type(value)(_detached(held) for held in value)
    return value


def measures(distribution: Distribution) -> frozenset[str]:
    """What `log_prob` is at a sample of each of the distribution's parts.

        density    of samples that are drawn with a gradient, as of a normal
        mass       of a point, or of codes: nothing flows through the draw but what is sent straight through it
        relaxed    neither: samples lie between codes, and what is said of them is of the codes

    A distribution that is none of the first has a method `measures()` of its own, and so has one that is made of several.

    Example:
        >>> import torch
        >>> from vaekit.distributions import diagonal_normal
        >>> sorted(measures(diagonal_normal(torch.zeros(2), torch.ones(2))))
        ['density']
    """
    own = getattr(distribution, "measures", None)
    return frozenset({"density"}) if own is None else own()


def centre(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (*batch, *event), with nothing drawn.

    A distribution without closed moments has a method `centre()` of its own, which says what it gives in their place.
    """
    own = getattr(distribution, "centre", None)
    return (distribution.mean, distribution.variance.sqrt()) if own is None else own()
