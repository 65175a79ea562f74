"""Spectral normalisation: the norm, its gradient, its state, and that a network of it lives like any other."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from vaekit.component import Component, build, call_stopped, stopped_copy
from vaekit.errors import ConfigError
from vaekit.likelihoods import Bernoulli
from vaekit.networks import MLP, ConvDecoder, ConvEncoder, Spectral
from vaekit.networks.spectral import UnitNorm
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.vae import VAE

BOTH = {
    "dense": lambda: Spectral(MLP(3, [8, 6], "tanh")),
    "convolutional": lambda: Spectral(ConvEncoder([1, 4, 5], [3, 4], features=6)),
}
SHAPES = {"dense": (7, 3), "convolutional": (7, 1, 4, 5)}


def layers(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def norms(module):
    return torch.stack([torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for layer in layers(module)])


def settle(network, x, calls=60):
    for _ in range(calls):
        network(x)
    return network.eval()


@pytest.mark.parametrize("kind", BOTH)
def test_every_layer_has_norm_one_and_the_rest_is_untouched(kind):
    torch.manual_seed(1)
    network = BOTH[kind]()
    torch.manual_seed(1)
    plain = build(network.spec()["network"])
    x = torch.randn(SHAPES[kind])
    with torch.no_grad():
        settle(network, x)
        head = settle(network.make_head(2, (3,)), torch.randn(1, 6))
        torch.testing.assert_close(norms(network), torch.ones(len(layers(network))), rtol=1e-4, atol=0)
        torch.testing.assert_close(norms(head), torch.ones(1), rtol=1e-4, atol=0)
        for ours, theirs in zip(layers(network), layers(plain), strict=True):
            assert torch.equal(ours.parametrizations.weight.original, theirs.weight)
            assert torch.equal(ours.bias, theirs.bias)
            theirs.weight.div_(torch.linalg.matrix_norm(theirs.weight.flatten(1), 2))
        torch.testing.assert_close(network(x), plain(x), rtol=1e-3, atol=1e-4)
    assert head(torch.randn(5, 6)).shape == (5, 2, 3)


def test_transposed_convolutions_are_normed_by_their_outputs():
    class Up(Component):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out_shape = nn.ConvTranspose2d(2, 5, 3), (5,)

        def make_head(self, num_parameters, event_shape):
            raise NotImplementedError

        def forward(self, x, condition=None, mask=None):
            return self.layer(x)

    network = Spectral(Up())
    with torch.no_grad():
        settle(network, torch.randn(1, 2, 3, 3), 200)
    weight = network.network.layer.weight
    assert weight.shape == (2, 5, 3, 3)
    assert torch.linalg.matrix_norm(weight.movedim(1, 0).flatten(1), 2).item() == pytest.approx(1.0, rel=1e-4)


def test_no_distance_grows():
    """Through layers of norm 1 with slopes of at most 1; without the norm it does."""
    decoder = Spectral(MLP(2, [16, 16, 16], "relu")).double()
    x, y = torch.randn(2, 4000, 2, dtype=torch.float64)
    with torch.no_grad():
        settle(decoder, x[:1])
        ratio = (decoder(x) - decoder(y)).norm(dim=-1) / (x - y).norm(dim=-1)
    assert ratio.max() <= 1 + 1e-6
    plain = MLP(2, [16, 16, 16], "relu").double()
    with torch.no_grad():
        for layer in layers(plain):
            layer.weight.mul_(4.0)
        assert ((plain(x) - plain(y)).norm(dim=-1) / (x - y).norm(dim=-1)).max() > 1


def test_the_gradient_is_that_of_the_quotient():
    """Against automatic differentiation through the singular values."""
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    norm = UnitNorm(weight).train()
    for _ in range(500):
        norm(weight)
    direction = torch.randn(4, 6, dtype=torch.float64)
    found = torch.autograd.grad((norm(weight) * direction).sum(), weight)[0]
    exact = torch.autograd.grad((weight / torch.linalg.matrix_norm(weight, 2) * direction).sum(), weight)[0]
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)


def test_zeros_stay_zeros():
    weight = torch.zeros(3, 4, requires_grad=True)
    norm = UnitNorm(weight)
    out = norm(weight)
    out.sum().backward()
    assert not out.any()
    assert torch.isfinite(weight.grad).all()


def test_training_follows_the_norm_and_evaluation_does_not():
    network, x = BOTH["dense"](), torch.randn(7, 3)
    state = {name: t.clone() for name, t in network.state_dict().items()}
    network.eval()
    assert torch.equal(network(x), network(x))
    assert all(torch.equal(t, state[name]) for name, t in network.state_dict().items())
    network.train()
    network(x)
    moved = {name for name, t in network.state_dict().items() if not torch.equal(t, state[name])}
    assert moved
    assert all(name.endswith((".u", ".v")) for name in moved)


def test_one_step_a_call_however_often_a_weight_is_looked_at(monkeypatch):
    """`ConvEncoder` asks for its stem's dtype before it uses it."""
    steps = []
    original = UnitNorm._step
    monkeypatch.setattr(UnitNorm, "_step", lambda self, matrix: steps.append(id(self)) or original(self, matrix))
    network = BOTH["convolutional"]()
    steps.clear()
    network(torch.randn(2, 1, 4, 5))
    assert len(steps) == len(set(steps)) == len(layers(network))


