"""Training with differential privacy: gradients that hide any one example, and the account of what they cost.

Abadi et al., "Deep learning with differential privacy" (2016), algorithm 1 (DP-SGD). What the guarantee covers, and what it
does not, is said in docs/privacy.md.
"""

from __future__ import annotations

import copy
import secrets
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vaekit.data.dataset import Dataset
from vaekit.data.transforms import Transform
from vaekit.errors import ConfigError, TrainingError, require
from vaekit.objectives import (
    DIP,
    ELBO,
    WAE,
    InfoVAE,
    Neighbours,
    Objective,
    Quantization,
    SemiSupervised,
    SlicedWAE,
    TotalCorrelation,
)
from vaekit.priors import Exemplar
from vaekit.training.config import TrainConfig
from vaekit.types import Batch, Condition, Json
from vaekit.vae import LatentModel

NOT_COVERED = (
    "the schema of the data (shape, columns, categories, ranges, means and scales of columns, number of examples), the "
    "transform that was fitted to them (scales, and the cells of a table), and the parts and settings that were chosen for "
    "them: all of these count as public",
    "other runs, refits and evaluations on the same data: each has a cost of its own",
    "examples that belong together: of k examples of one person, the cost is a multiple",
    "the division into training and held-out examples, the held-out ones, and what the run shows and keeps in `training/`",
)
"""What the guarantee does not extend to, as the record of the run says it."""

_MIXING = (DIP, InfoVAE, Neighbours, SlicedWAE, TotalCorrelation, WAE)
_ORDERS = [1 + i / 100 for i in range(1, 10)] + [1 + i / 10 for i in range(1, 100)] + list(range(12, 64))
_ORDERS += [64, 80, 96, 128, 192, 256, 384, 512, 768, 1024]
_MAX_GRADIENTS, _MAX_ELEMENTS = 2**25, 2**24
"""Numbers of the gradients of single examples, and of the widest tensor of decoding, that are held at once."""
_TRIED_EXAMPLES = 2


def settled(config: TrainConfig, asked: Json, num_examples: int) -> TrainConfig:
    """The settings of a private run, with what it must leave out left out; any other config as it is.

    Args:
        config: all settings, those of the recipe among them.
        asked: the settings that the user gave.
        num_examples: N, the examples to train on.

    Raises:
        ConfigError: if the user asked for what a private run cannot have.
    """
    if config.dp_epsilon is None:
        for name in ("dp_delta", "dp_clip", "dp_accountant"):
            if asked.get(name) is not None:
                raise ConfigError(f"`{name}` must come with `dp_epsilon`, got it alone. Give `dp_epsilon`, such as 3.0.")
        return config
    reasons = {
        "minutes": "the noise is made for a number of steps that is known before; give `epochs` or `steps`",
        "patience": "when to stop must not depend on examples; leave it out",
        "clip_norm": "the gradients of single examples are clipped to `dp_clip`; leave it out",
        "skip_norm": "a step must not be left out for its data; leave it out",
    }
    for name, reason in reasons.items():
        if asked.get(name):
            raise ConfigError(f"A private run must not have `{name}`, got {asked[name]!r}: {reason}.")
    if config.precision == "bf16":
        raise ConfigError("A private run must compute in float32, got `bf16`. Leave `precision` out.")
    if config.dp_delta is not None and config.dp_delta >= 1 / num_examples:
        raise ConfigError(
            f"`dp_delta` must be below 1 / {num_examples}, one over the number of examples, got {config.dp_delta:g}: as much "
            "as that would allow one example to be published. Leave it out."
        )
    delta = min(1e-5, 0.1 / num_examples) if config.dp_delta is None else config.dp_delta
    changes = {"dp_delta": delta, "patience": 0, "clip_norm": None, "skip_norm": None, "precision": "float32"}
    return config.model_copy(update=changes)


def reason(config: TrainConfig) -> tuple[str, ...]:
    """The sentence that a private run begins with."""
    if config.dp_epsilon is None:
        return ()
    return (
        f"Privacy: epsilon {config.dp_epsilon:g} at delta {config.dp_delta:.3g} for each example, by clipped and noised "
        "gradients. The weights begin without a look at the data, and the last ones are kept. The schema of the data, the fit "
        "of the transform and the choices named here count as public.",
    )


