"""Training with differential privacy: the gradient of a step, the account, and what a run leaves behind."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from tests.training.test_loop import make_trainer
from torch import nn

from vaekit import likelihoods, networks, objectives, posteriors, priors, recipes, storage
from vaekit.cli.about import about
from vaekit.data.loading import open as open_data
from vaekit.data.transforms import Standardize
from vaekit.errors import ConfigError, TrainingError
from vaekit.model import Model
from vaekit.objectives import ELBO
from vaekit.storage import described_privacy
from vaekit.training.callbacks import Callback
from vaekit.training.config import TrainConfig
from vaekit.training.loop import Step
from vaekit.training.plan import make_plan
from vaekit.training.private import Account, Private, check_processes, clip_weights
from vaekit.training.refit import refit_prior
from vaekit.training.run import train
from vaekit.vae import VAE

NUM, DIMS = 40, 4


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return open_data((rng.normal(size=(NUM, 2)) @ rng.normal(size=(2, DIMS)) * 3).astype("float32"))


def deterministic(seed=0):
    """An autoencoder that draws nothing, so that gradients can be compared one by one."""
    torch.manual_seed(seed)
    return VAE(
        priors.StandardNormal(2),
        posteriors.Deterministic(networks.MLP(DIMS, [8]), num_latents=2),
        likelihoods.Normal(networks.MLP(2, [8]), shape=[DIMS]),
    )


def settings(**changes):
    return TrainConfig.make(**{"steps": 100, "batch_size": 8, "dp_epsilon": 3.0, "dp_delta": 1e-5, **changes})


def make_private(data, vae=None, objective=None, transform=None, hide=0.0, **changes):
    config = settings(**changes)
    parts = (vae or deterministic(), transform or Standardize(0.0, 1.0), objective or objectives.RAE())
    step = Step(*parts, config.num_samples, len(data), hide).train()
    account = Account(1.2, config.batch_size / len(data), 1e-5, total_steps=100)  # of some noise: to find it takes time
    private = Private(step, config, data, 100, torch.device("cpu"), account)
    private.random = np.random.default_rng(0)
    return private


def without_noise(data, rows, clip, **changes):
    """A step's gradient as it is computed, on given rows and without noise."""
    private = make_private(data, dp_clip=clip, **changes)
    private.account.noise_multiplier = 0.0
    private.draw = lambda num: np.asarray(rows)
    private.backward(data, 0)
    return {name: p.grad * private.expected for name, p in private.parameters.items()}


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


def of_one(private, data, row, at=0):
    """The gradient of one example's loss, by an ordinary backward pass."""
    private.step.zero_grad()
    batch = data.batch([row])
    private.step(batch.x, batch.mask, private.vae.condition_of(batch.columns, 1), at)["loss"].backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in private.parameters.items()}
    private.step.zero_grad()
    return found


# ---------------------------------------------------------------------------------------------------- the gradient


def test_gradients_of_examples_are_those_of_a_loop_over_single_examples(data):
    private = make_private(data)
    assert not private.slow
    rows = [3, 17, 3, 39, 0]
    gradients, said = private.gradients(data.batch(rows), 0)
    for i, row in enumerate(rows):
        for name, expected in of_one(private, data, row).items():
            torch.testing.assert_close(gradients[name][i], expected, rtol=1e-5, atol=1e-6)
        batch = data.batch([row])
        assert said["loss"][i].item() == pytest.approx(private.step(batch.x, None, None, 0)["loss"].item(), rel=1e-5)
    private.slow = "for the test"
    slow, _ = private.gradients(data.batch(rows), 0)
    torch.testing.assert_close(flat(slow), flat(gradients), rtol=1e-5, atol=1e-6)


