"""Components: modules whose constructor is their configuration.

A component's arguments are JSON values or other components, so a whole model is a nested JSON object:

    {"type": "vae.VAE", "prior": {"type": "priors.StandardNormal", "num_latents": 2}, ...}

`spec()` reads that object back from a live model, and `build()` makes the model again. Only classes in the registry are
built: a class enters it when it is defined, so nothing that a file names can be imported, let alone run.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import torch
from torch import nn

from vaekit.errors import ConfigError, ModelFormatError
from vaekit.types import Json

Module = TypeVar("Module", bound=nn.Module)
_registry: dict[str, type[Component]] = {}


class Component(nn.Module):
    """A module that knows the arguments it was made with.

    Subclasses store a component argument under the argument's own name; `spec()` then sees a part that was replaced
    after construction. Arguments are JSON values (None, bool, int, float, str, lists and dicts of them) or components.

    Example:
        >>> class Shift(Component):
        ...     def __init__(self, by: float = 1.0) -> None:
        ...         super().__init__()
        ...         self.by = by
        >>> Shift(2.0).spec()
        {'type': 'component.Shift', 'by': 2.0}
        >>> Shift.from_spec({'type': 'component.Shift', 'by': 3.0}).by
        3.0
    """

    _arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.registered_name = f"{_module_name(cls)}.{cls.__qualname__}"
        _registry[cls.registered_name] = cls

    registered_name = "component.Component"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remembers the arguments, defaults included."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            return self  # a copy is being made, or __init__ is about to raise the same error with its own message
        bound.apply_defaults()
        named = {name for name, p in bound.signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        arguments = {name: value for name, value in list(bound.arguments.items())[1:] if name in named}
        object.__setattr__(self, "_arguments", arguments)
        return self

    def spec(self) -> Json:
        """The JSON object that makes this component again (its structure, not its weights).

        Raises:
            ConfigError: if an argument is neither a JSON value nor a component.
        """
        described = {"type": self.registered_name}
        for name, value in self._arguments.items():
            live = getattr(self, name, value)
            part = isinstance(value, Component) or isinstance(live, Component)
            described[name] = _describe(live if part else value, f"{self.registered_name}({name}=...)")
        return described

    @classmethod
    def from_spec(cls, spec: Json) -> Self:
        """Builds a component of this class, or of a subclass, from its spec.

        Raises:
            ModelFormatError: if the spec names an unknown type, lacks an argument, or is of another class.
        """
        component = build(spec)
        if not isinstance(component, cls):
            raise ModelFormatError(f"A {cls.__name__} must be here, found {spec['type']}. The spec is of another part.")
        return component


def registered(base: type[Component] = Component) -> dict[str, type[Component]]:
    """All final components below `base`, by registered name. Abstract ones are left out."""
    return {name: cls for name, cls in sorted(_registry.items()) if issubclass(cls, base) and not inspect.isabstract(cls)}


def build(spec: Json) -> Component:
    """Builds the component that a spec describes.

    Raises:
        ModelFormatError: if the spec is malformed, names a type that is not registered, or its arguments do not fit.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise ModelFormatError(f'A component spec must be an object with a "type", found {str(spec)[:80]!r}.')
    cls = _registry.get(spec["type"])
    if cls is None:
        raise ModelFormatError(
            f"A component must be registered, found the type {spec['type']!r}. If it is your own class, import the module that "
            "defines it before loading; if it is of a later vaekit, upgrade."
        )
    arguments = {name: _rebuild(value) for name, value in spec.items() if name != "type"}
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, MemoryError) as error:
        raise ModelFormatError(f"The spec of {spec['type']} must fit its arguments, but: {error}") from error


def _module_name(cls: type) -> str:
    """The module as it stands in specs: elsewhere in full; inside vaekit the first name below the package, so that a saved
    model outlives a file that becomes a folder."""
    package, _, inside = cls.__module__.partition(".")
    return inside.partition(".")[0] if package == "vaekit" and inside else cls.__module__


def _describe(value: Any, where: str) -> Any:
    if isinstance(value, Component):
        return value.spec()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_describe(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        if isinstance(value.get("type"), str):
            raise ConfigError(f'{where} must not be a dict whose "type" is a string: a spec would take it for a component.')
        return {key: _describe(item, where) for key, item in value.items()}
    raise ConfigError(f"{where} must be a JSON value or a Component to be saved, got {type(value).__name__}.")


def _rebuild(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("type"), str):  # a column may be named "type": its value is no string
        return build(value)
    if isinstance(value, dict):
        return {key: _rebuild(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rebuild(item) for item in value]
    return value


def device_of(component: nn.Module) -> torch.device:
    """The device that a component's parameters and buffers lie on; the CPU if it has none."""
    for tensor in (*component.parameters(), *component.buffers()):
        return tensor.device
    return torch.device("cpu")


def check_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for the best that is there. No device is touched.

    Raises:
        ConfigError: if there is no such device.

    Example:
        >>> check_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if best is None else best
    kind, colon, index = name.partition(":")
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    numbered = index.isascii() and index.isdigit()
    if (colon and not numbered) or int(index or 0) >= counts.get(kind, 0):
        raise ConfigError(
            f"`device` must be one that is there, got {name!r}. Use `cpu`, `cuda`, `cuda:N` or `mps`, or `auto` for the best."
        )
    return torch.device(name)


def call_stopped(module: nn.Module, *arguments: Any) -> Any:
    """`module(*arguments)` with parameters that no gradient reaches; gradients through the arguments stay.

    Example:
        >>> layer, x = nn.Linear(1, 1), torch.ones(1, requires_grad=True)
        >>> call_stopped(layer, x).backward()
        >>> layer.weight.grad is None, x.grad is None
        (True, False)
    """
    frozen = {name: tensor.detach() for name, tensor in module.named_parameters()}
    return torch.func.functional_call(module, frozen, arguments)


def stopped_copy(module: Module) -> Module:
    """A module that shares its tensors with `module`, with parameters that no gradient reaches.

    For modules that are called later, as inside a distribution; where the call is at hand, `call_stopped` is cheaper.
    """
    memo: dict[int, Any] = {id(parameter): parameter.detach() for parameter in module.parameters()}
    memo.update({id(buffer): buffer for buffer in module.buffers()})
    return copy.deepcopy(module, memo)


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions in all of float32 on a GPU, where cuDNN would otherwise round their inputs to ten bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
