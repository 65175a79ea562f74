"""Does a conditional model make what it is asked for? MNIST, or any .npz of images with labels.

    python benchmarks/latents/conditional.py --data mnist.npz --runs FOLDER [--epochs 30 | --minutes 30] [--recipe auto]
        [--latent N] [--objective elbo] [--num 1000] [--draw auto] [--classifier-epochs 12] [--seed 0] [--device auto] [--write]

A model of the default recipe is trained on `x_train` with the condition `label`, and `--num` images of each label are made. A
convolutional network that was trained on the real images of `x_train` says what they are; its own accuracy on the real images
of `x_test` stands beside the figure, which is the share of made images that it takes for what was asked, with Wilson's
interval of 95 %.

A model that makes one good picture a label would have all of them right, so further figures say how varied the pictures of a
label are: their variance about the mean of the label as a share of that of real test images, in pixels and in the classifier's
features; and precision and recall within each label, on those features (Kynkaanniemi et al., "Improved precision and recall
metric for assessing generative models", 2019). Means of p(x|z, c) are smoother than images, so that a share of pixels below 1
is to be expected; the share of the reconstructions of real test images, which have all variety that the latent carries, stands
beside it.

Model and classifier are kept in `--runs`; a run that was stopped goes on, and what is done is not done again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vaekit
from vaekit.data import loading
from vaekit.data.dataset import Dataset

RESULTS = Path(__file__).with_name("results.json")
TARGET = ">= .985"
_NEIGHBOURS = 3


class Classifier(nn.Module):
    """Two convolutions, two pools and two dense layers, for images (B, C, H, W) in [0, 1]."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(128, num_classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 128), and logits."""
        features = self.stem(x)
        return features, self.head(features)


def pixels(x: np.ndarray, dataset: Dataset) -> Tensor:
    """(N, C, H, W) in [0, 1], of images in the source's form."""
    levels = loading.conform(x, dataset.schema).stored()
    assert dataset.schema.levels is not None
    return torch.from_numpy(levels.astype(np.float32)) / (dataset.schema.levels - 1)


def classifier_of(train: Dataset, test: Dataset, options: argparse.Namespace) -> tuple[Classifier, float]:
    """The classifier, and its accuracy on real test images."""
    torch.manual_seed(options.seed)
    num = len(train.schema.column("label").categories)
    network = Classifier(train.schema.shape, num).to(options.device)
    kept = options.runs / f"classifier-{options.classifier_epochs}-{options.limit or 'all'}-{options.seed}.safetensors"
    if kept.exists():
        network.load_state_dict(load_file(kept))
    else:
        fit(network, train, options)
        save_file(network.state_dict(), kept)
    said = judged(network, pixels(test.raw(), test), options.device)[1]
    return network, float((said == test.columns["label"]).mean())