@pytest.mark.parametrize("kind", BOTH)
def test_copies_and_saved_weights_give_the_same_numbers(kind, tmp_path):
    network, x = BOTH[kind](), torch.randn(SHAPES[kind])
    network(x)
    network.eval()
    expected = network(x)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(x), expected)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, tmp_path / "weights.safetensors")
    again = build(network.spec())
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(again.eval()(x), expected)
    with torch.device("meta"):
        outline = build(network.spec())
    assert {n: t.shape for n, t in outline.state_dict().items()} == {n: t.shape for n, t in network.state_dict().items()}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("kind", BOTH)
def test_stopped_calls_have_gradients_by_the_input_only(kind):
    network = BOTH[kind]().eval()
    x = torch.randn(SHAPES[kind], requires_grad=True)
    expected = network(x)
    (by_input,) = torch.autograd.grad(expected.sum(), x)
    for out in (call_stopped(network, x), stopped_copy(network)(x)):
        torch.testing.assert_close(out, expected)
        found = torch.autograd.grad(out.sum(), [x, *network.parameters()], allow_unused=True)
        torch.testing.assert_close(found[0], by_input)
        assert all(g is None for g in found[1:])


def test_a_vae_of_it_trains_in_reduced_precision_and_starts_from_data():
    shape = [1, 4, 5]
    vae = VAE(
        StandardNormal(2),
        DiagonalNormal(Spectral(ConvEncoder(shape, [3], features=4)), 2),
        Bernoulli(Spectral(ConvDecoder(2, shape, [3])), shape),
    )
    x = (torch.rand(64, *shape) < 0.2).float()
    vae.initialize(x)
    assert vae.likelihood.head.conv.bias.item() == pytest.approx(torch.logit(x.mean()).item(), abs=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        trace = vae(x)
        second = vae.decode(trace.latents[0].z)  # twice in a step: the second call may not spoil the first one's gradient
        loss = -trace.log_likelihood.mean() - second.log_prob(x).mean()
        layer = vae.eval().likelihood.network.network.start
        reduced = layer.weight
    assert torch.equal(reduced, layer.weight)  # the norm itself is taken in full precision
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


def test_it_is_not_put_on_twice():
    inner = Spectral(MLP(3, [4]))
    outer = Spectral(inner)
    assert all(len(layer.parametrizations.weight) == 1 for layer in layers(outer) if parametrize.is_parametrized(layer))
    assert len(layers(outer)) == 1


def test_what_cannot_be_normed():
    class Still(Component):
        def __init__(self) -> None:
            super().__init__()
            self.out_shape = (3,)

        def make_head(self, num_parameters, event_shape):
            raise NotImplementedError

        def forward(self, x, condition=None, mask=None):
            return x

    with pytest.raises(ConfigError, match="found none in a Still"):
        Spectral(Still())
    with pytest.raises(ConfigError, match="The `network` of a Spectral must be a network"):
        Spectral(StandardNormal(2))
