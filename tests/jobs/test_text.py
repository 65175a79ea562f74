"""The jobs on text that are the same for all kinds of data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from text_models import SENTENCES, text_bundle, text_data
from vaekit.errors import ConfigError
from vaekit.evaluation.bounds import evaluate_bounds
from vaekit.jobs.blocks import PLAINLY, Spelling, decoded, posterior_of
from vaekit.jobs.generate import generate
from vaekit.jobs.interpolate import interpolate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.traverse import traverse
from vaekit.symbols import END, UNKNOWN


@pytest.mark.parametrize("transformer", [False, True])
def test_encodings_do_not_depend_on_the_company(transformer):
    data = text_data()
    bundle = text_bundle(data, transformer=transformer)
    together = posterior_of(bundle, data)
    for row in range(len(data)):
        alone = posterior_of(bundle, data.select([row]))
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[row], rtol=1e-6, atol=1e-6)
        assert reconstruct(bundle, data.select([row]))[0] == reconstruct(bundle, data)[row]


def test_fewer_texts_are_the_first_of_more_and_none_has_an_unknown_token():
    bundle = text_bundle()
    many = generate(bundle, 150).x
    assert many.dtype == object
    assert generate(bundle, 7).x.tolist() == many[:7].tolist()
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in many)
    assert len(set(many.tolist())) > 50


def test_the_mass_of_the_unknown_token_is_shared_out():
    bundle = text_bundle(text_data(["a", "b", "ab"], tokens="character", labels=False), size=1.0)
    z = torch.zeros(1, 3)
    with torch.no_grad():
        p = bundle.vae.likelihood(z)
        first = p.head(p.network.step(torch.tensor([END]), p.network.begin(p.z))[0]).softmax(-1)[0]
    assert first[UNKNOWN] > 0.02
    drawn = decoded(bundle, z.expand(20_000, -1), None, "sample")
    for code, begins in ((END, drawn == ""), (3, [text.startswith("a") for text in drawn])):
        assert np.mean(begins) == pytest.approx(float(first[code] / (1 - first[UNKNOWN])), abs=0.015)
    tempered = decoded(bundle, z.expand(20_000, -1), None, "sample", spelling=Spelling.of(token_temperature=0.5))
    square = first.square()
    assert np.mean(tempered == "") == pytest.approx(float(square[END] / (square.sum() - square[UNKNOWN])), abs=0.015)


def test_spelling():
    bundle = text_bundle()
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    greedy = decoded(bundle, z, None, "mean")
    assert decoded(bundle, z, None, "auto", spelling=Spelling.of(beams=1)).tolist() == greedy.tolist()
    assert decoded(bundle, z, None, "sample", spelling=Spelling.of(top_k=1)).tolist() == greedy.tolist()
    assert Spelling.of() == PLAINLY
    wide = decoded(bundle, z, None, "mean", spelling=Spelling(beams=50))
    codes = {text: torch.from_numpy(text_data([text, *SENTENCES]).stored([0]).astype(np.int64)) for text in (*greedy, *wide)}
    with torch.no_grad():
        for row in range(5):
            p = bundle.vae.likelihood(z[row : row + 1])
            assert p.log_prob(codes[wide[row]]) >= p.log_prob(codes[greedy[row]]) - 1e-5
    with pytest.raises(ConfigError, match="`beams` must be at least 1"):
        decoded(bundle, z, None, "mean", spelling=Spelling(beams=0))


def test_the_unit_that_the_decoder_reads_comes_first():
    bundle = text_bundle(size=1.0)
    network = bundle.vae.likelihood.network
    with torch.no_grad():
        for unit in (0, 2):
            network.start.weight[:, unit] = 0
            network.lstm.weight_ih_l0[:, -3 + unit] = 0
            for weight in bundle.vae.likelihood.head.parameters():
                if weight.dim() == 2 and weight.shape[1] > network.lstm.hidden_size:  # features, and the latent behind them
                    weight[:, -3 + unit] = 0
    grid = traverse(bundle, num_units=3, num_steps=4)
    assert grid.units[0] == 1
    assert grid.x.shape == (3, 4)
    assert len(set(grid.x[1].tolist())) == 1
    assert len(set(grid.x[0].tolist())) > 1
    by_data = traverse(bundle, text_data(), example=1)
    assert by_data.x[0, by_data.x.shape[1] // 2] is not None


def test_the_ends_of_a_path_are_reconstructions():
    bundle, data = text_bundle(conditional=True), text_data()
    path = interpolate(bundle, data, 0, 3, num_steps=4)
    ends = reconstruct(bundle, data.select([0, 3]))
    assert [path[0], path[-1]] == ends.tolist()


def test_the_bound_may_be_checked_by_annealing():
    found = evaluate_bounds(text_bundle(), text_data(), num_samples=20, annealing_steps=5)
    assert found.annealing is not None
