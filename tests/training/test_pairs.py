"""Neighbours beside the examples of a step: which they are, that runs use them, and that resuming changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from vaekit import recipes, storage
from vaekit.data import loading
from vaekit.data.neighbours import symmetrised
from vaekit.errors import ConfigError, DataError
from vaekit.evaluation.latents import knn_accuracy
from vaekit.model import Model
from vaekit.objectives import ELBO, Neighbours
from vaekit.training.callbacks import Callback
from vaekit.training.pairs import Pairs
from vaekit.training.run import train

QUICK = {"precision": "float32", "display_as": "none", "device": "cpu", "patience": 0}


def blobs(num=90, seed=0):
    """Three clusters of vectors, with the cluster as label."""
    rng = np.random.default_rng(seed)
    y = np.arange(num) % 3
    return (rng.normal(size=(num, 6)) + 6 * np.eye(3, 6)[y]).astype(np.float32), y


def pairs_of(num=4, batch_size=4, **ranks):
    x = np.random.default_rng(0).normal(size=(num, 2)).astype(np.float32)
    graph = symmetrised(np.array([[1, 2], [0, 3], [0, 1], [1, 0]]), np.array([[0.9, 0.2], [0.4, 0.6], [0.5, 0.1], [0.3, 0.8]]))
    return Pairs(loading.open(x), graph, batch_size, 5, **ranks)


def test_pairs_count_in_proportion_to_the_weights_of_the_graph():
    """Over the draws of many steps, how often (i, j) comes times the pair's weight is w_ij over the sum of all."""
    pairs, rows = pairs_of(), torch.arange(4)
    counts, steps = np.zeros((4, 4)), 8000
    for step in range(steps):
        counts[rows.numpy(), pairs.drawn(rows, step)] += pairs.weights
    weights = np.zeros((4, 4))
    for i in range(4):
        for edge in range(pairs.graph.starts[i], pairs.graph.starts[i + 1]):
            weights[i, pairs.graph.ends[edge]] = np.diff(pairs.graph.cumulative)[edge]
    assert counts / counts.sum() == pytest.approx(weights / weights.sum(), abs=4 / np.sqrt(4 * steps))
    assert pairs.weights.mean() == pytest.approx(1.0)


def test_draws_are_a_function_of_seed_and_step_whatever_the_number_of_processes():
    whole = pairs_of().drawn(torch.arange(4), 3)
    assert np.array_equal(whole, pairs_of().drawn(torch.arange(4), 3))
    shared = [pairs_of(rank=r, world_size=2).drawn(torch.arange(4)[r::2], 3) for r in range(2)]
    assert np.array_equal(whole, np.stack(shared, 1).ravel())
    assert not all(np.array_equal(whole, pairs_of().drawn(torch.arange(4), step)) for step in range(4, 12))
    held = pairs_of(batch_size=0)
    assert np.array_equal(held.drawn(torch.arange(4), None)[2:], held.drawn(torch.tensor([2, 3]), None))


def test_beside_are_the_neighbours_themselves():
    x, _ = blobs(30)
    made = train(loading.open(x), recipe="map", steps=1, **QUICK)
    pairs = Pairs(loading.open(x), symmetrised(np.roll(np.arange(30), -1)[:, None], np.ones((30, 1))), 30, 0)
    beside = pairs.beside(made.vae, torch.arange(30), 0, torch.device("cpu"))
    found = beside.partners(made.vae, made.transform)
    expected, _ = made.vae.encode_flat(made.transform(torch.from_numpy(x[pairs.drawn(torch.arange(30), 0)])))
    assert torch.equal(found.mean, expected)
    assert torch.equal(found.weight, torch.ones(30))


