"""Tests R-hat and effective sample sizes on series for which they are known."""

import numpy as np
import pytest
from scipy import stats

from gradgen.inference.diagnostics import (
    autocorrelation,
    diagnose_traces,
    running_mean,
    summarise,
)
from tests import fakes, targets

NUM_CHAINS, NUM_POINTS = 8, 2000


def traces(log_density):
    return fakes.traces(np.arange(1, log_density.shape[1] + 1), log_density=log_density)


def noise():
    return np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_POINTS))


def test_independent_draws_are_all_effective():
    found = diagnose_traces(traces(noise()), 0, NUM_POINTS)["log_density"]
    assert found["r_hat"] == pytest.approx(1, abs=0.002)
    # the estimate's own error is a few per cent at 16000 draws
    assert found["ess_bulk"] == pytest.approx(NUM_CHAINS * NUM_POINTS, rel=0.1)


def test_autocorrelated_draws_are_worth_what_theory_says():
    """AR(1) with coefficient c: n (1 - c) / (1 + c). Over other seeds the estimate has a standard
    deviation of 7 %; four of them are allowed."""
    c, steps = 0.8, noise()
    series = steps.copy()
    for t in range(1, NUM_POINTS):
        series[:, t] = c * series[:, t - 1] + np.sqrt(1 - c**2) * steps[:, t]
    found = diagnose_traces(traces(series), 0, NUM_POINTS)["log_density"]
    assert found["ess_bulk"] == pytest.approx(NUM_CHAINS * NUM_POINTS / 9, rel=0.28)


def test_chains_in_different_places_are_seen():
    apart = noise() + 2 * np.arange(NUM_CHAINS)[:, None]
    assert diagnose_traces(traces(apart), 0, NUM_POINTS)["log_density"]["r_hat"] > 2


def test_drifting_chains_are_seen_by_splitting():
    drift = noise() + np.linspace(0, 4, NUM_POINTS)
    assert diagnose_traces(traces(drift), 0, NUM_POINTS)["log_density"]["r_hat"] > 1.3


def test_the_warm_up_and_what_never_ran_are_left_out():
    series = noise()
    series[:, :500] += 100
    series[:, 1500:] = np.nan
    found = diagnose_traces(traces(series), 500, 1500)["log_density"]
    assert found["r_hat"] == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("series", [noise()[:, :5], np.ones((4, 100))])
def test_what_cannot_be_told_is_none(series):
    found = diagnose_traces(traces(series), 0, 1000)["log_density"]
    assert found == {"r_hat": None, "ess_bulk": None, "ess_tail": None}


def test_some_chains_that_never_moved_give_no_warning(recwarn):
    series = noise()[:, :100]
    series[2] = 1.0
    found = diagnose_traces(traces(series), 0, 100)["log_density"]
    assert found["r_hat"] is not None
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_one_chain_has_no_r_hat_but_an_effective_sample_size():
    found = diagnose_traces(traces(noise()[:1]), 0, NUM_POINTS)["log_density"]
    assert found["r_hat"] is None and found["ess_bulk"] > 1000


def test_of_a_run():
    result = targets.run(targets.gaussian, 3, 8, method="mala", budget=1000)
    found = diagnose_traces(result.traces, result.warmup_steps, result.step)
    others = {"log_density", "log_likelihood", "squared_norm"}
    assert set(found) == {*others, *(f"projection_{i}" for i in range(4))}
    assert all(0.99 < figures["r_hat"] < 1.2 for figures in found.values())


def test_r_hat_is_the_one_of_vehtari_and_others_from_its_definition():
    """Rank-normalised split R-hat written down from the paper's section 4 with SciPy: of ranks and
    of ranks of the distance to the median, whichever is larger. The tails are heavy, where R-hat
    without ranks says something else."""
    draws = np.random.default_rng(1).standard_t(2, (4, 300)) * np.array([[1], [1], [1], [3]])

    def split_r_hat(chains):
        half = chains.shape[1] // 2
        halves = np.concatenate([chains[:, :half], chains[:, -half:]])
        within = halves.var(1, ddof=1).mean()
        between = half * halves.mean(1).var(ddof=1)
        return np.sqrt(((half - 1) / half * within + between / half) / within)

    def normal_scores(values):
        ranks = stats.rankdata(values).reshape(values.shape)
        return stats.norm.ppf((ranks - 3 / 8) / (values.size + 1 / 4))

    folded = np.abs(draws - np.median(draws))
    expected = max(split_r_hat(normal_scores(draws)), split_r_hat(normal_scores(folded)))
    assert expected > 1.03 > split_r_hat(draws)
    assert summarise(draws)["r_hat"] == pytest.approx(expected, rel=1e-6)


def test_autocorrelation_is_that_of_the_process():
    slow = np.random.default_rng(3).normal(size=(50, 2000))
    for t in range(1, 2000):
        slow[:, t] = 0.7 * slow[:, t - 1] + np.sqrt(1 - 0.7**2) * slow[:, t]
    found = autocorrelation(slow, 5).mean(0)
    np.testing.assert_allclose(found, 0.7 ** np.arange(6), atol=0.03)  # 100 000 draws


def test_running_means_are_those_of_a_convolution_and_skip_gaps():
    rng = np.random.default_rng(2)
    values = rng.uniform(size=(3, 30))
    for width in (1, 4, 7):
        means = running_mean(values, width)
        for row, mean in zip(values, means, strict=True):
            expected = np.convolve(row, np.full(width, 1 / width))[width - 1 : 30]
            np.testing.assert_allclose(mean[width - 1 :], expected, rtol=1e-9)
            assert np.isclose(mean[0], row[0])
    gap = running_mean(np.array([[1.0, 3.0, np.nan, 5.0]]), 3)
    np.testing.assert_allclose(gap, [[1.0, 2.0, np.nan, 4.0]])
