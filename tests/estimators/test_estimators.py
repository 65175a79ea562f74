"""What the estimators promise beyond scikit-learn's checks: numbers, exactness, state, frames."""

from __future__ import annotations

import math
import pickle
import pickletools
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import LinearGaussian
from vaekit import storage
from vaekit.data import loading
from vaekit.data.transforms import Standardize
from vaekit.errors import ConfigError, DataError, ModelFormatError
from vaekit.estimators import VAEDensity, VAEImputer, VAEOutlier, VAETransformer
from vaekit.estimators.scoring import Aggregate, fixed_noise, strangeness, weighted
from vaekit.model import Model
from vaekit.objectives import ELBO
from vaekit.storage import Bundle

ALL = (VAETransformer, VAEDensity, VAEOutlier, VAEImputer)
QUICK = {"max_steps": 10, "hidden": (8,), "random_state": 0}


def low_rank(num: int = 300, columns: int = 5, rank: int = 2, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = np.random.default_rng(99).normal(size=(rank, columns))
    return rng.normal(size=(num, rank)) @ weight + noise * rng.normal(size=(num, columns)) + 10.0


@pytest.fixture(scope="module")
def transformer() -> VAETransformer:
    return VAETransformer(2, max_steps=500, random_state=0).fit(low_rank())


def linear_model(exact: LinearGaussian, observed: torch.Tensor | None = None) -> Model:
    """A model whose evidence and posterior are known, and whose posterior scales are those of the exact one's diagonal."""
    data = loading.open(np.random.default_rng(0).normal(size=(9, 3)), values="continuous", missing="nan")
    return Model(Bundle(exact.exact_vae(observed).float().eval(), Standardize([1.0, 0.0, -1.0], [2.0, 1.0, 0.5]), data.schema))


# ------------------------------------------------------------------------------------------------------- transform


def test_rows_are_the_same_alone_and_in_any_batch(transformer):
    X = low_rank(seed=1)
    whole = transformer.transform(X)
    for rows in (slice(0, 1), slice(7, 8), slice(3, 290), slice(None, None, -1)):
        np.testing.assert_array_equal(transformer.transform(X[rows]), whole[rows])


def test_low_rank_rows_come_back(transformer):
    X = low_rank(seed=1)
    back = transformer.inverse_transform(transformer.transform(X))
    share = ((back - X) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()
    assert share < 0.05, share


def test_dtypes_of_float32_go_through(transformer):
    X = low_rank(seed=1).astype(np.float32)
    assert transformer.transform(X).dtype == np.float32
    assert transformer.inverse_transform(transformer.transform(X)).dtype == np.float32
    np.testing.assert_array_equal(transformer.transform(X), transformer.transform(X.astype(np.float64)).astype(np.float32))


def test_frames_names_and_set_output():
    X = low_rank(40)
    names = [f"column {i}" for i in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names)
    made = VAETransformer(2, **QUICK).fit(frame).set_output(transform="pandas")
    out = made.transform(frame)
    assert list(out.columns) == list(made.get_feature_names_out()) == ["vaetransformer0", "vaetransformer1"]
    assert list(made.feature_names_in_) == names
    polars = made.set_output(transform="polars").transform(pl.DataFrame(X, schema=names))
    np.testing.assert_array_equal(polars.to_numpy(), out.to_numpy())
    with pytest.raises(ValueError, match="feature names"):
        made.transform(frame[names[::-1]])
    holed = frame.mask(np.eye(40, 5, dtype=bool))
    imputer = VAEImputer(**QUICK).set_output(transform="pandas").fit(holed)
    assert list(imputer.transform(holed).columns) == names


def test_sparse_rows_are_taken_as_dense_ones():
    X = np.where(np.random.default_rng(0).random((300, 6)) < 0.6, 0.0, low_rank(300, 6))
    dense, as_sparse = (VAETransformer(2, **QUICK).fit(data) for data in (X, sparse.csr_array(X)))
    np.testing.assert_array_equal(dense.transform(X), as_sparse.transform(sparse.csc_matrix(X)))
    outlier = VAEOutlier(**QUICK, n_estimators=1)
    np.testing.assert_array_equal(outlier.fit(X).score_samples(X), outlier.fit(sparse.coo_array(X)).score_samples(X))


# ------------------------------------------------------------------------------------------------------- density


def test_density_of_a_linear_gaussian_is_its_evidence(linear_gaussian):
    """The K-sample bound with a diagonal proposal of a model whose log p(x) is known, in the units of the data."""
    model = linear_model(linear_gaussian)
    x = np.random.default_rng(1).normal(size=(9, 3)) * [2.0, 1.0, 0.5] + [1.0, 0.0, -1.0]
    inner = torch.from_numpy((x - [1.0, 0.0, -1.0]) / [2.0, 1.0, 0.5])
    expected = linear_gaussian.evidence(inner).numpy() - math.log(2.0 * 1.0 * 0.5)
    found, _ = weighted(model, loading.conform(x, model.schema), 2048)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_expectation_of_missing_cells_is_that_of_the_exact_conditional(linear_gaussian):
    model = linear_model(linear_gaussian, torch.tensor([True, False, True]))
    x = np.random.default_rng(2).normal(size=(9, 3)) * [2.0, 1.0, 0.5] + [1.0, 0.0, -1.0]
    x[:, 1] = np.nan
    _, filled = weighted(model, loading.conform(x, model.schema, missing="nan"), 8192, fill=True)
    keep = [0, 2]
    w, b = linear_gaussian.weight.numpy(), linear_gaussian.bias.numpy()
    covariance = w @ w.T + linear_gaussian.scale**2 * np.eye(3)
    inner = (x - [1.0, 0.0, -1.0]) / [2.0, 1.0, 0.5]
    gain = covariance[1, keep] @ np.linalg.inv(covariance[np.ix_(keep, keep)])
    expected = b[1] + (inner[:, keep] - b[keep]) @ gain  # of the column whose shift is 0 and whose scale is 1
    np.testing.assert_allclose(filled[:, 1], expected, atol=0.05)


def test_noise_fills_the_normal_evenly():
    noise = fixed_noise(512, 3)
    assert noise.shape == (512, 1, 3)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.02)
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.03)
    assert (fixed_noise(1, 3) == 0).all()


