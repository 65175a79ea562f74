"""The only training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vaekit.data.dataset import Dataset
from vaekit.data.neighbours import neighbour_graph
from vaekit.data.text.batches import num_codes, trimmed
from vaekit.data.transforms import Transform
from vaekit.errors import TrainingError
from vaekit.objectives import Objective
from vaekit.training import advice, stages
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
from vaekit.training.optimizer import make_optimizer
from vaekit.training.pairs import Pairs
from vaekit.training.private import Account, Private
from vaekit.training.progress import Agreed, Outcome, Progress
from vaekit.training.sampling import Sampler
from vaekit.training.schedules import Budget, learning_rate
from vaekit.training.signals import Interruptible
from vaekit.training.stages import AGGRESSIVE, AUTOENCODER
from vaekit.training.step import Step, Window
from vaekit.training.validation import validate
from vaekit.types import Batch, Json
from vaekit.vae import VAE, LatentModel

CHECKPOINT_FILE = Path("last") / "checkpoint.safetensors"
REPORT_SECONDS = 2.0
AGREE_EVERY = 10
"""Steps between two moments at which several processes agree on what their clocks and signals say."""
_MAX_ELEMENTS = 2**24
_HOPELESS_STEPS = 200
_foreach_lerp: Any = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]


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
        ranks = (fabric.global_rank, fabric.world_size)
        self.sampler = Sampler(len(data), config.batch_size, config.seed, *ranks, lengths=num_codes(data))
        self.pairs: Pairs | None = None
        self.held_out_pairs: Pairs | None = None
        self.budget = Budget.of(config, len(data))
        stages.check(vae, objective, config, self.budget.total_steps)
        self.progress = Progress(stage=stages.first(config), pretrained=config.pretrain)
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
        with Interruptible(self.interrupt):
            while not self.progress.stopped:
                if self.progress.stage == AUTOENCODER and stages.is_pretrained(self.progress, self.budget, self.agreed):
                    self._start_anew()
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
            batch = self._first_examples()
            self.vae.initialize(self.transform(batch.x), batch.mask, self.vae.condition_of(batch.columns, len(batch.x)))
        self._find_neighbours()
        parts, config = (self.vae, self.transform, self.objective), self.config
        step = Step(*parts, config.num_samples, len(self.data), config.hide).train()
        optimizer = make_optimizer(step, self.objective, config, self.fabric.device)
        self.groups: list[list[nn.Parameter]] = [group["params"] for group in optimizer.param_groups]
        self.turns = stages.Turns(self.vae, self.groups[0], config)
        self.step_module, self.optimizer = self.fabric.setup(step, optimizer)
        # After the set-up, which gives all processes the weights of the first.
        self.averaged = copy.deepcopy(self.vae).requires_grad_(False).eval() if self.config.ema else self.vae
        if self.config.dp_epsilon is not None:
            self._hide_examples(step, None if checkpoint is None else checkpoint.state.get("privacy"))
        if checkpoint is not None:
            self._restore(checkpoint)
        elif self.objective.adversary is None and self.private is None:
            loss = self._validated(self.objective)["loss"]
            self.progress.start_loss = loss if math.isfinite(loss) else None

    def _find_neighbours(self) -> None:
        """The pairs that the objective asks for, of what is trained on and of what is held out; from the CPU's copies."""
        wanted, config = self.objective.num_neighbours, self.config
        if not wanted:
            return
        transform, ranks = copy.deepcopy(self.transform).cpu(), (self.fabric.global_rank, self.fabric.world_size)
        self.pairs = Pairs(self.data, neighbour_graph(self.data, transform, wanted), config.batch_size, config.seed, *ranks)
        # Of fewer examples as many neighbours as are about as near, so that both losses are of neighbourhoods of one size.
        fewer = max(2, min(wanted, round(wanted * len(self.held_out) / len(self.data))))
        self.held_out_pairs = Pairs(self.held_out, neighbour_graph(self.held_out, transform, fewer), 0, config.seed + 1)

    def _first_examples(self) -> Batch:
        """Some examples to start from, the same ones every time."""
        num = max(1, min(len(self.data), 1024, _MAX_ELEMENTS // self.data.schema.num_dimensions))
        first = Sampler(len(self.data), num, self.config.seed).batch(0)
        return trimmed(self.data.batch(first), self.data.schema).to(self.fabric.device)

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
        rows = self.sampler.batch(step)
        batch = trimmed(self.data.batch(rows), self.data.schema).to(self.fabric.device)
        beside = None if self.pairs is None else self.pairs.beside(self.vae, rows, step, self.fabric.device)
        since, autoencoding = stages.since(step, self.progress), self.progress.stage == AUTOENCODER
        condition = self.vae.condition_of(batch.columns, len(batch.x))
        out = self.step_module(batch.x, batch.mask, condition, since, autoencoding, beside)
        # Neither loss reaches the parameters of the other, so one backward pass serves both.
        self.fabric.backward(out["loss"] + out["adversary"] if "adversary" in out else out["loss"])
        if self.progress.stage == AGGRESSIVE:
            for parameter in self.turns.resting(since):
                parameter.grad = None  # which the optimiser leaves alone, moments and all
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
        since = stages.since(step, self.progress)
        rate = learning_rate(self.config, since, self._progress_at(step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        inner = self._inner_optimizer()
        if inner.defaults.get("fused"):
            inner.grad_scale, inner.found_inf = None, skip
            self.optimizer.step()
        elif not bool(skip):  # a device without the fused kernel has to wait for the answer
            self.optimizer.step()
        self.optimizer.zero_grad()
        if self.config.ema:
            decay = min(self.config.ema, (1 + since) / (10 + since))
            with torch.no_grad():
                _foreach_lerp(list(self.averaged.parameters()), list(self.vae.parameters()), 1 - decay)

    def _inner_optimizer(self) -> Any:
        """The optimiser itself, without what Fabric puts around it."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _start_anew(self) -> None:
        """The end of pretraining: p(x|z) and a learned prior get fresh weights, and lose their moments and their average."""
        self._report()  # what the steps so far have said is of another loss
        device, vae = self.fabric.device, cast(VAE, self.vae)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((1_000_003 * self.config.seed + self.config.pretrain) % 2**63)
            batch = self._first_examples()
            fresh = stages.start_anew(vae, self.transform(batch.x), batch.mask)
        state = self._inner_optimizer().state
        for parameter in fresh:
            state.pop(parameter, None)
            if self.fabric.world_size > 1:
                torch.distributed.broadcast(parameter.data, 0)
        if self.config.ema:
            self.averaged.load_state_dict(vae.state_dict())
        self.progress.stage, self.progress.pretrained = AGGRESSIVE if self.config.aggressive else "", self.progress.step
        self.progress.validation = {}  # it was of another model
        self._tell("on_note", stages.ANEW.format(step=self.progress.step))

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
        pretraining = progress.stage == AUTOENCODER
        progress.validation = self._validated(stages.AUTOENCODING if pretraining else self.objective)
        loss = progress.validation["loss"]
        # A loss that another player moves does not compare over time: the last weights count as the best. So they do where
        # a choice by examples would cost privacy.
        moving = self.objective.adversary is not None or self.private is not None
        if pretraining:
            pass  # these weights are of no model yet
        elif math.isfinite(loss) and (moving or loss < progress.best_loss):
            progress.best_loss, progress.best_step, progress.stale = loss, progress.step, 0
            progress.best_validation = progress.validation
            self.best_weights = {k: v.detach().cpu().clone() for k, v in self.averaged.state_dict().items()}
        else:
            progress.stale += 1
            if self.config.patience and progress.stale >= self.config.patience and not progress.stopped:
                progress.stopped = "patience"
        self.window.start += time.monotonic() - started
        self._tell("on_validation", progress, self.budget)
        if progress.stage == AGGRESSIVE:
            said = stages.settle(progress)
            if said is not None:
                self._tell("on_note", said)
        if not pretraining:
            self._advise(advice.on_validation(progress.validation, self.objective, progress.step, self.config, self.vae))

    def _validated(self, objective: Objective) -> dict[str, float]:
        """What the held-out examples say of the averaged weights."""
        pairs = self.held_out_pairs if objective.num_neighbours else None
        return validate(self.averaged, self.transform, objective, self.held_out, self.config, self.fabric, pairs)

    def _share_buffers(self) -> None:
        """Buffers, such as codebooks that follow their codes, are averages themselves: the averaged model has those of now.

        Moments over batches are of the weights of now, though, and are measured again with the averaged ones.
        """
        if self.averaged is self.vae:
            return
        for average, live in zip(self.averaged.buffers(), self.vae.buffers(), strict=True):
            average.copy_(live)
        if isinstance(self.averaged, VAE) and self.averaged.posterior.mixes_examples:
            with torch.random.fork_rng(devices=[]):  # a transform may draw
                batch = self._first_examples()
                given = self.averaged.encode_condition(self.averaged.condition_of(batch.columns, len(batch.x)))
                self.averaged.posterior.settle(self.transform(batch.x), given, batch.mask)

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