def check_processes(config: TrainConfig, processes: int) -> None:
    """Raises a ConfigError if a private run is to be shared by several processes."""
    if config.dp_epsilon is not None and processes > 1:
        raise ConfigError(f"A private run must have one process, got {processes}. Start it without `torchrun`.")


def check_parts(
    vae: LatentModel, transform: Transform, objective: Objective, data: Dataset, config: TrainConfig, samples: int | None = None
) -> None:
    """Refuses parts whose gradient is not a mean over examples, or that keep examples other than by their gradient.

    Raises:
        ConfigError: for such a part.
    """
    inner = objective.base if isinstance(objective, Quantization) and objective.base is not None else objective
    name = type(inner).__name__
    if objective.adversary is not None:
        raise ConfigError(f"A private run must have an objective without an adversary, got {name}. Use `ELBO`.")
    if isinstance(inner, SemiSupervised):
        raise ConfigError("A private run must not be semi-supervised, for its weights count the labels. Use `ELBO`.")
    if isinstance(inner, _MIXING) or (isinstance(inner, ELBO) and inner.free_bits > 0):
        what = "`free_bits`, a bound on a mean over the batch" if isinstance(inner, ELBO) else name
        raise ConfigError(f"The loss of a private run must be a mean over examples, got {what}. Use `ELBO` without it.")
    parts = {"vae": vae, "transform": transform, "objective": objective}
    for path, module in ((f"{part}.{path}", m) for part, whole in parts.items() for path, m in whole.named_modules()):
        if isinstance(module, nn.modules.batchnorm._NormBase) and not (
            isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.track_running_stats
        ):
            raise ConfigError(
                f"A private run must not normalise over a batch, found {type(module).__name__} at `{path}`. Use `GroupNorm`."
            )
        if isinstance(module, Exemplar):
            raise ConfigError(f"A private model must not hold examples, found an `Exemplar` prior at `{path}`. Use another.")
    changed = _changed_buffer(parts, data, samples or config.num_samples)
    if changed is not None:
        raise ConfigError(
            f"A private run must learn by gradients alone, but a forward pass changes the buffer `{changed}`. Use a part that "
            "learns by its gradient."
        )