def fit(network: Classifier, train: Dataset, options: argparse.Namespace) -> None:
    """Adam, with a learning rate that falls to 0 along a cosine, and pictures moved by up to two pixels."""
    x, y = pixels(train.raw(), train), torch.from_numpy(train.columns["label"])
    size, steps = 128, options.classifier_epochs * (len(x) // 128)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    network.train()
    for epoch in range(options.classifier_epochs):
        for rows in torch.randperm(len(x)).split(size):
            if len(rows) < size:
                continue
            down, right = torch.randint(-2, 3, (2,)).tolist()
            batch = x[rows].roll((down, right), (2, 3)).to(options.device)
            optimizer.zero_grad()
            F.cross_entropy(network(batch)[1], y[rows].to(options.device)).backward()
            optimizer.step()
            schedule.step()
        print(f"classifier: epoch {epoch + 1} of {options.classifier_epochs}", flush=True)


@torch.inference_mode()
def judged(network: Classifier, x: Tensor, device: str) -> tuple[Tensor, np.ndarray]:
    """Features and labels of images."""
    network.eval()
    parts = [network(batch.to(device)) for batch in x.split(500)]
    return torch.cat([features.cpu() for features, _ in parts]), torch.cat(
        [logits.argmax(1).cpu() for _, logits in parts]
    ).numpy()


def wilson(hits: int, num: int) -> tuple[float, float]:
    """The interval of 95 % of a share."""
    share, z = hits / num, 1.959964
    middle = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return middle - half, middle + half


def variance_within(x: Tensor, y: np.ndarray) -> float:
    """The variance about the mean of each label, summed over elements, a mean over labels."""
    flat = x.flatten(1).double()
    return float(np.mean([flat[torch.from_numpy(y == label)].var(0).sum() for label in np.unique(y)]))


def covered(points: Tensor, by: Tensor) -> float:
    """The share of points within the reach of a third nearest neighbour of one of `by`."""
    reach = torch.cdist(by, by).kthvalue(_NEIGHBOURS + 1, dim=1).values
    return float((torch.cdist(points, by) <= reach[None]).any(1).double().mean())


def precision_and_recall(made: Tensor, y_made: np.ndarray, real: Tensor, y_real: np.ndarray) -> tuple[float, float]:
    """Within each label, a mean over labels; as many of the one as of the other."""
    found = []
    for label in np.unique(y_real):
        a, b = made[torch.from_numpy(y_made == label)], real[torch.from_numpy(y_real == label)]
        num = min(len(a), len(b))
        found.append((covered(a[:num], b[:num]), covered(b[:num], a[:num])))
    precision, recall = np.mean(found, axis=0)
    return float(precision), float(recall)


def model_of(train: Dataset, options: argparse.Namespace) -> vaekit.Model:
    """The model, trained or read."""
    names = ("recipe", "latent", "objective", "likelihood", "seed", "epochs", "minutes", "limit")
    folder = options.runs / "-".join(f"{name}={getattr(options, name)}" for name in names if getattr(options, name) is not None)
    if (folder / "vaekit.json").exists() and vaekit.load(folder).bundle.training["stopped"] != "interrupted":
        return vaekit.load(folder, options.device)
    budget = {"epochs": options.epochs} if options.minutes is None else {"minutes": options.minutes}
    how = {name: getattr(options, name) for name in ("recipe", "latent", "objective", "likelihood", "seed", "device")}
    return vaekit.train(train, folder, condition=["label"], resume=True, display="plain", **how, **budget)


def figures(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured."""
    everything = loading.open(options.data)
    train, test = everything.split("train"), everything.split("test")
    if options.limit is not None:
        train = train.select(np.arange(min(options.limit, len(train))))
    options.runs.mkdir(parents=True, exist_ok=True)
    network, accuracy = classifier_of(train, test, options)
    print(f"the classifier has {accuracy:.4f} of the real test images", flush=True)
    model = model_of(train, options)
    categories = train.schema.column("label").categories
    start = time.perf_counter()
    asked = np.repeat(np.arange(len(categories)), options.num)
    how = {"draw": options.draw}
    made = [model.generate(options.num, where={"label": c}, seed=options.seed + i, **how) for i, c in enumerate(categories)]
    seconds = time.perf_counter() - start
    x = pixels(np.concatenate(made), train)
    features, said = judged(network, x, options.device)
    real = pixels(test.raw(), test)
    known, label = judged(network, real, options.device)[0], test.columns["label"]
    again = pixels(model.reconstruct(test, split="all"), train)
    hits = said == asked
    precision, recall = precision_and_recall(features, asked, known, label)
    low, high = wilson(int(hits.sum()), len(hits))
    return {
        "value": round(float(hits.mean()), 4),
        "interval": [round(low, 4), round(high, 4)],
        "by_label": {c: round(float(hits[asked == i].mean()), 4) for i, c in enumerate(categories)},
        "classifier_accuracy": round(accuracy, 4),
        "variance_share_pixels": round(variance_within(x, asked) / variance_within(real, label), 4),
        "variance_share_reconstructed": round(variance_within(again, label) / variance_within(real, label), 4),
        "variance_share_features": round(variance_within(features, asked) / variance_within(known, label), 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "validation_elbo": model.bundle.metrics.get("validation_elbo"),
        "training_seconds": round(float(model.bundle.training["seconds"]), 1),
        "generating_seconds": round(seconds, 2),
    }


def row(found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """As every results.json of the benchmarks has it."""
    names = ("epochs", "minutes", "recipe", "latent", "objective", "likelihood", "num", "draw", "limit")
    given = " ".join(f"--{name} {getattr(options, name)}" for name in names if getattr(options, name) is not None)
    return {
        "case": "conditional-accuracy",
        "side": "vaekit" if options.objective is None else f"vaekit, {options.objective}",
        "value": found["value"],
        "error": round((found["interval"][1] - found["interval"][0]) / 2, 4),
        "unit": "share",
        "target": TARGET,
        "seeds": [options.seed],
        **{name: value for name, value in found.items() if name != "value"},
        "command": f"python benchmarks/latents/conditional.py --data mnist.npz --runs FOLDER {given} --write",
        "data": f"MNIST, {options.limit or '60,000'} and 10,000",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {options.device}",
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "vaekit": vaekit.__version__},
        "date": datetime.date.today().isoformat(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--latent", type=int)
    parser.add_argument("--objective")
    parser.add_argument("--likelihood")
    parser.add_argument("--num", type=int, default=1000, help="images a label")
    parser.add_argument("--draw", choices=("auto", "mean", "sample"), default="auto")
    parser.add_argument("--classifier-epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, help="so many training images, for a try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.minutes is not None:
        options.epochs = None
    return options


def main() -> None:
    options = parse()
    found = figures(options)
    for name, value in found.items():
        print(f"{name:30} {value}")
    if options.write:
        new = row(found, options)
        kept = [old for old in json.loads(RESULTS.read_text()) if (old["case"], old["side"]) != (new["case"], new["side"])]
        RESULTS.write_text(json.dumps([*kept, new], indent=2) + "\n")


if __name__ == "__main__":
    main()
