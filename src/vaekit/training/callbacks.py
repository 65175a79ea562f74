"""What listens to a run: the metrics file, TensorBoard, and the screen."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vaekit.data.output import as_json, atomic_file
from vaekit.errors import MissingExtraError, require
from vaekit.training.schedules import Budget

if TYPE_CHECKING:
    from vaekit.training.progress import Progress


class Callback:
    """Hears of a run; every method does nothing unless a subclass says what."""

    def on_start(self, step: int, budget: Budget) -> None:
        """The run begins, or goes on, after `step` steps."""

    def on_report(self, metrics: dict[str, float], progress: Progress, budget: Budget) -> None:
        """Means over the steps since the last report."""

    def on_validation(self, progress: Progress, budget: Budget) -> None:
        """A validation has ended; `progress.validation` holds its numbers."""

    def on_note(self, sentence: str) -> None:
        """Something that a person should read."""

    def on_warning(self, sentence: str) -> None:
        """Something that no person should miss: a note, unless a subclass says otherwise."""
        self.on_note(sentence)

    def on_end(self, progress: Progress, budget: Budget) -> None:
        """The run has ended."""

    def close(self) -> None:
        """Gives back what is held, however the run ended."""


class MetricsFile(Callback):
    """`metrics.jsonl`: a line a report and a line a validation; a number that is not finite is null.

    Lines beyond a resumed step are taken back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, step: int, budget: Budget) -> None:
        """Drops what a killed run wrote after its last checkpoint, a half line included."""
        if not self.path.exists():
            return
        text, kept = self.path.read_text(encoding="utf-8"), []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # the half line that the kill left
            if record["step"] <= step:
                kept.append(line + "\n")
        if "".join(kept) != text:
            with atomic_file(self.path) as path:
                path.write_text("".join(kept), encoding="utf-8")

    def _write(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_json(record), allow_nan=False) + "\n")

    def on_report(self, metrics: dict[str, float], progress: Progress, budget: Budget) -> None:
        """{"event": "train", "step", "seconds", ...}."""
        self._write({"event": "train", "step": progress.step, "seconds": round(budget.elapsed, 3), **metrics})

    def on_validation(self, progress: Progress, budget: Budget) -> None:
        """{"event": "validation", "step", "seconds", ...}."""
        self._write({"event": "validation", "step": progress.step, "seconds": round(budget.elapsed, 3), **progress.validation})


class TensorBoard(Callback):
    """Event files for TensorBoard, by tensorboardX.

    Events are written by this thread: the package's own writer hands them to another, which dies without a word on a full
    disk and then blocks the run.

    Raises:
        MissingExtraError: if tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.files = require("tensorboardX.event_file_writer", "track", "Writing TensorBoard events")
        self.messages = require("tensorboardX.proto.event_pb2", "track", "Writing TensorBoard events")
        self.summary = require("tensorboardX.summary", "track", "Writing TensorBoard events")
        self.folder = folder
        self.writer: Any = None

    def _write(self, step: int, **content: Any) -> None:
        self.writer.write_event(self.messages.Event(wall_time=time.time(), step=step, **content))

    def _scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}  # of others the package complains
        for name, value in finite.items():
            self._write(step, summary=self.summary.scalar(f"{prefix}/{name}", value))
        self.writer.flush()

    def on_start(self, step: int, budget: Budget) -> None:
        """Opens an event file that hides what a killed run wrote after its last checkpoint."""
        self.writer = self.files.EventsWriter(str(self.folder / "events"))
        if step:
            self._write(step, session_log=self.messages.SessionLog(status=self.messages.SessionLog.START))

    def on_report(self, metrics: dict[str, float], progress: Progress, budget: Budget) -> None:
        """train/NAME."""
        self._scalars("train", metrics, progress.step)

    def on_validation(self, progress: Progress, budget: Budget) -> None:
        """validation/NAME."""
        self._scalars("validation", progress.validation, progress.step)

    def close(self) -> None:
        """Closes the file."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def tensorboard(folder: Path) -> list[Callback]:
    """TensorBoard where tensorboardX is installed; the metrics file holds the same numbers anyway."""
    try:
        return [TensorBoard(folder)]
    except MissingExtraError:
        return []


