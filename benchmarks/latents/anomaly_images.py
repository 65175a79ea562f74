"""The anomaly score of images and arrays, part by part, on small problems.

    python benchmarks/latents/anomaly_images.py [--runs FOLDER] [--seed 0] [--data mnist.npz [--other FILE]] [--write]

Of scikit-learn's digits (8 x 8 pixels, 17 levels) each class in turn is the anomaly; and a model of all of them is shown digits
that were spoilt in ten ways, plain images among them, to which likelihoods of images are known to be blind. Of arrays (columns
standardised), malign cases of breast cancer are the anomaly, or points drawn uniformly from the box of blobs, of moons and of a
swiss roll. A model of the default recipe is trained on three quarters of the normal examples, scores the other quarter and the
anomalies, and takes the examples that its training held out as the reference. The figure is the area under the ROC curve of the
score, of each of its parts, and of other combinations of them; and the share of normal examples whose anomaly is above that of
one in 20.

With `--data` an .npz of images with `x_train` and `x_test` is spoilt instead (10,000 examples to train on, 1,000 to score),
and with `--other` a second one adds its `x_test` as anomalies. Models in the folder `--runs` are not trained again. `--write`
puts the rows into results.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from sklearn.metrics import roc_auc_score

import vaekit
from vaekit.jobs.anomaly import density_of, reference_of

RESULTS = Path(__file__).with_name("results.json")
EPOCHS = {"digits": 40, "arrays": 60, "data": 5}
SHARE = 0.75


def inverted(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return top - x


def shuffled(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)


def uniform(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, top + 1, x.shape)


def constant(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(rng.integers(0, top + 1, (len(x), 1, 1)), x.shape)


def black(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(x)


def turned(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return np.rot90(x, 1, (1, 2))


def dim(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    return x // 2


def blurred(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    height, width = x.shape[1:]
    padded = np.pad(x.astype(float), ((0, 0), (1, 1), (1, 1)))
    return np.rint(sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9)


def square(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    """A square of three eighths of the side turned to its negative."""
    out, side = x.copy(), 3 * x.shape[1] // 8
    for image in out:
        row, column = rng.integers(0, x.shape[1] - side + 1, 2)
        part = image[row : row + side, column : column + side]
        part[:] = top - part
    return out


def mixed(x: np.ndarray, top: int, rng: np.random.Generator) -> np.ndarray:
    """The upper half of one, and the lower half of another."""
    middle = x.shape[1] // 2
    return np.concatenate([x[:, :middle], rng.permutation(x)[:, middle:]], axis=1)


SPOILT: tuple[Callable[[np.ndarray, int, np.random.Generator], np.ndarray], ...] = (
    inverted, shuffled, uniform, constant, black, turned, dim, blurred, square, mixed,
)  # fmt: skip
GENERATED: dict[str, Callable[[], np.ndarray]] = {
    "blobs": lambda: datasets.make_blobs(800, n_features=6, centers=4, random_state=0)[0],
    "moons": lambda: datasets.make_moons(800, noise=0.08, random_state=0)[0],
    "swiss-roll": lambda: datasets.make_swiss_roll(800, noise=0.3, random_state=0)[0],
}
CASES = (*(f"digits-{label}" for label in range(10)), "digits", "breast-cancer", *GENERATED)


def parts_of(case: str, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Training examples, normal test examples, and anomalies by name."""
    rng = np.random.default_rng(seed)
    label = case.partition("-")[2]
    if not case.startswith("digits"):
        if case in GENERATED:
            normal = rng.permutation(GENERATED[case]())
            strange = rng.uniform(normal.min(0), normal.max(0), (200, normal.shape[1]))
        else:
            x, y = datasets.load_breast_cancer(return_X_y=True)
            normal, strange = rng.permutation(x[y == 1]), x[y == 0]
        cut = int(SHARE * len(normal))
        centre, spread = normal[:cut].mean(0), normal[:cut].std(0)
        train, test, strange = ((part - centre) / spread for part in (normal[:cut], normal[cut:], strange))
        return train.astype(np.float32), test.astype(np.float32), {case: strange.astype(np.float32)}
    digits = datasets.load_digits()
    x, y = digits.images.astype(np.uint8), digits.target
    normal = rng.permutation(x if not label else x[y != int(label)])
    cut = int(SHARE * len(normal))
    if label:
        return normal[:cut], normal[cut:], {case: x[y == int(label)]}
    return normal[:cut], normal[cut:], {f.__name__: f(normal[cut:], 16, rng).astype(np.uint8) for f in SPOILT}


