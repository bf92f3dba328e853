"""Tests the driver of chains: budgets, schedules, traces, resuming, clipping and interruptions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradgen.errors import UsageError
from gradgen.evaluation.diagnose import FLOOR
from gradgen.inference import (
    SamplerSettings,
    init_chains,
    run_chains,
    state_from_arrays,
    state_to_arrays,
    timeline_of,
)
from gradgen.inference.chain import first_step_size, projection_vectors, run_block
from gradgen.inference.diagnostics import diagnose_traces, smallest_ess, worst_r_hat
from gradgen.inference.types import Evaluation
from tests import targets

MALA = {"method": "mala", "step_size": 0.3}
HMC = {"method": "hmc", "step_size": 0.5, "num_integration_steps": 4, "step_jitter": 0.2}
MAP = {"method": "map", "step_size": 0.05}
LONG = {"method": "hmc", "step_size": 0.5, "trajectory_length": 2.0}
EVERY = {
    "mala": MALA,
    "hmc": HMC,
    "map": MAP,
    "warm-up": HMC | {"step_size": None},
    "trajectories": LONG | {"step_size": None},
}


def counting_target():
    """A target that counts how often it is evaluated when the compiled program runs."""
    count = []

    def value_and_grad(params, z):
        jax.debug.callback(lambda: count.append(1))
        return targets.independent(params, z)

    return value_and_grad, count


@pytest.mark.parametrize(
    ("given", "gradients_per_step"),
    [(MALA, 1), (HMC, 4), (MAP, 1), (LONG, 1), (MALA | {"step_size": None}, 1)],
)
def test_gradient_evaluations_are_what_the_budget_says(given, gradients_per_step):
    """One a MALA or MAP step, L an HMC iteration, one at the start; the warm-up counts too."""
    value_and_grad, count = counting_target()
    result = targets.run(value_and_grad, 3, 5, budget=43, **given)
    jax.effects_barrier()
    steps = 43 // gradients_per_step
    assert result.step == result.num_steps == steps
    assert len(count) == result.gradient_evaluations == 1 + steps * gradients_per_step


def test_the_warm_up_is_part_of_the_budget():
    result = targets.run(targets.independent, 3, 5, method="mala", budget=200)
    assert (result.num_steps, result.warmup_steps) == (200, 30)
    assert result.gradient_evaluations == 201
    fixed = targets.run(targets.independent, 3, 5, budget=200, **MALA)
    assert fixed.warmup_steps == 0


def test_a_warm_up_has_five_steps_or_half_of_all():
    steps = {
        budget: SamplerSettings(method="hmc", budget=budget, num_integration_steps=10).warmup_steps
        for budget in (10, 30, 50, 100, 300, 400)
    }
    assert steps == {10: 1, 30: 1, 50: 2, 100: 5, 300: 5, 400: 6}
    # trajectories: five of ten leapfrog steps, or half of all
    assert [SamplerSettings(budget=b).warmup_steps for b in (1, 30, 100, 1000)] == [1, 15, 50, 150]


@pytest.mark.parametrize("budget", [50, 100])
def test_a_short_warm_up_leaves_chains_that_move(budget):
    """Drawn to ten times the first guess, as longer searches are, two trajectories would end at a
    step at which leapfrog is unstable (2 / frequency is the limit), and nothing be accepted."""
    frequency = 5.0
    stiff = targets.batched(lambda z: -0.5 * frequency**2 * jnp.sum(z**2))
    start = jax.random.normal(jax.random.key(0), (32, 10)) / frequency
    result = targets.run(stiff, 10, 32, z0=start, method="hmc", budget=budget)
    assert 10 * first_step_size(SamplerSettings(method="hmc"), 10) > 2 / frequency
    assert result.acceptance_rate.mean() > 0.4


@pytest.mark.parametrize("name", EVERY)
def test_block_size_and_resuming_change_no_bit(name):
    given = EVERY[name] | {"budget": 240, "trace_length": 30}
    whole = targets.run(targets.gaussian, 3, 4, **given)
    settings = SamplerSettings(**given, block_size=3)  # less than a window's steps
    keys, z0 = targets.chain_keys(4), 3 * jax.random.normal(jax.random.key(1000), (4, 3))
    stride = timeline_of(settings).stride
    stop_at = stride * 11 + stride // 2
    first = run_chains(keys, z0, targets.gaussian, None, settings, stop_at=stop_at)
    assert first.step == stop_at
    state = state_from_arrays(state_to_arrays(first.state))
    # keys and start are not looked at again: all is in the state
    rest = run_chains(
        keys, jnp.zeros((4, 3)), targets.gaussian, None, settings, state=state, traces=first.traces
    )
    for name, value in state_to_arrays(whole.state).items():
        np.testing.assert_array_equal(value, state_to_arrays(rest.state)[name], err_msg=name)
    for name, value in whole.traces.to_arrays().items():
        np.testing.assert_array_equal(value, rest.traces.to_arrays()[name], err_msg=name)
    np.testing.assert_array_equal(whole.acceptance_rate, rest.acceptance_rate)


@pytest.mark.parametrize("name", EVERY)
def test_a_form_of_chains_is_compiled_once(name):
    """Whatever the budget, the warm-up and the trace, and on whichever side of the first block."""
    value_and_grad, _ = counting_target()  # which no other test has compiled
    before = run_block._cache_size()
    for budget, length in ((240, 300), (480, 20), (720, 30)):
        given = EVERY[name] | {"budget": budget, "trace_length": length, "block_size": 12}
        targets.run(value_and_grad, 3, 4, **given)
    # a block is 12 windows of a step, or a part of a window of 24 (for HMC, 2 windows of 6)
    assert run_block._cache_size() - before == 2


@pytest.mark.parametrize("name", EVERY)
def test_a_chain_does_not_depend_on_the_others(name):
    settings = SamplerSettings(**EVERY[name], budget=120)
    keys, z0 = targets.chain_keys(5), jax.random.normal(jax.random.key(9), (5, 3))
    together = run_chains(keys, z0, targets.independent, None, settings)
    alone = run_chains(keys[3:4], z0[3:4], targets.independent, None, settings)
    # XLA may sum three numbers in another order for another batch; a few roundings, over 120 steps
    np.testing.assert_allclose(
        together.state.position[3], alone.state.position[0], rtol=1e-4, atol=1e-4
    )


def test_other_keys_give_other_chains():
    one, two = (targets.run(targets.gaussian, 3, 2, budget=50, seed=s, **MALA) for s in (0, 1))
    assert not np.allclose(one.state.position, two.state.position)
    assert not np.allclose(one.state.position[0], one.state.position[1])


@pytest.mark.parametrize(
    ("budget", "length", "points"), [(1000, 7, 7), (1000, 300, 250), (5, 9, 5)]
)
def test_the_trace_is_bounded_and_ends_with_the_chain(budget, length, points):
    result = targets.run(targets.gaussian, 3, 4, budget=budget, trace_length=length, **MALA)
    traces = result.traces
    assert len(traces.step) == points <= length
    assert traces.step[-1] == budget and (np.diff(traces.step) > 0).all()
    assert traces.projections.shape == (4, points, 4)
    for name in ("log_density", "log_likelihood", "acceptance", "step_size", "squared_norm"):
        values = getattr(traces, name)
        assert values.shape == (4, points) and np.isfinite(values).all()
    position = np.asarray(result.state.position)
    np.testing.assert_allclose(traces.squared_norm[:, -1], (position**2).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(traces.log_density[:, -1], result.state.log_density)
    vectors = np.asarray(projection_vectors(4, 3))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(traces.projections[:, -1], position @ vectors, rtol=1e-5, atol=1e-5)


def test_acceptance_in_the_trace_is_the_mean_over_its_window():
    fine = targets.run(targets.gaussian, 3, 4, budget=60, trace_length=60, **MALA)
    coarse = targets.run(targets.gaussian, 3, 4, budget=60, trace_length=12, **MALA)
    windows = fine.traces.acceptance.reshape(4, 12, 5).mean(2)
    np.testing.assert_allclose(coarse.traces.acceptance, windows, rtol=1e-6)
    np.testing.assert_allclose(fine.acceptance_rate, windows.mean(1), rtol=1e-5)


def test_step_size_and_noise_follow_their_schedules():
    """What the chain used, from the trace: alpha_t = a ((b + t) / b)^-gamma after the warm-up."""
    decaying = targets.run(
        targets.gaussian, 3, 2, budget=50, step_decay=0.7, step_decay_offset=5.0, **MALA
    )
    t = np.arange(50)
    expected = 0.3 * ((5 + t) / 5) ** -0.7
    np.testing.assert_allclose(decaying.traces.step_size[0], expected, rtol=1e-5)

    warmed = targets.run(targets.gaussian, 3, 2, method="mala", budget=100, step_decay=0.7)
    sizes = warmed.traces.step_size
    t = np.arange(100 - warmed.warmup_steps)
    np.testing.assert_allclose(
        sizes[:, warmed.warmup_steps :], warmed.step_size[:, None] * (1.0 + t) ** -0.7, rtol=1e-4
    )


def test_annealed_noise_reaches_the_kernel():
    """With epsilon ~ 0 the proposal is the gradient step itself. On a flat target it is accepted
    (the densities cancel), and nothing moves; with epsilon = 1 everything does."""
    flat = targets.batched(lambda z: 0.0 * jnp.sum(z))
    z0 = np.zeros((3, 2))
    still = targets.run(flat, 2, 3, z0=z0, budget=10, noise_scale=1e-12, **MALA)
    assert np.abs(still.state.position).max() < 1e-4
    moving = targets.run(flat, 2, 3, z0=z0, budget=10, **MALA)
    assert np.abs(moving.state.position).max() > 0.5
    # sum over t of 2 alpha eta / (1 + t)^0.55, a random walk's variance, from 4000 chains:
    walk = targets.run(
        flat, 2, 4000, z0=np.zeros((4000, 2)), budget=20, noise_scale=0.5, noise_decay=0.55, **MALA
    )
    variance = np.sum(2 * 0.3 * 0.5 / (1 + np.arange(20)) ** 0.55)
    # 8000 draws: the relative standard error of the variance is sqrt(2 / 8000) = 1.6 %
    assert np.var(walk.state.position) == pytest.approx(variance, rel=5 * 0.016)


def test_each_chain_ends_its_trajectories_in_its_own_time():
    """A chain with a step half as long needs twice the steps for a trajectory of the same length,
    and the acceptance rate is that of the trajectories, not of all steps."""
    flat = targets.batched(lambda z: -0.5 * jnp.sum(z**2))
    ended, rates = {}, {}
    for step_size in (0.1, 0.2):
        result = targets.run(flat, 5, 200, budget=400, method="hmc", step_size=step_size)
        ended[step_size] = np.asarray(result.state.trajectory.ended)
        rates[step_size] = result.acceptance_rate
        # U(0.7, 1.3) x 1.57 / step size steps, rounded up: half a step more on average
        steps = 400 / ended[step_size].mean()
        assert steps == pytest.approx(1.57 / step_size + 0.5, rel=0.08)
    assert rates[0.1].min() > 0.95 and rates[0.2].min() > 0.8
    assert len(set(ended[0.1].tolist())) > 1  # they draw different lengths


def test_chains_stop_once_they_agree_wherever_blocks_end():
    given = {"method": "hmc", "budget": 6000, "until_r_hat": 1.02}
    stopped = targets.run(targets.gaussian, 3, 8, **given)
    assert stopped.warmup_steps < stopped.step < 4000 and not stopped.interrupted
    assert stopped.gradient_evaluations == 1 + stopped.step
    timeline = timeline_of(SamplerSettings(**given))
    assert stopped.step % timeline.check_every == 0
    figures = diagnose_traces(stopped.traces, stopped.warmup_steps, stopped.step)
    assert worst_r_hat(figures) < 1.02 and smallest_ess(figures) > 100
    before = diagnose_traces(
        stopped.traces, stopped.warmup_steps, stopped.step - timeline.check_every
    )
    assert (worst_r_hat(before) or 9) >= 1.02 or (smallest_ess(before) or 0) <= 100
    # in small blocks, interrupted and resumed, it stops at the same step with the same bits
    keys, z0 = targets.chain_keys(8), 3 * jax.random.normal(jax.random.key(1000), (8, 3))
    settings = SamplerSettings(**given, block_size=7)
    first = run_chains(keys, z0, targets.gaussian, None, settings, stop_at=stopped.step - 5)
    rest = run_chains(
        keys, z0, targets.gaussian, None, settings, state=first.state, traces=first.traces
    )
    assert rest.step == stopped.step
    np.testing.assert_array_equal(rest.state.position, stopped.state.position)


def test_chains_that_never_agree_spend_the_budget():
    """Two modes, fifty deviations apart: each chain stays in its own."""
    modes = targets.batched(
        lambda z: jnp.logaddexp(-0.5 * jnp.sum((z - 25) ** 2), -0.5 * jnp.sum((z + 25) ** 2))
    )
    z0 = np.repeat([[25.0], [-25.0]], 4, axis=0)
    result = targets.run(modes, 1, 8, z0=z0, method="hmc", budget=1000, until_r_hat=1.05)
    assert result.step == 1000


def test_what_diagnose_recommends_where_chains_disagree_helps():
    """Two of twenty directions are twenty times narrower. Ten leapfrog steps do not reach across
    the others: R-hat is 1.48 and the smallest effective sample size 17. Diagnose recommends
    trajectories of a length (1.13 and 93 were measured), or four times the budget (1.05 and 138).
    """
    scales = jnp.ones(20).at[:2].set(0.05)
    stiff = targets.batched(lambda z: -0.5 * jnp.sum((z / scales) ** 2))
    z0 = np.random.default_rng(0).normal(size=(8, 20)) * np.asarray(scales) * 2
    found = []
    for given in (
        {"num_integration_steps": 10, "budget": 1000},
        {"budget": 1000},
        {"num_integration_steps": 10, "budget": 4000},
    ):
        result = targets.run(stiff, 20, 8, z0=z0, method="hmc", **given)
        found.append(diagnose_traces(result.traces, result.warmup_steps, result.step))
    before, longer, more = (worst_r_hat(figures) for figures in found)
    assert before > 1.2 > longer and before > 1.2 > more
    size, *helped = (smallest_ess(figures) for figures in found)
    assert min(helped) > 3 * size


def test_a_floor_under_the_noise_is_the_remedy_that_the_advice_names():
    """In 100 dimensions, as diagnose tells: nothing is accepted under noise that is annealed all
    the way, and the floor that it recommends brings acceptance back."""
    normal = targets.batched(lambda z: -0.5 * jnp.sum(z**2))
    z0 = np.random.default_rng(0).normal(size=(20, 100))
    given = {"method": "mala", "budget": 1500, "noise_decay": 0.55}
    annealed = targets.run(normal, 100, 20, z0=z0, **given)
    assert annealed.traces.acceptance[:, -100:].mean() < 0.05
    floored = targets.run(normal, 100, 20, z0=z0, noise_floor=FLOOR, **given)
    assert floored.traces.acceptance[:, -100:].mean() > 0.3


def test_divergent_and_nan_proposals_are_counted():
    """Beyond z = 2 the density is NaN, beyond z = -2 it falls off a cliff."""

    def log_density(z):
        inner = jnp.where(z[0] < -2, -1e5 * (z[0] + 3) ** 2 - 1e4, -0.5 * jnp.sum(z**2))
        return jnp.where(z[0] > 2, jnp.nan, inner)

    target = targets.batched(log_density)
    for given in (MALA | {"step_size": 1.5}, HMC, LONG):
        result = targets.run(target, 2, 200, z0=np.zeros((200, 2)), budget=400, **given)
        divergent, not_numbers = np.asarray(result.state.faults).sum(0)
        assert divergent > 20 and not_numbers > 20
        assert np.isfinite(np.asarray(result.state.log_density)).all()
    assert (
        np.asarray(targets.run(targets.gaussian, 3, 9, budget=99, **LONG).state.faults) == 0
    ).all()


@pytest.mark.parametrize(("method", "target"), [("mala", 0.574), ("hmc", 0.8), ("hmc", 0.6)])
def test_dual_averaging_reaches_the_acceptance_asked_for(method, target):
    """In 100 dimensions, where one acceptance tells much about the step size: in three, the search
    jumps between steps that are always and never accepted, and ends on the careful side."""
    normal = targets.batched(lambda z: -0.5 * jnp.sum(z**2))
    result = targets.run(
        normal,
        100,
        60,
        z0=np.random.default_rng(0).normal(size=(60, 100)),
        method=method,
        budget=3000,
        num_integration_steps=3,
        target_acceptance=target if target == 0.6 else None,
    )
    assert result.acceptance_rate.mean() == pytest.approx(target, abs=0.05)
    assert np.std(np.log(result.step_size)) < 0.2  # each chain finds it for itself


def test_a_first_guess_a_thousand_times_too_far_is_adapted_away():
    scale = 1e-3  # of the target; the guess is about 0.3
    narrow = targets.batched(lambda z: -0.5 * jnp.sum((z / scale) ** 2))
    result = targets.run(
        narrow, 3, 50, z0=np.zeros((50, 3)), method="hmc", budget=3000, num_integration_steps=3
    )
    assert result.acceptance_rate.min() > 0.6
    relative = result.step_size / scale  # the leapfrog is unstable beyond 2
    assert relative.min() > 0.2 and relative.max() < 2


def test_first_guess_follows_the_dimension():
    ratios = {
        method: first_step_size(SamplerSettings(method=method), 16)
        / first_step_size(SamplerSettings(method=method), 16 * 64)
        for method in ("mala", "hmc")
    }
    assert ratios["mala"] == pytest.approx(64 ** (1 / 3))
    assert ratios["hmc"] == pytest.approx(64 ** (1 / 4))


@pytest.mark.parametrize("given", [MALA, HMC, MAP])
@pytest.mark.parametrize("clip_mode", ["project", "reject", "none"])
def test_clip_modes(given, clip_mode):
    if (given, clip_mode) == (MAP, "reject"):
        pytest.skip("MAP has no accept step to reject with; the settings of runs refuse it")
    bounds = (np.full(3, 0.5), np.full(3, 0.9))
    result = targets.run(
        targets.independent, 3, 50, bounds, budget=120, clip_mode=clip_mode, **given
    )
    position = np.asarray(result.state.position)
    within = (position >= bounds[0].astype(np.float32)) & (position <= bounds[1].astype(np.float32))
    assert within.all() == (clip_mode != "none")
    np.testing.assert_allclose(  # density and gradient kept are those of the position kept
        result.state.gradient, -position / targets.SCALES**2, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("step_size", [None, 3.0])
def test_dgn_am_rule_against_numpy(step_size):
    """z <- clip(0.99 (z + alpha_t d(z))), alpha_t from 8 down to 1e-10 over the budget."""
    pull = np.array([0.3, -0.2, 0.05])

    def value_and_grad(params, z):
        direction = pull - 0.05 * z  # stands for DGN-AM's normalised gradient
        return Evaluation(-jnp.sum(z**2, 1), direction, -jnp.sum(z**2, 1))

    lower, upper = np.zeros(3), np.array([5.0, 20.0, 0.8])
    z0 = np.random.default_rng(0).uniform(0, 1, (6, 3))
    result = targets.run(
        value_and_grad,
        3,
        6,
        (lower, upper),
        z0=z0,
        method="map",
        preset="dgn-am",
        budget=20,
        step_size=step_size,
        clip_mode="project",
    )
    first = step_size or 8.0
    sizes = [first + (1e-10 - first) * t / 20 for t in range(20)]
    np.testing.assert_allclose(result.traces.step_size[0], sizes, rtol=1e-4, atol=1e-6)
    z = z0
    for size in sizes:
        z = np.clip(0.99 * (z + size * (pull - 0.05 * z)), lower, upper)
    np.testing.assert_allclose(result.state.position, z, rtol=1e-4, atol=1e-5)
    assert (z[:, 1] == 0).all() and (z[:, 0] > 1).all()  # one at its bound, one that went far


def test_interrupted_chains_give_what_they_have():
    seen = []

    def on_block(progress):
        seen.append(progress)
        if progress.step >= 60:
            raise KeyboardInterrupt

    result = targets.run(
        targets.gaussian,
        3,
        4,
        budget=200,
        trace_length=200,
        block_size=20,
        on_block=on_block,
        **MALA,
    )
    assert result.interrupted and result.step == 60 and result.num_steps == 200
    assert result.gradient_evaluations == 61
    assert np.isfinite(result.traces.log_density[:, :60]).all()
    assert np.isnan(result.traces.log_density[:, 60:]).all()
    assert [progress.step for progress in seen] == [20, 40, 60]
    assert all(0 < progress.acceptance_rate <= 1 for progress in seen)


def test_other_exceptions_of_on_block_go_through():
    def on_block(progress):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        targets.run(targets.gaussian, 3, 2, budget=20, on_block=on_block, **MALA)


def test_an_interrupt_after_the_last_block_is_no_interruption():
    def on_block(progress):
        if progress.step == 20:
            raise KeyboardInterrupt

    result = targets.run(targets.gaussian, 3, 2, budget=20, on_block=on_block, **MALA)
    assert not result.interrupted and result.step == 20


def test_the_start_is_moved_into_the_bounds():
    bounds = (jnp.zeros(3), jnp.ones(3))
    settings = SamplerSettings(**MALA, clip_mode="reject")
    z0 = jnp.array([[-3.0, 0.5, 7.0]])
    state = init_chains(targets.chain_keys(1), z0, targets.gaussian, None, settings, bounds)
    np.testing.assert_array_equal(state.position, [[0.0, 0.5, 1.0]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "gibbs"}, "`method` 'gibbs': choose one of map, mala, hmc"),
        ({"clip_mode": "wrap"}, "`clip_mode` 'wrap': choose one of"),
        ({"preset": "dgn"}, "`preset` 'dgn': choose one of"),
        ({"preset": "dgn-am"}, "`preset=dgn-am` is a form of map, not of hmc"),
        ({"method": "hmc", "num_integration_steps": 0}, "at least 1"),
        ({"budget": 5, "num_integration_steps": 10}, "less than one HMC iteration of 10"),
        ({"trajectory_length": 0.0}, "`trajectory_length` 0.0: must be a number above 0"),
        ({"budget": 0}, "`budget` 0: must be a whole number from 1 to 2147483647"),
        ({"budget": 10**18}, "`budget` 1000000000000000000: must be a whole number from 1 to"),
        ({"budget": 10**400}, "`budget` 100000000"),
        ({"step_decay": 10**400, "step_size": 10**400}, "`step_size`"),
        ({"step_size": 0.0}, "`step_size` 0.0: must be a number above 0"),
        ({"step_size": float("nan")}, "`step_size` nan: must be a number above 0"),
        ({"step_decay": -1.0}, "`step_decay` -1.0: must be a number of at least 0"),
        ({"noise_decay": float("inf")}, "`noise_decay` inf: must be"),
        ({"step_jitter": 1.0}, "`step_jitter` 1.0: must be a number of at least 0 and below 1"),
        ({"target_acceptance": 1.0}, "`target_acceptance` 1.0: must be"),
        ({"warmup_fraction": 0.0}, "`warmup_fraction` 0.0: must be a number above 0 and below 1"),
        ({"block_size": 0}, "`block_size` 0"),
        ({"trace_length": 0}, "`trace_length` 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(given, message):
    with pytest.raises(UsageError) as caught:
        SamplerSettings(**given)
    assert message in str(caught.value)
