"""The sliced Wasserstein distance between the aggregate posterior and the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, one_level, rate
from vaekit.types import Trace


def sliced_wasserstein(x: Tensor, y: Tensor, num_slices: int = 50) -> Tensor:
    """The mean over random directions w of W_2^2 between the points of x and of y along w, times D.

        D / S sum_s 1/n sum_i (sort(x w_s)_i - sort(y w_s)_i)^2,   w_s uniform on the sphere

    D makes it the squared distance of the points for a shift: E |<w, t>|^2 = |t|^2 / D.
    Bonneel, Rabin, Peyre, Pfister, "Sliced and Radon Wasserstein barycenters of measures" (2015).

    Args:
        x, y: (..., n, D), as many points of each.
        num_slices: S.

    Returns:
        (...): one number for each set of points.

    Example:
        >>> x = torch.randn(100, 3)
        >>> sliced_wasserstein(x, x).item()
        0.0
    """
    with torch.autocast(x.device.type, enabled=False):  # a reduced precision would drown the distance of close sets
        directions = torch.randn(x.shape[-1], num_slices, dtype=x.dtype, device=x.device)
        directions = directions / directions.norm(dim=0).clamp_min(1e-12)
        along_x, along_y = (x @ directions).sort(dim=-2).values, (y @ directions).sort(dim=-2).values
        return (along_x - along_y).square().mean((-2, -1)) * x.shape[-1]


class SlicedWAE(Objective):
    """loss = distortion + lambda SW^2(q(z), p(z)): the aggregate posterior is drawn to the prior, direction by direction.

    The rate is no part of the loss, so the encoder may be deterministic (`posteriors.Deterministic`), and the prior anything
    that can be sampled. Kolouri, Pope, Martin, Rohde, "Sliced-Wasserstein autoencoder" (2018), equation 12.

    Args:
        lambda_: weight of the distance, >= 0.
        num_slices: directions a step.

    Raises:
        ConfigError: for arguments out of range; when called, for several levels.

    Example:
        >>> SlicedWAE(lambda_=10.0).spec()["num_slices"]
        50
    """

    def __init__(self, lambda_: float = 10.0, num_slices: int = 50) -> None:
        super().__init__()
        if not lambda_ >= 0 or num_slices < 1:
            raise ConfigError(
                f"`lambda_` must be >= 0 and `num_slices` at least 1, got {lambda_} and {num_slices}. Use 50 directions."
            )
        self.lambda_, self.num_slices = lambda_, num_slices

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The distortion and the weighted distance; the term `sliced_wasserstein` is the distance itself."""
        latent = one_level(trace, "SlicedWAE", "Use `objectives.ELBO` for a ladder.")
        prior, shape = latent.prior, latent.z.shape[:1] if latent.prior.batch_shape else latent.z.shape[:2]
        drawn = prior.rsample(shape) if prior.has_rsample else prior.sample(shape)
        distance = sliced_wasserstein(latent.z.flatten(2), drawn.flatten(2), self.num_slices).mean()
        loss = -trace.log_likelihood.mean() + self.lambda_ * distance
        return bound_of(trace, loss, rate(trace), sliced_wasserstein=distance)
