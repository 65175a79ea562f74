"""Maps of MNIST, or of any .npz of the same form, in 2 and in 64 dimensions: vaekit with the neighbour term and with the bound
alone, PCA, and umap-learn where it is installed.

    python benchmarks/latents/map.py --data mnist.npz --runs FOLDER [--minutes 30 | --epochs 100] [--sides neighbours ...]
        [--dimensions 2 64] [--weight 1176] [--reach 0.1] [--form contrastive] [--beta 1] [--seed 0] [--device auto] [--write]

As in the notebooks of Sainburg, McInnes, Gentner, "Parametric UMAP embeddings for representation and semisupervised
learning" (2021): a map is made of the training images, 5 nearest neighbours are fitted to its places, and the figure is their
accuracy on the places of the test images; trustworthiness is that of the first 10,000 training images, with 5 neighbours, on
pixels. `fit s` are seconds of fitting, `map s` of mapping all test images, which no side has seen before. Models are kept in
the folder `--runs` and not trained again. Published on MNIST in 2D / 64D and trustworthiness in 2D: UMAP .9544 / .9538 / .9601,
parametric UMAP .9614 / .9680 / .9573, autoencoder .7926 / .9758 / .9663, VAE .7649 / .9791 / .9513, PCA .4201 / .9727 / .7434.

umap-learn is needed here alone: `pip install umap-learn` into an environment of its own that has vaekit.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vaekit
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.evaluation.latents import knn_accuracy, trustworthiness
from vaekit.objectives import ELBO, Neighbours

RESULTS = Path(__file__).with_name("results.json")
TARGETS = {("neighbours", 2): ">= .9614", ("neighbours", 64): ">= .98", ("bound", 2): ">= .90", ("bound", 64): ">= .98"}
SIDES = ("neighbours", "bound", "pca", "umap")
_TRUSTED = 10_000

Fitted = tuple[np.ndarray, np.ndarray, float, float]
"""Places of the training and of the test images, seconds of fitting and of mapping the test images."""


def by_vaekit(train: Dataset, test: Dataset, side: str, dimensions: int, options: argparse.Namespace) -> Fitted:
    """The recipe `map`; `bound` is the same with the objective `elbo`."""
    base = ELBO(beta=options.beta, warm_up=options.warm_up)
    term = {"weight": options.weight, "reach": options.reach, "form": options.form, "num_neighbours": options.neighbours}
    objective = base if side == "bound" else Neighbours(base, **term)
    said = json.dumps([side, dimensions, options.seed, options.minutes, options.epochs, objective.spec()], sort_keys=True)
    folder = options.runs / f"{side}-{dimensions}d-{options.seed}-{abs(hash_of(said)) % 10**8:08d}"
    if (folder / "vaekit.json").exists():
        model = vaekit.load(folder, options.device)
    else:
        budget = {"epochs": options.epochs} if options.minutes is None else {"minutes": options.minutes}
        how = {"recipe": options.recipe, "latent": dimensions, "seed": options.seed, "device": options.device, "patience": 0}
        how |= {"likelihood": options.likelihood, "batch_size": options.batch_size, "weight_decay": options.weight_decay}
        model = vaekit.train(train, folder, objective=objective, resume=True, display="plain", **how, **budget)
    places = model.encode(train, split="all").mean
    start = time.perf_counter()
    new = model.encode(test, split="all").mean
    return places, new, float(model.bundle.training["seconds"]), time.perf_counter() - start


def hash_of(text: str) -> int:
    """A number of a text that is the same in every process."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def by_pca(train: np.ndarray, test: np.ndarray, dimensions: int, seed: int) -> Fitted:
    from sklearn.decomposition import PCA

    return _fitted(PCA(dimensions, random_state=seed), train, test)


def by_umap(train: np.ndarray, test: np.ndarray, dimensions: int, seed: int) -> Fitted:
    """umap-learn with its defaults, 15 neighbours and a least distance of 0.1."""
    from umap import UMAP

    return _fitted(UMAP(n_components=dimensions, random_state=seed), train, test)


