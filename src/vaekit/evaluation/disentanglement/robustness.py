"""IRS: whether units stay where they are while all factors but one move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.disentanglement.examples import Matrix, as_examples, check_matrix, floats, groups_of, integers, rows


@dataclass(frozen=True)
class Irs:
    """The interventional robustness score.

    Attributes:
        score: mean of `units`, weighted by how far each unit moves at all, up to 1; 0 where none does.
        units: (D,) the greatest robustness of each unit; 0 for one that never moves.
        factors: (D,) the factor that each unit is most robust for.
        robustness: (D, F).
    """

    score: float
    units: tuple[float, ...]
    factors: tuple[int, ...]
    robustness: Matrix


def irs(codes: Any, factors: Any, *, quantile: float = 0.99) -> Irs:
    """The interventional robustness score: how still does a unit stand, given its factor, whatever the others do?

        R_df  = 1 - mean_v max_{n: v_f = v} |z_nd - E[z_d | v_f = v]| / max_n |z_nd - E[z_d]|
        score = sum_d m_d max_f R_df / sum_d m_d,     m_d = max_n |z_nd - E[z_d]|

    It needs every combination of factors to be as likely as another. Chance is not 0: of codes with long tails a part of the
    examples does not reach as far as all of them. Suter, Miladinovic, Schoelkopf, Bauer, "Robustly disentangled causal
    mechanisms: validating deep representations for interventional robustness" (2019). As in their code, the inner maximum is
    a quantile, 0.99, and the outer one is not; 1 is the formula of the paper. R below 0
    counts as 0, and values that a single example has are left out.

    Args:
        codes: (N, D) means of the posterior.
        factors: (N, F) codes of the true factors.
        quantile: of the distances within a value, above 0 and up to 1.

    Raises:
        DataError: if the arrays cannot be measured, see `as_examples`, or no two examples share a value of some factor.
        ConfigError: if the quantile cannot be.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(5)), axis=-1).reshape(-1, 2)
        >>> irs(grid, grid).score, irs(grid, grid).factors
        (1.0, (0, 1))
    """
    if not 0 < quantile <= 1:
        raise ConfigError(f"`quantile` must be above 0 and at most 1, got {quantile}. Use 1 for the greatest distance.")
    examples = as_examples(codes, factors)
    reach = np.abs(examples.codes - examples.codes.mean(0)).max(0)
    reach = np.where(np.ptp(examples.codes, axis=0) > 0, reach, 0.0)
    robustness = np.zeros((examples.num_units, examples.num_factors))
    for factor in range(examples.num_factors):
        groups = groups_of(examples, factor)
        moved = np.zeros(examples.num_units)
        for value in range(len(groups.sizes)):
            part = examples.codes[groups.rows(value)]
            moved += np.quantile(np.abs(part - part.mean(0)), quantile, axis=0)
        # Rounding, and a mean far from that of all examples, can take a part further than the whole.
        robustness[:, factor] = np.clip(1.0 - moved / len(groups.sizes) / np.where(reach > 0, reach, 1.0), 0.0, 1.0)
    robustness[reach == 0] = 0.0
    return Irs(
        irs_from_robustness(robustness, reach), floats(robustness.max(1)), integers(robustness.argmax(1)), rows(robustness)
    )


def irs_from_robustness(robustness: Any, reach: Any) -> float:
    """sum_d m_d max_f R_df / sum_d m_d; 0 where all m are 0.

    Args:
        robustness: (D, F) R.
        reach: (D,) m >= 0.

    Raises:
        ConfigError: if these are no such numbers.

    Example:
        >>> irs_from_robustness([[1.0, 0.0], [0.25, 0.5]], [3.0, 1.0])  # (3 * 1 + 1 * 0.5) / 4
        0.875
    """
    found, weights = check_matrix("robustness", robustness), np.asarray(reach, dtype=np.float64)
    if weights.shape != found.shape[:1] or not (weights >= 0).all():
        raise ConfigError(f"`reach` must be a number >= 0 for each of {len(found)} units, got {weights.tolist()}. Give them.")
    return float(found.max(1) @ weights / weights.sum()) if weights.any() else 0.0
