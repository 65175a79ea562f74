"""The networks of a table's model against each other, at equal wall time: residual blocks, and a transformer over columns.

    python benchmarks/tables/networks.py --data FOLDER --runs FOLDER [--side mlp columns ...] [--minutes 6] [--seed 0]
        [--width 64] [--depth 2] [--heads 4] [--rate 0.001] [--warm-up STEPS] [--bench VENV] [--train "decay=constant hide=0.5"]

Every side is the recipe's model for FOLDER/train.csv with the same cells, latents, objective and settings, and other networks:

    mlp        the recipe's: `ResidualMLP` on both sides
    columns    `ColumnEncoder` and `ColumnDecoder`, a token a column
    encoder    `ColumnEncoder`, and the recipe's decoder
    decoder    the recipe's encoder, and `ColumnDecoder`

They train one after the other. A table is printed: parameters, steps, seconds, and bounds on held-out rows in nats of the
places that the likelihood sees: of one sample by the trainer's own validation; of 64 samples with every cell in sight, and with
each channel hidden with probability 1/2, where the bound is one on what is left; and the difference of the two, an estimate of
log p(hidden|visible). With `--bench`, CatBoost learns from generated rows too (`protocols.py`). Models and figures stay in
`--runs` and are not made again. On a machine that does other things besides, compare by CPU seconds and steps as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vaekit
from vaekit import recipes
from vaekit.data.dataset import Dataset
from vaekit.data.loading import open as open_data
from vaekit.data.tables import decode, write
from vaekit.data.transforms import Transform
from vaekit.inference import seeded
from vaekit.likelihoods import Cells
from vaekit.networks import CellEmbedding, ColumnDecoder, ColumnEncoder
from vaekit.objectives import ELBO
from vaekit.posteriors import DiagonalNormal
from vaekit.training.run import split
from vaekit.vae import VAE, LatentModel

HERE = Path(__file__).resolve().parent
SIDES = ("mlp", "columns", "encoder", "decoder")
SAMPLES, ROWS = 64, 250
"""K of the bounds, and rows at once."""


def model(options: argparse.Namespace, side: str, recipe: recipes.Recipe) -> LatentModel:
    """The recipe's model with the networks of a side."""
    likelihood, posterior = recipe.vae.likelihood, recipe.vae.posterior
    assert isinstance(likelihood, Cells)
    assert isinstance(posterior, DiagonalNormal)
    sizes, ordered, latents = likelihood.sizes, likelihood.ordered or [], recipe.vae.num_latents
    tokens = {"width": options.width, "depth": options.depth, "heads": options.heads}
    if side in ("columns", "encoder"):
        features = posterior.network.spec()["features"]
        network = CellEmbedding(ColumnEncoder([len(sizes), features], **tokens), sizes, ordered, features)
        posterior = DiagonalNormal(network, latents)
    if side in ("columns", "decoder"):
        likelihood = Cells(ColumnDecoder(latents, sizes, **tokens), sizes, ordered)
    return VAE(recipe.vae.prior, posterior, likelihood)


