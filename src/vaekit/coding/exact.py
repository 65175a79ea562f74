"""Networks in fixed point, whose outputs are the same bits everywhere."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vaekit.errors import ConfigError
from vaekit.networks import MLP
from vaekit.networks.mlp import LinearHead

Floats = NDArray[np.float64]
"""Whole numbers, held in float64."""

_LIMIT = 2**53


@dataclasses.dataclass(frozen=True)
class Lookup:
    """An element-wise function as a table: argument floor(a / 2^shift), cut to -R..R.

    Args:
        values: (2 R + 1,) whole numbers, on the activations' grid.
        shift: from the sum's grid to the argument's.
    """

    values: Floats
    shift: int

    def __call__(self, total: Floats) -> Floats:
        """Whole numbers to whole numbers: a division by a power of two, a floor and a look-up are all exact."""
        reach = len(self.values) // 2
        at = np.floor(total * 2.0**-self.shift).clip(-reach, reach)
        return self.values[at.astype(np.int64) + reach]


@dataclasses.dataclass(frozen=True)
class ExactLayer:
    """a -> f(W a + b) with whole W, b and a, and f a look-up; without one, floor((W a + b) / 2^shift).

    Args:
        weight: (out, in).
        bias: (out,).
        lookup: f, or None in the last layer.
        shift: of the last layer, to the grid of the outputs.
        residual: whether the input is added to what comes out.
    """

    weight: Floats
    bias: Floats
    lookup: Lookup | None
    shift: int = 0
    residual: bool = False

    def bound(self, largest: Floats) -> Floats:
        """(out,) the largest |partial sum|, in any order, given the largest |a| (in,) of each input.

        Raises:
            ConfigError: if it is not below 2^53.
        """
        # The sum of magnitudes is itself done in Python's integers, which have no largest.
        rows = [sum(int(w) * int(a) for w, a in zip(row, largest, strict=True)) for row in np.abs(self.weight)]
        sums = [s + int(b) for s, b in zip(rows, np.abs(self.bias), strict=True)]
        if max(sums) >= _LIMIT:
            raise ConfigError(
                f"Every sum of a layer must stay below 2^53, and one can reach {max(sums)}. Use fewer bits for the weights."
            )
        return np.array(sums, dtype=np.float64)

    def __call__(self, a: Floats) -> Floats:
        """(N, in) to (N, out)."""
        total = a @ self.weight.T + self.bias
        out = np.floor(total * 2.0**-self.shift) if self.lookup is None else self.lookup(total)
        return out + a if self.residual else out


@dataclasses.dataclass(frozen=True)
class ExactNetwork:
    """A network of whole numbers whose outputs do not depend on machine, BLAS, threads, order of summation or batch.

    Proof. All operands are whole numbers. By `ExactLayer.bound`, sum_j |w_ij| max|a_j| + |b_i| < 2^53 for each output i, so
    every product and every sum over any subset of the terms is a whole number below 2^53 in magnitude. float64 holds each of
    them, so IEEE 754 rounds none, fused or not: addition is associative here, and every order gives the one true sum.
    Products by powers of two, floor, clip and table look-ups are exact as well. (This holds for products of the plain
    algorithm; a Strassen product may form sums outside the bound, and no BLAS in use has one.)

    Args:
        layers: one after the other.
        input_limit: the largest |input|; a larger one is refused.
        input_bits: the inputs' grid is 2^-input_bits.
        output_bits: the outputs' grid is 2^-output_bits.
    """

    layers: tuple[ExactLayer, ...]
    input_limit: int
    input_bits: int
    output_bits: int

    def __post_init__(self) -> None:
        largest = np.full(self.layers[0].weight.shape[1], float(self.input_limit))
        for layer in self.layers:
            sums = layer.bound(largest)
            out = np.ceil(sums * 2.0**-layer.shift) + 1
            if layer.lookup is not None:
                out = np.full(len(sums), np.abs(layer.lookup.values).max())
            largest = out + largest if layer.residual else out

    def __call__(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, in) whole numbers on the inputs' grid to (N, out) on the outputs'.

        Raises:
            ConfigError: for an input beyond the limit, for which nothing is proved.
        """
        if x.size and max(-int(x.min()), int(x.max())) > self.input_limit:
            raise ConfigError(
                f"Inputs must be within +-{self.input_limit}, got {x.min()} to {x.max()}. Convert with a larger `input_limit`."
            )
        a = x.astype(np.float64)
        for layer in self.layers:
            a = layer(a)
        return a.astype(np.int64)


