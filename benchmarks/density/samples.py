"""Sample quality on MNIST: vaekit's ways to draw a latent beside pythae's, in one harness.

    python benchmarks/density/samples.py --data mnist.npz --runs FOLDER [--peers VENV] [--side vaekit|pythae] [--write]

Both sides train a VAE with 16 latent units, one dense layer of 512 rectified units each way, on the 60,000 training images,
with Adam at 1e-3 in batches of 100 for as many epochs, each with its own trainer and its own loss for grey pixels as
probabilities (vaekit binarises at every use, pythae takes the cross-entropy with the grey levels). Then latents are drawn by
each side's samplers; those that are fitted by gradient get as many steps of 256 latents. What is compared are 10,000 decoded
means, as 8-bit images, with the 10,000 test images, by the features of a small classifier: its last 128 activations. Each
row states the hash of its weights, and rows of different hashes do not compare. Reconstructions of the test images, and
training images in place of samples, are rows of their own: what no sampler passes, and what no model does.

pythae runs as a process of the environment VENV, which is made from requirements-peers.txt where it is missing; samples
come back as .npy. What is in FOLDER is not made again. `--epochs 1 --steps 50 --limit 2000` tries it all in a few minutes.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
CASE = "samples-mnist-z16"
LATENTS, HIDDEN, BATCH, FIT_BATCH, PSEUDO_INPUTS = 16, 512, 100, 256, 100
MANY = 100
"""Components of the larger mixture; the others have ten, as both sides choose."""

Sampler = Callable[[int], np.ndarray]


# ------------------------------------------------------------------------------------------------------- features


class Classifier(nn.Module):
    """Two convolutions and 128 features."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU())
        self.last = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))


def as_input(images: np.ndarray) -> Tensor:
    """(N, 1, 28, 28) in [0, 1] of 8-bit images."""
    return torch.from_numpy(images).float().div(255).unsqueeze(1)


def classifier(data: dict[str, np.ndarray], path: Path, epochs: int) -> tuple[Classifier, dict[str, Any]]:
    """Trained with a fixed seed, or read; its hash and its accuracy on the test images."""
    torch.manual_seed(0)
    network = Classifier()
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        x, y = as_input(data["x_train"]), torch.from_numpy(data["y_train"]).long()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
        torch.save(network.state_dict(), path)
    network.eval()
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())).hexdigest()
    with torch.no_grad():
        guesses = torch.cat([network(part).argmax(1) for part in as_input(data["x_test"]).split(500)])
    accuracy = float((guesses.numpy() == data["y_test"]).mean())
    return network, {"sha256": digest, "accuracy": accuracy, "epochs": epochs}


@torch.no_grad()
def features(network: Classifier, images: np.ndarray) -> np.ndarray:
    """(N, 128)."""
    return torch.cat([network.features(part) for part in as_input(images).split(500)]).numpy()


# ------------------------------------------------------------------------------------------------------- vaekit


def vaekit_side(job: dict[str, Any], data: dict[str, np.ndarray], folder: Path) -> None:
    """Trains, and writes the samples of each sampler as NAME.npy."""
    from dataclasses import replace

    import vaekit
    from vaekit import likelihoods, networks, posteriors, priors
    from vaekit.data.loading import open as open_data
    from vaekit.data.transforms import Binarize
    from vaekit.vae import VAE

    training = open_data(data["x_train"])
    watch = np.arange(0, len(training), 60)
    training = replace(training, splits={"train": np.arange(len(training)), "valid": watch})

    def trained(name: str, prior: priors.Prior) -> vaekit.Model:
        if (folder / name / "vaekit.json").exists():
            return vaekit.load(folder / name)
        shape, network = [1, 28, 28], networks.MLP
        posterior = posteriors.DiagonalNormal(network([1, 28, 28], [HIDDEN], "relu"), LATENTS)
        vae = VAE(prior, posterior, likelihoods.Bernoulli(network(LATENTS, [HIDDEN], "relu"), shape))
        settings = {"epochs": job["epochs"], "batch_size": BATCH, "learning_rate": 1e-3, "patience": 0, "seed": job["seed"]}
        out = folder / name
        return vaekit.train(training, out, vae=vae, transform=Binarize(256), resume=True, display="plain", **settings)

    torch.manual_seed(job["seed"])
    plain = trained("plain", priors.StandardNormal(LATENTS))

    def refitted(kind: str, **options: int) -> Sampler:
        budget = options if kind.startswith("mixture") else {"steps": job["steps"], "batch_size": FIT_BATCH}
        return lambda num: plain.refit_prior(training, kind, seed=job["seed"], **budget).generate(num)

    def learned(num: int) -> np.ndarray:
        prior = priors.Vamp(LATENTS, [1, 28, 28], num_pseudo_inputs=PSEUDO_INPUTS, input_range=[0.0, 1.0])
        return trained("vamp", prior).generate(num)

    samplers: dict[str, Sampler] = {"standard normal": plain.generate}
    kinds = ["mixture", "mixture-full", "flow", "flow-matching", "vae"]
    samplers |= {f"refit {kind}": refitted(kind) for kind in kinds}
    samplers[f"refit mixture-full of {MANY}"] = refitted("mixture-full", components=MANY)
    samplers |= {"learned VampPrior": learned, "reconstructions": lambda num: plain.reconstruct(data["x_test"])}
    write_all(samplers, job["num"], folder)


