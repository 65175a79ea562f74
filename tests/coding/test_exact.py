import numpy as np
import pytest
import torch

from vaekit.coding.exact import convert
from vaekit.errors import ConfigError
from vaekit.networks import MLP


def pair(activation="silu", residual=False):
    torch.manual_seed(0)
    network = MLP(37, [24, 24], activation, residual=residual, input_range=(0, 255))
    return network, network.make_head(2, (5,))


def slow(exact, row):
    a = [int(v) for v in row]
    for layer in exact.layers:
        sums = [
            sum(int(w) * v for w, v in zip(ws, a, strict=True)) + int(b) for ws, b in zip(layer.weight, layer.bias, strict=True)
        ]
        if layer.lookup is None:
            out = [s >> layer.shift for s in sums]
        else:
            reach = len(layer.lookup.values) // 2
            out = [int(layer.lookup.values[max(-reach, min(reach, s >> layer.lookup.shift)) + reach]) for s in sums]
        a = [o + v for o, v in zip(out, a, strict=True)] if layer.residual else out
    return a


@pytest.mark.parametrize(("activation", "residual"), [("silu", True), ("relu", False), ("tanh", True), ("gelu", False)])
def test_the_exact_network_is_that_of_python_integers_and_near_the_float_one(activation, residual):
    network, head = pair(activation, residual)
    exact = convert(network, head, 255)
    x = np.random.default_rng(0).integers(0, 256, (40, 37))
    out = exact(x)
    assert [slow(exact, row) for row in x[:5]] == out[:5].tolist()
    with torch.no_grad():
        expected = head(network(torch.from_numpy(x).float())).flatten(1).numpy()
    assert abs(out / 2**16 - expected).max() < 2e-3


def test_any_order_of_summation_gives_the_same_bits_and_floats_do_not():
    network, head = pair()
    exact = convert(network, head, 255)
    rng = np.random.default_rng(1)
    a, order = rng.integers(0, 256, (64, 37)).astype(np.float64), rng.permutation(37)
    layer = exact.layers[0]
    assert np.array_equal(layer.weight[:, order] @ a[:, order].T, layer.weight @ a.T)
    w, x = network.layers[0][0].weight.detach().numpy(), (a / 255).astype(np.float32)
    forward = np.add.reduce([w[:, [j]] * x[:, j] for j in range(37)])
    other = np.add.reduce([w[:, [j]] * x[:, j] for j in order])
    assert not np.array_equal(forward, other)


def test_no_batch_size_library_or_backend_changes_a_bit():
    network, head = pair()
    exact = convert(network, head, 255)
    x = np.random.default_rng(2).integers(0, 256, (257, 37))
    whole = exact(x)
    for size in (1, 2, 3, 7, 64, 256):
        assert np.array_equal(np.concatenate([exact(x[i : i + size]) for i in range(0, 257, size)]), whole)
    w, a = torch.from_numpy(exact.layers[0].weight), torch.from_numpy(x.astype(np.float64))
    threads, expected = torch.get_num_threads(), exact.layers[0].weight @ x.T.astype(np.float64)
    try:
        for enabled in (True, False):
            for count in (1, 2):
                torch.set_num_threads(count)
                with torch.backends.mkldnn.flags(enabled=enabled, allow_tf32=None):
                    assert np.array_equal((w @ a.T).numpy(), expected)
    finally:
        torch.set_num_threads(threads)


def test_sums_that_may_round_are_refused():
    network, head = pair()
    with pytest.raises(ConfigError, match="2\\^53"):
        convert(network, head, 255, weight_bits=40)
    with pytest.raises(ConfigError, match="within"):
        convert(network, head, 255)(np.full((1, 37), 256))
    gated = MLP(3, [4], "gated")
    with pytest.raises(ConfigError, match="gated"):
        convert(gated, gated.make_head(1, (1,)), 1)