def convert(
    network: MLP,
    head: nn.Module,
    input_limit: int,
    input_bits: int = 0,
    output_bits: int = 16,
    weight_bits: int = 16,
    activation_bits: int = 12,
    reach: int = 64,
) -> ExactNetwork:
    """An MLP and its head in fixed point; the scaling of the data is folded into the first layer.

    Args:
        network: without condition, mask or gated layers.
        head: its linear head.
        input_limit: the largest |input| on its grid, such as 255.
        input_bits: of the inputs' grid, 0 for whole levels.
        output_bits: of the outputs' grid.
        weight_bits: weights are rounded to steps of 2^-weight_bits.
        activation_bits: activations and their arguments are rounded to steps of 2^-activation_bits.
        reach: arguments of activations are cut to +-reach.

    Raises:
        ConfigError: for a network that has no exact form yet, and for one whose sums may reach 2^53.
    """
    if not isinstance(network, MLP) or not isinstance(head, LinearHead):
        raise ConfigError(f"Only an MLP has an exact form, got {type(network).__name__}. Train one to code with it.")
    if network.inputs.observe_mask or network.condition_features:
        raise ConfigError("An exact MLP must have neither condition nor mask, and this one has. Train one without.")
    layers, grid = list[ExactLayer](), input_bits
    for i, module in enumerate(network.layers):
        if not isinstance(module, nn.Sequential):
            raise ConfigError("An exact MLP must have no gated layers, and this one has. Train one with `silu`.")
        linear = cast(nn.Linear, module[0])
        scaled = (network.inputs.factor, network.inputs.centre) if i == 0 else (1.0, 0.0)
        # Folding 2 / 255 into the weights makes them small: as many bits more keep their relative precision.
        bits = weight_bits + max(0, math.ceil(-math.log2(scaled[0])))
        weight, bias = _fixed(linear, grid, bits, *scaled)
        lookup = _lookup(module[1], grid + bits, activation_bits, reach)
        residual = network.residual and weight.shape[0] == weight.shape[1]
        if residual and i == 0:
            raise ConfigError("The first layer of an exact MLP must not be residual, and it is. Give it another width.")
        layers.append(ExactLayer(weight, bias, lookup, residual=residual))
        grid = activation_bits
    weight, bias = _fixed(head.linear, grid, weight_bits, 1.0, 0.0)
    layers.append(ExactLayer(weight, bias, None, shift=grid + weight_bits - output_bits))
    return ExactNetwork(tuple(layers), input_limit, input_bits, output_bits)


def _fixed(linear: nn.Linear, grid: int, weight_bits: int, factor: float, centre: float) -> tuple[Floats, Floats]:
    weight = linear.weight.detach().double().cpu().numpy() * factor
    bias = linear.bias.detach().double().cpu().numpy() - weight.sum(1) * centre
    return np.rint(weight * 2.0**weight_bits), np.rint(bias * 2.0 ** (weight_bits + grid))


def _lookup(activation: nn.Module, grid: int, bits: int, reach: int) -> Lookup:
    # The argument is floored, so the table holds the function half a step further.
    at = (np.arange(-reach << bits, (reach << bits) + 1) + 0.5) * 2.0**-bits
    with torch.no_grad():
        values = activation(torch.from_numpy(at)).numpy()
    return Lookup(np.rint(values * 2.0**bits), grid - bits)
