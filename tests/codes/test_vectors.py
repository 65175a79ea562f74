"""Codebooks: by hand, at their fixed point, and beside one that collapses."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor

from codes_support import Through
from vaekit.component import call_stopped
from vaekit.distributions import CodeLayout, Quantized, centre, closed_form_kl, stopped
from vaekit.errors import ConfigError
from vaekit.likelihoods import Normal
from vaekit.networks import MLP, GridDecoder, GridEncoder, SumOfLayers
from vaekit.objectives import ELBO, IWAE, Quantization
from vaekit.posteriors import DiagonalNormal, ResidualQuantized, VectorQuantized
from vaekit.posteriors.codebook import Codebook
from vaekit.priors import StandardNormal, UniformCodes
from vaekit.vae import VAE


def through(dims: int, positions: int = 1, num_codes: int = 4, **options) -> VectorQuantized:
    options = {"decay": 0.9, "revival": 0.0, "initialization": "uniform", **options}
    return VectorQuantized(Through([positions * dims]), num_codes, dims, positions, **options).double()


# ------------------------------------------------------------------------------------------------------------------ layout


def test_layouts_are_what_they_say() -> None:
    flat, grid, deep = CodeLayout(3, 2), CodeLayout((2, 3), 2), CodeLayout((2, 3), 2, depth=4)
    z = torch.arange(6.0)
    assert flat.tokens(z).tolist() == [[0, 1], [2, 3], [4, 5]]
    image = torch.arange(12.0).reshape(2, 2, 3)  # (C, H, W)
    assert grid.tokens(image)[4].tolist() == [image[0, 1, 1], image[1, 1, 1]]
    layers = torch.arange(48.0).reshape(4, 2, 2, 3)
    assert deep.tokens(layers)[4 * 4 + 3].tolist() == [layers[3, 0, 1, 1], layers[3, 1, 1, 1]]  # position 4, layer 3
    for layout in (flat, grid, deep):
        z = torch.randn(5, 7, *layout.shape)
        assert layout.tokens(z).shape == (5, 7, layout.num_tokens, 2)
        assert torch.equal(layout.latent(layout.tokens(z)), z)


# --------------------------------------------------------------------------------------------------------------- the point


def test_nearest_is_nearest_by_brute_force() -> None:
    book = Codebook(7, 3, 0.9, 0.0, "uniform")
    with torch.no_grad():
        book.embedding.copy_(torch.randn(7, 3))
    tokens = torch.randn(4, 5, 3)
    distances = torch.stack([(tokens - vector).square().sum(-1) for vector in book.embedding], dim=-1)
    assert torch.equal(book.nearest(tokens), distances.argmin(-1))


def test_nearest_holds_far_from_the_origin_and_under_autocast() -> None:
    book = Codebook(64, 4, 0.9, 0.0, "uniform")
    vectors = torch.randn(64, 4)
    with torch.no_grad():
        book.embedding.copy_(vectors + 3000.0)
    tokens = book.embedding + 0.05 * torch.randn(64, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book.nearest(tokens), torch.arange(64))


def test_the_point_has_mass_one_and_its_kl_is_the_mass_of_its_codes() -> None:
    q_module = through(2, positions=3)
    x = torch.randn(5, 6).double()
    q = q_module(x)
    z = q.rsample((4,))
    assert torch.equal(q.log_prob(z), torch.zeros(4, 5).double())
    assert torch.isneginf(q.log_prob(z + 1e-9)).all()
    assert torch.equal(z[0], q_module.embed(q.codes))  # to the last bit: nothing of the input is left in the value
    assert torch.equal(q_module.codes_of(z)[2], q.codes)
    mean, scale = centre(q)
    assert torch.equal(mean, z[0])
    assert not scale.any()
    prior = UniformCodes(q_module.shape, 4, 3).double()
    prior.bind(q_module)
    assert closed_form_kl(q, prior()).tolist() == pytest.approx([3 * math.log(4)] * 5)


@pytest.mark.parametrize("positions", [6, (2, 3)])
def test_the_gradient_goes_straight_through(positions) -> None:
    layout = CodeLayout.of(positions, 2)
    posterior = VectorQuantized(Through(list(layout.shape)), 4, 2, positions, decay=0.9).double()
    weight = torch.randn(3, *layout.shape).double()
    x = torch.randn(5, *layout.shape).double().requires_grad_()
    z = posterior(x).rsample((3,))
    z.retain_grad()
    (weight.unsqueeze(1) * z.pow(3)).sum().backward()
    torch.testing.assert_close(x.grad, z.grad.sum(0))
    assert (z.grad.abs() > 0).all()


def test_the_gradient_of_the_sum_of_layers_goes_straight_through_once() -> None:
    posterior = ResidualQuantized(Through([3, 2, 2]), 5, 3, (2, 2), depth=4).double()
    x = torch.randn(6, 3, 2, 2).double().requires_grad_()
    total = posterior(x).rsample().sum(1)
    total.retain_grad()
    total.pow(2).sum().backward()
    torch.testing.assert_close(x.grad, total.grad)


def test_the_network_of_a_sum_sees_the_sum_of_all_layers() -> None:
    vectors, z = MLP(3, [4]), torch.randn(2, 9, 4, 3)
    torch.testing.assert_close(SumOfLayers(vectors)(z), vectors(z[:, :, 0] + z[:, :, 1] + z[:, :, 2] + z[:, :, 3]))
    grids, z = GridDecoder([2, 2, 3], [1, 3, 5], [3, 4]), torch.randn(2, 5, 3, 2, 2, 3)
    torch.testing.assert_close(SumOfLayers(grids, layer_dims=3)(z), grids(z[:, :, 0] + z[:, :, 1] + z[:, :, 2]))


def test_stopped_and_called_stopped() -> None:
    posterior = through(2, positions=3, decay=0.0)
    x = torch.randn(5, 6).double().requires_grad_()
    assert not stopped(posterior(x)).rsample().requires_grad
    call_stopped(posterior, x).rsample().sum().backward()
    assert posterior.head.scale.grad is None
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_distances_by_hand_and_whom_they_move() -> None:
    layout = CodeLayout(1, 1, depth=2)
    inputs = torch.tensor([[[1.0]]], requires_grad=True)
    vectors = torch.tensor([[[0.7], [0.2]]], requires_grad=True)
    q = Quantized(layout, inputs, vectors, torch.tensor([[0, 1]]), num_codes=2, learned=True)
    # residuals: 1, and what the first vector leaves, 0.3
    expected = (1 - 0.7) ** 2 + (0.3 - 0.2) ** 2
    assert q.commitment.item() == pytest.approx(expected)
    assert q.codebook_distance.item() == pytest.approx(expected)
    moved = torch.autograd.grad(q.commitment.sum(), inputs)[0]
    assert moved.item() == pytest.approx(2 * 0.3 + 2 * 0.1)
    assert torch.autograd.grad(q.codebook_distance.sum(), vectors)[0].flatten().tolist() == pytest.approx([-0.6, -0.2])
    assert torch.autograd.grad(q.codebook_distance.sum(), inputs, allow_unused=True)[0] is None
    assert torch.autograd.grad(q.commitment.sum(), vectors, allow_unused=True)[0] is None


def test_the_objective_is_the_bound_and_its_distances() -> None:
    posterior = through(2, positions=3, decay=0.0)
    vae = VAE(UniformCodes(6, 4, 3), posterior, Normal(MLP(6, [8]), [6])).double()
    x = torch.randn(5, 6).double()
    trace = vae(x)
    bound, plain = Quantization(0.3, 0.7)(trace), ELBO()(trace)
    codes = posterior.codes_of(trace.latents[0].z)[0]
    distance = (x.view(5, 3, 2) - posterior.codebook(codes)).square().sum((1, 2)).mean()
    torch.testing.assert_close(bound.loss, plain.loss + distance)  # 0.3 + 0.7 of the same
    torch.testing.assert_close(bound.elbo, plain.elbo)
    torch.testing.assert_close(bound.terms["commitment"], distance)
    shares = torch.bincount(codes.flatten(), minlength=4).double() / 15
    entropy = -sum(p * math.log(p) for p in shares.tolist() if p > 0)
    assert bound.terms["code_entropy"].item() == pytest.approx(entropy)
    wrapped = Quantization(0.3, 0.7, base=IWAE())(vae(x, num_samples=2))
    assert "k_sample_bound" in wrapped.terms
    torch.testing.assert_close(wrapped.loss - wrapped.terms["commitment"], -wrapped.terms["k_sample_bound"])
    gaussian = VAE(StandardNormal(2), DiagonalNormal(MLP(6, [4]), 2), Normal(MLP(2, [4]), [6])).double()
    with pytest.raises(ConfigError, match="must be given latents of codes, got Independent"):
        Quantization()(gaussian(x))


def test_the_objective_of_running_means_moves_the_network_alone() -> None:
    posterior = through(2, positions=3)
    vae = VAE(UniformCodes(6, 4, 3), posterior, Normal(MLP(6, [8]), [6])).double()
    bound = Quantization()(vae(torch.randn(5, 6).double()))
    assert bound.terms["codebook"].item() == 0.0
    assert bound.terms["commitment"].item() > 0
    assert not [name for name, _ in posterior.named_parameters() if "codebook" in name]


# ----------------------------------------------------------------------------------------------------------- running means


def test_running_means_equal_those_by_hand() -> None:
    """N and m of the paper's appendix, kept in full and in loops, with N divided by the number of tokens."""
    posterior, decay = through(2, positions=3), 0.9
    book = posterior.codebook
    counts = [1 / 4] * 4
    sums = [(vector / 4).clone() for vector in book.embedding]
    for _ in range(6):
        x = 0.3 * torch.randn(5, 6).double()
        codes = posterior(x.requires_grad_()).codes.flatten().tolist()
        tokens = x.detach().reshape(15, 2)
        vectors = torch.stack([total / count for total, count in zip(sums, counts, strict=True)])
        assert codes == [int((vectors - token).square().sum(-1).argmin()) for token in tokens]
        torch.testing.assert_close(book.embedding, vectors)
        assert book.share.tolist() == pytest.approx(counts)
        for v in range(4):
            mine = [token for token, code in zip(tokens, codes, strict=True) if code == v]
            counts[v] = decay * counts[v] + (1 - decay) * len(mine) / 15
            sums[v] = decay * sums[v] + (1 - decay) * sum(mine, torch.zeros(2).double()) / 15