def kinds():
    rng = np.random.default_rng(1)
    vectors = open_data(rng.normal(size=(20, 5)).astype("float32"))
    holes = rng.normal(size=(20, 5)).astype("float32")
    holes[::3, 1] = np.nan
    images = open_data(rng.integers(0, 256, (20, 12, 12), dtype=np.uint8), y=np.arange(20) % 3)
    yield pytest.param(vectors, {}, ELBO(), 1, 0.0, id="vectors")
    yield pytest.param(vectors, {"prior": "vamp"}, ELBO(capacity=2.0), 2, 0.5, id="vamp, capacity, hidden parts")
    yield pytest.param(vectors, {}, objectives.DReG(), 3, 0.0, id="DReG")
    yield pytest.param(open_data(holes, missing="nan"), {}, ELBO(), 1, 0.0, id="missing")
    yield pytest.param(images, {"recipe": "conv", "condition": ["label"]}, ELBO(), 1, 0.0, id="convolutions, condition")
    yield pytest.param(vectors, {"recipe": "ladder"}, ELBO(), 1, 0.0, id="ladder")


@pytest.mark.parametrize(("data", "asked", "objective", "samples", "hide"), list(kinds()))
def test_every_kind_of_model_is_differentiated_example_by_example_at_once(data, asked, objective, samples, hide):
    """Of one example, vmap draws what an ordinary pass draws, so that the two can be compared with all their noise."""
    torch.manual_seed(0)
    recipe = recipes.make(data, **asked)
    private = make_private(data, recipe.vae, objective, recipe.transform, hide, num_samples=samples)
    assert not private.slow
    for row in (0, 4):
        torch.manual_seed(5)
        gradients, _ = private.gradients(data.batch([row]), 3)
        torch.manual_seed(5)
        expected = flat(of_one(private, data, row, at=3))
        assert expected.norm() > 0
        torch.testing.assert_close(flat({n: g[0] for n, g in gradients.items()}), expected, rtol=1e-3, atol=1e-4)