def of_file(data: Path, other: Path | None, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    with np.load(data) as arrays:
        train, test = rng.permutation(arrays["x_train"])[:10_000], rng.permutation(arrays["x_test"])[:1000]
    found = {f.__name__: f(test, 255, rng).astype(np.uint8) for f in SPOILT}
    if other is not None:
        with np.load(other) as arrays:
            found[other.stem] = arrays["x_test"][:1000]
    return train, test, found


def model_of(case: str, train: np.ndarray, seed: int, runs: Path | None) -> vaekit.Model:
    kept = None if runs is None else runs / f"{case}-{seed}"
    if kept is not None and (kept / "vaekit.json").exists():
        return vaekit.load(kept)
    kind = "data" if case == "data" else "digits" if case.startswith("digits") else "arrays"
    options = {"levels": 17} if kind == "digits" else {}
    how = {"epochs": EPOCHS[kind], "precision": "float32", "device": "cpu", "display": "quiet"}
    return vaekit.train(train, kept, seed=seed, data_options=options, **how)


def combinations(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums (Fisher's combination) and maxima of tails, in nats."""
    first = "excess" if "excess" in parts else "surprise"
    latents = parts["density"]
    found = {
        "without density": parts[first] + parts["reconstruction"],
        "likelihood and reconstruction": parts["surprise"] + parts["reconstruction"],
        "typicality and reconstruction": parts["typicality"] + parts["reconstruction"],
        "likelihood, reconstruction, density": parts["surprise"] + parts["reconstruction"] + latents,
        "all parts": sum(parts.values()),
        f"greatest of {first}, reconstruction, density": np.maximum.reduce([parts[first], parts["reconstruction"], latents]),
    }
    if "excess" in parts:
        found["likelihood, excess, reconstruction"] = parts["surprise"] + parts["excess"] + parts["reconstruction"]
        found["and density"] = found["likelihood, excess, reconstruction"] + latents
    return found


def areas(case: str, seed: int, runs: Path | None, parts: tuple) -> dict[str, dict[str, float]]:
    """By name of the anomalies, the area under the ROC curve by each score, as a share of 1."""
    train, test, anomalies = parts
    model = model_of(case, train, seed, runs)
    held_out, trained_on = model.read(train, default="held_out"), model.training_part(train)
    assert trained_on is not None
    reference = reference_of(model.bundle, held_out, density=density_of(model.bundle, trained_on))
    normal = model.score(test, reference=reference, split="all")
    found = {}
    for name, x in anomalies.items():
        strange = model.score(x, reference=reference, split="all")
        y = np.repeat([0, 1], [len(normal), len(strange)])
        tails = {part: np.concatenate([normal.parts[part], strange.parts[part]]) for part in normal.parts}
        scores = {
            "anomaly": np.concatenate([normal.anomaly, strange.anomaly]),
            "-log p": -np.concatenate([normal.log_likelihood, strange.log_likelihood]),
            **tails,
            **combinations(tails),
        }
        found[name] = {score: float(roc_auc_score(y, values)) for score, values in scores.items()}
        found[name]["false alarms"] = float(np.mean(normal.anomaly > -np.log(0.05)))
    return found


def table(found: dict[str, dict[str, float]]) -> None:
    print(f"{'':42}" + "".join(f"{name[-9:]:>10}" for name in found) + f"{'mean':>10}")
    for score in next(iter(found.values())):
        values = [cells[score] for cells in found.values() if score in cells]
        if len(values) == len(found):
            print(f"{score:42}" + "".join(f"{value:10.3f}" for value in values) + f"{np.mean(values):10.3f}", flush=True)


def rows(group: str, found: dict[str, dict[str, float]], seed: int) -> list[dict]:
    """As every results.json of the benchmarks has them."""
    return [
        {
            "case": f"anomaly-{group}-mean-auroc",
            "side": score,
            "value": round(float(np.mean([cells[score] for cells in found.values()])), 5),
            "unit": "share" if score == "false alarms" else "AUROC",
            "target": "0.05" if score == "false alarms" else ">= -log p",
            "seeds": [seed],
            "command": "python benchmarks/latents/anomaly_images.py --write",
            "by_problem": {name: round(cells[score], 4) for name, cells in found.items()},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "date": datetime.date.today().isoformat(),
        }
        for score in next(iter(found.values()))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data is not None:
        parts = of_file(options.data, options.other, options.seed)
        table(areas("data", options.seed, options.runs, parts))
        return
    groups = {"digits": CASES[:10], "spoilt": CASES[10:11], "arrays": CASES[11:]}
    written = []
    for group, cases in groups.items():
        found: dict[str, dict[str, float]] = {}
        for case in cases:
            found |= areas(case, options.seed, options.runs, parts_of(case, options.seed))
        print(f"\n{group}")
        table(found)
        written += rows(group, found, options.seed)
    if options.write:
        kept = json.loads(RESULTS.read_text())
        cases = {row["case"] for row in written}
        RESULTS.write_text(json.dumps([row for row in kept if row["case"] not in cases] + written, indent=2) + "\n")


if __name__ == "__main__":
    main()
