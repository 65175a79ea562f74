"""Log-likelihoods on MNIST, by the protocols of the literature.

    python benchmarks/density/run.py CASE... --data mnist.npz --runs FOLDER [--epochs N] [--limit N] [--write]

Pixels are binarised anew at every use, all 60,000 training images are trained on, and the figure is the mean over the
10,000 test images of the 5000-sample bound (`--samples`, `--limit` for fewer). A run is kept in FOLDER/CASE; the same
command goes on with one that was stopped, and evaluates one that is done. `--write` puts the row into results.json.

The networks of `vae-1l-k1`, `iwae-1l-k5`, `iwae-1l-k50` and `iwae-2l-k50` are those of Burda, Grosse, Salakhutdinov,
"Importance weighted autoencoders" (2016), Table 1: tanh layers, Glorot initialisation, Adam with epsilon 1e-4. Theirs are
3280 epochs of batches of 20 in stages of falling learning rates; `--protocol paper` does the same. The default is a shorter
schedule of larger batches and a cosine; each row says which it was. `best-*`, `one-layer-learned-prior` and `ladder` are ours:
gated layers (Tomczak, Welling, 2018), the doubly reparameterised gradient, a learned prior, a ladder of latents.

    python benchmarks/density/run.py cifar-jpeg --data FOLDER --runs FOLDER --minutes 15 [--write]

trains the convolutional VAE and the ladder for the same time on CIFAR-10 as folders of JPEG files (FOLDER/train/CLASS/*.jpg,
FOLDER/test/CLASS/*.jpg), by the command line, and gives bits a dimension of both on the test images.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit import likelihoods, networks, posteriors, priors, recipes
from vaekit.data.dataset import Dataset
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Binarize
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.inference import seeded
from vaekit.objectives import ELBO, IWAE, DReG, Objective
from vaekit.storage import load
from vaekit.training.run import train
from vaekit.vae import VAE, LatentModel

RESULTS = Path(__file__).with_name("results.json")
PAPER = {"epochs": 3280, "batch_size": 20, "decay": "stages", "epsilon": 1e-4, "learning_rate": 1e-3, "ema": 0.0}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        build: makes the model.
        objective: what is minimised.
        settings: of the training config, in the short schedule.
        target: what is to be reached, in nats.
        published: what the paper gives, in nats.
    """

    build: Callable[[], LatentModel]
    objective: Objective
    settings: dict[str, Any]
    target: str
    published: float | None = None


SHORT = {
    "batch_size": 100,
    "decay": "cosine",
    "epsilon": 1e-4,
    "learning_rate": 1e-3,
    "ema": 0.999,
    "learning_rate_warm_up": 0,
    "precision": "float32",
}


def one_layer() -> VAE:
    """One latent layer of 50 units, two tanh layers of 200 on each side."""
    inward = networks.MLP([1, 28, 28], [200, 200], "tanh", initialization="glorot")
    outward = networks.MLP(50, [200, 200], "tanh", initialization="glorot")
    return VAE(priors.StandardNormal(50), posteriors.DiagonalNormal(inward, 50), likelihoods.Bernoulli(outward, [1, 28, 28]))


def two_layers() -> VAE:
    """Latent layers of 100 and 50 units; two tanh layers of 200 around the first, two of 100 around the second."""

    def dense(width: int, hidden: int) -> networks.MLP:
        return networks.MLP(width, [hidden, hidden], "tanh", initialization="glorot")

    first = networks.MLP([1, 28, 28], [200, 200], "tanh", initialization="glorot")
    posterior = posteriors.Chain([posteriors.DiagonalNormal(first, 100), posteriors.DiagonalNormal(dense(100, 100), 50)])
    prior = priors.Chain(priors.StandardNormal(50), [posteriors.DiagonalNormal(dense(50, 100), 100)])
    outward = networks.Part(dense(100, 200), 0, 100)
    return VAE(prior, posterior, likelihoods.Bernoulli(outward, [1, 28, 28]))


def gated(num_latents: int, prior: Callable[[], priors.Prior], hidden: int = 300) -> VAE:
    """Two gated layers on each side (Tomczak, Welling, 2018)."""
    inward = networks.MLP([1, 28, 28], [hidden, hidden], "gated")
    outward = networks.MLP(num_latents, [hidden, hidden], "gated")
    posterior = posteriors.DiagonalNormal(inward, num_latents)
    return VAE(prior(), posterior, likelihoods.Bernoulli(outward, [1, 28, 28]))


def gated_two_layers() -> VAE:
    """As `two_layers`, with gated layers of 300 around the first latent and of 100 around the second."""

    def dense(width: int | list[int], hidden: int) -> networks.MLP:
        return networks.MLP(width, [hidden, hidden], "gated")

    first = posteriors.DiagonalNormal(dense([1, 28, 28], 300), 100)
    posterior = posteriors.Chain([first, posteriors.DiagonalNormal(dense(100, 100), 50)])
    prior = priors.Chain(priors.StandardNormal(50), [posteriors.DiagonalNormal(dense(50, 100), 100)])
    return VAE(prior, posterior, likelihoods.Bernoulli(networks.Part(dense(100, 300), 0, 100), [1, 28, 28]))


def ladder() -> LatentModel:
    """What `--recipe ladder` makes of binarised MNIST."""
    images = (np.arange(2 * 784) % 256).astype(np.uint8).reshape(2, 28, 28)
    return recipes.make(open_data(images, levels=256), "ladder", likelihood="bernoulli").vae


