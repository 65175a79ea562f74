"""Networks that read the rows of a table: embeddings of cells, and residual blocks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.component import Component
from vaekit.errors import ConfigError
from vaekit.networks import MLP, CellEmbedding, ResidualMLP

SIZES, ORDERED, E = [3, 4, 1, 6], [False, True, False, True], 2


class Keep(Component):
    """A network that gives what it is given."""

    def __init__(self, columns: int = 4) -> None:
        super().__init__()
        self.out_shape = (columns, E)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        return nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        assert mask is None  # a missing column has an embedding, and needs no mask
        return x if condition is None else x + condition.sum(-1)[..., None, None]


def embedding() -> CellEmbedding:
    torch.manual_seed(0)
    network = CellEmbedding(Keep(), SIZES, ORDERED, E).double()
    with torch.no_grad():
        network.slope.normal_()
    return network


def rows(num: int = 20) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(num, 4, dtype=torch.float64) * torch.tensor(SIZES)


def by_hand(network: CellEmbedding, x: Tensor, mask: Tensor) -> Tensor:
    """One cell after the other."""
    out = torch.empty(*x.shape, E, dtype=torch.float64)
    for row in range(len(x)):
        for column, size in enumerate(SIZES):
            place = x[row, column].item()
            if not mask[row, column]:
                out[row, column] = network.unknown[column]
                continue
            out[row, column] = network.cells.weight[sum(SIZES[:column]) + math.floor(place)]
            if ORDERED[column]:
                out[row, column] += (2 * place / size - 1) * network.slope[column]
    return out


def test_embedding_is_its_formula() -> None:
    network, x = embedding(), rows()
    mask = torch.rand(x.shape) < 0.6
    torch.testing.assert_close(network(x), by_hand(network, x, torch.ones_like(mask)))
    torch.testing.assert_close(network(x, mask=mask), by_hand(network, x, mask))
    torch.testing.assert_close(network(x, mask=mask[0]), by_hand(network, x, mask[0].expand(x.shape)))
    torch.testing.assert_close(
        network(x.reshape(4, 5, 4), mask=mask.reshape(4, 5, 4)), network(x, mask=mask).reshape(4, 5, 4, E)
    )
    torch.testing.assert_close(network(x, torch.ones(20, 3).double()), network(x) + 3)


def test_only_what_is_missing_is_unknown() -> None:
    network, x = embedding(), rows()
    mask = torch.rand(x.shape) < 0.5
    unknown = (network(x, mask=mask) == network.unknown).all(-1)
    assert torch.equal(unknown, ~mask)
    assert network.cells.weight.shape == (sum(SIZES), E)
    assert (network.unknown.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, -1.0, 1e9])
def test_what_stands_at_a_missing_column_is_not_read(junk: float) -> None:
    network, x = embedding(), rows()
    mask = torch.rand(x.shape) < 0.5
    results = []
    for given in (x, torch.where(mask, x, junk)):
        network.zero_grad()
        out = network(given, mask=mask)
        out.square().sum().backward()
        results.append(
            (out.detach(), *(parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None))
        )
    assert len(results[0]) == 4
    for a, b in zip(*results, strict=True):
        assert torch.isfinite(b).all()
        assert torch.equal(a, b)


def test_gradients_reach_what_was_used_and_nothing_else() -> None:
    network = embedding()
    x = torch.tensor([[1.5, 2.5, 0.5, 0.2], [1.2, 0.1, 0.5, 5.9]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True], [True, False, False, True]])
    network(x, mask=mask).sum().backward()
    assert network.cells.weight.grad is not None
    used = (network.cells.weight.grad.abs().sum(-1) > 0).nonzero().flatten().tolist()
    assert used == [1, 3 + 2, 8 + 0, 8 + 5]  # the cells of the two rows
    assert network.unknown.grad is not None
    assert (network.unknown.grad.abs().sum(-1) > 0).tolist() == [False, True, True, False]
    assert network.slope.grad is not None
    assert (network.slope.grad.abs().sum(-1) > 0).tolist() == ORDERED


def test_only_an_order_has_a_slope() -> None:
    """The place inside a cell says something of a number, and nothing of a category."""
    network = embedding()
    low, high = torch.tensor([[1.1, 1.1, 0.1, 1.1]]).double(), torch.tensor([[1.9, 1.9, 0.9, 1.9]]).double()
    assert (network(low) == network(high)).all(-1).tolist() == [[True, False, True, False]]
    fresh = CellEmbedding(Keep(), SIZES, ORDERED, E).double()
    assert torch.equal(fresh(low), fresh(high))  # it starts at 0


def test_places_at_the_ends_have_their_cells() -> None:
    network = CellEmbedding(Keep(1), [100_000], [False], E)
    x = torch.tensor([[0.0], [99_999.0], [torch.nextafter(torch.tensor(100_000.0), torch.tensor(0.0)).item()]])
    for row, cell in zip(network(x), [0, 99_999, 99_999], strict=True):
        assert torch.equal(row[0], network.cells.weight[cell])


def test_an_embedding_in_a_reduced_precision_reads_places_in_full() -> None:
    """In bfloat16 cells 257 and 258 would be one."""
    network = CellEmbedding(MLP([1, E], [8]), [1000], [True], E)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(torch.tensor([[257.5], [258.5]]))
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"sizes": [], "ordered": []},
        {"sizes": [3, 0], "ordered": [True, True]},
        {"sizes": [3], "ordered": [True, False]},
        {"sizes": [3], "ordered": [True], "features": 0},
    ],
)
def test_an_embedding_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"A CellEmbedding must have .*, got .*\. Give one size and one flag a column\."):
        CellEmbedding(MLP([1, 2], [4]), **arguments)


# ----------------------------------------------------------------------------------------------------------- residual blocks


def layer_norm(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def shaken(network: ResidualMLP) -> ResidualMLP:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return network.double()


def test_residual_network_is_its_formula() -> None:
    network, x = shaken(ResidualMLP([2, 3], width=5, depth=2)), torch.randn(7, 2, 3).double()
    h = x.reshape(7, 6) @ network.first.weight.T + network.first.bias
    for block in list(network.blocks)[:-1]:
        value, gate = (layer_norm(h, block.norm) @ block.up.weight.T + block.up.bias).chunk(2, -1)
        h = h + (value * gate / (1 + (-gate).exp())) @ block.down.weight.T + block.down.bias
    torch.testing.assert_close(network(x), layer_norm(h, network.blocks[-1]))
    assert network.out_shape == (5,)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_blocks_start_as_the_identity(depth: int) -> None:
    network, x = ResidualMLP(3, width=6, depth=depth), torch.randn(5, 3)
    torch.testing.assert_close(network(x), F.layer_norm(network.first(x), (6,)))
    assert len(network.blocks) == depth + 1


def test_a_condition_is_part_of_the_input() -> None:
    network = shaken(ResidualMLP(3, width=4, depth=1, condition_features=2))
    z, condition = torch.randn(2, 5, 3).double(), torch.randn(5, 2).double()
    plain = shaken(ResidualMLP(5, width=4, depth=1))
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(z, condition), plain(torch.cat([z, condition.expand(2, 5, 2)], -1)))
    for wrong in (None, torch.zeros(5, 3)):
        with pytest.raises(ConfigError, match="takes a condition of 2 features"):
            network(z, wrong)


@pytest.mark.parametrize("junk", [math.nan, math.inf, 7.0])
def test_what_is_missing_is_the_centre_and_can_be_seen(junk: float) -> None:
    x = torch.rand(6, 3).double() * 4
    mask = torch.rand(6, 3) < 0.5
    network = shaken(ResidualMLP(3, width=4, input_range=[0.0, 4.0]))
    torch.testing.assert_close(network(torch.where(mask, x, junk), mask=mask), network(torch.where(mask, x, 2.0)))
    seeing = shaken(ResidualMLP(3, width=4, input_range=[0.0, 4.0], observe_mask=True))
    plain = shaken(ResidualMLP(6, width=4))
    plain.load_state_dict(seeing.state_dict())
    both = torch.cat([torch.where(mask, x / 2 - 1, 0.0), mask.double()], -1)
    torch.testing.assert_close(seeing(torch.where(mask, x, junk), mask=mask), plain(both))
    torch.testing.assert_close(seeing(x), plain(torch.cat([x / 2 - 1, torch.ones_like(x)], -1)))


def test_leading_axes_are_a_loop_and_no_example_sees_another() -> None:
    network = shaken(ResidualMLP([2, 3], width=4))
    x = torch.randn(3, 4, 2, 3).double()
    torch.testing.assert_close(network(x), torch.stack([torch.stack([network(row[None])[0] for row in rows]) for rows in x]))


def test_dropout_is_of_training_alone() -> None:
    network = shaken(ResidualMLP(3, width=64, depth=2, dropout=0.5))
    x = torch.randn(4, 3).double()
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize(
    "arguments", [{"width": 0}, {"in_shape": [3, 0]}, {"depth": -1}, {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": math.nan}]
)
def test_a_residual_network_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"A ResidualMLP must have .*, got .*\. Two blocks"):
        ResidualMLP(**{"in_shape": 3, "width": 4, **arguments})