def _changed_buffer(parts: dict[str, Any], data: Dataset, num_samples: int) -> str | None:
    """The name of a buffer that a forward pass in training changes; on copies, with the caller's random numbers left alone."""
    trial = {name: copy.deepcopy(part).cpu().train() for name, part in parts.items()}
    vae, transform, objective = trial.values()
    batch = data.batch(np.arange(min(_TRIED_EXAMPLES, len(data))))
    before = {f"{part}.{name}": b.clone() for part, whole in trial.items() for name, b in whole.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        condition = vae.condition_of(batch.columns, len(batch.x))
        trace = vae(transform(batch.x), condition=condition, mask=batch.mask, num_samples=num_samples)
        objective(replace(trace, num_data=len(data)), 0)
    after = {f"{part}.{name}": b for part, whole in trial.items() for name, b in whole.named_buffers()}
    return next((name for name, b in after.items() if name not in before or not _same(before[name], b)), None)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


@dataclass
class Account:
    """What a run has spent: `steps` draws of the Gaussian mechanism on a Poisson sample of the examples.

    Neighbours are data sets of which one has one example more. The accountant `rdp` (Mironov, Talwar, Zhang, "Renyi
    differential privacy of the sampled Gaussian mechanism", 2019) gives an upper bound that is proven for both directions of
    that; `prv` (Gopi, Lee, Wutschitz, "Numerical composition of differential privacy", 2021) is tighter, and composes the
    direction in which the example is taken away. Both are those of the package `opacus`.

    Attributes:
        noise_multiplier: sigma, the noise's standard deviation in units of the clipping norm.
        sampling_rate: q, the probability of each example to be in a step.
        delta: of (epsilon, delta).
        total_steps: the steps that the noise was made for.
        accountant: `rdp` or `prv`.
        steps: the steps that were made.

    Example:
        >>> account = Account(4.0, 0.01, 1e-5, total_steps=10_000, steps=10_000)
        >>> round(account.epsilon(), 2)
        1.04
    """

    noise_multiplier: float
    sampling_rate: float
    delta: float
    total_steps: int
    accountant: str = "rdp"
    steps: int = 0

    @classmethod
    def for_budget(
        cls, epsilon: float, delta: float, sampling_rate: float, total_steps: int, accountant: str = "rdp"
    ) -> Account:
        """The account whose noise is about the least with which all steps together cost no more than epsilon.

        Raises:
            ConfigError: if no noise is enough.
            MissingExtraError: if opacus is not installed.
        """
        utils = _opacus("utils")
        tolerance = min(0.01, 0.002 * epsilon)
        told = {"alphas": _ORDERS} if accountant == "rdp" else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # at the end of the orders the bound is loose, and still a bound
                noise = utils.get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sampling_rate,
                    steps=total_steps,
                    accountant=accountant,
                    epsilon_tolerance=tolerance,
                    **told,
                )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"There must be a noise that keeps {total_steps:,} steps within epsilon {epsilon:g} at delta {delta:g}, but: "
                f"{str(error).rstrip('.')}. Give a larger `dp_epsilon`, or fewer steps."
            ) from error
        return cls(float(noise), sampling_rate, delta, total_steps, accountant)

    def epsilon(self, steps: int | None = None) -> float:
        """Epsilon at `delta` of the steps that were made, or of so many."""
        steps = self.steps if steps is None else steps
        if steps == 0:
            return 0.0
        accountants = _opacus()
        ledger = accountants.create_accountant(mechanism=self.accountant)
        ledger.history = [(self.noise_multiplier, self.sampling_rate, steps)]
        told = {"alphas": _ORDERS} if self.accountant == "rdp" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(ledger.get_epsilon(delta=self.delta, **told))

    def to_json(self) -> Json:
        """For the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: Json) -> Account:
        """From the checkpoint."""
        return cls(**state)


def _opacus(module: str = "") -> Any:
    name = "opacus.accountants" + (f".{module}" if module else "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require(name, "private", "Training with differential privacy")


class Private:
    """The gradient of a step in which any one example is hidden.

        g = 1/B (sum_i g_i min(1, C / |g_i|) + sigma C N(0, I))

    over a Poisson sample of the examples, each of which is in it with the probability q = B / N: Abadi et al. (2016),
    algorithm 1. g_i is the whole gradient of one example's loss, all parameters together; one that is not finite counts as 0.
    B is the size of a batch that is expected, a constant, as the size of the one that was drawn would tell of the data.

    Samples and noise are drawn from a stream keyed by 128 bits of the operating system, which is never stored: a seed that is
    published with the model would give away the noise. So a private run is not reproducible; only its first weights are.
    Departure: the optimiser is AdamW in place of gradient descent, which costs nothing, as it sees no more than g.

    Args:
        step: a `training.step.Step`; its gradients are set.
        config: the settings, with `dp_epsilon`.
        data: the examples to train on.
        total_steps: of the run.
        device: that of the step.
        account: that of a run which goes on; None for a new one.

    Raises:
        ConfigError: if the parts cannot be trained so, or no noise is enough.
        TrainingError: if a run that goes on asks for more steps than its noise was made for.
    """

    def __init__(
        self,
        step: nn.Module,
        config: TrainConfig,
        data: Dataset,
        total_steps: int,
        device: torch.device,
        account: Account | None = None,
    ) -> None:
        vae, transform, objective = (cast(Any, getattr(step, name)) for name in ("vae", "transform", "objective"))
        check_parts(vae, transform, objective, data, config)
        assert config.dp_epsilon is not None
        if account is None:
            delta = min(1e-5, 0.1 / len(data)) if config.dp_delta is None else config.dp_delta
            rate = min(1.0, config.batch_size / len(data))
            account = Account.for_budget(config.dp_epsilon, delta, rate, total_steps, config.dp_accountant)
        elif total_steps > account.total_steps:
            raise TrainingError(
                f"A private run must keep to the {account.total_steps:,} steps that its noise was made for, got "
                f"{total_steps:,}. Leave the budget out."
            )
        self.step, self.clip, self.device, self.account, self.asked = step, config.dp_clip, device, account, config.dp_epsilon
        self.vae: LatentModel = vae
        self.expected = account.sampling_rate * len(data)
        self.parameters = {name: p for name, p in step.named_parameters() if p.requires_grad}
        self.random = np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
        numbers = sum(p.numel() for p in self.parameters.values())
        widest = config.num_samples * max(vae.peak_elements(), data.schema.num_dimensions)
        self.at_once = max(1, min(_MAX_GRADIENTS // numbers, _MAX_ELEMENTS // widest))
        self.slow = self._why_slow(data)

    def backward(self, data: Dataset, at: int) -> dict[str, Tensor]:
        """Sets the gradients of a step, and books it.

        Args:
            data: the examples to train on.
            at: steps done so far, for schedules.

        Returns:
            Means over the examples of the step of what it says, in the open: for the eyes of the one who trains. `skipped` is
            the share of the examples without a finite gradient, `kept` is 0 where that is all of them. Empty where no example
            was drawn.
        """
        # Booked first: whatever happens after the draw, the step is never counted as less than one.
        self.account.steps += 1
        # What an example draws for its latents must depend neither on a seed that is known nor on its neighbours' number.
        torch.manual_seed(secrets.randbits(63))
        rows = self.draw(len(data))
        total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        sums: dict[str, Tensor] = {}
        for part in np.array_split(rows, -(-len(rows) // self.at_once)) if len(rows) else ():
            gradients, said = self.gradients(data.batch(part).to(self.device), at)
            weight = clip_weights(gradients, self.clip)
            good = weight > 0
            for name, g in gradients.items():
                total[name] += torch.tensordot(weight, torch.where(_like(good, g), g, 0.0), dims=1)
            for name, value in {**said, "skipped": 1.0 - good.float()}.items():
                part_sum = torch.where(good, value, 0.0).sum() if name != "skipped" else value.sum()
                sums[name] = part_sum if name not in sums else sums[name] + part_sum
        for name, parameter in self.parameters.items():
            noise = self.random.standard_normal(tuple(parameter.shape)) * (self.account.noise_multiplier * self.clip)
            noised = total[name] + torch.as_tensor(noise, dtype=parameter.dtype).to(self.device)
            parameter.grad = noised / self.expected
        return _means(sums, len(rows))

    def draw(self, num_examples: int) -> np.ndarray:
        """A Poisson sample: the rows of the examples, each of which is in it with the probability q by itself."""
        number = self.random.binomial(num_examples, self.account.sampling_rate)
        return self.random.choice(num_examples, number, replace=False)

    def gradients(self, batch: Batch, at: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradient of each example's own loss, (B, *parameter) by name, and what the step says of each, (B,) by name."""
        condition = self.vae.condition_of(batch.columns, len(batch.x))
        compute = self._one_by_one if self.slow else self._together
        return compute(batch.x, batch.mask, condition, at)

    def _together(
        self, x: Tensor, mask: Tensor | None, condition: Condition | None, at: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        parameters = {name: p.detach() for name, p in self.parameters.items()}
        batching = _Batching()

        def loss(
            parameters: dict[str, Tensor], x: Tensor, mask: Tensor | None, condition: Condition | None
        ) -> tuple[Tensor, dict[str, Tensor]]:
            one = None if condition is None else {name: codes[None] for name, codes in condition.items()}
            arguments = (x[None], None if mask is None else mask[None], one, at)
            batching.zero = torch.zeros_like(x.flatten()[0], dtype=torch.float32)
            out = torch.func.functional_call(self.step, parameters, arguments)
            return out["loss"], {name: value.detach() for name, value in out.items()}

        axes = (None, 0, None if mask is None else 0, None if condition is None else 0)
        each = torch.func.vmap(torch.func.grad(loss, has_aux=True), in_dims=axes, randomness="different")
        with batching, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # some operation goes example by example
            return cast(Callable[..., Any], each)(parameters, x, mask, condition)

    def _one_by_one(
        self, x: Tensor, mask: Tensor | None, condition: Condition | None, at: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        gradients: list[Sequence[Tensor]] = []
        said: list[dict[str, Tensor]] = []
        for i in range(len(x)):
            one = None if condition is None else {name: codes[i : i + 1] for name, codes in condition.items()}
            out = self.step(x[i : i + 1], None if mask is None else mask[i : i + 1], one, at)
            found = torch.autograd.grad(out["loss"], list(self.parameters.values()), allow_unused=True, materialize_grads=True)
            gradients.append(found)
            said.append({name: value.detach() for name, value in out.items()})
        stacked = {name: torch.stack(each) for name, each in zip(self.parameters, zip(*gradients, strict=True), strict=True)}
        return stacked, {name: torch.stack([one[name] for one in said]) for name in said[0]}

    def _why_slow(self, data: Dataset) -> str:
        """Why the examples' gradients must be computed one after the other; empty where they need not."""
        batch = data.batch(np.arange(min(_TRIED_EXAMPLES, len(data)))).to(self.device)
        condition = self.vae.condition_of(batch.columns, len(batch.x))
        try:
            self._together(batch.x, batch.mask, condition, 0)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError, ValueError) as error:  # what torch.func says of what it cannot batch
            return " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        return ""

    def notes(self) -> list[str]:
        """What the one who trains should know before the first step."""
        account = self.account
        told = [
            f"Privacy: noise of {account.noise_multiplier:.3g} clipping norms of {self.clip:g}, each example in a step with "
            f"the probability {account.sampling_rate:.3g}, for {account.total_steps:,} steps."
        ]
        if self.slow:
            told.append(f"The gradients of examples are computed one after the other, which is slow, because: {self.slow}.")
        return told

    def summary(self) -> Json:
        """The record of the run: what was spent, how, and what is not covered."""
        account = self.account
        return {
            "epsilon": account.epsilon(),
            "delta": account.delta,
            "epsilon_asked": self.asked,
            "unit": "one example, added or taken away",
            "accountant": account.accountant,
            "noise_multiplier": account.noise_multiplier,
            "clip": self.clip,
            "sampling_rate": account.sampling_rate,
            "steps": account.steps,
            "not_covered": list(NOT_COVERED),
        }


class _Batching(TorchFunctionMode):
    """Under `vmap`, does away with two things that it cannot do and nobody needs.

    Memory that is filled with random numbers in place, as `torch.distributions` does by `torch.empty(shape).normal_()`, must
    be one tensor an example: what it holds before is nobody's to read, so it may as well be a `zero` that is one an example.
    An order of memory that is asked for is a hint on speed, for the memory of a batch.
    """

    zero: Tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call as it is, but for those."""
        kwargs = dict(kwargs or {})
        if func in (Tensor.contiguous, Tensor.clone):
            kwargs.pop("memory_format", None)
        out = func(*args, **kwargs)
        if func is torch.empty and out.is_floating_point():
            return self.zero.to(out).expand(out.shape).clone()
        return out


def clip_weights(gradients: dict[str, Tensor], clip: float) -> Tensor:
    """(B,): min(1, C / |g_i|) of the gradients (B, *parameter) of examples, all parameters together; 0 where one is not finite.

    Example:
        >>> clip_weights({"a": torch.tensor([[3.0], [0.3]]), "b": torch.tensor([[4.0], [0.4]])}, clip=1.0)
        tensor([0.2000, 1.0000])
    """
    norms = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients.values()])
    norm = torch.linalg.vector_norm(norms, dim=0)
    return torch.where(norm.isfinite(), clip / norm.clamp_min(clip), 0.0)


def _like(of_examples: Tensor, g: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1), to go with a gradient."""
    return of_examples.view(-1, *[1] * (g.dim() - 1))


def _means(sums: dict[str, Tensor], num_examples: int) -> dict[str, Tensor]:
    """Means over the examples with a finite gradient, and the share of the others."""
    if not sums:
        return {}
    skipped = sums.pop("skipped")
    kept = num_examples - skipped
    means = {name: value / kept.clamp_min(1) for name, value in sums.items()}
    return {**means, "skipped": skipped / num_examples, "kept": (kept > 0).float()}
