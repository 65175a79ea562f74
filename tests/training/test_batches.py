"""Batches of items of about one length, without padding that none of them needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.data.dataset import Dataset
from vaekit.data.loading import open as open_data
from vaekit.data.schema import Schema, Source
from vaekit.data.text.batches import num_codes, trimmed
from vaekit.data.text.format import TextFormat
from vaekit.data.transforms import Tokens as TokensTransform
from vaekit.likelihoods import Tokens
from vaekit.networks import LSTMDecoder, LSTMEncoder
from vaekit.objectives import ELBO
from vaekit.posteriors import DiagonalNormal
from vaekit.priors import StandardNormal
from vaekit.storage import Bundle
from vaekit.training.config import TrainConfig
from vaekit.training.loop import Trainer
from vaekit.training.run import make_fabric
from vaekit.training.sampling import Sampler
from vaekit.training.validation import validate
from vaekit.types import Batch
from vaekit.vae import VAE

WIDTH, CODES = 12, 8


def texts(lengths, seed=0, dtype="uint16"):
    """Items of so many codes, their END included."""
    rng = np.random.default_rng(seed)
    x = np.zeros((len(lengths), WIDTH), dtype=dtype)
    for row, length in zip(x, lengths, strict=True):
        row[: length - 1] = rng.integers(3, CODES, length - 1)
        row[length - 1] = 1
    schema = Schema(
        kind="text",
        shape=(WIDTH,),
        values="tokens",
        levels=CODES,
        low=0,
        high=CODES - 1,
        dtype=dtype,
        text=TextFormat(tokens="character", vocabulary=tuple("abcde")),
        source=Source(form="list", layout="flat", dtype="object"),
        num_examples=len(x),
    )
    return Dataset(schema, x)


def text_vae(seed=0):
    torch.manual_seed(seed)
    return VAE(
        StandardNormal(2),
        DiagonalNormal(LSTMEncoder(CODES, embedding=4, hidden=6), 2),
        Tokens(LSTMDecoder(CODES, 2, embedding=4, hidden=6), WIDTH),
    )


# ---------------------------------------------------------------------------------------------------------------- sampler


@given(n=st.integers(1, 700), batch=st.integers(1, 25), world=st.integers(1, 3), seed=st.integers(0, 2**63 - 1), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_epoch_sees_every_item_once_however_many_processes_share_it(n, batch, world, seed, data):
    batch *= world
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)))
    alone = Sampler(n, batch, seed, lengths=lengths)
    ranks = [Sampler(n, batch, seed, rank, world, lengths) for rank in range(world)]
    stream = []
    for step in range(-(-3 * n // batch)):
        whole = alone.batch(step)
        assert len(whole) == batch
        for rank, sampler in enumerate(ranks):
            assert torch.equal(sampler.batch(step), whole[rank::world])
        stream.append(whole)
    stream = torch.cat(stream)
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_a_batch_is_of_one_length_and_a_function_of_seed_and_step():
    lengths = torch.from_numpy(np.random.default_rng(0).integers(1, 200, 10_000))
    sampler = Sampler(10_000, 32, 5, lengths=lengths)
    steps = 2 * 10_000 // 32
    batches = [sampler.batch(step) for step in range(steps)]
    spread = torch.stack([lengths[batch].max() - lengths[batch].min() for batch in batches]).float()
    assert spread.median() <= 4  # 200 lengths over 64 batches
    assert (spread > 100).sum() <= 2  # where one epoch ends and the next begins
    means = torch.stack([lengths[batch].float().mean() for batch in batches])
    assert abs(torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]) < 0.2  # long and short batches come in any order
    for step in (steps - 1, 3, 313, 200):
        assert torch.equal(Sampler(10_000, 32, 5, lengths=lengths).batch(step), batches[step])
    assert not torch.equal(Sampler(10_000, 32, 6, lengths=lengths).batch(0), batches[0])
    first, second = torch.cat(batches)[:10_000], torch.cat(batches)[10_000:20_000]
    assert not torch.equal(first, second)


def test_with_one_length_it_is_still_a_shuffle():
    lengths = torch.full((5000,), 7)
    order = torch.cat([Sampler(5000, 50, 1, lengths=lengths).batch(step) for step in range(100)])
    assert abs(torch.corrcoef(torch.stack([order.float(), torch.arange(5000.0)]))[0, 1]) < 0.06


def test_without_lengths_nothing_has_changed():
    """The first batches of the shuffles that runs of older versions go on with."""
    assert torch.equal(Sampler(10, 4, 0).batch(0), torch.randperm(10, generator=torch.Generator().manual_seed(0))[:4])


# --------------------------------------------------------------------------------------------------------------- trimming


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_a_batch_is_as_wide_as_its_longest_item(dtype):
    data = texts([3, 12, 5, 1], dtype=dtype)
    assert num_codes(data).tolist() == [3, 12, 5, 1]
    assert num_codes(data.select([2, 0])).tolist() == [5, 3]
    batch = data.batch([0, 2])
    mask = torch.rand(2, WIDTH) < 0.5
    short = trimmed(Batch(batch.x, mask, {"label": torch.tensor([0, 1])}), data.schema)
    assert short.x.shape == (2, 5)
    assert short.x.dtype == batch.x.dtype
    assert np.array_equal(short.x.numpy(), data.x[[0, 2], :5])
    assert torch.equal(short.mask, mask[:, :5])
    assert short.columns["label"].tolist() == [0, 1]
    assert trimmed(data.batch([1, 3]), data.schema).x.shape == (2, WIDTH)
    assert trimmed(data.batch([3]), data.schema).x.shape == (1, 1)


def test_lengths_are_counted_in_pieces(monkeypatch):
    monkeypatch.setattr("vaekit.data.text.batches._CHUNK_ELEMENTS", 3 * WIDTH)
    lengths = np.random.default_rng(0).integers(1, WIDTH + 1, 20)
    assert num_codes(texts(lengths)).tolist() == lengths.tolist()


def test_other_data_are_left_alone():
    data = open_data(np.zeros((5, 4), dtype="float32") + np.arange(4, dtype="float32"))
    batch = data.batch([0, 1])
    assert trimmed(batch, data.schema) is batch
    assert num_codes(data) is None


def make_trainer(data, **settings):
    settings = {"batch_size": 16, "precision": "float32", "ema": 0.0, "learning_rate": 0.01, **settings}
    part = (data.select(np.arange(200)), data.select(np.arange(200, len(data))))
    return Trainer(text_vae(), TokensTransform(), ELBO(), TrainConfig.make(**settings), *part, make_fabric("cpu"))


@pytest.fixture(scope="module")
def data():
    return texts(np.random.default_rng(1).integers(1, WIDTH + 1, 260))


def test_training_sees_no_more_padding_than_it_must(data):
    trainer = make_trainer(data, steps=30)
    widths = []
    forward = trainer.vae.forward

    def noted(x, **kwargs):
        if trainer.vae.training:
            widths.append((x.shape[1], int((x != 0).sum(1).max())))
        return forward(x, **kwargs)

    trainer.vae.forward = noted
    trainer.fit()
    assert len(widths) == 30
    assert all(width == longest for width, longest in widths)
    assert sum(width < WIDTH for width, _ in widths) > 20
    assert trainer.sampler.lengths.tolist() == num_codes(data)[:200].tolist()


def test_padding_changes_no_number(data, monkeypatch):
    """Validation and the K-sample bound of trimmed batches are those of whole ones."""
    from vaekit import inference
    from vaekit.training import validation

    bundle = Bundle(text_vae().eval(), TokensTransform(), data.schema)
    short = data.select(np.flatnonzero(num_codes(data).numpy() < 7))

    def numbers():
        config = TrainConfig.make(steps=1)
        metrics = validate(bundle.vae, bundle.transform, ELBO(), short, config, make_fabric("cpu"))
        with inference.seeded(0, torch.device("cpu")):
            return metrics, [part.log_likelihood for _, _, part in inference.bounds(bundle, short, 3)]

    trimmed_metrics, trimmed_bounds = numbers()
    for module in (inference, validation):
        monkeypatch.setattr(module, "trimmed", lambda batch, schema: batch)
    whole_metrics, whole_bounds = numbers()
    assert trimmed_metrics == pytest.approx(whole_metrics, rel=1e-5)
    np.testing.assert_allclose(np.concatenate(trimmed_bounds), np.concatenate(whole_bounds), rtol=1e-5)
    assert "mutual_information" in trimmed_metrics
