"""Transformers over the columns of a table: what they compute, which column reads which, and their place in a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import vaekit
from vaekit import recipes
from vaekit.data.loading import open as open_data
from vaekit.data.tables import decode
from vaekit.errors import ConfigError
from vaekit.likelihoods import Cells
from vaekit.networks import CellEmbedding, ColumnDecoder, ColumnEncoder, ResidualMLP
from vaekit.networks.columns import ColumnBlock, ColumnHead
from vaekit.networks.mlp import LinearHead
from vaekit.objectives import ELBO
from vaekit.posteriors import DiagonalNormal, SemiAmortized
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

SIZES = [3, 7, 1, 8, 20, 3]
C, D, E, H = len(SIZES), 2, 3, 8


def shaken(network: Any) -> Any:
    """In float64, with weights that are nowhere at a special start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return network.double()


def encoder(**arguments: Any) -> ColumnEncoder:
    return shaken(ColumnEncoder([C, E], **{"width": H, "depth": 2, "heads": 2, "summaries": 3, **arguments}))


def decoder(sizes: list[int] = SIZES, **arguments: Any) -> ColumnDecoder:
    return shaken(ColumnDecoder(D, sizes, **{"width": H, "depth": 2, "heads": 2, **arguments}))


def wave(*shape: int) -> Tensor:
    return torch.sin(1.3 * torch.arange(math.prod(shape)).double()).reshape(shape)


# ------------------------------------------------------------------------------------------------------- by hand


