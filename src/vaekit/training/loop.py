"""The only training loop."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Transform
from vaekit.errors import TrainingError
from vaekit.objectives import Objective
from vaekit.training import advice
from vaekit.training.callbacks import Callback
from vaekit.training.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
    whole,
)
from vaekit.training.config import TrainConfig
from vaekit.training.hiding import hidden
from vaekit.training.optimizer import make_optimizer
from vaekit.training.private import Account, Private
from vaekit.training.sampling import Sampler
from vaekit.training.schedules import Budget, learning_rate
from vaekit.training.validation import validate
from vaekit.types import Condition, Json
from vaekit.vae import LatentModel

CHECKPOINT_FILE = Path("last") / "checkpoint.safetensors"
REPORT_SECONDS = 2.0
AGREE_EVERY = 10
"""Steps between two moments at which several processes agree on what their clocks and signals say."""
_MAX_ELEMENTS = 2**24
_HOPELESS_STEPS = 200
_foreach_lerp: Any = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]


class Step(nn.Module):
    """What a step computes: transform, inference and objective in one module, so that data parallelism, reduced precision
    and compilation see all of it."""

    def __init__(
        self, vae: LatentModel, transform: Transform, objective: Objective, num_samples: int, num_data: int, hide: float = 0.0
    ) -> None:
        super().__init__()
        self.vae, self.transform, self.objective = vae, transform, objective
        self.num_samples, self.num_data, self.hide = num_samples, num_data, hide

    def forward(self, x: Tensor, mask: Tensor | None, condition: Condition | None, step: int) -> dict[str, Tensor]:
        """The terms of the bound, scalars; `loss` is minimised, and so is `adversary` where there is one."""
        visible = hidden(x, mask, self.hide)
        trace = self.vae(self.transform(x), condition=condition, mask=visible, num_samples=self.num_samples)
        bound = self.objective(replace(trace, num_data=self.num_data), step)
        adversary = {} if bound.adversary is None else {"adversary": bound.adversary}
        main = {"loss": bound.loss, "elbo": bound.elbo, "rate": bound.rate, "distortion": bound.distortion}
        return {**main, **adversary, **bound.terms}


@dataclass
class Window:
    """Sums of what steps report, kept on the device: reading them, the only synchronisation, is left to the reports."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, **values: Tensor) -> None:
        """Adds a step's values."""
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = value.clone() if name not in self.sums else self.sums[name].add_(value)
        self.steps += 1

    def read(self, batch_size: int) -> dict[str, float]:
        """Means over the window's steps, and examples a second."""
        means = {name: total.item() / self.steps for name, total in self.sums.items()}
        means["examples_per_second"] = self.steps * batch_size / max(1e-9, time.monotonic() - self.start)
        return means