def test_density_learns_a_normal_and_samples_it():
    rng = np.random.default_rng(0)
    mixing = np.array([[2.0, 0.0], [1.5, 0.5]])
    X, fresh = (rng.normal(size=(num, 2)) @ mixing.T + [3.0, -40.0] for num in (800, 400))
    density = VAEDensity(2, max_steps=800, random_state=0).fit(X)
    covariance = mixing @ mixing.T
    exact = multivariate_normal([3.0, -40.0], covariance).logpdf(fresh).mean()
    assert exact - 0.15 < density.score(fresh) < exact + 0.05, (density.score(fresh), exact)
    drawn = density.sample(4000, random_state=0)
    np.testing.assert_allclose(drawn.mean(0), [3.0, -40.0], atol=0.25)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.8)
    np.testing.assert_array_equal(density.sample(5, random_state=3), density.sample(5, random_state=3))


# ------------------------------------------------------------------------------------------------------- outliers


def test_rows_off_the_plane_are_outliers():
    X = low_rank(400)
    rng = np.random.default_rng(5)
    off = X[:40] + rng.normal(size=(40, 5))
    detector = VAEOutlier(max_steps=300, n_estimators=2, random_state=0).fit(X)
    inside, outside = detector.score_samples(low_rank(100, seed=3)), detector.score_samples(off)
    assert (inside[:, None] > outside).mean() > 0.95
    assert (detector.predict(off) == -1).mean() > 0.9
    assert (detector.predict(X) == -1).sum() == 40
    np.testing.assert_array_equal(detector.decision_function(X), detector.score_samples(X) - detector.offset_)
    np.testing.assert_array_equal(detector.score_samples(X[5:6]), detector.score_samples(X)[5:6])


def test_contamination_auto_is_the_fence_of_the_scores():
    X = low_rank(40)  # of which none are held out
    detector = VAEOutlier(**QUICK, n_estimators=1, contamination="auto").fit(X)
    low, high = np.percentile(detector.score_samples(X), [25, 75])
    assert detector.offset_ == low - 1.5 * (high - low)


