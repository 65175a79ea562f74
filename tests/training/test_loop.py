"""The loop: what a run computes, keeps, leaves out, and stops for."""

import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from vaekit import likelihoods, networks, objectives, posteriors, priors
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Levels, Standardize
from vaekit.errors import TrainingError
from vaekit.objectives import ELBO
from vaekit.training.callbacks import Callback
from vaekit.training.checkpoint import Checkpoint
from vaekit.training.config import TrainConfig
from vaekit.training.loop import CHECKPOINT_FILE, Trainer
from vaekit.training.validation import validate
from vaekit.vae import VAE


def make_vae(dims=4, seed=0):
    torch.manual_seed(seed)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(networks.MLP(dims, [16], activation="tanh"), num_latents=2),
        likelihood=likelihoods.Normal(networks.MLP(2, [16], activation="tanh"), shape=[dims]),
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2))
    return open_data((z @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(400, 4))).astype("float32"))


def make_trainer(data, vae=None, objective=None, callbacks=(), transform=None, folder=None, **settings):
    settings = {"batch_size": 32, "ema": 0.0, "precision": "float32", "learning_rate_warm_up": 0, **settings}
    return Trainer(
        vae or make_vae(),
        transform or Standardize(0.0, 1.0),
        objective or ELBO(),
        TrainConfig.make(**settings),
        data.select(np.arange(300)),
        data.select(np.arange(300, 400)),
        Fabric(accelerator="cpu", devices=1),
        folder,
        callbacks,
    )


def test_training_raises_the_bound_and_the_same_seed_gives_the_same_weights(data):
    outcomes = [make_trainer(data, steps=300, learning_rate=5e-3).fit() for _ in range(2)]
    assert outcomes[0].progress.best_loss < 0.5 * 4 * (math.log(2 * math.pi) + 1)  # below unit noise around the mean
    for name, tensor in outcomes[0].weights.items():
        assert torch.equal(tensor, outcomes[1].weights[name]), name
    other = make_trainer(data, steps=300, learning_rate=5e-3, seed=1).fit()
    assert any(not torch.equal(t, other.weights[n]) for n, t in outcomes[0].weights.items())


