"""What is asked of a conditional model: values and ranges, edits that keep what is not named, and columns that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from condition_models import QUANTILES, Known, data
from small_models import image_bundle, image_data
from vaekit import load
from vaekit.data import loading
from vaekit.errors import ConfigError, DataError
from vaekit.jobs.conditions import asked_where, codes_of_text, codes_where, draw_codes, printed
from vaekit.jobs.edit import edit
from vaekit.jobs.encode import decode, encode, read_latents
from vaekit.jobs.generate import generate
from vaekit.model import train
from vaekit.storage import Bundle

TRAINING = {"condition_counts": {"label": [6, 1, 3], "kind": [1, 4]}, "condition_quantiles": {"angle": QUANTILES.tolist()}}


def bundle() -> tuple[Known, Bundle]:
    known = Known(numbers=True, kinds=True)
    return known, known.bundle(data(), **TRAINING)


# ----------------------------------------------------------------------------------------------------------- what is asked for


def test_values_and_ranges():
    _, made = bundle()
    assert codes_where(made, {"label": 2, "angle": "0.5"}) == {"label": 2, "angle": 0.5}
    asked = {"a": "0.2..0.5", "b": "0.2..", "c": "..0.5", "d": (0.2, 0.5), "e": "-1..-0.5", "f": "1e-1"}
    found = {name: asked_where(made, {"angle": value})["angle"] for name, value in asked.items()}
    low, high = -np.inf, np.inf
    expected = {"a": (0.2, 0.5), "b": (0.2, high), "c": (low, 0.5), "d": (0.2, 0.5), "e": (-1.0, -0.5), "f": 0.1}
    assert found == expected
    for value, sentence in (
        ("steep", "`angle` must be a finite number, such as .*; got 'steep'"),
        ("nan", "must be a finite number"),
        (float("inf"), "must be a finite number"),
        ("0.5..0.2", r"from the lesser to the greater number, got '0\.5\.\.0\.2'"),
        ("..", "from the lesser to the greater"),
    ):
        with pytest.raises(DataError, match=sentence):
            generate(made, 1, where={"angle": value})
    with pytest.raises(ConfigError, match="it is conditioned on label, kind, angle"):
        generate(made, 1, where={"hue": 0.2})
    with pytest.raises(DataError, match="`angle` must be a finite number"):
        codes_where(made, {"angle": "0.2..0.5"})  # where one number is asked for


def test_numbers_are_drawn_as_in_training():
    _, made = bundle()
    torch.manual_seed(0)
    num = 4000
    drawn = draw_codes(made, num, {})
    table = np.sort(drawn["angle"].numpy())
    exact = np.interp((np.arange(num) + 0.5) / num, np.linspace(0, 1, 101), QUANTILES)
    assert np.abs(table - exact).max() < 0.15
    torch.manual_seed(0)
    fixed = draw_codes(made, num, {"angle": (0.2, 0.6)})
    assert torch.equal(fixed["label"], drawn["label"])  # what is fixed draws as much as what is not
    within = exact[(exact >= 0.2) & (exact <= 0.6)]
    assert float(fixed["angle"].min()) >= 0.2
    assert float(fixed["angle"].max()) <= 0.6
    assert float(fixed["angle"].mean()) == pytest.approx(within.mean(), abs=0.02)
    beyond = draw_codes(made, num, {"angle": (5.0, 6.0)})["angle"]  # where training had none
    assert (float(beyond.min()) >= 5.0, float(beyond.max()) <= 6.0) == (True, True)
    assert float(beyond.mean()) == pytest.approx(5.5, abs=0.03)
    bare = Bundle(made.vae, made.transform, made.schema)  # quantiles are not known: a normal of the encoder's mean and scale
    loose = draw_codes(bare, num, {})["angle"]
    assert (float(loose.mean()), float(loose.std())) == pytest.approx((0.5, 0.9), abs=0.06)


def test_what_is_generated_is_of_what_was_asked():
    known, made = bundle()
    found = generate(made, 3000, where={"label": 1, "kind": "b", "angle": 1.5}, draw="sample")
    told = {"label": torch.tensor([1]), "kind": torch.tensor([1]), "angle": torch.tensor([1.5]).double()}
    np.testing.assert_allclose(found.x.mean(0), known.mean(told)[0], atol=0.1)
    np.testing.assert_allclose(np.cov(found.x.T), known.covariance, atol=0.15)
    assert set(found.columns["kind"]) == {"b"}
    np.testing.assert_array_equal(found.columns["angle"], 1.5)
    assert found.notes == ()
    (note,) = generate(made, 2, where={"angle": "50..60"}).notes
    assert note.startswith("`angle` was from")


def test_columns_come_back_as_they_were():
    _, made = bundle()
    dataset = data()
    encoding = encode(made, dataset)
    assert encoding.columns["angle"].dtype == np.float64
    _, codes = read_latents(made, encoding)
    for name, own in dataset.columns.items():
        np.testing.assert_array_equal(codes[name].numpy(), own)
    texts = {"angle": np.array(["", "0.5", "nan", "-1"], dtype=object)}
    np.testing.assert_array_equal(codes_of_text(made.schema, texts)["angle"], [np.nan, 0.5, np.nan, -1.0])
    with pytest.raises(DataError, match="`angle` must be a finite number"):
        codes_of_text(made.schema, {"angle": ["steep"]})
    assert printed(made.schema, {"kind": np.array([1, -1])})["kind"].tolist() == ["b", ""]
    z = encoding.mean[:2]
    assert (
        np.abs(decode(made, z, where={"angle": 2.0}, draw="mean") - decode(made, z, where={"angle": -1}, draw="mean")).max()
        > 0.1
    )


# ---------------------------------------------------------------------------------------------------------------------- edits


def expected(known: Known, columns: dict[str, np.ndarray]) -> np.ndarray:
    return known.mean({name: torch.from_numpy(values) for name, values in columns.items()}).numpy()


def test_an_edit_moves_what_is_named_by_what_it_means_and_nothing_else():
    known, made = bundle()
    dataset = data()
    own = {name: np.array(values) for name, values in dataset.columns.items()}
    at_own = edit(made, dataset, {"angle": "+0"}).x
    for values, change in (
        ({"label": 2}, {"label": np.full(12, 2)}),
        ({"angle": 1.2}, {"angle": np.full(12, 1.2)}),
        ({"angle": "=-1.2"}, {"angle": np.full(12, -1.2)}),
        ({"angle": "+0.5"}, {"angle": own["angle"] + 0.5}),
        ({"angle": "-0.5"}, {"angle": own["angle"] - 0.5}),
        ({"angle": "0.75", "kind": "a"}, {"angle": np.full(12, 0.75), "kind": np.zeros(12, np.int64)}),
    ):
        found = edit(made, dataset, values)
        moved = expected(known, {**own, **change}) - expected(known, own)
        np.testing.assert_allclose(found.x - at_own, moved, atol=1e-4)
        assert found.methods == dict.fromkeys(values, "condition")
        if "angle" in values:
            np.testing.assert_allclose(found.columns["angle"], change["angle"])
    half = edit(made, dataset, {"angle": 1.2}, strength=0.5).x
    known_angle = ~np.isnan(own["angle"])
    goal = np.where(known_angle, (own["angle"] + 1.2) / 2, 1.2)
    np.testing.assert_allclose(half - at_own, expected(known, {**own, "angle": goal}) - expected(known, own), atol=1e-4)


def test_what_an_edit_says():
    _, made = bundle()
    dataset = data()
    unknown, taken = edit(made, dataset, {"angle": "-0.25"}).notes[:2]
    assert unknown == "2 examples have no `angle` to be added to, and keep it unknown."
    assert taken == "0.25 is taken from each `angle`; write `angle==-0.25` to set it to -0.25."
    assert "what is made beyond that is a guess" in edit(made, dataset, {"angle": 99.0}).notes[0]
    with pytest.raises(ConfigError, match="`angle` is of numbers, which are set by a condition alone"):
        edit(made, dataset, {"angle": 1.0}, method="vector")
    with pytest.raises(DataError, match="`angle` must be a finite number"):
        edit(made, dataset, {"angle": "+steep"})
    plain = image_bundle()
    numbers = loading.open(image_data().raw(), y=np.linspace(0.1, 2, 30), levels=16)
    with pytest.raises(ConfigError, match="which are set by a condition alone"):
        edit(Bundle(plain.vae, plain.transform, numbers.schema), numbers, {"label": 1.0})


def pictures(num: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """A blob above or below, of a brightness, somewhere from left to right, with noise; and where it is."""
    rng = np.random.default_rng(seed)
    below, bright, place = rng.integers(0, 2, num), rng.uniform(0.5, 1.5, num), rng.uniform(1.5, 5.5, num)
    row, column = np.mgrid[:8, :8]
    distance = (row - np.where(below, 5.5, 1.5)[:, None, None]) ** 2 + (column - place[:, None, None]) ** 2
    x = bright[:, None, None] * np.exp(-distance / 3) + rng.normal(0, 0.1, (num, 8, 8))
    return x.astype(np.float32), {"way": np.where(below, "below", "above"), "bright": bright}, place


def looked_at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An independent measurement: whether the blob is below, how bright it is in all, and its centre from left to right."""
    total = x.sum((1, 2))
    below = x[:, 4:].sum((1, 2)) > total / 2
    return below, total / (3 * np.pi), (x.clip(0).sum(1) @ np.arange(8)) / x.clip(0).sum((1, 2))


