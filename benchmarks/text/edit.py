"""Text: the sentiment of sentences changed, and how much of them is kept, against vector arithmetic.

    python benchmarks/text/edit.py --data yelp --runs FOLDER [--epochs 4] [--num 1000] [--write]

`--data yelp` is a folder with train.csv and test.csv, columns `text` and `sentiment`. A run is kept in FOLDER/edit-NAME; the
same command goes on with one that was stopped, and judges one that is done. `--write` puts the points into results.json.

Both sides have the networks, the batches, the optimiser and the number of updates of run.py, and differ in this:

    vaekit      conditioned on the sentiment, a fifth of the updates pretraining, with FREE nats of the latent free; edited by
                decoding under the other sentiment, at growing strength (guidance beyond 1)
    denoising   a VAE whose encoder does not see DENOISED of the words, with a weight of BETA on the rate; edited by adding the
                difference of mean latents of the two sentiments, at growing strength: the arithmetic of Shen et al. (2020)

Accuracy is the share of edited sentences to which a classifier that knows neither model (a logistic regression on words and
pairs of words, trained on the training sentences) gives the sentiment that was asked for. BLEU is that of the edited sentences
against those they are made of. A curve is ahead of another where its BLEU is higher at equal accuracy; the mean BLEU over the
accuracies that both reach says by how much.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run import DROPOUT, EMBEDDING, HIDDEN, NUM_LATENTS, SETTINGS, row_of, write, yelp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Tokens
from vaekit.evaluation.text import corpus_bleu
from vaekit.inference import seeded
from vaekit.jobs.edit import edit
from vaekit.objectives import ELBO
from vaekit.storage import Bundle, load
from vaekit.training.run import train
from vaekit.vae import VAE

COLUMN = "sentiment"
FREE, BETA, DENOISED = 24.0, 0.15, 0.3
STRENGTHS = {
    "vaekit": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
    "denoising": (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
}
TARGET = "a higher BLEU at equal accuracy than vector arithmetic"


def build(side: str, training: Dataset) -> VAE:
    """The model of a side."""
    num_tokens, max_length = training.schema.levels or 0, training.schema.shape[0]
    condition = None
    if side == "vaekit":
        condition = networks.ConditionEncoder({COLUMN: len(training.schema.column(COLUMN).categories)})
    features = 0 if condition is None else condition.out_features
    hide = DENOISED if side == "denoising" else 0.0
    inward = networks.LSTMEncoder(num_tokens, EMBEDDING, HIDDEN, condition_features=features, hide=hide)
    outward = networks.LSTMDecoder(num_tokens, NUM_LATENTS, EMBEDDING, HIDDEN, condition_features=features, dropout=DROPOUT)
    return VAE(
        priors.StandardNormal(NUM_LATENTS),
        posteriors.DiagonalNormal(inward, NUM_LATENTS),
        likelihoods.Tokens(outward, max_length),
        condition=condition,
    )


def trained(side: str, options: argparse.Namespace, training: Dataset) -> Bundle:
    """The model of a side, trained or gone on with."""
    folder = options.runs / f"edit-{side}"
    steps = len(training) * 9 // 10 // SETTINGS["batch_size"]
    if not (folder / "vaekit.json").exists():
        updates, pretrain = round(options.epochs * steps), 0
        objective = ELBO(beta=BETA, warm_up=steps)
        if side == "vaekit":
            pretrain, steps = updates // 5, min(steps, updates // 5)
            objective = ELBO(warm_up=steps, free_bits=FREE, free_bits_per="level")
        with seeded(options.seed, torch.device("cpu")):
            vae = build(side, training)
        train(
            training, folder, vae=vae, transform=Tokens(), objective=objective, resume=True, seed=options.seed, steps=updates,
            checkpoint_seconds=60, display_as=options.display, **SETTINGS, **({"pretrain": pretrain} if pretrain else {}),
        )  # fmt: skip
    return load(folder)


def judge_of(training: Dataset, test: Dataset) -> tuple[Any, float]:
    """A classifier of sentiment, and its accuracy on test sentences as they are."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=r"\S+", sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000)
    model.fit(words.fit_transform(training.raw()), training.columns[COLUMN])

    def judge(texts: Any) -> np.ndarray:
        return model.predict(words.transform(texts))

    return judge, float((judge(test.raw()) == test.columns[COLUMN]).mean())


def curve(side: str, bundle: Bundle, training: Dataset, test: Dataset, judge: Any, options: argparse.Namespace) -> np.ndarray:
    """(S, 3): strength, accuracy and BLEU in per cent."""
    categories = test.schema.column(COLUMN).categories
    method = "condition" if side == "vaekit" else "vector"
    labelled = training.select(np.arange(0, len(training), max(1, len(training) // 20000)))
    points = []
    for strength in STRENGTHS[side]:
        made, own, right = [], [], []
        for code in range(len(categories)):
            rows = np.flatnonzero(test.columns[COLUMN] == code)
            part = test.select(rows)
            asked = 1 - code
            means = labelled if method == "vector" else None
            found = edit(bundle, part, {COLUMN: categories[asked]}, strength=strength, method=method, training=means)
            made += found.x.tolist()
            own += part.raw().tolist()
            right += (judge(found.x) == asked).tolist()
        bleu = corpus_bleu([text.split() for text in made], [[text.split()] for text in own]).score
        points.append((strength, 100 * float(np.mean(right)), bleu))
        print(f"{side:10} strength {strength:4.1f}  accuracy {points[-1][1]:5.1f} %  BLEU {bleu:5.1f}", flush=True)
    return np.array(points)


def areas(curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean BLEU of each side over the accuracies that all reach, between points by straight lines."""
    ordered = {side: points[np.argsort(points[:, 1])] for side, points in curves.items()}
    low = max(points[0, 1] for points in ordered.values())
    high = min(points[-1, 1] for points in ordered.values())
    grid = np.linspace(low, high, 200)
    return {side: float(np.interp(grid, points[:, 1], points[:, 2]).mean()) for side, points in ordered.items()}


def main() -> None:
    """Trains both sides, and prints both curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--sides", nargs="+", choices=STRENGTHS, default=list(STRENGTHS))
    parser.add_argument("--epochs", type=float, default=4.0, help="of updates of each side, pretraining counted")
    parser.add_argument("--num", type=int, default=1000, help="test sentences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--display", default="plain")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    training, test = yelp(options.data)
    judge, accuracy = judge_of(training, test)
    print(f"the classifier is right of {accuracy:.1%} of the {len(test):,} test sentences as they are", flush=True)
    some = test.select(np.linspace(0, len(test) - 1, options.num).round().astype(int))
    curves = {}
    for side in options.sides:
        curves[side] = curve(side, trained(side, options, training), training, some, judge, options)
    command = f"python benchmarks/text/edit.py --data yelp --runs runs --epochs {options.epochs:g} --num {options.num}"
    found = areas(curves) if len(curves) > 1 else {}
    for side, points in curves.items():
        row = row_of("yelp-edit", side, found.get(side, float("nan")), None, "mean BLEU at equal accuracy", TARGET, command)
        row |= {"curve": [[round(value, 2) for value in point] for point in points.tolist()], "classifier": round(accuracy, 4)}
        print(f"{side:10} mean BLEU at equal accuracy {found.get(side, float('nan')):.1f}", flush=True)
        if options.write and found:
            write([row])


if __name__ == "__main__":
    main()