def test_examples_at_once_are_as_good_as_in_portions(data):
    private, portions = make_private(data, dp_clip=0.5), make_private(data, dp_clip=0.5)
    portions.at_once = 3
    for each in (private, portions):
        each.account.noise_multiplier = 0.0
        each.draw = lambda num: np.arange(11)
    said = [each.backward(data, 0) for each in (private, portions)]
    for ours, theirs in zip(private.parameters.values(), portions.parameters.values(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert said[0].keys() == said[1].keys()
    assert said[0]["loss"].item() == pytest.approx(said[1]["loss"].item(), rel=1e-5)


def test_equal_examples_draw_latents_of_their_own():
    values = np.float32([[1.0, 2.0, 0.5, -1.0]]).repeat(6, axis=0)
    values[5] = 0.0
    data = open_data(values)
    private = make_private(data, recipes.make(data).vae, ELBO())
    assert not private.slow
    gradients, _ = private.gradients(data.batch([0, 1, 2]), 0)
    each = torch.stack([flat({n: g[i] for n, g in gradients.items()}) for i in range(3)])
    assert torch.pdist(each).min() > 1e-3


class Unbatchable(nn.Module):
    """A layer that vmap cannot see through."""

    def forward(self, x):
        return x * 2.0 if bool(x.abs().sum() > 1e9) else x


def test_what_cannot_be_batched_is_computed_one_by_one_and_said(data):
    vae = deterministic()
    vae.posterior.network.register_forward_hook(lambda module, given, out: Unbatchable()(out))
    private = make_private(data, vae)
    assert private.slow
    assert "one after the other" in private.notes()[-1]
    plain = make_private(data)
    private.account.noise_multiplier = plain.account.noise_multiplier = 0.0
    for each in (private, plain):
        each.draw = lambda num: np.arange(7)
        each.backward(data, 0)
    for slow, fast in zip(private.parameters.values(), plain.parameters.values(), strict=True):
        torch.testing.assert_close(slow.grad, fast.grad, rtol=1e-4, atol=1e-6)


def test_each_gradient_is_clipped_as_a_whole(data):
    private = make_private(data)
    gradients, _ = private.gradients(data.batch(np.arange(NUM)), 0)
    norms = torch.stack([flat({n: g[i] for n, g in gradients.items()}).norm() for i in range(NUM)])
    clip = norms.median().item()
    weights = clip_weights(gradients, clip)
    clipped = norms * weights
    assert clipped.max() <= clip * (1 + 1e-5)
    small = norms < clip
    assert 0 < small.sum() < NUM
    assert torch.equal(weights[small], torch.ones(int(small.sum())))
    torch.testing.assert_close(clipped[~small], torch.full_like(clipped[~small], clip))


def test_an_example_more_changes_the_sum_by_its_clipped_gradient(data):
    clip = 0.7
    with_it = flat(without_noise(data, np.arange(12), clip))
    for row in (0, 5, 11):
        without = flat(without_noise(data, np.delete(np.arange(12), row), clip))
        own = flat(of_one(make_private(data), data, row))
        expected = own * min(1.0, clip / own.norm().item())
        torch.testing.assert_close(with_it - without, expected, rtol=1e-4, atol=1e-5)
        assert (with_it - without).norm() <= clip * (1 + 1e-4)


def test_an_example_without_a_finite_gradient_counts_as_nothing(data):
    values = data.raw().copy()
    values[2] = 3e38
    broken = open_data(values)
    private = make_private(broken)
    private.account.noise_multiplier = 0.0
    private.draw = lambda num: np.array([1, 2, 3])
    said = private.backward(broken, 0)
    assert said["skipped"].item() == pytest.approx(1 / 3)
    assert said["kept"].item() == 1
    assert math.isfinite(said["loss"].item())
    expected = without_noise(data, [1, 3], private.clip)
    torch.testing.assert_close(flat({n: p.grad * private.expected for n, p in private.parameters.items()}), flat(expected))


def test_without_noise_and_clipping_a_step_is_the_ordinary_one(data):
    """Trainers of both kinds, on the batch of all examples: the same weights after some steps of AdamW and the average."""
    weights = []
    for private in (False, True):
        asked = {"dp_epsilon": 3.0, "dp_delta": 1e-5, "dp_clip": 1e9} if private else {}
        trainer = make_trainer(
            open_data(np.concatenate([data.raw()] * 10)), deterministic(), objectives.RAE(), steps=5, batch_size=300,
            clip_norm=None, patience=0, learning_rate=1e-2, ema=0.9, **asked,
        )  # fmt: skip
        trainer.vae.initialize = lambda *_: None
        trainer._prepare()
        if private:
            trainer.private.account.noise_multiplier = 0.0
        for _ in range(5):
            trainer._train_step()
            trainer._after_step()
        weights.append(trainer.best_weights)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_the_noise_has_the_variance_that_is_accounted(data):
    private = make_private(data, dp_clip=0.5)
    private.draw = lambda num: np.array([], dtype=np.int64)
    drawn = []
    for _ in range(100):
        assert private.backward(data, 0) == {}
        drawn.append(flat({n: p.grad for n, p in private.parameters.items()}))
    drawn = torch.stack(drawn).double()
    scale = private.account.noise_multiplier * 0.5 / 8
    num = drawn.numel()
    assert num > 10_000
    assert drawn.var().item() == pytest.approx(scale**2, rel=5 * math.sqrt(2 / num))
    assert abs(drawn.mean().item()) < 5 * scale / math.sqrt(num)
    assert abs((drawn[1:] * drawn[:-1]).mean().item()) < 5 * scale**2 / math.sqrt(num)  # anew at every step
    assert private.account.steps == 100


def test_the_noise_does_not_come_from_a_seed(data):
    steps = [make_private(data), make_private(data)]
    for private in steps:
        private.random = Private(private.step, settings(), data, 100, torch.device("cpu"), private.account).random
        torch.manual_seed(0)
        private.backward(data, 0)
    assert not torch.equal(*(next(iter(p.parameters.values())).grad for p in steps))


def test_examples_are_drawn_by_themselves(data):
    private = make_private(data)
    hits = np.zeros((3000, NUM))
    for row in hits:
        rows = private.draw(NUM)
        assert len(set(rows)) == len(rows)
        row[rows] = 1
    rate = private.account.sampling_rate
    assert rate == 8 / NUM
    spread = math.sqrt(rate * (1 - rate) / 3000)
    assert np.abs(hits.mean(0) - rate).max() < 5 * spread
    assert hits.sum(1).var() == pytest.approx(NUM * rate * (1 - rate), rel=0.15)  # it is 0 for batches of one size
    assert hits.sum(1).max() > 12


# ----------------------------------------------------------------------------------------------------- the account


def moments(sigma, rate, order):
    """log E_Q[(P / Q)^order] / (order - 1) of one step, for a whole order: the binomial sum of Mironov et al. (2019), eq. 3."""
    k = np.arange(order + 1)
    log_terms = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1) + (order - k) * math.log1p(-rate)
    log_terms += k * math.log(rate) + k * (k - 1) / (2 * sigma**2)
    return np.logaddexp.reduce(log_terms) / (order - 1)


def test_epsilon_is_that_of_the_moments_accountant():
    """Abadi et al. (2016), section 3.2: q = 0.01, sigma = 4, 10,000 steps, delta = 1e-5 give epsilon 1.26 by the conversion
    of that time; that of today is tighter."""
    sigma, rate, steps, delta = 4.0, 0.01, 10_000, 1e-5
    spent = [(order, steps * moments(sigma, rate, order)) for order in range(2, 64)]
    assert min(rdp + math.log(1 / delta) / (order - 1) for order, rdp in spent) == pytest.approx(1.26, abs=0.005)
    tight = min(rdp + math.log((a - 1) / a) - (math.log(delta) + math.log(a)) / (a - 1) for a, rdp in spent)
    found = Account(sigma, rate, delta, steps, steps=steps).epsilon()
    assert found == pytest.approx(tight, rel=2e-3)
    assert found <= tight + 1e-9
    assert Account(sigma, rate, delta, steps, "prv", steps).epsilon() < found


def test_the_accountant_bounds_the_exact_gaussian_mechanism():
    """Without sampling, T steps are one of noise sigma / sqrt(T), whose delta is known (Balle, Wang, 2018, theorem 8)."""
    sigma, steps, delta = 20.0, 50, 1e-5
    epsilon = Account(sigma, 1.0, delta, steps, steps=steps).epsilon()
    size = math.sqrt(steps) / sigma

    def cdf(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    def exact(epsilon):
        return cdf(size / 2 - epsilon / size) - math.exp(epsilon) * cdf(-size / 2 - epsilon / size)

    assert exact(epsilon) <= delta
    assert exact(0.85 * epsilon) > delta


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(3.0, 0.05, 100), (0.5, 0.02, 50)])
def test_the_noise_fits_the_budget(accountant, epsilon, rate, steps):
    account = Account.for_budget(epsilon, 1e-5, rate, steps, accountant)
    assert epsilon - 0.011 < account.epsilon(steps) <= epsilon
    assert account.epsilon() == 0
    assert account.epsilon(steps // 2) < account.epsilon(steps)


# --------------------------------------------------------------------------------------------------------- the run


def examples(num=300):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(num, 2)) @ rng.normal(size=(2, DIMS)) + 1).astype("float32")