def test_one_step_is_adam_on_the_bound(data):
    """The loop against the same step written out by hand."""
    trainer = make_trainer(data, steps=1, learning_rate=0.01, decay="constant", clip_norm=None, seed=5)
    reference = make_vae()
    batch = trainer.data.batch(trainer.sampler.batch(0)).x
    torch.manual_seed(5)
    first = trainer.data.batch(trainer.sampler.__class__(300, 300, 5).batch(0)).x
    reference.initialize(first)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    ELBO()(reference(batch)).loss.backward()
    optimizer.step()
    trainer.fit()
    for (name, ours), theirs in zip(trainer.vae.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_clipping_scales_the_gradient_to_the_norm(data):
    free = make_trainer(data, steps=1, learning_rate=1e3, decay="constant", clip_norm=None, epsilon=1e3)
    clipped = make_trainer(data, steps=1, learning_rate=1e3, decay="constant", clip_norm=0.1, epsilon=1e3)
    starts, moves = {}, []
    for trainer in (free, clipped):
        trainer._prepare()
        starts[id(trainer)] = {name: p.detach().clone() for name, p in trainer.vae.named_parameters()}
        trainer._train_step()
        moves.append({name: p.detach() - starts[id(trainer)][name] for name, p in trainer.vae.named_parameters()})
    # With an epsilon this large, Adam's step is proportional to the gradient.
    norm = torch.cat([move.flatten() for move in moves[0].values()]).norm()  # of the gradient: rate / epsilon is 1
    assert norm > 0.1
    for name, move in moves[0].items():
        assert torch.allclose(moves[1][name], move * (0.1 / norm), rtol=2e-2, atol=1e-5), name


class BadSteps(objectives.Objective):
    """The ELBO with an infinite loss at the given steps."""

    def __init__(self, bad: list[int]) -> None:
        super().__init__()
        self.bad = bad

    def forward(self, trace, step=None):
        bound = ELBO()(trace)
        if step is None or step not in self.bad:
            return bound
        return objectives.Bound(bound.loss * math.inf, bound.elbo, bound.rate, bound.distortion)


def test_a_step_without_a_finite_gradient_changes_nothing(data):
    good = make_trainer(data, steps=3, objective=BadSteps([]))
    bad = make_trainer(data, steps=4, objective=BadSteps([3]), decay="constant")
    also = make_trainer(data, steps=3, objective=BadSteps([]), decay="constant")
    for trainer in (good, bad, also):
        trainer.fit()
    for ours, theirs in zip(bad.vae.parameters(), also.vae.parameters(), strict=True):
        assert torch.isfinite(ours).all()
        assert torch.equal(ours, theirs)
    assert any(not torch.equal(a, b) for a, b in zip(good.vae.parameters(), also.vae.parameters(), strict=True))


def test_a_step_with_a_large_gradient_is_left_out(data):
    trainer = make_trainer(data, steps=3, skip_norm=1e-6)
    before = {name: p.clone() for name, p in make_vae().named_parameters() if not name.startswith("likelihood")}
    outcome = trainer.fit()
    for name, tensor in before.items():
        assert torch.equal(outcome.weights[name], tensor), name


def test_hopeless_divergence_is_one_sentence(data, monkeypatch):
    monkeypatch.setattr("vaekit.training.loop.REPORT_SECONDS", 0.0)
    monkeypatch.setattr("vaekit.training.loop._HOPELESS_STEPS", 1)
    trainer = make_trainer(data, steps=500, objective=BadSteps(list(range(500))))
    with pytest.raises(TrainingError, match="must give finite gradients; .* none was. Start again with a lower"):
        trainer.fit()


@pytest.mark.parametrize(("seconds", "kept"), [(1e9, "There is no checkpoint yet."), (0.0, "The last checkpoint is whole.")])
def test_divergence_says_whether_there_is_a_checkpoint(data, tmp_path, monkeypatch, seconds, kept):
    monkeypatch.setattr("vaekit.training.loop._HOPELESS_STEPS", 3)
    trainer = make_trainer(data, steps=500, objective=BadSteps(list(range(500))), folder=tmp_path, checkpoint_seconds=seconds)
    report = trainer._report

    def late():
        if trainer.progress.step == 4:
            report()

    monkeypatch.setattr("vaekit.training.loop.REPORT_SECONDS", 0.0)
    trainer._report = late
    with pytest.raises(TrainingError, match=rf"none was\. {kept} Start again"):
        trainer.fit()
    assert (tmp_path / CHECKPOINT_FILE).exists() == (seconds == 0.0)


def test_average_is_the_exponential_moving_average(data):
    history = []

    class Record(Callback):
        def on_validation(self, progress, budget):
            history.append(
                (trainer.vae.posterior.head.linear.weight.clone(), trainer.averaged.posterior.head.linear.weight.clone())
            )

    trainer = make_trainer(data, steps=6, ema=0.3, validate_every=1, callbacks=[Record()])
    start = make_vae().posterior.head.linear.weight.detach()
    trainer.fit()
    average = start
    for step, (live, ours) in enumerate(history):
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * live
        assert torch.allclose(average, ours, atol=1e-6)


def test_best_weights_are_those_of_the_least_validation_loss(data):
    losses, weights = [], []

    class Record(Callback):
        def on_validation(self, progress, budget):
            losses.append(progress.validation["loss"])
            weights.append(trainer.vae.likelihood.raw_scale.item())

    trainer = make_trainer(
        data, steps=120, learning_rate=0.3, decay="constant", validate_every=5, patience=0, callbacks=[Record()]
    )
    outcome = trainer.fit()
    best = int(np.argmin(losses))
    assert best < len(losses) - 1  # this learning rate is far too high to end at its best
    assert outcome.progress.best_step == 5 * (best + 1)
    assert outcome.progress.best_loss == losses[best]
    assert outcome.weights["likelihood.raw_scale"].item() == weights[best]
    assert outcome.progress.best_validation["loss"] == losses[best]


def test_patience_ends_the_run(data):
    trainer = make_trainer(data, steps=100_000, learning_rate=0.3, decay="constant", validate_every=5, patience=3)
    outcome = trainer.fit()
    assert outcome.progress.stopped == "patience"
    assert outcome.progress.step == outcome.progress.best_step + 15


def test_validation_is_the_bound_with_fixed_noise(data):
    vae, held_out, config = make_vae(), data.select(np.arange(100)), TrainConfig.make(steps=1, validation_samples=3, seed=9)
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    numbers = validate(vae, Standardize(0.0, 1.0), ELBO(beta=2.0, warm_up=1000), held_out, config, fabric)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        torch.manual_seed(10)
        trace = vae(held_out.batch(np.arange(100)).x, num_samples=3)
        rate = objectives.rate(trace).mean().item()
        distortion = -trace.log_likelihood.mean().item()
        means = vae.encode(held_out.batch(np.arange(100)).x).mean
    assert numbers["rate"] == pytest.approx(rate, rel=1e-5)
    assert numbers["distortion"] == pytest.approx(distortion, rel=1e-5)
    assert numbers["loss"] == pytest.approx(distortion + 2 * rate, rel=1e-5)
    assert numbers["active_units"] == int((means.var(0, unbiased=False) > 0.01).sum())
    assert validate(vae, Standardize(0.0, 1.0), ELBO(beta=2.0), held_out, config, fabric) == numbers


def test_advice_when_the_posterior_collapses(data):
    notes = []

    class Record(Callback):
        def on_note(self, sentence):
            notes.append(sentence)

    make_trainer(data, steps=250, objective=ELBO(beta=1e4), validate_every=50, callbacks=[Record()]).fit()
    assert len(notes) == 1
    assert "posterior has collapsed" in notes[0]
    assert "--free-bits" in notes[0]


def test_no_step_waits_for_the_device_or_touches_single_examples(data, monkeypatch):
    """`.item()`, `.tolist()` and the like are not called between reports, and a batch is gathered once."""
    trainer = make_trainer(data, steps=5, ema=0.9, skip_norm=100.0)
    trainer._prepare()
    gathers = []
    original = type(trainer.data).batch
    monkeypatch.setattr(
        type(trainer.data), "batch", lambda self, indices: gathers.append(len(indices)) or original(self, indices)
    )

    def refuse(*_, **__):
        raise AssertionError("a step waited for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for _ in range(3):
        trainer._train_step()
        trainer.progress.step += 1
    monkeypatch.undo()
    assert gathers == [32, 32, 32]
    assert len(trainer.window.sums) == 6


def test_bytes_stay_bytes():
    images = np.random.default_rng(0).integers(0, 256, size=(64, 5, 5), dtype=np.uint8)
    opened = open_data(images)
    assert opened.x.dtype == np.uint8
    assert opened.batch(np.arange(7)).x.dtype == torch.uint8
    assert Levels()(opened.batch(np.arange(7)).x).dtype == torch.float32


def test_the_checkpoint_holds_the_run(data, tmp_path):
    trainer = make_trainer(data, steps=4, validate_every=2, ema=0.5, folder=tmp_path, checkpoint_seconds=0.0)
    outcome = trainer.fit()
    checkpoint = Checkpoint.load(tmp_path / CHECKPOINT_FILE)
    assert checkpoint.state["progress"]["step"] == 4
    assert float(checkpoint.state["progress"]["best_loss"]) == outcome.progress.best_loss
    for part, expected in (
        ("model", trainer.vae.state_dict()),
        ("average", trainer.averaged.state_dict()),
        ("best", outcome.weights),
    ):
        found = checkpoint.part(part)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), part
    steps = [tensor.item() for name, tensor in checkpoint.part("optimizer").items() if name.endswith(".step")]
    assert steps == [4.0] * len(trainer.groups[0])


class Counting(posteriors.DiagonalNormal):
    """A posterior with a buffer that training moves, as a codebook is."""

    def __init__(self, network: networks.MLP, num_latents: int) -> None:
        super().__init__(network, num_latents)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x, condition=None, mask=None):
        if self.training:
            self.count += 1
        return super().forward(x, condition, mask)


