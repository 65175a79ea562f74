"""All measures of disentanglement that need the true factors, in one report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vaekit.errors import ConfigError
from vaekit.evaluation.disentanglement.examples import Examples, as_examples
from vaekit.evaluation.disentanglement.fixed import (
    LEAST_VARIANCE,
    BetaVaeScore,
    FactorVaeScore,
    beta_vae_score,
    factor_vae_score,
)
from vaekit.evaluation.disentanglement.importance import MOST_EXAMPLES, Dci, Predictor, dci
from vaekit.evaluation.disentanglement.information import Mig, Modularity, mig, modularity
from vaekit.evaluation.disentanglement.robustness import Irs, irs
from vaekit.evaluation.disentanglement.separability import Sap, sap
from vaekit.inference import ACTIVE, Progress
from vaekit.types import Json

_FEW = 10_000


@dataclass(frozen=True)
class DisentanglementReport:
    """How disentangled codes are, given the true factors.

    Attributes:
        mig: see `mig`.
        dci: see `dci`.
        sap: see `sap`.
        factor_vae: see `factor_vae_score`.
        beta_vae: see `beta_vae_score`.
        modularity: see `modularity`.
        irs: see `irs`.
        factors: (F,) their names.
        unit_variances: (D,) of the codes.
        active_units: units whose variance is above 0.01.
        num_examples: N.
        seed: of all draws.
        chance: the same scores of codes that belong to other examples: what these units would score if they knew nothing. None
            unless it was asked for.
        notes: what a person should know.
    """

    mig: Mig
    dci: Dci
    sap: Sap
    factor_vae: FactorVaeScore
    beta_vae: BetaVaeScore
    modularity: Modularity
    irs: Irs
    factors: tuple[str, ...]
    unit_variances: tuple[float, ...]
    active_units: int
    num_examples: int
    seed: int
    chance: dict[str, float] | None
    notes: tuple[str, ...]

    @property
    def scores(self) -> dict[str, float]:
        """The one number of each measure; of all of them, higher is better and 1 the most."""
        return _scores({name: getattr(self, name) for name in _MEASURES})

    def to_json(self) -> Json:
        """The report as a JSON object, with `scores` in front."""
        return {"scores": self.scores} | asdict(self)


def evaluate_disentanglement(
    codes: Any,
    factors: Any,
    *,
    names: Sequence[str] | None = None,
    continuous: Collection[int] = (),
    predictor: Predictor = "forest",
    least_variance: float = LEAST_VARIANCE,
    chance: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> DisentanglementReport:
    """MIG, DCI, SAP, modularity, IRS and the scores of beta-VAE and FactorVAE, each with its defaults.

    Args:
        codes: (N, D) means of the posterior; 10,000 examples or more, drawn at random from all combinations of the factors.
        factors: (N, F) codes of the true factors, two or more, each of which takes two or more values.
        names: (F,) of the factors.
        continuous: which factors are numbers for `sap`, by their place.
        predictor: of `dci`, `forest` or `boosting`.
        least_variance: of a unit that is not pruned from `factor_vae_score`.
        chance: measure shuffled codes as well, which takes as long again.
        seed: of all draws.
        progress: called with (done, total) as measures are done.

    Raises:
        DataError: if the arrays cannot be measured: shapes that do not fit, fewer than 30 examples, NaN, a constant factor, an
            unknown factor, or a factor of which no two examples share a value.
        ConfigError: if there is not a name a factor, or another argument cannot be.
        MissingExtraError: if scikit-learn is not installed.

    Example:
        >>> grid = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2).repeat(5, 0)
        >>> found = evaluate_disentanglement(2.0 * grid, grid, names=("shape", "colour"))
        >>> {name: score for name, score in found.scores.items() if score < 0.99}  # the best unit is right, the other by chance
        {'sap': 0.75}
    """
    examples = as_examples(codes, factors, 2)
    names = tuple(f"factor {i}" for i in range(examples.num_factors)) if names is None else tuple(map(str, names))
    if len(names) != examples.num_factors:
        raise ConfigError(f"`names` must name each of the {examples.num_factors} factors, got {len(names)}. Give one a factor.")
    options: dict[str, dict[str, Any]] = {
        "dci": {"predictor": predictor, "seed": seed},
        "sap": {"continuous": continuous},
        "factor_vae": {"least_variance": least_variance, "seed": seed},
        "beta_vae": {"seed": seed},
    }
    total = len(_MEASURES) * (2 if chance else 1)
    done = 0

    def measured(units: np.ndarray) -> dict[str, Any]:
        nonlocal done
        found = {}
        for name, measure in _MEASURES.items():
            found[name] = measure(units, examples.values, **options.get(name, {}))
            done += 1
            if progress is not None:
                progress(done, total)
        return found

    found = measured(examples.codes)
    variances = examples.codes.var(0)
    return DisentanglementReport(
        **found,
        factors=names,
        unit_variances=tuple(float(variance) for variance in variances),
        active_units=int((variances > ACTIVE).sum()),
        num_examples=len(examples),
        seed=seed,
        chance=_scores(measured(np.random.default_rng(seed).permutation(examples.codes))) if chance else None,
        notes=_notes(examples, found["factor_vae"], least_variance),
    )


_MEASURES: dict[str, Callable[..., Any]] = {
    "mig": mig,
    "sap": sap,
    "modularity": modularity,
    "irs": irs,
    "factor_vae": factor_vae_score,
    "beta_vae": beta_vae_score,
    "dci": dci,
}


def _scores(found: dict[str, Any]) -> dict[str, float]:
    return {
        "mig": found["mig"].score,
        "dci_disentanglement": found["dci"].disentanglement,
        "dci_completeness": found["dci"].completeness,
        "dci_informativeness": found["dci"].informativeness,
        "sap": found["sap"].score,
        "factor_vae": found["factor_vae"].score,
        "beta_vae": found["beta_vae"].score,
        "modularity": found["modularity"].score,
        "irs": found["irs"].score,
    }


def _notes(examples: Examples, factor_vae: FactorVaeScore, least_variance: float) -> tuple[str, ...]:
    notes = []
    if factor_vae.num_active < examples.num_units:
        pruned = examples.num_units - factor_vae.num_active
        notes.append(
            f"{pruned} of {examples.num_units} units are constant or have a variance below {least_variance:g}, and take no "
            "part in the FactorVAE score."
        )
    if len(examples) > MOST_EXAMPLES:
        notes.append(f"DCI looked at {MOST_EXAMPLES:,} of the {len(examples):,} examples.")
    elif len(examples) < _FEW:
        notes.append(
            f"With {len(examples):,} examples, figures do not compare with published ones, which are of {_FEW:,} or more."
        )
    return tuple(notes)