def run(out=None, resume=False, callbacks=(), **changes):
    asked = {"steps": 12, "batch_size": 16, "dp_epsilon": 2.0, "validate_every": 5, **changes}
    return train(examples(), out, resume=resume, callbacks=callbacks, display_as="quiet", **asked)


class Notes(Callback):
    def __init__(self):
        self.said = []

    def on_note(self, sentence):
        self.said.append(sentence)


class Dies(Callback):
    """Ends the process, as it were, at the second validation."""

    def on_validation(self, progress, budget):
        if progress.step == 10:
            raise RuntimeError("killed")


def test_a_run_says_what_it_has_cost(tmp_path, monkeypatch):
    monkeypatch.setattr(VAE, "initialize", lambda *_: pytest.fail("the start has looked at the data"), raising=True)
    heard = Notes()
    monkeypatch.setattr("vaekit.training.plan._try_out", lambda *_: None)  # it tries the start on a copy
    bundle = run(tmp_path / "m", callbacks=[heard])
    privacy = bundle.training["privacy"]
    assert (privacy["steps"], privacy["epsilon_asked"], privacy["delta"]) == (12, 2.0, 1e-5)
    assert privacy["sampling_rate"] == 16 / 270
    assert 1.95 < privacy["epsilon"] <= 2.0
    expected = Account(privacy["noise_multiplier"], 16 / 270, 1e-5, 12, steps=12).epsilon()
    assert privacy["epsilon"] == pytest.approx(expected)
    line = described_privacy(privacy)
    assert heard.said[-1] == f"The model has cost {line}."
    assert line in (tmp_path / "m" / "README.md").read_text()
    assert privacy["not_covered"][0] in (tmp_path / "m" / "README.md").read_text()
    loaded = storage.load(tmp_path / "m")
    assert ("privacy", line) in about(Model(loaded))
    assert bundle.training["config"]["patience"] == 0
    assert bundle.training["config"]["precision"] == "float32"


