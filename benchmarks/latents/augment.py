"""Does a VAE's augmentation help a classifier? Permutation-invariant MNIST, or any .npz of images with labels.

    python benchmarks/latents/augment.py --data mnist.npz --runs FOLDER [--sizes all 10 50 100] [--seeds 0 1 ... 9]
        [--arms none classical vaekit] [--epochs 100] [--vae-epochs 50] [--pool labelled] [--mixing 0.4]
        [--temperatures 0.5 1.0 1.5] [--smoothing 0.1] [--device auto] [--write]

The protocol is that of Norouzi, Fleet, Norouzi, "Exemplar VAE: linking generative models, nearest neighbor retrieval, and data
augmentation" (2020), Table 6: a network with two hidden layers of 1,024 units that sees an image as 784 numbers in no order,
SGD with momentum 0.9, label smoothing, 100 epochs, and the loss

    (1 - m) l(f(x), y) + m l(f(x~), y),    x~ drawn anew in each step around x,  m = 0.4

There: 1.23 % test error without, 0.77 % with. Sizes are `all` training images, or so many a class, drawn by the seed: the same
images for each arm. With few images, as many steps are taken as --small-steps says, the same for each arm.

- `none`: the images alone.
- `classical`: x~ is moved by up to two pixels and turned by up to 15 degrees. It knows that pixels lie on a grid, which a
  permutation-invariant method may not, and stands here for comparison.
- `vaekit`: x~ is the decoder's mean at z = E q(z|x) + T (z' - E q(z|x)), z' ~ q(z|x), T one of --temperatures for each image:
  what `augment` calls `posterior`. The VAE is dense too, has no labels, and is trained on the images of the same size
  (--pool labelled), or on all training images (--pool all), whose labels it never sees: the setting with few labels.

A row of results.json has the mean error of the seeds with its standard error, and the paired difference to `none`. What is done
is kept in `--runs`, one file a seed, size and arm, and not done again. The test images are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
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
from torch import Tensor, nn

import vaekit
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.inference import is_point
from vaekit.objectives import ELBO

RESULTS = Path(__file__).with_name("results.json")
ARMS = ("none", "classical", "vaekit")
TARGET = "<= 0.80"
_KEPT = ("epochs", "small_steps", "weight_decay", "batch_size", "lr", "smoothing", "hidden", "dropout", "average", "limit")
_KEPT_VAEKIT = ("vae_epochs", "vae_steps", "latent", "beta", "recipe", "likelihood", "pool", "temperatures", "sampled")
"""Choices on which what is kept depends: of every arm, and of `vaekit` besides."""


def few(train: Dataset, size: str, seed: int) -> Dataset:
    """So many images of each class, drawn by the seed; or all."""
    if size == "all":
        return train
    rng, labels = np.random.default_rng(seed), train.columns["label"]
    rows = [rng.permutation(np.flatnonzero(labels == label))[: int(size)] for label in np.unique(labels)]
    return train.select(np.sort(np.concatenate(rows)))


def intensities(dataset: Dataset) -> Tensor:
    """(N, D) in [0, 1]."""
    assert dataset.schema.levels is not None
    return torch.from_numpy(dataset.stored().reshape(len(dataset), -1).astype(np.float32)) / (dataset.schema.levels - 1)


class Classifier(nn.Sequential):
    """Dense layers of one width with ReLU, and dropout where it is asked for."""

    def __init__(self, inputs: int, num_classes: int, hidden: int, dropout: float) -> None:
        widths, layers = [inputs, hidden, hidden], []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden, num_classes))


class Around:
    """Draws around images of a model, from moments of q(z|x) that are computed once."""

    def __init__(self, model: vaekit.Model, data: Dataset, options: argparse.Namespace) -> None:
        if is_point(model.vae):
            raise SystemExit("the posterior must have a width")
        encoding = model.encode(data, split="all")
        self.model, self.sampled = model, options.sampled
        self.mean = torch.from_numpy(encoding.mean).to(options.device)
        self.scale = torch.from_numpy(encoding.scale).to(options.device)
        self.temperatures = torch.tensor(options.temperatures, device=options.device)

    @torch.no_grad()
    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        chosen = self.temperatures[torch.randint(len(self.temperatures), (len(rows), 1), device=x.device)]
        mean, scale = self.mean[rows], self.scale[rows]
        p = self.model.vae.decode_flat(mean + chosen * scale * torch.randn_like(mean))
        made = p.sample() if self.sampled else p.mean
        levels = self.model.schema.levels
        high = 1.0 if self.model.bundle.transform.stochastic else (levels or 2) - 1.0
        return (made.flatten(1) / high).clamp(0, 1)


def classical(x: Tensor, rows: Tensor) -> Tensor:
    """Square images moved by up to two pixels and turned by up to 15 degrees, each by itself."""
    side = math.isqrt(x.shape[1])
    angle = (torch.rand(len(x), device=x.device) * 2 - 1) * math.radians(15)
    move = (torch.rand(len(x), 2, device=x.device) * 2 - 1) * 2 * 2 / side
    turn = torch.stack([angle.cos(), -angle.sin(), move[:, 0], angle.sin(), angle.cos(), move[:, 1]], dim=1).view(-1, 2, 3)
    images = x.view(-1, 1, side, side)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).flatten(1)


def vae_of(train: Dataset, labelled: Dataset, size: str, seed: int, options: argparse.Namespace) -> vaekit.Model:
    """The model of the pool, trained or read; one of all images is shared by all sizes and, as in the paper, by all seeds."""
    everything = size == "all" or options.pool == "all"
    pool, name = (train, f"all-{options.vae_seed}") if everything else (labelled, f"{size}-{seed}")
    said = [options.vae_epochs if everything else f"{options.vae_steps}s", options.latent, options.beta, options.recipe]
    folder = options.runs / "-".join(map(str, ["vae", name, *said, options.likelihood or "auto", options.limit or "all"]))
    if (folder / "vaekit.json").exists() and vaekit.load(folder).bundle.training["stopped"] != "interrupted":
        return vaekit.load(folder, options.device)
    budget = {"epochs": options.vae_epochs} if everything else {"steps": options.vae_steps}
    how = {"recipe": options.recipe, "latent": options.latent, "likelihood": options.likelihood, "device": options.device}
    objective = ELBO(beta=options.beta)
    chosen = {"objective": objective, "seed": options.vae_seed if everything else seed, "resume": True, "display": "plain"}
    return vaekit.train(pool, folder, **chosen, **how, **budget)


def trained(x: Tensor, y: Tensor, more: Any, num_classes: int, steps: int, seed: int, options: argparse.Namespace) -> nn.Module:
    """The classifier. Every arm has the same start and the same images in the same order."""
    torch.manual_seed(seed)
    network = Classifier(x.shape[1], num_classes, options.hidden, options.dropout).to(x.device)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.average)
    )
    optimizer = torch.optim.SGD(
        network.parameters(), options.lr, momentum=0.9, nesterov=True, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order, size = np.random.default_rng(seed), min(options.batch_size, len(x))
    queue = np.empty(0, np.int64)
    network.train()
    for step in range(steps):
        if len(queue) < size:
            queue = np.concatenate([queue, order.permutation(len(x))])
        rows, queue = torch.from_numpy(queue[:size]).to(x.device), queue[size:]
        batch, labels = x[rows], y[rows]
        loss = F.cross_entropy(network(batch), labels, label_smoothing=options.smoothing)
        if more is not None:
            other = F.cross_entropy(network(more(batch, rows)), labels, label_smoothing=options.smoothing)
            loss = (1 - options.mixing) * loss + options.mixing * other
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"    step {step + 1} of {steps}, loss {loss.item():.4f}", flush=True)
    return average.eval()


def error_of(arm: str, size: str, seed: int, train: Dataset, test: Dataset, options: argparse.Namespace) -> dict[str, float]:
    """Test error, in percent, and seconds; kept in a file."""
    names = [*_KEPT, *(() if arm == "none" else ("mixing",)), *(_KEPT_VAEKIT if arm == "vaekit" else ())]
    said = {name: getattr(options, name) for name in names}
    folder = options.runs / "errors"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
    kept = folder / f"{arm}-{size}-{seed}-{digest}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    labelled = few(train, size, seed)
    x, y = intensities(labelled).to(options.device), torch.from_numpy(labelled.columns["label"]).to(options.device)
    start = time.perf_counter()
    more: Any = classical if arm == "classical" else None
    if arm == "vaekit":
        more = Around(vae_of(train, labelled, size, seed, options), labelled, options)
    vae_seconds = time.perf_counter() - start
    steps = round(options.epochs * len(x) / options.batch_size) if size == "all" else options.small_steps
    network = trained(x, y, more, int(train.columns["label"].max()) + 1, steps, seed, options)
    with torch.inference_mode():
        said_labels = torch.cat([network(part.to(options.device)).argmax(1).cpu() for part in intensities(test).split(2000)])
    wrong = float((said_labels.numpy() != test.columns["label"]).mean()) * 100
    seconds = time.perf_counter() - start
    found = {"error": wrong, "seconds": seconds, "vae_seconds": vae_seconds, "options": said}
    partial = kept.with_suffix(".tmp")
    partial.write_text(json.dumps(found))
    os.replace(partial, kept)
    return found


def row(
    arm: str, size: str, found: dict[int, dict[str, float]], plain: dict[int, dict[str, float]], options: Any
) -> dict[str, Any]:
    """As every results.json of the benchmarks has it."""
    errors = np.array([found[seed]["error"] for seed in sorted(found)])
    both = sorted(set(found) & set(plain))
    gains = np.array([plain[seed]["error"] - found[seed]["error"] for seed in both])
    paired = (
        {} if arm == "none" or not len(gains) else {"gain": round(float(gains.mean()), 4), "gain_error": standard_error(gains)}
    )
    names = ("epochs", "small_steps", "vae_epochs", "vae_steps", "latent", "beta", "recipe", "likelihood", "pool", "mixing")
    names += ("smoothing", "lr", "batch_size", "temperatures", "limit")
    given = {name.replace("_", "-"): getattr(options, name) for name in names if getattr(options, name) is not None}
    sizes = f"--sizes {size} --seeds {' '.join(map(str, sorted(found)))}"
    said = " ".join(f"--{name} {' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in given.items())
    by_vaekit = "vaekit, a VAE of all images" if options.pool == "all" and size != "all" else "vaekit"
    return {
        "case": "mnist-augmented-error" if size == "all" else f"mnist-augmented-error-{size}-a-class",
        "side": {"vaekit": by_vaekit, "none": "no augmentation", "classical": "shifts and rotations"}[arm],
        "value": round(float(errors.mean()), 4),
        "error": standard_error(errors),
        "unit": "%",
        "target": TARGET if (arm, size) == ("vaekit", "all") else None,
        **paired,
        "by_seed": [round(value, 4) for value in errors.tolist()],
        "seeds": sorted(found),
        "seconds": round(float(np.mean([found[seed]["seconds"] for seed in found])), 1),
        "command": f"python benchmarks/latents/augment.py --data mnist.npz --runs FOLDER {sizes} {said} --write",
        "data": f"MNIST, {'60,000' if size == 'all' else f'{size} a class'} and 10,000",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {options.device}",
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "vaekit": vaekit.__version__},
        "date": datetime.date.today().isoformat(),
    }


def standard_error(values: np.ndarray) -> float | None:
    """Of a mean; None of a single value."""
    return round(float(values.std(ddof=1)) / math.sqrt(len(values)), 4) if len(values) > 1 else None


def write(rows: list[dict[str, Any]]) -> None:
    names = {(new["case"], new["side"]) for new in rows}
    kept = [old for old in json.loads(RESULTS.read_text()) if (old["case"], old["side"]) not in names]
    RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", default=["all", "10", "50", "100"], help="`all`, or images a class")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--epochs", type=float, default=100, help="of the classifier, of all images")
    parser.add_argument("--small-steps", type=int, default=4000, help="of the classifier, of few images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument(
        "--average", type=float, default=0.999, help="decay of the average of weights that is tested; 0 for none"
    )
    parser.add_argument("--mixing", type=float, default=0.4, help="weight of the augmented images")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.5, 1.0, 1.5])
    parser.add_argument("--sampled", action="store_true", help="draw pixels, in place of their means")
    parser.add_argument("--vae-epochs", type=float, default=50, help="of all images")
    parser.add_argument("--vae-steps", type=int, default=6000, help="of few images")
    parser.add_argument("--vae-seed", type=int, default=0)
    parser.add_argument("--latent", type=int, default=40)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--recipe", default="mlp")
    parser.add_argument("--likelihood", default="bernoulli")
    parser.add_argument("--pool", choices=("labelled", "all"), default="labelled", help="what the VAE of few images sees")
    parser.add_argument("--limit", type=int, help="so many training images, for a try")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    options = parse()
    everything = loading.open(options.data)
    train, test = everything.split("train"), everything.split("test")
    if options.limit is not None:
        train = train.select(np.arange(min(options.limit, len(train))))
    rows = []
    for size in options.sizes:
        found: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in options.arms}
        for seed in options.seeds:
            for arm in options.arms:
                found[arm][seed] = error_of(arm, size, seed, train, test, options)
                print(f"{size:>4} {arm:9} seed {seed}: {found[arm][seed]['error']:.2f} %", flush=True)
        made = [row(arm, size, found[arm], found.get("none", {}), options) for arm in options.arms]
        for one in made:
            gain = "" if one.get("gain") is None else f", gain {one['gain']:.3f} +- {one['gain_error']}"
            print(f"{one['case']:36} {one['side']:22} {one['value']:.3f} +- {one['error']} %{gain}", flush=True)
        rows += made
        if options.write:
            write(rows)


if __name__ == "__main__":
    main()