class Lines(Callback):
    """Plain lines, for logs: one every `every` seconds, and one below it on the validation, where there has been one since."""

    def __init__(self, every: float = 15.0, stream: TextIO | None = None) -> None:
        self.every, self.stream = every, stream
        self.last = 0.0
        self.told: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self.stream or sys.stderr, flush=True)

    def on_start(self, step: int, budget: Budget) -> None:
        """Says where a resumed run goes on."""
        if step:
            self.say(f"Going on after step {step:,} and {clock(budget.elapsed)}.")

    def on_report(self, metrics: dict[str, float], progress: Progress, budget: Budget) -> None:
        """Progress, bound, rate, distortion, speed, time left."""
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        left = budget.seconds_left(progress.step)
        self.say(
            f"{budget.progress(progress.step):4.0%}  step {progress.step:,}  "
            + "  ".join(f"{name} {value}" for name, value in said_of(metrics))
            + f"  {metrics['examples_per_second']:,.0f} examples/s"
            + (f"  {clock(left)} left" if left is not None else "")
        )
        self._say_held_out(progress.validation)

    def _say_held_out(self, validation: dict[str, float]) -> None:
        """What held-out examples say, once."""
        if validation and validation != self.told:
            self.told = validation
            self.say("      held out: " + "  ".join(f"{name} {value}" for name, value in said_of(validation)))

    def on_note(self, sentence: str) -> None:
        """The sentence."""
        self.say(sentence)

    def on_end(self, progress: Progress, budget: Budget) -> None:
        """The best bound, where it was, what the latents of those weights say, and why the run ended."""
        self._say_held_out(progress.best_validation)
        self.say(closing_line(progress, budget))


class Quiet(Callback):
    """Nothing but warnings."""

    def on_warning(self, sentence: str) -> None:
        """The sentence, on standard error."""
        print(sentence, file=sys.stderr, flush=True)


class Live(Lines):
    """A live panel, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as Panel

        super().__init__()
        self.console = Console(stderr=True)
        self.panel = Panel(console=self.console, refresh_per_second=4, transient=True)
        self.report: dict[str, float] = {}

    def on_start(self, step: int, budget: Budget) -> None:
        """Opens the panel."""
        self.panel.start()
        super().on_start(step, budget)

    def say(self, text: str) -> None:
        """One line above the panel."""
        self.console.print(text, highlight=False, markup=False)

    def on_report(self, metrics: dict[str, float], progress: Progress, budget: Budget) -> None:
        """Redraws."""
        self.report = metrics
        self._draw(progress, budget)

    def on_validation(self, progress: Progress, budget: Budget) -> None:
        """Redraws."""
        self._draw(progress, budget)

    def _draw(self, progress: Progress, budget: Budget) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 3))
        left = budget.seconds_left(progress.step)
        rows = {"training": dict(said_of(self.report)), "held out": dict(said_of(progress.validation))}
        if self.report:
            rows["training"]["examples/s"] = f"{self.report['examples_per_second']:,.0f}"
        columns = [*(name for name, _, _ in _FIGURES), "examples/s"]
        table.add_row("", *(f"[bold]{name}" for name in columns))
        for row, said in rows.items():
            if said:
                table.add_row(row, *(said.get(name, "") for name in columns))
        share = budget.progress(progress.step)
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=1.0, completed=share, width=40),
            f"{share:.0%}",
            f"step {progress.step:,}" + (f", stage {progress.stage}" if progress.stage else ""),
            f"{clock(left)} left" if left is not None else "",
        )
        self.panel.update(Group(bar, table))

    def on_end(self, progress: Progress, budget: Budget) -> None:
        """Closes the panel and leaves two lines."""
        self.panel.stop()
        super().on_end(progress, budget)

    def close(self) -> None:
        """Gives the terminal back after an error."""
        self.panel.stop()


_FIGURES = (
    ("bound", "elbo", ".2f"),
    ("rate", "rate", ".2f"),
    ("distortion", "distortion", ".2f"),
    ("mutual information", "mutual_information", ".2f"),
    ("active units", "active_units", ".0f"),
)


def said_of(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """What a person reads of a report or a validation, by name: of the latent, how much it says and how many units say it.

    Example:
        >>> said_of({"elbo": -95.0, "rate": 20.5, "loss": 1.0, "active_units": 12.0})
        [('bound', '-95.00'), ('rate', '20.50'), ('active units', '12')]
    """
    return [(name, f"{metrics[key]:{form}}") for name, key, form in _FIGURES if key in metrics]


def display(kind: str) -> list[Callback]:
    """The screen: `live`, `plain`, `quiet`, `none`, or `auto` for what fits where standard error goes."""
    if kind == "none":
        return []
    if kind == "quiet":
        return [Quiet()]
    if kind == "live" or (kind == "auto" and sys.stderr.isatty()):
        return [Live()]
    return [Lines()]


def clock(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> clock(59.6), clock(3725)
        ('1 min 00 s', '1 h 02 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


_REASONS = {
    "budget": "The budget is used up",
    "patience": "The bound on the held-out examples has stopped rising",
    "interrupted": "Interrupted, and saved",
}


def closing_line(progress: Progress, budget: Budget) -> str:
    """How a run ended, in one line."""
    best = (
        f"best loss on held-out examples {progress.best_loss:.3f} nats at step {progress.best_step:,}"
        if progress.best_step
        else "no validation yet"
    )
    return f"{_REASONS[progress.stopped]} after {progress.step:,} steps and {clock(budget.elapsed)}; {best}."
