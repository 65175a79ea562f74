"""The first figures of vaekit, by its own commands on real data.

    python benchmarks/core/run.py CASE... --data FOLDER [--write]

Cases: `mnist-bernoulli` and `mnist-8bit` need FOLDER/mnist.npz (x_train, y_train, x_test, y_test);
`cifar-jpeg` needs FOLDER/cifar10 with train/CLASS/*.jpg and test/CLASS/*.jpg; `startup` needs nothing.
`--write` puts the rows into results.json beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import lzma
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("results.json")
Rows = list[dict[str, Any]]


def vaekit(*arguments: str) -> str:
    """One command as a process; its standard output."""
    command = [sys.executable, "-m", "vaekit", *arguments]
    print("$ vaekit", *arguments, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def row(
    case: str, side: str, value: float, unit: str, command: str, data: str, target: str = "", error: float | None = None
) -> dict:
    """One result, as every results.json of the benchmarks has it."""
    import torch

    print(f"{case:18} {side:22} {value:10.4f} {unit}", flush=True)
    return {
        "case": case,
        "side": side,
        "value": value,
        "error": error,
        "unit": unit,
        "target": target,
        "seeds": [0],
        "command": command,
        "data": data,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }


def bits_a_value(codec: Callable[[np.ndarray], int], images: np.ndarray) -> float:
    """Bits a value over a sample of images, coded one by one."""
    return 8 * sum(codec(image) for image in images) / images.size


def png_bytes(image: np.ndarray) -> int:
    """The size of one image as an optimised PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return len(buffer.getvalue())


def mnist_bernoulli(folder: Path, work: Path) -> Rows:
    """Five minutes of training on binarised MNIST."""
    model, data = work / "bernoulli", str(folder / "mnist.npz")
    train = ["train", data, "-o", str(model), "--likelihood", "bernoulli", "--minutes", "5"]
    test = ["evaluate", str(model), data, "--samples", "5000", "--limit", "1000", "--json"]
    vaekit(*train)
    report = json.loads(vaekit(*test))
    command = (
        "vaekit train mnist.npz -o m --likelihood bernoulli --minutes 5; "
        "vaekit evaluate m mnist.npz --samples 5000 --limit 1000 --json"
    )
    return [
        row("mnist-bernoulli", "vaekit", report["nll_nats"], "nats", command, "MNIST", "<= 88", report["standard_error"]),
        row("mnist-bernoulli", "vaekit active units", report["active_units"], "units", command, "MNIST"),
    ]


def mnist_8bit(folder: Path, work: Path) -> Rows:
    """Five minutes of training on 8-bit MNIST, beside PNG and xz."""
    model, data = work / "levels", str(folder / "mnist.npz")
    vaekit("train", data, "-o", str(model), "--minutes", "5")
    report = json.loads(vaekit("evaluate", str(model), data, "--samples", "1000", "--limit", "1000", "--json"))
    command = "vaekit train mnist.npz -o m --minutes 5; vaekit evaluate m mnist.npz --samples 1000 --limit 1000 --json"
    images = np.load(data)["x_test"]
    xz = 8 * len(lzma.compress(images.tobytes(), preset=9)) / images.size
    return [
        row("mnist-8bit", "vaekit (bound)", report["bits_per_dim"], "bits/dim", command, "MNIST"),
        row(
            "mnist-8bit", "PNG, a file an image", bits_a_value(png_bytes, images), "bits/dim", "Pillow, optimize", "MNIST test"
        ),
        row("mnist-8bit", "xz -9, one stream", xz, "bits/dim", "lzma", "MNIST test"),
    ]


FIRST_STEP = """
import sys, time
from vaekit.training.callbacks import Callback
from vaekit.training.run import train

class Begin(Callback):
    def on_start(self, step, budget):
        print(time.time() - float(sys.argv[1]), flush=True)

train(sys.argv[2], sys.argv[3], steps=1, callbacks=[Begin()], display_as="quiet")
"""


def cifar_jpeg(folder: Path, work: Path) -> Rows:
    """Opening 50,000 JPEG files, and fifteen minutes of training on them."""
    data, model = str(folder / "cifar10"), work / "cifar"
    os.environ["VAEKIT_CACHE"] = str(work / "cache")
    starts = []
    for name in ("first", "second"):
        out = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, str(time.time()), data, str(work / name)], check=True, stdout=subprocess.PIPE
        )
        starts.append(float(out.stdout))
    vaekit("train", data, "-o", str(model), "--minutes", "15")
    report = json.loads(vaekit("evaluate", str(model), data, "--samples", "10", "--json"))
    vaekit("generate", str(model), "-n", "64", "-o", str(model / "samples.png"))
    from vaekit import load
    from vaekit.data.loading import open as open_data
    from vaekit.data.writing import write_grid

    test = open_data(data).split("test")
    some, trained = test.select(np.arange(0, len(test), len(test) // 32)[:32]), load(model)
    pairs = np.stack([some.raw(), trained.reconstruct(some)], axis=1)
    write_grid(pairs.reshape(-1, *pairs.shape[2:]), trained.schema, model / "reconstructions.png", columns=8, force=True)
    command = "vaekit train cifar10 -o m --minutes 15; vaekit evaluate m cifar10 --samples 10 --json"
    where = "CIFAR-10 as JPEG files"
    return [
        row("cifar-jpeg", "first start and step", starts[0], "s", "python -c FIRST_STEP", where, "<= 60"),
        row("cifar-jpeg", "second", starts[1], "s", "the same again", where, "<= 5"),
        row("cifar-jpeg", "vaekit (bound)", report["bits_per_dim"], "bits/dim", command, where, "below PNG"),
        row(
            "cifar-jpeg", "PNG, same images", bits_a_value(png_bytes, test.raw()[:1000]), "bits/dim", "Pillow, optimize", where
        ),
        row("cifar-jpeg", "PNG, all test images", bits_a_value(png_bytes, test.raw()), "bits/dim", "Pillow, optimize", where),
    ]


def startup(folder: Path, work: Path) -> Rows:
    """`vaekit --help`, the median of eleven, beside an empty Python."""
    program = str(Path(sys.executable).with_name("vaekit"))
    sides = {"vaekit --help": [program, "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(11):
        for name, command in sides.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begin)
    return [row("startup", name, float(np.median(t)), "s", name, "", "<= 0.4", float(np.ptp(t))) for name, t in times.items()]


CASES = {"mnist-bernoulli": mnist_bernoulli, "mnist-8bit": mnist_8bit, "cifar-jpeg": cifar_jpeg, "startup": startup}


def main() -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--work", type=Path, default=None, help="keep the models here")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    rows = [result for case in options.cases for result in CASES[case](options.data, work)]
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        kept = [old for old in kept if old["case"] not in options.cases]
        RESULTS.write_text(json.dumps(kept + rows, indent=2) + "\n")
    print(f"models in {work}")


if __name__ == "__main__":
    main()
