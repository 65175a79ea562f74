"""One loop trains an objective's own player beside the model: rates, clipping, skipping, resuming, several processes."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from vaekit import storage
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Levels, Standardize
from vaekit.likelihoods import Bernoulli, Normal
from vaekit.networks import MLP, ConvDecoder, ConvEncoder, Spectral
from vaekit.objectives import MSSSIM, RAE, VAEGAN, AdversarialAE, Bound, FactorVAE, FeatureMatching
from vaekit.posteriors import Deterministic, DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.training import precision
from vaekit.training.callbacks import Callback
from vaekit.training.checkpoint import Checkpoint
from vaekit.training.config import TrainConfig
from vaekit.training.loop import CHECKPOINT_FILE, Trainer
from vaekit.training.run import train
from vaekit.training.schedules import learning_rate
from vaekit.training.validation import validate
from vaekit.vae import VAE

DIMS = 4


def make_vae(posterior=None, seed=0):
    torch.manual_seed(seed)
    return VAE(
        StandardNormal(2),
        posterior or DiagonalNormal(MLP(DIMS, [16], "tanh"), 2),
        Normal(MLP(2, [16], "tanh"), [DIMS]),
    )


def factor_vae(**options):
    torch.manual_seed(7)
    return FactorVAE(MLP(2, [12], "tanh"), gamma=2.0, **options)


def vae_gan(**options):
    torch.manual_seed(7)
    return VAEGAN(Spectral(MLP(DIMS, [12], "leaky_relu")), gamma=0.5, **options)


def adversarial_ae(**options):
    torch.manual_seed(7)
    return AdversarialAE(MLP(2, [12], "tanh"), **options)


OBJECTIVES = {"FactorVAE": factor_vae, "AdversarialAE": adversarial_ae, "VAEGAN": vae_gan}
every_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2))
    return open_data((z @ rng.normal(size=(2, DIMS)) + 0.1 * rng.normal(size=(400, DIMS))).astype("float32"))


def make_trainer(data, objective, vae=None, folder=None, callbacks=(), resume=False, **settings):
    settings = {"batch_size": 32, "ema": 0.0, "precision": "float32", "learning_rate_warm_up": 0, "patience": 0, **settings}
    return Trainer(
        vae or make_vae(),
        Standardize(0.0, 1.0),
        objective,
        TrainConfig.make(**settings),
        data.select(np.arange(300)),
        data.select(np.arange(300, 400)),
        Fabric(accelerator="cpu", devices=1),
        folder,
        callbacks,
        resume=resume,
    )


def weights_of(*modules):
    return [p.detach().clone() for module in modules for p in module.parameters()]


def equal(some, others):
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_two_groups_with_rates_and_betas_of_their_own(data):
    objective = factor_vae(adversary_learning_rate=5e-3, adversary_betas=[0.5, 0.9])
    settings = {"learning_rate": 2e-3, "learning_rate_warm_up": 4, "betas": (0.8, 0.99), "steps": 20}
    trainer = make_trainer(data, objective, **settings)
    trainer._prepare()
    model, player = trainer.optimizer.param_groups
    assert {id(p) for p in player["params"]} == {id(p) for p in objective.adversary.parameters()}
    assert {id(p) for p in model["params"]} == {id(p) for p in trainer.vae.parameters()}
    assert (model["betas"], player["betas"]) == ((0.8, 0.99), (0.5, 0.9))
    for step in range(20):
        trainer._train_step()
        trainer.progress.step += 1
        expected = learning_rate(trainer.config, step, step / 20)
        assert model["lr"] == pytest.approx(expected)
        assert player["lr"] == pytest.approx(expected * 5e-3 / 2e-3)
    assert player["lr"] < 1e-3 * 5e-3 / 2e-3  # the schedule has come down for both
    same = make_trainer(data, adversarial_ae(), learning_rate=2e-3, steps=1)
    same._prepare()
    assert same.optimizer.param_groups[1]["share"] == 1.0


@every_objective
def test_one_step_is_adam_for_each_player_by_itself(data, make):
    """The loop against two optimisers and two backward passes, written out by hand."""
    settings = {"steps": 5, "learning_rate": 0.01, "decay": "constant", "clip_norm": None, "seed": 5}
    trainer = make_trainer(data, make(adversary_learning_rate=0.03, adversary_betas=[0.6, 0.95]), **settings)
    trainer._prepare()
    vae, objective = make_vae(), make()
    vae.load_state_dict(trainer.vae.state_dict())
    objective.load_state_dict(trainer.objective.state_dict())
    ours = torch.optim.AdamW(vae.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    theirs = torch.optim.AdamW(objective.adversary.parameters(), lr=0.03, betas=(0.6, 0.95), weight_decay=0.0, fused=True)
    state = torch.get_rng_state()
    for _ in range(5):
        trainer._train_step()
        trainer.progress.step += 1
    torch.set_rng_state(state)
    for step in range(5):
        bound = objective(vae(trainer.data.batch(trainer.sampler.batch(step)).x), step)
        bound.loss.backward(retain_graph=True, inputs=list(vae.parameters()))
        bound.adversary.backward(inputs=list(objective.adversary.parameters()))
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    pairs = ((trainer.vae, vae), (trainer.objective, objective))
    for (name, a), b in ((pair, p) for x, y in pairs for pair, p in zip(x.named_parameters(), y.parameters(), strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_each_player_is_clipped_by_its_own_norm(data):
    """With an epsilon this large, Adam's step is the clipped gradient, whose norm is the limit for both."""
    objective = adversarial_ae()
    trainer = make_trainer(
        data, objective, steps=1, learning_rate=1e3, decay="constant", epsilon=1e3, clip_norm=0.02, betas=(0.5, 0.9)
    )
    trainer._prepare()
    before = weights_of(trainer.vae), weights_of(objective.adversary)
    trainer._train_step()
    for start, module in zip(before, (trainer.vae, objective.adversary), strict=True):
        move = torch.cat([(b - a).flatten() for a, b in zip(start, weights_of(module), strict=True)]).norm()
        assert move.item() == pytest.approx(0.02, rel=1e-2)