def test_the_fixed_point_is_that_of_k_means() -> None:
    posterior = through(2, num_codes=6, decay=0.8, initialization="rows")
    x = torch.randn(200, 2).double()
    posterior.initialize(x)
    start = posterior(x.requires_grad_()).commitment.mean()
    for _ in range(200):
        q = posterior(x)
    x = x.detach()
    for v in range(6):
        torch.testing.assert_close(posterior.codebook.embedding[v], x[q.codes[:, 0] == v].mean(0))
    assert q.commitment.mean() < 0.95 * start


def test_k_means_starts_at_the_clusters() -> None:
    centres = 10 * torch.eye(4).double()
    x = (centres[:, None] + 0.01 * torch.randn(4, 50, 4).double()).flatten(0, 1)
    posterior = through(4, num_codes=12, initialization="kmeans")
    posterior.initialize(x)
    assert posterior(x).commitment.max() < 1.0  # of 100 between clusters
    assert posterior(x).codes.unique().numel() >= 8


def test_nothing_moves_where_nothing_is_learned() -> None:
    posterior = through(2, positions=3)
    x = torch.randn(5, 6).double()
    posterior(x), posterior(x)
    before = copy.deepcopy(posterior.state_dict())
    posterior.eval()(x)
    with torch.no_grad():
        posterior.train()(x)
    posterior.requires_grad_(False)(x)  # held as it is, as when a prior alone is fitted
    assert all(torch.equal(before[name], value) for name, value in posterior.state_dict().items())