def test_strangeness_is_that_of_the_exact_aggregate(linear_gaussian):
    """Of a model whose parts are known: log |residual|^2, and the bound with the mixture of posteriors in the prior's place."""
    model = linear_model(linear_gaussian)
    x = np.random.default_rng(3).normal(size=(9, 3))
    data = loading.conform(x, model.schema)
    found = model.encode(data)
    measured = strangeness(model, data, Aggregate.of(found.mean, found.scale, torch.device("cpu")), 4096)
    mean, scale, inner = (torch.from_numpy(part).double() for part in (found.mean, found.scale, (x - [1, 0, -1]) / [2, 1, 0.5]))
    weight, bias = linear_gaussian.weight, linear_gaussian.bias
    residual = inner - mean @ weight.T - bias
    np.testing.assert_allclose(measured[:, 0], residual.square().sum(1).log().numpy(), atol=1e-4)
    z = mean + scale * torch.randn(20_000, 1, 2, dtype=torch.float64)
    each = torch.distributions.Normal(mean, scale).log_prob(z.unsqueeze(2)).sum(-1)
    rate = each.diagonal(dim1=1, dim2=2) - each.logsumexp(-1) + math.log(9)
    distortion = -torch.distributions.Normal(z @ weight.T + bias, linear_gaussian.scale).log_prob(inner).sum(-1)
    np.testing.assert_allclose(measured[:, 1], (rate + distortion).mean(0).numpy(), atol=0.05)


# ------------------------------------------------------------------------------------------------------- imputer


def test_imputer_beats_the_column_means_by_far_and_keeps_what_is_there():
    X = low_rank(500)
    holes = np.random.default_rng(1).random(X.shape) < 0.2
    holed = np.where(holes, np.nan, X)
    filled = VAEImputer(max_steps=800, random_state=0).fit_transform(holed)
    np.testing.assert_array_equal(filled[~holes], X[~holes])
    by_means = np.broadcast_to(np.nanmean(holed, 0), X.shape)
    error, of_means = (((guess - X)[holes] ** 2).mean() for guess in (filled, by_means))
    assert error < 0.2 * of_means, (error, of_means)


def test_imputer_takes_holes_that_training_did_not_have_and_rows_of_nothing():
    X = low_rank(60)
    imputer = VAEImputer(**QUICK).fit(X)
    holed = X.copy()
    holed[0], holed[1, 2] = np.nan, np.nan
    filled = imputer.transform(holed)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(imputer.transform(holed[1:2]), filled[1:2])
    X[:, 3] = np.nan
    with pytest.raises(DataError, match="column 3"):
        VAEImputer(**QUICK).fit(X)


# ------------------------------------------------------------------------------------------------------- manners


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_same_seed_same_numbers_and_the_global_state_stays(kind):
    X = low_rank(60)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first, second = kind(**QUICK).fit(X), clone(kind(**QUICK)).fit(X)
    other = kind(**{**QUICK, "random_state": 1}).fit(X)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    results = [storage.weights_of(_model(fitted).bundle) for fitted in (first, second, other)]
    name = next(name for name in results[0] if name.endswith("weight"))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert not torch.equal(results[0][name], results[2][name])


def _model(fitted) -> Model:
    return fitted.models_[0] if isinstance(fitted, VAEOutlier) else fitted.model_


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_pickles_hold_numbers_and_no_code_of_torch(kind, tmp_path):
    fitted = kind(**QUICK, objective=ELBO(beta=0.5)).fit(low_rank(60))
    path = tmp_path / "estimator.joblib"
    joblib.dump(fitted, path)
    again = joblib.load(path)
    method = next(name for name in ("score_samples", "transform") if hasattr(kind, name))
    X = np.where(np.eye(60, 5, dtype=bool), np.nan, low_rank(60)) if kind is VAEImputer else low_rank(60)
    np.testing.assert_array_equal(getattr(again, method)(X), getattr(fitted, method)(X))
    assert isinstance(again.objective, ELBO)
    names = _globals_of(pickle.dumps(fitted, protocol=2))
    assert not [name for name in names if name.partition(".")[0] == "torch"], names
    assert [name for name in names if name.startswith("vaekit")] == [f"{kind.__module__} {kind.__name__}"]


