"""Memory of training on a long table, against its length.

    python benchmarks/tables/scale.py --runs FOLDER [--rows 1000000 10000000] [--steps 100] [--write]

Makes Parquet files of so many rows (five columns of numbers, four of categories, a date, missing cells in two) in FOLDER,
trains on each with `vaekit train`, and gives the most memory that the process had of its own (RssAnon: without pages of mapped
files, which the system takes back when it needs them), and the seconds until the run begins. Flat memory means that the figure
does not grow with the rows; what grows is the file of cells in the cache.
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
from pathlib import Path

import numpy as np
import polars as pl

RESULTS = Path(__file__).with_name("results.json")
PIECE = 500_000


def make(path: Path, rows: int) -> None:
    """A Parquet file of generated rows, written in pieces."""
    import pyarrow.parquet as parquet

    rng, writer = np.random.default_rng(0), None
    cities = np.array([f"city {index}" for index in range(300)])
    for start in range(0, rows, PIECE):
        num = min(PIECE, rows - start)
        group = rng.integers(0, 5, num)
        income = np.round(np.exp(rng.normal(10 + 0.2 * group, 0.6)), 2)
        frame = pl.DataFrame(
            {
                "age": rng.integers(18, 91, num),
                "group": np.array(list("abcde"))[group],
                "income": np.where(rng.random(num) < 0.1, np.nan, income),
                "gain": np.where(rng.random(num) < 0.9, 0.0, np.round(rng.pareto(2.0, num) * 1000, 0)),
                "visits": rng.poisson(3.0 + group),
                "score": rng.normal(group, 1.0).astype(np.float32),
                "city": cities[np.minimum(rng.zipf(1.5, num), 300) - 1],
                "member": rng.random(num) < 0.2,
                "plan": np.array(["basic", "plus", "pro", ""])[np.minimum(rng.integers(0, 60, num) // 19, 3)],
                "since": np.datetime64("2015-01-01") + rng.integers(0, 3650, num).astype("timedelta64[D]"),
            }
        )
        frame = frame.with_columns(pl.col("income").fill_nan(None), pl.col("plan").replace("", None))
        table = frame.to_arrow()
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table.cast(writer.schema))
    assert writer is not None
    writer.close()


def train(path: Path, folder: Path, steps: int) -> tuple[float, float, float]:
    """Trains, and gives the peak of RssAnon in MiB, the seconds to the first step, and those in all."""
    environment = {**os.environ, "VAEKIT_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "vaekit", "train", str(path), "-o", str(folder / f"model-{path.stem}")]
    command += ["--steps", str(steps), "--prior", "standard", "--force"]
    start, peak, first = time.time(), 0.0, 0.0
    metrics = folder / f"model-{path.stem}" / "training"
    metrics_before = metrics.stat().st_mtime if metrics.exists() else 0.0
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            anonymous = next((line for line in status.splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
            peak = max(peak, int(anonymous.split()[1]) / 1024)
            if not first and metrics.exists() and metrics.stat().st_mtime > metrics_before:
                first = time.time() - start
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"vaekit train ended with {process.returncode}.")
    return peak, first, time.time() - start


def main() -> None:
    """Runs the lengths that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in options.rows:
        path = options.runs / f"rows-{count}.parquet"
        if not path.exists():
            make(path, count)
        peak, first, seconds = train(path, options.runs, options.steps)
        size = path.stat().st_size / 2**20
        print(f"{count:,} rows, {size:.0f} MiB of Parquet: {peak:.0f} MiB of memory, {first:.0f} s to the run, {seconds:.0f} s")
        rows.append(
            {
                "case": "table-memory",
                "side": f"vaekit, {count} rows",
                "value": round(peak, 1),
                "error": None,
                "unit": "MiB of anonymous memory, peak",
                "target": "does not grow with the rows",
                "seconds_to_the_run": round(first, 1),
                "seconds": round(seconds, 1),
                "parquet_mib": round(size, 1),
                "seeds": [0],
                "command": f"python benchmarks/tables/scale.py --runs runs --rows {count} --steps {options.steps}",
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "versions": {"polars": pl.__version__, "numpy": np.__version__, "python": platform.python_version()},
                "date": datetime.date.today().isoformat(),
            }
        )
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        new = {(row["case"], row["side"]) for row in rows}
        RESULTS.write_text(json.dumps([*(r for r in kept if (r["case"], r["side"]) not in new), *rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
