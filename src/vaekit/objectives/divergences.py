"""Objectives that compare the aggregate posterior with the prior by their samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.errors import ConfigError
from vaekit.objectives.base import Bound, Objective, bound_of, one_level, rate
from vaekit.types import Latent, Trace

_KERNELS = ("inverse_multiquadratic", "rbf")
_LADDER = "Use `objectives.ELBO` for a ladder, or put the levels into one joint latent with `posteriors.Chain`."
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Multiples of the expected squared distance that kernels are summed over."""


def maximum_mean_discrepancy(
    x: Tensor, y: Tensor, kernel: str = "inverse_multiquadratic", scales: Sequence[float] = SCALES
) -> Tensor:
    """MMD^2 = E k(x, x') - 2 E k(x, y) + E k(y, y'), estimated without bias; it may be below 0.

    The kernel is a sum over scales s, with C = 2 D s, where 2 D is the expected squared distance of two draws of N(0, I):

        inverse_multiquadratic    k(x, y) = C / (C + |x - y|^2)
        rbf                       k(x, y) = exp(-|x - y|^2 / C)

    Gretton et al., "A kernel two-sample test" (2012), the unbiased statistic: no point is compared with itself.

    Args:
        x: (..., n, D), points of one distribution; independent along n.
        y: (..., m, D), points of the other.
        kernel: `inverse_multiquadratic` or `rbf`.
        scales: s, each > 0.

    Returns:
        (...): one number for each set of points; 0 where a set has fewer than two points, which say nothing.

    Raises:
        ConfigError: for an unknown kernel, no scale, or one that is not above 0.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
        >>> round(maximum_mean_discrepancy(x, y, kernel="rbf", scales=[0.5]).item(), 4)  # k = exp(-(x - y)^2)
        -0.4908
    """
    _check_kernel(kernel, scales)
    n, m = x.shape[-2], y.shape[-2]
    if n < 2 or m < 2:
        return x.new_zeros(x.shape[:-2])
    with torch.autocast(x.device.type, enabled=False):
        within_x = _kernel_sums(x, x, kernel, scales, diagonal=False) / (n * (n - 1))
        within_y = _kernel_sums(y, y, kernel, scales, diagonal=False) / (m * (m - 1))
        return within_x + within_y - 2 * _kernel_sums(x, y, kernel, scales, diagonal=True) / (n * m)


