"""What every network of sequences keeps: steps and the whole agree, nothing looks ahead, and padding is nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sequence_cases import DECODERS, ENCODERS, D, V, decoders, encoders, wild
from vaekit.component import call_stopped, stopped_copy
from vaekit.errors import ConfigError
from vaekit.networks import LSTMDecoder, LSTMEncoder, SequenceNetwork, TransformerDecoder, TransformerEncoder
from vaekit.networks.transformer import rotation
from vaekit.symbols import END, PAD, UNKNOWN

X = torch.tensor([[3, 4, 4, 2, END, PAD], [4, END, PAD, PAD, PAD, PAD], [3, 3, 4, 3, 4, END], [END, PAD, PAD, PAD, PAD, PAD]])
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def latents(num: int = len(X)) -> Tensor:
    return torch.randn(num, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stepped(network: SequenceNetwork, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """(N, T, H): features by steps."""
    state, before, found = network.begin(z, condition), torch.full((len(z),), END), []
    for position in range(tokens.shape[1]):
        features, state = network.step(before, state)
        found.append(features)
        before = tokens[:, position]
    return torch.stack(found, 1)


# ---------------------------------------------------------------------------------------------------------- decoders


@decoders
def test_steps_agree_with_the_whole(decoder: str) -> None:
    """At every position, behind the END too; one state may be gone on from twice, and rows may be taken from it."""
    network, z = wild(DECODERS[decoder](condition_features=2)), latents()
    condition = torch.randn(len(X), 2, dtype=torch.float64)
    whole = network(X, z, condition)
    assert whole.shape == (*X.shape, *network.out_shape)
    torch.testing.assert_close(stepped(network, X, z, condition), whole, **EXACT)
    _, state = network.step(torch.full((len(X),), END), network.begin(z, condition))
    assert all(len(kept) == len(X) for kept in state.values())
    rows = torch.tensor([2, 0, 0, 3, 1])
    copies = {name: kept.clone() for name, kept in state.items()}
    for again in range(2):
        found, _ = network.step((X[:, 0] + again) % V, state)
        torch.testing.assert_close(found, network((X + again) % V, z, condition)[:, 1], **EXACT)
    picked, _ = network.step(X[rows, 0], {name: kept[rows] for name, kept in state.items()})
    torch.testing.assert_close(picked, whole[rows, 1], **EXACT)
    assert all(torch.equal(kept, copies[name]) for name, kept in state.items())


@decoders
def test_steps_agree_over_a_long_text(decoder: str) -> None:
    network, z = wild(DECODERS[decoder](v=9), by=0.1), latents(2)
    tokens = torch.randint(3, 9, (2, 70))
    torch.testing.assert_close(stepped(network, tokens, z), network(tokens, z), **EXACT)


@decoders
def test_a_feature_is_of_all_tokens_before_it_and_of_no_other(decoder: str) -> None:
    network, z = wild(DECODERS[decoder]()), latents(1)
    tokens = torch.tensor([[3, 4, 4, 3, 4, 3]])
    whole = network(tokens, z)
    for position in range(6):
        other = tokens.clone()
        other[0, position] = 7 - tokens[0, position]
        moved = (network(other, z) - whole).abs().amax(-1)[0]
        assert (moved[: position + 1] < 1e-12).all()
        assert (moved[position + 1 :] > 1e-6).all()


@decoders
def test_features_depend_on_the_latent_and_the_condition_everywhere(decoder: str) -> None:
    network, z = wild(DECODERS[decoder](condition_features=1)), latents(1).requires_grad_()
    condition = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    features = network(torch.tensor([[3, 4, 4, 3, 4, 3]]), z, condition)
    for position in range(6):
        for gradient in torch.autograd.grad(features[0, position].square().sum(), [z, condition], retain_graph=True):
            assert (gradient.abs() > 1e-6).all()


@decoders
def test_every_row_is_alone(decoder: str) -> None:
    network, z = wild(DECODERS[decoder]()), latents()
    whole = network(X, z)
    torch.testing.assert_close(network(X.flip(0), z.flip(0)).flip(0), whole, **EXACT)
    for row in range(len(X)):
        torch.testing.assert_close(network(X[row : row + 1, :3], z[row : row + 1])[0], whole[row, :3], **EXACT)
    torch.testing.assert_close(network(X.repeat(5, 1), z.repeat(5, 1)), whole.repeat(5, 1, 1), **EXACT)


@decoders
def test_hidden_tokens(decoder: str) -> None:
    """In training a share of tokens is UNKNOWN as an input, END never; in use none is."""
    network = DECODERS[decoder](word_dropout=0.3)
    tokens = torch.full((400, 50), 4)
    tokens[:, 30], tokens[:, 31:] = END, PAD
    before = network.inputs(tokens)
    assert (before[:, 0] == END).all()
    assert (before[:, 31] == END).all()
    assert (before[:, 32:] == PAD).all()
    hidden = before[:, 1:31] == UNKNOWN
    assert ((before[:, 1:31] == 4) ^ hidden).all()
    assert hidden.double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / hidden.numel()) ** 0.5)
    assert torch.equal(network.eval().inputs(tokens)[:, 1:], tokens[:, :-1])
    z = latents(400).float()
    assert torch.equal(network(tokens, z), network(tokens, z))
    network.train()
    assert not torch.allclose(network(tokens, z), network(tokens, z))


@decoders
@pytest.mark.parametrize("which", ["decoder", "encoder"])
def test_dropout_is_of_training(decoder: str, which: str) -> None:
    encoder = "transformer" if decoder in ("low-rank", "attend") else "lstm"
    network = DECODERS[decoder](dropout=0.5) if which == "decoder" else ENCODERS[encoder](dropout=0.5)
    given = (X, latents().float()) if which == "decoder" else (X,)
    assert not torch.allclose(network(*given), network(*given))
    network.eval()
    assert torch.equal(network(*given), network(*given))


def test_hidden_tokens_are_read_as_hidden_by_encoders() -> None:
    encoder = ENCODERS["lstm"](hide=0.3)
    tokens = torch.full((400, 30), 4)
    tokens[:, 20], tokens[:, 21:] = END, PAD
    seen = encoder.visible(tokens, None)
    assert torch.equal(seen[:, 20:], tokens[:, 20:])
    hidden = seen[:, :20] == V
    assert ((seen[:, :20] == 4) ^ hidden).all()
    assert hidden.double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / hidden.numel()) ** 0.5)
    assert torch.equal(encoder.eval().visible(tokens, None), tokens)


@decoders
def test_other_weights(decoder: str) -> None:
    """Networks are called with weights that are not theirs, which an LSTM that keeps them flat must see."""
    network, z = wild(DECODERS[decoder]()), latents()
    expected = network(X, z)
    torch.testing.assert_close(call_stopped(network, X, z), expected)
    assert not call_stopped(network, X, z).requires_grad
    copy = stopped_copy(network)
    assert not copy(X, z).requires_grad
    torch.testing.assert_close(copy(X, z), expected)
    with torch.no_grad():
        next(iter(network.parameters())).mul_(2)  # shared by the copy
    torch.testing.assert_close(copy(X, z), network(X, z))
    assert not torch.allclose(network(X, z), expected)


@pytest.mark.parametrize("depth", [1, 12])
def test_a_transformer_starts_no_larger_where_it_is_deeper(depth: int) -> None:
    """What the layers add to a token is as large as the token itself, or smaller."""
    network = TransformerDecoder(50, 16, 64, depth, 4)
    tokens, z = torch.randint(3, 50, (8, 30)), torch.randn(8, 16)
    size: list[Tensor] = []
    network.norm.register_forward_pre_hook(lambda module, inputs: size.append(inputs[0]))
    network(tokens, z)
    embedded = network.embedding(network.inputs(tokens))
    added = (size[0] - embedded).square().mean().sqrt() / embedded.square().mean().sqrt()
    assert 0.1 < added < 1


def test_the_low_rank_product_by_hand() -> None:
    """One layer of one head, written out: what is gathered times the latent's map, as if the values were multiplied."""
    network = wild(TransformerDecoder(V, D, 4, 1, 1, skip=False))
    tokens, z = torch.tensor([[3, 4, 2, 3]]), latents(1)
    h = network.embedding(network.inputs(tokens))
    block, told = network.blocks[0], network.tell(z)
    q, k, v = (block.norm_attention(h) @ block.project.weight.T).chunk(3, dim=-1)
    turn = rotation(0, 4, 4, h)
    scores = (turn(q) @ turn(k).mT / 2).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    h = h + scores.softmax(-1) @ (v * told.unsqueeze(1)) @ block.mix.weight.T
    h = h + block.mlp(block.norm_mlp(h))
    torch.testing.assert_close(network(tokens, z), network.norm(h))
    assert torch.equal(TransformerDecoder(V, D).tell.bias, torch.ones(4 * 256))


