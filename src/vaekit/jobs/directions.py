"""Directions: units of the latent that a person names, directions learned from a few examples, and moves along them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.component import device_of
from vaekit.data.dataset import Dataset, spaced
from vaekit.directions import Direction, LearnedDirection, UnitDirection, check_name
from vaekit.errors import ConfigError, DataError
from vaekit.inference import Progress, check_examples, seeded
from vaekit.jobs.blocks import posterior_of
from vaekit.jobs.conditions import features_of
from vaekit.jobs.spaces import Moves, factors_of
from vaekit.storage import Bundle

DRAWN = 1000
"""Draws of the prior that stand for all examples where none without the attribute are given."""

_MODERATION = 4.0
_LEAST_SHRINKAGE = 0.02
_LEAST_SPREAD = 1e-8
_HELD_OUT, _PAIRS = 128, 400
_CHANCE, _FEW = 0.75, 5


def check_free(bundle: Bundle, name: str, force: bool = False) -> None:
    """Refuses a name that is none, that a column of the data has, or that is given already.

    Raises:
        ConfigError: if it may not be given.
    """
    check_name(name)
    if is_column(bundle, name):
        raise ConfigError(f"A name must be another than that of a column of the data, got {name!r}. Choose another name.")
    if name in bundle.directions and not force:
        raise ConfigError(f"A name must be new, got {name!r}, which is {described(bundle.directions[name])}. Replace it by "
                          "`force=True` (`--force`), or choose another.")  # fmt: skip


def named(bundle: Bundle, name: str) -> Direction:
    """The direction of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in bundle.directions:
        known = ", ".join(bundle.directions) or "none"
        raise ConfigError(
            f"The model must have a direction {name!r}, it has {known}. Name a unit by `vaekit name MODEL UNIT {name}`."
        )
    return bundle.directions[name]


def is_column(bundle: Bundle, name: str) -> bool:
    """Whether the data have a column of that name, beside them or within."""
    return any(column.name == name for column in (*bundle.schema.columns, *bundle.schema.table))


def described(direction: Direction) -> str:
    """What a direction is, in a few words.

    Example:
        >>> described(UnitDirection(unit=3))
        'unit 3, a step is 1'
    """
    if isinstance(direction, UnitDirection):
        known = ", the standard deviation of the data's" if direction.measured == "data" else ""
        return f"unit {direction.unit}, a step is {direction.scale:.3g}{known}"
    others = "other examples" if direction.against == "examples" else "draws of the prior"
    pairs = f"; {direction.separation:.0%} of held-out pairs told apart" if direction.separation is not None else ""
    return f"learned from {direction.num_positive:,} examples and {direction.num_negative:,} {others}{pairs}"


def remarks(name: str, direction: Direction) -> list[str]:
    """What a person should know before they rely on a direction."""
    if isinstance(direction, UnitDirection):
        return []
    few = min(direction.num_positive, direction.num_negative)
    if direction.separation is None:
        return [f"`{name}` is learned from a single example on one side: how good it is cannot be measured. Give more."]
    if direction.separation < _CHANCE:
        return [
            f"`{name}` tells {direction.separation:.0%} of held-out pairs apart, where chance tells 50%: hardly a direction. "
            "Give more examples, or a model whose latent knows of it."
        ]
    if few < _FEW:
        return [f"`{name}` is learned from {few} examples on one side, and may hold what is theirs alone. Give more."]
    return []


