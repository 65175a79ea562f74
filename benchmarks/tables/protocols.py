"""What synthetic rows are worth: the scores of a synthetic CSV file beside the real rows it stands for.

    VENV/bin/python benchmarks/tables/protocols.py --synthetic FILE --data FOLDER [--fast] [--json FILE]

It runs in the environment of requirements-peers.txt and knows nothing of vaekit: any side is a CSV file with the columns of
FOLDER/train.csv. A column is one of numbers where every cell of it in train.csv is a number or empty, else one of categories;
an empty cell is a category of its own. The target is the column `income`, its positive class the rarer one.

- `utility` (SDGym, the benchmark of Xu et al., "Modeling tabular data using conditional GAN", 2019): AdaBoost of 50 stumps, a
  decision tree of depth 20, logistic regression and a network of 50 units learn the target from the synthetic rows; F1 of the
  positive class on the real test rows, and the mean of the four. Features as SDGym makes them: the logarithm of numbers that
  reach 1000 and are never negative, 5 times the min-max scaled value of other numbers, indicators of categories. The paper
  splits train.csv in 23k and 10k rows; here all of it is learnt from and test.csv is tested on. Its AdaBoost is SAMME.R, which
  scikit-learn has no more; `samme_r` below is that algorithm.
- `catboost` (Kotelnikov et al., "TabDDPM: modelling tabular data with diffusion models", 2023, and its repository): CatBoost
  with the parameters tuned for Adult there learns from the synthetic rows and stops early on 6513 real rows of train.csv (a
  fifth; real rows as a side are the other 26048); macro F1 and the area under the ROC curve on the real test rows, the mean of
  the seeds. Departure: the generator has seen the validation rows here too, which it has not in TabDDPM.
- `closest` (the same repository): the median Euclidean distance of synthetic rows to the closest row of train.csv, target
  included, numbers min-max scaled to train.csv, indicators of categories divided by sqrt(2), so that a differing category
  counts 1. Beside it the same of test.csv: what rows have that no model has copied. TabDDPM's own figures are distances to
  its 26048 training rows, which are fewer and so further away: `median_of_4/5` is to as many (a fifth left out).
- `shapes` and `trends` (SDMetrics, as TabSyn reports them): the mean over columns of the Kolmogorov-Smirnov statistic (numbers)
  or the total variation distance (categories); the mean over pairs of columns of half the difference of their correlations
  (two of numbers) or the total variation distance of their two-dimensional tables (else, numbers in ten bins of equal width
  of the real range). 0 is best; both are given in per cent. `trends_reported` is what the quality report of SDMetrics gives and
  papers print: there each side's numbers are in ten bins of its own range, so that one far value counts in every pair.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

TARGET = "income"
CATBOOST = {
    "learning_rate": 0.16886992997713726,
    "depth": 3,
    "l2_leaf_reg": 0.19334681185025449,
    "bagging_temperature": 0.11959130879575816,
    "leaf_estimation_iterations": 8,
    "iterations": 2000,
    "early_stopping_rounds": 50,
    "eval_metric": "TotalF1",
    "loss_function": "Logloss",
}
"""As tuned for Adult in the repository of TabDDPM."""
FAST_ROWS = 12_000
"""Whose distances `--fast` takes."""


# ------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Columns:
    """What the real training rows say of the columns.

    Attributes:
        numbers: names of columns of numbers.
        categories: names of columns of categories, without the target.
        levels: the categories of each such column and of the target, in order.
        low: the least value of each column of numbers.
        high: the greatest.
        positive: the rarer class of the target.
    """

    numbers: list[str]
    categories: list[str]
    levels: dict[str, list[str]]
    low: dict[str, float]
    high: dict[str, float]
    positive: str


def read(path: Path) -> pd.DataFrame:
    """Every cell as text; an empty one as an empty text."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def describe(frame: pd.DataFrame) -> Columns:
    """The columns of the real training rows."""
    numbers, categories, low, high = [], [], {}, {}
    for name in frame.columns:
        cells = pd.to_numeric(frame[name][frame[name] != ""], errors="coerce")
        if name != TARGET and len(cells) and cells.notna().all():
            numbers.append(name)
            low[name], high[name] = float(cells.min()), float(cells.max())
        elif name != TARGET:
            categories.append(name)
    levels = {name: sorted(frame[name].unique()) for name in [*categories, TARGET]}
    return Columns(numbers, categories, levels, low, high, str(frame[TARGET].value_counts().idxmin()))