def layer_norm(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def layer_by_hand(block: ColumnBlock, tokens: list[Tensor]) -> list[Tensor]:
    """Every token of one row, one head after the other."""
    normed = [layer_norm(t, block.norm) for t in tokens]
    keys, values = zip(*((block.pair.weight @ t).chunk(2) for t in normed), strict=True)
    features = len(tokens[0]) // block.heads
    out = []
    for token, own in zip(tokens, normed, strict=True):
        gathered = []
        for head in range(block.heads):
            part = slice(head * features, (head + 1) * features)
            query = (block.query.weight @ own)[part]
            scores = torch.stack([query @ key[part] for key in keys]) / features**0.5
            shares = scores.exp() / scores.exp().sum()
            gathered.append(sum(share * value[part] for share, value in zip(shares, values, strict=True)))
        h = token + block.mix.weight @ torch.cat(gathered)
        value, gate = (block.mlp.up.weight @ layer_norm(h, block.mlp.norm) + block.mlp.up.bias).chunk(2)
        out.append(h + block.mlp.down.weight @ (value * gate / (1 + (-gate).exp())) + block.mlp.down.bias)
    return out


@pytest.mark.parametrize(("depth", "heads"), [(1, 1), (1, 4), (3, 2)])
def test_encoder_is_its_formula(depth: int, heads: int) -> None:
    network, x = encoder(depth=depth, heads=heads), wave(4, C, E)
    for row, found in zip(x, network(x), strict=True):
        tokens = [*network.summaries, *(network.first.weight @ row[c] + network.columns[c] for c in range(C))]
        for block in network.blocks:
            tokens = layer_by_hand(block, tokens)
        torch.testing.assert_close(found, torch.cat([layer_norm(t, network.norm) for t in tokens[:3]]))
    assert network.out_shape == (3 * H,)


@pytest.mark.parametrize(("depth", "memory"), [(1, 0), (1, 2), (3, 1)])
def test_decoder_is_its_formula(depth: int, memory: int) -> None:
    network, z = decoder(depth=depth, memory=memory), wave(4, D)
    for row, found in zip(z, network(z), strict=True):
        tokens = list((network.first.weight @ row + network.first.bias).view(C + memory, H))
        for block in network.blocks:
            tokens = layer_by_hand(block, tokens)
        torch.testing.assert_close(found, torch.stack([layer_norm(t, network.norm) for t in tokens[:C]]))
    assert network.out_shape == (C, H)


def test_each_logit_is_of_the_token_of_its_column() -> None:
    network = decoder()
    head = shaken(network.make_head(1, (network.layout.num_logits,)))
    assert isinstance(head, ColumnHead)
    tokens, expected = wave(5, C, H), torch.full((5, 1, network.layout.num_logits), torch.nan).double()
    starts = dict(enumerate(network.layout.firsts()))
    for column, size in enumerate(SIZES):
        for j in range(starts[column], starts[column] + (1 << (size - 1).bit_length())):
            expected[:, 0, j] = tokens[:, column] @ head.weight[j] + head.bias[j]
    torch.testing.assert_close(head(tokens), expected)
    torch.testing.assert_close(head(tokens.view(5, 1, C, H)), expected.view(5, 1, 1, -1))
    torch.testing.assert_close(head(tokens[0]), expected[0])


def test_no_column_reads_the_token_of_another_in_the_head() -> None:
    network = decoder()
    head = shaken(network.make_head(1, (network.layout.num_logits,)))
    slopes = torch.autograd.functional.jacobian(head, wave(C, H))  # (1, num_logits, C, H)
    firsts, powers = network.layout.firsts(), [1 << (size - 1).bit_length() for size in SIZES]
    owner = torch.empty(network.layout.num_logits, dtype=torch.long)
    for column in range(C):
        owner[firsts[column] : firsts[column] + powers[column]] = column
    reads = slopes[0].abs().sum(-1) > 0  # (num_logits, C)
    assert torch.equal(reads, owner[:, None] == torch.arange(C))


# ------------------------------------------------------------------------------------------------------- what reads what


def test_columns_have_no_order_but_their_own_embedding() -> None:
    network, x = encoder(), wave(4, C, E)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    before = network(x)
    assert not torch.allclose(network(x[:, order]), before)
    with torch.no_grad():
        network.columns.copy_(network.columns[order])
    torch.testing.assert_close(network(x[:, order]), before)


def test_columns_of_a_row_read_each_other_and_no_other_row() -> None:
    network, z = encoder(), wave(3, C, E)
    slopes = torch.autograd.functional.jacobian(network, z)  # (3, features, 3, C, E)
    own = slopes.abs().sum((1, 4)) > 0  # which row reads which column of which row
    assert torch.equal(own, torch.eye(3, dtype=torch.bool)[:, :, None].expand(3, 3, C))
    network, z = decoder(), wave(3, D)
    slopes = torch.autograd.functional.jacobian(network, z)  # (3, C, H, 3, D)
    assert torch.equal(slopes.abs().sum((1, 2, 4)) > 0, torch.eye(3, dtype=torch.bool))


def test_the_first_columns_token_depends_on_that_of_the_last() -> None:
    """By attention alone: the latent's map to the last column does not enter its own."""
    network, z = decoder(memory=0), wave(1, D)
    network(z)[0, 0].sum().backward()
    assert network.first.weight.grad is not None
    assert (network.first.weight.grad.view(C, H, D).abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize("make", [encoder, decoder])
def test_leading_axes_are_a_loop(make: Any) -> None:
    network = make()
    x = wave(3, 4, C, E) if make is encoder else wave(3, 4, D)
    torch.testing.assert_close(network(x), torch.stack([torch.stack([network(row) for row in rows]) for rows in x]))
    assert network(x[:, :0]).shape == (3, 0, *network.out_shape)


@pytest.mark.parametrize("junk", [math.nan, math.inf, 7.0])
def test_what_is_missing_counts_as_0(junk: float) -> None:
    network, x = encoder(), wave(5, C, E)
    mask = torch.arange(5 * C * E).reshape(5, C, E) % 3 > 0
    torch.testing.assert_close(network(torch.where(mask, x, junk), mask=mask), network(torch.where(mask, x, 0.0)))


def test_a_condition_is_a_token_of_the_encoder() -> None:
    network, x, condition = encoder(condition_features=2), wave(4, 5, C, E), wave(5, 2)
    plain = encoder(summaries=3)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if not name.startswith("told")})
    out = network(x, condition)
    assert not torch.allclose(out, plain(x))
    torch.testing.assert_close(out[2], network(x[2], condition))
    twin = network(x[:, :1].expand(4, 5, C, E), condition)
    assert not torch.allclose(twin[:, 0], twin[:, 1])
    for wrong in (None, wave(5, 3)):
        with pytest.raises(ConfigError, match="takes a condition of 2 features"):
            network(x, wrong)