class InfoVAE(Objective):
    """loss = distortion + (1 - alpha) rate + (alpha + lambda - 1) MMD^2(q(z), p(z)).

    The rate asks each posterior to be near the prior, which costs information; the MMD asks it of their aggregate q(z) alone.
    alpha = 0 with lambda = 1 is the ELBO, alpha = 1 is the MMD-VAE, which has no rate at all. An MMD^2 with these kernels is
    at most 2 for each scale while a distortion may be hundreds of nats, so lambda is large: 100 is a start.

    Zhao, Song, Ermon, "InfoVAE: balancing learning and inference in variational autoencoders" (2019).

    Args:
        alpha: at most 1; the share of the rate that is taken away.
        lambda_: weight of the aggregate, with alpha + lambda_ >= 1.
        kernel: `rbf` or `inverse_multiquadratic`, see `maximum_mean_discrepancy`.
        scales: of the kernel, which is summed over them.

    Raises:
        ConfigError: for arguments out of range; when called, for several levels.

    Example:
        >>> InfoVAE(alpha=1.0, lambda_=500.0).spec()["kernel"]
        'rbf'
    """

    def __init__(
        self, alpha: float = 1.0, lambda_: float = 100.0, kernel: str = "rbf", scales: Sequence[float] = (1.0,)
    ) -> None:
        super().__init__()
        if not alpha <= 1:
            raise ConfigError(f"`alpha` must be at most 1, got {alpha}. Use 1 to drop the rate, 0 to keep all of it.")
        if not alpha + lambda_ >= 1:
            raise ConfigError(
                f"`alpha` + `lambda_` must be at least 1, got {alpha} and {lambda_}: less 1 it is the weight of the MMD. "
                "Raise `lambda_`."
            )
        _check_kernel(kernel, scales)
        self.alpha, self.lambda_, self.kernel, self.scales = alpha, lambda_, kernel, tuple(scales)

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The distortion, the rate and the discrepancy, weighted; the term `mmd` is the discrepancy itself."""
        mmd, rates = _aggregate_discrepancy(one_level(trace, "InfoVAE", _LADDER), self.kernel, self.scales), rate(trace)
        loss = -trace.log_likelihood.mean() + (self.alpha + self.lambda_ - 1) * mmd
        if self.alpha != 1:
            loss = loss + (1 - self.alpha) * rates.mean()
        return bound_of(trace, loss, rates, mmd=mmd)


class WAE(Objective):
    """loss = distortion + lambda MMD^2(q(z), p(z)), the Wasserstein autoencoder with the MMD penalty.

    The transport cost c(x, G(z)) is the distortion: with `likelihoods.Normal` of a fixed scale s it is the squared error over
    2 s^2, and a constant. The rate is no part of the loss, so the encoder may be deterministic (`posteriors.Deterministic`), as
    in the paper, or of any family with reparameterised samples: a random one may shrink to a point. Of a deterministic encoder
    `rate` and `elbo` are no bounds, for its KL is infinite.

    Tolstikhin, Bousquet, Gelly, Schoelkopf, "Wasserstein auto-encoders" (2018), algorithm 2; its kernel is the inverse
    multiquadratic, and the seven scales are those of the authors' program.

    Args:
        lambda_: weight of the discrepancy, >= 0.
        kernel: `inverse_multiquadratic` or `rbf`, see `maximum_mean_discrepancy`.
        scales: of the kernel, which is summed over them.

    Raises:
        ConfigError: for arguments out of range; when called, for several levels.

    Example:
        >>> WAE(lambda_=100.0).spec()["kernel"]
        'inverse_multiquadratic'
    """

    def __init__(self, lambda_: float = 10.0, kernel: str = "inverse_multiquadratic", scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        if not lambda_ >= 0:
            raise ConfigError(f"`lambda_` must be >= 0, got {lambda_}. Use 0 for a plain autoencoder.")
        _check_kernel(kernel, scales)
        self.lambda_, self.kernel, self.scales = lambda_, kernel, tuple(scales)

    def forward(self, trace: Trace, step: int | None = None) -> Bound:
        """The distortion and the weighted discrepancy; the term `mmd` is the discrepancy itself."""
        mmd = _aggregate_discrepancy(one_level(trace, "WAE", _LADDER), self.kernel, self.scales)
        return bound_of(trace, -trace.log_likelihood.mean() + self.lambda_ * mmd, rate(trace), mmd=mmd)


def _aggregate_discrepancy(latent: Latent, kernel: str, scales: Sequence[float]) -> Tensor:
    """Scalar: MMD^2 of B samples of q(z) against as many of the prior, the mean over the K draws of both.

    Samples of one example are not independent, so each of the K draws is compared by itself. A prior without
    reparameterised samples, such as a mixture, gets no gradient from this.
    """
    prior, shape = latent.prior, latent.z.shape[:1] if latent.prior.batch_shape else latent.z.shape[:2]
    drawn = prior.rsample(shape) if prior.has_rsample else prior.sample(shape)
    return maximum_mean_discrepancy(latent.z.flatten(2), drawn.flatten(2), kernel, scales).mean()


def _kernel_sums(x: Tensor, y: Tensor, kernel: str, scales: Sequence[float], *, diagonal: bool) -> Tensor:
    """(...): sum_ij k(x_i, y_j) of x (..., n, D) and y (..., m, D), without i = j unless `diagonal`."""
    products = x @ y.transpose(-1, -2)
    distances = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2) - 2 * products
    distances = distances.clamp_min(0)  # rounding may take the least of them below
    similarities = torch.zeros_like(distances)
    for scale in scales:
        width = 2 * x.shape[-1] * scale
        similarities = similarities + (width / (width + distances) if kernel != "rbf" else torch.exp(-distances / width))
    if not diagonal:
        similarities = similarities - torch.diag_embed(similarities.diagonal(dim1=-2, dim2=-1))
    return similarities.sum((-2, -1))


def _check_kernel(kernel: str, scales: Sequence[float]) -> None:
    if kernel not in _KERNELS:
        raise ConfigError(f"`kernel` must be inverse_multiquadratic or rbf, got {kernel!r}. Use `inverse_multiquadratic`.")
    if not scales or not all(scale > 0 for scale in scales):
        raise ConfigError(f"`scales` must be numbers > 0, at least one, got {list(scales)}. Use `[1.0]` for one kernel.")