def typed(frame: pd.DataFrame, columns: Columns, name: str) -> pd.DataFrame:
    """Columns of numbers as float64 (empty: NaN), the others as text; another set of columns is refused."""
    expected = [*columns.numbers, *columns.categories, TARGET]
    if set(frame.columns) != set(expected):
        raise SystemExit(f"{name}: the columns must be {sorted(expected)}, found {sorted(frame.columns)}")
    frame = frame[expected].copy()
    for column in columns.numbers:
        cells = pd.to_numeric(frame[column].replace("", "nan"), errors="coerce")
        wrong = cells.isna() & ~frame[column].str.lower().isin(["", "nan"])
        if wrong.any():
            raise SystemExit(f"{name}: {column} holds {frame[column][wrong].iloc[0]!r}, which is no number")
        frame[column] = cells.astype(np.float64)
    return frame


def codes(frame: pd.DataFrame, columns: Columns, name: str) -> np.ndarray:
    """The place of each category in `levels`; one that train.csv has not got comes after the last."""
    levels = columns.levels[name]
    found = pd.Categorical(frame[name], categories=levels).codes.astype(np.int64)
    return np.where(found < 0, len(levels), found)


# ------------------------------------------------------------------------------------------------------- utility


def sdgym_features(frame: pd.DataFrame, columns: Columns) -> np.ndarray:
    """(N, F) float32, as SDGym makes them."""
    parts = []
    for name in columns.numbers:
        x = frame[name].to_numpy()
        low, high = columns.low[name], columns.high[name]
        x = np.log(np.maximum(x, 1e-2)) if low >= 0 and high >= 1000 else (x - low) / max(high - low, 1e-12) * 5
        parts.append(np.nan_to_num(x)[:, None])
    for name in columns.categories:
        levels = columns.levels[name]
        one_hot = np.eye(len(levels) + 1)[codes(frame, columns, name)][:, :-1]
        parts.append(one_hot if len(levels) > 2 else one_hot[:, 1:])
    return np.concatenate(parts, axis=1).astype(np.float32)


def samme_r(x: np.ndarray, y: np.ndarray, test: np.ndarray, rounds: int = 50) -> np.ndarray:
    """Predicted classes by SAMME.R with stumps (Zhu, Zou, Rosset, Hastie, "Multi-class AdaBoost", 2009) for two classes.

    A stump gives the weighted share p(c) of each class in its two leaves; its vote is (log p(1) - log p(0)) / 2 in this
    case, and the weight of a row falls by the vote for its own class.
    """
    sign = np.where(y, 1.0, -1.0)
    weights, total = np.full(len(y), 1 / len(y)), np.zeros(len(test))
    for _ in range(rounds):
        stump = DecisionTreeClassifier(max_depth=1, random_state=0).fit(x, y, sample_weight=weights)

        def vote(rows: np.ndarray, stump: DecisionTreeClassifier = stump) -> np.ndarray:
            p = np.clip(stump.predict_proba(rows), np.finfo(float).eps, None)
            return (np.log(p[:, 1]) - np.log(p[:, 0])) / 2

        total += vote(test)
        weights *= np.exp(-sign * vote(x))
        weights /= weights.sum()
    return total > 0


