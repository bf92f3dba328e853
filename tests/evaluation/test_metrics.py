"""Metrics against hand-worked cases and libraries."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from gradgen.evaluation import metrics

RNG = np.random.default_rng(0)


def test_cosine_distance_is_scipys():
    rows = RNG.standard_normal((9, 5))
    assert metrics.mean_cosine_distance(rows) == pytest.approx(pdist(rows, "cosine").mean())
    assert metrics.mean_cosine_distance(rows[:1]) is None
    assert metrics.mean_cosine_distance(np.array([[1.0, 0], [0, 2], [-3, 0]])) == pytest.approx(
        4 / 3
    )


def test_vendi_score_counts_what_is_different():
    assert metrics.vendi_score(np.ones((7, 3))) == pytest.approx(1)
    assert metrics.vendi_score(np.eye(6)) == pytest.approx(6)
    # two equal pairs, orthogonal to each other
    assert metrics.vendi_score(np.eye(2).repeat(2, 0)) == pytest.approx(2)
    rows = metrics.unit_rows(RNG.standard_normal((8, 20)))
    values = np.linalg.eigvalsh(rows @ rows.T / 8)  # the definition
    assert metrics.vendi_score(rows) == pytest.approx(np.exp(-np.sum(values * np.log(values))))


def test_saturation_counts_the_limits():
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    images[1, 0, :, 0] = 255
    images[1, 1, :2, 1] = 0
    np.testing.assert_allclose(metrics.saturated_share(images), [0, 6 / 48])


def test_chroma_is_opencvs():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; it is the oracle here")
    images = RNG.integers(0, 256, (3, 8, 9, 3), np.uint8)
    expected = []
    for image in images:
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        expected.append(np.hypot(lab[..., 1], lab[..., 2]).mean())
    np.testing.assert_allclose(metrics.mean_chroma(images), expected, rtol=2e-3)
    grey = np.full((1, 2, 2, 3), 77, np.uint8)
    np.testing.assert_allclose(metrics.mean_chroma(grey), 0, atol=1e-3)


def test_kid_is_the_definition_and_unbiased():
    x, y = RNG.standard_normal((3, 4)), RNG.standard_normal((5, 4)) + 1

    def k(a, b):
        return (a @ b / 4 + 1) ** 3

    expected = np.mean([k(x[i], x[j]) for i in range(3) for j in range(3) if i != j])
    expected += np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    expected -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert metrics.kid(x, y) == pytest.approx(expected)
    same = [metrics.kid(*RNG.standard_normal((2, 20, 4))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20  # four standard errors
    with pytest.raises(ValueError, match="at least two"):
        metrics.kid(x[:1], y)


def test_ranks():
    log_p = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(metrics.ranks(log_p, np.array([0, 0, 1])), [0, 2, 0])


def test_farthest_points_spread_out():
    angles = np.array([0, 1, 2, 90, 91, 180])
    rows = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1)
    # 180 is farthest from the mean, 0 from 180, and 90 nearest to neither
    assert metrics.farthest_points(rows, 3) == [5, 0, 3]
    assert sorted(metrics.farthest_points(rows, 10)) == list(range(6))
    assert len(set(metrics.farthest_points(np.ones((4, 2)), 4))) == 4


def test_the_clustered_mean_weighs_classes_alike():
    values, classes = np.array([1.0, 3.0, 10.0, 4.0]), np.array(["a", "a", "b", "c"])
    mean, error = metrics.clustered_mean(values, classes)
    assert mean == pytest.approx((2 + 10 + 4) / 3)
    assert error == pytest.approx(np.std([2, 10, 4], ddof=1) / np.sqrt(3))
    assert metrics.clustered_mean(values[:2], classes[:2]) == (2.0, None)


def test_the_bootstrap_covers_a_mean_as_often_as_it_says():
    hits = 0
    for trial in range(200):
        values = np.random.default_rng(trial).standard_normal(40)
        low, high = metrics.bootstrap_interval(
            lambda rows, values=values: float(values[rows].mean()), [np.arange(40)], 200, 0.9, trial
        )
        hits += low < 0 < high
    assert 0.8 < hits / 200 < 0.97  # 0.9 less the percentile method's bias at n = 40; s.e. 0.021
    assert metrics.bootstrap_interval(lambda rows: None, [np.arange(3)]) is None
