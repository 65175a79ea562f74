"""The likelihood of a table's rows: its start, its many columns and categories, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from likelihood_cases import without_features
from vaekit.distributions.cells import MOST_FLAT
from vaekit.errors import ConfigError
from vaekit.likelihoods import Cells
from vaekit.networks import MLP, ResidualMLP


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation gives, and of which operation; how many operations there were."""

    def __init__(self) -> None:
        super().__init__()
        self.elements, self.by, self.operations = 0, "", 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                kept = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
                if kept > self.elements:
                    self.elements, self.by = kept, str(func)
        return out


def test_start_has_the_frequencies_of_the_data() -> None:
    """With half a row more in each cell; of a column with groups, in each group, and in each cell of it."""
    torch.manual_seed(0)
    sizes, rows = [3, 1, 10, 1500], 200
    likelihood = without_features(Cells(MLP(2, [4]), sizes))
    cells = [torch.randint(max(1, size // 2), (rows,)) for size in sizes]
    x = torch.stack([cell + torch.rand(rows) * 0.99 for cell in cells], -1)
    mask = torch.rand(rows, 4) < 0.7
    likelihood.initialize(torch.where(mask, x, math.nan), mask)
    p = likelihood(torch.zeros(1, 1, 2))
    for column, size in enumerate(sizes[:3]):
        counts = torch.bincount(cells[column][mask[:, column]], minlength=size) + 0.5
        torch.testing.assert_close(p.column_log_masses(column)[0, 0].exp(), counts / counts.sum())
    groups = likelihood.layout.groups[3]
    counts = torch.bincount(cells[3][mask[:, 3]], minlength=1500).float()
    expected, of_group = torch.zeros(1500), torch.zeros(groups.count)
    for group in range(groups.count):
        own = slice(group * groups.size, min(1500, (group + 1) * groups.size))
        of_group[group] = counts[own].sum() + 0.5
        expected[own] = (counts[own] + 0.5) / (counts[own] + 0.5).sum() * of_group[group]
    grouped_bias = without_zero_weight(likelihood)(torch.zeros(1, 1, 2))
    torch.testing.assert_close(grouped_bias.column_log_masses(3)[0, 0].exp(), expected / of_group.sum(), rtol=1e-4, atol=1e-7)


def without_zero_weight(likelihood: Cells) -> Cells:
    """The same without what the head of groups' features has for its own bias."""
    with torch.no_grad():
        for parameter in likelihood.grouped_head.parameters():
            parameter.zero_()
    return likelihood


def test_start_beats_chance_and_every_cell_has_a_mass() -> None:
    torch.manual_seed(1)
    likelihood = without_features(Cells(MLP(2, [4]), [50, 2000]))
    x = torch.stack([torch.rand(300) * 3, torch.rand(300) * 40], -1)
    likelihood.initialize(x)
    p = likelihood(torch.zeros(1, 1, 2))
    assert p.log_prob(x).mean() > -math.log(3) - math.log(40) - 1.5
    everywhere = torch.stack([torch.rand(500) * 50, torch.rand(500) * 2000], -1)
    assert p.log_prob(everywhere).isfinite().all()


def test_a_thousand_columns_are_normalised_together() -> None:
    """As many operations as ten columns take: no loop over columns."""
    torch.manual_seed(0)
    counts = []
    for columns in (10, 1000):
        sizes = ([2, 3, 40, 256, 7] * columns)[:columns]
        likelihood = Cells(MLP(2, [8]), sizes)
        x = torch.rand(4, columns) * torch.tensor(sizes)
        z = torch.zeros(1, 4, 2)
        likelihood(z).log_prob(x)  # what is made once
        with Largest() as seen:
            p = likelihood(z)
            p.log_prob(x).sum().backward()
            draws = p.sample()
        assert draws.shape == (1, 4, columns)
        counts.append(seen.operations)
        assert seen.elements <= max(8, 4) * likelihood.layout.num_logits
    assert counts[0] == counts[1]
    one = [Cells(MLP(2, [8]), [size]) for size in (2, 256)]
    assert one[0].peak_elements() < one[1].peak_elements()


def test_a_hundred_thousand_categories() -> None:
    """A step on 64 rows makes no tensor of rows x categories, and none greater than weights or one group of each row."""
    torch.manual_seed(0)
    size, rank, batch = 100_000, 8, 64
    likelihood = Cells(MLP(2, [8]), [size, 3], rank=rank)
    groups = likelihood.layout.groups[0]
    x = torch.rand(batch, 2) * torch.tensor([size, 3])
    with Largest() as seen:
        p = likelihood(torch.randn(1, batch, 2))
        (-p.log_prob(x).sum()).backward()
        draws = p.sample()
    bound = max(groups.count * groups.size * rank, batch * groups.size * rank)
    assert seen.elements <= bound, seen.by
    assert bound < batch * size / 5
    assert draws[..., 0].max() < size
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in likelihood.parameters())
    assert likelihood.layout.num_logits < 1000
    with Largest() as seen, torch.no_grad():
        middle = likelihood(torch.randn(1, batch, 2)).middle
    assert size <= seen.elements / batch <= likelihood.peak_elements()
    assert middle.shape == (1, batch, 2)


def test_it_learns_a_column_of_many_categories() -> None:
    """log p of the value goes from -log n to what the latent tells."""
    torch.manual_seed(0)
    size = 4 * MOST_FLAT
    likelihood = Cells(MLP(1, [16]), [size], rank=8)
    z = torch.tensor([[[-1.0], [0.0], [1.0]]])
    x = torch.tensor([[5.5], [2000.5], [size - 0.5]])
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.03)
    for _ in range(80):
        optimizer.zero_grad()
        loss = -likelihood(z).log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    assert torch.equal(likelihood(z).middle, x[None])


def test_features_that_are_reduced_give_masses_that_are_not() -> None:
    likelihood = Cells(ResidualMLP(2, width=8, depth=1), [300, 2000], rank=4)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        p = likelihood(torch.randn(1, 4, 2))
        x = torch.rand(4, 2) * torch.tensor([300, 2000])
        log_p = p.log_prob(x)
        for column in range(2):
            torch.testing.assert_close(p.column_log_masses(column).logsumexp(-1), torch.zeros(1, 4), rtol=0, atol=1e-5)
    assert log_p.dtype == torch.float32


def test_places_that_are_none() -> None:
    likelihood = Cells(MLP(2, [4]), [3, 5])
    good = torch.tensor([[0.0, 0.0], [2.999, 4.999]])
    assert likelihood.check(good) is None
    for column, bad in ((0, 3.0), (1, 5.0), (0, -0.001), (1, math.nan), (0, math.inf)):
        x = good.clone()
        x[1, column] = bad
        assert likelihood.check(x) == f"places from 0 to below {[3, 5][column]} in column {column}"
        mask = torch.ones_like(x, dtype=torch.bool)
        mask[1, column] = False
        assert likelihood.check(x, mask) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"sizes": []},
        {"sizes": [3, 0]},
        {"sizes": [3], "rank": 0},
        {"sizes": [3], "ordered": []},
        {"sizes": [3], "ordered": [True] * 2},
    ],
)
def test_what_it_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"Cells must have columns of at least 1 cell, .*, got .*\. Give one size a column\."):
        Cells(MLP(2, [4]), **arguments)


def test_flags_of_order_reach_the_distribution() -> None:
    likelihood = Cells(MLP(2, [4]), [3, 3], [True, False])
    assert likelihood(torch.zeros(1, 1, 2)).ordered == (True, False)
    assert Cells(MLP(2, [4]), [3, 3])(torch.zeros(1, 1, 2)).ordered == (False, False)