def test_within_a_step_nothing_moves() -> None:
    """The prior reads codes off latents after the posterior has recorded its statistics: they are still the posterior's."""
    posterior = through(1, positions=8, num_codes=16, decay=0.1, revival=0.9)
    for _ in range(5):
        q = posterior(torch.randn(3, 8).double())
        assert torch.equal(posterior.codes_of(q.rsample()), q.codes)


def test_a_batch_that_is_not_finite_spoils_nothing() -> None:
    posterior = through(2, positions=3, revival=0.5)
    x = torch.randn(5, 6).double()
    posterior(x), posterior(x)
    before = posterior.codebook.embedding.clone()
    posterior(torch.full_like(x, math.nan))
    posterior(torch.full_like(x, math.nan))
    assert torch.isfinite(posterior.codebook.embedding).all()
    posterior(x), posterior(x)
    assert torch.isfinite(posterior.codebook.embedding).all()
    assert not torch.equal(posterior.codebook.embedding, before)  # it goes on


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_dead_codes_start_again_at_tokens(decay) -> None:
    posterior = through(1, positions=4, num_codes=8, decay=decay, revival=0.5)
    with torch.no_grad():
        posterior.codebook.embedding.copy_(torch.tensor([[0.0], *[[100.0 + i] for i in range(7)]]).double())
    for _ in range(120):
        q = posterior(torch.randn(64, 4).double())
    used = torch.bincount(q.codes.flatten(), minlength=8)
    assert (used > 0).sum() >= 6
    assert posterior.codebook.embedding.abs().max() < 6