# ------------------------------------------------------------------------------------------------------- pythae


def pythae_side(job: dict[str, Any], data: dict[str, np.ndarray], folder: Path) -> None:
    """The same by pythae, in its own environment."""
    from pythae import samplers as peers
    from pythae.models import VAE, VAMP, AutoModel, VAEConfig, VAMPConfig
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    x = data["x_train"].astype(np.float32)[:, None] / 255

    def config(where: str, epochs: int, batch: int) -> BaseTrainerConfig:
        return BaseTrainerConfig(
            output_dir=str(folder / where),
            num_epochs=epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=batch,
            seed=job["seed"],
            no_cuda=True,
        )

    def trained(name: str, make: Callable[[], Any]) -> Any:
        done = sorted((folder / name).glob("*/final_model"))
        if not done:
            TrainingPipeline(model=make(), training_config=config(name, job["epochs"], BATCH))(train_data=x)
            done = sorted((folder / name).glob("*/final_model"))
        return AutoModel.load_from_folder(str(done[-1])).eval()

    shape = {"input_dim": (1, 28, 28), "latent_dim": LATENTS, "reconstruction_loss": "bce"}
    plain = trained("plain", lambda: VAE(VAEConfig(**shape)))

    def images(values: Tensor) -> np.ndarray:
        return np.rint(values.detach().numpy().reshape(-1, 28, 28) * 255).astype(np.uint8)

    def fitted(name: str, gradient: bool, **options: int) -> Sampler:
        def draw(num: int) -> np.ndarray:
            settings = {"sampler_config": getattr(peers, f"{name}Config")(**options)} if options else {}
            sampler = getattr(peers, name)(model=plain, **settings)
            epochs = max(1, round(job["steps"] * FIT_BATCH / len(x)))
            how = {"training_config": config(name, epochs, FIT_BATCH)} if gradient else {}
            sampler.fit(torch.from_numpy(x), **how)
            return images(sampler.sample(num))

        return draw

    def learned(num: int) -> np.ndarray:
        model = trained("vamp", lambda: VAMP(VAMPConfig(**shape, number_components=PSEUDO_INPUTS)))
        return images(peers.VAMPSampler(model=model).sample(num))

    def reconstructions(num: int) -> np.ndarray:
        with torch.no_grad():
            x_test = torch.from_numpy(data["x_test"].astype(np.float32)[:, None] / 255)
            return images(plain.decoder(plain.encoder(x_test).embedding).reconstruction)

    ways: dict[str, Sampler] = {"NormalSampler": lambda num: images(peers.NormalSampler(model=plain).sample(num))}
    ways["GaussianMixtureSampler"] = fitted("GaussianMixtureSampler", gradient=False)
    ways[f"GaussianMixtureSampler of {MANY}"] = fitted("GaussianMixtureSampler", gradient=False, n_components=MANY)
    for name in ("MAFSampler", "IAFSampler", "TwoStageVAESampler"):
        ways[name] = fitted(name, gradient=True)
    ways |= {"VAMPSampler": learned, "reconstructions": reconstructions}
    write_all(ways, job["num"], folder)