def test_the_memory_by_hand() -> None:
    """A token more, at which the latent stands, to which no position belongs."""
    network = wild(TransformerDecoder(V, D, 4, 1, 1, "attend"))
    tokens, z = torch.tensor([[3, 4, 2, 3]]), latents(1)
    h = network.embedding(network.inputs(tokens))
    block, (key, value) = network.blocks[0], network.tell(z).chunk(2, dim=-1)
    q, k, v = (block.norm_attention(h) @ block.project.weight.T).chunk(3, dim=-1)
    turn = rotation(0, 4, 4, h)
    keys, values = torch.cat([key[None], turn(k)], 1), torch.cat([value[None], v], 1)
    scores = (turn(q) @ keys.mT / 2).masked_fill(torch.ones(4, 5).triu(2).bool(), -torch.inf)
    h = h + scores.softmax(-1) @ values @ block.mix.weight.T
    h = h + block.mlp(block.norm_mlp(h))
    features = torch.cat([network.norm(h), z[:, None].expand(-1, 4, -1)], dim=-1)
    torch.testing.assert_close(network(tokens, z), features)


def test_products_of_turned_vectors_depend_on_the_distance_alone() -> None:
    x, y = torch.randn(2, 6, dtype=torch.float64)
    near = rotation(0, 50, 6, x)
    products = near(x.expand(50, 6)) @ near(y.expand(50, 6)).mT
    for offset in (-20, -1, 0, 3):
        along = products.diagonal(offset)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert products[0].std() > 0.01
    torch.testing.assert_close(rotation(7, 2, 6, x)(x.expand(2, 6)), near(x.expand(50, 6))[7:9])
    torch.testing.assert_close(near(x.expand(50, 6)).norm(dim=-1), x.norm().expand(50))
    angle = torch.tensor(3.0, dtype=torch.float64)  # the first pair turns by one radian a position
    turned = near(x.expand(50, 6))[3]
    torch.testing.assert_close(turned[0], x[0] * angle.cos() - x[3] * angle.sin())
    slow = angle * 10_000 ** (-4 / 6)
    torch.testing.assert_close(turned[5], x[5] * slow.cos() + x[2] * slow.sin())