def test_a_trained_model_keeps_what_is_not_named(tmp_path: Path):
    x, y, _ = pictures(1500, 0)
    hidden = np.random.default_rng(1).random(1500) < 0.2
    some = {"way": np.where(hidden, "", y["way"]), "bright": np.where(hidden[::-1], np.nan, y["bright"])}
    how = {
        "condition": ["way", "bright"],
        "likelihood": "normal",
        "latent": 2,
        "steps": 400,
        "batch_size": 100,
        "device": "cpu",
    }
    train({"x": x, **{f"y_{name}": values for name, values in some.items()}}, tmp_path / "m", display="quiet", **how)
    model = load(tmp_path / "m")
    assert model.info()["conditions"] == ["way", "bright"]
    new, own, _ = pictures(300, 5)
    given = {"x": new, **{f"y_{name}": values for name, values in own.items()}}
    below, bright, place = looked_at(np.asarray(model.reconstruct(given)))
    turned = looked_at(model.edit(given, {"way": "below"}).x)  # a category is set: the number and the place stay
    assert turned[0].mean() > 0.97
    assert np.abs(turned[1] - bright).mean() < 0.12
    assert np.abs(turned[2] - place).mean() < 0.25
    dimmed = looked_at(model.edit(given, {"bright": 0.8}).x)  # a number is set: the category and the place stay
    assert np.abs(dimmed[1] - 0.8).mean() < 0.12
    assert (dimmed[0] == below).mean() > 0.97
    assert np.abs(dimmed[2] - place).mean() < 0.25
    less = looked_at(model.edit(given, {"bright": "-0.1"}).x)
    assert (bright - less[1]).mean() == pytest.approx(0.1, abs=0.05)
    made = looked_at(np.asarray(model.generate(300, where={"way": "above", "bright": (0.9, 1.1)})))
    assert made[0].mean() < 0.05
    assert float(made[1].mean()) == pytest.approx(1.0, abs=0.15)
    found = model.predict(new, num_samples=4)
    assert (found.labels["way"] == own["way"]).mean() > 0.97
    assert np.abs(found.labels["bright"] - own["bright"]).mean() < 0.16
    assert np.corrcoef(found.labels["bright"], own["bright"])[0, 1] > 0.9