class Spoilt(AdversarialAE):
    """A step whose loss, or whose player's loss, is not finite."""

    def __init__(self, adversary, spoil: str = "loss", at: int = 2) -> None:
        super().__init__(adversary)
        self.spoil, self.at = spoil, at

    def forward(self, trace, step=None):
        bound = super().forward(trace, step)
        if step != self.at:
            return bound
        return Bound(**{**bound.__dict__, self.spoil: getattr(bound, self.spoil) * math.inf})


@pytest.mark.parametrize("spoil", ["loss", "adversary"])
def test_a_step_that_is_no_good_leaves_both_players_untouched(data, spoil):
    torch.manual_seed(7)
    objective = Spoilt(MLP(2, [12], "tanh"), spoil)
    trainer = make_trainer(data, objective, steps=10)
    trainer._prepare()
    seen = []
    for _ in range(4):
        trainer._train_step()
        trainer.progress.step += 1
        states = [t.clone() for state in trainer.optimizer.state_dict()["state"].values() for t in state.values()]
        seen.append((weights_of(trainer.vae), weights_of(objective.adversary), states))
    for part in range(3):
        assert equal(seen[1][part], seen[2][part])
        assert not equal(seen[0][part], seen[1][part])
        assert not equal(seen[2][part], seen[3][part])
    assert all(torch.isfinite(t).all() for part in seen[3] for t in part)


