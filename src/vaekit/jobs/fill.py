"""Fill: blanks in texts, by the model's distribution of what stands there given all the rest of the text.

Of a text x = (a, c, b) with the words c between a and b not given,

    p(c|a, b) = integral p(a, c, b, z) dz / p(a, b),    z_k ~ r(z),    c_k ~ s(c|a, z_k)

    w_k = p(a, c_k, b, z_k) / (r(z_k) s(c_k|a, z_k))

where s draws token after token from the decoder, which knows of b only by z; of each draw of m tokens, its first 1, 2, ..., m
are candidates, each with a weight of its own. The latents are drawn from the posteriors of the text with 1, ..., m tokens
hidden at the blank, and a share from the prior, so that no weight can be beyond a bound:

    r(z) = 1/(m+1) (p(z) + sum_l q(z | a, l hidden tokens, b))

(mixtures with a share of the prior: Hesterberg, "Weighted average importance sampling and defensive mixture distributions",
1995; resampling by the weights: Rubin, "Using the SIR algorithm to simulate posterior distributions", 1988). With several
blanks, candidates are resampled behind each: a particle filter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of, full_precision
from vaekit.data.text.tokens import Tokenizer, tokenizer_of
from vaekit.distributions.sequence import TokenSequence
from vaekit.errors import ConfigError, DataError
from vaekit.inference import MAX_ELEMENTS, Progress, is_point, seeded
from vaekit.jobs.conditions import features_of
from vaekit.jobs.rows import systematic
from vaekit.storage import Bundle
from vaekit.symbols import END, FIRST, PAD, UNKNOWN
from vaekit.vae import VAE

BLANK = "___"
"""What stands for a blank in a text."""

CANDIDATES = 256
"""K, draws of the latent a text."""

DRAWS = ("mean", "sample")

_SPACED = ("word", "bpe")
"""Tokens to which the space before them belongs, also at the beginning of a text; before a blank it is that of its first."""

_LONGEST = {"word": 3, "bpe": 6, "character": 12, "byte": 12}
_FEW = 5.0


@dataclass(frozen=True)
class Fill:
    """One way to fill a text's blanks.

    Attributes:
        text: the whole, with all that was given as it was.
        parts: what stands in each blank.
        weight: its probability given the rest of the text, as the candidates tell it; 1 for a text without a blank.
    """

    text: str
    parts: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Filled:
    """Texts with their blanks filled.

    Attributes:
        fills: of each of N texts at least one and at most the number asked for: the likeliest first, or draws.
        effective_sample_size: (N,): how many of the K latents carry the weights; near 1, they say little.
        notes: what a person should know.
    """

    fills: tuple[tuple[Fill, ...], ...]
    effective_sample_size: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The first fill of each text."""
        return [fills[0].text for fills in self.fills]


