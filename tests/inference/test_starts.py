"""Tests where chains begin, on targets with known posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradgen.inference.starts import choose_starts

SEEN, NOISE = 1.5, 0.6  # an observation of each coordinate, and its deviation


def normal(key, code_size):
    return jax.random.normal(key, (code_size,))


def coin(key, code_size):
    return jnp.where(jax.random.bernoulli(key, 0.5, (code_size,)), 1.0, -1.0)


def observed(params, z):
    """Elementwise and over few coordinates, so that batches change no bit."""
    return -0.5 * jnp.sum((z - params["seen"]) ** 2, axis=-1) / NOISE**2


def three_to_one(params, z):
    return jnp.where(z[:, 0] > 0, jnp.log(3.0), 0.0)


def positive_is_no_number(params, z):
    return jnp.where(z[:, 0] > 0, jnp.nan, 0.0)


def no_number(params, z):
    return jnp.full(len(z), jnp.nan)


def chosen(log_likelihood, num_chains, num_candidates, draw=normal, code_size=1, **given):
    keys = jax.random.split(jax.random.key(3), num_chains)
    params = {"seen": jnp.float32(SEEN)}
    return np.asarray(
        choose_starts(keys, draw, code_size, log_likelihood, params, num_candidates, **given)
    )


def test_with_many_candidates_starts_are_draws_of_the_posterior():
    num_chains, num_candidates = 2000, 1000
    starts = chosen(observed, num_chains, num_candidates)[:, 0]
    shrunk = 1 / (1 + NOISE**2)
    posterior = stats.norm(SEEN * shrunk, NOISE * np.sqrt(shrunk))
    # Under the prior, E L² / (E L)² is 2.2. By Agapiou et al. 2017 (theorem 2.1), no probability is
    # off by more than 6 times that over the number of candidates.
    likelihood = stats.norm(SEEN, NOISE).pdf
    mean, square = (stats.norm().expect(lambda z, k=k: likelihood(z) ** k) for k in (1, 2))
    bias = 6 * square / mean**2 / num_candidates
    # Kolmogorov's 1 - 10^-4 quantile is 2.23: false alarm 1 in 10^4, once. The prior is 0.5 away.
    assert stats.kstest(starts, posterior.cdf).statistic < bias + 2.23 / np.sqrt(num_chains)


@pytest.mark.parametrize(("num_candidates", "share"), [(1, 1 / 2), (2, 5 / 8), (3, 47 / 70)])
def test_few_candidates_are_chosen_in_proportion_to_their_likelihood(num_candidates, share):
    # Sum over the number k of heads of C(n, k) / 2^n · 3k / (3k + n - k).
    num_chains = 20_000
    found = (chosen(three_to_one, num_chains, num_candidates, coin) > 0).mean()
    # 4.5 standard errors: false alarm 7 in 10^6, and neighbouring shares are 12 and more apart.
    assert abs(found - share) < 4.5 * np.sqrt(share * (1 - share) / num_chains)


def test_a_start_depends_neither_on_other_groups_nor_on_pauses():
    whole = chosen(observed, 12, 20, code_size=3, group_size=4)
    keys = jax.random.split(jax.random.key(3), 12)[4:8]
    params = {"seen": jnp.float32(SEEN)}
    alone = choose_starts(keys, normal, 3, observed, params, 20, group_size=4)
    np.testing.assert_array_equal(alone, whole[4:8])
    paused = chosen(observed, 12, 20, code_size=3, group_size=4, at_once=7)
    np.testing.assert_array_equal(paused, whole)
    filled_up = chosen(observed, 12, 20, code_size=3, group_size=8)
    assert filled_up.shape == whole.shape


def test_each_chain_has_its_own_likelihood():
    seen = jnp.asarray([-2.0] * 50 + [2.0] * 50)[:, None]
    starts = chosen(observed, 100, 64, chain_params={"seen": seen})[:, 0]
    # The posteriors' means are ∓1.47, 5.7 of the mean's standard errors of 0.51 / √50 from ∓1.06.
    assert starts[:50].mean() < -1.06 and starts[50:].mean() > 1.06


def test_candidates_are_moved_into_the_bounds_before_they_are_weighed():
    bounds = jnp.full((200, 1), -1.0), jnp.full((200, 1), 0.25)
    starts = chosen(observed, 200, 64, bounds=bounds)
    assert (starts >= -1).all() and (starts <= 0.25).all()
    assert (starts == 0.25).mean() > 0.5  # by its likelihood, the wall nearer to 1.5


def test_candidates_without_a_likelihood_are_impossible():
    assert (chosen(positive_is_no_number, 200, 64) <= 0).all()


def test_where_no_candidate_is_possible_the_first_is_taken():
    starts = chosen(no_number, 5, 8)
    assert np.isfinite(starts).all()
    np.testing.assert_array_equal(starts, chosen(no_number, 5, 1))