def _globals_of(pickled: bytes) -> list[str]:
    return sorted({str(argument) for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"})


def test_packed_model_that_was_changed_is_refused():
    config, weights = storage.pack(VAETransformer(**QUICK).fit(low_rank(60)).model_.bundle)
    with pytest.raises(ModelFormatError, match="must have the hash"):
        storage.unpack(config, weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelFormatError, match="must be JSON"):
        storage.unpack(config[:-3], weights)
    with pytest.raises(ModelFormatError, match="up to format"):
        storage.unpack(config.replace('"format": 1', '"format": 99'), weights)


def test_model_is_one_of_vaekit_and_can_be_saved(transformer, tmp_path):
    from vaekit.model import load

    model = load(transformer.model_.save(tmp_path / "model"))
    X = low_rank(seed=1)
    np.testing.assert_array_equal(model.encode(X).mean, transformer.transform(X).astype(np.float32))


def test_pipeline_and_grid_search():
    X = low_rank(90)
    y = (X[:, 0] > 10).astype(int)
    pipe = make_pipeline(StandardScaler(), VAETransformer(**QUICK), KNeighborsClassifier())
    search = GridSearchCV(pipe, {"vaetransformer__n_components": [1, 2]}, cv=2).fit(X, y)
    assert search.best_params_["vaetransformer__n_components"] in (1, 2)
    density = GridSearchCV(VAEDensity(**{**QUICK, "max_steps": 60}, num_samples=8), {"n_components": [1, 3]}, cv=2).fit(X)
    assert np.isfinite(density.best_score_)


def test_likelihood_by_the_values():
    X = np.random.default_rng(0).integers(0, 17, (80, 4))
    density = VAEDensity(**QUICK, likelihood="auto").fit(X)
    assert (density.score_samples(X) < 0).all()  # masses of levels
    drawn = density.sample(20, random_state=0)
    assert ((drawn == np.rint(drawn)) & (drawn >= 0) & (drawn <= 16)).all()


def test_a_ladder_is_scored_too():
    X = low_rank(80)
    density = VAEDensity(recipe="ladder", max_steps=10, num_samples=4, random_state=0).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    np.testing.assert_array_equal(density.score_samples(X)[3:4], density.score_samples(X[3:4]))


def test_few_rows_are_all_trained_on_and_many_are_held_out():
    assert VAETransformer(**QUICK).fit(low_rank(60)).model_.bundle.training["num_training_examples"] == 60
    assert VAETransformer(**QUICK).fit(low_rank(200)).model_.bundle.training["num_training_examples"] == 180


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, "`validation_fraction`"),
        ({"max_steps": 0}, "`steps`"),
        ({"likelihood": "gaussian"}, "`likelihood`"),
        ({"recipe": "conv"}, "`conv`"),
        ({"device": "tpu"}, "`device`"),
        ({"beta": -1.0}, "`beta`"),
        ({"n_components": 0}, "`latent`"),
        ({"objective": "elbow"}, "`objective`"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_fit(arguments, message):
    estimator = VAETransformer(**{**QUICK, **arguments})
    with pytest.raises(ConfigError, match=message):
        estimator.fit(low_rank(60))


@pytest.mark.parametrize("contamination", [0.0, 0.6, "some"])
def test_contamination_that_cannot_be_is_refused(contamination):
    with pytest.raises(ConfigError, match="`contamination`"):
        VAEOutlier(contamination=contamination).fit(low_rank(20))


def test_scores_need_a_fit():
    for estimator, method in ((VAEDensity(), "sample"), (VAETransformer(), "inverse_transform")):
        with pytest.raises(NotFittedError):
            getattr(estimator, method)(*(() if method == "sample" else (np.zeros((1, 2)),)))


def test_the_extra_is_named_where_scikit_learn_is_missing():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import vaekit\n"
        "try:\n    import vaekit.estimators\n"
        "except vaekit.MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'vaekit[sklearn]'" in done.stdout


def test_import_of_vaekit_leaves_scikit_learn_alone():
    code = "import sys, vaekit; dir(vaekit); print('sklearn' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
