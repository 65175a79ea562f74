"""Sequences of tokens: every one of a small vocabulary is enumerated, and masses, draws and searches are held against it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sequence_cases import D, T, V, decoders, every_sequence, masses_of, tokens_of
from vaekit.distributions import sequence as module
from vaekit.distributions.sequence import PLAIN, Decoding, TokenSequence, _likeliest, well_formed
from vaekit.errors import ConfigError
from vaekit.symbols import END, FIRST, PAD, UNKNOWN

NEVERS = pytest.mark.parametrize("never", [(), (UNKNOWN,), (UNKNOWN, 4), (3,)], ids=str)
DECODINGS = [
    Decoding(),
    PLAIN,
    Decoding(temperature=0.5),
    Decoding(temperature=3.0, unknown=True),
    Decoding(top_k=1),
    Decoding(top_k=2),
    Decoding(top_k=2, unknown=True),
    Decoding(top_k=99),
    Decoding(top_p=0.6),
    Decoding(top_p=0.9, unknown=True),
    Decoding(top_p=1e-9),
    Decoding(temperature=2.0, top_k=3, top_p=0.7, unknown=True),
]


def by_steps(p: TokenSequence, codes: Tensor) -> Tensor:
    """(N, T'): log p of each token, by the network's own steps and the definition."""
    state, before, found = p.network.begin(p.z, p.condition), torch.full((len(p.z),), END), []
    ended = torch.zeros(len(p.z), dtype=torch.bool)
    for position in range(codes.shape[1]):
        features, state = p.network.step(before, state)
        log_mass = p.head(features).log_softmax(-1).gather(-1, codes[:, position, None]).squeeze(-1)
        found.append(torch.where(ended | torch.tensor(position == p.max_length - 1), 0.0, log_mass))
        before = codes[:, position]
        ended = ended | (before == END)
    return torch.stack(found, 1)


def conditionals(masses: Tensor, sequences: Tensor) -> Callable[[tuple[int, ...]], list[float]]:
    """p(next|prefix) of one latent from the masses of all sequences alone, without the network."""

    def of(prefix: tuple[int, ...]) -> list[float]:
        begins = (sequences[:, : len(prefix)] == torch.tensor(prefix, dtype=torch.int64)).all(1)
        whole = masses[begins].sum()
        return [float(masses[begins & (sequences[:, len(prefix)] == code)].sum() / whole) for code in range(V)]

    return of


def chosen(decoding: Decoding, masses: list[float]) -> list[float]:
    """What a decoding makes of the masses of a token, in plain Python."""
    weights = [0.0 if code == UNKNOWN and not decoding.unknown else mass for code, mass in enumerate(masses)]
    weights = [weight ** (1 / decoding.temperature) if weight else 0.0 for weight in weights]
    order = sorted(range(len(weights)), key=lambda code: -weights[code])[: decoding.top_k]
    weights = [weight / sum(weights[code] for code in order) if at in order else 0.0 for at, weight in enumerate(weights)]
    if decoding.top_p is not None:
        kept, total = [], 0.0
        for code in order:
            if total < decoding.top_p:
                kept.append(code)
            total += weights[code]
        weights = [weight if at in kept else 0.0 for at, weight in enumerate(weights)]
    return [weight / sum(weights) for weight in weights]


def decoded_masses(decoding: Decoding, masses: Tensor, sequences: Tensor, given: int = 0) -> Tensor:
    """(M,): the mass of each sequence where tokens are chosen so, the first `given` of them being given."""
    of, result = conditionals(masses, sequences), []
    for codes in sequences.tolist():
        mass = 1.0
        for position in range(given, codes.index(END) + 1):
            if position < T - 1:
                mass = mass * chosen(decoding, of(tuple(codes[:position])))[codes[position]] if mass else 0.0
        result.append(mass)
    return torch.tensor(result, dtype=torch.float64)


def check_frequencies(draws: Tensor, sequences: Tensor, masses: Tensor) -> None:
    """Pearson's statistic over all sequences: chi-square of n - 1 degrees, beyond five of its deviations never.

    Sequences of which less than five are expected are one; those of no mass are not drawn.
    """
    codes = {tuple(row): at for at, row in enumerate(sequences.tolist())}
    counts = torch.zeros(len(sequences), dtype=torch.float64)
    for row, count in zip(*(part.tolist() for part in draws.unique(dim=0, return_counts=True)), strict=True):
        counts[codes[tuple(row)]] += count
    assert (counts[masses == 0] == 0).all()
    expected = masses * len(draws)
    torch.testing.assert_close(expected.sum(), torch.tensor(float(len(draws))).double())
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum().view(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().view(1)])
    counts, expected = counts[expected > 0], expected[expected > 0]
    degrees = max(1, len(counts) - 1)
    assert ((counts - expected).square() / expected).sum() < degrees + 5 * math.sqrt(2 * degrees)


# ----------------------------------------------------------------------------------------------------------- masses


@decoders
@NEVERS
def test_masses_of_all_sequences_sum_to_one(decoder: str, never: tuple[int, ...]) -> None:
    p, sequences = tokens_of(decoder, never), every_sequence()
    masses = masses_of(p, sequences)
    assert masses.shape == (1 + 3 + 9 + 27, 3)
    torch.testing.assert_close(masses.sum(0), torch.ones(3, dtype=torch.float64))
    has_never = torch.isin(sequences, torch.tensor(never, dtype=torch.int64)).any(1)
    assert (masses[has_never] == 0).all()
    assert (masses[~has_never] > 0).all()
    assert (masses[~has_never].std(1) > 1e-6).all()  # no latent is like another


@decoders
@NEVERS
def test_cached_steps_agree_with_the_whole(decoder: str, never: tuple[int, ...]) -> None:
    sequences = every_sequence()
    p = tokens_of(decoder, never, num=len(sequences))
    expected = by_steps(p, sequences)
    torch.testing.assert_close(p.log_masses(sequences), expected)
    torch.testing.assert_close(p.log_prob(sequences), expected.sum(-1))


@decoders
def test_condition(decoder: str) -> None:
    """(K, B) latents, and a condition of (B, F)."""
    likelihood_of = tokens_of(decoder, condition_features=3, num=1)
    condition = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.5]], dtype=torch.float64)
    z = torch.linspace(-1, 1, 6 * D, dtype=torch.float64).view(3, 2, D)
    p = TokenSequence(likelihood_of.network, likelihood_of.head, z, condition, T)
    assert p.batch_shape == (3, 2)
    masses = masses_of(p, every_sequence())
    torch.testing.assert_close(masses.sum(0), torch.ones(3, 2, dtype=torch.float64))
    for k, b in itertools.product(range(3), range(2)):
        alone = TokenSequence(p.network, p.head, z[k, b], condition[b], T)
        assert alone.batch_shape == ()
        torch.testing.assert_close(masses_of(alone, every_sequence()), masses[:, k, b])
    swapped = TokenSequence(p.network, p.head, z, condition.flip(0), T)
    assert (masses_of(swapped, every_sequence()) - masses).abs().amax(0).min() > 1e-4
    assert p.sample((7,)).shape == (7, 3, 2, T)
    assert p.beam(2).shape == p.middle.shape == (3, 2, T)


MALFORMED = [[3, 4, 3, 4], [3, PAD, END, PAD], [PAD, END, PAD, PAD], [END, END, PAD, PAD], [3, END, 4, PAD]]
MALFORMED += [[3, END, 4, END], [PAD, PAD, PAD, PAD], [END, PAD, 3, PAD], [3, 4, PAD, PAD], [END, PAD, END, PAD]]


@decoders
@pytest.mark.parametrize("codes", MALFORMED, ids=str)
def test_what_is_no_sequence_has_no_mass(decoder: str, codes: list[int]) -> None:
    assert tokens_of(decoder).log_prob(torch.tensor(codes)).tolist() == [-math.inf] * 3
    assert not well_formed(torch.tensor(codes))


@decoders
def test_lengths(decoder: str) -> None:
    """At most T - 1 tokens; fewer positions and more are the same sequence; at the last position the END costs nothing."""
    p = tokens_of(decoder)
    long, short = torch.tensor([[3, 4, 3, 3, END], [3, 3, 3, 3, 3]]), torch.tensor([3, END])
    for codes in (*long, torch.tensor([3, 4, 3, 4, END, PAD, PAD])):
        assert p.log_prob(codes).tolist() == [-math.inf] * 3
    for padding in (0, 1, 2, 7):
        torch.testing.assert_close(p.log_prob(torch.nn.functional.pad(short, (0, padding))), p.log_prob(short))
    full = torch.tensor([3, 4, 4, END])
    torch.testing.assert_close(p.log_prob(full), p.log_masses(full.expand(3, -1))[:, :3].sum(-1))
    assert (p.log_masses(full.expand(3, -1))[:, 3] == 0).all()
    assert (p.log_masses(torch.tensor([END, PAD, PAD, PAD]).expand(3, -1))[:, 1:] == 0).all()


@decoders
def test_a_sequence_is_alone(decoder: str) -> None:
    """Whatever stands in the other rows, how many there are, and how wide they are."""
    sequences = every_sequence()
    p = tokens_of(decoder, num=len(sequences))
    together, order = p.log_prob(sequences), torch.randperm(len(sequences))
    shuffled = TokenSequence(p.network, p.head, p.z[order], None, T).log_prob(sequences[order])
    torch.testing.assert_close(shuffled, together[order], rtol=1e-10, atol=1e-10)
    for at in range(0, len(sequences), 7):
        length = int((sequences[at] != PAD).sum())
        alone = TokenSequence(p.network, p.head, p.z[at], None, T).log_prob(sequences[at, :length])
        torch.testing.assert_close(alone, together[at], rtol=1e-10, atol=1e-10)
    copies = torch.stack([p.z, p.z.flip(0)])
    torch.testing.assert_close(TokenSequence(p.network, p.head, copies, None, T).log_prob(sequences)[0], together)


@decoders
def test_every_way_to_the_mass_is_one(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gradient and without, in pieces and at once, of chosen positions and of all."""
    p, sequences = tokens_of(decoder, (UNKNOWN,)), every_sequence(unknown=False)
    inputs = [p.z.requires_grad_(), *(q for q in p.network.parameters())]  # pyright: ignore[reportAttributeAccessIssue]
    codes = sequences.unsqueeze(1).expand(-1, 3, -1)

    def found() -> tuple[Tensor, ...]:
        log_prob = p.log_prob(codes)
        return (log_prob.detach(), *torch.autograd.grad(log_prob.sum(), inputs, allow_unused=True))

    expected = found()
    assert all(part is not None and part.isfinite().all() for part in expected[:1])
    with monkeypatch.context() as patch, torch.no_grad():
        torch.testing.assert_close(p.log_prob(codes), expected[0])
        patch.setattr(module, "_MAX_ELEMENTS", 3 * V)
        torch.testing.assert_close(p.log_prob(codes), expected[0])
    monkeypatch.setattr(module, "_chooses", lambda device: False)
    for a, b in zip(found(), expected, strict=True):
        assert b is None or b.isfinite().all()
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(p.log_prob(codes), expected[0])


@decoders
def test_gradient(decoder: str) -> None:
    """By finite differences, of the latent and of a condition, and of every weight by what it does to one sequence."""
    p = tokens_of(decoder, (UNKNOWN,), condition_features=1)
    codes = torch.tensor([[3, 4, 3, END], [4, END, PAD, PAD], [END, PAD, PAD, PAD]])
    z, c = p.z.clone().requires_grad_(), torch.tensor([[1.0], [0.5], [-1.0]], dtype=torch.float64, requires_grad=True)

    def log_prob(z: Tensor, c: Tensor) -> Tensor:
        return TokenSequence(p.network, p.head, z, c, T).log_prob(codes)

    assert torch.autograd.gradcheck(log_prob, (z, c))
    assert (torch.autograd.grad(log_prob(z, c).sum(), z)[0].abs() > 1e-6).all()


# ------------------------------------------------------------------------------------------------------------ draws


def test_decoding_by_hand() -> None:
    masses = torch.tensor([[0.0, 0.11, 0.4, 0.19, 0.3], [0.0, 0.61, 0.05, 0.25, 0.09]], dtype=torch.float64)
    for decoding in DECODINGS:
        expected = torch.tensor([chosen(decoding, row) for row in masses.tolist()], dtype=torch.float64)
        torch.testing.assert_close(decoding.of(masses.log()), expected)
    assert Decoding(top_k=2, unknown=True).of(masses.log())[0].tolist() == pytest.approx([0, 0, 4 / 7, 0, 3 / 7])
    assert Decoding(top_p=0.6, unknown=True).of(masses.log())[1].tolist() == pytest.approx([0, 1, 0, 0, 0])
    assert Decoding(temperature=0.5).of(masses.log())[0].tolist() == pytest.approx([0, 121 / 1382, 0, 361 / 1382, 900 / 1382])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Decoding(temperature=0.0), "`temperature` of tokens must be > 0, got 0.0"),
        (lambda: Decoding(temperature=math.inf), "must be > 0, got inf"),
        (lambda: Decoding(temperature=math.nan), "must be > 0, got nan"),
        (lambda: Decoding(top_k=0), "`top_k` must be at least 1, got 0"),
        (lambda: Decoding(top_p=0.0), r"`top_p` must be in \(0, 1\], got 0.0"),
        (lambda: Decoding(top_p=1.5), r"`top_p` must be in \(0, 1\], got 1.5"),
        (lambda: tokens_of("lstm").beam(0), "`beams` must be at least 1, got 0"),
        (lambda: tokens_of("lstm").draw(prefix=torch.tensor([3, 3, 3, 3])), "`prefix` must be at most 3 tokens"),
        (lambda: tokens_of("lstm").draw(prefix=torch.tensor([3, END])), r"codes from 2 to 4, got \[3, 1\]"),
        (lambda: tokens_of("lstm").draw(prefix=torch.tensor([5])), r"codes from 2 to 4, got \[5\]"),
    ],
)
def test_what_cannot_be(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_a_sequence_has_no_mean() -> None:
    with pytest.raises(NotImplementedError, match="no mean"):
        _ = tokens_of("lstm").mean


@decoders
@pytest.mark.parametrize("look", [1, 4])
def test_frequencies_of_samples(decoder: str, look: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where those that have ended are left behind after every token."""
    monkeypatch.setattr(module, "_LOOK", look)
    p, sequences = tokens_of(decoder), every_sequence()
    draws, masses = p.sample((5_000,)), masses_of(p, sequences)
    assert draws.shape == (5_000, 3, T)
    assert draws.dtype == torch.int64
    assert well_formed(draws).all()
    for latent in range(3):
        check_frequencies(draws[:, latent], sequences, masses[:, latent])
    with pytest.raises(AssertionError):
        check_frequencies(draws[:, 0], sequences, masses[:, 2])


@pytest.mark.parametrize("decoding", DECODINGS, ids=str)
def test_frequencies_of_draws(decoding: Decoding) -> None:
    p, sequences = tokens_of("low-rank"), every_sequence()
    draws, masses = p.draw(decoding, (4000,)), masses_of(p, sequences)
    for latent in range(2):
        check_frequencies(draws[:, latent], sequences, decoded_masses(decoding, masses[:, latent], sequences))


@decoders
@pytest.mark.parametrize("prefix", [[4], [UNKNOWN, 3], [3, 4, 4]], ids=str)
def test_frequencies_after_a_prefix(decoder: str, prefix: list[int]) -> None:
    p, sequences = tokens_of(decoder), every_sequence()
    draws, masses = p.draw(PLAIN, (3000,), torch.tensor(prefix)), masses_of(p, sequences)
    begins = (sequences[:, : len(prefix)] == torch.tensor(prefix)).all(1)
    for latent in range(3):
        given = torch.where(begins, masses[:, latent], 0.0)
        check_frequencies(draws[:, latent], sequences, given / given.sum())


def test_same_seed_same_draws() -> None:
    p, draws = tokens_of("lstm"), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(p.sample((50,)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@decoders
def test_what_never_is_is_not_drawn(decoder: str) -> None:
    draws = tokens_of(decoder, (UNKNOWN, 4)).sample((2000,))
    assert set(draws.unique().tolist()) == {PAD, END, 3}
    assert well_formed(draws).all()


# --------------------------------------------------------------------------------------------------------- searches


@decoders
def test_greedy_is_the_likeliest_token_again_and_again(decoder: str) -> None:
    p, sequences = tokens_of(decoder, num=9), every_sequence()
    masses, middle = masses_of(p, sequences), p.middle
    for latent in range(9):
        of, codes = conditionals(masses[:, latent], sequences), []
        while END not in codes:
            likely = [0.0 if code == UNKNOWN else mass for code, mass in enumerate(of(tuple(codes)))]
            codes.append(END if len(codes) == T - 1 else likely.index(max(likely)))
        assert middle[latent].tolist() == codes + [PAD] * (T - len(codes))
    assert torch.equal(p.beam(1), middle)
    assert len(middle.unique(dim=0)) > 1


@decoders
@pytest.mark.parametrize("look", [1, 4])
def test_greedy_is_alone(decoder: str, look: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", look)
    p = tokens_of(decoder, num=40, max_length=11, v=7)
    middle = p.middle
    assert len((middle == END).long().argmax(-1).unique()) > 1  # they do not end together
    for at in range(0, 40, 3):
        assert torch.equal(TokenSequence(p.network, p.head, p.z[at], None, 11).middle, middle[at])
    again = p.log_masses(middle)
    torch.testing.assert_close(by_steps(p, middle), again)


@decoders
def test_a_search_that_keeps_everything_finds_the_likeliest(decoder: str) -> None:
    p, sequences = tokens_of(decoder, num=9), every_sequence(unknown=False)
    masses = masses_of(p, sequences)
    assert torch.equal(p.beam(15), sequences[masses.argmax(0)])


@decoders
@pytest.mark.parametrize("width", [2, 3, 5])
def test_search_step_by_step(decoder: str, width: int) -> None:
    """Against a search in plain Python over the enumerated masses."""
    p, sequences = tokens_of(decoder, num=9), every_sequence()
    masses, found = masses_of(p, sequences), p.beam(width)
    for latent in range(9):
        of, kept = conditionals(masses[:, latent], sequences), [(1.0, ())]
        for position in range(T):
            longer: list[tuple[float, tuple[int, ...]]] = []
            for mass, codes in kept:
                if END in codes:
                    longer.append((mass, codes))
                elif position == T - 1:
                    longer.append((mass, (*codes, END)))
                else:
                    following = of(codes)
                    longer += [(mass * following[code], (*codes, code)) for code in (END, *range(FIRST, V))]
            kept = sorted(longer, reverse=True)[:width]
        best = list(kept[0][1])
        assert found[latent].tolist() == best + [PAD] * (T - len(best))


def test_the_likeliest_token_is_never_the_unknown_one() -> None:
    """Of any logits the argmax of the others, the first of equals, and as it was with UNKNOWN's taken out by hand."""
    generator = torch.Generator().manual_seed(0)
    for num_tokens in (3, 4, 9):
        logits = torch.randint(-2, 3, (400, num_tokens), generator=generator).float()
        logits[:, 0] = -torch.inf
        logits[:50, 2] = 9.0
        expected = logits.clone()
        expected[:, 2] = -torch.inf
        found = _likeliest(logits)
        assert torch.equal(found, expected.argmax(-1))
        assert not (found == 2).any()
