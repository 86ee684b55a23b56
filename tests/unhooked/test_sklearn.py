"""The estimators are scikit-learn's: all of its checks, pipelines and searches, tables and images."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vaekit.interop.sklearn import VAEAnomalyDetector, VAETransformer
from vaekit.scoring import KINDS

SMALL = {"epochs": 3, "model_args": {"encoder": {"hidden": (16,)}, "decoder": {"hidden": (16,)}}}


@parametrize_with_checks([VAETransformer(**SMALL), *(VAEAnomalyDetector(kind, **SMALL) for kind in KINDS)])
def test_all_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([VAETransformer(), VAEAnomalyDetector()])
def test_all_checks_of_scikit_learn_with_the_defaults(estimator, check):
    check(estimator)


def table(n=400, features=8):
    """Two hidden numbers in eight features of very different scales."""
    pick = np.random.default_rng(0)
    hidden = pick.normal(size=(n, 2))
    X = hidden @ pick.normal(size=(2, features)) + 0.05 * pick.normal(size=(n, features))
    return X * 10.0 ** np.arange(-3, features - 3) + 7


def test_a_table_goes_through_two_numbers_and_back():
    X = table()
    model = VAETransformer(
        latent=2, epochs=60, lr=5e-3, random_state=0,
        model_args={**SMALL["model_args"], "likelihood": {"scale": 0.2}},
    ).fit(X)  # fmt: skip
    back = model.inverse_transform(model.transform(X))
    left = ((back - X) ** 2).mean(0) / X.var(0)
    assert left.max() < 0.15, "variance left unexplained, of each feature on its own scale"
    rows = model.sample(2000, random_state=0)
    assert rows.shape == (2000, 8)
    assert (abs(rows.mean(0) - X.mean(0)) < 0.5 * X.std(0)).all()


def test_the_score_is_a_density_in_the_datas_own_units():
    """Another unit, a factor of 10 for each of 8 features, takes log 10 of the log-density each."""
    X = table()
    one, other = (VAETransformer(**SMALL, random_state=0).fit(X * unit).score(X * unit) for unit in (1, 10))
    assert other - one == pytest.approx(-8 * np.log(10), rel=1e-6)


def test_a_better_model_has_the_higher_score():
    X = table()
    few, many = (VAETransformer(epochs=epochs, random_state=0).fit(X).score(X) for epochs in (1, 30))
    assert many > few + 1


def test_fitting_repeats_and_leaves_the_global_random_state_alone():
    X = table()
    state = torch.get_rng_state()
    one, two, three = (VAETransformer(**SMALL, random_state=s).fit(X).transform(X) for s in (0, 0, 1))
    assert np.array_equal(one, two) and not np.allclose(one, three)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_as_rows_train_a_convolutional_model():
    X = load_digits().data.astype(np.float32)[:300] / 16
    model = VAETransformer(latent=4, input_shape=(1, 8, 8), data_range=(0, 1), epochs=2, random_state=0)
    Z = model.fit_transform(X)
    assert Z.shape == (300, 4) and Z.dtype == np.float32 and type(model.vae_.encoder).__name__ == "ConvEncoder"
    back = model.inverse_transform(Z)
    assert back.shape == X.shape and back.min() >= 0 and back.max() <= 1
    assert list(model.get_feature_names_out()) == [f"vaetransformer{i}" for i in range(4)]
    with pytest.raises(ValueError, match="holds 49 values, and X has 64"):
        clone(model).set_params(input_shape=(1, 7, 7)).fit(X)


def test_a_pipeline_and_a_search_over_it():
    X, y = make_blobs(240, 6, centers=3, random_state=0)
    pipe = make_pipeline(MinMaxScaler(), VAETransformer(**SMALL, random_state=0), LogisticRegression())
    search = GridSearchCV(pipe, {"vaetransformer__latent": [1, 4]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8
    alone = GridSearchCV(VAETransformer(**SMALL, random_state=0), {"epochs": [1, 20]}, cv=2).fit(X)
    assert alone.best_params_ == {"epochs": 20}, "by the ELBO"
    assert len(cross_val_score(pipe, X, y, cv=2)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_finds_odd_rows(kind):
    """Each feature in its usual range, so that only their relation is odd; for distances of latents, rows far off."""
    X = table(600)
    odd = np.column_stack([np.random.default_rng(i).permutation(X[:, i]) for i in range(8)])[:100]
    if kind == "mahalanobis":
        odd = X[:100] + 3 * (X[:100] - X.mean(0))
    detector = VAEAnomalyDetector(
        kind, epochs=60, lr=5e-3, random_state=0,
        model_args={**SMALL["model_args"], "likelihood": {"scale": 0.2}},
    ).fit(X[:400])  # fmt: skip
    scores = np.r_[detector.score_samples(X[400:]), detector.score_samples(odd)]
    assert roc_auc_score(np.r_[np.ones(200), np.zeros(100)], scores) > 0.8


def test_the_contamination_is_the_part_that_is_called_outliers():
    X = table()
    for part in (0.05, 0.25):
        assert (VAEAnomalyDetector(**SMALL, contamination=part).fit_predict(X) == -1).mean() == pytest.approx(part)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"contamination": 0.7}, "contamination: expected"),
        ({"kind": "vibes"}, "kind: expected 'elbo'"),
        ({"epochs": 0}, "epochs: expected"),
        ({"latent": 9}, "n_features = 8"),
    ],
)
def test_arguments_out_of_range_are_refused_when_fitted(args, match):
    with pytest.raises(ValueError, match=match):
        VAEAnomalyDetector(**{"kind": "elbo", **args}).fit(table())
