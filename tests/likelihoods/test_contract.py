"""What every likelihood of real numbers, positive ones, counts and shares keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from likelihood_cases import CASES, B, Case, K, latents, wild, without_features
from vaekit.distributions import MaskableDistribution
from vaekit.likelihoods import LogNormal, Poisson

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def element_densities(case: Case) -> tuple[torch.distributions.Distribution, Tensor, Tensor, Tensor]:
    """p, the grid (N,), its weights (N,), and the density of each element at each point, (N, K, B, 3)."""
    likelihood = wild(case.make())
    p = likelihood(latents())
    assert p.batch_shape == (K, B)
    assert p.event_shape == likelihood.shape
    grid, weights = case.grid()
    densities = []
    for at in range(3):
        x = torch.zeros(grid.numel(), 1, 1, 3, dtype=torch.float64)
        x[..., at] = grid[:, None, None]
        mask = (torch.arange(3) == at).reshape(likelihood.shape)
        densities.append(p.log_prob(x.reshape(-1, 1, 1, *likelihood.shape), mask=mask).exp().detach())
    return p, grid, weights, torch.stack(densities, dim=-1)


@cases
def test_sums_to_one_and_has_its_moments(case: Case) -> None:
    """A count is cut at 4,000: from there on the masses fall at least as a geometric series, which bounds what is left."""
    p, grid, weights, density = element_densities(case)
    w = weights[:, None, None, None]
    total = (density * w).sum(0)
    left = torch.zeros_like(total)
    if case.support == "count":
        ratio = density[-1] / density[-2].clamp_min(1e-300)
        assert (ratio < 0.997).all()
        left = density[-1] / (1 - 0.997)
        assert (left < 1e-5).all()
    kink = isinstance(p.base_dist, torch.distributions.Laplace)  # at which trapezoids are of second order
    tolerance = 1e-2 if kink else 1e-9
    assert ((total - 1).abs() <= tolerance + left).all(), total
    x = grid[:, None, None, None]
    mean = (density * w * x).sum(0)
    spread = (density * w * (x - mean).square()).sum(0)
    shape = (K, B, 3)
    torch.testing.assert_close(p.mean.reshape(shape), mean, rtol=1e-2 if kink else 1e-4, atol=1e-3 if kink else 1e-5)
    torch.testing.assert_close(p.variance.reshape(shape), spread, rtol=3e-2 if kink else 1e-3, atol=1e-3 if kink else 1e-5)


@cases
def test_samples_are_of_the_density(case: Case) -> None:
    """Kolmogorov and Smirnov's distance, to which ties of counts only add room: beyond 2.3 / sqrt(N) one time in 20,000."""
    torch.manual_seed(3)
    p, grid, weights, density = element_densities(case)
    num = 2000
    samples = p.sample((num,)).reshape(num, K, B, 3)
    assert samples.dtype == torch.float64
    if case.discrete:
        cumulative = (density * weights[:, None, None, None]).cumsum(0)
        known = cumulative
        counts = torch.stack([(samples <= value).double().mean(0) for value in grid[:60]])
        distance = (counts - known[:60]).abs().amax(0)
    else:
        mass = density * weights[:, None, None, None]
        cumulative = mass.cumsum(0) - 0.5 * mass
        at = torch.searchsorted(grid, samples.contiguous()).clamp(1, len(grid) - 1)
        share = (samples - grid[at - 1]) / (grid[at] - grid[at - 1])
        low, high = (cumulative.gather(0, index) for index in (at - 1, at))
        uniform = (low + share * (high - low)).sort(0).values
        distance = (uniform - (torch.arange(num)[:, None, None, None] + 0.5) / num).abs().amax(0)
    assert (distance < 2.3 / math.sqrt(num)).all(), distance * math.sqrt(num)  # 18 numbers for each of 35 likelihoods


@cases
def test_gradient(case: Case) -> None:
    likelihood = wild(case.make())
    x, z = case.data(B, *likelihood.shape), latents().requires_grad_()
    names, values = zip(*likelihood.named_parameters(), strict=True)

    def log_prob(z: Tensor, *parameters: Tensor) -> Tensor:
        p = torch.func.functional_call(likelihood, dict(zip(names, parameters, strict=True)), (z,))
        return p.log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (z, *values), fast_mode=True)


@cases
@pytest.mark.parametrize("junk", [math.nan, math.inf, -1.0, 1e9])
def test_what_stands_at_a_missing_element_is_not_read(case: Case, junk: float) -> None:
    likelihood = wild(case.make())
    x, z = case.data(B, *likelihood.shape), latents().requires_grad_()
    mask = torch.tensor([True, False, True]).reshape(likelihood.shape)
    p = likelihood(z)
    assert isinstance(p, MaskableDistribution)
    clean, dirty = p.log_prob(x, mask=mask), p.log_prob(torch.where(mask, x, junk), mask=mask)
    assert torch.equal(clean, dirty)
    parts = [p.log_prob(x, mask=(torch.arange(3) == i).reshape(likelihood.shape)) for i in (0, 2)]
    torch.testing.assert_close(clean, parts[0] + parts[1])
    gradients = [torch.autograd.grad(value.sum(), [z, *likelihood.parameters()], retain_graph=True) for value in (dirty, clean)]
    for a, b in zip(*gradients, strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)
    assert torch.equal(p.log_prob(x, mask=torch.zeros_like(mask)), torch.zeros(K, B).double())
    torch.testing.assert_close(p.log_prob(x, mask=torch.ones_like(mask)), p.log_prob(x))


