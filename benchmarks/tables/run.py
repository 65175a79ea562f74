"""vaekit and its peers on the table UCI Adult, both sides in one harness.

    python benchmarks/tables/run.py score --synthetic FILE --data FOLDER --bench VENV [--fast]
    python benchmarks/tables/run.py quality --data FOLDER --bench VENV --runs FOLDER [--side ...] [--seeds 3] [--write]
    python benchmarks/tables/run.py impute --data FOLDER --bench VENV --runs FOLDER [--side ...] [--seeds 3] [--write]
    python benchmarks/tables/run.py imbalanced --data FOLDER --bench VENV --runs FOLDER [--side ...] [--seeds 10] [--write]

FOLDER of `--data` holds train.csv and test.csv (a header, missing cells empty, 32,561 and 16,281 rows). A side is a CSV file
with the columns of train.csv: vaekit's is made by its command line, the peers' by peers.py in the environment VENV, which is
made from requirements-peers.txt where it is missing. All scores are computed there too, by protocols.py (quality), by
imputation.py and by imbalanced.py, which say what each of them is. What is in the folder `--runs` is not made again. Seconds
are wall time of whatever the machine did besides: they stand beside a row, and are no result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
QUALITY = {
    "adult-ctgan-f1": ("utility", "mean", "F1", ">= 97 % of the real rows'"),
    "adult-catboost-f1": ("catboost", "f1", "macro F1", ">= 0.795"),
    "adult-catboost-auc": ("catboost", "auc", "AUC", ">= 0.9136"),
    "adult-closest": ("closest", "median", "distance", "that of held-out rows"),
    "adult-closest-of-26048": ("closest", "median_of_4/5", "distance", ">= 0.10"),
    "adult-shapes": ("shapes", None, "% error", "that of held-out rows"),
    "adult-trends": ("trends", None, "% error", "that of held-out rows"),
    "adult-trends-reported": ("trends_reported", None, "% error", "<= 1.54"),
}
"""Case: where its value is in the scores, its unit, its target."""
PUBLISHED = {
    ("adult-ctgan-f1", "real rows"): 0.669,
    ("adult-ctgan-f1", "tvae"): 0.626,
    ("adult-ctgan-f1", "ctgan"): 0.601,
    ("adult-catboost-f1", "real rows"): 0.8152,
    ("adult-catboost-f1", "tvae"): 0.7810,
    ("adult-catboost-auc", "real rows"): 0.9276,
    ("adult-catboost-auc", "tvae"): 0.9017,
}
"""By the paper of CTGAN and the repository of TabDDPM (whose TVAE is a tuned one)."""
IMPUTATION = ("mean", "neighbours", "iterative", "chained", "boosting", "vaekit")
IMBALANCED = ("nothing", "weights", "oversampling", "smote", "vaekit")


# ------------------------------------------------------------------------------------------------------- processes


def environment(venv: Path) -> str:
    """The Python that scores and runs the peers; its environment is made where there is none."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        requirements = HERE / "requirements-peers.txt"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    return str(python)


def bench(options: argparse.Namespace, script: str, *arguments: object) -> None:
    """Runs a script of this folder in the environment."""
    subprocess.run([environment(options.bench), str(HERE / script), *map(str, arguments)], check=True)


def vaekit(*arguments: object) -> float:
    """Runs a command of vaekit in this Python and gives its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "vaekit", *map(str, arguments)], check=True)
    return time.perf_counter() - start


def finished(path: Path) -> Path:
    """Where a file is written before it is `path`, so that what was stopped half way is made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"unfinished-{path.name}")


def take(part: Path, path: Path, about: dict[str, Any]) -> None:
    """Gives a file its name, and what is to be known of it."""
    path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
    part.replace(path)


def trained(options: argparse.Namespace, data: Path, model: Path, seed: int) -> dict[str, Any]:
    """Trains vaekit's side, or goes on with it: its seconds, and its settings."""
    about = model.with_name(f"{model.name}.json")
    if not about.exists():
        command = ["train", data, "-o", model, "--seed", seed, "--minutes", f"{options.minutes:g}", *options.train]
        command += ["--resume"] if model.exists() else []
        seconds = vaekit(*command)
        about.write_text(json.dumps({"train_seconds": seconds, "minutes": options.minutes, "options": options.train}) + "\n")
    return json.loads(about.read_text())


# ------------------------------------------------------------------------------------------------------- rows


