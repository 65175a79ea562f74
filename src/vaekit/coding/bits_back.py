"""Bits-back coding of examples by a flat VAE in fixed point."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vaekit.coding.ans import LaneCoder
from vaekit.coding.exact import ExactNetwork, convert
from vaekit.coding.tables import BernoulliTable, NormalTable
from vaekit.distributions.scales import SOFTPLUS_ONE
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

Ints = NDArray[np.int64]

_OUTPUT_BITS = 16
_RAW_BITS = 8  # of the argument of the scale
_RAW_REACH = 32 << _RAW_BITS


@dataclasses.dataclass(frozen=True)
class BitsBack:
    """A VAE with prior N(0, I), diagonal normal posterior and Bernoulli likelihood, that codes binary examples.

    A batch x is put on the stack in three steps: pop z ~ q(z|x), push x under p(x|z), push z under p(z), at a net cost of
    -log p(x|z) - log p(z) + log q(z|x): the ELBO. Townsend, Bird, Barber, "Practical lossless compression with latent
    variables using bits back coding" (2019). z is the number of a cell among 2^n cells of equal prior mass.

    Args:
        encoder: x to means and raw scales.
        decoder: medians of cells to logits.
        log_scales: the log-scale's place on the table's grid, by the raw scale.
        normal, bernoulli: tables.
        batch_size: examples that are coded together; it is part of the format.
    """

    encoder: ExactNetwork
    decoder: ExactNetwork
    log_scales: Ints
    normal: NormalTable
    bernoulli: BernoulliTable
    batch_size: int = 64

    @classmethod
    def of(cls, model: VAE, batch_size: int = 64, cell_bits: int = 12) -> BitsBack:
        """The exact form of a trained model.

        Raises:
            ConfigError: for other parts than those named above, or networks that have no exact form.
        """
        prior, posterior, likelihood = model.prior, model.posterior, model.likelihood
        kinds = (type(prior), type(posterior), type(likelihood))
        if kinds != (StandardNormal, DiagonalNormal, Bernoulli):
            raise ConfigError(
                "Exact coding takes a StandardNormal prior, a DiagonalNormal posterior and a Bernoulli likelihood, got "
                f"{', '.join(kind.__name__ for kind in kinds)}. Train such a model."
            )
        posterior, likelihood = cast(DiagonalNormal, posterior), cast(Bernoulli, likelihood)
        normal = NormalTable.build(cell_bits)
        limit = int(np.abs(normal.centres).max())
        encoder = convert(cast(MLP, posterior.network), posterior.head, 1, output_bits=_OUTPUT_BITS)
        decoder = convert(cast(MLP, likelihood.network), likelihood.head, limit, normal.grid_bits, _OUTPUT_BITS)
        raw = (np.arange(-_RAW_REACH, _RAW_REACH + 1) + 0.5) / (1 << _RAW_BITS)
        scale = np.log1p(np.exp(raw + SOFTPLUS_ONE)) + 1e-4
        places = np.rint(np.log(scale) * (1 << normal.log_grid_bits)).astype(np.int64)
        return cls(encoder, decoder, places, normal, BernoulliTable.build(), batch_size)

    def compress(self, x: NDArray[np.integer], num_lanes: int = 64) -> bytes:
        """Examples (N, P) of zeros and ones to a message.

        Raises:
            ConfigError: for other values.
        """
        return self.encode(x, LaneCoder(num_lanes)).to_bytes()

    def decompress(self, message: bytes, count: int, num_lanes: int = 64) -> NDArray[np.uint8]:
        """The examples (count, P) of a message.

        Raises:
            ArchiveError: for a message that is damaged, where it shows.
        """
        return self.decode(LaneCoder.from_bytes(message, num_lanes), count)

    def encode(self, x: NDArray[np.integer], coder: LaneCoder) -> LaneCoder:
        """Puts examples (N, P) on a stack, which it returns.

        Raises:
            ConfigError: for values other than 0 and 1, or examples of another size.
        """
        size = self.encoder.layers[0].weight.shape[1]
        if x.ndim != 2 or x.shape[1] != size or (x.size and not np.isin(x, (0, 1)).all()):
            raise ConfigError(f"Examples must be (N, {size}) of 0 and 1, got {x.shape}. Binarise and flatten them first.")
        for i in range(0, len(x), self.batch_size):
            batch = x[i : i + self.batch_size].astype(np.int64)
            mean, log_scale = self._posterior(batch)
            z = coder.pop(lambda slot, k: self.normal.find(slot, mean[k], log_scale[k]), len(mean), self.normal.precision)  # noqa: B023
            logits = self._logits(z, len(batch))
            coder.push(*self.bernoulli.intervals(batch.ravel(), logits), self.bernoulli.precision)
            coder.push(z, np.ones_like(z), self.normal.cell_bits)
        return coder

    def decode(self, coder: LaneCoder, count: int) -> NDArray[np.uint8]:
        """Takes (count, P) examples off a stack, the last first; they come back in the order of `encode`."""
        size, num_latents = self.encoder.layers[0].weight.shape[1], self.decoder.layers[0].weight.shape[1]
        x = np.zeros((count, size), dtype=np.uint8)
        for i in reversed(range(0, count, self.batch_size)):
            n = min(self.batch_size, count - i)
            z = coder.pop(lambda slot, _: (slot, slot, np.ones_like(slot)), n * num_latents, self.normal.cell_bits)
            logits = self._logits(z, n)
            flat = coder.pop(lambda slot, k: self.bernoulli.find(slot, logits[k]), n * size, self.bernoulli.precision)  # noqa: B023
            batch = flat.reshape(n, size)
            mean, log_scale = self._posterior(batch)
            coder.push(*self.normal.intervals(z, mean, log_scale), self.normal.precision)
            x[i : i + n] = batch
        return x

    def _posterior(self, x: Ints) -> tuple[Ints, Ints]:
        mean, raw = np.split(self.encoder(x), 2, axis=1)
        at = (raw >> (_OUTPUT_BITS - _RAW_BITS)).clip(-_RAW_REACH, _RAW_REACH) + _RAW_REACH
        return mean.ravel(), self.log_scales[at].ravel()

    def _logits(self, z: Ints, n: int) -> Ints:
        centres = self.normal.centres[z].reshape(n, self.decoder.layers[0].weight.shape[1])
        return self.decoder(centres).ravel() >> (_OUTPUT_BITS - 6)
