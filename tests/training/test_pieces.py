"""The parts of a run on their own: settings, budget, learning rate, sampler, checkpoint."""

import io
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.training.test_batches import text_vae

from small_models import shaken, vector_bundle
from vaekit import objectives
from vaekit.errors import ConfigError, TrainingError
from vaekit.likelihoods import Normal
from vaekit.networks import DenseLadder, Tail
from vaekit.training import advice
from vaekit.training.callbacks import Lines, Live, MetricsFile, TensorBoard
from vaekit.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from vaekit.training.config import TrainConfig, differences
from vaekit.training.folder import read_plan
from vaekit.training.plan import _overridden
from vaekit.training.progress import Progress
from vaekit.training.sampling import Sampler
from vaekit.training.schedules import Budget, learning_rate
from vaekit.vae import HierarchicalVAE


@given(n=st.integers(1, 40), batch=st.integers(1, 25), world=st.integers(1, 4), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_every_epoch_sees_every_example_once(n, batch, world, seed):
    batch *= world
    ranks = [Sampler(n, batch, seed, rank, world) for rank in range(world)]
    steps = -(-3 * n // batch)
    stream = []
    for step in range(steps):
        parts = [sampler.batch(step) for sampler in ranks]
        assert {len(part) for part in parts} == {batch // world}
        whole = torch.empty(batch, dtype=torch.long)
        for rank, part in enumerate(parts):
            whole[rank::world] = part
        stream.append(whole)
    stream = torch.cat(stream)
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_sampler_is_a_function_of_seed_and_step():
    walked = Sampler(50, 16, seed=3)
    batches = [walked.batch(step) for step in range(20)]
    for step in (19, 3, 11):
        assert torch.equal(Sampler(50, 16, seed=3).batch(step), batches[step])
    assert not torch.equal(Sampler(50, 16, seed=4).batch(0), batches[0])
    assert not torch.equal(walked.batch(0)[:16], walked.batch(50)[:16])


def test_learning_rate_schedule():
    config = TrainConfig.make(steps=1000, learning_rate=0.1, learning_rate_warm_up=100)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.001)
    assert learning_rate(config, 99, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 500, 0.5) == pytest.approx(0.05)
    assert learning_rate(config, 1000, 1.0) == pytest.approx(0.0)
    constant = TrainConfig.make(steps=1000, learning_rate=0.1, learning_rate_warm_up=0, decay="constant")
    assert learning_rate(constant, 999, 0.999) == 0.1


def test_an_epoch_is_torchs_shuffle_in_half_the_memory():
    """The order that runs of 64-bit indices had: a resumed run goes on with the same batches."""
    sampler = Sampler(1000, 1000, seed=2)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(2 * 1_000_003))
    assert sampler.batch(0).dtype == torch.int32
    assert torch.equal(sampler.batch(0).long(), order)


def test_budgets(monkeypatch):
    monkeypatch.setattr("vaekit.training.schedules.time.monotonic", lambda: 1000.0)
    assert TrainConfig.make(epochs=2.5, batch_size=10).total_steps(100) == 25
    assert TrainConfig.make(steps=7).total_steps(100) == 7
    assert TrainConfig.make().epochs == 100
    minutes = Budget.of(TrainConfig.make(minutes=2), 100)
    assert minutes.total_steps is None
    minutes.restart_clock(60.0)
    assert minutes.progress(10**9) == 0.5
    assert minutes.seconds_left(1) == 60
    steps = Budget.of(TrainConfig.make(steps=10), 100)
    assert steps.progress(5) == 0.5


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"epochs": 1, "minutes": 2}, "A run must have one budget, got epochs and minutes. Give one"),
        ({"epochs": 0}, r"`epochs`: .*greater than 0, got 0"),
        ({"epochs": math.inf}, "`epochs`: Input should be a finite number, got inf"),
        ({"minutes": math.nan}, "`minutes`: Input should be "),
        ({"epochs": 1e308}, r"`epochs`: .*less than or equal to 1000000000000, got 1e\+308"),
        ({"steps": 10**400}, "`steps`: Input should be less than or equal to 1000000000000, got 1"),
        ({"minutes": 1e308}, r"`minutes`: .*less than or equal to 1000000000000, got 1e\+308"),
        ({"learning_rate": math.inf}, "`learning_rate`: Input should be a finite number, got inf"),
        ({"clip_norm": math.inf}, "`clip_norm`: Input should be a finite number, got inf"),
        ({"betas": (0.9, math.inf)}, "`betas`: Input should be a finite number, got inf"),
        ({"learning_rate": -1.0}, "`learning_rate`: .*greater than 0, got -1"),
        ({"ema": 1.0}, "`ema`: .*less than 1"),
        ({"batch_size": 2.5}, "`batch_size`: .*integer"),
        ({"precision": "half"}, "`precision`: .*'float32' or 'bf16'"),
        ({"learning_rates": 1.0}, "`learning_rates`: "),
    ],
)
def test_wrong_settings_give_one_sentence(wrong, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        TrainConfig.make(**wrong)
    assert "\n" not in str(caught.value)


def test_what_a_resumed_run_may_change():
    saved = {"epochs": 5, "seed": 1, "batch_size": 8}
    assert differences(saved, {"epochs": 9, "minutes": 3, "patience": 2, "checkpoint_seconds": 1, "seed": 1}) == []
    assert differences(saved, {"seed": 2}) == ["seed: 1 then, 2 now"]


STATE = {
    "progress": {"step": 3, "best_loss": "0.1"},
    "elapsed": 2.5,
    "optimizer": [{"lr": 0.1}],
    "fingerprint": "ab",
    "world_size": 1,
}


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (None, "'progress'"),
        ([], "'progress'"),
        ({**STATE, "fingerprint": None}, "'fingerprint'"),
        ({**STATE, "optimizer": {}}, "'optimizer'"),
        ({**STATE, "progress": {"step": 3}}, "'best_loss' under 'progress'"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_one_sentence(tmp_path, state, found):
    Checkpoint({"model.a": torch.zeros(1)}, state).save(tmp_path / "c.safetensors")
    with pytest.raises(TrainingError, match=rf"must be a whole checkpoint, but: its state has no {found}\. Start again"):
        Checkpoint.load(tmp_path / "c.safetensors")


def test_checkpoint_round_trip_and_atomicity(tmp_path):
    path = tmp_path / "last" / "c.safetensors"
    first = Checkpoint({"model.a": torch.arange(3.0), "random.0": torch.arange(4, dtype=torch.uint8)}, STATE)
    first.save(path)
    read = Checkpoint.load(path)
    assert read.state == STATE
    assert torch.equal(read.part("model")["a"], torch.arange(3.0))
    assert read.tensors["random.0"].dtype == torch.uint8
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(TrainingError, match="must be a whole checkpoint"):
        Checkpoint.load(path)


def test_optimizer_state_round_trip():
    def make():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, betas=(0.8, 0.99), fused=True)

    def step(layer, optimizer, x):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    inputs = torch.randn(6, 5, 4)
    layer, optimizer = make()
    for x in inputs[:3]:
        step(layer, optimizer, x)
    tensors, groups = optimizer_tensors(optimizer)
    other, restored = make()
    other.load_state_dict(layer.state_dict())
    restore_optimizer(restored, {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(groups)))
    for x in inputs[3:]:
        step(layer, optimizer, x)
        step(other, restored, x)
    assert torch.equal(layer.weight, other.weight)
    assert torch.equal(layer.bias, other.bias)


def test_metrics_file_takes_back_what_is_beyond_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 9}\n{"ste')
    MetricsFile(path).on_start(5, Budget(10, None))
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'


def test_numbers_that_are_not_finite_are_null_in_the_metrics_and_left_out_of_the_events(tmp_path, capfd):
    metrics, budget = {"elbo": math.nan, "rate": 1.5, "distortion": -math.inf}, Budget(10, None)
    file, board = MetricsFile(tmp_path / "metrics.jsonl"), TensorBoard(tmp_path)
    for listener in (file, board):
        listener.on_start(0, budget)
        listener.on_report(metrics, Progress(step=4), budget)
        listener.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line, parse_constant=pytest.fail)
    assert (record["step"], record["elbo"], record["rate"], record["distortion"]) == (4, None, 1.5, None)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"train/rate" in events.read_bytes()
    assert b"train/elbo" not in events.read_bytes()
    assert capfd.readouterr() == ("", "")


