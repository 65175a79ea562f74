"""How alike two images are to the eye: structural similarity, at one scale and at several.

With local means mu, variances s^2 and covariance s_xy of two images under a Gaussian window,

    l = (2 mu_x mu_y + c1) / (mu_x^2 + mu_y^2 + c1)     luminance
    c = (2 s_xy + c2) / (s_x^2 + s_y^2 + c2)            contrast and structure
    SSIM = mean of l c over all positions               MS-SSIM = (mean of l c)_M^w_M prod_(j < M) (mean of c)_j^w_j

where each scale j is half the size of the one before. 1 for equal images, near 0 for unrelated ones, and negative at most for
SSIM. Both are differentiable, and may serve as a loss or as a figure of merit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit.errors import ConfigError

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights w_j of five scales, the finest first, as fitted to people's judgement (Wang, Simoncelli, Bovik, 2003)."""

_K1, _K2 = 0.01, 0.03


def ssim(x: Tensor, y: Tensor, data_range: float = 1.0, window_size: int = 11, window_scale: float = 1.5) -> Tensor:
    """Structural similarity of pairs of images, averaged over channels and over the positions at which the window fits.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity" (2004).

    Args:
        x, y: (N, C, H, W).
        data_range: highest less lowest value that a pixel can have.
        window_size: of the Gaussian window, odd, no larger than the image.
        window_scale: standard deviation of the window, in pixels.

    Returns:
        (N,), at most 1.

    Raises:
        ConfigError: for images of different shapes or smaller than the window, a window that cannot be, or a range that is not
            above 0.

    Example:
        >>> x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ssim(x, x)
        tensor([1., 1.])
    """
    x, y = _prepare(x, y, data_range, window_size, window_scale)
    _check_scales(x, window_size, 1)
    luminance, structure = _maps(x, y, _window(x, window_size, window_scale))
    return (luminance * structure).mean((1, 2, 3))


def ms_ssim(
    x: Tensor,
    y: Tensor,
    data_range: float = 1.0,
    weights: Sequence[float] = SCALE_WEIGHTS,
    window_size: int = 11,
    window_scale: float = 1.5,
    floor: float = 0.0,
) -> Tensor:
    """Structural similarity at several scales, of pairs of images, averaged over channels.

    Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment" (2003). Halving is by the mean of
    2 x 2 pixels. A scale that is negative, which has no power, counts as `floor`.

    Args:
        x, y: (N, C, H, W), the smallest scale no smaller than the window; see `num_scales`.
        data_range: highest less lowest value that a pixel can have.
        weights: one a scale, the finest first.
        window_size: of the Gaussian window, odd.
        window_scale: standard deviation of the window, in pixels.
        floor: what a scale counts at least; above 0 in a loss, for otherwise one bad scale takes the gradient of all.

    Returns:
        (N,), at most 1.

    Raises:
        ConfigError: as `ssim`, and for images with fewer scales than weights.

    Example:
        >>> x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        >>> ms_ssim(x, x, weights=[0.5, 0.5])
        tensor([1., 1.])
    """
    x, y = _prepare(x, y, data_range, window_size, window_scale)
    _check_scales(x, window_size, len(weights))
    window = _window(x, window_size, window_scale)
    product = torch.ones_like(x[:, :, 0, 0])
    for scale, weight in enumerate(weights):
        luminance, structure = _maps(x, y, window)
        last = scale == len(weights) - 1
        product = product * _power((luminance * structure if last else structure).mean((2, 3)).clamp_min(floor), weight)
        if not last:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product.mean(1)


def num_scales(height: int, width: int, window_size: int = 11) -> int:
    """How many scales of an image, each half the size of the one before, the window fits into.

    Example:
        >>> num_scales(28, 28), num_scales(64, 48), num_scales(8, 8)
        (2, 3, 0)
    """
    ratio = min(height, width) // window_size
    return ratio.bit_length()


def _prepare(x: Tensor, y: Tensor, data_range: float, window_size: int, window_scale: float) -> tuple[Tensor, Tensor]:
    """Both images in units of the range, in float32 or better."""
    if x.shape != y.shape or x.dim() != 4:
        raise ConfigError(f"Images must both be (N, C, H, W), got {tuple(x.shape)} and {tuple(y.shape)}. Give them one shape.")
    if not 0 < data_range < math.inf:
        raise ConfigError(f"`data_range` must be > 0, got {data_range}. Give the highest less the lowest value of a pixel.")
    if window_size < 1 or window_size % 2 == 0 or not window_scale > 0:
        raise ConfigError(
            f"The window must have an odd size and a scale > 0, got {window_size} and {window_scale}. Use 11 and 1.5."
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype) / data_range, y.to(dtype) / data_range


def _check_scales(x: Tensor, window_size: int, wanted: int) -> None:
    height, width = x.shape[-2:]
    found = num_scales(height, width, window_size)
    if not 1 <= wanted <= found:
        raise ConfigError(
            f"Images must be large enough for {wanted} scales of a window of {window_size}, found {height} x {width}, which "
            f"has {found}. Use fewer `weights`, or a smaller `window_size`."
        )


def _window(like: Tensor, size: int, scale: float) -> Tensor:
    """(size,): a Gaussian with sum 1."""
    at = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2
    return torch.softmax(-0.5 * (at / scale).square(), dim=0)


def _maps(x: Tensor, y: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast with structure, at every position (N, C, H', W')."""
    with torch.autocast(x.device.type, enabled=False):  # variances are differences of large numbers
        mu_x, mu_y, xx, yy, xy = _local_mean(torch.stack([x, y, x * x, y * y, x * y]), window)
        luminance = (2 * mu_x * mu_y + _K1**2) / (mu_x.square() + mu_y.square() + _K1**2)
        variances = (xx - mu_x.square()) + (yy - mu_y.square())
        structure = (2 * (xy - mu_x * mu_y) + _K2**2) / (variances + _K2**2)
    return luminance, structure


def _local_mean(images: Tensor, window: Tensor) -> Tensor:
    """The mean of (..., H, W) under the window, wherever it fits."""
    flat = images.flatten(0, -3).unsqueeze(1)
    return (
        F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1)).unflatten(0, images.shape[:-2]).squeeze(3)
    )


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent where base > 0, else 0, with a finite gradient either way."""
    positive = base > 0
    return torch.where(positive, torch.where(positive, base, 1.0).pow(exponent), 0.0)
