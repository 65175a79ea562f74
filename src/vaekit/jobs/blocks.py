"""Rows through a network in blocks of one size, so that no row's result depends on the others.

The last bits of a matrix product or a convolution depend on how many rows it has, so every block is padded to one size.
They also depend on where in memory a row begins, for narrow layers whose rows are no whole number of vectors: MKL's
kernels for at most 10 outputs do, where the inputs are no multiple of 4. There the inputs are padded with zeros. What is
left depends on nothing but the row: encodings, reconstructions and decodings are the same, to the last bit, one by one, in
any company and in any order (on one machine, with one number of threads).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from vaekit.component import device_of, full_precision
from vaekit.data.dataset import Dataset, to_source
from vaekit.data.schema import Schema
from vaekit.data.text.batches import trimmed
from vaekit.distributions import Cells
from vaekit.distributions.sequence import Decoding, TokenSequence
from vaekit.errors import ConfigError
from vaekit.inference import Progress, prepare
from vaekit.storage import Bundle

BLOCK = 256
"""Rows a block, for examples of up to 2^14 values; larger examples take fewer (see `block_size`)."""

_TEXTS = 64
"""Rows a block of text, of which each step of a decoder is computed for all, however few are asked for."""

DRAWS = ("auto", "mean", "sample")


def block_size(schema: Schema) -> int:
    """How many rows a block has: a function of the schema alone, so that it never changes for a model."""
    if schema.kind == "text":
        return _TEXTS
    fits = 2**22 // schema.num_dimensions
    return min(BLOCK, 1 << max(0, fits.bit_length() - 1))


class _AlignedLinear(TorchFunctionMode):
    """Linear layers whose rows begin at multiples of 64 bytes; the zeros that are added change no value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear and (short := -args[1].shape[1] % 16):
            return func(F.pad(args[0], (0, short)), F.pad(args[1], (0, short)), *args[2:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def in_blocks(
    function: Callable[..., tuple[Tensor, ...]], arrays: Sequence[Tensor | None], block: int = BLOCK
) -> tuple[Tensor, ...]:
    """`function` of N rows, `block` rows at a time; the last block is filled up with copies of its last row.

    Args:
        function: takes each of `arrays` with exactly `block` rows, gives tensors with as many rows.
        arrays: each (N, ...) with the same N >= 1, or None, which is handed on.
        block: rows a call.

    Returns:
        Each of the function's tensors, with N rows.

    Example:
        >>> (doubled,) = in_blocks(lambda x: (2 * x,), [torch.arange(5.0)], block=2)
        >>> doubled
        tensor([0., 2., 4., 6., 8.])
    """
    num = next(len(array) for array in arrays if array is not None)
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, num, block):
        count = min(block, num - start)
        rows = [None if array is None else _padded(array[start : start + count], block) for array in arrays]
        with _AlignedLinear(), full_precision():
            parts.append(tuple(out[:count] for out in function(*rows)))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _padded(rows: Tensor, block: int) -> Tensor:
    if len(rows) == block:
        return rows.contiguous()
    return torch.cat([rows, rows[-1:].expand(block - len(rows), *rows.shape[1:])])


@torch.inference_mode()
def posterior_of(bundle: Bundle, dataset: Dataset, progress: Progress | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z|x, c) of every example, each (N, D) on the CPU.

    A stochastic transform enters with its expectation, so nothing is drawn.
    """
    block = block_size(bundle.schema)
    means, scales = [], []
    for start in range(0, len(dataset), block):
        batch = dataset.batch(np.arange(start, min(start + block, len(dataset))))
        inputs = prepare(bundle, trimmed(batch, bundle.schema), expected=True)
        names = list(inputs.condition or {})
        columns = [] if inputs.condition is None else list(inputs.condition.values())

        def encode(x: Tensor, mask: Tensor | None, *codes: Tensor, names: list[str] = names) -> tuple[Tensor, Tensor]:
            condition = dict(zip(names, codes, strict=True)) or None
            return bundle.vae.encode_flat(x, condition=condition, mask=mask)

        mean, scale = in_blocks(encode, [inputs.x, inputs.mask, *columns], block)
        means.append(mean.cpu())
        scales.append(scale.cpu())
        if progress is not None:
            progress(min(start + block, len(dataset)), len(dataset))
    return torch.cat(means), torch.cat(scales)


@dataclass(frozen=True)
class Spelling:
    """How a text is made of its distribution; nothing here is for other kinds of data.

    Attributes:
        decoding: how each token of a draw is chosen; None for the tokens' own probabilities, without the unknown one.
        beams: seek the likeliest text, keeping so many beginnings at a time; None for the likeliest token at each step where
            a middle is asked for.
    """

    decoding: Decoding | None = None
    beams: int | None = None

    @classmethod
    def of(
        cls,
        *,
        token_temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int | None = None,
    ) -> Spelling:
        """By single choices, see `distributions.Decoding`; None is none.

        Args:
            token_temperature: of each token's distribution, > 0; below 1, likelier text.
            top_k: draw from so many of the likeliest tokens.
            top_p: draw from the fewest tokens that together have this mass.
            beams: seek the likeliest text, keeping so many beginnings at a time.

        Raises:
            ConfigError: for a value outside its range.
        """
        if token_temperature is None and top_k is None and top_p is None:
            return cls(None, beams)
        return cls(Decoding(1.0 if token_temperature is None else token_temperature, top_k, top_p), beams)

    def draw(self, draw: str) -> str:
        """What is drawn, `draw` being what was asked for: with beams, the middle.

        Raises:
            ConfigError: if draws and beams are asked for together, or beams are fewer than one.
        """
        if self.beams is None:
            return draw
        if self.beams < 1:
            raise ConfigError(f"`beams` must be at least 1, got {self.beams}. 5 are many.")
        if draw == "sample" or self.decoding is not None:
            raise ConfigError(
                "`beams` must come without draws of tokens, for it seeks the likeliest text. Leave out one of the two."
            )
        return "mean"

    def middle(self, p: TokenSequence) -> Tensor:
        """(*batch, T): the text that stands for a distribution over texts."""
        return p.middle if self.beams is None else p.beam(self.beams)

    def sample(self, p: TokenSequence) -> Tensor:
        """(*batch, T): a text drawn."""
        return p.draw(self.decoding or Decoding())


PLAINLY = Spelling()


@torch.inference_mode()
def decoded(
    bundle: Bundle,
    z: Tensor,
    features: Tensor | None,
    draw: str = "auto",
    progress: Progress | None = None,
    spelling: Spelling = PLAINLY,
    decode: Callable[[Tensor, Tensor | None], Distribution] | None = None,
) -> np.ndarray:
    """Examples in the source's form from latents.

    Args:
        bundle: the model.
        z: (N, D).
        features: (N, F), the encoded condition, or None.
        draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images, a sample for vectors. For the mean of text
            stand the likeliest tokens, one after another.
        progress: called with (done, total) as examples are done.
        spelling: of text, how it is made.
        decode: (1, B, D) latents and (B, F) features to p(x|z, c); the model's own if None.

    Raises:
        ConfigError: if `draw` is none of the three, or `spelling` says something and the data are no text.
    """
    if spelling != PLAINLY and bundle.schema.kind != "text":
        raise ConfigError(
            f"How tokens are chosen must be left out for {bundle.schema.kind}, which have none. Leave out the beams, and the "
            "temperature, top-k and top-p of tokens."
        )
    mean = draws_mean(bundle, spelling.draw(draw))
    block = block_size(bundle.schema)
    device = device_of(bundle.vae)

    likelihood = bundle.vae.decode_flat if decode is None else decode

    def drawn(z: Tensor, features: Tensor | None) -> tuple[Tensor]:
        p = likelihood(z[None], features)
        if isinstance(p, TokenSequence):
            return (bundle.transform.inverse((spelling.middle(p) if mean else spelling.sample(p))[0]),)
        return (bundle.transform.inverse(middle(p)[0] if mean else p.sample()[0]),)

    parts = []
    for start in range(0, len(z), block):
        rows = slice(start, start + block)
        given = None if features is None else features[rows].to(device)
        (x,) = in_blocks(drawn, [z[rows].to(device), given], block)
        parts.append(to_source(x, bundle.schema))
        if progress is not None:
            progress(min(start + block, len(z)), len(z))
    return np.concatenate(parts)


def middle(p: Distribution) -> Tensor:
    """What stands for a distribution over data: its mean; of the rows of a table their medians and likeliest categories, and
    of text the likeliest tokens, one after another."""
    return p.middle if isinstance(p, Cells | TokenSequence) else p.mean


def draws_mean(bundle: Bundle, draw: str) -> bool:
    """Whether `draw` asks for the mean of p(x|z, c).

    Raises:
        ConfigError: if it is not `auto`, `mean` or `sample`.
    """
    if draw not in DRAWS:
        raise ConfigError(f"`draw` must be {', '.join(DRAWS[:-1])} or {DRAWS[-1]}, got {draw!r}. Use `auto` when in doubt.")
    return draw == "mean" or (draw == "auto" and bundle.schema.kind == "images")
