import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.coding.ans import LaneCoder
from vaekit.errors import ArchiveError, ConfigError


def coded(seed, count, lanes, precision):
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, 1 << precision), 7, replace=False)) if precision > 3 else np.array([1])
    edges = np.concatenate([[0], cuts, [1 << precision]])
    mass = np.diff(edges)
    symbols = rng.choice(len(mass), count, p=mass / mass.sum())
    coder = LaneCoder(lanes)
    coder.push(edges[symbols], mass[symbols], precision)

    def find(slot, _):
        s = np.searchsorted(edges, slot, side="right") - 1
        return s, edges[s], mass[s]

    return coder, symbols, find, -np.log2(mass / mass.sum())[symbols].sum()


@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(1, 70), st.integers(1, 32).filter(lambda p: p < 18))
@settings(max_examples=60, deadline=None)
def test_what_was_pushed_is_popped_and_the_coder_is_as_before(seed, count, lanes, precision):
    coder, symbols, find, _ = coded(seed, count, lanes, precision)
    reader = LaneCoder.from_bytes(coder.to_bytes(), lanes)
    assert (reader.pop(find, count, precision) == symbols).all()
    assert reader.to_bytes() == LaneCoder(lanes).to_bytes()


def test_the_length_is_the_information_content():
    coder, _, _, bits = coded(0, 200_000, 64, 16)
    assert abs(8 * (coder.num_bytes - LaneCoder(64).num_bytes) - bits) < 0.001 * bits + 32 * 64


def test_a_pop_from_an_empty_stack_borrows_and_a_push_gives_back():
    coder = LaneCoder(3)
    before = coder.to_bytes()
    z = coder.pop(lambda slot, _: (slot, slot, np.ones_like(slot)), 100, 20)
    assert coder.borrowed > 0
    coder.push(z, np.ones_like(z), 20)
    assert coder.num_words == coder.borrowed
    assert coder.to_bytes()[:24] == before


def test_a_reader_never_borrows():
    reader = LaneCoder.from_bytes(LaneCoder(3).to_bytes(), 3)
    with pytest.raises(ArchiveError, match="ended early"):
        reader.pop(lambda slot, _: (slot, slot, np.ones_like(slot)), 100, 20)
    for broken in (b"", b"\0" * 24, LaneCoder(3).to_bytes() + b"a"):
        with pytest.raises(ArchiveError):
            LaneCoder.from_bytes(broken, 3)


@pytest.mark.parametrize(("start", "mass"), [(0, 0), (-1, 1), (4, 1), (3, 2)])
def test_an_interval_outside_is_refused(start, mass):
    with pytest.raises(ConfigError, match="mass"):
        LaneCoder(1).push(np.array([start]), np.array([mass]), 2)