# ---------------------------------------------------------------------------------------------------------- encoders


@encoders
def test_padding_and_company_change_nothing(encoder: str) -> None:
    network = wild(ENCODERS[encoder]())
    together = network(X)
    assert together.shape == (len(X), *network.out_shape)
    torch.testing.assert_close(network(nn.functional.pad(X, (0, 9))), together, **EXACT)
    torch.testing.assert_close(network(X.flip(0)).flip(0), together, **EXACT)
    for row in range(len(X)):
        length = int((X[row] != PAD).sum())
        torch.testing.assert_close(network(X[row : row + 1, :length])[0], together[row], **EXACT)
    assert (torch.cdist(together, together) + torch.eye(len(X)) > 1e-3).all()
    single = network.float()(X)
    torch.testing.assert_close(single, together.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(X.to(torch.int32)), single)


@encoders
def test_the_order_of_tokens_counts(encoder: str) -> None:
    """Every token is read, and where it stands; also where the same token stands everywhere, but for how many there are."""
    network = wild(ENCODERS[encoder]())
    x = torch.tensor([[3, 4, 3, 3, 4, END]])
    plain = network(x)
    for position in range(5):
        other = x.clone()
        other[0, position] = 7 - x[0, position]
        assert (network(other) - plain).abs().max() > 1e-4
        if position < 4 and x[0, position] != x[0, position + 1]:
            other = x.clone()
            other[0, position], other[0, position + 1] = x[0, position + 1], x[0, position]
            assert (network(other) - plain).abs().max() > 1e-4
    same = [network(torch.tensor([[3] * length + [END]])) for length in range(5)]
    assert all((a - b).abs().max() > 1e-4 for a, b in itertools.pairwise(same))