OURS = {"batch_size": 100, "learning_rate": 1e-3, "ema": 0.999}
CASES = {
    "vae-1l-k1": Case(one_layer, IWAE(), {**SHORT, "epochs": 2000, "num_samples": 1}, "86.76 +- 0.35", 86.76),
    "iwae-1l-k5": Case(one_layer, IWAE(), {**SHORT, "epochs": 1000, "num_samples": 5}, "85.54 +- 0.35", 85.54),
    "iwae-1l-k50": Case(one_layer, IWAE(), {**SHORT, "epochs": 200, "num_samples": 50}, "84.78 +- 0.35", 84.78),
    "best-1l-k50": Case(
        lambda: gated(50, lambda: priors.StandardNormal(50)), DReG(), {**OURS, "epochs": 100, "num_samples": 50}, "<= 84.3"
    ),
    "iwae-2l-k50": Case(two_layers, IWAE(), {**SHORT, "epochs": 200, "num_samples": 50}, "82.90 +- 0.35", 82.90),
    "best-2l-k50": Case(gated_two_layers, DReG(), {**OURS, "epochs": 100, "num_samples": 50}, "<= 82.8"),
    "one-layer-learned-prior": Case(
        lambda: gated(40, lambda: priors.Vamp(40, [1, 28, 28], 500, input_range=[0.0, 1.0])),
        DReG(),
        {**OURS, "epochs": 150, "num_samples": 5},
        "<= 81.9",
    ),
    "ladder": Case(ladder, ELBO(), {"batch_size": 64, "learning_rate": 1e-3, "ema": 0.999, "epochs": 100}, "<= 80.0"),
}


def mnist(path: Path) -> tuple[Dataset, Dataset]:
    """The training images, of which a sixtieth also watches the run, and the test images."""
    data = open_data(path)
    training = data.split("train")
    watch = np.arange(0, len(training), 60)
    return replace(training, splits={"train": np.arange(len(training)), "valid": watch}), data.split("test")


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains (or goes on with) a case, evaluates it, and gives its row."""
    case, folder = CASES[name], options.runs / name
    training, test = mnist(options.data)
    settings = {**case.settings, **(PAPER if options.protocol == "paper" else {}), "patience": 0, "seed": options.seed}
    if options.epochs:
        settings["epochs"] = options.epochs
    if not (folder / "vaekit.json").exists():
        with seeded(options.seed, torch.device("cpu")):
            vae = case.build()
        train(
            training, folder, vae=vae, transform=Binarize(256), objective=case.objective, resume=True,
            validate_every=3000, checkpoint_seconds=120, display_as=options.display, **settings,
        )  # fmt: skip
    bundle = load(folder)
    start = time.time()
    report = evaluate_bounds(bundle, test, num_samples=options.samples, limit=options.limit, seed=1)
    print(
        f"{name}: {report.nll_nats:.2f} +- {report.standard_error:.2f}, {report.active_units} active units, "
        f"{time.time() - start:.0f} s"
    )
    command = f"python benchmarks/density/run.py {name} --data mnist.npz --runs runs"
    command += f" --epochs {options.epochs:g}" if options.epochs else ""
    command += " --protocol paper" if options.protocol == "paper" else ""
    row = row_of(name, "vaekit", report.nll_nats, report.standard_error, "nats", case.target, command)
    trained = {key: bundle.training[key] for key in ("epochs", "steps", "seconds", "config", "objective")}
    return {
        **row,
        "published": case.published,
        "active_units": report.active_units,
        "num_samples": report.num_samples,
        "num_examples": report.num_examples,
        "seeds": [options.seed],
        "data": "MNIST, binarised at every use",
        "training": trained,
    }


def row_of(case: str, side: str, value: float, error: float | None, unit: str, target: str, command: str) -> dict[str, Any]:
    """One result, as every results.json of the benchmarks has it."""
    return {
        "case": case,
        "side": side,
        "value": round(value, 4),
        "error": error,
        "unit": unit,
        "target": target,
        "seeds": [0],
        "command": command,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }


def cifar(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The convolutional VAE and the ladder for the same time, and bits a dimension of both."""
    rows = []
    for recipe in ("conv", "ladder"):
        folder, data = options.runs / f"cifar-{recipe}", str(options.data)
        training = ["train", data, "-o", str(folder), "--recipe", recipe, "--minutes", f"{options.minutes:g}", "--resume"]
        testing = ["evaluate", str(folder), data, "--samples", "10", "--limit", str(options.limit or 2000), "--json"]
        vaekit = [sys.executable, "-m", "vaekit"]
        subprocess.run([*vaekit, *training], check=True)
        report = json.loads(subprocess.run([*vaekit, *testing], check=True, stdout=subprocess.PIPE, text=True).stdout)
        command = f"python benchmarks/density/run.py cifar-jpeg --data cifar10 --runs runs --minutes {options.minutes:g}"
        side = "vaekit" if recipe == "ladder" else "vaekit, convolutional"
        error = report["standard_error"] * report["bits_per_dim"] / report["nll_nats"]
        row = row_of("cifar-jpeg", side, report["bits_per_dim"], error, "bits/dim", "below the convolutional VAE", command)
        rows.append({**row, "data": "CIFAR-10 as JPEG files", "num_examples": report["num_examples"]})
    return rows


def main() -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=[*CASES, "cifar-jpeg"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--protocol", choices=("short", "paper"), default="short")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--minutes", type=float, default=15.0, help="for each side of cifar-jpeg")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--display", default="plain")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for name in options.cases:
        rows = cifar(options) if name == "cifar-jpeg" else [run(name, options)]
        for row in rows:
            print(f"{name} {row['side']}: {row['value']} {row['unit']}", flush=True)
        if options.write:
            kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
            new = {(row["case"], row["side"]) for row in rows}
            kept = [old for old in kept if (old["case"], old["side"]) not in new]
            RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