def row_of(options: argparse.Namespace, case: str, side: str, values: list[float], unit: str, target: str) -> dict[str, Any]:
    """One result, as every results.json of the benchmarks has it: the mean over seeds, its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    command = f"python benchmarks/tables/run.py {options.kind} --data adult --bench venv --runs runs --seeds {options.seeds}"
    command += f" --minutes {options.minutes:g}" if side == "vaekit" else ""
    command += f" --train={' '.join(options.train)}" if side == "vaekit" and options.train else ""
    return {
        "case": case,
        "side": side,
        "value": round(statistics.fmean(values), 5),
        "error": None if error is None else round(error, 5),
        "unit": unit,
        "target": target,
        "published": PUBLISHED.get((case, side)),
        "values": [round(value, 5) for value in values],
        "seeds": list(range(len(values))),
        "command": command,
        "data": "UCI Adult",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": datetime.date.today().isoformat(),
    }


def report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints a table of sides by cases, and keeps the rows with `--write`."""
    cases, sides = list(dict.fromkeys(row["case"] for row in rows)), list(dict.fromkeys(row["side"] for row in rows))
    wide = max(map(len, sides)) + 2
    found = {(row["case"], row["side"]): row for row in rows}
    print(" " * wide + "  ".join(f"{case:>22}" for case in cases))
    for side in sides:
        cells = []
        for case in cases:
            row = found.get((case, side))
            error = "" if row is None or row["error"] is None else f" +- {row['error']:.4f}"
            cells.append(f"{'' if row is None else format(row['value'], '.4f') + error:>22}")
        print(f"{side:{wide}}" + "  ".join(cells), flush=True)
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        kept = [row for row in kept if (row["case"], row["side"]) not in found]
        RESULTS.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


# ------------------------------------------------------------------------------------------------------- score


def score(options: argparse.Namespace) -> None:
    """Prints the scores of one CSV file of synthetic rows."""
    arguments = ["--synthetic", options.synthetic, "--data", options.data, "--threads", options.threads]
    arguments += ["--repeats", options.repeats, *(["--fast"] if options.fast else [])]
    arguments += ["--json", options.json] if options.json else []
    arguments += ["--parts", *options.parts] if options.parts else []
    bench(options, "protocols.py", *arguments)


# ------------------------------------------------------------------------------------------------------- quality


def synthetic(options: argparse.Namespace, side: str, seed: int) -> Path:
    """The rows of a side, made where they are missing."""
    if side in ("real rows", "held-out rows"):
        return options.data / ("train.csv" if side == "real rows" else "test.csv")
    train, path = options.data / "train.csv", options.runs / "quality" / f"{side}-{seed}.csv"
    if path.exists():
        return path
    part = finished(path)
    if side == "vaekit":
        model = path.with_suffix("")
        about = trained(options, train, model, seed)
        with train.open() as lines:
            num = sum(1 for _ in lines) - 1
        seconds = vaekit("generate", model, "-n", num, "-o", part, "--seed", seed, "--force", *options.generate)
        take(part, path, {**about, "sample_seconds": seconds})
    else:
        arguments = ["--train", train, "-o", part, "--seed", seed, "--threads", options.threads]
        arguments += ["--epochs", options.epochs] if options.epochs else []
        bench(options, "peers.py", side, *arguments)
        take(part, path, json.loads(part.with_suffix(".json").read_text()))
        part.with_suffix(".json").unlink()
    return path


def quality(options: argparse.Namespace) -> None:
    """Synthetic rows: what classifiers learn from them, how close they are to real ones, shapes and trends."""
    rows = []
    for side in options.side or ["real rows", "held-out rows", "tvae", "vaekit"]:
        real = side in ("real rows", "held-out rows")
        reports, seconds = [], []
        for seed in range(1 if real else options.seeds):
            path = synthetic(options, side, seed)
            kept = options.runs / "quality" / f"{side.replace(' ', '-')}-{seed}.scores.json"
            if not kept.exists() or kept.stat().st_mtime < path.stat().st_mtime:
                parts = ["--parts", "statistics", "closest"] if side == "held-out rows" else []
                kept.parent.mkdir(parents=True, exist_ok=True)
                arguments = ["--synthetic", path, "--data", options.data, "--threads", options.threads, "--json", kept]
                bench(options, "protocols.py", *arguments, *parts)
            reports.append(json.loads(kept.read_text()))
            if not real:
                seconds.append(json.loads(path.with_suffix(".json").read_text()))
        for case, (part, name, unit, target) in QUALITY.items():
            if part not in reports[0] or (side == "real rows" and part not in ("utility", "catboost")):
                continue
            values = [each[part][name] if name else each[part] for each in reports]
            scores = [each["columns" if part == "shapes" else part] for each in reports]
            rows.append({**row_of(options, case, side, values, unit, target), "seconds": seconds, "scores": scores})
    report(options, rows)


# ------------------------------------------------------------------------------------------------------- imputation


def impute(options: argparse.Namespace) -> None:
    """Cells missing at random: RMSE of numbers and accuracy of categories, by baselines and by `vaekit impute`."""
    rows = []
    for side in options.side or IMPUTATION:
        found, seconds = [], []
        for seed in range(options.seeds):
            folder = options.runs / "impute" / str(seed)
            common = ["--data", options.data, "--runs", folder, "--seed", seed]
            if not (folder / "truth.csv").exists():
                bench(options, "imputation.py", "mask", *common, *(["--limit", options.limit] if options.limit else []))
            path = folder / f"{side}.csv"
            if side == "vaekit" and not path.exists():
                about, part = trained(options, folder / "train.csv", folder / "model", seed), finished(path)
                took = vaekit("impute", folder / "model", folder / "test.csv", "-o", part, "--seed", seed, "--force")
                take(part, path, {**about, "seconds": took})
            elif not path.exists():
                bench(options, "imputation.py", "fill", side, "-o", path, *common)
            bench(options, "imputation.py", "score", path, "-o", path.with_suffix(".scores.json"), *common)
            found.append(json.loads(path.with_suffix(".scores.json").read_text()))
            seconds.append(json.loads(path.with_suffix(".json").read_text()))
        for case, name, unit in (("adult-impute-rmse", "rmse", "deviations"), ("adult-impute-accuracy", "accuracy", "share")):
            row = row_of(options, case, side, [each[name] for each in found], unit, "the best baseline's")
            rows.append({**row, "seconds": seconds, "scores": found})
    report(options, rows)


