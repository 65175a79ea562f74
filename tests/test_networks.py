"""Networks: any size, any leading axes, masks and conditions, and no example that sees another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vaekit.errors import ConfigError
from vaekit.networks import MLP, ConditionEncoder, ConvDecoder, ConvEncoder
from vaekit.networks.conv import stage_sizes
from vaekit.networks.inputs import ACTIVATIONS, Inputs, activation_of
from vaekit.types import Network

SIZES = [(1, 1), (1, 17), (5, 7), (28, 28), (33, 20)]


def close(a: Tensor, b: Tensor) -> None:
    """Equal up to the order in which float64 sums are taken."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------- inputs


def test_inputs_scale_and_mask() -> None:
    x, mask = torch.tensor([[0, 128, 255]], dtype=torch.uint8), torch.tensor([[True, False, True]])
    torch.testing.assert_close(Inputs([0, 255], False)(x, None), torch.tensor([[-1.0, 0.5 / 127.5, 1.0]]))
    torch.testing.assert_close(Inputs([0, 255], False)(x, mask), torch.tensor([[-1.0, 0.0, 1.0]]))
    torch.testing.assert_close(Inputs([0, 255], True)(x, mask), torch.tensor([[-1.0, 0.0, 1.0, 1.0, 0.0, 1.0]]))
    torch.testing.assert_close(Inputs(None, True)(x, None), torch.tensor([[0.0, 128.0, 255.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(Inputs([-2.0, 6.0], False)(torch.tensor([[-2.0, 2.0, 4.0]]), None), torch.tensor([[-1, 0, 0.5]]))


@pytest.mark.parametrize("input_range", [[0], [1, 1], [2, 1], [0, 1, 2]])
def test_input_range_must_rise(input_range: list[float]) -> None:
    with pytest.raises(ConfigError, match="`input_range` must be"):
        Inputs(input_range, False)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    assert activation_of(name)(torch.tensor([-1.0, 2.0])).shape == (2,)
    assert MLP(2, [3], activation=name)(torch.zeros(1, 2)).shape == (1, 3)


def test_unknown_activation_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"`activation` must be one of relu, .*; got 'swoosh'"):
        MLP(2, [3], activation="swoosh")


# -------------------------------------------------------------------------------------------------------------------- MLP


def test_mlp_is_its_formula() -> None:
    network, x = MLP([2, 3], [4, 4, 5], "tanh", residual=True).double(), torch.randn(7, 2, 3).double()
    h = x.reshape(7, 6)
    weights = [(layer[0].weight, layer[0].bias) for layer in network.layers]
    h = torch.tanh(h @ weights[0][0].T + weights[0][1])
    h = h + torch.tanh(h @ weights[1][0].T + weights[1][1])
    h = torch.tanh(h @ weights[2][0].T + weights[2][1])
    close(network(x), h)


def test_gated_mlp_is_its_formula() -> None:
    network, x = MLP(3, [4], "gated").double(), torch.randn(7, 3).double()
    linear = network.layers[0].linear
    value, gate = (x @ linear.weight.T + linear.bias).split(4, dim=-1)
    close(network(x), value / (1 + torch.exp(-gate)))


def test_head_lays_parameters_out_before_the_event() -> None:
    for network, event in ((MLP(3, [4]).double(), (2, 5)), (ConvDecoder(3, [2, 3, 4], [6]).double(), (2, 3, 4))):
        head = network.make_head(3, event).double()
        features = torch.randn(2, 7, *network.out_shape).double()
        out = head(features)
        assert out.shape == (2, 7, 3, *event)
        bias = next(p for name, p in head.named_parameters() if name.endswith("bias"))
        with torch.no_grad():
            bias.view(3, -1)[1] += 1.0  # the second parameter everywhere, and no other
        moved = head(features) - out
        close(moved, torch.tensor([0.0, 1.0, 0.0]).double().reshape(3, *[1] * len(event)).expand(moved.shape))


@pytest.mark.parametrize(
    ("in_shape", "hidden"), [(3, []), (3, [0]), (0, [3]), ([2, 0], [3]), (3, [4, -1])]
)  # fmt: skip
def test_mlp_sizes_must_be_positive(in_shape: int | list[int], hidden: list[int]) -> None:
    with pytest.raises(ConfigError, match="An MLP must have layers and sizes of at least 1"):
        MLP(in_shape, hidden)


# ------------------------------------------------------------------------------------------------------------------- conv


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [[3], [3, 4, 5]])
@pytest.mark.parametrize("colours", [1, 3])
def test_conv_pair_fits_any_size(height: int, width: int, channels: list[int], colours: int) -> None:
    shape = [colours, height, width]
    encoder = ConvEncoder(shape, channels, features=6, observe_mask=True).double()
    decoder = ConvDecoder(2, shape, channels).double()
    x, mask = torch.rand(4, *shape).double(), torch.rand(4, *shape) < 0.5
    features = encoder(x, mask=mask)
    assert features.shape == (4, 6)
    maps = decoder(torch.randn(2, 4, 2).double())
    assert maps.shape == (2, 4, channels[0], height, width)
    assert decoder.make_head(3, (colours, height, width)).double()(maps).shape == (2, 4, 3, *shape)
    assert torch.isfinite(features).all()
    # every pixel counts: changing one changes the features
    for at in ((0, 0), (height - 1, width - 1)):
        changed = x.clone()
        changed[:, 0, at[0], at[1]] += 1.0
        seen = torch.ones_like(mask)
        assert not torch.equal(encoder(changed, mask=seen), encoder(x, mask=seen))


def test_stage_sizes_are_those_of_the_encoder() -> None:
    for size in SIZES:
        encoder = ConvEncoder([1, *size], [2, 2, 2], features=3)
        h = encoder.stages(encoder.stem(torch.zeros(1, 1, *size)))
        assert tuple(h.shape[2:]) == stage_sizes(*size, 3)[-1]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ConvEncoder([4, 4], [3]), r"`shape` must be \(C, H, W\)"),
        (lambda: ConvEncoder([1, 0, 4], [3]), r"`shape` must be \(C, H, W\)"),
        (lambda: ConvDecoder(2, [1, 4], [3]), r"`shape` must be \(C, H, W\)"),
        (lambda: ConvEncoder([1, 4, 4], []), "`channels` must hold widths of at least 1"),
        (lambda: ConvDecoder(2, [1, 4, 4], [3, 0]), "`channels` must hold widths of at least 1"),
        (lambda: ConvEncoder([1, 4, 4], [3], num_blocks=-1), "`num_blocks` be >= 0"),
        (lambda: ConvDecoder(2, [1, 4, 4], [3]).make_head(1, (1, 5, 4)), "The decoder makes images of"),
    ],
)
def test_conv_arguments_that_cannot_be(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


# ------------------------------------------------------------------------------------------------ what all of them must do

ENCODERS: dict[str, Callable[..., MLP | ConvEncoder]] = {
    "mlp": lambda **kw: MLP([2, 5, 7], [6, 6], residual=True, **kw),
    "gated": lambda **kw: MLP([2, 5, 7], [6], "gated", **kw),
    "conv": lambda **kw: ConvEncoder([2, 5, 7], [3, 4], features=6, **kw),
}
DECODERS: dict[str, Callable[..., MLP | ConvDecoder]] = {
    "mlp": lambda **kw: MLP(3, [6, 6], **kw),
    "conv": lambda **kw: ConvDecoder(3, [2, 5, 7], [3, 4], **kw),
}
BOTH = [*ENCODERS.items(), *DECODERS.items()]


@pytest.mark.parametrize("make", [make for _, make in BOTH])
def test_networks_keep_the_protocol(make: Callable[..., Any]) -> None:
    assert isinstance(make(), Network)


@pytest.mark.parametrize("make", DECODERS.values())
@pytest.mark.parametrize("condition_features", [0, 4])
def test_leading_axes_agree_with_a_loop(make: Callable[..., Any], condition_features: int) -> None:
    network = make(condition_features=condition_features).double()
    z = torch.randn(3, 4, 3).double()
    condition = torch.randn(4, condition_features).double() if condition_features else None
    whole = network(z, condition)
    assert whole.shape == (3, 4, *network.out_shape)
    for k in range(3):
        close(whole[k], network(z[k], condition))
        for b in range(4):
            close(whole[k, b], network(z[k, b : b + 1], None if condition is None else condition[b : b + 1])[0])


@pytest.mark.parametrize("make", ENCODERS.values())
@pytest.mark.parametrize("observe_mask", [False, True])
def test_an_example_does_not_see_the_others(make: Callable[..., Any], observe_mask: bool) -> None:
    network = make(condition_features=2, observe_mask=observe_mask).double()
    x, condition = torch.randn(5, 2, 5, 7).double(), torch.randn(5, 2).double()
    mask = torch.rand(5, 2, 5, 7) < 0.7
    whole = network(x, condition, mask)
    for b in range(5):
        close(whole[b : b + 1], network(x[b : b + 1], condition[b : b + 1], mask[b : b + 1]))
    close(network(x.flip(0), condition.flip(0), mask.flip(0)).flip(0), whole)


@pytest.mark.parametrize("make", ENCODERS.values())
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_take_the_precision_of_the_weights(make: Callable[..., Any], dtype: torch.dtype) -> None:
    network = make(input_range=[0, 255], observe_mask=True)
    x, mask = torch.randint(2, (3, 2, 5, 7)).to(dtype), torch.rand(3, 2, 5, 7) < 0.5
    assert torch.equal(network(x, mask=mask), network(x.float(), mask=mask))
    double = network.double()
    assert torch.equal(double(x, mask=mask), double(x.double(), mask=mask))


@pytest.mark.parametrize("make", ENCODERS.values())
def test_a_mask_is_zero_or_told(make: Callable[..., Any]) -> None:
    x, mask = torch.randn(3, 2, 5, 7).double(), torch.rand(3, 2, 5, 7) < 0.5
    blind, seeing = make().double(), make(observe_mask=True).double()
    close(blind(x, mask=mask), blind(x * mask))
    assert torch.equal(seeing(x, mask=torch.ones_like(mask)), seeing(x))
    assert not torch.allclose(seeing(x, mask=mask), seeing(x * mask))


@pytest.mark.parametrize(("name", "make"), BOTH)
def test_a_condition_is_used_and_its_width_checked(name: str, make: Callable[..., Any]) -> None:
    x = torch.randn(4, 3) if make in DECODERS.values() else torch.randn(4, 2, 5, 7)
    network = make(condition_features=3)
    one, other = (network(x, torch.full((4, 3), value)) for value in (0.0, 1.0))
    assert not torch.allclose(one, other)
    sentence = r"takes a condition of {} features, got {}\. Pass what it was built for"
    with pytest.raises(ConfigError, match=sentence.format(3, 2)):
        network(x, torch.zeros(4, 2))
    with pytest.raises(ConfigError, match=sentence.format(3, 0)):
        network(x)
    with pytest.raises(ConfigError, match=sentence.format(0, 3)):
        make()(x, torch.zeros(4, 3))


# -------------------------------------------------------------------------------------------------------------- conditions


def test_condition_encoder_is_a_look_up_in_order() -> None:
    encoder = ConditionEncoder({"b": 3, "a": 2}, features=4)
    codes = {"a": torch.tensor([0, 1, -1]), "b": torch.tensor([2, -1, 0]), "unused": torch.zeros(3)}
    out = encoder(codes)
    assert encoder.out_features == 8
    first, second = encoder.embeddings[0].weight, encoder.embeddings[1].weight
    assert first.shape == (4, 4)  # -1, 0, 1, 2
    assert torch.equal(out, torch.cat([first[[3, 0, 1]], second[[1, 2, 0]]], dim=1))


def test_condition_encoder_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"conditioned on label, size; size must be given"):
        ConditionEncoder({"label": 3, "size": 2})({"label": torch.tensor([0])})


@pytest.mark.parametrize("categories", [{}, {"label": 0}, {"label": 3, "size": -1}])
def test_condition_encoder_needs_categories(categories: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="`categories` must give at least one column"):
        ConditionEncoder(categories)
