"""Disentanglement on sprites with the factor grid of dSprites: a VAE, beta-VAE, FactorVAE and beta-TCVAE, several seeds each.

    python benchmarks/latents/disentangle.py --runs FOLDER [--steps 300000] [--images 737280] [--seeds 0 1 2 3 4]
        [--sides vae beta-vae factor-vae beta-tcvae] [--beta 4] [--gamma 35] [--tc 6] [--adversary 1000] [--learning-rate 1e-4]
        [--size 64] [--device auto] [--only-train] [--write]
    python benchmarks/latents/disentangle.py --speed          examples a second of one core, and nothing else

As in Locatello et al., "Challenging common assumptions in the unsupervised learning of disentangled representations" (2019):
four convolutions of 4 x 4 with stride 2 and 32, 32, 64 and 64 channels, a dense layer of 256, 10 latent units, the same
backwards, a Bernoulli likelihood, batches of 64, Adam at 1e-4 without decay, 300,000 steps, the weights of the last step; of
FactorVAE a discriminator of six layers of 1000. Measures are of 15,000 examples (`evaluate_disentanglement`; a forest in DCI,
where they have boosting). `--size 32` halves the pictures and leaves out the first convolution: three times as fast. No labels
choose anything: neither a model nor a unit nor a step. UDR compares the seeds of one side with each other. The pictures are
vaekit's own, so figures are near those of dSprites but not the same. Published on dSprites (FactorVAE score / MIG / DCI): VAE
.63 / .10 / .30, beta-VAE .63 / .21 / .41, FactorVAE .82 / .43 / .74, beta-TCVAE .62 / .45 / .29.

A run is a folder in `--runs`; one that was stopped goes on, and one that is done is neither trained nor measured again.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import vaekit
from vaekit.component import Component
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.sprites import NUM_VALUES, sprites
from vaekit.data.transforms import Levels
from vaekit.evaluation.disentanglement import evaluate_disentanglement, udr, unit_kl
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP
from vaekit.networks.conv import channels_last
from vaekit.objectives import ELBO, FactorVAE, Objective, TotalCorrelation
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

RESULTS = Path(__file__).with_name("results.json")
SIDES = ("vae", "beta-vae", "factor-vae", "beta-tcvae")
TARGET = "median MIG >= .45 and FactorVAE score >= .80 over five seeds"
NUM_LATENTS, BATCH, JUDGED = 10, 64, 15_000
CHANNELS, DENSE = (32, 32, 64, 64), 256
FACTORS = ("shape", "scale", "orientation", "x", "y")
_JUDGED_SEED, _ALIKE = 987_654_321, 10_000


def channels_of(size: int) -> tuple[int, ...]:
    """A convolution for each halving down to 4 x 4."""
    return CHANNELS[-(size.bit_length() - 3) :]


class PlainEncoder(Component):
    """Convolutions of stride 2 down to 4 x 4, and a dense layer.

    Args:
        size: pixels a side, 32 or 64.
    """

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        widths = (1, *channels_of(size))
        layers = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.dense = nn.Linear(CHANNELS[-1] * 16, DENSE)
        channels_last(self)
        self.out_shape = (DENSE,)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """A dense layer to (..., num_parameters, *event_shape)."""
        return MLP(1, [DENSE]).make_head(num_parameters, event_shape)

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., 1, size, size) to (..., 256)."""
        x = x.to(self.dense.weight.dtype)
        h = self.layers(x.flatten(0, -4).contiguous(memory_format=torch.channels_last)).flatten(1)
        return torch.relu(self.dense(h)).unflatten(0, x.shape[:-3])