@torch.no_grad()
def of_unit(bundle: Bundle, unit: int, dataset: Dataset | None = None, progress: Progress | None = None) -> UnitDirection:
    """A unit as a direction, whose step is one standard deviation of the unit.

        of the prior                   without data, as `spaces.Moves` measures it: 1 where it is N(0, I)
        of the aggregate posterior     sigma_d^2 = Var_n(E q(z_d|x_n)) + mean_n Var(q(z_d|x_n)), of N examples

    The two agree for a unit that a model uses and that its prior fits. Units that are no real numbers, as those of a sphere,
    have a step of 1 and cannot be edited.

    Args:
        bundle: the model.
        unit: d, from 0.
        dataset: examples to measure the unit on; None to take the prior's word.
        progress: called with (done, total) as examples are done.

    Raises:
        ConfigError: if there is no such unit, it has no way from one value to another, or is constant.
    """
    factor = next((factor for factor in factors_of(bundle.vae) if factor.start <= unit < factor.stop), None)
    if factor is None or unit < 0:
        raise ConfigError(f"A unit must be from 0 to {bundle.vae.num_latents - 1}, got {unit}. See `vaekit traverse`.")
    if not factor.movable:
        raise ConfigError(f"Unit {unit} must have a way from one value to another, found {factor.name}. Choose another unit.")
    if factor.kind != "real":
        return UnitDirection(unit=unit)
    if dataset is None:
        moves = _moves(bundle)
        found = UnitDirection(unit=unit, mean=float(moves.mean[unit]), scale=max(float(moves.scale[unit]), 1e-30))
    else:
        check_examples(dataset)
        mean, scale = (part[:, unit].double() for part in posterior_of(bundle, dataset, progress))
        spread = float((mean.var(unbiased=False) + scale.square().mean()).sqrt())
        found = UnitDirection(unit=unit, mean=float(mean.mean()), scale=max(spread, 1e-30), measured="data")
    if found.scale < 1e-9:
        raise ConfigError(
            f"Unit {unit} must vary to be named, found it constant. Choose one that `vaekit traverse` puts first."
        )
    return found


