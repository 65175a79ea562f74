"""Filling cells that are missing at random: the baselines, and the scores of a filled CSV file.

    VENV/bin/python benchmarks/tables/imputation.py mask --data FOLDER --runs FOLDER --seed 0 [--limit N]
    VENV/bin/python benchmarks/tables/imputation.py fill METHOD -o FILE --data FOLDER --runs FOLDER --seed 0
    VENV/bin/python benchmarks/tables/imputation.py score FILE --data FOLDER --runs FOLDER --seed 0

Of the cells that are there, 30 % are emptied at random in the training rows and in the test rows, the target's too. Whoever
fills learns from the masked training rows alone and fills the masked test rows. Cells that were empty before are not scored.
Scores: the root mean square error of each column of numbers in units of its standard deviation in train.csv, and the share of
right categories of each column of categories and the target; the mean over columns of each.

- `mean`: the mean, the most frequent category.
- `neighbours`: scikit-learn's KNNImputer, the mean of 5 rows, on standardised numbers and indicators of categories; the
  category with the greatest mean. 10,000 donors.
- `iterative`: scikit-learn's IterativeImputer, ten rounds of Bayesian ridge regressions of each column on all others, on
  standardised numbers and ranks of categories by their frequency; the nearest rank. Indicators in place of ranks do not
  work there: each is one less the sum of its column's others, so a column stays at what it was filled with at first.
- `chained`: the same idea with a model for each kind: ridge regression or multinomial logistic regression of each column on
  the indicators and numbers of all others, from the means and most frequent categories on; three rounds.
- `boosting`: one histogram gradient boosting (scikit-learn) a column from all others, whose missing cells it takes
  as they are.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from protocols import TARGET, Columns, codes, describe, read, typed

SHARE, DONORS, ROUNDS = 0.3, 10_000, 3
BOOSTING = {"max_leaf_nodes": 8, "l2_regularization": 10.0}
"""With the defaults, rare categories make it worse than the most frequent one in every row (`native_country`)."""
Filler = Callable[[pd.DataFrame, pd.DataFrame, Columns, int], pd.DataFrame]


def mask(frame: pd.DataFrame, seed: int) -> np.ndarray:
    """(N, C) of the cells that are emptied."""
    return (np.random.default_rng(seed).random(frame.shape) < SHARE) & (frame != "").to_numpy()


def write_masked(data: Path, folder: Path, seed: int, limit: int | None) -> None:
    """train.csv, test.csv and truth.csv (the test rows before) in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("train", "test")):
        frame = read(data / f"{name}.csv")[:limit]
        if name == "test":
            frame.to_csv(folder / "truth.csv", index=False)
        frame.mask(mask(frame, 2 * seed + number), "").to_csv(folder / f"{name}.csv", index=False)


# ------------------------------------------------------------------------------------------------------- methods


def discrete(columns: Columns) -> list[str]:
    """The columns of categories with the target."""
    return [*columns.categories, TARGET]


def fill_mean(train: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int) -> pd.DataFrame:
    filled = test.copy()
    for name in columns.numbers:
        filled[name] = test[name].fillna(train[name].mean())
    for name in discrete(columns):
        filled[name] = test[name].mask(test[name] == "", train[name][train[name] != ""].mode()[0])
    return filled


def as_matrix(frame: pd.DataFrame, columns: Columns, mean: pd.Series, std: pd.Series) -> np.ndarray:
    """Standardised numbers and indicators of categories (without the empty one); NaN where the cell is missing."""
    parts = [((frame[columns.numbers] - mean) / std).to_numpy()]
    for name in discrete(columns):
        indicators = np.eye(len(columns.levels[name]) + 1)[codes(frame, columns, name)]
        keep = [level for level, label in enumerate(columns.levels[name]) if label]
        parts.append(np.where((frame[name] == "").to_numpy()[:, None], np.nan, indicators[:, keep]))
    return np.concatenate(parts, axis=1)


