"""The bound on log p(x) of rows, each of which has the same score in any company."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.quasirandom import SobolEngine

from vaekit.component import device_of
from vaekit.data.dataset import Dataset
from vaekit.inference import prepare
from vaekit.jobs.blocks import in_blocks
from vaekit.model import Model
from vaekit.vae import VAE

_BLOCK_ROWS = 2048
"""Latents that are decoded at once, of as many rows as have so many samples."""

_TINY = 1e-12


def fixed_noise(num_samples: int, num_latents: int, seed: int = 0) -> Tensor:
    """(K, 1, D): points of N(0, I) that fill it evenly, by a scrambled Sobol sequence; one point is the centre.

    Owen, "Quasi-Monte Carlo sampling" (2003). The same points serve every row, so that a row's score is a function of the row.

    Args:
        num_samples: K.
        num_latents: D.
        seed: of the scrambling.
    """
    if num_samples == 1:
        return torch.zeros(1, 1, num_latents)
    points = SobolEngine(num_latents, scramble=True, seed=seed).draw(num_samples, dtype=torch.float64)
    return torch.special.ndtri(points.clamp(1e-6, 1 - 1e-6)).float().unsqueeze(1)


@torch.inference_mode()
def weighted(
    model: Model, dataset: Dataset, num_samples: int, fill: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """The K-sample bound on log p of what is observed of each row, and the expectation of each of its cells.

        log 1/K sum_k w_k,   w_k = p(x|z_k) p(z_k) / q(z_k|x),   z_k = mean + scale * e_k
        E[x_i|x] = sum_k w_k E[x_i|z_k] / sum_k w_k

    with points e_k of N(0, I) that are the same for all rows (`fixed_noise`). For the bound: Burda, Grosse, Salakhutdinov,
    "Importance weighted autoencoders" (2016), equation 8; for the expectation: Mattei, Frellsen, "MIWAE" (2019), section 2.3.
    Departure: both draw anew for every row.

    Args:
        model: of vectors.
        dataset: N rows that fit it.
        num_samples: K.
        fill: whether the expectations are wanted.
        seed: of the noise.

    Returns:
        The bound (N,), in nats, a density of the data in their own units where the likelihood has one; and (N, D) float64 in
        the data's units, or None.
    """
    bundle = model.bundle
    device = device_of(bundle.vae)
    noise = fixed_noise(num_samples, bundle.vae.num_latents, seed).to(device)

    def block(x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        mean, scale = bundle.vae.encode_flat(x, mask=mask)
        z = mean + scale * noise
        p = bundle.vae.decode_flat(z)
        log_q = Normal(mean, scale, validate_args=False).log_prob(z).sum(-1)
        log_p = _log_prior(bundle.vae, z)
        log_weights = _log_likelihood(p, x, mask) + log_p - log_q
        bound = torch.logsumexp(log_weights.double(), 0) - math.log(num_samples)
        if not fill:
            return (bound,)
        share = log_weights.double().softmax(0).unsqueeze(-1)
        return bound, bundle.transform.inverse((share * p.mean.double()).sum(0))

    batch = dataset.batch(np.arange(len(dataset)))
    inputs = prepare(bundle, batch, expected=True)
    found = in_blocks(block, [inputs.x, inputs.mask], max(1, _BLOCK_ROWS // num_samples))
    log_abs_det = bundle.transform.log_abs_det(batch.x, batch.mask).numpy()
    return found[0].cpu().numpy() + log_abs_det, found[1].cpu().numpy() if fill else None


def _log_likelihood(p: torch.distributions.Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """(K, B)."""
    return p.log_prob(x) if mask is None else p.log_prob(x, mask)  # pyright: ignore[reportCallIssue]


def _log_prior(vae: object, z: Tensor) -> Tensor:
    """(K, B): log p(z); that of the standardised latents of a ladder is N(0, I)."""
    if not isinstance(vae, VAE):
        return Independent(Normal(torch.zeros_like(z), 1.0, validate_args=False), 1, validate_args=False).log_prob(z)
    return vae.prior(None).log_prob(z.unflatten(-1, tuple(vae.prior.shape)))


@dataclass(frozen=True)
class Aggregate:
    """The mixture of the posteriors of N rows, q(z) = 1/N sum_n N(z; mean_n, scale_n^2), as what its density needs.

    Attributes:
        centre: (D,), their mean, which is taken away before anything is squared.
        weighted: (N, D), (mean_n - centre) / scale_n^2.
        precision: (N, D), 1 / scale_n^2.
        constant: (N,), the rest of each log-density, and log N.
    """

    centre: Tensor
    weighted: Tensor
    precision: Tensor
    constant: Tensor

    @classmethod
    def of(cls, mean: np.ndarray, scale: np.ndarray, device: torch.device) -> Aggregate:
        """Of posteriors, each (N, D)."""
        mean_, scale_ = (torch.from_numpy(part).double().to(device) for part in (mean, scale))
        centre, precision = mean_.mean(0), scale_.square().reciprocal()
        weighted = (mean_ - centre) * precision
        constant = 0.5 * ((mean_ - centre) * weighted).sum(1) + scale_.log().sum(1)
        constant = constant + 0.5 * mean_.shape[1] * math.log(2 * math.pi) + math.log(len(mean_))
        return cls(centre, weighted, precision, constant)

    def log_prob(self, z: Tensor) -> Tensor:
        """(...): log q(z) of latents (..., D)."""
        z = z.double() - self.centre
        terms = F.linear(z, self.weighted) - 0.5 * F.linear(z.square(), self.precision) - self.constant
        return torch.logsumexp(terms, dim=-1)


@torch.inference_mode()
def strangeness(model: Model, dataset: Dataset, aggregate: Aggregate, num_samples: int) -> np.ndarray:
    """Two measures of how strange each row is, (N, 2) float64.

        log |x - E p(x|z)|^2 at z = E q(z|x),   -E_q [ log p(x|z) + log q(z) - log q(z|x) ]

    in the units that the model works in. q(z) is the aggregate posterior, which is the prior under which the bound is the
    greatest: Hoffman, Johnson, "ELBO surgery" (2016); it has no mass where the standard normal prior has some and no row is.

    Args:
        model: of vectors.
        dataset: N rows that fit it.
        aggregate: of the rows that it was trained on.
        num_samples: K.
    """
    bundle = model.bundle
    noise = fixed_noise(num_samples, bundle.vae.num_latents).to(device_of(bundle.vae))

    def block(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, scale = bundle.vae.encode_flat(x, mask=mask)
        z = mean + scale * noise
        log_q = Normal(mean, scale, validate_args=False).log_prob(z).double().sum(-1)
        rate = (log_q - aggregate.log_prob(z)).mean(0)
        distortion = -_log_likelihood(bundle.vae.decode_flat(z), x, mask).double().mean(0)
        residual = x - bundle.vae.decode_flat(mean[None]).mean[0]
        return residual.double().square().sum(-1), rate + distortion

    inputs = prepare(bundle, dataset.batch(np.arange(len(dataset))), expected=True)
    length, bound = in_blocks(block, [inputs.x, inputs.mask], max(1, _BLOCK_ROWS // num_samples))
    return torch.stack([length.clamp_min(_TINY).log(), bound], dim=1).cpu().numpy()