# ---------------------------------------------------------------------------------------------------------------- collapse


def trained(**options) -> tuple[Tensor, float]:
    """How often each code is used, and the distortion, of a VQ-VAE of 16 well-separated clusters after 150 steps."""
    torch.manual_seed(1)
    x = (3 * torch.randn(16, 8)).repeat_interleave(16, 0) + 0.05 * torch.randn(256, 8)
    posterior = VectorQuantized(MLP(8, [32]), num_codes=64, code_dims=4, positions=1, **options)
    vae = VAE(UniformCodes(4, 64, 1), posterior, Normal(MLP(4, [32]), [8]))
    vae.initialize(x)
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    for _ in range(150):
        loss = Quantization()(vae(x[torch.randperm(256)[:64]])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trace = vae.eval()(x)
    return torch.bincount(posterior(x).codes.flatten(), minlength=64), -trace.log_likelihood.mean().item()


def test_a_codebook_collapses_without_a_start_running_means_and_revival_and_not_with_them() -> None:
    """Examples of each code, of 16 a cluster: naively, codes are shared by clusters; by default each has its own."""
    naive, naive_distortion = trained(decay=0.0, revival=0.0, initialization="uniform")
    healthy, distortion = trained()
    revived, _ = trained(initialization="uniform", decay=0.9, revival=0.3)
    said = f"naive {naive.tolist()}, default {healthy.tolist()}, revived {revived.tolist()}"
    assert (naive > 0).sum() <= 9, said
    assert (healthy > 0).sum() >= 15, said
    assert (revived > 0).sum() >= 13, said
    assert naive.max() >= 40, said
    assert distortion < naive_distortion - 1, (distortion, naive_distortion)


# ---------------------------------------------------------------------------------------------------------- residual codes


@pytest.mark.parametrize("shared", [False, True])
def test_the_error_falls_with_depth(shared) -> None:
    torch.manual_seed(1)
    posterior = ResidualQuantized(Through([4]), num_codes=16, code_dims=4, positions=1, depth=4, shared=shared).double()
    x = torch.randn(500, 4).double()
    posterior.initialize(x)
    for _ in range(30):
        q = posterior(x.requires_grad_())
    left = q.residuals - q.vectors.unflatten(-2, (-1, 4))
    errors = [x.square().sum(-1).mean().item(), *left.square().sum(-1).mean((0, 1)).tolist()]
    assert all(after < 0.9 * before for before, after in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.1 * errors[0]
    torch.testing.assert_close(left[:, 0, -1], x - q.mean.sum(1))  # the sum is what approximates
    torch.testing.assert_close(q.commitment, left.square().sum((1, 2, 3)))


def test_residual_codes_are_read_off_the_layers_and_back() -> None:
    torch.manual_seed(1)
    posterior = ResidualQuantized(Through([3, 2, 2]), 5, 3, (2, 2), depth=3)
    posterior.initialize(torch.randn(100, 3, 2, 2))
    codes = torch.randint(5, (7, 6, 12))
    z = posterior.embed(codes)
    assert z.shape == (7, 6, 3, 3, 2, 2)
    assert torch.equal(posterior.codes_of(z), codes)
    q = posterior(torch.randn(4, 3, 2, 2))
    assert torch.equal(posterior.codes_of(q.rsample((2,)))[1], q.codes)


def test_a_residual_model_through_grids_learns() -> None:
    torch.manual_seed(0)
    posterior = ResidualQuantized(GridEncoder([1, 4, 4], [8, 8]), 8, 3, (2, 2), depth=2)
    decoder = SumOfLayers(GridDecoder([3, 2, 2], [1, 4, 4], [8, 8]), layer_dims=3)
    vae = VAE(UniformCodes(posterior.shape, 8, posterior.num_tokens), posterior, Normal(decoder, [1, 4, 4]))
    assert posterior.shape == (2, 3, 2, 2)
    x = torch.randn(8, 1, 4, 4).repeat(8, 1, 1, 1)
    vae.initialize(x)
    optimizer = torch.optim.Adam(vae.parameters(), 5e-3)
    losses = []
    for _ in range(80):
        loss = Quantization()(vae(x)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 5
    mean, scale = vae.encode_flat(x)
    assert mean.shape == scale.shape == (64, vae.num_latents)
    assert vae.decode_flat(mean[None]).mean.shape == (1, 64, 1, 4, 4)


# ------------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_codes": 1}, "`num_codes` must be at least 2"),
        ({"decay": 1.0}, r"`decay` must be in \[0, 1\)"),
        ({"revival": -0.1}, r"`revival` must be in \[0, 1\)"),
        ({"initialization": "zeros"}, "`initialization` must be one of kmeans, rows, uniform"),
        ({"code_dims": 0}, "must have at least 1 number"),
        ({"positions": [2, 0]}, "`positions` must be a number or sizes of a grid"),
    ],
)
def test_arguments_that_cannot_be(options, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        VectorQuantized(MLP(3, [4]), **{"num_codes": 4, "code_dims": 2, "positions": 2, **options})


def test_a_grid_must_be_the_networks() -> None:
    with pytest.raises(ConfigError, match=r"gives a grid of \(2, 2\), got latents of the shape \(3, 4, 4\)"):
        VectorQuantized(GridEncoder([1, 4, 4], [8, 8]), 8, 3, (4, 4))
    with pytest.raises(ConfigError, match=r"must be \(C, 2, 2\) for 2 stages"):
        GridDecoder([3, 4, 4], [1, 4, 4], [8, 8])
    with pytest.raises(ConfigError, match="`commitment` and `codebook` must be >= 0"):
        Quantization(commitment=-1.0)
    with pytest.raises(ConfigError, match="`depth` must be at least 1"):
        ResidualQuantized(MLP(3, [4]), 4, 2, 2, depth=0)
