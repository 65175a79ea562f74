"""Rows for a rare class: a classifier that learns from Adult with 2 % positives, with and without added rows.

    VENV/bin/python benchmarks/tables/imbalanced.py cut --data FOLDER --runs FOLDER --seed 0 [--limit N]
    VENV/bin/python benchmarks/tables/imbalanced.py fit METHOD --data FOLDER --runs FOLDER --seed 0 [--rows FILE]
    VENV/bin/python benchmarks/tables/imbalanced.py compare METHOD... --data FOLDER --runs FOLDER --seeds 10

`cut` keeps the negative rows of train.csv and so many positive ones that they are 2 %: RUNS/SEED/train.csv. `fit` learns
from these rows as METHOD makes them (or from the file `--rows`, which any other side has made of them) and keeps its
probabilities for the rows of test.csv, whose classes are left as they are. `compare` gives the average precision of each
method, the mean over the seeds, and the difference of its mean to that of `nothing` with a 95 % interval: a paired bootstrap
of test rows and of seeds.

The classifiers are histogram gradient boosting of scikit-learn and CatBoost, with their own defaults (CatBoost: 300 trees),
which take categories as they are. `weights` gives each class the same total weight; `oversampling` repeats positive rows,
`smote` (SMOTENC of imbalanced-learn) interpolates them, until the classes are as many.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from protocols import TARGET, Columns, describe, read, typed
from sklearn.metrics import average_precision_score

SHARE = 0.02
METHODS = ("nothing", "weights", "oversampling", "smote")
CLASSIFIERS = ("boosting", "catboost")


def write_cut(data: Path, folder: Path, seed: int, limit: int | None) -> None:
    """The training rows with few positive ones, in the order they had."""
    frame, rng = read(data / "train.csv"), np.random.default_rng(seed)
    positive = (frame[TARGET] == describe(frame).positive).to_numpy()
    negative = rng.permutation(np.flatnonzero(~positive))[:limit]
    few = rng.choice(np.flatnonzero(positive), round(len(negative) * SHARE / (1 - SHARE)), replace=False)
    folder.mkdir(parents=True, exist_ok=True)
    frame.iloc[np.sort(np.concatenate([negative, few]))].to_csv(folder / "train.csv", index=False)


def added(frame: pd.DataFrame, columns: Columns, method: str, seed: int) -> pd.DataFrame:
    """The rows that a method learns from."""
    if method == "oversampling":
        from imblearn.over_sampling import RandomOverSampler

        sampler = RandomOverSampler(random_state=seed)
    elif method == "smote":
        from imblearn.over_sampling import SMOTENC

        sampler = SMOTENC(categorical_features=columns.categories, random_state=seed)
    else:
        return frame
    x, y = sampler.fit_resample(frame.drop(columns=TARGET), frame[TARGET])
    return pd.concat([x, y], axis=1)


def probabilities(rows: pd.DataFrame, test: pd.DataFrame, columns: Columns, name: str, weighted: bool, seed: int) -> np.ndarray:
    """Of the positive class, for the test rows."""
    y = (rows[TARGET] == columns.positive).to_numpy()
    if name == "catboost":
        from catboost import CatBoostClassifier

        used = [*columns.numbers, *columns.categories]
        how = {"auto_class_weights": "Balanced"} if weighted else {}
        model = CatBoostClassifier(
            iterations=300, random_seed=seed, thread_count=1, allow_writing_files=False, verbose=False, **how
        )
        return model.fit(rows[used], y.astype(int), cat_features=columns.categories).predict_proba(test[used])[:, 1]
    from sklearn.ensemble import HistGradientBoostingClassifier

    kinds = {name: pd.CategoricalDtype(columns.levels[name]) for name in columns.categories}
    x, x_test = (frame.drop(columns=TARGET).astype(kinds) for frame in (rows, test))
    how = {"class_weight": "balanced"} if weighted else {}
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed, **how)
    return model.fit(x, y).predict_proba(x_test)[:, 1]


def fit(data: Path, folder: Path, method: str, path: Path | None, seed: int) -> None:
    """Writes METHOD-CLASSIFIER.npy."""
    columns = describe(read(data / "train.csv"))
    test = typed(read(data / "test.csv"), columns, "test.csv")
    rows = typed(read(path or folder / "train.csv"), columns, (path or folder / "train.csv").name)
    if path is None:
        rows = added(rows, columns, method, seed)
    for name in CLASSIFIERS:
        p = probabilities(rows, test, columns, name, method == "weights", seed)
        np.save(folder / f"{method}-{name}.npy", p.astype(np.float32))


def compare(data: Path, runs: Path, methods: list[str], seeds: int, draws: int) -> list[dict[str, object]]:
    """A row a method and classifier."""
    test = read(data / "test.csv")
    y = (test[TARGET] == describe(read(data / "train.csv")).positive).to_numpy()
    found = []
    for name in CLASSIFIERS:
        p = {method: [np.load(runs / str(seed) / f"{method}-{name}.npy") for seed in range(seeds)] for method in methods}
        plain = {method: [average_precision_score(y, each) for each in p[method]] for method in methods}
        rng, drawn = np.random.default_rng(0), {method: np.empty(draws) for method in methods}
        for draw in range(draws):
            weights = np.bincount(rng.integers(0, len(y), len(y)), minlength=len(y))
            times = np.bincount(rng.integers(0, seeds, seeds), minlength=seeds)
            for method in methods:
                values = [average_precision_score(y, p[method][seed], sample_weight=weights) for seed in np.flatnonzero(times)]
                drawn[method][draw] = np.average(values, weights=times[times > 0])
        for method in methods:
            gain = drawn[method] - drawn["nothing"]
            row = {"method": method, "classifier": name, "value": float(np.mean(plain[method])), "seeds": plain[method]}
            row["gain"] = float(np.mean(plain[method]) - np.mean(plain["nothing"]))
            found.append({**row, "interval": [float(np.quantile(gain, q)) for q in (0.025, 0.975)]})
    return found


def main() -> None:
    """Cuts, fits or compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("cut", "fit", "compare"))
    parser.add_argument("methods", nargs="*")
    parser.add_argument("-o", "--output", type=Path, help="the comparison as JSON")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--rows", type=Path, help="what another side has made of RUNS/SEED/train.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=400, help="of the bootstrap")
    parser.add_argument("--limit", type=int, help="of negative rows, for a trial")
    options = parser.parse_args()
    folder = options.runs / str(options.seed)
    if options.step == "cut":
        write_cut(options.data, folder, options.seed, options.limit)
    elif options.step == "fit":
        for method in options.methods:
            fit(options.data, folder, method, options.rows, options.seed)
    else:
        found = compare(options.data, options.runs, options.methods, options.seeds, options.draws)
        for row in found:
            low, high = row["interval"]
            gain = f"gain {row['gain']:+.4f} ({low:+.4f} to {high:+.4f})"
            print(f"{row['classifier']:9} {row['method']:14} {row['value']:.4f}  {gain}")
        if options.output:
            options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