def _fitted(reducer: Any, train: np.ndarray, test: np.ndarray) -> Fitted:
    start = time.perf_counter()
    places = reducer.fit_transform(train)
    fitted = time.perf_counter()
    new = reducer.transform(test)
    return places, new, fitted - start, time.perf_counter() - fitted


def figures(side: str, dimensions: int, train: Dataset, test: Dataset, options: argparse.Namespace) -> dict[str, float]:
    """Everything that is measured of one side."""
    pixels = train.stored().reshape(len(train), -1).astype(np.float32) / 255
    y, y_test = train.columns["label"], test.columns["label"]
    if side in ("neighbours", "bound"):
        places, new, seconds, mapping = by_vaekit(train, test, side, dimensions, options)
    else:
        fit = by_pca if side == "pca" else by_umap
        new_pixels = test.stored().reshape(len(test), -1).astype(np.float32) / 255
        places, new, seconds, mapping = fit(pixels, new_pixels, dimensions, options.seed)
    return {
        "accuracy": knn_accuracy(places, y, new, y_test, 5),
        "trustworthiness": trustworthiness(pixels[:_TRUSTED], places[:_TRUSTED], 5),
        "continuity": trustworthiness(places[:_TRUSTED], pixels[:_TRUSTED], 5),
        "seconds": seconds,
        "map_seconds": mapping,
    }


def row(side: str, dimensions: int, found: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """One row, as every results.json of the benchmarks has it."""
    named = {"neighbours": "vaekit, neighbour term", "bound": "vaekit, bound alone"}
    return {
        "case": f"map-mnist-{dimensions}d-5nn",
        "side": named.get(side, side),
        "value": round(found["accuracy"], 4),
        "unit": "accuracy",
        "target": TARGETS.get((side, dimensions)),
        **{name: round(value, 4) for name, value in found.items() if name != "accuracy"},
        "seed": options.seed,
        "command": f"python benchmarks/latents/map.py --data mnist.npz --runs FOLDER {asked(options)} --write",
        "data": "MNIST, 60,000 and 10,000",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {options.device}",
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "vaekit": vaekit.__version__},
        "date": datetime.date.today().isoformat(),
    }


def asked(options: argparse.Namespace) -> str:
    names = ("weight", "reach", "form", "beta", "warm_up", "neighbours", "likelihood", "batch_size", "minutes", "epochs")
    given = {name.replace("_", "-"): getattr(options, name) for name in names}
    return " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--dimensions", nargs="+", type=int, default=[2, 64])
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--weight", type=float, default=1176.0, help="1.5 a pixel, as the recipe has it")
    parser.add_argument("--reach", type=float, default=0.1)
    parser.add_argument("--form", choices=("contrastive", "cross-entropy"), default="contrastive")
    parser.add_argument("--neighbours", type=int, default=15)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--likelihood")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--recipe", default="map", help="whose networks are taken")
    parser.add_argument("--train", type=int, help="only so many training images, the first ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.minutes is not None and options.epochs is not None:
        parser.error("give `--minutes` or `--epochs`")
    if options.minutes is None and options.epochs is None:
        options.epochs = 100.0
    if options.write and options.train:
        parser.error("`--write` needs all of the images: leave out `--train`")
    return options


def main() -> None:
    options = parse()
    data = loading.open(options.data)
    train, test = data.split("train"), data.split("test")
    if options.train:
        train = train.select(np.arange(options.train))
    print(f"{'':24}{'5-NN':>9}{'trust':>9}{'contin.':>9}{'fit s':>9}{'map s':>9}")
    rows = []
    for dimensions in options.dimensions:
        for side in options.sides:
            if side == "umap" and importlib.util.find_spec("umap") is None:
                print(f"{side:16}{dimensions:4}D   not installed")
                continue
            found = figures(side, dimensions, train, test, options)
            rows.append(row(side, dimensions, found, options))
            cells = [f"{found[name]:9.4f}" for name in ("accuracy", "trustworthiness", "continuity")]
            print(f"{side:16}{dimensions:4}D   {''.join(cells)}{found['seconds']:9.0f}{found['map_seconds']:9.2f}", flush=True)
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        new = {(each["case"], each["side"]) for each in rows}
        kept = [each for each in kept if (each["case"], each.get("side")) not in new]
        RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