def test_a_condition_stands_beside_the_latent_of_the_decoder() -> None:
    network, z, condition = decoder(condition_features=3), wave(4, 5, D), wave(5, 3)
    plain = shaken(ColumnDecoder(D + 3, SIZES, width=H, depth=2, heads=2))
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(z, condition), plain(torch.cat([z, condition.expand(4, 5, 3)], -1)))
    with pytest.raises(ConfigError, match="takes a condition of 3 features"):
        network(z)


@pytest.mark.parametrize("make", [encoder, decoder])
def test_dropout_is_of_training_alone(make: Any) -> None:
    network = make(dropout=0.5)
    x = wave(4, C, E) if make is encoder else wave(4, D)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_gated_blocks_start_as_the_identity() -> None:
    torch.manual_seed(0)
    block, h = ColumnBlock(H, 2, 0.0, 2), torch.randn(3, 5, H)
    torch.testing.assert_close(block.mlp(h), h)
    with torch.no_grad():
        block.mix.weight.zero_()
    torch.testing.assert_close(block(h, 2), h[:, :2])


# ------------------------------------------------------------------------------------------------------- in a model


def test_cells_have_a_head_a_column() -> None:
    torch.manual_seed(0)
    likelihood = shaken(Cells(ColumnDecoder(D, SIZES, width=H, depth=1, heads=2), SIZES))
    assert isinstance(likelihood.head, ColumnHead)
    p = likelihood(wave(2, 3, D))
    for column, size in enumerate(SIZES):
        masses = p.column_log_masses(column).exp()
        assert masses.shape == (2, 3, size)
        torch.testing.assert_close(masses.sum(-1), torch.ones(2, 3).double())
    assert p.log_prob(p.sample()).isfinite().all()


def test_cells_in_groups_read_all_columns() -> None:
    sizes = [3, 1100, 40]
    likelihood = shaken(Cells(ColumnDecoder(D, sizes, width=H, depth=1, heads=2), sizes, rank=5))
    assert isinstance(likelihood.head, ColumnHead)
    assert isinstance(likelihood.grouped_head[-1], LinearHead)
    tokens = wave(2, 3, 3, H)
    torch.testing.assert_close(
        likelihood.grouped_head(tokens),
        tokens.flatten(-2) @ likelihood.grouped_head[-1].linear.weight.T + likelihood.grouped_head[-1].linear.bias,
    )
    masses = likelihood(wave(2, 3, D)).column_log_masses(1).exp()
    torch.testing.assert_close(masses.sum(-1), torch.ones(2, 3).double())


def test_a_model_starts_at_the_frequencies_of_the_data() -> None:
    torch.manual_seed(0)
    likelihood = Cells(ColumnDecoder(D, [2, 5], width=H, depth=1, heads=2), [2, 5]).double()
    x = torch.tensor([[0.5, 4.5], [0.5, 4.5], [1.5, 4.5], [0.5, 2.5]]).double()
    likelihood.initialize(x)
    with torch.no_grad():
        likelihood.head.weight.zero_()
    p = likelihood(wave(3, D))
    torch.testing.assert_close(p.column_log_masses(0).exp(), (torch.tensor([3.5, 1.5]) / 5).double().expand(3, 2))
    expected = torch.tensor([0.5, 0.5, 1.5, 0.5, 3.5]).double() / 6.5
    torch.testing.assert_close(p.column_log_masses(1).exp(), expected.expand(3, 5))


def test_attention_is_differentiated_once() -> None:
    posterior = DiagonalNormal(ColumnEncoder([C, E], width=H, heads=2), D)
    likelihood = Cells(ColumnDecoder(D, SIZES, width=H, heads=2), SIZES)
    assert not likelihood.twice_differentiable
    assert Cells(ResidualMLP(D, H), SIZES).twice_differentiable
    with pytest.raises(ConfigError, match=r"differentiable twice, got a Cells.*unroll=False"):
        VAE(StandardNormal(D), SemiAmortized(posterior, 1), likelihood)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_gradients_of_single_examples_are_those_of_a_loop() -> None:
    """As training with differential privacy takes them, which is by `vmap`."""
    network = decoder()
    head = shaken(network.make_head(1, (network.layout.num_logits,)))
    both = nn.Sequential(network, head)
    parameters = {name: p.detach() for name, p in both.named_parameters()}
    z = wave(4, D)

    def loss(parameters: dict[str, Tensor], z: Tensor) -> Tensor:
        return torch.func.functional_call(both, parameters, (z[None],)).log_softmax(-1).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, z)
    for row in range(4):
        alone = torch.func.grad(loss)(parameters, z[row])
        for name, value in alone.items():
            torch.testing.assert_close(each[name][row], value, msg=name)


