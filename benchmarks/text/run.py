"""Text: what keeps a latent in use, and what it costs, in one configuration of networks for all rows.

    python benchmarks/text/run.py table --data yelp --runs FOLDER [--rows NAME ...] [--epochs 10] [--write]
    python benchmarks/text/run.py speed --data yelp [--rounds 5] [--write]

`--data yelp` is a folder with train.csv and test.csv, columns `text` and `sentiment`. A run is kept in FOLDER/NAME; the same
command goes on with one that was stopped, and evaluates one that is done. `--write` puts the rows into results.json.

`table`: the networks are an LSTM of 256 on each side with embeddings of 128, 32 latent units, 5,000 words, dropout 0.5 in the
decoder; all rows have the same number of updates of the decoder, batches, optimiser and seed, and differ in what ROWS says. NLL
is the mean over test sentences of the 500-sample bound (Burda et al., 2016); that of the language model, which is the same
decoder without its latent, is exact. Perplexity is a word's, the end of a sentence counted as one. MI is the mutual information
of sentence and latent under the posterior, AU the units with a variance of their posterior means above 0.01.

`speed`: sentences a second, in training and in generation, of vaekit and of a plain PyTorch loop (plain.py) with the same sizes
and batches, one after the other in each round; the ratio's median and its range over the rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.component import Component
from vaekit.data.dataset import Dataset, spaced
from vaekit.data.loading import conform
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Tokens
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.inference import seeded
from vaekit.objectives import ELBO, Objective
from vaekit.storage import load
from vaekit.symbols import PAD
from vaekit.training.refit import refit_prior
from vaekit.training.run import train
from vaekit.vae import VAE

RESULTS = Path(__file__).with_name("results.json")
NUM_LATENTS, EMBEDDING, HIDDEN, VOCABULARY, DROPOUT = 32, 128, 256, 5000, 0.5
SETTINGS: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 2e-3,
    "clip_norm": 5.0,
    "ema": 0.999,
    "patience": 0,
    "precision": "bf16",
}
TARGET = "below the language model, with MI >= 3 nats"


class Blind(networks.SequenceNetwork):
    """A decoder that is told nothing: with it, a model is a language model.

    Args:
        network: that gets zeros for its latent.
    """

    def __init__(self, network: Component) -> None:
        assert isinstance(network, networks.SequenceNetwork)
        super().__init__(network.num_tokens, network.num_latents)
        self.network, self.out_shape = network, network.out_shape

    def forward(self, tokens: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Of zeros in place of z."""
        return self.network(tokens, torch.zeros_like(z), condition)

    def begin(self, z: Tensor, condition: Tensor | None = None) -> dict[str, Tensor]:
        """Of zeros in place of z."""
        return self.network.begin(torch.zeros_like(z), condition)

    def step(self, tokens: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As the network's own."""
        return self.network.step(tokens, state)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        objective: of the steps of an epoch.
        settings: of the training config, of the steps of an epoch.
        posterior: the family.
        blind: whether the decoder is told nothing.
        second_stage: the prior that is fitted to the latents after training; None for the standard normal.
        paper: where the method is from.
    """

    objective: Callable[[int], Objective]
    settings: Callable[[int], dict[str, Any]] = field(default=lambda steps: {})
    posterior: type[Component] = posteriors.DiagonalNormal
    blind: bool = False
    second_stage: str | None = None
    paper: str = ""


VALIDATED = 100
"""Sentences, at both ends of a round of `speed`."""
FREE = 8.0 / NUM_LATENTS
ROWS = {
    "language-model": Row(lambda n: ELBO(), blind=True),
    "plain": Row(lambda n: ELBO()),
    "annealed": Row(lambda n: ELBO(warm_up=3 * n), paper="Bowman et al. (2016)"),
    "cyclical": Row(lambda n: ELBO(warm_up=n, cycles=4), paper="Fu et al. (2019)"),
    "free-bits": Row(lambda n: ELBO(free_bits=FREE, warm_up=3 * n), paper="Kingma et al. (2016)"),
    "batch-norm": Row(lambda n: ELBO(), posterior=posteriors.BatchNormNormal, paper="Zhu et al. (2020)"),
    "aggressive": Row(lambda n: ELBO(warm_up=3 * n), lambda n: {"aggressive": 5}, paper="He et al. (2019)"),
    "pretrained": Row(lambda n: ELBO(free_bits=FREE, warm_up=3 * n), lambda n: {"pretrain": 2 * n}, paper="Li et al. (2019)"),
    "vaekit": Row(lambda n: ELBO(), posterior=posteriors.BatchNormNormal, second_stage="mixture-full"),
}


def build(row: Row, num_tokens: int, max_length: int) -> VAE:
    """The model of a row."""
    inward = networks.LSTMEncoder(num_tokens, EMBEDDING, HIDDEN)
    outward: Component = networks.LSTMDecoder(num_tokens, NUM_LATENTS, EMBEDDING, HIDDEN, dropout=DROPOUT)
    outward = Blind(outward) if row.blind else outward
    return VAE(
        priors.StandardNormal(NUM_LATENTS),
        row.posterior(inward, NUM_LATENTS),  # pyright: ignore[reportCallIssue, reportArgumentType]
        likelihoods.Tokens(outward, max_length),
    )


def yelp(folder: Path) -> tuple[Dataset, Dataset]:
    """The training sentences, of which some are held out to watch the run, and the test sentences."""
    training = open_data(folder / "train.csv", text="text", tokens="word", vocabulary=VOCABULARY)
    return training, conform(folder / "test.csv", training.schema)


def row_of(case: str, side: str, value: float, error: float | None, unit: str, target: str, command: str) -> dict[str, Any]:
    """One result, as every results.json of the benchmarks has it."""
    return {
        "case": case,
        "side": side,
        "value": round(value, 4),
        "error": None if error is None else round(error, 4),
        "unit": unit,
        "target": target,
        "seeds": [0],
        "command": command,
        "data": "yelp",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }


def run(name: str, options: argparse.Namespace, training: Dataset, test: Dataset) -> list[dict[str, Any]]:
    """Trains (or goes on with) a row, evaluates it, and gives its figures."""
    row, folder = ROWS[name], options.runs / name
    steps = len(training) * 9 // 10 // SETTINGS["batch_size"]
    if not (folder / "vaekit.json").exists():
        settings = {**SETTINGS, **row.settings(steps)}
        updates = options.epochs * steps * (1 + settings.get("aggressive", 0))
        with seeded(options.seed, torch.device("cpu")):
            vae = build(row, training.schema.levels or 0, training.schema.shape[0])
        train(
            training, folder, vae=vae, transform=Tokens(), objective=row.objective(steps), resume=True, seed=options.seed,
            steps=round(updates) + settings.get("pretrain", 0), checkpoint_seconds=60, display_as=options.display, **settings,
        )  # fmt: skip
    bundle = load(folder)
    if row.second_stage is not None:
        bundle = refit_prior(bundle, training, row.second_stage, seed=options.seed)
    samples = 2 if row.blind else options.samples  # which all say the same of it
    report = evaluate_bounds(bundle, test, num_samples=samples, limit=options.limit, seed=1)
    nll_nats = report.distortion if row.blind else report.nll_nats
    command = f"python benchmarks/text/run.py table --data yelp --runs runs --rows {name} --epochs {options.epochs:g}"
    command += f" --limit {options.limit}" if options.limit else ""
    words = _num_words(test, report.num_examples)
    about = {
        "paper": row.paper,
        "perplexity": round(float(np.exp(nll_nats / words)), 3),
        "rate": report.rate,
        "active_units": report.active_units,
        "num_samples": report.num_samples,
        "num_examples": report.num_examples,
    }
    nll = row_of("yelp-nll", name, nll_nats, report.standard_error, "nats a sentence", TARGET, command)
    mutual = 0.0 if report.information is None else report.information.mutual_information
    return [{**nll, **about}, row_of("yelp-mi", name, mutual, None, "nats", ">= 3 nats", command)]


def _num_words(test: Dataset, num: int) -> float:
    """Words a sentence, its end counted as one, of the sentences that are evaluated."""
    codes = test.stored(spaced(len(test), num))
    return float((codes != PAD).sum() / len(codes))


def table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that are asked for."""
    training, test = yelp(options.data)
    rows = []
    for name in options.rows or ROWS:
        found = run(name, options, training, test)
        nll, mutual = found
        print(
            f"{name:16} NLL {nll['value']:.2f} +- {nll['error']:.2f}  perplexity {nll['perplexity']:.2f}  "
            f"KL {nll['rate']:.2f}  MI {mutual['value']:.2f}  AU {nll['active_units']}",
            flush=True,
        )
        rows += found
        if options.write:
            write(found)
    return rows


# ------------------------------------------------------------------------------------------------------- speed


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both sides for the same number of seconds in turn, and the ratios of sentences a second."""
    from plain import PlainVAE, steps  # beside this file

    training, _ = yelp(options.data)
    num_tokens, max_length = training.schema.levels or 0, training.schema.shape[0]
    batch_size, num, codes = 32, options.steps, np.asarray(training.stored())
    held_out = len(training) - VALIDATED  # a run begins and ends with a validation, which the other side has none of
    training = replace(training, splits={"train": np.arange(held_out), "valid": np.arange(held_out, len(training))})
    vae = build(ROWS["plain"], num_tokens, max_length)
    model = PlainVAE(num_tokens, NUM_LATENTS, EMBEDDING, HIDDEN)
    other = steps(model, codes, batch_size, 0)
    ratios: dict[str, list[tuple[float, float]]] = {"train": [], "generate": []}
    for _ in range(options.rounds):
        start = time.perf_counter()
        for _ in range(num):
            next(other)
        theirs = num * batch_size / (time.perf_counter() - start)
        found = train(
            training, None, vae=vae, transform=Tokens(), objective=ELBO(warm_up=2500), steps=num, display_as="quiet",
            batch_size=batch_size, learning_rate=1e-3, ema=0.0, patience=0, validate_every=10**9, clip_norm=None,
        )  # fmt: skip
        ratios["train"].append((num * batch_size / found.training["seconds"], theirs))
        start = time.perf_counter()
        with seeded(0, torch.device("cpu")):
            z = torch.randn(1, 1024, NUM_LATENTS)
            _ = found.vae.likelihood(z).middle
        ours = 1024 / (time.perf_counter() - start)
        start = time.perf_counter()
        model.eval()
        for _ in range(16):
            model.generate(64, max_length)
        model.train()
        ratios["generate"].append((ours, 1024 / (time.perf_counter() - start)))
    command = f"python benchmarks/text/run.py speed --data yelp --rounds {options.rounds}"
    rows = []
    for case, pairs in ratios.items():
        each = sorted(ours / theirs for ours, theirs in pairs)
        median = each[len(each) // 2]
        row = row_of(f"yelp-speed-{case}", "ratio", median, None, "x", ">= 2", command)
        absolute = {"vaekit": [round(a, 1) for a, _ in pairs], "plain": [round(b, 1) for _, b in pairs]}
        rows.append({**row, "range": [round(each[0], 3), round(each[-1], 3)], "sentences_per_second": absolute})
        print(f"{case}: {median:.2f} ({each[0]:.2f} to {each[-1]:.2f}) times the plain loop", flush=True)
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """Puts rows into results.json, in place of those of the same case and side."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    new = {(row["case"], row["side"]) for row in rows}
    kept = [old for old in kept if (old["case"], old["side"]) not in new]
    RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("table", "speed"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="of `table`")
    parser.add_argument("--rows", nargs="+", choices=ROWS)
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--limit", type=int, help="of test sentences")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="a round and side of `speed`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--display", default="plain")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.kind == "table" and options.runs is None:
        raise SystemExit("--runs must be given for `table`: the folder in which runs are kept")
    rows = table(options) if options.kind == "table" else speed(options)
    if options.write and options.kind != "table":
        write(rows)


if __name__ == "__main__":
    main()