def test_what_is_published_holds_no_exact_number_of_examples(tmp_path):
    labels = np.arange(300) % 3
    options = {"y": labels}
    bundle = train(
        examples(), tmp_path / "m", condition=["label"], data_options=options, steps=3, batch_size=16, dp_epsilon=2.0,
        display_as="quiet",
    )  # fmt: skip
    assert bundle.metrics == {}
    assert (bundle.training["held_out"], bundle.training["condition_counts"]) == (None, {})
    written = json.loads((tmp_path / "m" / "vaekit.json").read_text())
    assert "fingerprint" not in json.dumps(written["training"])
    drawn = Model(storage.load(tmp_path / "m")).generate(3)
    assert drawn.shape == (3, DIMS)


def test_the_last_weights_are_kept_and_the_same_seed_gives_other_weights():
    bundle, other = run(learning_rate=0.5, decay="constant", ema=0.0), run(learning_rate=0.5, decay="constant", ema=0.0)
    assert bundle.training["best_step"] == 12
    assert any(not torch.equal(a, b) for a, b in zip(bundle.vae.parameters(), other.vae.parameters(), strict=True))


def test_a_run_that_was_killed_goes_on_with_its_account(tmp_path):
    whole = run(tmp_path / "whole").training["privacy"]
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "killed", callbacks=[Dies()], checkpoint_seconds=0.0)
    resumed = run(tmp_path / "killed", resume=True).training
    assert resumed["steps"] == 12
    assert resumed["privacy"] == whole


def test_a_budget_that_is_raised_is_refused(tmp_path):
    run(tmp_path / "m")
    with pytest.raises(TrainingError, match="12 steps that its noise was made for, got 20"):
        run(tmp_path / "m", resume=True, steps=20)


def test_an_interrupted_run_has_cost_less():
    class Interrupts(Callback):
        def on_validation(self, progress, budget):
            trainers[0].interrupt()

    trainers = []
    data = open_data(np.concatenate([examples(), examples(100)]))
    trainer = make_trainer(
        data, steps=12, patience=0, validate_every=5, dp_epsilon=2.0, dp_delta=1e-5, clip_norm=None, callbacks=[Interrupts()]
    )
    trainers.append(trainer)
    outcome = trainer.fit()
    assert outcome.progress.stopped == "interrupted"
    assert outcome.privacy["steps"] == outcome.progress.step == 6
    assert 0 < outcome.privacy["epsilon"] < 1.9


