"""New images and vectors: counts, ends, sources, seeds, and what is written."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from small_models import image_bundle, image_data, shaken, vector_bundle, vector_data
from vaekit.data import loading
from vaekit.data.transforms import Standardize
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.around import between, by_posterior, by_ways, classes_of, nearest, pairs_within
from vaekit.jobs.augment import augment
from vaekit.jobs.encode import decode, encode
from vaekit.jobs.generate import generate
from vaekit.jobs.provenance import write_augmented
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.spaces import Factor
from vaekit.likelihoods import Normal
from vaekit.model import Model
from vaekit.networks import ConditionEncoder, DenseLadder, Tail
from vaekit.storage import Bundle
from vaekit.vae import HierarchicalVAE


def uneven(num: int = 20):
    """10 of label 0, 6 of label 1, 4 of label 2."""
    data = image_data(num)
    labels = np.array([0] * 10 + [1] * 6 + [2] * 4)
    return loading.open(data.raw(), y=np.random.default_rng(3).permutation(labels), levels=16)


def ladder(conditional: bool = False) -> Bundle:
    torch.manual_seed(2)
    condition = ConditionEncoder({"label": 3}, features=2) if conditional else None
    network = DenseLadder(5, [2, 3], width=12, condition_features=2 if conditional else 0)
    vae = shaken(HierarchicalVAE(network, Normal(Tail([12]), [5]), condition), 0.3)
    return Bundle(vae.eval(), Standardize(2.0, 3.0), vector_data().schema)


@pytest.mark.parametrize("how", ["posterior", "interpolate", "generate"])
def test_balanced_labels_are_counted_exactly(how):
    data = uneven()
    made = augment(image_bundle(conditional=True), data, balance="label", how=how)
    assert made.counts == {"0": (10, 0), "1": (6, 4), "2": (4, 6)}
    assert sorted(made.columns["label"].tolist()) == ["1"] * 4 + ["2"] * 6
    twice = augment(image_bundle(conditional=True), data, balance="label", how=how, factor=2)
    assert [int((twice.columns["label"] == name).sum()) for name in "012"] == [10, 14, 16]
    assert twice.x.shape == (40, 6, 5)
    assert twice.x.dtype == np.uint8


def test_a_factor_uses_every_example_as_often():
    made = augment(image_bundle(), uneven(), factor=3.5)
    times = np.bincount(made.provenance["source"], minlength=20)
    assert len(made.x) == 50
    assert set(times.tolist()) == {2, 3}


@pytest.mark.parametrize("bundle", [image_bundle(), image_bundle(conditional=True)])
def test_posterior_without_width_reconstructs(bundle):
    data = uneven()
    made = augment(bundle, data, how="posterior", temperature=0.0, factor=3)
    again = reconstruct(bundle, data)
    np.testing.assert_array_equal(made.x, again[made.provenance["source"]])
    assert (made.provenance["other"] == -1).all()
    assert np.isnan(made.provenance["weight"]).all()


def test_the_width_of_posterior_draws_is_that_of_the_posterior():
    """A linear decoder shows the latents: their deviations are temperature * scale."""
    bundle, data = vector_bundle(), vector_data(3)
    z: list[np.ndarray] = []
    real = bundle.vae.decode_flat

    def spy(latents, features=None):
        z.append(latents[0].numpy().copy())
        return real(latents, features)

    object.__setattr__(bundle.vae, "decode_flat", spy)
    for temperature in (1.0, 0.5):
        z.clear()
        with torch.inference_mode():
            torch.manual_seed(0)
            by_posterior(bundle, data, np.repeat([1], 2048), temperature, "mean")
        drawn, exact = np.concatenate(z), encode(bundle, data)
        np.testing.assert_allclose(drawn.mean(0), exact.mean[1], atol=5 * temperature * exact.scale[1].max() / 45)
        np.testing.assert_allclose(drawn.std(0), temperature * exact.scale[1], rtol=0.08)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_ways_begin_and_end_at_the_reconstructions(path):
    bundle, data = vector_bundle(), vector_data()
    pairs = np.array([[0, 5], [0, 5], [7, 2], [7, 2]])
    made = by_ways(bundle, data, pairs, np.array([0.0, 1.0, 0.0, 1.0]), path, "mean")
    np.testing.assert_array_equal(made.x, reconstruct(bundle, data)[[0, 5, 7, 2]])


def test_the_middle_of_a_linear_way_is_the_mean_of_the_latents():
    bundle, data = vector_bundle(), vector_data()
    made = by_ways(bundle, data, np.array([[3, 4]]), np.array([0.5]), "linear", "mean")
    mean = encode(bundle, data).mean
    np.testing.assert_allclose(made.x, decode(bundle, mean[3:4] / 2 + mean[4:5] / 2, draw="mean"), rtol=1e-4, atol=1e-5)


def test_ways_stay_in_the_space_of_the_latent():
    circle = [Factor("sphere(3)", "sphere", 0, 3)]
    a, b = torch.eye(3)[:2], torch.eye(3)[[1, 2]]
    half = between(circle, a, b, torch.full((2, 1), 0.5), "linear")
    torch.testing.assert_close(half.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(half, (a + b) / 2**0.5)
    positive = between(
        [Factor("positive", "positive", 0, 1)], torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([[3.0]]), "linear"
    )
    assert float(positive) > 0


@pytest.mark.parametrize("partners", ["neighbours", "random"])
def test_both_sources_are_of_the_class_of_what_is_made(partners):
    data = uneven()
    made = augment(image_bundle(), data, balance="label", how="interpolate", factor=3, partners=partners)
    labels = data.columns["label"].astype(str)
    source, other = made.provenance["source"], made.provenance["other"]
    np.testing.assert_array_equal(labels[source], made.columns["label"])
    np.testing.assert_array_equal(labels[other], made.columns["label"])
    assert (source != other).all()
    assert ((made.provenance["weight"] >= 0) & (made.provenance["weight"] <= 1)).all()


def test_partners_are_among_the_nearest_of_the_class():
    bundle, data = image_bundle(), image_data(60)
    pairs, _ = pairs_within(bundle, data, np.arange(60), "neighbours", np.random.default_rng(0))
    mean, classes = encode(bundle, data).mean, classes_of(data)
    for first, second in pairs:
        members = np.flatnonzero(classes == classes[first])
        order = members[np.argsort(np.linalg.norm(mean[members] - mean[first], axis=1), kind="stable")]
        assert second in order[1:6]
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert nearest(line, torch.tensor([1, 3]), 2).tolist() == [[0, 2], [2, 1]]


@pytest.mark.parametrize("how", ["posterior", "interpolate", "generate"])
def test_a_seed_gives_the_same_bytes_and_leaves_the_random_state(how):
    bundle, data = image_bundle(conditional=True), uneven()
    state = torch.get_rng_state()
    first, same, other = (augment(bundle, data, how=how, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.x.tobytes() == same.x.tobytes()
    np.testing.assert_array_equal(first.provenance["weight"], same.provenance["weight"])
    assert first.x.tobytes() != other.x.tobytes()


def test_generated_examples_are_those_of_the_label():
    bundle, data = image_bundle(conditional=True), uneven()
    made = augment(bundle, data, how="generate", temperature=1e-6)
    for label in "012":
        centre = generate(bundle, 1, where={"label": label}, temperature=1e-6).x[0]
        assert (made.x[made.columns["label"] == label] == centre).all()


def test_auto_says_what_it_chose_and_why():
    data = uneven()
    known = augment(image_bundle(conditional=True), data)
    assert (known.how, known.reason) == (
        "generate",
        "generate: the model is conditioned on `label`, so new examples are drawn from p(x|label).",
    )
    unknown = augment(image_bundle(), data)
    assert unknown.how == "posterior"
    assert "not conditioned on `label`" in unknown.reason
    assert augment(vector_bundle(), vector_data()).reason.startswith("posterior: the data have no labels")


def test_what_cannot_be_is_refused():
    bundle, data = image_bundle(), uneven()
    with pytest.raises(ConfigError, match="does not know `label`"):
        augment(bundle, data, how="generate")
    with pytest.raises(ConfigError, match="`how` must be"):
        augment(bundle, data, how="magic")
    with pytest.raises(DataError, match="must have the column `size`"):
        augment(bundle, data, balance="size")
    with pytest.raises(ConfigError, match="`factor` must be at least 1"):
        augment(bundle, data, factor=0.5)
    with pytest.raises(ConfigError, match="`temperature` must be above 0"):
        augment(image_bundle(conditional=True), data, temperature=0.0)
    with pytest.raises(ConfigError, match="`partners` must be"):
        augment(bundle, data, how="interpolate", partners="far")
    with pytest.raises(ConfigError, match="`path` must be"):
        augment(bundle, data, how="interpolate", path="crooked")
    alone = data.select([int(np.flatnonzero(data.columns["label"] == 0)[0]), *np.flatnonzero(data.columns["label"] == 1)])
    with pytest.raises(DataError, match="is alone in its own"):
        augment(bundle, alone, how="interpolate")


def test_unknown_labels_are_left_out_of_a_balance():
    data = uneven()
    data.columns["label"][:3] = -1
    made = augment(image_bundle(), data, balance="label")
    assert any("3 examples of unknown `label`" in note for note in made.notes)
    assert not set(made.provenance["source"].tolist()) & {0, 1, 2}
    between_known = augment(image_bundle(), data, how="interpolate")
    assert len(between_known.x) == 17
    assert "" not in between_known.columns["label"]


def test_balanced_data_need_nothing_more(tmp_path):
    even = image_data(30)
    made = augment(image_bundle(), even, balance="label")
    assert made.x.shape == (0, 6, 5)
    write_augmented(made, even, tmp_path / "none.npz")
    with np.load(tmp_path / "none.npz") as found:
        assert len(found["x"]) == 0


def test_arrays_are_written_with_labels_and_provenance_and_read_back(tmp_path):
    bundle, data = image_bundle(), uneven()
    made = augment(bundle, data, balance="label", how="interpolate", seed=9)
    write_augmented(made, data, tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as found:
        np.testing.assert_array_equal(found["x"], made.x)
        assert found["y"].dtype == np.int64
        np.testing.assert_array_equal(found["y"].astype(str), made.columns["label"].astype(str))
        np.testing.assert_array_equal(found["source"], made.provenance["source"])
        assert set(found["seed"].tolist()) == {9}
        assert set(found["how"].tolist()) == {"interpolate"}
    again = Model(bundle).read(tmp_path / "new.npz", "all")
    assert len(again) == len(made.x)
    with pytest.raises(DataError, match="must not exist yet"):
        write_augmented(made, data, tmp_path / "new.npz")


def test_images_are_written_in_class_folders_with_provenance(tmp_path):
    bundle, data = image_bundle(), uneven()
    made = augment(bundle, data, balance="label", how="interpolate")
    for _ in range(2):  # and replaced
        write_augmented(made, data, tmp_path / "new", force=True)
    with open(tmp_path / "new" / "provenance.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "how", "source", "other", "weight", "seed"]
    assert [row["label"] for row in rows] == [row["file"].split("/")[0] for row in rows] == made.columns["label"].tolist()
    assert [float(row["weight"]) for row in rows] == made.provenance["weight"].tolist()
    again = loading.open(tmp_path / "new")
    assert len(again) == 10
    assert again.schema.column("label").categories == ("1", "2")
    assert sorted(again.names or []) == sorted(row["file"] for row in rows)
    (tmp_path / "new" / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="nothing but PNG"):
        write_augmented(made, data, tmp_path / "new", force=True)
    with pytest.raises(ConfigError, match="OUT of new images must be"):
        write_augmented(made, data, tmp_path / "new.npy")


def test_sources_are_file_names_where_the_data_have_them(tmp_path):
    data = uneven()
    write_augmented(augment(image_bundle(), data, how="posterior"), data, tmp_path / "source")
    folder = Model(image_bundle()).read(tmp_path / "source", "all")
    made = augment(image_bundle(), folder, how="posterior")
    write_augmented(made, folder, tmp_path / "new")
    with open(tmp_path / "new" / "provenance.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert (tmp_path / "source" / row["source"]).is_file()
        assert row["source"].split("/")[0] == row["label"]
        assert row["other"] == ""


def test_of_split_data_the_training_part_is_augmented(tmp_path):
    x = image_data(20).raw()
    np.savez(tmp_path / "s.npz", x_train=x[:14], y_train=np.arange(14) % 3, x_test=x[14:], y_test=np.arange(6) % 3)
    model = Model(image_bundle())
    assert len(model.augment(tmp_path / "s.npz").x) == 14
    assert len(model.augment(tmp_path / "s.npz", split="all").x) == 20


def test_a_ladder_is_augmented_too():
    data = vector_data(6)
    cold = augment(ladder(), data, temperature=0.0, factor=2, draw="mean")
    np.testing.assert_array_equal(cold.x, reconstruct(ladder(), data))
    warm = augment(ladder(), data, factor=2, draw="mean")
    half = augment(ladder(), data, temperature=0.5, factor=2, draw="mean")
    assert warm.x.shape == (6, 5)
    assert np.abs(warm.x - cold.x).mean() > np.abs(half.x - cold.x).mean() > 0
    ways = augment(ladder(), data, how="interpolate", factor=2)
    assert (ways.provenance["other"] >= 0).all()


def test_labels_that_the_model_never_saw_are_kept(tmp_path):
    """Trained on many examples without labels; few have one."""
    data = uneven()
    bare = image_bundle()
    bundle = Bundle(bare.vae, bare.transform, bare.schema.model_copy(update={"columns": ()}))
    np.savez(tmp_path / "few.npz", x=data.raw(), y=data.columns["label"])
    model = Model(bundle)
    for source in (tmp_path / "few.npz", data, model.to_augment(data)):
        made = model.augment(source, balance="label", how="interpolate")
        assert made.counts == {"0": (10, 0), "1": (6, 4), "2": (4, 6)}
    write_augmented(augment(bundle, data), data, tmp_path / "few")
    folder = model.augment(tmp_path / "few", balance="label")
    assert folder.counts == {"0": (10, 0), "1": (6, 4), "2": (4, 6)}
    checked = model.evaluate_augmentation(tmp_path / "few.npz", image_data(30, seed=4), num_seeds=2, num_steps=2)
    assert checked.num_test == 30