def fill(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    columns: Mapping[str, Tensor] | None = None,
    blank: str = BLANK,
    longest: int | None = None,
    draw: str = "mean",
    num: int = 1,
    num_candidates: int = CANDIDATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Filled:
    """Fills the blanks of texts by p(blank | the rest), the latent integrated out; see the top of this file.

    What a blank may be has 1 to `longest` tokens, is no end of the text, and holds no unknown token; where a space stands
    before the blank, it begins a word. The more candidates, the nearer to the exact conditional: with K to infinity it is that.

    Args:
        bundle: the model of text.
        texts: N texts with any number of blanks; those with none stay as they are.
        columns: (N,) codes of conditions; unknown where not given.
        blank: what stands for a blank.
        longest: m, the most tokens of a blank: 3 words, 6 byte pairs, or 12 characters, if None.
        draw: `mean`: the likeliest; or `sample`: draws.
        num: so many fills of each text, the likeliest different ones or draws.
        num_candidates: K.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total).

    Raises:
        ConfigError: if an argument cannot be, or the model is none of text that can do this.
        DataError: if there are no texts, or one is too long for the model.
    """
    model = _Model.of(bundle)
    if draw not in DRAWS:
        raise ConfigError(f"`draw` must be mean or sample, got {draw!r}. Use `mean` for the likeliest.")
    longest = _LONGEST[model.tokenizer.format.tokens] if longest is None else longest
    if min(longest, num, num_candidates) < 1 or not blank.strip():
        raise ConfigError(
            f"`longest`, `num` and `num_candidates` must be at least 1, and `blank` be no space, got {longest}, {num}, "
            f"{num_candidates} and {blank!r}. Leave them out when in doubt."
        )
    if not len(texts):
        raise DataError("There must be a text to fill, found none. Give some.")
    found: list[tuple[Fill, ...]] = []
    sizes = np.zeros(len(texts))
    with torch.inference_mode(), seeded(seed, model.device), full_precision():
        for index, text in enumerate(texts):
            given = _Given.of(text, blank, model.tokenizer)
            if not given.starts_word:
                found.append((Fill(text, (), 1.0),))
                sizes[index] = num_candidates
            else:
                _check_room(given, model.max_length, index)
                condition = {name: codes[index : index + 1] for name, codes in (columns or {}).items()}
                candidates = _candidates(model, given, condition, longest, num_candidates)
                found.append(_chosen(candidates, given, model.tokenizer, draw, num, index))
                sizes[index] = candidates.effective_sample_size
            if progress is not None:
                progress(index + 1, len(texts))
    few = int((sizes < min(_FEW, num_candidates)).sum())
    note = (
        f"Of {few:,} of {len(texts):,} texts fewer than {_FEW:g} latents carry the fills, whose weights say little. Use more "
        "candidates, or train with hidden tokens."
    )
    return Filled(tuple(found), sizes, (note,) if few else ())


def _check_room(given: _Given, max_length: int, index: int) -> None:
    if given.least > max_length - 1:
        raise DataError(
            f"A text must have at most {max_length - 1} tokens with its blanks filled, found {given.least} at least in text "
            f"{index + 1}. Shorten it."
        )


@dataclass(frozen=True)
class _Model:
    """What a model of text is asked for."""

    bundle: Bundle
    vae: VAE
    tokenizer: Tokenizer
    max_length: int

    @classmethod
    def of(cls, bundle: Bundle) -> _Model:
        """The model.

        Raises:
            ConfigError: if it is none of text, or its posterior has no density.
        """
        schema = bundle.schema
        if schema.text is None or not isinstance(bundle.vae, VAE):
            raise ConfigError(f"The model must be a VAE of text to fill blanks, got one of {schema.kind}. Train it on text.")
        if is_point(bundle.vae):
            raise ConfigError("The posterior must have a density to fill blanks, found a point. Train another kind of model.")
        return cls(bundle, bundle.vae, tokenizer_of(schema.text), schema.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self.vae)

    def texts_of(self, z: Tensor, features: Tensor | None) -> TokenSequence:
        """p(x|z, c) of latents (K, D), batch shape (K, 1)."""
        return cast(TokenSequence, self.vae.likelihood(z.unsqueeze(1), features))


@dataclass(frozen=True)
class _Given:
    """A text with blanks, as codes.

    Attributes:
        segments: what stands before, between and behind the blanks, as text.
        codes: of each.
        starts_word: of each blank, whether what stands there must begin with a space, which is then its own.
    """

    segments: list[str]
    codes: list[np.ndarray]
    starts_word: list[bool]

    @classmethod
    def of(cls, text: str, blank: str, tokenizer: Tokenizer) -> _Given:
        """The text around its blanks."""
        segments = text.split(blank)
        kind = tokenizer.format.tokens
        codes, starts_word = [], []
        for index, segment in enumerate(segments):
            before_blank = index < len(segments) - 1
            whole_word = before_blank and kind in _SPACED and segment.endswith(" ")
            own = segment[:-1] if whole_word else segment
            codes.append(_codes_behind(own, tokenizer) if index else tokenizer.encode([own] if own else [])[0])
            if before_blank:
                starts_word.append(whole_word or (kind in _SPACED and index == 0 and not own))
        return cls(segments, codes, starts_word)

    @property
    def least(self) -> int:
        """The least number of tokens with all blanks filled, without the END."""
        return sum(map(len, self.codes)) + len(self.starts_word)

    def with_hidden(self, num: int) -> tuple[list[int], list[bool]]:
        """Codes with `num` places for each blank, and whether each place is given."""
        codes, known = self.codes[0].tolist(), [True] * len(self.codes[0])
        for segment in self.codes[1:]:
            codes += [UNKNOWN] * num + segment.tolist()
            known += [False] * num + [True] * len(segment)
        return [*codes, END], [*known, True]


def _codes_behind(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """The codes of a text that goes on where another one ended, without the space that stands before a whole text."""
    if not text or tokenizer.format.tokens not in _SPACED:
        return tokenizer.encode([text] if text else [])[0]
    before, whole = tokenizer.encode(["a\n"])[0], tokenizer.encode(["a\n" + text])[0]  # no token goes over the end of a line
    return whole[len(before) :]


@dataclass(frozen=True)
class _Particles:
    """Beginnings of a filled text, each with its latent.

    Attributes:
        z: (K, D).
        log_ratio: (K,), log p(z) - log r(z).
        codes: (K, W), padded.
        lengths: (K,).
        log_drawn: (K,), log s of all tokens that were drawn.
        log_total: (K,), log p(codes|z) + log p(z) - log r(z) - log s; -inf for what cannot be.
        baseline: (K,), `log_total` when they were last resampled; 0 before.
        parts: of each blank so far (K, m) codes, padded.
    """

    z: Tensor
    log_ratio: Tensor
    codes: Tensor
    lengths: Tensor
    log_drawn: Tensor
    log_total: Tensor
    baseline: Tensor
    parts: tuple[Tensor, ...] = ()

    @property
    def log_weights(self) -> Tensor:
        """(K,): what they weigh since they were last resampled."""
        return self.log_total - self.baseline

    def resampled(self, num: int) -> _Particles:
        """`num` of them, by their weights."""
        weights = (self.log_weights - self.log_weights.max()).exp()
        index = systematic(weights, num)
        tensors = (self.z, self.log_ratio, self.codes, self.lengths, self.log_drawn, self.log_total, self.log_total)
        return _Particles(*(tensor[index] for tensor in tensors), parts=tuple(part[index] for part in self.parts))


@dataclass(frozen=True)
class _Candidates:
    """Filled texts and their weights.

    Attributes:
        parts: of each blank (M, m) codes, padded.
        weights: (M,) float64, of sum 1; all 0 where none can be.
        effective_sample_size: of the latents.
    """

    parts: tuple[Tensor, ...]
    weights: Tensor
    effective_sample_size: float


def _candidates(model: _Model, given: _Given, columns: Mapping[str, Tensor], longest: int, num: int) -> _Candidates:
    features = features_of(model.bundle, columns, 1)
    z, log_ratio = _latents(model, given, columns, longest, num)
    start = torch.from_numpy(given.codes[0].astype(np.int64)).to(model.device).expand(len(z), -1)
    zeros = torch.zeros_like(log_ratio)
    lengths = torch.full((len(z),), start.shape[1], device=z.device)
    particles = _Particles(z, log_ratio, start, lengths, zeros, zeros, zeros)
    last = len(given.starts_word) - 1
    for blank in range(last + 1):
        particles = _extended(model, given, features, particles, blank, longest)
        if not bool(torch.isfinite(particles.log_weights).any()):
            return _Candidates(particles.parts, torch.zeros_like(particles.log_weights), 0.0)
        if blank < last:
            particles = particles.resampled(len(z))
    weights = particles.log_weights.softmax(0)
    of_latents = weights.view(len(z), -1).sum(1)
    return _Candidates(particles.parts, weights.cpu(), float(1 / of_latents.square().sum()))


def _latents(model: _Model, given: _Given, columns: Mapping[str, Tensor], longest: int, num: int) -> tuple[Tensor, Tensor]:
    """(K, D) from the mixture r, and log p - log r (K,) in float64; see the top of the file."""
    most = min(longest, 1 + (model.max_length - 1 - given.least) // len(given.starts_word))
    hidden = [given.with_hidden(count) for count in range(1, most + 1)]
    width = max(len(codes) for codes, _ in hidden)
    x = torch.tensor([codes + [PAD] * (width - len(codes)) for codes, _ in hidden], device=model.device)
    mask = torch.tensor([known + [True] * (width - len(known)) for _, known in hidden], device=model.device)
    repeated = {name: codes.expand(most) for name, codes in columns.items()}
    posterior = model.vae.encode(x, condition=model.vae.condition_of(repeated, most), mask=mask)
    prior = model.vae.prior(features_of(model.bundle, columns, 1))
    # As many from each part of the mixture, the rest from the first ones: counts are then those that r weighs with.
    counts = torch.tensor([num // (most + 1) + (part < num % (most + 1)) for part in range(most + 1)])
    of_prior = prior.sample((num,)).reshape(num, -1)[: int(counts[0])]
    drawn = posterior.sample((int(counts.max()),)).flatten(2)
    z = torch.cat([of_prior, *(drawn[: int(counts[part + 1]), part] for part in range(most))])
    shares = (counts / num).log().to(z.device, torch.float64)
    log_p = prior.log_prob(z.unflatten(-1, tuple(model.vae.prior.shape))).reshape(-1).double()
    each = z.unflatten(-1, tuple(model.vae.prior.shape)).unsqueeze(1)
    log_q = posterior.log_prob(each.expand(num, most, *each.shape[2:])).double()
    log_r = torch.logsumexp(torch.cat([log_p[:, None], log_q], dim=1) + shares, dim=1)
    return z, log_p - log_r


def _extended(
    model: _Model, given: _Given, features: Tensor | None, particles: _Particles, blank: int, longest: int
) -> _Particles:
    """(K * m): each beginning with 1, ..., m tokens in the next blank, and what is given behind it."""
    drawn, log_drawn = _drawn(model, given, features, particles, blank, longest)
    device, num = particles.z.device, len(particles.z)
    behind = torch.from_numpy(given.codes[blank + 1].astype(np.int64)).to(device)
    last = blank == len(given.starts_word) - 1
    if last:
        behind = torch.cat([behind, torch.tensor([END], device=device)])
    counts = torch.arange(1, longest + 1, device=device).repeat(num)
    rows = torch.arange(num, device=device).repeat_interleave(longest)
    before = particles.lengths[rows]
    width = int(particles.lengths.max()) + longest + len(behind)
    place = torch.arange(width, device=device)
    into, beyond = place - before[:, None], place - (before + counts)[:, None]  # the blank, and what is behind it
    start = torch.nn.functional.pad(particles.codes, (0, width - particles.codes.shape[1]), value=PAD)[rows]
    part = drawn[rows].gather(1, into.clamp(0, longest - 1))
    rest = torch.cat([behind, behind.new_tensor([PAD])])[beyond.clamp(0, len(behind))]
    codes = torch.where(into < 0, start, torch.where(beyond < 0, part, rest))
    lengths = before + counts + len(behind)
    later = sum(map(len, given.codes[blank + 2 :])) + len(given.starts_word) - 1 - blank
    fits = lengths - int(last) + later <= model.max_length - 1
    log_s = particles.log_drawn[rows] + log_drawn.cumsum(1).flatten()
    told = particles.log_ratio[rows] - log_s
    masses = torch.full_like(told, -math.inf)
    masses[fits] = _log_masses(model, particles.z[rows[fits]], features, codes[fits][:, : model.max_length])
    total = torch.where(fits & torch.isfinite(log_s), masses + told, -math.inf)
    kept = torch.where(torch.arange(longest, device=device) < counts[:, None], drawn[rows], PAD)
    parts = tuple(each[rows] for each in particles.parts)
    tensors = (particles.z[rows], particles.log_ratio[rows], codes, lengths, log_s, total, particles.baseline[rows])
    return _Particles(*tensors, parts=(*parts, kept))


def _drawn(
    model: _Model, given: _Given, features: Tensor | None, particles: _Particles, blank: int, longest: int
) -> tuple[Tensor, Tensor]:
    """(K, m) tokens drawn one after another behind each beginning, and the log-probability of each, in float64.

    Where a beginning has no room for so many, the rest is padding, with the log-probability -inf.
    """
    p = model.texts_of(particles.z, features)
    num, start, most = len(particles.z), int(particles.lengths.min()), int(particles.lengths.max())
    never = torch.zeros(model.tokenizer.format.num_tokens, dtype=torch.bool, device=particles.z.device)
    never[:FIRST] = True
    first = never | torch.tensor([given.starts_word[blank] and token[:1] != " " for token in model.tokenizer.printed]).to(never)
    drawn = torch.full((num, longest), PAD, device=particles.z.device)
    log_drawn = torch.full((num, longest), -math.inf, dtype=torch.float64, device=particles.z.device)
    state, token = p.network.begin(p.z, p.condition), torch.full((num,), END, device=particles.z.device)
    rows = torch.arange(num, device=particles.z.device)
    for place in range(min(most + longest, model.max_length - 1)):
        features_here, state = p.network.step(token, state)
        known = particles.codes[:, place] if place < particles.codes.shape[1] else token
        if place < start:
            token = known
            continue
        at = place - particles.lengths
        hidden = torch.where((at == 0).unsqueeze(-1), first, never)
        log_masses = p.head(features_here).double().masked_fill(hidden, -math.inf).log_softmax(-1)
        log_masses = log_masses.nan_to_num(nan=-math.inf)  # where no token is left
        chosen = torch.multinomial(log_masses.exp() + 1e-300, 1).squeeze(-1)
        inside = (at >= 0) & (at < longest)
        drawn[rows[inside], at[inside]] = chosen[inside]
        log_drawn[rows[inside], at[inside]] = log_masses[rows, chosen][inside]
        token = torch.where(at < 0, known, chosen)
    return drawn, log_drawn


def _log_masses(model: _Model, z: Tensor, features: Tensor | None, codes: Tensor) -> Tensor:
    """(M,) float64: log p(codes|z) of whole texts or of beginnings, codes (M, W)."""
    at_once = max(1, MAX_ELEMENTS // max(1, model.vae.peak_elements()))
    parts = zip(z.split(at_once), codes.split(at_once), strict=True)
    found = [model.texts_of(some, features).log_masses(of_some).double().sum(-1) for some, of_some in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=z.device)


def _chosen(candidates: _Candidates, given: _Given, tokenizer: Tokenizer, draw: str, num: int, index: int) -> tuple[Fill, ...]:
    """The likeliest different fills, or draws of them.

    Raises:
        DataError: if there is none that can be.
    """
    weights: dict[tuple[str, ...], float] = {}
    for row in torch.argsort(candidates.weights, descending=True, stable=True).tolist():
        weight = float(candidates.weights[row])
        if not weight > 0:
            break
        parts = tuple(
            _spelled(tokenizer, codes[row], starts) for codes, starts in zip(candidates.parts, given.starts_word, strict=True)
        )
        weights[parts] = weights.get(parts, 0.0) + weight
    if not weights:
        raise DataError(f"Text {index + 1} must be possible under the model, found nothing that fits. Shorten it.")
    fills = [Fill(_joined(given.segments, parts), parts, weight) for parts, weight in weights.items()]
    if draw == "mean":
        return tuple(sorted(fills, key=lambda found: -found.weight)[:num])
    chosen = torch.multinomial(torch.tensor([found.weight for found in fills]), num, replacement=True)
    return tuple(fills[row] for row in chosen.tolist())


def _spelled(tokenizer: Tokenizer, codes: Tensor, starts_word: bool) -> str:
    """What stands in a blank."""
    kept = codes[codes != PAD].cpu().numpy()
    if tokenizer.format.tokens == "word":
        text = "".join(tokenizer.printed[code] for code in kept.tolist())
    elif tokenizer.format.tokens == "bpe":  # behind another byte, for a space at the beginning of a text is not its own
        text = tokenizer.decode(np.concatenate([[FIRST + tokenizer.format.vocabulary.index("a")], kept])[None])[0][1:]
    else:
        text = tokenizer.decode(kept[None])[0]
    return text.removeprefix(" ") if starts_word else text


def _joined(segments: Sequence[str], parts: Sequence[str]) -> str:
    return segments[0] + "".join(part + segment for part, segment in zip(parts, segments[1:], strict=True))