@torch.inference_mode()
def bound(vae: LatentModel, transform: Transform, data: Dataset, shown: float) -> float:
    """The mean over rows of the bound of `SAMPLES` samples on what is visible, each channel with probability `shown`."""
    total = 0.0
    with seeded(0, torch.device("cpu")):
        for start in range(0, len(data), ROWS):
            batch = data.batch(range(start, min(start + ROWS, len(data))))
            x = transform(batch.x)
            visible = torch.rand(x.shape) < shown
            visible = visible if batch.mask is None else visible & batch.mask
            parts: list[Tensor] = [vae(x, mask=visible, num_samples=16).log_weights for _ in range(SAMPLES // 16)]
            total += float((torch.cat(parts).double().logsumexp(0) - torch.tensor(SAMPLES).log()).sum())
    return total / len(data)


def settings_of(options: argparse.Namespace, side: str, recipe: recipes.Recipe) -> dict[str, Any]:
    """Of the training: the recipe's, and for a transformer a rate of its own."""
    rate = {} if side == "mlp" else {"learning_rate": options.rate}
    budget = {} if "steps" in options.train else {"minutes": options.minutes}
    return {**recipe.settings, **budget, "seed": options.seed, **rate, **options.train}


def measured(options: argparse.Namespace, side: str, data: Dataset) -> dict[str, Any]:
    """Trains a side, unless it is there, and gives its figures."""
    name = side if side == "mlp" else f"{side}-{options.width}x{options.depth}"
    name += "" if options.warm_up is None else f"-warm{options.warm_up}"
    folder = options.runs / "-".join([name, *(f"{key}={value}" for key, value in options.train.items()), str(options.seed)])
    kept = folder.with_name(f"{folder.name}.json")
    if kept.exists():
        return json.loads(kept.read_text())
    training, held_out = split(data)
    with seeded(options.seed, torch.device("cpu")):
        recipe = recipes.make(training)
        vae = model(options, side, recipe)
    objective = recipe.objective if options.warm_up is None else ELBO(warm_up=options.warm_up)
    cpu = time.process_time()
    trained = vaekit.train(
        data, folder, vae=vae, transform=recipe.transform, objective=objective, force=True, display="plain",
        **settings_of(options, side, recipe),
    )  # fmt: skip
    cpu = time.process_time() - cpu
    about, transform = trained.bundle.training, trained.bundle.transform
    every, some = (bound(trained.vae, transform, held_out, shown) for shown in (1.1, 0.5))
    found = {
        "side": folder.name,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "steps": about["steps"],
        "best_step": about["best_step"],
        "seconds": round(about["seconds"], 1),
        "cpu_seconds": round(cpu, 1),
        "steps_a_cpu_second": round(about["steps"] / cpu, 2),
        "validation": round(-trained.bundle.metrics["validation_loss"], 3),
        "rate": round(trained.bundle.metrics["validation_rate"], 3),
        "full": round(every, 3),
        "half": round(some, 3),
        "hidden": round(every - some, 3),
        **classified(options, trained, data, folder),
    }
    kept.write_text(json.dumps(found, indent=2) + "\n")
    return found


def classified(options: argparse.Namespace, trained: vaekit.Model, data: Dataset, folder: Path) -> dict[str, Any]:
    """What CatBoost learns from as many generated rows as there are, of the model with the prior that the recipe fits."""
    if options.bench is None:
        return {}
    fitted = trained.refit_prior(data, recipes.SECOND_STAGE, components=60)
    rows, scores = folder.with_name(f"{folder.name}.csv"), folder.with_name(f"{folder.name}.scores.json")
    generated = fitted.generate_labelled(len(data), seed=options.seed)
    write(decode(generated.x, fitted.schema.table), str(rows), True)
    command = [options.bench / "bin" / "python", HERE / "protocols.py", "--synthetic", rows, "--data", options.data]
    command += ["--threads", 1, "--repeats", 3, "--parts", "catboost", "statistics", "--json", scores]
    subprocess.run(list(map(str, command)), check=True)
    found = json.loads(scores.read_text())
    return {
        "auc": round(found["catboost"]["auc"], 4),
        "f1": round(found["catboost"]["f1"], 4),
        "shapes": round(found["shapes"], 3),
        "trends": round(found["trends"], 3),
    }


def overrides(text: str) -> dict[str, Any]:
    """`decay=constant ema=0.99` as settings of the training."""
    pairs = (each.partition("=") for each in text.split())
    return {key: value if key == "decay" else json.loads(value) for key, _, value in pairs}


def main() -> None:
    """Trains what is asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.csv, and with --bench test.csv")
    parser.add_argument("--runs", type=Path, required=True, help="what is made is kept there")
    parser.add_argument("--side", nargs="+", choices=SIDES, default=["mlp", "columns"])
    parser.add_argument("--minutes", type=float, default=6.0, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of sides with a transformer")
    parser.add_argument("--warm-up", type=int, help="steps in which the rate's weight rises to 1, where not as in the recipe")
    parser.add_argument("--train", type=overrides, default={}, help="settings of the training, as in 'decay=constant hide=0.5'")
    parser.add_argument("--bench", type=Path, help="the environment of requirements-peers.txt, to learn from generated rows")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    data = open_data(options.data / "train.csv")
    found = [measured(options, side, data) for side in options.side]
    wide = max(len(each["side"]) for each in found) + 2
    names = [name for name in found[0] if name != "side"]
    print(" " * wide + "  ".join(f"{name:>14}" for name in names))
    for each in found:
        print(f"{each['side']:{wide}}" + "  ".join(f"{each.get(name, ''):>14}" for name in names), flush=True)


if __name__ == "__main__":
    main()
