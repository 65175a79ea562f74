"""The jobs of tables on a device that is not the CPU and has no float64, such as Apple's.

There is none here, so the CPU plays both: the model's tensors and all that is computed from them count as those of a device
`cpu:0`, until `.cpu()` brings them back. What a device would refuse is refused: float64, and operations across devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from table_cases import bundle, dataset
from vaekit.inference import prepare
from vaekit.jobs.augment import augment
from vaekit.jobs.encode import encode
from vaekit.jobs.generate import generate
from vaekit.jobs.impute import impute
from vaekit.jobs.interpolate import interpolate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.score import score
from vaekit.jobs.traverse import traverse
from vaekit.objectives import ELBO
from vaekit.training.step import Step

DEVICE = torch.device("cpu", 0)
ROWS = [
    [1.0, np.nan, 3.0, 1.0, 0.0],
    [1.0, np.nan, np.nan, 1.0, np.nan],
    [np.nan, 1.0, np.nan, 0.0, 1.0],
    [2.0, 0.0, 40.0, 0.0, 0.0],
]


def tensors_in(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [t for value in values for t in tensors_in(value)] if isinstance(values, list | tuple) else []


def is_device(value: Any) -> bool:
    return isinstance(value, torch.device) and value == DEVICE


class Accelerator(TorchFunctionMode):
    """Keeps the tensors of the device apart from those of the CPU."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.there = WeakIdKeyDictionary()
        self.calls = 0
        for tensor in tensors:
            self.there[tensor] = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors_in([list(args), kwargs])
        there = [t for t in given if t in self.there]
        if func == Tensor.device.__get__:
            return DEVICE if there else torch.device("cpu")
        if func is Tensor.cpu:
            return args[0].clone()
        out = func(*args, **kwargs)
        moved = func is Tensor.to and any(isinstance(value, torch.device) for value in (*args[1:], *kwargs.values()))
        if moved:
            out = out.clone()
            if not is_device(next(v for v in (*args[1:], *kwargs.values()) if isinstance(v, torch.device))):
                return out
        elif func is Tensor.to and isinstance(args[1], Tensor):
            out = out.clone()
            there = [t for t in args[1:2] if t in self.there]
        elif there and func not in (Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_):
            here = [t for t in given if t not in self.there and t.dim() > 0]
            assert not here, f"{func} of tensors of two devices"
        if moved or there or is_device(kwargs.get("device")):
            self.calls += 1
            for tensor in tensors_in([out]):
                assert tensor.dtype != torch.float64, f"{func} makes float64"
                self.there[tensor] = True
        return out


JOBS: dict[str, Callable[[], list[np.ndarray]]] = {
    "score": lambda: [(s := score(bundle(), dataset(ROWS), num_samples=3)).anomaly, s.columns],
    "generate": lambda: [generate(bundle(), 20, seed=1).x],
    "generate where": lambda: [generate(bundle(), 20, where=["age=3..7", "member=yes|"], seed=1).x],
    "impute": lambda: [(made := impute(bundle(), dataset(ROWS))).cells, made.uncertainty],
    "impute draws": lambda: [impute(bundle(), dataset(ROWS), draw="sample", num_imputations=3, seed=2).cells],
    "augment": lambda: [augment(bundle(), dataset(ROWS), balance="job", seed=3).cells],
    "encode": lambda: [encode(bundle(), dataset(ROWS)).mean],
    "reconstruct": lambda: [reconstruct(bundle(), dataset(ROWS)), reconstruct(bundle(), dataset(ROWS), draw="sample")],
    "interpolate": lambda: [interpolate(bundle(), dataset(ROWS), 0, 3)],
    "traverse": lambda: [traverse(bundle()).x, traverse(bundle(), dataset(ROWS), example=1).x],
}


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """A device that has the model, a new one: layouts keep what they have put on a device."""
    for module in ("vaekit.types", "vaekit.data.tables.grid"):
        monkeypatch.setattr(f"{module}.has_float64", lambda device: device.index is None)
    bundle.cache_clear()
    made = bundle()
    return Accelerator([*made.vae.parameters(), *made.vae.buffers(), *made.transform.buffers()])


@pytest.mark.parametrize("job", JOBS)
def test_jobs_do_without_float64_and_give_the_same(job, accelerator):
    expected = JOBS[job]()
    with accelerator:
        found = JOBS[job]()
    assert accelerator.calls > 10
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_of_training_does_without_float64(accelerator):
    made = bundle()
    step = Step(made.vae, made.transform, ELBO(), 2, 10, hide=0.5)
    with accelerator:
        torch.manual_seed(0)
        inputs = prepare(made, dataset(ROWS).batch([0, 1, 3]))
        assert inputs.x.dtype == torch.float32
        assert inputs.x in accelerator.there
        batch = dataset(ROWS).batch([0, 1, 3]).to(DEVICE)
        assert (batch.x in accelerator.there, batch.mask in accelerator.there) == (False, True)
        out = step(batch.x, batch.mask, None, 0)
    assert out["loss"].isfinite()


def test_what_the_device_would_refuse_is_refused(accelerator):
    weight = next(bundle().vae.parameters())
    with accelerator:
        assert weight.device == DEVICE
        assert weight.cpu().double().device == torch.device("cpu")
        with pytest.raises(AssertionError, match="makes float64"):
            weight.double()
        with pytest.raises(AssertionError, match="two devices"):
            weight + torch.ones(weight.shape)
        with pytest.raises(AssertionError, match="makes float64"):
            torch.ones(3, dtype=torch.float64).to(DEVICE)
