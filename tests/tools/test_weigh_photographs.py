"""Tests moments of weighted codes against NumPy's, and against a Gaussian with known moments."""

import numpy as np
import pytest

from gradgen.tools import weigh_photographs as tool

RNG = np.random.default_rng(0)


def moments(codes, probabilities):
    return tool.weighted_moments(codes, lambda rows: probabilities[rows])


def test_weights_of_one_and_nothing_give_each_class_its_own_moments(monkeypatch):
    monkeypatch.setattr(tool, "ROWS", 7)  # the rows are taken in pieces
    codes = (100 + RNG.normal(size=(40, 3))).astype(np.float32)
    labels = RNG.permutation(np.repeat([0, 1], 20))
    found = moments(codes, np.eye(2)[labels])
    for index in (0, 1):
        own = codes[labels == index].astype(np.float64)
        np.testing.assert_allclose(found["class_mean"][index], own.mean(0), rtol=1e-9)
        np.testing.assert_allclose(found["class_std"][index], own.std(0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(found["effective"], [20, 20])
    np.testing.assert_allclose(found["expected"], [20, 20])
    np.testing.assert_allclose(found["std"], codes.astype(np.float64).std(0, ddof=1), rtol=1e-6)


def test_weights_are_numpys_and_their_scale_does_not_matter():
    codes, weights = RNG.normal(size=(30, 2)), RNG.uniform(size=(30, 1))
    found = moments(codes, weights)
    np.testing.assert_allclose(found["class_mean"][0], np.average(codes, 0, weights[:, 0]))
    covariance = np.cov(codes.T, aweights=weights[:, 0])
    np.testing.assert_allclose(found["class_std"][0] ** 2, np.diag(covariance))
    assert found["effective"][0] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    again = moments(codes, weights / 1000)
    np.testing.assert_allclose(again["class_std"], found["class_std"])


def test_a_calibrated_judge_gives_the_moments_of_the_class():
    """Codes of two Gaussians, weighted by p(class | code): importance weights, so unbiased."""
    means = np.array([[-1.0, 0.0], [1.0, 0.5]])
    labels = RNG.integers(0, 2, 200_000)
    codes = means[labels] + RNG.normal(size=(len(labels), 2))
    log_p = -0.5 * ((codes[:, None] - means) ** 2).sum(-1)
    p = np.exp(log_p - log_p.max(1, keepdims=True))
    found = moments(codes, p / p.sum(1, keepdims=True))
    np.testing.assert_allclose(found["class_mean"], means, atol=0.02)
    np.testing.assert_allclose(found["class_std"], 1, atol=0.02)


def test_agreement_is_the_correlation_over_units_of_matching_rows():
    theirs = {"class_mean": RNG.normal(size=(3, 50)), "class_std": RNG.uniform(1, 2, (3, 50))}
    rows = np.array([4, 0, 2])
    ours = {name: np.zeros((5, 50)) for name in theirs}
    for name, values in theirs.items():
        ours[name] = RNG.normal(size=(5, 50))
        ours[name][rows] = 2 * values + 1
    found = tool.agreement(ours, theirs, rows)
    assert found["class_mean"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