# ---------------------------------------------------------------------------------------------------- the refusals


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": None, "minutes": 1.0}, "number of steps that is known"),
        ({"patience": 3}, "when to stop"),
        ({"clip_norm": 1.0}, "`dp_clip`"),
        ({"skip_norm": 1.0}, "`skip_norm`"),
        ({"precision": "bf16"}, "float32"),
        ({"dp_delta": 0.01}, "below 1 / 270"),
        ({"dp_epsilon": None, "dp_clip": 1.0}, "must come with `dp_epsilon`"),
        ({"dp_epsilon": 0.0}, "dp_epsilon"),
        ({"objective": "total-correlation"}, "a mean over examples, got TotalCorrelation"),
        ({"free_bits": 0.1}, "`free_bits`"),
        ({"latent": 2, "objective": objectives.FactorVAE(networks.MLP(2, [8]))}, "without an adversary"),
        ({"objective": objectives.InfoVAE()}, "got InfoVAE"),
        ({"dp_epsilon": 1e-9}, "Give a larger `dp_epsilon`"),
    ],
)
def test_what_a_private_run_cannot_have_is_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        run(**asked)


def own(prior=None, posterior=None, norm=None):
    vae = deterministic()
    if posterior is not None:
        vae = VAE(priors.UniformCodes([2], 8), posterior, vae.likelihood)
    if prior is not None:
        vae = VAE(prior, posteriors.DiagonalNormal(networks.MLP(DIMS, [8]), 2), vae.likelihood)
    if norm is not None:
        vae.extra = norm
    return {"vae": vae, "transform": Standardize(0.0, 1.0), "objective": objectives.RAE() if prior is None else ELBO()}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: own(norm=nn.BatchNorm1d(2)), "found BatchNorm1d at `vae.extra`"),
        (lambda: own(prior=priors.Exemplar(2, [DIMS], 5)), "Exemplar"),
    ],
)
def test_parts_that_see_more_than_an_example_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        run(**parts())


class Counts(nn.Module):
    """Keeps a mean of what it has seen, beside its gradient."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(DIMS))

    def forward(self, x):
        self.mean.lerp_(x.mean(0), 0.1)


def test_a_buffer_that_follows_the_data_is_refused():
    asked = own()
    asked["vae"].extra = Counts()
    asked["vae"].register_forward_pre_hook(lambda vae, given: vae.extra(given[0]))
    with pytest.raises(ConfigError, match=r"changes the buffer `vae\.extra\.mean`"):
        run(**asked)


def test_several_processes_are_refused():
    check_processes(TrainConfig.make(steps=1), 2)
    check_processes(settings(), 1)
    with pytest.raises(ConfigError, match="one process, got 2"):
        check_processes(settings(), 2)


def test_a_private_model_is_not_refitted():
    with pytest.raises(ConfigError, match="promise of privacy"):
        refit_prior(run(steps=2), open_data(examples()), "mixture")


def test_no_second_stage_is_fitted_to_the_latents(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "table.csv"
    rows = zip(rng.normal(size=1200), rng.integers(0, 3, 1200), strict=True)
    path.write_text("a,b\n" + "".join(f"{a:.3f},{b}\n" for a, b in rows))
    table = open_data(path)
    choices = {"recipe": "auto", "latent": None, "likelihood": None, "condition": [], "prior": None}
    bound = {"beta": None, "free_bits": None, "warm_up": None, "capacity": None, "objective": None}
    plain = make_plan(table, {**choices, **bound, "settings": {"steps": 3}})
    private = make_plan(table, {**choices, **bound, "settings": {"steps": 3, "dp_epsilon": 2.0}})
    assert (plain.second_stage, private.second_stage) == ("mixture-full", None)
    assert any("after training" in reason for reason in plain.reasons)
    assert not any("after training" in reason for reason in private.reasons)
    assert private.config.dp_delta == 1e-5
