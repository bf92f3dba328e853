"""Split R-hat and effective sample sizes of series for which they are known."""

import numpy as np
import pytest

from gradgen.inference.diagnostics import diagnose, diagnose_traces
from tests import targets

NUM_CHAINS, NUM_POINTS = 8, 2000


def traces(log_density, projections=None):
    num_chains, num_points = log_density.shape
    empty = np.zeros((num_chains, num_points, 0))
    return {
        "step": np.arange(1, num_points + 1),
        "log_density": log_density,
        "projections": empty if projections is None else projections,
    }


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
    found = diagnose(result)
    assert set(found) == {"log_density", *(f"projection_{i}" for i in range(4))}
    assert all(0.99 < figures["r_hat"] < 1.2 for figures in found.values())