@dataclass
class Progress:
    """Where a run is; all of it goes into the checkpoint.

    Attributes:
        step: optimiser steps done.
        best_loss: the least validation loss so far.
        best_step: the step at which it was.
        start_loss: the validation loss before the first step; None where it is not finite, or another player moves it.
        stale: validations since.
        stopped: why the run ended: `budget`, `patience` or `interrupted`; empty while it runs.
        validation: what the last validation said.
        best_validation: what the best one said.
    """

    step: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    start_loss: float | None = None
    stale: int = 0
    stopped: str = ""
    validation: dict[str, float] = field(default_factory=dict)
    best_validation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreed:
    """What clocks and signals say, settled between the processes.

    Attributes:
        progress: the share of the budget that is done.
        interrupted: whether a person or the system asked to stop.
        checkpoint: whether a checkpoint is due.
    """

    progress: float
    interrupted: bool
    checkpoint: bool


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the best weights, where they came from, how the run ended, what no person should miss, and what a
    private run has spent."""

    weights: dict[str, Tensor]
    progress: Progress
    seconds: float
    warning: str | None = None
    privacy: Json | None = None


class Trainer:
    """Trains a model on one data set and keeps the weights of the best validation bound.

    With an objective that has a player of its own, and in a private run, the last weights are kept and patience does not apply.

    Args:
        vae: the model; its weights are changed.
        transform: stored values to the likelihood's support.
        objective: what is minimised.
        config: the settings; its precision is `float32` or `bf16` by now.
        data: the examples to train on.
        held_out: the examples that choose the best weights.
        fabric: launched; brings device, precision and processes.
        folder: for checkpoints; None to keep everything in memory.
        callbacks: told what happens, on the first process only.
        fingerprint: of the data, compared on resume.
        resume: go on from the checkpoint in the folder.
    """

    def __init__(
        self,
        vae: LatentModel,
        transform: Transform,
        objective: Objective,
        config: TrainConfig,
        data: Dataset,
        held_out: Dataset,
        fabric: Fabric,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
        fingerprint: str = "",
        resume: bool = False,
    ) -> None:
        self.config, self.data, self.held_out, self.folder, self.fabric = config, data, held_out, folder, fabric
        self.callbacks, self.fingerprint, self.objective, self.resume = callbacks, fingerprint, objective, resume
        self.vae, self.transform = vae.to(fabric.device), transform.to(fabric.device)
        self.sampler = Sampler(len(data), config.batch_size, config.seed, fabric.global_rank, fabric.world_size)
        self.budget = Budget.of(config, len(data))
        self.progress = Progress()
        self.validate_every = config.validate_every or max(50, -(-len(data) // config.batch_size))
        self.best_weights: dict[str, Tensor] = {}
        self.window = Window()
        self.private: Private | None = None
        self.agreed = Agreed(0.0, False, False)
        self._checkpointed = self._reported = time.monotonic()
        self._interrupted = False
        self._advised: set[str] = set()

    def fit(self) -> Outcome:
        """Runs from the last checkpoint in the folder, or from the start, to the end of the budget.

        Raises:
            TrainingError: if training diverged, no validation was finite, a checkpoint cannot be written, or is of other data.
        """
        self._prepare()
        self._tell("on_start", self.progress.step, self.budget)
        self._checkpointed = self._reported = time.monotonic()
        with _Interruptible(self):
            while not self.progress.stopped:
                self._train_step()
                self._after_step()
        self._report()
        warning = advice.on_end(self.progress)
        self._tell("on_end", self.progress, self.budget)
        if warning is not None:
            self._tell("on_warning", warning)
        self._share_buffers()
        weights = self.best_weights or self.averaged.state_dict()  # interrupted before the first validation
        privacy = None if self.private is None else self.private.summary()
        return Outcome(weights, self.progress, self.budget.elapsed, warning, privacy)

    # ---------------------------------------------------------------- set-up

    def _prepare(self) -> None:
        """Seeds, starts from the data, wraps for the device, and goes back to the checkpoint if there is one."""
        torch.manual_seed(self.config.seed + 7919 * self.fabric.global_rank)
        checkpoint = self._find_checkpoint()
        if checkpoint is None and self.config.dp_epsilon is None:
            num = max(1, min(len(self.data), 1024, _MAX_ELEMENTS // self.data.schema.num_dimensions))
            first = Sampler(len(self.data), num, self.config.seed).batch(0)
            batch = self.data.batch(first).to(self.fabric.device)
            self.vae.initialize(self.transform(batch.x), batch.mask, self.vae.condition_of(batch.columns, num))
        parts = (self.vae, self.transform, self.objective)
        step = Step(*parts, self.config.num_samples, len(self.data), self.config.hide).train()
        optimizer = make_optimizer(step, self.objective, self.config, self.fabric.device)
        self.groups: list[list[nn.Parameter]] = [group["params"] for group in optimizer.param_groups]
        self.step_module, self.optimizer = self.fabric.setup(step, optimizer)
        # After the set-up, which gives all processes the weights of the first.
        self.averaged = copy.deepcopy(self.vae).requires_grad_(False).eval() if self.config.ema else self.vae
        if self.config.dp_epsilon is not None:
            self._hide_examples(step, None if checkpoint is None else checkpoint.state.get("privacy"))
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.objective.adversary is None and self.private is None:
            loss = self._validated()["loss"]
            self.progress.start_loss = loss if math.isfinite(loss) else None

    def _hide_examples(self, step: Step, spent: Json | None) -> None:
        """Makes the run private; one that goes on has spent something."""
        total = self.budget.total_steps
        assert total is not None
        account = None if spent is None else Account.from_json(spent)
        self.private = Private(step, self.config, self.data, total, self.fabric.device, account)
        for sentence in self.private.notes():
            self._tell("on_note", sentence)

    def _find_checkpoint(self) -> Checkpoint | None:
        if self.folder is None or not self.resume:
            return None
        checkpoint = Checkpoint.load(self.folder / CHECKPOINT_FILE)
        if checkpoint.state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                "A run must be resumed on the data it began with, found other data. Give the same data, or start anew "
                "with `--force`."
            )
        return checkpoint

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.vae.load_state_dict(checkpoint.part("model"))
        if self.config.ema:
            self.averaged.load_state_dict(checkpoint.part("average"))
        self.objective.load_state_dict(checkpoint.part("objective"))
        restore_optimizer(self.optimizer, checkpoint.part("optimizer"), state["optimizer"])
        ranks = state["world_size"]
        restore_random_state(checkpoint.part(f"random.{self.fabric.global_rank % ranks}"), self.fabric.device)
        self.progress = Progress(**{**state["progress"], "best_loss": float(state["progress"]["best_loss"])})
        self.budget.restart_clock(state["elapsed"])
        self.best_weights = checkpoint.part("best")
        patience = self.config.patience  # it may have been raised, as the budget
        self.progress.stopped = "patience" if patience and self.progress.stale >= patience else ""
        self._agree()
        self._stop_if_done()

    # ---------------------------------------------------------------- a step

    def _train_step(self) -> None:
        """One update. Nothing in here waits for the device: what must be decided is decided on it."""
        step, config = self.progress.step, self.config
        if self.private is not None:
            said = self.private.backward(self.data, step)
            self._update(step, torch.zeros((), device=self.fabric.device))
            if said:
                self.window.add(**said)
            return
        batch = self.data.batch(self.sampler.batch(step)).to(self.fabric.device)
        out = self.step_module(batch.x, batch.mask, self.vae.condition_of(batch.columns, len(batch.x)), step)
        # Neither loss reaches the parameters of the other, so one backward pass serves both.
        self.fabric.backward(out["loss"] + out["adversary"] if "adversary" in out else out["loss"])
        norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in self.groups]
        skip = ~torch.isfinite(torch.stack(norms)).all()
        if config.skip_norm is not None:
            skip = skip | (norms[0] > config.skip_norm)
        if config.clip_norm is not None:
            for group, norm in zip(self.groups, norms, strict=True):
                torch.nn.utils.clip_grads_with_norm_(group, config.clip_norm, norm)
        self._update(step, skip.float())
        self.window.add(
            **{k: torch.where(skip, 0.0, v.detach()) for k, v in out.items()}, skipped=skip.float(), kept=1 - skip.float()
        )

    def _update(self, step: int, skip: Tensor) -> None:
        """Adam and the average; a step whose gradient is no good is left out by the optimiser's kernel itself."""
        rate = learning_rate(self.config, step, self._progress_at(step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        inner: Any = self.optimizer.optimizer if hasattr(self.optimizer, "optimizer") else self.optimizer
        if inner.defaults.get("fused"):
            inner.grad_scale, inner.found_inf = None, skip
            self.optimizer.step()
        elif not bool(skip):  # a device without the fused kernel has to wait for the answer
            self.optimizer.step()
        self.optimizer.zero_grad()
        if self.config.ema:
            decay = min(self.config.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                _foreach_lerp(list(self.averaged.parameters()), list(self.vae.parameters()), 1 - decay)

    def _after_step(self) -> None:
        """Everything between steps: validation, report, checkpoint, and whether to stop."""
        progress = self.progress
        progress.step += 1
        self._agree()
        self._stop_if_done()
        if self.agreed.interrupted and not progress.stopped:
            progress.stopped = "interrupted"
        due = progress.step % self.validate_every == 0
        if due or progress.stopped == "budget":
            self._validate()
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._report()
        if self.folder is not None and (progress.stopped or self.agreed.checkpoint):
            self._checkpoint()

    def _agree(self) -> None:
        """What clocks and signals say, the same for all processes: several of them settle it every few steps."""
        step, now = self.progress.step, time.monotonic()
        due = now - self._checkpointed >= self.config.checkpoint_seconds
        mine = Agreed(self.budget.progress(step), self._interrupted, due)
        if self.fabric.world_size > 1:
            if step % AGREE_EVERY:
                mine = Agreed(self.agreed.progress, False, False)
            else:
                said = torch.tensor([mine.progress, float(mine.interrupted), float(mine.checkpoint)], device=self.fabric.device)
                torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
                share, interrupted, checkpoint = said.tolist()
                mine = Agreed(share, interrupted > 0, checkpoint > 0)
        self.agreed = mine

    def _progress_at(self, step: int) -> float:
        """The share of the budget that is done, the same for all processes."""
        return self.agreed.progress if self.budget.total_steps is None else self.budget.progress(step)

    def _stop_if_done(self) -> None:
        if self._progress_at(self.progress.step) >= 1.0:
            self.progress.stopped = "budget"

    # ------------------------------------------------- validation and reports

    def _validate(self) -> None:
        """Compares the averaged weights on the held-out examples, and keeps them if they are the best so far."""
        progress = self.progress
        started = time.monotonic()
        self._share_buffers()
        progress.validation = self._validated()
        loss = progress.validation["loss"]
        # A loss that another player moves does not compare over time: the last weights count as the best. So they do where
        # a choice by examples would cost privacy.
        moving = self.objective.adversary is not None or self.private is not None
        if math.isfinite(loss) and (moving or loss < progress.best_loss):
            progress.best_loss, progress.best_step, progress.stale = loss, progress.step, 0
            progress.best_validation = progress.validation
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
        else:
            progress.stale += 1
            if self.config.patience and progress.stale >= self.config.patience and not progress.stopped:
                progress.stopped = "patience"
        self.window.start += time.monotonic() - started
        self._tell("on_validation", progress, self.budget)
        self._advise(advice.on_validation(progress.validation, self.objective, progress.step, self.config))

    def _validated(self) -> dict[str, float]:
        """What the held-out examples say of the averaged weights."""
        return validate(self.averaged, self.transform, self.objective, self.held_out, self.config, self.fabric)

    def _share_buffers(self) -> None:
        """Buffers, such as codebooks that follow their codes, are averages themselves: the averaged model has those of now."""
        if self.averaged is not self.vae:
            for average, live in zip(self.averaged.buffers(), self.vae.buffers(), strict=True):
                average.copy_(live)

    def _report(self) -> None:
        """Reads the window: the one place where the loop waits for the device."""
        if not self.window.steps:
            return
        metrics = self.window.read(self.config.batch_size)
        kept = metrics.pop("kept")
        if kept == 0 and self.window.steps >= _HOPELESS_STEPS:
            kept = "" if self.folder is None else whole(self.folder / CHECKPOINT_FILE) + " "
            raise TrainingError(advice.DIVERGED.format(step=self.progress.step, kept=kept))
        if kept > 0:
            skipped, speed = metrics.pop("skipped"), metrics.pop("examples_per_second")
            metrics = {name: value / kept for name, value in metrics.items()} | {
                "skipped": skipped,
                "examples_per_second": speed,
            }
            self.window = Window()
            self._tell("on_report", metrics, self.progress, self.budget)
            self._advise(advice.on_report(metrics))
        self._reported = time.monotonic()

    def _advise(self, sentences: dict[str, str]) -> None:
        """Says each kind of advice once a run."""
        for kind, sentence in sentences.items():
            if kind not in self._advised:
                self._advised.add(kind)
                self._tell("on_note", sentence)

    def _tell(self, event: str, *arguments: Any) -> None:
        if self.fabric.is_global_zero:
            for callback in self.callbacks:
                getattr(callback, event)(*arguments)

    # ------------------------------------------------------------ checkpoints

    def _checkpoint(self) -> None:
        """Writes everything that exact resume needs; the first process writes for all."""
        self._share_buffers()
        states = self._gather_random_states()
        if self.fabric.is_global_zero:
            assert self.folder is not None
            optimizer, groups = optimizer_tensors(self.optimizer)
            parts: dict[str, dict[str, Tensor]] = {
                "model": self.vae.state_dict(),
                "average": self.averaged.state_dict() if self.config.ema else {},
                "best": self.best_weights,
                "objective": self.objective.state_dict(),
                "optimizer": optimizer,
                **{f"random.{rank}": state for rank, state in enumerate(states)},
            }
            tensors = {f"{part}.{name}": t for part, named in parts.items() for name, t in named.items()}
            Checkpoint(tensors, self._state(groups)).save(self.folder / CHECKPOINT_FILE)
        self._checkpointed = time.monotonic()

    def _state(self, groups: list[Json]) -> Json:
        progress = {**self.progress.__dict__, "best_loss": repr(self.progress.best_loss)}
        return {
            "progress": progress,
            "elapsed": self.budget.elapsed,
            "optimizer": groups,
            "fingerprint": self.fingerprint,
            "world_size": self.fabric.world_size,
            "privacy": None if self.private is None else self.private.account.to_json(),
        }

    def _gather_random_states(self) -> list[dict[str, Tensor]]:
        mine = random_state(self.fabric.device)
        if self.fabric.world_size == 1:
            return [mine]
        gathered = {
            name: cast(Tensor, self.fabric.all_gather(state.to(self.fabric.device))).cpu() for name, state in mine.items()
        }
        return [{name: states[rank] for name, states in gathered.items()} for rank in range(self.fabric.world_size)]

    def interrupt(self) -> None:
        """Asks the run to stop after the step in hand, with a checkpoint."""
        self._interrupted = True


class _Interruptible:
    """While it is open, the first Ctrl-C or SIGTERM asks the run to stop; the second one has its usual effect."""

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._handle) for number in self.signals}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.trainer.interrupt()
        self.__exit__()
