"""Named directions of a latent space: how far a step goes, and where an example stands along it.

    z' = z + s v                 s steps along the direction, and nothing across it
    position(z) = u z - b        so that position(z + s v) = position(z) + s, as u v = 1

A direction is one unit of the latent, or is learned from examples. It is numbers and text, saved within the model's
`vaekit.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor

from vaekit.errors import ConfigError, ModelFormatError
from vaekit.types import Json

LONGEST = 64
"""Letters of a name at most."""

_ROUNDING = 1e-6
_Numbers = Annotated[tuple[float, ...], Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class UnitDirection(_Record):
    """One unit d of the latent: v is `scale` in unit d and 0 in all others, and the position is (z_d - mean) / scale.

    Attributes:
        unit: d, from 0.
        mean: of z_d.
        scale: the standard deviation of z_d, > 0.
        measured: over what mean and scale are: the `prior`, or the aggregate posterior 1/N sum_n q(z_d|x_n) of `data`.

    Example:
        >>> slant = UnitDirection(unit=1, mean=0.5, scale=2.0)
        >>> slant.step(3), slant.position(torch.tensor([[9.0, 4.5, 9.0]]))
        (tensor([0., 2., 0.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """

    unit: int = Field(ge=0)
    mean: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    measured: Literal["prior", "data"] = "prior"

    def step(self, num_latents: int) -> Tensor:
        """v (D,), float64."""
        v = torch.zeros(num_latents, dtype=torch.float64)
        v[self.unit] = self.scale
        return v

    def reader(self, num_latents: int) -> Tensor:
        """u (D,), float64."""
        u = torch.zeros(num_latents, dtype=torch.float64)
        u[self.unit] = 1 / self.scale
        return u

    def position(self, z: Tensor) -> Tensor:
        """(..., D) to (...), float64."""
        return (z[..., self.unit].double() - self.mean) / self.scale

    def fits(self, num_latents: int) -> bool:
        """Whether it is one of a latent of so many units."""
        return self.unit < num_latents


class LearnedDirection(_Record):
    """A direction from examples that have something towards others that have not, see `jobs.directions.learn`.

    Attributes:
        vector: v (D,), the shrunken difference of the two mean latents.
        reading: u (D,), with u v = 1.
        offset: b, such that the position is 1/2 half-way between the two means: near 1 for examples that have it and near 0
            for those that have not.
        num_positive: examples that have it.
        num_negative: examples that have not, or draws of the prior.
        against: what the negative ones are.
        separation: share of the pairs of one example each, held out, of which the positive one stands further; 0.5 is chance.
            None where there are too few to hold one out.
        num_pairs: how many pairs.
    """

    vector: _Numbers
    reading: _Numbers
    offset: float
    num_positive: int = Field(ge=1)
    num_negative: int = Field(ge=1)
    against: Literal["examples", "prior"] = "examples"
    separation: float | None = Field(default=None, ge=0, le=1)
    num_pairs: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _reads_its_own_steps(self) -> LearnedDirection:
        if len(self.vector) != len(self.reading):
            raise ValueError(f"`vector` and `reading` must be as long, found {len(self.vector)} and {len(self.reading)}")
        of_step = float(self.reader(0) @ self.step(0))
        if abs(of_step - 1) > _ROUNDING:
            raise ValueError(f"`reading` must give 1 for `vector`, found {of_step:g}")
        return self

    def step(self, num_latents: int) -> Tensor:
        """v (D,), float64."""
        return torch.tensor(self.vector, dtype=torch.float64)

    def reader(self, num_latents: int) -> Tensor:
        """u (D,), float64."""
        return torch.tensor(self.reading, dtype=torch.float64)

    def position(self, z: Tensor) -> Tensor:
        """(..., D) to (...), float64."""
        return z.double() @ self.reader(z.shape[-1]).to(z.device) - self.offset

    def fits(self, num_latents: int) -> bool:
        """Whether it is one of a latent of so many units."""
        return len(self.vector) == num_latents


Direction = UnitDirection | LearnedDirection

_ADAPTERS: dict[bool, TypeAdapter[Any]] = {True: TypeAdapter(UnitDirection), False: TypeAdapter(LearnedDirection)}


def check_name(name: str) -> None:
    """Refuses a name that could not be told from what else stands in its place.

    Raises:
        ConfigError: if it is empty or too long, a number, begins or ends with a space, or has one of `=<>,`.

    Example:
        >>> check_name("dark hair")
    """
    plain = name.isprintable() and name == name.strip() and not any(letter in "=<>," for letter in name)
    try:
        float(name)
        number = True
    except ValueError:
        number = False
    if not 0 < len(name) <= LONGEST or not plain or number or name.startswith("-"):
        raise ConfigError(
            f"A name must be a word of at most {LONGEST} letters, no number, without any of `=<>,` and not begin with `-`; got "
            f"{name!r}. Choose another name."
        )


def to_json(directions: Mapping[str, Direction]) -> Json:
    """Name -> what it is, as `vaekit.json` has it."""
    return {name: direction.model_dump(mode="json") for name, direction in directions.items()}


def from_json(found: Any, num_latents: int, where: str) -> dict[str, Direction]:
    """Directions as `to_json` gave them.

    Args:
        found: the entry.
        num_latents: D of the model.
        where: the file's name, for messages.

    Raises:
        ModelFormatError: if it is no such entry, or not one of a latent of D units.
    """
    if not isinstance(found, dict):
        raise ModelFormatError(
            f"{where} must have an object under 'directions', found {found!r:.60}. Take the entry out of the file: nothing "
            "else of the model depends on it."
        )
    return {name: _direction(name, entry, num_latents, where) for name, entry in found.items()}


def _direction(name: str, entry: Any, num_latents: int, where: str) -> Direction:
    reason = "it is no object"
    if isinstance(entry, dict):
        try:
            check_name(name)
            direction = _ADAPTERS["unit" in entry].validate_python(entry)
            if direction.fits(num_latents):
                return direction
            reason = f"it is not one of the model's {num_latents} units"
        except ConfigError:
            reason = "that is no name"
        except ValidationError as error:
            first = error.errors()[0]
            place = f"`{'.'.join(map(str, first['loc']))}`: " if first["loc"] else ""
            reason = place + first["msg"].removeprefix("Value error, ").rstrip(".")
    raise ModelFormatError(
        f"The direction {name!r:.80} in {where} must be one that vaekit wrote, but: {reason}. Remove it by `vaekit name MODEL "
        "NAME --remove`: nothing else of the model depends on it."
    )
