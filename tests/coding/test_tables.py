import numpy as np
from scipy.special import expit, ndtr

from vaekit.coding.tables import BernoulliTable, NormalTable


def test_every_normal_is_a_table_without_empty_cells():
    table = NormalTable.build(cell_bits=8)
    rng = np.random.default_rng(0)
    mean = np.concatenate([rng.integers(-9 << 16, 9 << 16, 60), [-(10**9), 10**9, 0]])
    log_scale = np.concatenate([rng.integers(-260, 140, 60), [-256, 128, -256]])
    cells = np.arange(257)
    cumulative = np.stack(
        [table.cumulative(cells, np.full(257, m), np.full(257, s)) for m, s in zip(mean, log_scale, strict=True)]
    )
    assert (cumulative[:, 0] == 0).all()
    assert (cumulative[:, -1] == 1 << table.precision).all()
    assert np.diff(cumulative).min() >= 1


def test_the_masses_are_those_of_the_normal():
    table = NormalTable.build(cell_bits=8)
    mean, log_scale = 0.3, -1.0
    edges = table.edges / 2**16
    expected = np.diff(ndtr((edges - mean) / np.exp(log_scale)))
    cells = np.arange(1, 255)
    _, mass = table.intervals(cells, np.full(254, round(mean * 2**16)), np.full(254, int(log_scale * 32)))
    assert abs(mass / 2**28 - expected).max() < 2e-4
    assert (expected * np.log2(expected.clip(1e-30) / (mass / 2**28))).sum() < 1e-3


def test_find_is_the_inverse_of_intervals():
    table = NormalTable.build(cell_bits=8)
    rng = np.random.default_rng(1)
    slot = rng.integers(0, 1 << 28, 2000)
    mean, log_scale = rng.integers(-3 << 16, 3 << 16, 2000), rng.integers(-200, 50, 2000)
    cell, start, mass = table.find(slot, mean, log_scale)
    assert ((start <= slot) & (slot < start + mass)).all()
    again = table.intervals(cell, mean, log_scale)
    assert (again[0] == start).all()
    assert (again[1] == mass).all()


def test_bernoulli_masses_sum_and_are_the_sigmoid():
    table = BernoulliTable.build()
    logits = np.arange(-3000, 3000)
    zero, one = table.intervals(np.zeros(6000, int), logits)[1], table.intervals(np.ones(6000, int), logits)[1]
    assert (zero + one == 1 << 24).all()
    assert min(zero.min(), one.min()) >= 1
    assert abs(one / 2**24 - expit(logits / 64)).max() < 2**-22
    assert (np.diff(one) >= 0).all()
