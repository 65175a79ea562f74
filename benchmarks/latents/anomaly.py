"""`VAEOutlier` beside kNN, isolation forest, one-class SVM and PCA on small problems that scikit-learn brings.

    python benchmarks/latents/anomaly.py [--seeds 3] [--problem NAME ...] [--runs FOLDER] [--write]

21 problems. Of iris, wine, breast cancer and digits each class in turn is the anomaly, and all others are normal; of generated
data (two moons, four blobs in six dimensions, a swiss roll) a quarter as many points drawn uniformly from the box of the data,
widened by a tenth on each side, are. A detector is trained on half of the normal rows (the half is drawn by the seed),
and scores the other half and all anomalies. The figure is the area under the ROC curve; then the mean over seeds, and over
problems, with a 95 % interval by bootstrap over problems. All sides see columns standardised by the training rows, and their
arguments are the defaults, but for kNN (mean distance to 5 neighbours) and PCA (components for 90 % of the variance).

The default score of `VAEOutlier` was chosen on the problems in `TUNED_ON`, with seed 0; the table gives the mean over the
others by itself. What is in the folder `--runs` is not computed again. `--write` puts the rows into results.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from vaekit.estimators import VAEOutlier

RESULTS = Path(__file__).with_name("results.json")
TUNED_ON = ("iris-1", "wine-1", "breast-cancer-1", "digits-0", "digits-3", "digits-8", "moons", "swiss-roll")
BUNDLED: dict[str, tuple[Callable[[], Any], int]] = {
    "iris": (datasets.load_iris, 3),
    "wine": (datasets.load_wine, 3),
    "breast-cancer": (datasets.load_breast_cancer, 2),
    "digits": (datasets.load_digits, 10),
}
GENERATED: dict[str, Callable[[int], np.ndarray]] = {
    "moons": lambda seed: datasets.make_moons(600, noise=0.08, random_state=seed)[0],
    "blobs": lambda seed: datasets.make_blobs(600, n_features=6, centers=4, random_state=seed)[0],
    "swiss-roll": lambda seed: datasets.make_swiss_roll(800, noise=0.3, random_state=seed)[0],
}
PROBLEMS = (*(f"{name}-{label}" for name, (_, num) in BUNDLED.items() for label in range(num)), *GENERATED)


def rows_of(problem: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows, and anomalies."""
    if problem in GENERATED:
        x = GENERATED[problem](seed)
        low, high = x.min(0), x.max(0)
        wider = 0.1 * (high - low)
        return x, np.random.default_rng(1000 + seed).uniform(low - wider, high + wider, (len(x) // 4, x.shape[1]))
    name, _, label = problem.rpartition("-")
    data = BUNDLED[name][0]()
    return data.data[data.target != int(label)], data.data[data.target == int(label)]


def split(problem: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, test rows, and which of those are anomalies."""
    normal, anomalies = rows_of(problem, seed)
    order = np.random.default_rng(seed).permutation(len(normal))
    half = len(normal) // 2
    train, test = normal[order[:half]], np.concatenate([normal[order[half:]], anomalies])
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test), np.arange(len(test)) >= len(normal) - half


def by_neighbours(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0].mean(1)


def by_forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def by_svm(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return -OneClassSVM().fit(train).score_samples(test)


def by_pca(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    pca = PCA(n_components=0.9, svd_solver="full").fit(train)
    return np.square(test - pca.inverse_transform(pca.transform(test))).sum(1)


def by_vaekit(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    return -VAEOutlier(random_state=seed).fit(train).score_samples(test)


SIDES = {
    "vaekit": by_vaekit,
    "kNN": by_neighbours,
    "isolation forest": by_forest,
    "one-class SVM": by_svm,
    "PCA": by_pca,
}


def area(problem: str, side: str, seed: int, runs: Path | None) -> float:
    """The area under the ROC curve, as a share of 1."""
    kept = None if runs is None else runs / f"{problem}-{side.replace(' ', '-')}-{seed}.json"
    if kept is not None and kept.exists():
        return json.loads(kept.read_text())
    train, test, strange = split(problem, seed)
    value = float(roc_auc_score(strange, SIDES[side](train, test, seed)))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(value))
    return value


def interval(values: np.ndarray) -> tuple[float, float]:
    """Of a mean over problems, 95 % by bootstrap."""
    draws = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def summary(name: str, areas: dict[str, np.ndarray]) -> None:
    """A line of means, a line of intervals, and one of the differences to vaekit, problem by problem."""
    print(f"{name:34}" + "".join(f"{values.mean():18.4f}" for values in areas.values()))
    cells = ["[{:.3f}, {:.3f}]".format(*interval(values)) for values in areas.values()]
    print(f"{'':34}" + "".join(f"{cell:>18}" for cell in cells))
    if "vaekit" in areas:
        cells = ["[{:+.3f}, {:+.3f}]".format(*interval(areas["vaekit"] - values)) for values in areas.values()]
        print(f"{'  vaekit less this':34}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def result(side: str, values: np.ndarray, seeds: int) -> dict[str, Any]:
    """One row, as every results.json of the benchmarks has it; the error is half the interval."""
    low, high = interval(values)
    return {
        "case": "anomaly-mean-auroc",
        "side": side,
        "value": round(float(values.mean()), 5),
        "error": round((high - low) / 2, 5),
        "unit": "AUROC",
        "target": ">= kNN",
        "seeds": list(range(seeds)),
        "command": f"python benchmarks/latents/anomaly.py --seeds {seeds} --write",
        "data": f"{len(PROBLEMS)} problems from scikit-learn",
        "by_problem": dict(zip(PROBLEMS, [round(float(value), 4) for value in values], strict=True)),
        "tuned_on": list(TUNED_ON),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write and tuple(options.problem) != PROBLEMS:
        parser.error("`--write` needs all problems: leave out `--problem`")
    torch.set_num_threads(1)
    print(f"{'':34}" + "".join(f"{side:>18}" for side in SIDES))
    areas: dict[str, list[float]] = {side: [] for side in SIDES}
    for problem in options.problem:
        for side, values in areas.items():
            values.append(float(np.mean([area(problem, side, seed, options.runs) for seed in range(options.seeds)])))
        marked = f"{problem}{' (tuned on)' if problem in TUNED_ON else ''}"
        print(f"{marked:34}" + "".join(f"{values[-1]:18.4f}" for values in areas.values()), flush=True)
    found = {side: np.array(values) for side, values in areas.items()}
    others = np.array([problem not in TUNED_ON for problem in options.problem])
    summary("mean", found)
    if 0 < others.sum() < len(others):
        summary("mean of those not tuned on", {side: values[others] for side, values in found.items()})
    if options.write:
        rows = [result(side, values, options.seeds) for side, values in found.items()]
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        kept = [row for row in kept if row["case"] != rows[0]["case"]]
        RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