def learn(
    bundle: Bundle,
    positive: Sequence[Dataset],
    negative: Sequence[Dataset] = (),
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> LearnedDirection:
    """A direction from examples that have an attribute, and examples that have not.

        d = m+ - m-                                 the difference of the mean latents
        v_i = d_i max(0, 1 - 1 / t_i^2)             the step: d without what is chance,  t_i^2 = d_i^2 / (s_i^2 (1/n+ + 1/n-))
        u = C^-1 v / (v C^-1 v)                     the reading: a discriminant, so that u v = 1
        C = S ((1 - a) R + a I) S                   S = diag(s), R the correlations within the two groups

    To move by a difference of means is Larsen et al. (2016), section 4, and White, "Sampling generative networks" (2016). Where
    both groups have one covariance, z + d has the law of the other group; moved by the weights C^-1 d of a discriminant, it has
    not: weights read, and do not make (Haufe et al., "On the interpretation of weight vectors of linear models in
    multivariate neuroimaging", 2014). With few examples and many units most of d is what is theirs alone: the factor takes it
    away, unit by unit. It is that of Breiman, "Better subset regression using the nonnegative garrote" (1995), for orthogonal
    predictors. Variances are moderated as in Smyth, "Linear models and empirical Bayes methods for assessing differential
    expression in microarray experiments" (2004), as if four more examples had varied as units do on average, in units of the
    prior's scale, which is all that one example a side can go by. a is that of Ledoit, Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices" (2004). Departure: R is shrunk towards I, and a is at least 0.02. Latents are means
    of the posterior; units that are no real numbers stay out.

    How good it is: a positive and a negative example are held out, the direction is learned from the rest, and it is seen
    which of the two stands further along u. All pairs of at most 128 examples a side, or 400 of them.

    Args:
        bundle: the model.
        positive: examples that have it; all of them together.
        negative: examples that have not; none for 1,000 draws of the prior, which stand for all.
        seed: of those draws, and of which pairs.
        progress: called with (done, total) as examples are done.

    Raises:
        ConfigError: if no unit is a real number.
        DataError: if there are no examples, or no unit differs by more than chance.
    """
    real = torch.tensor(
        [d for f in factors_of(bundle.vae) if f.kind == "real" for d in range(f.start, f.stop)], dtype=torch.int64
    )
    if not len(real):
        raise ConfigError(f"Latents must be real numbers to be added to, found {factors_of(bundle.vae)[0].name}. Name a unit.")
    with torch.no_grad():
        moves = _moves(bundle)
        have = _latents(bundle, positive, progress)[:, real]
        lack = _latents(bundle, negative, progress)[:, real] if negative else _drawn(bundle, seed)[:, real]
    scale = moves.scale[real].clamp_min(1e-30)
    fit = _fit(have, lack, scale)
    if fit is None:
        raise DataError(
            f"Examples that have it must differ from those that have not by more than chance, found no unit in which "
            f"{len(have)} and {len(lack)} of them do. Give more examples."
        )
    separation, num_pairs = separation_of(have, lack, scale, seed)
    vector, reading = torch.zeros(2, bundle.vae.num_latents, dtype=torch.float64)
    vector[real], reading[real] = fit.step, fit.reader
    return LearnedDirection(
        vector=tuple(vector.tolist()),
        reading=tuple(reading.tolist()),
        offset=fit.offset,
        num_positive=len(have),
        num_negative=len(lack),
        against="examples" if negative else "prior",
        separation=separation,
        num_pairs=num_pairs,
    )


def _moves(bundle: Bundle) -> Moves:
    return Moves(bundle.vae, features_of(bundle, {}, 1))


def _latents(bundle: Bundle, datasets: Sequence[Dataset], progress: Progress | None) -> Tensor:
    for dataset in datasets:
        check_examples(dataset)
    return torch.cat([posterior_of(bundle, dataset, progress)[0] for dataset in datasets]).double()


def _drawn(bundle: Bundle, seed: int) -> Tensor:
    """(1000, D) draws of the prior; conditions are unknown."""
    with seeded(seed, device_of(bundle.vae)):
        return bundle.vae.sample_prior(DRAWN, condition=bundle.vae.condition_of(None, DRAWN))[0].cpu().double()


@dataclass(frozen=True)
class _Fit:
    """v, u and b of a direction."""

    step: Tensor
    reader: Tensor
    offset: float


def _fit(have: Tensor, lack: Tensor, scale: Tensor) -> _Fit | None:
    """The direction from `lack` (m, D) to `have` (n, D), float64; None where nothing is left of the difference.

    Args:
        have: latents of examples that have it.
        lack: of those that have not.
        scale: (D,) the prior's standard deviations, > 0.
    """
    n, m = len(have), len(lack)
    means = have.mean(0), lack.mean(0)
    residuals = torch.cat([have - means[0], lack - means[1]])
    freedom = max(n + m - 2, 0)
    squares = residuals.square().sum(0)
    usual = 1.0 if freedom < 1 else float((squares / scale.square()).mean().clamp_min(_LEAST_SPREAD) / freedom)
    variance = (squares + _MODERATION * usual * scale.square()) / (freedom + _MODERATION)
    difference = means[0] - means[1]
    chance = variance * (1 / n + 1 / m)
    step = difference * (1 - chance / difference.square().clamp_min(1e-300)).clamp_min(0)
    if not bool((step != 0).any()):
        return None
    weights = _solved(residuals / variance.sqrt(), step / variance.sqrt(), freedom) / variance.sqrt()
    reader = weights / (step @ weights)
    return _Fit(step, reader, float(reader @ (means[0] + means[1]) / 2 - 0.5))


def _solved(residuals: Tensor, b: Tensor, freedom: int) -> Tensor:
    """((1 - a) R + a I)^-1 b, where R = residuals' residuals / freedom, in the smaller of its two dimensions."""
    num, width = residuals.shape
    if freedom < 1:
        return b
    wide = width > num
    gram = (residuals @ residuals.T if wide else residuals.T @ residuals) / freedom
    size = gram.square().sum()  # the same of both
    noise = residuals.square().sum(1).square().sum() / freedom**2 - size / num
    distance = size - 2 * gram.trace() + width
    share = float((noise / distance.clamp_min(1e-300)).clamp(_LEAST_SHRINKAGE, 1.0))
    eye = torch.eye(len(gram), dtype=torch.float64)
    if not wide:
        return torch.linalg.solve((1 - share) * gram + share * eye, b)
    inner = torch.linalg.solve((1 - share) * gram + share * eye, residuals @ b)
    return (b - (1 - share) / freedom * (residuals.T @ inner)) / share


def separation_of(have: Tensor, lack: Tensor, scale: Tensor, seed: int = 0) -> tuple[float | None, int]:
    """The share of held-out pairs that are told apart, and how many there were; None and 0 with one example on a side.

    A pair without a direction, and one that stands at one place, counts a half. To hold out pairs gives an estimate of the area
    under the ROC curve with next to no bias: Airola et al., "An experimental comparison of cross-validation techniques for
    estimating the area under the ROC curve" (2011).

    Args:
        have: (n, D) latents of examples that have it, float64.
        lack: (m, D) of those that have not.
        scale: (D,) the prior's standard deviations.
        seed: of which pairs.
    """
    have, lack = (part[torch.from_numpy(spaced(len(part), _HELD_OUT))] for part in (have, lack))
    if min(len(have), len(lack)) < 2:
        return None, 0
    total = len(have) * len(lack)
    pairs = np.arange(total) if total <= _PAIRS else np.random.default_rng(seed).choice(total, _PAIRS, replace=False)
    right = 0.0
    for pair in pairs.tolist():
        i, j = divmod(pair, len(lack))
        fit = _fit(_without(have, i), _without(lack, j), scale)
        ahead = 0.0 if fit is None else float(fit.reader @ (have[i] - lack[j]))
        right += 0.5 if ahead == 0 else float(ahead > 0)
    return right / len(pairs), len(pairs)


def _without(rows: Tensor, index: int) -> Tensor:
    return torch.cat([rows[:index], rows[index + 1 :]])


@dataclass(frozen=True)
class Move:
    """What is asked for along a direction.

    Attributes:
        amount: s steps, or the position to stand at.
        absolute: whether it is a position.
    """

    amount: float
    absolute: bool = False


def parse_move(name: str, value: str | float) -> Move:
    """`+2` and `-1.5` are steps, `=0` is a position; a number is steps.

    Raises:
        ConfigError: if it is neither.

    Example:
        >>> parse_move("slant", "-1.5"), parse_move("slant", "=0")
        (Move(amount=-1.5, absolute=False), Move(amount=0.0, absolute=True))
    """
    text = str(value)
    absolute = text.startswith("=")
    try:
        amount = float(text.removeprefix("="))
    except ValueError:
        amount = math.nan
    signed = absolute or not isinstance(value, str) or text[:1] in ("+", "-")
    if not math.isfinite(amount) or not signed:
        raise ConfigError(
            f"`{name}` is a direction: write `{name}=+2` to move by 2 steps, `{name}=-2` to move back, or `{name}==2` to put "
            f"examples at 2; got {text!r}."
        )
    return Move(amount, absolute)


def moved(bundle: Bundle, z: Tensor, moves: Mapping[str, Move], strength: float = 1.0) -> Tensor:
    """(N, D): latents moved along named directions and along nothing else.

        z' = z + strength sum_i s_i v_i

    Steps are as they are asked for; those of the directions that are to stand at a position solve, all together,
    position_i(z') = p_i, after the steps of the others (at a strength of 1). Units that no direction moves keep their bits.

    Args:
        bundle: the model, which knows the names.
        z: (N, D).
        moves: what is asked for, by name.
        strength: of everything; 0 leaves the latents as they are.

    Raises:
        ConfigError: if a direction moves units that are no real numbers, or two of them are to stand somewhere and are one.
    """
    if not moves:
        return z
    num = z.shape[1]
    steps = {name: bundle.directions[name].step(num) for name in moves}
    _check_real(bundle, steps)
    exact = z.double().cpu()
    change = torch.zeros_like(exact)
    for name, move in moves.items():
        change += 0.0 if move.absolute else move.amount * steps[name]
    placed = [name for name, move in moves.items() if move.absolute]
    if placed:
        ways = torch.stack([steps[name] for name in placed])
        readers = torch.stack([bundle.directions[name].reader(num) for name in placed])
        at = torch.stack([bundle.directions[name].position(exact + change) for name in placed], dim=1)
        goal = torch.tensor([moves[name].amount for name in placed], dtype=torch.float64)
        crossed = readers @ ways.T
        if float(torch.linalg.cond(crossed)) > 1e6:
            raise ConfigError(
                f"Directions that are to stand somewhere must be several, found {', '.join(placed)} to be fewer. Leave one out."
            )
        change += torch.linalg.solve(crossed, (goal - at).T).T @ ways
    return torch.where(change == 0, z, (exact + strength * change).to(z))


def _check_real(bundle: Bundle, steps: Mapping[str, Tensor]) -> None:
    for name, step in steps.items():
        stuck = next(
            (f for f in factors_of(bundle.vae) if f.kind != "real" and bool((step[f.start : f.stop] != 0).any())), None
        )
        if stuck is not None:
            raise ConfigError(
                f"Latents must be real numbers to be moved by steps, but `{name}` is one of {stuck.name}. See it by "
                f"`vaekit traverse --unit {name}`."
            )