class Stop(Callback):
    """Interrupts a run at its second validation."""

    seen = 0

    def on_validation(self, progress, budget):
        self.seen += 1
        if self.seen == 2:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    torch.set_num_threads(1)
    x, _ = blobs()
    how = {"recipe": "map", "steps": 120, "validate_every": 30, "checkpoint_seconds": 0.0, "batch_size": 32, **QUICK}
    train(x, tmp_path / "whole", **how)
    with pytest.raises(KeyboardInterrupt):
        train(x, tmp_path / "parts", callbacks=[Stop()], **how)
    assert not (tmp_path / "parts" / "vaekit.json").exists()
    train(x, tmp_path / "parts", resume=True, **how)
    whole, parts = (load_file(tmp_path / name / storage.WEIGHTS_FILE) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_map_of_digits_is_better_than_principal_components():
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.uint8), y[order]
    made = Model(train(x[:1300], recipe="map", steps=500, batch_size=128, learning_rate=4e-3, **QUICK))
    seen, new = made.reduce(x[:1300]).places, made.reduce(x[1300:]).places
    flat = PCA(2).fit(x[:1300])
    linear = knn_accuracy(flat.transform(x[:1300]), y[:1300], flat.transform(x[1300:]), y[1300:])
    assert knn_accuracy(seen, y[:1300], new, y[1300:]) > linear + 0.2
    found = made.evaluate_map(x[1300:])
    assert found.trustworthiness > 0.9
    assert made.bundle.metrics["validation_neighbours"] > 0
    again = made.decode(made.reduce(x[:3]).places, draw="mean")
    assert again.shape == (3, 64)


@pytest.mark.parametrize("base", [ELBO(), ELBO(beta=0.2)])
def test_reports_keep_the_bound_of_the_base(base):
    x, _ = blobs()
    made = train(x, recipe="map", objective=Neighbours(base, num_neighbours=5), steps=20, validate_every=10, **QUICK)
    figures = {name.removeprefix("validation_"): value for name, value in made.metrics.items()}
    assert figures["elbo"] == pytest.approx(-(figures["rate"] + figures["distortion"]), rel=1e-5)
    expected = figures["distortion"] + base.beta * figures["rate"] + 100.0 * figures["neighbours"]
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)


def test_arguments_of_the_bound_reach_the_recipes_objective_and_elbo_is_the_bound_alone():
    x, _ = blobs()
    told = train(x, recipe="map", beta=0.25, steps=1, **QUICK).training["objective"]
    assert (told["type"], told["base"]["beta"], told["num_neighbours"]) == ("objectives.Neighbours", 0.25, 15)
    named = train(x, recipe="map", objective="neighbours", steps=1, **QUICK).training["objective"]
    assert named["type"] == "objectives.Neighbours"
    wide = train(x, latent=4, objective="neighbours", free_bits=0.1, steps=1, **QUICK)
    assert (wide.vae.num_latents, wide.training["objective"]["base"]["free_bits"]) == (4, 0.1)
    alone = train(x, recipe="map", objective="elbo", steps=1, **QUICK)
    assert (alone.vae.num_latents, alone.training["objective"]["type"]) == (2, "objectives.ELBO")


def test_the_weight_grows_with_the_values_of_an_example():
    flat, image = loading.open(blobs()[0]), loading.open(np.arange(40 * 784, dtype=np.uint8).reshape(40, 28, 28))
    found = [recipes.make(data, "map").objective for data in (flat, image)]
    assert [(type(each), each.weight) for each in found] == [(Neighbours, 100.0), (Neighbours, 1.5 * 784)]


def test_refusals(tmp_path):
    x, _ = blobs(30)
    with pytest.raises(DataError, match="more examples than the 50 neighbours of each, found 27"):
        train(x, tmp_path / "few", recipe="map", objective=Neighbours(num_neighbours=50), steps=1, **QUICK)
    assert not (tmp_path / "few").exists()
    with pytest.raises(ConfigError, match="found text, whose tokens have no distance"):
        train(["a cat sat", "a dog ran"] * 20, recipe="map", steps=1, **QUICK)
    with pytest.raises(ConfigError, match="must be a mean over examples, got Neighbours"):
        train(x, recipe="map", steps=5, dp_epsilon=3.0, **QUICK)
    with pytest.raises(DataError, match="no NaN"):
        train(np.where(np.arange(180).reshape(30, 6) == 7, np.nan, x), recipe="map", steps=1, **QUICK)