def utility(
    train: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int, sklearn_ada: bool = False
) -> dict[str, float]:
    """F1 of the positive class of the four classifiers of SDGym, and their mean."""
    x, x_test = sdgym_features(train, columns), sdgym_features(test, columns)
    y, y_test = (train[TARGET] == columns.positive).to_numpy(), (test[TARGET] == columns.positive).to_numpy()
    if y.all() or not y.any():
        return dict.fromkeys(
            ("adaboost", "tree", "logistic", "network", "mean"), float(y.all()) * f1_score(y_test, y_test | True)
        )
    models: dict[str, Any] = {
        "tree": DecisionTreeClassifier(max_depth=20, class_weight="balanced", random_state=seed),
        "logistic": LogisticRegression(class_weight="balanced", max_iter=50, random_state=seed),
        "network": MLPClassifier((50,), max_iter=50, random_state=seed),
    }
    if sklearn_ada:
        models["sklearn's adaboost"] = AdaBoostClassifier(n_estimators=50, random_state=seed)
    scores = {"adaboost": f1_score(y_test, samme_r(x, y, x_test))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 50 iterations are the protocol
        for name, model in models.items():
            scores[name] = f1_score(y_test, model.fit(x, y).predict(x_test))
    return {**scores, "mean": float(np.mean([scores[name] for name in ("adaboost", "tree", "logistic", "network")]))}


# ------------------------------------------------------------------------------------------------------- CatBoost


def validation_rows(num: int) -> np.ndarray:
    """The fifth of the real training rows that CatBoost stops early on: a mask."""
    mask = np.zeros(num, bool)
    mask[np.random.default_rng(0).permutation(num)[: -(-num // 5)]] = True
    return mask


def catboost_scores(
    train: pd.DataFrame, valid: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int, threads: int
) -> dict[str, float]:
    """Macro F1 and the area under the ROC curve."""
    from catboost import CatBoostClassifier, Pool

    def pool(frame: pd.DataFrame) -> Pool:
        x = frame[[*columns.numbers, *columns.categories]]
        return Pool(x, (frame[TARGET] == columns.positive).astype(int), cat_features=columns.categories)

    model = CatBoostClassifier(**CATBOOST, random_seed=seed, thread_count=threads, allow_writing_files=False)
    model.fit(pool(train), eval_set=pool(valid), verbose=False)
    p = model.predict_proba(pool(test))[:, 1]
    y = (test[TARGET] == columns.positive).to_numpy()
    return {"f1": f1_score(y, p > 0.5, average="macro"), "auc": roc_auc_score(y, p), "trees": model.tree_count_}


# ------------------------------------------------------------------------------------------------------- distances


def distance_features(frame: pd.DataFrame, columns: Columns) -> np.ndarray:
    """(N, F): min-max scaled numbers and indicators of categories, the target's too, divided by sqrt(2)."""
    parts = []
    for name in columns.numbers:
        scaled = (frame[name].to_numpy() - columns.low[name]) / max(columns.high[name] - columns.low[name], 1e-12)
        parts.append(np.nan_to_num(scaled)[:, None])
    names = [*columns.categories, TARGET]
    parts += [np.eye(len(columns.levels[name]) + 1)[codes(frame, columns, name)] / np.sqrt(2) for name in names]
    return np.concatenate(parts, axis=1)


def closest(rows: np.ndarray, records: np.ndarray, chunk: int = 1024) -> np.ndarray:
    """Distance of each row to its closest record. The record is found in float32, its distance taken in float64."""
    half = (records**2).sum(1).astype(np.float32) / 2
    found, small = np.empty(len(rows)), np.ascontiguousarray(records.T, dtype=np.float32)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        scores = part.astype(np.float32) @ small
        scores -= half
        found[start : start + chunk] = np.sqrt(((part - records[scores.argmax(1)]) ** 2).sum(1))
    return found


def distances(
    synthetic: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, columns: Columns, limit: int
) -> dict[str, float]:
    """Of synthetic rows and of held-out rows to the real training rows: the median, the 5 % quantile, the share of copies."""
    records, rng, found = distance_features(train, columns), np.random.default_rng(0), {}
    some = records[~validation_rows(len(records))]
    for name, frame in (("", synthetic), ("held_out_", test)):
        rows = distance_features(frame, columns)
        rows = rows[rng.permutation(len(rows))[:limit]]
        d = closest(rows, records)
        found |= {f"{name}median": np.median(d), f"{name}5%": np.quantile(d, 0.05), f"{name}copies": (d < 1e-9).mean()}
        found[f"{name}median_of_4/5"] = np.median(closest(rows, some))
    return {name: float(value) for name, value in found.items()}


# ------------------------------------------------------------------------------------------------------- shapes, trends


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest difference of two empirical distribution functions; NaN is left out."""
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    grid = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, grid, "right") / len(a) - np.searchsorted(b, grid, "right") / len(b)).max())


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the summed difference of two tables of shares, of codes from 0."""
    size = int(max(a.max(), b.max())) + 1
    return float(np.abs(np.bincount(a, minlength=size) / len(a) - np.bincount(b, minlength=size) / len(b)).sum() / 2)


def shapes_and_trends(real: pd.DataFrame, synthetic: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """Errors in per cent, of every column and in the mean."""
    both, coded, in_own, sizes, errors = (real, synthetic), {}, {}, {}, {}
    for name in columns.numbers:
        edges = np.histogram_bin_edges(real[name].dropna(), bins=10)
        own = [np.histogram_bin_edges(frame[name].dropna(), bins=10) for frame in both]
        coded[name] = [np.where(frame[name].isna(), 11, np.digitize(frame[name], edges[1:-1])) for frame in both]
        in_own[name] = [
            np.where(frame[name].isna(), 11, np.digitize(frame[name], at)) for frame, at in zip(both, own, strict=True)
        ]
        sizes[name], errors[name] = 12, kolmogorov_smirnov(*(frame[name].to_numpy() for frame in both))
    for name in [*columns.categories, TARGET]:
        coded[name] = [codes(frame, columns, name) for frame in both]
        sizes[name], errors[name] = len(columns.levels[name]) + 1, total_variation(*coded[name])
    correlations = [frame[columns.numbers].corr().to_numpy() for frame in both]
    names, trends, reported = list(coded), [], []
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            if first in columns.numbers and second in columns.numbers:
                # a constant column has no correlation: that of the other table counts in full
                trends.append(abs(np.nan_to_num(correlations[0][i, j]) - np.nan_to_num(correlations[1][i, j])) / 2)
                reported.append(trends[-1])
                continue
            for kept, found in ((coded, trends), (coded | in_own, reported)):
                cells = (a * sizes[second] + b for a, b in zip(kept[first], kept[second], strict=True))
                found.append(total_variation(*cells))
    by_column = {name: 100 * error for name, error in errors.items()}
    means = [float(np.mean(values)) for values in (list(by_column.values()), trends, reported)]
    return {"shapes": means[0], "trends": 100 * means[1], "trends_reported": 100 * means[2], "columns": by_column}


# ------------------------------------------------------------------------------------------------------- all of it


def score(
    folder: Path, path: Path, *, fast: bool = False, repeats: int = 3, threads: int = 1, parts: list[str] | None = None
) -> dict[str, Any]:
    """All scores of the rows of `path`; those of FOLDER/train.csv itself are the real rows' own."""
    train, test = read(folder / "train.csv"), read(folder / "test.csv")
    columns = describe(train)
    train, test = typed(train, columns, "train.csv"), typed(test, columns, "test.csv")
    synthetic = typed(read(path), columns, path.name)
    held_back = validation_rows(len(train))
    itself = path.resolve() == (folder / "train.csv").resolve()
    seconds, report, repeats = {}, {"rows": len(synthetic)}, 1 if fast else repeats
    parts = parts or ["statistics", "closest", "catboost", "utility"]

    def timed(name: str, start: float) -> None:
        seconds[name] = round(time.perf_counter() - start, 1)

    start = time.perf_counter()
    if "statistics" in parts:
        report |= shapes_and_trends(train, synthetic, columns)
        timed("statistics", start)
    start = time.perf_counter()
    if "closest" in parts:
        report["closest"] = distances(synthetic, train, test, columns, FAST_ROWS if fast else 50_000)
        timed("closest", start)
    start = time.perf_counter()
    if "catboost" in parts:
        learnt = synthetic[~held_back] if itself else synthetic
        runs = [catboost_scores(learnt, train[held_back], test, columns, seed, threads) for seed in range(repeats)]
        report["catboost"] = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        timed("catboost", start)
    start = time.perf_counter()
    if "utility" in parts:
        runs = [utility(synthetic, test, columns, seed, sklearn_ada=not fast) for seed in range(repeats)]
        report["utility"] = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        timed("utility", start)
    return {**report, "repeats": repeats, "seconds": seconds}


def table(report: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = [f"{report['rows']} rows, {report['repeats']} seed(s) of each classifier"]
    if "utility" in report:
        lines.append("utility F1    " + "  ".join(f"{name} {value:.4f}" for name, value in report["utility"].items()))
    if "catboost" in report:
        lines.append("CatBoost      " + "  ".join(f"{name} {value:.4f}" for name, value in report["catboost"].items()))
    if "closest" in report:
        lines.append("closest       " + "  ".join(f"{name} {value:.4f}" for name, value in report["closest"].items()))
    if "shapes" in report:
        lines.append(
            "statistics    " + "  ".join(f"{name} {report[name]:.2f} %" for name in ("shapes", "trends", "trends_reported"))
        )
        lines.append("columns in %  " + "  ".join(f"{name} {value:.2f}" for name, value in report["columns"].items()))
    lines.append("seconds       " + "  ".join(f"{name} {value:.0f}" for name, value in report["seconds"].items()))
    return "\n".join(lines)


def main() -> None:
    """Scores one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.csv and test.csv")
    parser.add_argument("--fast", action="store_true", help="one seed of each classifier, 12,000 distances")
    parser.add_argument("--repeats", type=int, default=3, help="seeds of each classifier")
    parser.add_argument("--threads", type=int, default=1, help="of CatBoost")
    parser.add_argument("--parts", nargs="+", choices=("statistics", "closest", "catboost", "utility"))
    parser.add_argument("--json", type=Path, help="write the scores there too")
    options = parser.parse_args()
    report = score(
        options.data,
        options.synthetic,
        fast=options.fast,
        repeats=options.repeats,
        threads=options.threads,
        parts=options.parts,
    )
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