SIDES = {"vaekit": vaekit_side, "pythae": pythae_side}


def write_all(samplers: dict[str, Sampler], num: int, folder: Path) -> None:
    """NAME.npy of each sampler, (num, 28, 28) in 8 bits, and its seconds; what is there is left."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in samplers.items():
        path = folder / f"{name}.npy"
        if path.exists():
            continue
        start = time.perf_counter()
        torch.manual_seed(1)
        x = draw(num)
        assert x.dtype == np.uint8
        assert x.shape[1:] == (28, 28), x.shape
        path.with_suffix(".json").write_text(json.dumps({"seconds": time.perf_counter() - start}))
        np.save(path, x)
        print(f"{folder.name:8} {name:24} {time.perf_counter() - start:8.1f} s", flush=True)


# ------------------------------------------------------------------------------------------------------- harness


def environment(venv: Path) -> Path:
    """The other side's Python; its environment is made where there is none."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        requirements = HERE / "requirements-peers.txt"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    return python


def read(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """MNIST, or the first `--limit` of each part."""
    with np.load(options.data) as arrays:
        return {name: arrays[name][: options.limit] for name in ("x_train", "y_train", "x_test", "y_test")}


def run_side(side: str, options: argparse.Namespace) -> Path:
    """The folder with a side's samples, made in a process of its own."""
    python = environment(options.peers) if side == "pythae" else Path(sys.executable)
    line = [str(python), __file__, "--data", str(options.data), "--runs", str(options.runs), "--inside", side]
    for name in ("epochs", "steps", "num", "seed", "limit"):
        value = getattr(options, name)
        line += [] if value is None else [f"--{name}", str(value)]
    subprocess.run(line, check=True)
    return options.runs / side


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a sampler."""
    from vaekit.evaluation.samples import sample_quality

    data, found = read(options), []
    options.runs.mkdir(parents=True, exist_ok=True)
    network, about = classifier(data, options.runs / "classifier.pt", options.classifier_epochs)
    real = features(network, data["x_test"])
    sets: dict[str, np.ndarray] = {"training images": data["x_train"][: options.num]}
    seconds: dict[str, float] = {}
    for side in options.side:
        for path in sorted(run_side(side, options).glob("*.npy")):
            sets[f"{side}, {path.stem}"] = np.load(path)
            seconds[f"{side}, {path.stem}"] = json.loads(path.with_suffix(".json").read_text())["seconds"]
    command = "python benchmarks/density/samples.py --data mnist.npz --runs runs/samples"
    command += f" --epochs {options.epochs} --steps {options.steps}" + (f" --limit {options.limit}" if options.limit else "")
    for side, images in sets.items():
        quality = sample_quality(real, features(network, images)).to_json()
        shown = ("frechet_distance", "precision", "recall", "density", "coverage")
        print(f"{side:32}" + "".join(f"  {name} {quality[name]:8.3f}" for name in shown), flush=True)
        found.append(
            {
                "case": CASE,
                "side": side,
                "value": round(quality["frechet_distance"], 4),
                "error": None,
                "unit": "Frechet distance",
                "target": "",
                "measures": quality,
                "seconds": seconds.get(side),
                "classifier": about,
                "seeds": [options.seed],
                "command": command,
                "data": "MNIST, decoded means in 8 bits against the test images",
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
                "date": datetime.date.today().isoformat(),
            }
        )
    return found


def main() -> None:
    """Runs both sides and compares them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--peers", type=Path, default=Path("peers-venv"), help="the other side's environment")
    parser.add_argument("--side", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=5000, help="of what is fitted to the latents by gradient")
    parser.add_argument("--num", type=int, default=10_000, help="samples")
    parser.add_argument("--classifier-epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, help="of training and test images, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inside", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        job = {name: getattr(options, name) for name in ("epochs", "steps", "num", "seed")}
        SIDES[options.inside](job, read(options), options.runs / options.inside)
        return
    found = rows(options)
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        sides = {row["side"] for row in found}
        kept = [old for old in kept if old["case"] != CASE or old["side"] not in sides]
        RESULTS.write_text(json.dumps(kept + found, indent=2) + "\n")


if __name__ == "__main__":
    main()
