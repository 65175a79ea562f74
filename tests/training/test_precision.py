"""Which precision is chosen, and that the choice is remembered."""

import numpy as np
import pytest
import torch

from vaekit import likelihoods, networks, posteriors, priors
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Levels
from vaekit.objectives import ELBO
from vaekit.training import precision
from vaekit.training.config import TrainConfig
from vaekit.vae import VAE

DATA = open_data(np.random.default_rng(0).integers(0, 256, size=(40, 8, 8), dtype=np.uint8))


def vae(width):
    return VAE(
        priors.StandardNormal(2),
        posteriors.DiagonalNormal(networks.MLP([1, 8, 8], [width], input_range=[0, 255]), 2),
        likelihoods.DiscretizedLogisticMixture(networks.MLP(2, [width]), [1, 8, 8], num_components=2),
    )


def choose(model, config=None):
    config = config or TrainConfig.make(steps=1, batch_size=16)
    return precision.choose_precision(config, model, Levels(), ELBO(), DATA, torch.device("cpu"))


@pytest.fixture
def speeds(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path))
    calls, answer = [], {"float32": 1.0, "bf16": 1.0}
    monkeypatch.setattr(precision, "_measure", lambda *_: calls.append(1) or answer)
    return calls, answer


@pytest.mark.parametrize(
    ("gain", "chosen"), [(0.7, "float32"), (1.1, "float32"), (1.2, "float32"), (1.31, "bf16"), (3.0, "bf16")]
)
def test_bf16_must_be_worth_it(speeds, gain, chosen):
    speeds[1]["bf16"] = gain
    config, reasons = choose(vae(600))
    assert config.precision == chosen
    assert f"{gain:.2f} times" in reasons[0]


def test_the_choice_is_remembered_for_the_same_model_and_batch(speeds):
    calls, answer = speeds
    answer["bf16"] = 2.0
    assert choose(vae(600))[0].precision == "bf16"
    answer["bf16"] = 0.5
    assert choose(vae(600))[0].precision == "bf16"
    assert len(calls) == 1
    assert choose(vae(601))[0].precision == "float32"
    assert choose(vae(600), TrainConfig.make(steps=1, batch_size=17))[0].precision == "float32"
    assert len(calls) == 3


def test_a_damaged_memory_is_measured_again(speeds, tmp_path):
    choose(vae(600))
    for content in ("{", "[1]", '{"a": "b"}'):
        (tmp_path / "precision.json").write_text(content)
        choose(vae(600))
    assert len(speeds[0]) == 4


def test_small_models_and_explicit_choices_are_not_measured(speeds):
    assert choose(vae(8))[0].precision == "float32"
    asked = TrainConfig.make(steps=1, precision="bf16")
    assert choose(vae(600), asked) == (asked, ())
    assert speeds[0] == []


def test_the_measurement_leaves_model_and_random_state_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path))
    model = vae(600)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    _, reasons = choose(model)
    assert "were measured to be" in reasons[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