ELBO_ADVICE = "Try `--free-bits 0.1`, a warm-up (`--warm-up 2000`), or `--beta 0.5`."
NOTHING = {"rate": 0.01, "active_units": 0.0}


@pytest.mark.parametrize(
    ("objective", "advised"),
    [
        (objectives.ELBO(), ELBO_ADVICE),
        (objectives.ELBO(beta=4.0), ELBO_ADVICE),
        (objectives.ELBO(beta=0.5), ELBO_ADVICE.replace("0.5", "0.25")),
        (objectives.ELBO(warm_up=10), "Try `--free-bits 0.1`, several rises of beta (`--cycles 4`), or `--beta 0.5`."),
        (objectives.ELBO(free_bits=0.1, warm_up=10, cycles=2), "Try a larger `--free-bits`, or `--beta 0.5`."),
        (objectives.ELBO(capacity=0.05), "Try a larger `--capacity`."),
        (objectives.TotalCorrelation(), "Try a smaller `--beta`, or `--objective elbo --free-bits 0.1`."),
        (objectives.IWAE(), "Try `--objective elbo --free-bits 0.1`."),
        (objectives.DReG(), "Try `--objective elbo --free-bits 0.1`."),
        (objectives.StickingTheLanding(), "Try `--objective elbo --free-bits 0.1`."),
    ],
)
def test_advice_against_collapse_names_what_the_objective_takes(objective, advised):
    config = TrainConfig.make(steps=2000)
    assert advice.on_validation(NOTHING, objective, 1000, config)["collapse"].endswith(f"says nothing of the data. {advised}")
    assert advice.on_validation({"rate": 3.0, "active_units": 2.0}, objective, 1000, config) == {}


