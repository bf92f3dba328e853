"""Tests replica exchange: chains that change their mode, exactly, and resume to the same bits.

A test of a distribution fails by chance with probability ALPHA per statistic; its draws are the
ends of chains that share nothing, and so are independent.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradgen.errors import UsageError
from gradgen.inference import (
    Evaluation,
    SamplerSettings,
    run_chains,
    state_from_arrays,
    state_to_arrays,
)
from gradgen.inference.diagnostics import diagnose_traces, in_agreement, worst_r_hat
from gradgen.inference.replicas import weights
from gradgen.networks.prior import STANDARD_NORMAL
from tests import targets

ALPHA = 1e-4
SHARES = np.array([0.3, 0.7])
MODES, WIDTHS = np.array([[-1.2, 0.0], [2.4, 0.0]]), np.array([0.4, 0.25])


def log_two_modes(z):
    """0.3 N(m0, 0.4² I) + 0.7 N(m1, 0.25² I); between them its density falls by e^-9 and more."""
    gap = jnp.sum((z - jnp.asarray(MODES)) ** 2, axis=-1)
    return jax.nn.logsumexp(
        jnp.log(jnp.asarray(SHARES)) - 0.5 * gap / WIDTHS**2 - 2 * jnp.log(jnp.asarray(WIDTHS))
    )


two_modes = targets.batched(log_two_modes)


def elementwise(params, z):
    """N(0, 0.5² I), by elementwise operations only, so that batches change no bit."""
    log_density = -2 * (z[:, 0] ** 2 + z[:, 1] ** 2)
    return Evaluation(log_density, -4 * z, log_density)


def in_the_lesser_mode(num_chains):
    return MODES[0] + WIDTHS[0] * np.random.default_rng(6).normal(size=(num_chains, 2))


def test_plain_chains_miss_a_mode_and_agree_and_replicas_find_it():
    """Both start in the mode of weight 0.3. Of the ends of 400 chains with replicas those in the
    other mode are Binomial(400, 0.7): without exchanges there would be none, with a wrong
    acceptance 0.1 more or less, which is four deviations."""
    plain = targets.run(
        two_modes,
        2,
        8,
        z0=in_the_lesser_mode(8),
        method="hmc",
        budget=1200,
        trace_length=200,
        block_size=1200,
    )
    figures = diagnose_traces(plain.traces, plain.warmup_steps, plain.step)
    assert in_agreement(figures)
    assert np.asarray(plain.state.position)[:, 0].max() < 0.5  # in a mode that has 0.3 of all

    found = targets.run(
        two_modes, 2, 400, z0=in_the_lesser_mode(400), prior=STANDARD_NORMAL,
        method="hmc", budget=1500, replicas=3, trace_length=100, block_size=500,
    )  # fmt: skip
    draws = np.asarray(found.state.position, np.float64)
    there = int(np.sum(draws[:, 0] > 0.5))
    assert stats.binomtest(there, len(draws), SHARES[1]).pvalue > ALPHA
    for axis in range(2):
        p_value = stats.kstest(draws[:, axis], lambda x, axis=axis: _mixture(x, axis)).pvalue
        assert p_value > ALPHA, (axis, p_value)
    replicas = found.state.replicas
    assert np.asarray(replicas.arrivals).mean() > 5
    rate = np.asarray(replicas.accepted.sum(0) / replicas.offered.sum(0))
    assert (rate > 0.2).all() and (rate < 1).all()

    # where chains sit in different modes they disagree, and what diagnose recommends then helps
    apart = in_the_lesser_mode(8) + np.repeat([[0.0, 0.0], MODES[1] - MODES[0]], 4, axis=0)
    plain = targets.run(
        two_modes, 2, 8, z0=apart, method="hmc", budget=1200, trace_length=200, block_size=1200
    )
    worst = worst_r_hat(diagnose_traces(plain.traces, plain.warmup_steps, plain.step))
    some = found.traces.of(np.arange(8))
    assert worst_r_hat(diagnose_traces(some, found.warmup_steps, found.step)) < 1.3 < worst


def _mixture(x, axis):
    each = stats.norm.cdf((np.asarray(x)[..., None] - MODES[:, axis]) / WIDTHS)
    return each @ SHARES


def test_draws_from_the_prior_alone_sample_the_target():
    """Steps so small that the chain moves only where it takes one of the prior's draws. They are
    three at a time: the length is three steps, more or less."""
    result = targets.run(
        two_modes, 2, 1000, z0=in_the_lesser_mode(1000), prior=STANDARD_NORMAL, method="hmc",
        step_size=1e-5, trajectory_length=3e-5, budget=4000, replicas=2, trace_length=10,
        block_size=2000,
    )  # fmt: skip
    draws = np.asarray(result.state.position, np.float64)
    assert stats.binomtest(int(np.sum(draws[:, 0] > 0.5)), len(draws), 0.7).pvalue > ALPHA
    assert stats.kstest(draws[:, 1], lambda x: _mixture(x, 1)).pvalue > ALPHA


@pytest.mark.parametrize(
    ("given", "each"),
    [
        ({"method": "mala", "replicas": 2}, 2),
        ({"method": "hmc", "num_integration_steps": 5, "replicas": 3}, 11),
    ],
)
def test_all_replicas_gradients_are_counted(given, each):
    """Codes that are evaluated: those of the rungs that move, and a draw from the prior a step."""
    count = []

    def value_and_grad(params, z):
        jax.debug.callback(lambda: count.append(len(z)))
        return elementwise(params, z)

    settings = {"budget": 43, "step_size": 0.3, "block_size": 43 // each}
    result = targets.run(value_and_grad, 2, 5, prior=STANDARD_NORMAL, **settings, **given)
    jax.effects_barrier()
    assert result.step == 43 // each
    assert result.gradient_evaluations == given["replicas"] + each * result.step
    assert sum(count) == 5 * result.gradient_evaluations


def test_chains_with_replicas_resume_to_the_same_bits():
    keys, z0 = targets.chain_keys(4), jnp.asarray(in_the_lesser_mode(4), jnp.float32)
    settings = SamplerSettings(method="hmc", budget=160, replicas=4, block_size=8)
    kept = {}

    def on_block(block):
        arrays = state_to_arrays(block.state)
        kept[block.step] = {name: np.copy(a) for name, a in arrays.items()}, block.traces.copy()

    def run(keys, state=None, traces=None):
        return run_chains(
            keys, z0, elementwise, None, settings, state=state, traces=traces,
            on_block=on_block, group_size=2, prior=STANDARD_NORMAL,
        )  # fmt: skip

    whole = run(keys)
    arrays, traces = kept[16]
    resumed = run(keys, state_from_arrays(arrays), traces)
    after = state_to_arrays(resumed.state)
    for name, values in state_to_arrays(whole.state).items():
        assert np.array_equal(after[name], values, equal_nan=True), name
    for name, values in whole.traces.to_arrays().items():
        assert np.array_equal(resumed.traces.to_arrays()[name], values, equal_nan=True), name
    # a chain depends on its own key, and not on the chains beside its group
    again = run(jnp.concatenate([targets.chain_keys(2, seed=9), keys[2:]]))
    assert np.array_equal(again.state.position[2:], whole.state.position[2:])
    assert not np.array_equal(again.state.position[:2], whole.state.position[:2])
    # all rungs of a chain end their trajectories together, on ways of their own
    first, others = whole.state.trajectory, whole.state.replicas.others.trajectory
    for rung in range(2):
        assert np.array_equal(others.remaining[:, rung], first.remaining)
        assert np.array_equal(others.ended[:, rung], first.ended)
        assert not np.array_equal(others.momentum[:, rung], first.momentum)


def test_the_ladder_is_geometric():
    np.testing.assert_allclose(weights(4, jnp.float32(0.3)), [1, 0.3, 0.09, 0.027], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "map", "replicas": 2}, "`replicas` does nothing for map"),
        ({"replicas": 2, "clip_mode": "project"}, "`replicas` change places exactly"),
        ({"replicas": 65}, "`replicas` 65"),
        ({"replicas": 4, "replica_ratio": 1.0}, "`replica_ratio` 1.0"),
        ({"replicas": 5, "budget": 4}, "less than the 5 gradients of one step"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        SamplerSettings(**given)