class UpHead(nn.Module):
    """A transposed convolution to (..., num_parameters, 1, size, size)."""

    def __init__(self, channels: int, num_parameters: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, num_parameters, 4, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """(..., C, size / 2, size / 2) to the parameters of all pixels."""
        return self.up(features.flatten(0, -4)).unsqueeze(2).unflatten(0, features.shape[:-3])


class PlainDecoder(Component):
    """The encoder backwards; its last layer is the head.

    Args:
        size: pixels a side, 32 or 64.
    """

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        wide = CHANNELS[-1] * 16
        self.dense = nn.Sequential(nn.Linear(NUM_LATENTS, DENSE), nn.ReLU(), nn.Linear(DENSE, wide), nn.ReLU())
        widths = channels_of(size)[::-1]
        layers = [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.out_shape = (widths[-1], size // 2, size // 2)
        channels_last(self)

    def make_head(self, num_parameters: int, event_shape: tuple[int, ...]) -> nn.Module:
        """The last transposed convolution."""
        assert event_shape == (1, 2 * self.out_shape[1], 2 * self.out_shape[2])
        return UpHead(self.out_shape[0], num_parameters)

    def forward(self, z: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(..., 10) to (..., C, size / 2, size / 2)."""
        h = self.dense(z.flatten(0, -2)).unflatten(1, (CHANNELS[-1], 4, 4))
        return self.layers(h.contiguous(memory_format=torch.channels_last)).unflatten(0, z.shape[:-1])


def build(size: int) -> VAE:
    """The model of all sides."""
    likelihood = Bernoulli(PlainDecoder(size), [1, size, size])
    return VAE(StandardNormal(NUM_LATENTS), DiagonalNormal(PlainEncoder(size), NUM_LATENTS), likelihood)


def objective_of(side: str, options: argparse.Namespace) -> Objective:
    """What a side minimises."""
    if side == "factor-vae":
        discriminator = MLP(NUM_LATENTS, [options.adversary] * 6, "leaky_relu")
        return FactorVAE(discriminator, gamma=options.gamma, adversary_learning_rate=1e-4)
    if side == "beta-tcvae":
        return TotalCorrelation(beta=options.tc)
    return ELBO(beta=options.beta if side == "beta-vae" else 1.0)


def pictures(options: argparse.Namespace) -> Dataset:
    """The training pictures: rendered once into the folder of the runs; a byte a pixel, so all of them are 3 GB."""
    path = options.runs / f"sprites-{options.size}-{options.images}.npy"
    if not path.exists():
        whole = options.images == np.prod(NUM_VALUES)
        images = sprites(None if whole else options.images, size=options.size, seed=1).images
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, images)
        temporary.replace(path)
        del images
    found = loading.open(np.load(path, mmap_mode="r"), levels=2)
    assert found.schema.values == "binary"
    return found


def folder_of(side: str, seed: int, options: argparse.Namespace) -> Path:
    """The folder of a run, named after everything that decides its weights but the steps."""
    import hashlib

    with torch.random.fork_rng(devices=[]):
        said = [side, seed, options.images, options.size, options.learning_rate, objective_of(side, options).spec()]
    mark = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]
    return options.runs / f"{side}-{seed}-{options.steps}-{mark}"


def trained(side: str, seed: int, options: argparse.Namespace, data: Dataset) -> vaekit.Model:
    """The model of a run, trained or gone on with if it has to be."""
    folder = folder_of(side, seed, options)
    if (folder / "vaekit.json").exists():
        model = vaekit.load(folder, options.device)
        if model.bundle.training.get("stopped") != "interrupted":
            return model
    torch.manual_seed(seed)
    how = {"steps": options.steps, "batch_size": BATCH, "learning_rate": options.learning_rate, "seed": seed, "patience": 0}
    how |= {"decay": "constant", "learning_rate_warm_up": 0, "ema": 0.0, "validate_every": options.steps}
    how |= {"precision": "float32", "device": options.device, "display": "plain", "checkpoint_seconds": 120.0}
    objective = objective_of(side, options)
    return vaekit.train(data, folder, vae=build(options.size), transform=Levels(), objective=objective, resume=True, **how)


def judged(side: str, seed: int, options: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """What is measured of a run: kept beside its model, and measured once."""
    folder = folder_of(side, seed, options)
    figures, codes = folder / f"figures-{options.judged}.json", folder / f"codes-{options.judged}.npz"
    if not (figures.exists() and codes.exists()):
        model = trained(side, seed, options, data)
        seen = sprites(options.judged, size=options.size, seed=_JUDGED_SEED)
        found = model.encode(seen.images, split="all")
        np.savez(codes, mean=found.mean, scale=found.scale)
        report = evaluate_disentanglement(found.mean, seen.factors, names=FACTORS, seed=0)
        training = model.bundle.training
        record = {
            **report.to_json(),
            "metrics": model.bundle.metrics,
            "seconds": training["seconds"],
            "steps": training["steps"],
        }
        temporary = figures.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        temporary.replace(figures)
    return json.loads(figures.read_text())


def likeness(side: str, options: argparse.Namespace) -> dict[str, float]:
    """UDR of each seed, by its name."""
    if len(options.seeds) < 2:
        return {}
    files = [folder_of(side, seed, options) / f"codes-{options.judged}.npz" for seed in options.seeds]
    codes = [np.load(file) for file in files]
    rows = slice(None, _ALIKE)
    found = udr([each["mean"][rows] for each in codes], [unit_kl(each["mean"][rows], each["scale"][rows]) for each in codes])
    return {str(seed): score for seed, score in zip(options.seeds, found.scores, strict=True)}


def row(side: str, found: list[dict[str, Any]], alike: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """One row, as every results.json of the benchmarks has it: the median over seeds, and the least and the greatest."""
    by_seed = {name: [each["scores"][name] for each in found] for name in found[0]["scores"]}
    by_seed |= {"udr": list(alike.values())} if alike else {}
    by_seed["active_units"] = [float(each["active_units"]) for each in found]
    spread = {}
    for name, values in by_seed.items():
        spread |= {name: round(statistics.median(values), 4), f"{name}_least": round(min(values), 4)}
        spread |= {f"{name}_most": round(max(values), 4)}
    named = {"vae": "VAE", "beta-vae": f"beta-VAE ({options.beta:g})", "factor-vae": f"FactorVAE ({options.gamma:g})"}
    return {
        "case": "disentangle-sprites",
        "side": named.get(side, f"beta-TCVAE ({options.tc:g})"),
        "value": spread.pop("mig"),
        "unit": "MIG, median over seeds",
        "target": TARGET,
        **spread,
        "mig_by_seed": [round(value, 4) for value in by_seed["mig"]],
        "factor_vae_by_seed": [round(value, 4) for value in by_seed["factor_vae"]],
        "seeds": options.seeds,
        "seconds": round(statistics.mean(each["seconds"] for each in found), 1),
        "command": f"python benchmarks/latents/disentangle.py --runs FOLDER {asked(options)} --write",
        "data": f"{options.images:,} of 737,280 sprites of {options.size} x {options.size}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {options.device}",
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "vaekit": vaekit.__version__},
        "date": datetime.date.today().isoformat(),
    }


def asked(options: argparse.Namespace) -> str:
    names = ("steps", "images", "size", "beta", "gamma", "tc", "adversary", "learning_rate")
    given = [f"--{name.replace('_', '-')} {getattr(options, name):g}" for name in names if getattr(options, name) is not None]
    return " ".join([*given, "--seeds", *map(str, options.seeds)])


def speed(options: argparse.Namespace) -> None:
    """Examples a second of each side's training step, by the time that the process itself had."""
    data = loading.open(sprites(512, size=options.size).images, levels=2)
    for side in options.sides:
        torch.manual_seed(0)
        vae, objective = build(options.size), objective_of(side, options)
        groups = [*vae.parameters(), *objective.parameters()]
        adam, rng = torch.optim.Adam(groups, lr=1e-4), np.random.default_rng(0)
        start, done = time.process_time(), 0
        for step in range(options.speed_steps + 5):
            if step == 5:
                start, done = time.process_time(), 0
            x = data.batch(rng.integers(0, len(data), BATCH)).x.float()
            trace = vae(x)
            bound = objective(replace(trace, num_data=len(data)), step)
            adversary = bound.adversary if bound.adversary is not None else 0.0
            adam.zero_grad(set_to_none=True)
            (bound.loss + adversary).backward()
            adam.step()
            done += BATCH
        seconds = time.process_time() - start
        print(f"{side:12}{done / seconds:9.0f} examples/s{1000 * seconds / options.speed_steps:9.1f} ms a step", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--images", type=int, default=int(np.prod(NUM_VALUES)), help="so many of the grid, drawn at random")
    parser.add_argument("--size", type=int, choices=(32, 64), default=64, help="pixels a side")
    parser.add_argument("--beta", type=float, default=4.0, help="of beta-VAE")
    parser.add_argument("--gamma", type=float, default=35.0, help="of FactorVAE")
    parser.add_argument("--tc", type=float, default=6.0, help="of beta-TCVAE")
    parser.add_argument("--adversary", type=int, default=1000, help="width of each layer of FactorVAE's discriminator")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--judged", type=int, default=JUDGED, help="examples that are measured")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--speed-steps", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.runs is None and not options.speed:
        parser.error("give `--runs`")
    if options.write and options.judged != JUDGED:
        parser.error("`--write` needs all that are judged: leave out `--judged`")
    return options


def main() -> None:
    options = parse()
    if options.speed:
        speed(options)
        return
    options.runs.mkdir(parents=True, exist_ok=True)
    data, rows = pictures(options), []
    print(f"{'':12}{'seed':>5}{'MIG':>9}{'Factor':>9}{'beta':>9}{'DCI':>9}{'active':>8}{'UDR':>9}")
    done: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for seed in options.seeds:  # a seed of every side before the next, so that a stop leaves as many of each
        for side in options.sides:
            if options.only_train:
                trained(side, seed, options, data)
                continue
            found = judged(side, seed, options, data)
            done[side].append(found)
            scores = [found["scores"][name] for name in ("mig", "factor_vae", "beta_vae", "dci_disentanglement")]
            print(f"{side:12}{seed:5}{''.join(f'{score:9.3f}' for score in scores)}{found['active_units']:8}", flush=True)
    if options.only_train:
        return
    for side, found in done.items():
        rows.append(row(side, found, likeness(side, options), options))
        medians = [rows[-1][name] for name in ("value", "factor_vae", "beta_vae", "dci_disentanglement")]
        last = f"{rows[-1]['active_units']:8.0f}{rows[-1].get('udr', float('nan')):9.3f}"
        print(f"{side:12}{'all':>5}{''.join(f'{score:9.3f}' for score in medians)}{last}", flush=True)
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        new = {(each["case"], each["side"]) for each in rows}
        kept = [each for each in kept if (each["case"], each.get("side")) not in new]
        RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