def test_advice_names_what_the_model_takes_and_the_run_does_not_do_yet():
    vae, text = vector_bundle().vae, text_vae()
    for asked, advised in (
        ({}, "`--free-bits 0.1`, a warm-up (`--warm-up 2000`), pretraining (`--pretrain 2000`), more steps of the posterior "
             "(`--aggressive 10`), or `--beta 0.5`."),
        ({"pretrain": 5}, "(`--warm-up 2000`), more steps of the posterior (`--aggressive 10`), or `--beta 0.5`."),
        ({"pretrain": 5, "aggressive": 5}, "Try `--free-bits 0.1`, a warm-up (`--warm-up 2000`), or `--beta 0.5`."),
        ({"dp_epsilon": 3.0}, "Try a warm-up (`--warm-up 2000`), or `--beta 0.5`."),
    ):  # fmt: skip
        config = TrainConfig.make(steps=2000, **asked)
        for model, said in ((vae, False), (text, True)):
            sentence = advice.on_validation(NOTHING, objectives.ELBO(), 1000, config, model)["collapse"]
            assert sentence.endswith(advised)
            assert ("A decoder of text can do without it." in sentence) == said
    private = TrainConfig.make(steps=2000, dp_epsilon=3.0)
    assert "`--objective elbo --warm-up 2000`" in advice.on_validation(NOTHING, objectives.IWAE(), 1000, private)["collapse"]
    ladder = shaken(HierarchicalVAE(DenseLadder(4, [2], width=4), Normal(Tail([4]), [4])))
    assert (
        "pretrain" not in advice.on_validation(NOTHING, objectives.ELBO(), 1000, TrainConfig.make(steps=9), ladder)["collapse"]
    )


@pytest.mark.parametrize(
    ("metrics", "collapsed"),
    [
        ({"rate": 5.0, "active_units": 3.0, "mutual_information": 2.0}, False),
        ({"rate": 5.0, "active_units": 3.0, "mutual_information": 0.01}, True),  # a rate without anything said
        ({"rate": 0.02, "active_units": 3.0, "mutual_information": 0.4}, True),
        ({"rate": 5.0, "active_units": 0.0}, True),
    ],
)
def test_a_latent_is_empty_by_its_rate_its_units_or_its_information(metrics, collapsed):
    said = advice.on_validation(metrics, objectives.ELBO(), 1000, TrainConfig.make(steps=2000))
    assert bool(said) == collapsed
    if collapsed and "mutual_information" in metrics:
        assert f"the mutual information {metrics['mutual_information']:.3f} nats and 3 units are active" in said["collapse"]


def test_no_advice_while_beta_still_rises_or_a_stage_has_just_begun():
    config = TrainConfig.make(steps=9000, learning_rate_warm_up=0)
    rising = objectives.ELBO(warm_up=1000, cycles=3)
    assert advice.on_validation(NOTHING, rising, 4999, config) == {}
    assert advice.on_validation(NOTHING, rising, 5000, config) != {}
    pretrained = TrainConfig.make(steps=9000, learning_rate_warm_up=0, pretrain=1000)
    assert advice.on_validation(NOTHING, objectives.ELBO(), 1199, pretrained) == {}
    assert advice.on_validation(NOTHING, objectives.ELBO(), 1200, pretrained) != {}


# ------------------------------------------------------------------------------------------------------------- the screen