@cases
def test_check_says_what_is_wrong_and_reads_no_missing_element(case: Case) -> None:
    likelihood = case.make()
    x = case.data(4, *likelihood.shape)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0] = False
    assert likelihood.check(x) is None
    for bad in case.bad():
        dirty = torch.where(mask, x, bad)
        assert likelihood.check(dirty, mask) is None
        sentence = likelihood.check(dirty)
        assert sentence is not None
        assert sentence.startswith("A ")
        assert " likelihood " in sentence
        assert "must have" in sentence


@cases
def test_start_does_not_read_missing_elements(case: Case) -> None:
    torch.manual_seed(5)
    first, second = case.make(), case.make()
    second.load_state_dict(first.state_dict())
    x = case.data(16, *first.shape).float()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[8:] = False
    first.initialize(x[:8])
    second.initialize(torch.where(mask, x, math.nan), mask)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for batch in (torch.full_like(x, math.nan), x[:1], x[:1].expand(8, *first.shape)):
        missing = torch.zeros_like(mask) if batch.isnan().any() else None
        second.initialize(batch, missing)
        assert all(torch.isfinite(p).all() for p in second.parameters())
        p = second(torch.randn(1, 5, 2))
        assert torch.isfinite(p.log_prob(x[:5])).all()


@cases
def test_start_has_the_moments_of_the_data(case: Case) -> None:
    """Mean and variance of what the start says of each element, against data of that very family: 5,000 of its own draws."""
    torch.manual_seed(1)
    truth = without_features(wild(case.make()))
    p = truth(torch.zeros(1, 1, 2).double())
    x = p.sample((5_000,))[:, 0, 0].detach().float()
    found = without_features(case.make())
    found.initialize(x)
    q = found(torch.zeros(1, 1, 2))
    if isinstance(found, LogNormal):  # in logs, in which the moments are those of the data
        x, mean, variance = x.log(), q.base_dist.loc[0, 0], q.base_dist.scale[0, 0].square()
    else:
        mean, variance = q.mean[0, 0], q.variance[0, 0]
    torch.testing.assert_close(mean, x.mean(0), rtol=2e-3, atol=1e-4)
    shared = "shared" in (getattr(found, name, None) for name in ("scale", "dispersion", "concentration"))
    exact = not shared and not isinstance(found, Poisson)
    assert ((variance / x.var(0)).log().abs() < (0.01 if exact else 1.0)).all(), (variance, x.var(0))


@cases
@pytest.mark.parametrize("size", [1e3, -1e3, -30.0])
def test_is_finite_at_extreme_outputs(case: Case, size: float) -> None:
    """float32, each output of the head and each parameter of the family's own far off, at data near and far."""
    likelihood = case.make()
    z = torch.randn(K, B, 2, requires_grad=True)
    far = {"real": [-1e10, 0.0, 1e10], "positive": [1e-30, 1.0, 1e30], "unit": [1e-30, 0.5, 1 - 6e-8], "count": [0.0, 1.0, 1e6]}
    support = case.support
    values = [0.0, 4.0, 8.0] if isinstance(support, int) else far[support]
    x = torch.tensor(values).reshape(likelihood.shape).expand(B, *likelihood.shape)
    own = [p for name, p in likelihood.named_parameters() if not name.startswith(("network", "head"))]
    bias = next(p for p in likelihood.head.parameters() if p.dim() == 1)
    for which in range(likelihood.num_parameters + len(own)):
        with torch.no_grad():
            rows = bias.zero_().view(likelihood.num_parameters, -1)
            for p in own:
                p.zero_()
            (rows[which] if which < len(rows) else own[which - len(rows)]).fill_(size)
        p = likelihood(z)
        log_p = p.log_prob(x)
        gradients = torch.autograd.grad(log_p.sum(), [z, *likelihood.parameters()], retain_graph=True)
        assert torch.isfinite(log_p).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        missing = p.log_prob(torch.full_like(x, math.nan), mask=torch.zeros(likelihood.shape, dtype=torch.bool))
        gradients = torch.autograd.grad(missing.sum(), [z, *likelihood.parameters()])
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert torch.isfinite(p.mean).all()
        sample = p.sample()
        assert torch.isfinite(sample).all()
        assert likelihood.check(sample.flatten(0, 1)) is None


@cases
def test_whole_numbers_of_any_dtype(case: Case) -> None:
    if case.support == "unit":
        return
    likelihood = wild(case.make())
    p = likelihood(latents())
    for dtype in (torch.uint8, torch.int64, torch.bool):
        x = torch.ones(B, *likelihood.shape, dtype=dtype)
        torch.testing.assert_close(p.log_prob(x), p.log_prob(x.double()))


@cases
def test_a_batch_is_its_rows(case: Case) -> None:
    likelihood, z = wild(case.make()), latents()
    x = case.data(B, *likelihood.shape)
    whole = likelihood(z).log_prob(x)
    rows = [likelihood(z[:, i : i + 1]).log_prob(x[i : i + 1]) for i in range(B)]
    torch.testing.assert_close(whole, torch.cat(rows, dim=1))
