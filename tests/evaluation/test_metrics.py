"""Tests metrics against cases that are worked out by hand, and against libraries."""

import numpy as np
import pytest
from scipy import special, stats
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


def test_distance_within_is_the_mean_over_classes_that_have_pairs():
    rows, classes = RNG.standard_normal((9, 5)), np.array([0, 0, 0, 3, 3, 3, 3, 7, 0])
    groups = metrics.by_class(rows, classes)
    np.testing.assert_array_equal(groups[1], rows[3:7])
    each = [pdist(rows[classes == index], "cosine").mean() for index in (0, 3)]
    assert metrics.mean_distance_within(groups) == pytest.approx(np.mean(each))
    assert metrics.mean_distance_within([rows[:1]]) is None


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
    assert metrics.bootstrap_interval(lambda rows: None, [np.arange(30)]) is None


@pytest.mark.parametrize(("classes", "each"), [(2, 4), (10, 3), (1, 8)])
def test_intervals_of_few_pictures_hold_the_truth_nearly_as_often_as_they_say(classes, each):
    hits, trials = 0, 300
    rows = [np.arange(each) + each * number for number in range(classes)]
    for trial in range(trials):
        values = np.random.default_rng(trial).standard_normal(classes * each)
        low, high = metrics.bootstrap_interval(
            lambda chosen, values=values: float(values[chosen].mean()), rows, seed=trial
        )
        hits += low < 0 < high
    assert 0.88 <= hits / trials <= 0.99  # three standard errors of 0.95 are 0.04


@pytest.mark.parametrize(
    "groups",
    [[np.arange(2)], [np.arange(7)], [np.arange(2) + 2 * number for number in range(10)]],
)
def test_of_too_few_pictures_there_is_no_interval(groups):
    values = np.random.default_rng(0).standard_normal(20)
    assert metrics.bootstrap_interval(lambda rows: float(values[rows].mean()), groups) is None


def test_a_sign_is_told_by_students_t():
    rng = np.random.default_rng(6)
    for count in (2, 3, 5, 20):
        for row in rng.standard_normal((100, count)) + 0.8:
            mean, error = metrics.clustered_mean(row, np.arange(count))
            found = metrics.sign_of_mean(mean, error, count)
            test = stats.ttest_1samp(row, 0)
            assert (found is not None) == (test.pvalue < 0.05)
            assert found in (None, np.sign(mean))
    assert metrics.sign_of_mean(3.0, None, 1) is None


def test_shares_of_the_first_and_of_the_five_likeliest_by_sorting():
    log_p = np.random.default_rng(3).normal(size=(200, 20))
    classes = np.random.default_rng(4).integers(0, 20, 200)
    order = np.argsort(-log_p, axis=1)
    expected = [
        np.mean([c in row[:k] for c, row in zip(classes, order, strict=True)]) for k in (1, 5)
    ]
    assert metrics.top1_and_top5(log_p, classes) == pytest.approx(expected)


def test_log_softmax_is_scipys_also_for_large_logits():
    logits = np.random.default_rng(5).normal(size=(7, 4)) * 800
    np.testing.assert_allclose(metrics.log_softmax(logits), special.log_softmax(logits, axis=1))


def test_psnr_by_hand_in_both_ranges():
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    assert metrics.psnr(images, images + 10) == pytest.approx(20 * np.log10(255 / 10))
    ours = images / 127.5 - 1
    assert metrics.psnr(ours, ours + 10 / 127.5, span=2) == pytest.approx(20 * np.log10(25.5))
    assert np.isfinite(metrics.psnr(images, images))


def test_calibration_error_of_a_hand_worked_case():
    # two bins: confidence 0.9 with 3 of 4 right (gap 0.15), confidence 0.6 with 1 of 1 (gap 0.4)
    p = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, 0])
    expected = 0.8 * 0.15 + 0.2 * 0.4
    assert metrics.calibration_error(np.log(p), labels) == pytest.approx(expected)