def fill_matrix(train: pd.DataFrame, test: pd.DataFrame, columns: Columns, imputer: object) -> pd.DataFrame:
    """By an imputer of scikit-learn that is fitted on the matrix of the training rows."""
    mean, std = train[columns.numbers].mean(), train[columns.numbers].std()
    x = imputer.fit(as_matrix(train, columns, mean, std)).transform(as_matrix(test, columns, mean, std))
    filled, at = test.copy(), len(columns.numbers)
    filled[columns.numbers] = x[:, :at] * std.to_numpy() + mean.to_numpy()
    for name in discrete(columns):
        labels = np.array([label for label in columns.levels[name] if label], dtype=object)
        guess = labels[x[:, at : at + len(labels)].argmax(1)]
        filled[name] = test[name].where(test[name] != "", pd.Series(guess, index=test.index))
        at += len(labels)
    assert at == x.shape[1]
    return filled


def fill_neighbours(train: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int) -> pd.DataFrame:
    from sklearn.impute import KNNImputer

    donors = train.sample(min(DONORS, len(train)), random_state=seed)
    return fill_matrix(donors, test, columns, KNNImputer(n_neighbors=5, keep_empty_features=True))


def fill_iterative(train: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int) -> pd.DataFrame:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    order = {name: [label for label in train[name].value_counts().index if label] for name in discrete(columns)}
    ranks = {name: {label: rank for rank, label in enumerate(labels)} for name, labels in order.items()}

    def matrix(frame: pd.DataFrame) -> np.ndarray:
        return frame.assign(**{name: frame[name].map(rank) for name, rank in ranks.items()}).to_numpy(float)

    x = matrix(train)
    mean, std = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    imputer = IterativeImputer(random_state=seed, keep_empty_features=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds are the protocol
        imputer.fit((x - mean) / std)
    guess = pd.DataFrame(imputer.transform((matrix(test) - mean) / std) * std + mean, columns=train.columns, index=test.index)
    filled = test.copy()
    filled[columns.numbers] = guess[columns.numbers]
    for name, labels in order.items():
        nearest = np.array(labels, dtype=object)[guess[name].round().clip(0, len(labels) - 1).astype(int)]
        filled[name] = test[name].where(test[name] != "", pd.Series(nearest, index=test.index))
    return filled


def fill_chained(train: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int) -> pd.DataFrame:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    mean, std = train[columns.numbers].mean(), train[columns.numbers].std()
    known, unknown = {}, {}
    for name in train.columns:
        empty = [frame[name].isna() if name in columns.numbers else frame[name] == "" for frame in (train, test)]
        known[name], unknown[name] = ~empty[0], empty
    current = [fill_mean(train, frame, columns, seed) for frame in (train, test)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fifty iterations are enough here
        for _ in range(ROUNDS):
            for name in train.columns:
                x, x_test = (others(frame, columns, name, mean, std) for frame in current)
                model = Ridge() if name in columns.numbers else LogisticRegression(max_iter=50)
                model.fit(x[known[name]], train[name][known[name]])
                for frame, rows, empty in zip(current, (x, x_test), unknown[name], strict=True):
                    if empty.any():
                        frame.loc[empty, name] = model.predict(rows[empty])
    return current[1]


def others(frame: pd.DataFrame, columns: Columns, name: str, mean: pd.Series, std: pd.Series) -> np.ndarray:
    """(N, F): standardised numbers and indicators of all columns but one."""
    parts = [((frame[each] - mean[each]) / std[each]).to_numpy()[:, None] for each in columns.numbers if each != name]
    rest = [each for each in discrete(columns) if each != name]
    parts += [np.eye(len(columns.levels[each]) + 1)[codes(frame, columns, each)] for each in rest]
    return np.concatenate(parts, axis=1)


def fill_boosting(train: pd.DataFrame, test: pd.DataFrame, columns: Columns, seed: int) -> pd.DataFrame:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    def features(frame: pd.DataFrame) -> pd.DataFrame:
        typed_as = {name: pd.CategoricalDtype([label for label in columns.levels[name] if label]) for name in discrete(columns)}
        return frame.replace({name: {"": None} for name in typed_as}).astype(typed_as)

    filled, x, x_test = test.copy(), features(train), features(test)
    for name in [*columns.numbers, *discrete(columns)]:
        kind = HistGradientBoostingRegressor if name in columns.numbers else HistGradientBoostingClassifier
        learnt, wanted = x[name].notna(), x_test[name].isna()
        if not wanted.any():
            continue
        # rare categories leave no class for a stratified hold-out: what early stopping watches is chosen here
        valid = np.random.default_rng(seed).random(int(learnt.sum())) < 0.1
        x_known, y_known = x[learnt].drop(columns=name), train[name][learnt]
        valid &= y_known.isin(y_known[~valid]).to_numpy()
        model = kind(categorical_features="from_dtype", early_stopping=True, random_state=seed, **BOOSTING)
        model.fit(x_known[~valid], y_known[~valid], X_val=x_known[valid], y_val=y_known[valid])
        filled.loc[wanted, name] = model.predict(x_test[wanted].drop(columns=name))
    return filled


METHODS: dict[str, Filler] = {
    "mean": fill_mean,
    "neighbours": fill_neighbours,
    "iterative": fill_iterative,
    "chained": fill_chained,
    "boosting": fill_boosting,
}


# ------------------------------------------------------------------------------------------------------- scores


def score(data: Path, folder: Path, path: Path) -> dict[str, object]:
    """The errors on the cells that were emptied, of each column and in the mean."""
    original = read(data / "train.csv")
    columns = describe(original)
    original = typed(original, columns, "train.csv")
    truth, filled = (typed(read(place), columns, place.name) for place in (folder / "truth.csv", path))
    masked = typed(read(folder / "test.csv"), columns, "test.csv")
    if len(filled) != len(truth):
        raise SystemExit(f"{path.name}: it must hold the {len(truth)} rows of test.csv, found {len(filled)}")
    errors, shares = {}, {}
    for name in columns.numbers:
        at = (masked[name].isna() & truth[name].notna()).to_numpy()
        if filled[name][at].isna().any():
            raise SystemExit(f"{path.name}: {name} still has empty cells where it must be filled")
        errors[name] = float(np.sqrt(((filled[name][at] - truth[name][at]) ** 2).mean()) / original[name].std())
    for name in discrete(columns):
        at = ((masked[name] == "") & (truth[name] != "")).to_numpy()
        shares[name] = float((filled[name][at] == truth[name][at]).mean())
    rmse, accuracy = float(np.mean(list(errors.values()))), float(np.mean(list(shares.values())))
    return {"rmse": rmse, "accuracy": accuracy, "columns": {**errors, **shares}}


def main() -> None:
    """Masks, fills or scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("mask", "fill", "score"))
    parser.add_argument("subject", nargs="?", help="a method, or a file to score")
    parser.add_argument("-o", "--output", type=Path, help="the filled rows, or the scores as JSON")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where the masked rows are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="of training and of test rows, for a trial")
    options = parser.parse_args()
    if options.step == "mask":
        write_masked(options.data, options.runs, options.seed, options.limit)
        return
    if options.step == "fill":
        columns = describe(read(options.data / "train.csv"))
        train, test = (typed(read(options.runs / f"{name}.csv"), columns, name) for name in ("train", "test"))
        start = time.perf_counter()
        filled = METHODS[options.subject](train, test, columns, options.seed)
        seconds = time.perf_counter() - start
        filled.to_csv(options.output, index=False)
        options.output.with_suffix(".json").write_text(json.dumps({"seconds": seconds}) + "\n")
        return
    found = score(options.data, options.runs, Path(options.subject))
    print(f"RMSE {found['rmse']:.4f}  accuracy {found['accuracy']:.4f}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
