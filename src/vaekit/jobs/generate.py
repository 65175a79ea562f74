"""Generate: new examples from the prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vaekit.component import device_of
from vaekit.errors import ConfigError
from vaekit.inference import Progress, seeded
from vaekit.jobs.blocks import PLAINLY, Spelling, block_size, decoded, draws_mean
from vaekit.jobs.conditions import asked_where, beyond, draw_codes, features_of, printed
from vaekit.jobs.rows import RowsWhere, Table
from vaekit.storage import Bundle


@dataclass(frozen=True)
class Generated:
    """New examples.

    Attributes:
        x: (N, ...) in the source's layout and dtype; of a table its cells (N, C), float64.
        columns: what each was generated for, (N,) texts a condition, or numbers.
        notes: what a person should know.
    """

    x: np.ndarray
    columns: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def generate(
    bundle: Bundle,
    num: int,
    *,
    where: Any = None,
    temperature: float = 1.0,
    draw: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    spelling: Spelling = PLAINLY,
) -> Generated:
    """New examples: z ~ p(z|c), x ~ p(x|z, c); of a table with `where`, x ~ p(x|where) (see `jobs.rows`).

    The first m of n examples are the same for every n. With another `where`, a model whose prior does not depend on the
    condition keeps its latents: the same examples, as another category.

    Args:
        bundle: the model.
        num: how many, at least 1.
        where: the category or the number of each condition, by column, or a range of numbers (see
            `conditions.asked_where`); those not given are drawn by their frequencies in training. Of a
            table, any columns: expressions such as `["age>=30", "income=>50K"]`, or a dict (see
            `data.tables.where.parse_where`).
        temperature: factor on the prior's scales, > 0; below 1, more typical and less varied.
        draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images (clean pictures), a sample for vectors.
        seed: of all draws; the global random state is left as it was.
        progress: called with (done, total) as examples are done.
        spelling: of text, how it is made.

    Raises:
        ConfigError: if an argument cannot be, or the model is not conditioned on a column of `where`.
        DataError: if a category is unknown.
    """
    if num < 1:
        raise ConfigError(f"`num` must be at least 1, got {num}. Say how many examples to generate.")
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"`temperature` must be a number > 0, got {temperature}. Use a small value for typical examples.")
    draws_mean(bundle, draw)
    if where and bundle.schema.kind == "table":
        table = Table.of(bundle, "generate rows that fit `where`")
        with torch.inference_mode(), seeded(seed, table.device):
            drawn = RowsWhere(table, where, temperature).draw(num)
        note = drawn.note()
        return Generated(table.grid.inverse(drawn.x.cpu()).numpy(), {}, () if note is None else (note,))
    fixed = asked_where(bundle, where)
    block = block_size(bundle.schema)
    parts, codes = [], []
    with torch.inference_mode(), seeded(seed, device_of(bundle.vae)):
        for start in range(0, num, block):  # whole blocks are drawn and cut, so that fewer examples are the first of more
            count = min(block, num - start)
            columns = draw_codes(bundle, block, fixed)
            condition = bundle.vae.condition_of(columns, block)
            z = bundle.vae.sample_prior(block, condition=condition, temperature=temperature).flatten(2)[0]
            parts.append(decoded(bundle, z, features_of(bundle, columns, block), draw, spelling=spelling)[:count])
            codes.append({name: values[:count] for name, values in columns.items()})
            if progress is not None:
                progress(start + count, num)
    columns = {name: torch.cat([part[name] for part in codes]) for name in codes[0]}
    return Generated(np.concatenate(parts), printed(bundle.schema, columns), beyond(bundle, fixed))