# ------------------------------------------------------------------------------------------------------- imbalanced


def imbalanced(options: argparse.Namespace) -> None:
    """A rare class: average precision with rows added by baselines and by `vaekit augment --balance`."""
    sides, runs = list(dict.fromkeys(["nothing", *(options.side or IMBALANCED)])), options.runs / "imbalanced"
    seconds: dict[str, list[Any]] = {side: [] for side in sides}
    for seed in range(options.seeds):
        folder, common = runs / str(seed), ["--data", options.data, "--runs", runs, "--seed", seed]
        if not (folder / "train.csv").exists():
            bench(options, "imbalanced.py", "cut", *common, *(["--limit", options.limit] if options.limit else []))
        for side in sides:
            path = folder / f"{side}.csv"
            if side == "vaekit" and not path.exists():
                about, part = trained(options, folder / "train.csv", folder / "model", seed), finished(path)
                line = ["augment", folder / "model", folder / "train.csv", "-o", part, "--balance", "income"]
                took = vaekit(*line, "--seed", seed, "--force")
                take(part, path, {**about, "augment_seconds": took})
            if side == "vaekit":
                seconds[side].append(json.loads(path.with_suffix(".json").read_text()))
            if not (folder / f"{side}-catboost.npy").exists():
                extra = ["--rows", path] if side == "vaekit" else []
                bench(options, "imbalanced.py", "fit", side, *common, *extra)
    out = runs / "comparison.json"
    common = ["--data", options.data, "--runs", runs, "--seeds", options.seeds]
    bench(options, "imbalanced.py", "compare", *sides, *common, "-o", out)
    rows = []
    for found in json.loads(out.read_text()):
        case = f"adult-imbalanced-{found['classifier']}"
        row = row_of(options, case, found["method"], found["seeds"], "average precision", "above every other side's")
        rows.append({**row, "gain": found["gain"], "interval": found["interval"], "seconds": seconds[found["method"]]})
    report(options, rows)


# ------------------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """Of the four kinds."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = found.add_subparsers(required=True, dest="kind")
    one = kinds.add_parser("score", help=score.__doc__)
    one.set_defaults(run=score)
    one.add_argument("--synthetic", type=Path, required=True)
    one.add_argument("--fast", action="store_true", help="one seed of each classifier, 12,000 distances")
    one.add_argument("--repeats", type=int, default=3, help="seeds of each classifier")
    one.add_argument("--parts", nargs="+", choices=("statistics", "closest", "catboost", "utility"))
    one.add_argument("--json", type=Path, help="write the scores there too")
    sides = {quality: ("real rows", "held-out rows", "tvae", "ctgan", "vaekit"), impute: IMPUTATION, imbalanced: IMBALANCED}
    for run, names in sides.items():
        kind = kinds.add_parser(run.__name__, help=run.__doc__)
        kind.set_defaults(run=run)
        kind.add_argument("--runs", type=Path, required=True, help="what is made is kept there")
        kind.add_argument("--side", nargs="+", choices=names)
        kind.add_argument("--seeds", type=int, default=10 if run is imbalanced else 3)
        kind.add_argument("--minutes", type=float, default=20.0, help="of each training of vaekit")
        kind.add_argument("--train", type=str.split, default=[], help="more options of vaekit train, as one text")
        kind.add_argument("--write", action="store_true", help="put the rows into results.json")
        if run is quality:
            kind.add_argument("--generate", type=str.split, default=[], help="more options of vaekit generate, as one text")
            kind.add_argument("--epochs", type=int, help="of the peers, for a trial; 300 are theirs")
        else:
            kind.add_argument("--limit", type=int, help="of rows, for a trial in a folder of its own")
    for kind in kinds.choices.values():
        kind.add_argument("--data", type=Path, required=True, help="a folder with train.csv and test.csv")
        kind.add_argument("--bench", type=Path, required=True, help="the environment that scores and runs the peers")
        kind.add_argument("--threads", type=int, default=1, help="of CatBoost and of the peers")
    return found


def main() -> None:
    """Runs what is asked for."""
    options = parser().parse_args()
    if options.kind != "score" and options.write and (getattr(options, "limit", None) or getattr(options, "epochs", None)):
        raise SystemExit("--write keeps full runs only: leave --limit and --epochs out")
    options.run(options)


if __name__ == "__main__":
    main()
