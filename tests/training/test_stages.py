"""Stages that keep the latent alive: pretraining with a decoder that begins anew, and a posterior with steps of its own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from vaekit import likelihoods, networks, posteriors, priors, storage
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Standardize
from vaekit.errors import ConfigError
from vaekit.objectives import ELBO, IWAE, FactorVAE
from vaekit.training import stages
from vaekit.training.callbacks import Callback
from vaekit.training.config import TrainConfig
from vaekit.training.loop import Trainer
from vaekit.training.run import make_fabric, train
from vaekit.training.schedules import learning_rate
from vaekit.vae import VAE, HierarchicalVAE

DIMS = 4


def make_vae(prior=None, posterior=None, seed=0):
    torch.manual_seed(seed)
    return VAE(
        prior or priors.StandardNormal(2),
        posterior or posteriors.DiagonalNormal(networks.MLP(DIMS, [16], "tanh"), 2),
        likelihoods.Normal(networks.MLP(2, [16], "tanh"), [DIMS]),
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2))
    return open_data((z @ rng.normal(size=(2, DIMS)) + 0.1 * rng.normal(size=(400, DIMS))).astype("float32"))


def make_trainer(data, vae=None, objective=None, folder=None, callbacks=(), resume=False, **settings):
    settings = {"batch_size": 32, "ema": 0.0, "precision": "float32", "learning_rate_warm_up": 0, "patience": 0, **settings}
    return Trainer(
        vae or make_vae(),
        Standardize(0.0, 1.0),
        objective or ELBO(),
        TrainConfig.make(**settings),
        data.select(np.arange(300)),
        data.select(np.arange(300, 400)),
        make_fabric("cpu"),
        folder,
        callbacks,
        resume=resume,
    )


def weights(part):
    return {name: tensor.detach().clone() for name, tensor in part.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Notes(Callback):
    def __init__(self):
        self.notes, self.warnings = [], []

    def on_note(self, sentence):
        self.notes.append(sentence)

    def on_warning(self, sentence):
        self.warnings.append(sentence)


def run_to(trainer, step):
    """Makes steps until so many are done."""
    trainer._prepare()
    while trainer.progress.step < step:
        if trainer.progress.stage == stages.AUTOENCODER and trainer.progress.step >= trainer.config.pretrain:
            trainer._start_anew()
        trainer._train_step()
        trainer._after_step()


# ------------------------------------------------------------------------------------------------------------- pretraining


def test_the_first_steps_are_those_of_an_autoencoder(data):
    """Bit for bit those of a run that minimises the distortion alone."""
    pretrained = make_trainer(data, steps=50, pretrain=8, decay="constant", objective=ELBO(beta=3.0, warm_up=7))
    autoencoder = make_trainer(data, steps=50, decay="constant", objective=ELBO(beta=0.0))
    for trainer in (pretrained, autoencoder):
        run_to(trainer, 8)
    assert same(weights(pretrained.vae), weights(autoencoder.vae))
    assert pretrained.progress.stage == stages.AUTOENCODER


def test_then_the_decoder_and_a_learned_prior_begin_anew_and_the_encoder_stays(data):
    notes = Notes()
    vae = make_vae(priors.MixtureOfNormals(2, 3))
    start = weights(vae.likelihood)
    trainer = make_trainer(data, vae, steps=50, pretrain=20, ema=0.9, learning_rate=0.01, callbacks=[notes])
    run_to(trainer, 20)
    with torch.no_grad():
        for parameter in vae.prior.parameters():  # which an autoencoder leaves as they are
            parameter.add_(1.0)
    before, average = weights(vae), weights(trainer.averaged)
    trainer._start_anew()
    after = weights(vae)
    kept = [name for name in after if torch.equal(after[name], before[name])]
    assert kept == [name for name in after if name.startswith("posterior.")]
    assert all(not torch.equal(tensor, start[name]) for name, tensor in weights(vae.likelihood).items())
    assert not same(average, before)
    assert same(weights(trainer.averaged), after)
    # The moments of the encoder are kept, all others are gone.
    with_moments = {id(p) for p in trainer._inner_optimizer().state}
    assert with_moments == {id(p) for p in vae.posterior.parameters()}
    assert notes.notes == [stages.ANEW.format(step=20)]
    trainer._train_step()  # the average begins anew too: a tenth of it is what it was
    for average, fresh, live in zip(trainer.averaged.parameters(), after.values(), vae.parameters(), strict=True):
        torch.testing.assert_close(average, 0.1 * fresh + 0.9 * live)
    vae.load_state_dict(after)
    assert trainer.progress.stage == ""
    # Fresh weights are those of the constructor, in size, with the data-dependent start of the bias.
    fresh = networks.MLP(2, [16], "tanh")
    name = "network.layers.0.0.weight"
    found = dict(vae.likelihood.named_parameters())[name]
    assert found.std().item() == pytest.approx(
        dict(fresh.named_parameters())[name.removeprefix("network.")].std().item(), rel=0.5
    )
    np.testing.assert_allclose(
        vae.likelihood.head.linear.bias.detach().numpy(), data.x[:300].mean(0), atol=1e-4
    )  # 300 examples are all of them


def test_the_fresh_weights_are_a_function_of_the_seed_and_of_no_random_state(data):
    found = []
    for seed, disturb in ((0, False), (0, True), (1, False)):
        trainer = make_trainer(data, steps=50, pretrain=3, seed=seed)
        run_to(trainer, 3)
        if disturb:
            torch.rand(17)
        state = torch.get_rng_state()
        trainer._start_anew()
        assert torch.equal(torch.get_rng_state(), state)
        found.append(weights(trainer.vae.likelihood))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_the_schedules_of_the_objective_and_the_warm_up_of_the_rate_begin_with_the_second_stage(data):
    steps, rates = [], []

    class Watching(ELBO):
        def forward(self, trace, step=None):
            if step is not None:
                steps.append(step)
            return super().forward(trace, step)

    trainer = make_trainer(data, objective=Watching(), steps=20, pretrain=8, learning_rate_warm_up=5, learning_rate=0.1)
    update = trainer._update

    def noted(step, skip):
        update(step, skip)
        rates.append(trainer.optimizer.param_groups[0]["lr"])

    trainer._update = noted
    trainer.fit()
    assert steps == list(range(12))
    config = trainer.config
    assert rates == [learning_rate(config, i if i < 8 else i - 8, i / 20) for i in range(20)]
    assert rates[8] < rates[7]


def test_no_validation_of_the_first_stage_counts(data):
    seen = []

    class Record(Callback):
        def on_validation(self, progress, budget):
            seen.append((progress.step, progress.stage, progress.best_step, progress.stale, progress.validation))

    outcome = make_trainer(
        data, steps=60, pretrain=30, validate_every=5, patience=2, learning_rate=0.01, callbacks=[Record()]
    ).fit()
    first = [entry for entry in seen if entry[1]]
    assert [entry[0] for entry in first] == [5, 10, 15, 20, 25, 30]
    assert {entry[2:4] for entry in first} == {(0, 0)}
    for *_, validation in first:
        assert validation["loss"] == pytest.approx(validation["distortion"], rel=1e-6)
    later = [entry for entry in seen if not entry[1]]
    for *_, validation in later:
        assert validation["loss"] == pytest.approx(validation["distortion"] + validation["rate"], rel=1e-6)
    assert outcome.progress.best_step > 30
    assert outcome.progress.best_loss == min(entry[4]["loss"] for entry in later)


def test_pretraining_fills_a_latent_that_is_otherwise_left_empty(data):
    """A loss that hardly pays for the latent at the start, and a decoder that knows the mean: without help, nothing is said."""
    found = {}
    for pretrain in (0, 200):
        vae = make_vae()
        trainer = make_trainer(data, vae, steps=pretrain + 2, pretrain=pretrain, learning_rate=0.01, validate_every=1)
        run_to(trainer, pretrain + 1)
        found[pretrain] = trainer.progress.validation
    assert found[0]["mutual_information"] < 0.5
    assert found[200]["mutual_information"] > 2.0
    assert found[200]["active_units"] == 2


@pytest.mark.parametrize(("stop", "warned"), [(5, True), (12, True), (13, False)])
def test_a_run_that_ends_within_it_says_so(data, tmp_path, stop, warned):
    notes = Notes()
    trainer = make_trainer(data, steps=40, pretrain=12, folder=tmp_path, validate_every=2, callbacks=[notes])
    step = trainer._after_step

    def stopping():
        if trainer.progress.step == stop - 1:
            trainer.interrupt()
        step()

    trainer._after_step = stopping
    outcome = trainer.fit()
    assert outcome.progress.step == stop
    assert (outcome.warning is not None and "within its pretraining" in outcome.warning) == warned
    assert notes.warnings == ([outcome.warning] if warned else [])


# -------------------------------------------------------------------------------------------------------- aggressive steps


def test_the_posterior_moves_alone_and_then_all_else(data):
    trainer = make_trainer(data, steps=50, aggressive=3, validate_every=100)
    trainer._prepare()
    moved = []
    for _ in range(8):
        before = weights(trainer.vae)
        trainer._train_step()
        trainer.progress.step += 1
        moved.append(
            {name.split(".")[0] for name, tensor in weights(trainer.vae).items() if not torch.equal(tensor, before[name])}
        )
    assert moved == [{"posterior"}, {"posterior"}, {"posterior"}, {"likelihood"}] * 2
    counts = {
        part: {int(trainer._inner_optimizer().state[p]["step"]) for p in getattr(trainer.vae, part).parameters()}
        for part in ("posterior", "likelihood")
    }
    assert counts == {"posterior": {6}, "likelihood": {2}}


def test_a_turn_is_a_step_of_adam_on_that_part_alone(data):
    """Against the same two steps written out: weights and moments of the resting part are left alone, weight decay too."""
    trainer = make_trainer(
        data, steps=50, aggressive=1, learning_rate=0.01, decay="constant", weight_decay=0.1, clip_norm=0.5, seed=3
    )
    trainer._prepare()
    reference = make_vae()
    reference.load_state_dict(trainer.vae.state_dict())
    parts = [list(reference.posterior.parameters()), list(reference.likelihood.parameters())]
    optimizers = [torch.optim.AdamW(part, lr=0.01, weight_decay=0.1, fused=True) for part in parts]
    state = torch.get_rng_state()
    for _ in range(4):
        trainer._train_step()
        trainer.progress.step += 1
    torch.set_rng_state(state)
    for step in range(4):
        ELBO()(reference(trainer.data.batch(trainer.sampler.batch(step)).x)).loss.backward()
        torch.nn.utils.clip_grad_norm_(parts[step % 2], 0.5)
        optimizers[step % 2].step()
        reference.zero_grad()
    for (name, ours), theirs in zip(trainer.vae.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=name)


def test_conditions_and_a_learned_prior_move_with_the_decoder():
    torch.manual_seed(0)
    data = open_data(np.random.default_rng(0).normal(size=(400, DIMS)).astype("float32"), y=np.arange(400) % 3)
    vae = VAE(
        priors.MixtureOfNormals(2, 3),
        posteriors.DiagonalNormal(networks.MLP(DIMS, [8], condition_features=2), 2),
        likelihoods.Normal(networks.MLP(2, [8], condition_features=2), [DIMS]),
        networks.ConditionEncoder({"label": 3}, features=2),
    )
    turns = stages.Turns(vae, list(vae.parameters()), TrainConfig.make(steps=9, aggressive=1))
    resting = [{id(p) for p in turns.resting(step)} for step in (0, 1)]
    assert resting[1] == {id(p) for p in vae.posterior.parameters()}
    assert resting[0] == {id(p) for part in (vae.prior, vae.likelihood, vae.condition) for p in part.parameters()}
    trainer = make_trainer(data, vae, steps=4, aggressive=1)
    assert trainer.fit().progress.step == 4


def scripted(monkeypatch, values):
    """Validations whose mutual information is given."""
    given = iter(values)

    def validate(*_):
        value = next(given)
        shared = {} if value is None else {"mutual_information": value}
        return {"loss": 1.0, "elbo": -1.0, "rate": 1.0, "distortion": 0.0, "active_units": 2.0, **shared}

    monkeypatch.setattr("vaekit.training.loop.validate", validate)


@pytest.mark.parametrize(
    ("values", "last", "why"),
    [
        ([0.5, 1.0, 2.0, 1.9, 5.0], 15, r"has stopped rising \(2.00, then 1.90 nats\)"),
        ([9.0, 1.0, 1.0, 2.0, 5.0], 10, r"has stopped rising \(1.00, then 1.00 nats\)"),
        ([0.0, 1.0, None, 2.0, 5.0], 10, "cannot be measured"),
        ([0.0, 1.0, 2.0, 3.0, 4.0], None, ""),
    ],
)
def test_it_ends_when_the_mutual_information_stops_rising(data, monkeypatch, values, last, why):
    """The first of the values is that before the first step, which does not count."""
    scripted(monkeypatch, values)
    notes, stages_at = Notes(), {}

    class Record(Callback):
        def on_report(self, metrics, progress, budget):
            pass

    trainer = make_trainer(data, steps=20, aggressive=2, validate_every=5, callbacks=[notes, Record()])
    train_step = trainer._train_step

    def noted():
        stages_at[trainer.progress.step] = trainer.progress.stage
        train_step()

    trainer._train_step = noted
    trainer.fit()
    said = [note for note in notes.notes if note.startswith("The posterior's own steps have ended")]
    assert len(said) == (last is not None)
    ends = 20 if last is None else last
    assert [step for step, stage in stages_at.items() if stage] == list(range(ends))
    if said:
        import re

        assert re.search(f"at step {last}: the mutual information on held-out examples {why}", said[0])


def test_afterwards_everything_moves_at_once(data, monkeypatch):
    scripted(monkeypatch, [1.0, 1.0, 0.5] + [0.0] * 20)
    trainer = make_trainer(data, steps=30, aggressive=4, validate_every=5)
    run_to(trainer, 10)
    assert trainer.progress.stage == ""
    before = weights(trainer.vae)
    trainer._train_step()
    assert not any(torch.equal(tensor, before[name]) for name, tensor in weights(trainer.vae).items())


# ------------------------------------------------------------------------------------------------------ runs as a whole


def examples():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 3))
    return (
        np.clip(128 + 40 * (z @ rng.normal(size=(3, 36))) + 5 * rng.normal(size=(300, 36)), 0, 255)
        .astype("uint8")
        .reshape(-1, 6, 6)
    )


def staged(out, resume=False, **settings):
    torch.set_num_threads(1)
    options = {"recipe": "mlp", "latent": 3, "prior": "mixture", "steps": 160, "pretrain": 60, "aggressive": 3}
    options |= {"validate_every": 10, "patience": 0, "precision": "float32", "warm_up": 30, "cycles": 2, **settings}
    return train(examples(), out, display_as="quiet", resume=resume, **options)


def test_a_run_says_what_it_will_do_and_does_it(tmp_path):
    notes = Notes()
    bundle = staged(tmp_path / "run", steps=90, callbacks=[notes])
    for sentence in (
        "Pretraining: the first 60 steps train an autoencoder; then p(x|z) begins anew, and the schedules of the objective "
        "with it.",
        "Aggressive: 3 steps of the posterior alone before each step of all else, until the mutual information on held-out "
        "examples stops rising.",
        "Objective: elbo with warm up 30 and cycles 2, as asked.",
    ):
        assert sentence in bundle.training["reasons"]
        assert sentence in notes.notes
    assert stages.ANEW.format(step=60) in notes.notes
    assert bundle.training["best_step"] > 60
    assert (bundle.training["config"]["pretrain"], bundle.training["config"]["aggressive"]) == (60, 3)
    assert bundle.training["objective"]["cycles"] == 2
    assert bundle.metrics["validation_mutual_information"] > 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["event"] == "validation"]
    assert all("mutual_information" in line for line in validations)
    best = next(line for line in validations if line["step"] == bundle.training["best_step"])
    assert storage.load(tmp_path / "run").metrics["validation_mutual_information"] == best["mutual_information"]
    with pytest.raises(ConfigError, match="pretrain: 60 then, 50 now"):
        staged(tmp_path / "run", resume=True, pretrain=50)


def test_a_budget_that_ends_within_pretraining_is_refused_before_anything_is_done(tmp_path):
    for budget in ({"steps": 60}, {"steps": None, "epochs": 1}):
        with pytest.raises(
            ConfigError, match=r"`pretrain` must be below the [\d]+ steps of the run, of which it is a part, got 60"
        ):
            staged(tmp_path / "run", **budget)
    assert not (tmp_path / "run").exists()


def ladder():
    return HierarchicalVAE(networks.DenseLadder(DIMS, [2, 3], width=8), likelihoods.Normal(networks.Tail([8]), [DIMS]))


def frozen(part):
    vae = make_vae()
    getattr(vae, part).requires_grad_(False)
    return vae


@pytest.mark.parametrize(
    ("asked", "parts", "sentence"),
    [
        ({"pretrain": 5}, {"vae": ladder}, "`pretrain` must go with a `vae.VAE`, .* got a vae.HierarchicalVAE"),
        ({"aggressive": 5}, {"vae": ladder}, "`aggressive` must go with a `vae.VAE`"),
        (
            {"pretrain": 5},
            {"vae": lambda: make_vae(posterior=posteriors.Deterministic(networks.MLP(DIMS, [8]), 2))},
            "`pretrain` must go with a posterior that has a density, .* got a Deterministic",
        ),
        ({"pretrain": 5}, {"vae": lambda: frozen("likelihood")}, "`pretrain` must go with a Normal that is trained"),
        ({"aggressive": 5}, {"vae": lambda: frozen("posterior")}, "`aggressive` must go with a DiagonalNormal that is trained"),
        (
            {"aggressive": 1},
            {"objective": lambda: FactorVAE(networks.MLP(2, [8]))},
            "`aggressive` must go with an objective without an adversary, got FactorVAE",
        ),
        ({"pretrain": 5, "dp_epsilon": 3.0}, {}, "A private run must not have `pretrain`, got 5. Leave it out"),
        ({"pretrain": 10}, {}, "`pretrain` must be below the 10 steps of the run"),
    ],
)
def test_stages_that_make_no_sense_are_refused(data, asked, parts, sentence):
    made = {name: make() for name, make in parts.items()}
    with pytest.raises(ConfigError, match=sentence):
        make_trainer(data, **made, steps=10, **asked)


def test_other_objectives_are_pretrained_as_well(data):
    outcome = make_trainer(data, objective=IWAE(), num_samples=3, steps=20, pretrain=10, aggressive=1, validate_every=5).fit()
    assert math.isfinite(outcome.progress.best_loss)
    assert outcome.progress.best_step > 10


def test_what_is_not_trained_or_shared_with_the_posterior_stays(data):
    vae = make_vae()
    vae.likelihood.raw_scale.requires_grad_(False)
    vae.likelihood.network.shared = vae.posterior.network.layers[0][0]
    before = weights(vae)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(vae.likelihood), "initialize", lambda *_: None)  # the data-dependent start sets what is not trained
        changed = stages.start_anew(vae, torch.from_numpy(data.x[:50]), None)
    names = {name for name, p in vae.named_parameters() if id(p) in {id(c) for c in changed}}
    assert names == {name for name in before if not torch.equal(before[name], vae.state_dict()[name])}
    assert names == {
        name
        for name, _ in vae.named_parameters()
        if name.startswith("likelihood.") and "raw_scale" not in name and "shared" not in name
    }