def test_an_average_is_published_and_kept_with_the_buffers_of_now(data, tmp_path):
    vae = make_vae()
    vae.posterior = Counting(networks.MLP(4, [16]), num_latents=2)
    trainer = make_trainer(data, vae, steps=100, ema=0.9, folder=tmp_path)
    step = trainer._after_step

    def stop_at_seven():
        if trainer.progress.step == 6:
            trainer.interrupt()
        step()

    trainer._after_step = stop_at_seven
    outcome = trainer.fit()
    assert outcome.progress.step == 7  # before the first validation
    assert outcome.weights["posterior.count"] == 7
    assert Checkpoint.load(tmp_path / CHECKPOINT_FILE).part("average")["posterior.count"] == 7


def test_validation_takes_as_many_samples_as_training(data):
    seen = []

    class Watching(objectives.IWAE):
        def forward(self, trace, step=None):
            seen.append((step is None, *trace.log_likelihood.shape))
            return super().forward(trace, step)

    make_trainer(data, objective=Watching(), steps=2, num_samples=3, validate_every=2).fit()
    assert {shape[1] for shape in seen} == {3}
    assert any(shape[0] for shape in seen)


@pytest.mark.parametrize("count", [255, 256, 257, 400, 513])
def test_validation_never_leaves_a_crumb_of_a_batch(count):
    """Objectives of a batch, such as a total correlation, say nothing of a remainder of one."""
    rng, sizes = np.random.default_rng(0), []
    held_out = open_data(rng.normal(size=(count, 4)).astype("float32"))

    class Watching(ELBO):
        def forward(self, trace, step=None):
            sizes.append(len(trace.x))
            return super().forward(trace, step)

    config = TrainConfig.make(steps=1)
    validate(make_vae(), Standardize(0.0, 1.0), Watching(), held_out, config, Fabric(accelerator="cpu", devices=1))
    assert sum(sizes) == count
    assert max(sizes) <= 256
    assert max(sizes) - min(sizes) <= 1
