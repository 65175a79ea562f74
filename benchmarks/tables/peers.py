"""The peers' side, run inside their environment: a model of the package `ctgan` trains and writes synthetic rows.

    VENV/bin/python benchmarks/tables/peers.py tvae --train train.csv -o synthetic.csv --seed 0 [--epochs 300] [--num N]

Everything is as the package has it by default (300 epochs of batches of 500). It takes no missing cells, so a missing cell of
a category column becomes a category of its own, and an empty cell again in what is written. Numbers with missing cells are
refused. Beside the rows, `synthetic.json` says the seconds of training and of sampling.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import pandas as pd

MISSING = "missing cell"
"""The category that stands for an empty cell while the model trains."""


def main() -> None:
    """Trains, samples, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("tvae", "ctgan"))
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--num", type=int, help="rows to write; as many as were trained on by default")
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()

    import ctgan
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    frame = pd.read_csv(options.train, keep_default_na=False, na_values=[""], dtype=None)
    discrete = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if frame.drop(columns=discrete).isna().any(axis=None):
        raise SystemExit("a column of numbers has missing cells, which this peer does not take")
    frame[discrete] = frame[discrete].fillna(MISSING)

    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - the package draws from the global generators
    torch.manual_seed(options.seed)
    kind = ctgan.TVAE if options.model == "tvae" else ctgan.CTGAN
    model = kind(epochs=options.epochs, cuda=False)
    if hasattr(model, "set_random_state"):
        model.set_random_state(options.seed)
    start = time.perf_counter()
    model.fit(frame, discrete)
    fitted = time.perf_counter()
    synthetic = model.sample(options.num or len(frame))
    seconds = {"train_seconds": fitted - start, "sample_seconds": time.perf_counter() - fitted, "epochs": options.epochs}
    synthetic = synthetic[list(frame.columns)].replace({MISSING: ""})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    synthetic.to_csv(options.output, index=False)
    versions = {"ctgan": ctgan.__version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
    options.output.with_suffix(".json").write_text(json.dumps({**seconds, **versions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