def test_the_last_weights_are_kept_and_patience_does_not_apply(data):
    """The loss rises while the player learns; that is no reason to go back to where it knew nothing."""
    losses = []

    class Record(Callback):
        def on_validation(self, progress, budget):
            losses.append(progress.validation["loss"])

    objective = factor_vae(adversary_learning_rate=0.5)
    trainer = make_trainer(
        data, objective, steps=50, validate_every=5, patience=1, learning_rate=0.3, decay="constant", callbacks=[Record()]
    )
    outcome = trainer.fit()
    assert int(np.argmin(losses)) < len(losses) - 1
    assert any(losses[i] > min(losses[:i]) for i in range(1, len(losses) - 1))  # patience would have ended it there
    assert outcome.progress.stopped == "budget"
    assert outcome.progress.best_step == 50
    assert outcome.progress.best_validation["loss"] == losses[-1]
    assert all(torch.equal(outcome.weights[name], t) for name, t in trainer.vae.state_dict().items())


@every_objective
def test_validation_needs_no_gradient_and_changes_nothing(data, make):
    vae, objective = make_vae().train(), make().train()
    before = {name: t.clone() for module in (vae, objective) for name, t in module.state_dict().items()}
    config, fabric = TrainConfig.make(steps=1, validation_samples=2, seed=9), Fabric(accelerator="cpu", devices=1)
    found = validate(vae, Standardize(0.0, 1.0), objective, data, config, fabric)
    assert all(math.isfinite(value) for value in found.values())
    assert validate(vae, Standardize(0.0, 1.0), objective, data, config, fabric) == found
    after = {name: t for module in (vae, objective) for name, t in module.state_dict().items()}
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    assert vae.training
    assert objective.training
    assert all(p.grad is None for module in (vae, objective) for p in module.parameters())


@every_objective
def test_the_measurement_of_precision_runs_and_leaves_the_player_alone(data, make, monkeypatch):
    monkeypatch.setattr(precision, "_MEASURE_SECONDS", 0.0)
    vae, objective = make_vae(), make()
    before = {name: t.clone() for module in (vae, objective) for name, t in module.state_dict().items()}
    speeds = precision._measure(TrainConfig.make(steps=1), vae, Standardize(0.0, 1.0), objective, data, torch.device("cpu"))
    assert speeds["float32"] > 0
    assert speeds["bf16"] > 0
    after = {name: t for module in (vae, objective) for name, t in module.state_dict().items()}
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    assert all(p.grad is None for p in objective.parameters())


# -------------------------------------------------------------------------------------------------------------- resuming


class Killed(Exception):
    pass


@every_objective
def test_killed_and_resumed_gives_the_same_bits_of_both_players(data, make, tmp_path):
    """A run dies some steps after its last checkpoint, with everything that it held in memory."""

    class Kill(Callback):
        def on_validation(self, progress, budget):
            if progress.step == 18:
                raise Killed

    settings = {"steps": 30, "ema": 0.9, "validate_every": 6, "learning_rate": 5e-3, "precision": "float32"}
    whole = make_trainer(data, make(), folder=tmp_path / "whole", **settings)
    outcome = whole.fit()
    killed = make_trainer(data, make(), folder=tmp_path / "run", callbacks=[Kill()], checkpoint_seconds=0.0, **settings)
    original, kept = killed._checkpoint, []

    def now_and_then():
        if killed.progress.step % 7 == 0:
            original()
            kept.append(killed.progress.step)

    killed._checkpoint = now_and_then
    with pytest.raises(Killed):
        killed.fit()
    assert kept == [7, 14]
    torch.manual_seed(99)
    fresh = type(make())(MLP(2, [12], "tanh")) if make is not vae_gan else VAEGAN(Spectral(MLP(DIMS, [12], "leaky_relu")))
    objective = make()
    objective.load_state_dict(fresh.state_dict())  # other weights: what counts must come from the checkpoint
    resumed = make_trainer(data, objective, vae=make_vae(seed=5), folder=tmp_path / "run", resume=True, **settings)
    again = resumed.fit()
    for part in ("vae", "objective", "averaged"):
        ours, theirs = (getattr(trainer, part).state_dict() for trainer in (resumed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], t) for name, t in theirs.items()), part
    assert all(torch.equal(again.weights[name], t) for name, t in outcome.weights.items())
    ours, theirs = (Checkpoint.load(tmp_path / run / CHECKPOINT_FILE).tensors for run in ("run", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], t) for name, t in theirs.items())
    num_model, num_player = len(list(whole.vae.parameters())), len(list(whole.objective.adversary.parameters()))
    moments = [name for name in theirs if name.startswith("optimizer.") and name.endswith(".exp_avg")]
    assert {f"optimizer.{i}.exp_avg" for i in range(num_model, num_model + num_player)} <= set(moments)
    assert {f"objective.{name}" for name in whole.objective.state_dict()} <= set(theirs)