def columns_of_each_kind(num: int) -> pl.DataFrame:
    """Two columns that say the same, and others."""
    rng = np.random.default_rng(0)
    kind = rng.choice(["a", "b", "c"], num)
    return pl.DataFrame(
        {
            "kind": kind,
            "same": np.char.upper(kind.astype(str)),
            "value": rng.normal(size=num).round(3),
            "hole": [None if g else v for g, v in zip(rng.random(num) < 0.2, rng.integers(0, 9, num).tolist(), strict=True)],
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Model:
    """Of the recipe's cells between transformers, trained for a moment, saved and loaded."""
    folder: Path = tmp_path_factory.mktemp("columns") / "model"
    data = open_data(columns_of_each_kind(600))
    torch.manual_seed(0)
    recipe = recipes.make(data, latent=3)
    likelihood: Any = recipe.vae.likelihood
    sizes, ordered = likelihood.sizes, likelihood.ordered
    inward = CellEmbedding(ColumnEncoder([len(sizes), 6], width=16, depth=2, heads=2, summaries=2), sizes, ordered, 6)
    outward = Cells(ColumnDecoder(3, sizes, width=16, depth=1, heads=2), sizes, ordered)
    settings: dict[str, Any] = {"steps": 200, "batch_size": 128, "device": "cpu", "precision": "float32", "display": "quiet"}
    settings |= {"learning_rate": 5e-3, "learning_rate_warm_up": 10, "ema": 0.9, "hide": 0.25, "validate_every": 100}
    vae = VAE(StandardNormal(3), DiagonalNormal(inward, 3), outward)
    vaekit.train(data, folder, vae=vae, transform=recipe.transform, objective=ELBO(warm_up=150), **settings)
    return vaekit.load(folder)


def test_it_learns_what_columns_say_of_each_other(model: vaekit.Model) -> None:
    frame = decode(model.generate_labelled(400, seed=1).x, model.schema.table)
    agree = (frame["kind"].str.to_uppercase() == frame["same"]).mean()
    assert isinstance(agree, float)
    assert agree > 0.6  # a third where the columns are independent


def test_an_encoding_does_not_depend_on_its_company(model: vaekit.Model) -> None:
    frame = columns_of_each_kind(40)
    together = model.encode(frame)
    for row in (0, 7, 39):
        alone = model.encode(frame[row : row + 1])
        assert np.array_equal(alone.mean[0], together.mean[row])
        assert np.array_equal(alone.scale[0], together.scale[row])


# ------------------------------------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("make", [lambda **a: ColumnEncoder([3, 2], **a), lambda **a: ColumnDecoder(2, [3, 4], **a)])
@pytest.mark.parametrize(
    "arguments",
    [{"width": 0}, {"depth": 0}, {"heads": 0}, {"width": 10, "heads": 4}, {"dropout": 1.0}, {"dropout": math.nan}],
)
def test_sizes_that_cannot_be(make: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"A Column(En|De)coder must have sizes .*, got width=.*\. Two layers of 64"):
        make(**arguments)


@pytest.mark.parametrize("arguments", [{"in_shape": [3]}, {"in_shape": [3, 0]}, {"in_shape": [3, 2, 1]}, {"summaries": 0}])
def test_an_encoder_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"A ColumnEncoder must have an `in_shape` .*, got in_shape=.*\. Give the shape"):
        ColumnEncoder(**{"in_shape": [3, 2], **arguments})


@pytest.mark.parametrize("arguments", [{"sizes": []}, {"sizes": [3, 0]}, {"num_latents": 0}, {"memory": -1}])
def test_a_decoder_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"A ColumnDecoder must have columns .*, got .*\. Give the `sizes`"):
        ColumnDecoder(**{"num_latents": 2, "sizes": [3, 2], **arguments})
