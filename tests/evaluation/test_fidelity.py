"""Metrics of sets of pictures, against the papers' formulas and torch-fidelity."""

import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.distance import cdist

from gradgen.evaluation import fidelity
from gradgen.evaluation.fidelity import (
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)

RNG = np.random.default_rng(0)


def features(count, size=24, shift=0.0, seed=0):
    """Correlated rows, as a network's features are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((size, size))
    return (rng.standard_normal((count, size)) @ mixing + shift).astype(np.float32)


def test_fid_is_the_formula_of_heusel_with_a_matrix_square_root():
    x, y = features(300, shift=0.5, seed=1), features(250, seed=2)
    sigma, tau = np.cov(x.T.astype(float)), np.cov(y.T.astype(float))
    root = linalg.sqrtm(sigma @ tau).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(sigma + tau - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_fid_of_fewer_pictures_than_dimensions_is_the_limit_of_the_formula():
    x, y = features(12, seed=3), features(15, seed=4)
    tiny = 1e-9 * np.eye(24)
    sigma, tau = np.cov(x.T.astype(float)) + tiny, np.cov(y.T.astype(float)) + tiny
    values = np.linalg.eigvals(sigma @ tau)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(sigma + tau)
    expected -= 2 * np.sqrt(np.maximum(values.real, 0)).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-3)


def test_fid_of_a_shifted_and_stretched_set_is_the_closed_form():
    x = RNG.standard_normal((200, 5))
    expected = np.sum((2 + 2 * x.mean(0)) ** 2) + 4 * np.trace(np.cov(x.T))
    assert frechet_distance(3 * x + 2, x) == pytest.approx(expected)


def test_kid_is_the_definition_and_unbiased():
    x, y = RNG.standard_normal((3, 4)), RNG.standard_normal((5, 4)) + 1

    def k(a, b):
        return (a @ b / 4 + 1) ** 3

    expected = np.mean([k(x[i], x[j]) for i in range(3) for j in range(3) if i != j])
    expected += np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    expected -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(expected)
    same = [kernel_distance(*RNG.standard_normal((2, 20, 4))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20  # four standard errors
    with pytest.raises(ValueError, match="at least two"):
        kernel_distance(x[:1], y)


def test_precision_and_recall_are_the_definition_of_kynkaanniemi():
    made, real = features(60, 3, 1.0, seed=5).astype(float), features(80, 3, seed=6).astype(float)

    def lives_in(points, others, k=3):
        """Equation 1: within the k-th neighbour's distance of any other."""
        radius = [np.sort(np.linalg.norm(others - other, axis=1))[k] for other in others]
        return [
            any(np.linalg.norm(p - o) <= r for o, r in zip(others, radius, strict=True))
            for p in points
        ]

    precision, recall = precision_and_recall(made, real)
    assert 0.1 < precision.mean() < 0.99
    np.testing.assert_array_equal(precision, lives_in(made, real))
    np.testing.assert_array_equal(recall, lives_in(real, made))


def test_density_and_coverage_are_the_definition_of_naeem():
    made, real = features(60, 3, 1.0, seed=7), features(80, 3, seed=8)
    k = 5
    radius = np.sort(cdist(real, real), axis=1)[:, k]
    inside = cdist(made, real) < radius
    density, coverage = density_and_coverage(made, real)
    assert density.mean() == pytest.approx(inside.sum() / (k * len(made)))
    assert coverage.mean() == pytest.approx(inside.any(0).mean())


def test_an_outlier_among_the_photographs_raises_precision_and_not_density():
    """The case that density was made for: figure 1 of Naeem et al."""
    real = np.concatenate([features(80, 3, seed=9), np.full((1, 3), 60.0, np.float32)])
    made = features(60, 3, 12.0, seed=10)
    assert precision_and_recall(made, real)[0].mean() > 0.5
    assert density_and_coverage(made, real)[0].mean() < 0.3


def test_all_are_torch_fidelitys_on_the_same_features():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
        from torch_fidelity.metric_kid import kid_features_to_metric
        from torch_fidelity.metric_prc import prc_features_to_metric
    except (ImportError, RuntimeError) as error:  # torchvision of another PyTorch: RuntimeError
        pytest.skip(f"torch-fidelity, the oracle, is not installed or does not load: {error}")

    x, y = features(300, shift=0.5, seed=1), features(300, seed=2)
    tensors = [torch.from_numpy(each) for each in (x, y)]
    statistics = [fid_features_to_statistics(tensor) for tensor in tensors]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-3)
    found = kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=300, verbose=False)
    theirs = found["kernel_inception_distance_mean"]
    assert kernel_distance(x, y) == pytest.approx(theirs, rel=1e-3)
    found = prc_features_to_metric(*tensors, verbose=False)  # pictures first, since version 0.4
    precision, recall = precision_and_recall(x, y)
    assert precision.mean() == pytest.approx(found["precision"], rel=1e-3)
    assert recall.mean() == pytest.approx(found["recall"], rel=1e-3)


def test_every_metric_has_an_interval_that_holds_it_or_is_refused():
    made, real = features(600, 8, 0.3, seed=11), features(550, 8, seed=12)
    found, notes = fidelity.fidelity(made, real)
    assert notes == [] and set(found) == set(fidelity.LEAST)
    for key, value in found.items():
        assert value.low < value.value < value.high, key
    found, notes = fidelity.fidelity(made[:60], real)
    assert found["fid"].value is None and found["coverage"].value is not None
    assert notes == [
        "no FID, which needs at least 500 pictures and 500 photographs; there are 60 and 550"
    ]
    found, notes = fidelity.fidelity(made[:9], real)
    assert all(value.value is None for value in found.values()) and len(notes) == 3


def test_the_intervals_of_kid_and_fid_are_about_as_wide_as_they_say(monkeypatch):
    """The truth is 0 for KID, and for FID the mean over many sets, which its bias is part of."""
    monkeypatch.setitem(fidelity.LEAST, "fid", 10)
    found = [
        fidelity.fidelity(features(60, 4, seed=2 * trial), features(60, 4, seed=2 * trial + 1))[0]
        for trial in range(40)
    ]
    for key, truth in (("kid", 0.0), ("fid", np.mean([each["fid"].value for each in found]))):
        hits = np.mean([each[key].low <= truth <= each[key].high for each in found])
        assert hits > 0.8, key  # 0.95 less a bootstrap's error; three standard errors are 0.1