def images(num=120, seed=0):
    rng = np.random.default_rng(seed)
    at = rng.integers(0, 5, size=(num, 2))
    x = np.zeros((num, 8, 8), dtype=np.uint8)
    for i, (row, column) in enumerate(at):
        x[i, row : row + 3, column : column + 3] = 1
    return x


def image_vae(posterior=None):
    torch.manual_seed(3)
    return VAE(
        StandardNormal(2),
        posterior or DiagonalNormal(ConvEncoder([1, 8, 8], [4, 4], features=16), 2),
        Bernoulli(Spectral(ConvDecoder(2, [1, 8, 8], [4, 4])), [1, 8, 8]),
    )


IMAGE_OBJECTIVES = {
    "VAEGAN": lambda: VAEGAN(Spectral(ConvEncoder([1, 8, 8], [4, 4], features=16))),
    "RAE": lambda: RAE(gradient_penalty=0.1),
    "MSSSIM": lambda: MSSSIM(weight=50.0, window_size=3),
    "FeatureMatching": lambda: FeatureMatching(ConvEncoder([1, 8, 8], [4, 4]), ["stages.0"], weight=50.0),
}


@pytest.mark.parametrize("name", IMAGE_OBJECTIVES)
def test_a_run_to_a_folder_goes_on_and_is_loaded(name, tmp_path):
    """Through the front door: the objective comes back from its spec, and its weights from the checkpoint."""

    def run(out, steps, resume=False):
        parts = {"vae": image_vae(), "transform": Levels(), "objective": IMAGE_OBJECTIVES[name]()}
        settings = {"decay": "constant", "precision": "float32", "batch_size": 20, "validate_every": 4, "display_as": "quiet"}
        return train(open_data(images(), levels=2), out, steps=steps, resume=resume, **parts, **settings)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    run(tmp_path / "run", 6)
    bundle = run(tmp_path / "run", 12, resume=True)
    torch.set_rng_state(state)
    run(tmp_path / "straight", 12)
    for file in ("model.safetensors", "training/last/checkpoint.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / file), load_file(tmp_path / "straight" / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], t) for name, t in theirs.items())
    loaded = storage.load(tmp_path / "run")
    x = torch.from_numpy(images()).float().unsqueeze(1)[:5]
    assert torch.equal(loaded.vae.encode(x).mean, bundle.vae.encode(x).mean)
    z = torch.zeros(1, 5, 2)
    assert torch.equal(loaded.vae.decode(z).mean, bundle.vae.decode(z).mean)


SCRIPT = """
import os, sys, numpy as np, torch
from vaekit import likelihoods, networks, objectives, posteriors, priors
from vaekit.data.transforms import Standardize
from vaekit.posteriors.deterministic import Point
from vaekit.training.run import train
from vaekit.vae import VAE

class Still(priors.StandardNormal):
    \"\"\"A prior whose draws are all the same, so that what processes draw makes no difference.\"\"\"
    def forward(self, condition=None, temperature=1.0):
        return Point(torch.full((2,), 0.3))

torch.manual_seed(int(os.environ.get("RANK", 0)))  # processes start apart; the first one's weights count
vae = VAE(
    prior=Still(2),
    posterior=posteriors.Deterministic(networks.MLP(3, [8]), num_latents=2),
    likelihood=likelihoods.Normal(networks.MLP(2, [8]), shape=[3]),
)
objective = objectives.AdversarialAE(networks.MLP(2, [8]), adversary_learning_rate=5e-3)
x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
x[:, 2] = x[:, 0] + 0.1 * x[:, 1]
train(x, sys.argv[1], vae=vae, transform=Standardize(0.0, 1.0), objective=objective, steps=40, batch_size=16,
      precision="float32", device="cpu", validate_every=20, display_as="quiet", learning_rate_warm_up=0)
torch.save(objective.state_dict(), sys.argv[1] + "-" + os.environ.get("RANK", "one") + ".pt")
"""


@pytest.mark.slow
def test_two_processes_train_the_player_that_one_does(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(tmp_path / "script.py")
    for arguments in ([*launch, script, str(tmp_path / "two")], [sys.executable, script, str(tmp_path / "one")]):
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    players = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("two-0", "two-1", "one-one")]
    for name, tensor in players[0].items():
        assert torch.equal(players[1][name], tensor), name
        assert torch.allclose(players[2][name], tensor, atol=1e-4), name
    two, one = (load_file(tmp_path / run / "model.safetensors") for run in ("two", "one"))
    assert all(torch.allclose(two[name], tensor, atol=1e-4) for name, tensor in one.items())
    steps = [json.loads((tmp_path / run / "vaekit.json").read_text())["training"]["steps"] for run in ("two", "one")]
    assert steps == [40, 40]


# ------------------------------------------------------------------------------------------------------------- what it does


def test_an_adversarial_autoencoder_brings_its_codes_to_the_prior(data):
    """Codes of data of rank two: N(0, I) after the game; without it, whatever was convenient."""
    moments = {}
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        objective = AdversarialAE(MLP(2, [32, 32], "leaky_relu"), weight, adversary_learning_rate=5e-3)
        vae = make_vae(Deterministic(MLP(DIMS, [16], "tanh"), 2))
        trainer = make_trainer(data, objective, vae, steps=400, batch_size=100, learning_rate=5e-3, validate_every=400)
        trainer.fit()
        codes = vae.encode(torch.from_numpy(np.asarray(data.x[:300]))).mean.detach()
        moments[weight] = codes.mean(0), torch.cov(codes.T)
    off = {w: max(mean.abs().max().item(), (cov - torch.eye(2)).abs().max().item()) for w, (mean, cov) in moments.items()}
    assert off[2.0] < 0.3
    assert off[0.0] > 0.5


def test_a_vaegan_learns_to_rebuild_and_stays_in_the_game():
    torch.manual_seed(2)
    x = torch.from_numpy(images(200)).float().unsqueeze(1)
    vae, objective = image_vae(), VAEGAN(MLP([1, 8, 8], [64], "leaky_relu"), gamma=1.0, adversary_learning_rate=1e-3)
    dataset = open_data(images(200), levels=2)
    config = TrainConfig.make(
        steps=150, batch_size=50, ema=0.0, precision="float32", learning_rate=4e-3, validate_every=150, patience=0
    )
    trainer = Trainer(vae, Levels(), objective, config, dataset, dataset, Fabric(accelerator="cpu", devices=1))

    def error():
        with torch.no_grad():
            return (vae.decode(vae.encode(x).mean.unsqueeze(0)).mean[0] - x).square().mean().item()

    before = error()
    trainer.fit()
    assert error() < 0.7 * before
    with torch.no_grad():
        real = torch.sigmoid(objective.discriminator(x)).mean()
        made = torch.sigmoid(objective.discriminator(vae.decode(torch.randn(1, 200, 2)).mean)).mean()
    assert real > made  # the player has learned
    assert made > 1e-3  # and the decoder is still in the game