@encoders
def test_what_is_hidden_is_not_read(encoder: str) -> None:
    network = wild(ENCODERS[encoder]())
    mask = torch.ones_like(X, dtype=torch.bool)
    mask[0, 1] = mask[2, 0] = mask[2, 5] = False
    hidden = network(X, None, mask)
    junk = torch.where(mask, X, 3)
    torch.testing.assert_close(network(junk, None, mask), hidden)
    blank = torch.where(mask, X, V)
    torch.testing.assert_close(network(blank), hidden)
    plain = network(X)
    assert ((hidden - plain).abs().amax(-1)[[0, 2]] > 1e-4).all()
    torch.testing.assert_close(hidden[[1, 3]], plain[[1, 3]])
    mask[:] = True
    mask[2, 5] = False  # an END
    assert ((network(X, None, mask) - plain).abs().amax(-1) > 1e-4).tolist() == [False, False, True, False]
    one = torch.tensor([True, False, True, True, True, True])
    torch.testing.assert_close(network(X[:1], None, one), hidden[:1])


@encoders
def test_an_encoder_and_its_condition(encoder: str) -> None:
    network = wild(ENCODERS[encoder](condition_features=2))
    condition = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    features = network(X, condition)
    assert features.shape == (4, *network.out_shape)
    assert torch.equal(features[:, -2:], condition.double())
    with pytest.raises(ConfigError, match="takes a condition of 2 features, got 0"):
        network(X)


def test_a_transformer_reads_an_end_before_the_text() -> None:
    network = wild(ENCODERS["transformer"]())
    network(torch.tensor([[4, 4, PAD]])).square().sum().backward()
    assert network.embedding.weight.grad.abs().amax(-1).gt(1e-6).tolist() == [code in (END, 4) for code in range(V + 1)]


def test_the_way_back_is_the_way_there_of_the_turned_text() -> None:
    network = wild(ENCODERS["both ways"]())
    turned = torch.tensor([[END, 2, 4, 4, 3], [END, 4, 3, 4, 3]])
    straight = torch.stack([row.flip(0) for row in turned])
    swapped = wild(ENCODERS["both ways"]())
    swapped.load_state_dict(network.state_dict())
    swapped.forwards, swapped.backwards = network.backwards, network.forwards
    found = swapped.forwards(network.embedding(turned))[0][:, -1]
    torch.testing.assert_close(network(straight)[:, 5:], found)
    torch.testing.assert_close(network(nn.functional.pad(straight, (0, 3)))[:, 5:], found)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LSTMDecoder(3, 2), "more than 3 codes"),
        (lambda: LSTMDecoder(6, 0), "at least one latent"),
        (lambda: LSTMDecoder(6, 2, hidden=0), "must be at least 1, got 128 and 0"),
        (lambda: LSTMDecoder(6, 2, dropout=1.0), r"`dropout` must be in \[0, 1\), got 1.0"),
        (lambda: LSTMDecoder(6, 2, word_dropout=-0.1), r"`word_dropout` must be in \[0, 1\)"),
        (lambda: LSTMEncoder(3), "more than 3 codes"),
        (lambda: LSTMEncoder(6, embedding=0), "must be at least 1"),
        (lambda: LSTMEncoder(6, hide=1.0), r"`hide` must be in \[0, 1\)"),
        (lambda: TransformerDecoder(3, 2), "more than 3 codes"),
        (lambda: TransformerDecoder(6, 2, depth=0), "`depth` at least 1, got width=256, heads=4 and depth=0"),
        (lambda: TransformerDecoder(6, 2, width=12, heads=4), "multiple of twice the `heads`"),
        (lambda: TransformerDecoder(6, 2, heads=0), "heads=0"),
        (lambda: TransformerDecoder(6, 2, latent="none"), "must be low-rank or attend, got 'none'"),
        (lambda: TransformerDecoder(6, 2, dropout=1.5), r"`dropout` must be in \[0, 1\)"),
        (lambda: TransformerEncoder(6, depth=0), "`depth` at least 1"),
        (lambda: TransformerEncoder(6, width=0), "width=0"),
    ],
)
def test_what_cannot_be(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()