VALIDATION = {
    "loss": 96.0,
    "elbo": -95.25,
    "rate": 20.5,
    "distortion": 74.75,
    "active_units": 12.0,
    "mutual_information": 6.125,
}
REPORT = {"elbo": -99.0, "rate": 19.0, "distortion": 80.0, "skipped": 0.0, "examples_per_second": 1234.0}


def test_plain_lines_tell_what_the_latent_says():
    stream = io.StringIO()
    lines, budget = Lines(every=0.0, stream=stream), Budget(10, None)
    progress = Progress(step=5)
    lines.on_report(REPORT, progress, budget)
    progress.validation = dict(VALIDATION)
    lines.on_report(REPORT, progress, budget)
    lines.on_report(REPORT, progress, budget)
    progress.best_validation, progress.best_loss, progress.best_step = VALIDATION, 96.0, 5
    progress.stopped = "budget"
    lines.on_end(progress, budget)  # what the best weights say has been told
    progress.best_validation = {**VALIDATION, "elbo": -94.0}
    lines.on_end(progress, budget)
    said = stream.getvalue().splitlines()
    held_out = "      held out: bound -95.25  rate 20.50  distortion 74.75  mutual information 6.12  active units 12"
    assert [line[:15] for line in said[2:3] + said[5:6]] == ["      held out:"] * 2
    assert said[2] == held_out
    assert said[5] == held_out.replace("-95.25", "-94.00")
    assert len(said) == 7
    assert "step 5  bound -99.00  rate 19.00  distortion 80.00  1,234 examples/s" in said[0]


def test_the_live_panel_shows_rate_information_and_units(capsys):
    live = Live()
    live.console = Console(file=io.StringIO(), width=120, force_terminal=False)
    shown = []
    live.panel.update = shown.append
    live.report = REPORT
    live.on_validation(Progress(step=5, stage="aggressive", validation=VALIDATION), Budget(10, None))
    live.console.print(shown[-1])
    text = live.console.file.getvalue()
    for word in ("mutual information", "active units", "6.12", "12", "20.50", "19.00", "1,234", "stage aggressive"):
        assert word in text
    live.on_validation(
        Progress(step=5, validation={k: v for k, v in VALIDATION.items() if k != "mutual_information"}), Budget(10, None)
    )
    assert "6.12" not in live.console.file.getvalue()[len(text) :]


ASKED = dict.fromkeys(("objective", "beta", "warm_up", "cycles", "free_bits", "free_bits_per", "capacity"))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, objectives.ELBO(free_bits=0.2, warm_up=50)),
        ({"cycles": 3}, objectives.ELBO(free_bits=0.2, warm_up=50, cycles=3)),
        ({"free_bits": 0.0}, objectives.ELBO(warm_up=50)),
        ({"beta": 0.0, "free_bits_per": "level"}, objectives.ELBO(0.0, free_bits=0.2, warm_up=50, free_bits_per="level")),
        ({"capacity": 4.0}, objectives.ELBO(warm_up=50, capacity=4.0)),
    ],
)
def test_what_is_asked_of_the_objective_changes_that_of_the_recipe(asked, expected):
    """What is not asked for stays as the recipe has it."""
    recipe = objectives.ELBO(free_bits=0.2, warm_up=50)
    assert _overridden(recipe, {**ASKED, **asked}).spec() == expected.spec()


def test_another_objective_of_a_recipe_takes_no_arguments():
    assert _overridden(objectives.IWAE(), {**ASKED, "beta": 2.0}) is None
    assert isinstance(_overridden(objectives.IWAE(), ASKED), objectives.IWAE)


SAVED = {"config": {"steps": 3}, "asked": {"settings": {}}, "model": {}, "transform": {}, "objective": {}}


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "it has no object under 'config'"),
        (json.dumps({**SAVED, "objective": None}), "it has no object under 'objective'"),
        (json.dumps({**SAVED, "asked": {}}), "it has no object under 'settings'"),
        (json.dumps({**SAVED, "config": {"steps": "many", "seed": -1}}), "`steps`: Input should be a valid integer"),
    ],
)
def test_a_run_config_that_is_none_is_one_sentence(tmp_path, saved, reason):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.json").write_text(saved)
    with pytest.raises(TrainingError, match=r"config\.json must be the config of a run, but: ") as caught:
        read_plan(tmp_path, {"settings": {}})
    assert reason in str(caught.value)
    assert str(caught.value).endswith(". Start again with `--force`.")
    assert "\n" not in str(caught.value)


def test_a_run_config_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "training" / "config.json").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"must be the config of a run, but: Is a directory\. Start again"):
        read_plan(tmp_path, {"settings": {}})
