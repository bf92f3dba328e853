"""The driver: budgets, schedules, traces, resuming, clipping, interruptions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradgen.inference import (
    SamplerSettings,
    init_chains,
    plan_steps,
    run_chains,
    state_from_arrays,
    state_to_arrays,
)
from gradgen.inference.chain import first_step_size, projection_vectors
from gradgen.inference.types import Evaluation
from tests import targets

MALA = {"method": "mala", "step_size": 0.3}
HMC = {"method": "hmc", "step_size": 0.5, "num_integration_steps": 4, "step_jitter": 0.2}
MAP = {"method": "map", "step_size": 0.05}
EVERY = {"mala": MALA, "hmc": HMC, "map": MAP, "warm-up": HMC | {"step_size": None}}


def counting_target():
    """A target that counts how often it is evaluated when the compiled program runs."""
    count = []

    def value_and_grad(params, z):
        jax.debug.callback(lambda: count.append(1))
        return targets.independent(params, z)

    return value_and_grad, count


@pytest.mark.parametrize(
    ("given", "gradients_per_step"),
    [(MALA, 1), (HMC, 4), (MAP, 1), (MALA | {"step_size": None}, 1)],
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
    settings = SamplerSettings(**given, block_size=7)
    keys, z0 = targets.chain_keys(4), 3 * jax.random.normal(jax.random.key(1000), (4, 3))
    stop_at = plan_steps(settings).stride * 11
    first = run_chains(keys, z0, targets.gaussian, None, settings, stop_at=stop_at)
    assert first.step == stop_at
    state = state_from_arrays(state_to_arrays(first.state))
    # keys and start are not looked at again: all is in the state
    rest = run_chains(
        keys, jnp.zeros((4, 3)), targets.gaussian, None, settings, state=state, traces=first.traces
    )
    for name, value in state_to_arrays(whole.state).items():
        np.testing.assert_array_equal(value, state_to_arrays(rest.state)[name], err_msg=name)
    for name, value in whole.traces.items():
        np.testing.assert_array_equal(value, rest.traces[name], err_msg=name)
    np.testing.assert_array_equal(whole.acceptance_rate, rest.acceptance_rate)


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
    assert len(traces["step"]) == points <= length
    assert traces["step"][-1] == budget and (np.diff(traces["step"]) > 0).all()
    assert traces["projections"].shape == (4, points, 4)
    for name in ("log_density", "log_likelihood", "acceptance", "step_size", "squared_norm"):
        assert traces[name].shape == (4, points) and np.isfinite(traces[name]).all()
    position = np.asarray(result.state.position)
    np.testing.assert_allclose(traces["squared_norm"][:, -1], (position**2).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(traces["log_density"][:, -1], result.state.log_density)
    vectors = np.asarray(projection_vectors(4, 3))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(
        traces["projections"][:, -1], position @ vectors, rtol=1e-5, atol=1e-5
    )


def test_acceptance_in_the_trace_is_the_mean_over_its_window():
    fine = targets.run(targets.gaussian, 3, 4, budget=60, trace_length=60, **MALA)
    coarse = targets.run(targets.gaussian, 3, 4, budget=60, trace_length=12, **MALA)
    windows = fine.traces["acceptance"].reshape(4, 12, 5).mean(2)
    np.testing.assert_allclose(coarse.traces["acceptance"], windows, rtol=1e-6)
    np.testing.assert_allclose(fine.acceptance_rate, windows.mean(1), rtol=1e-5)


def test_step_size_and_noise_follow_their_schedules():
    """What the chain used, from the trace: alpha_t = a ((b + t) / b)^-gamma after the warm-up."""
    decaying = targets.run(
        targets.gaussian, 3, 2, budget=50, step_decay=0.7, step_decay_offset=5.0, **MALA
    )
    t = np.arange(50)
    expected = 0.3 * ((5 + t) / 5) ** -0.7
    np.testing.assert_allclose(decaying.traces["step_size"][0], expected, rtol=1e-5)

    warmed = targets.run(targets.gaussian, 3, 2, method="mala", budget=100, step_decay=0.7)
    sizes = warmed.traces["step_size"]
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
    np.testing.assert_allclose(result.traces["step_size"][0], sizes, rtol=1e-4, atol=1e-6)
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
    assert np.isfinite(result.traces["log_density"][:, :60]).all()
    assert np.isnan(result.traces["log_density"][:, 60:]).all()
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
        ({"method": "gibbs"}, "method must be one of"),
        ({"clip_mode": "wrap"}, "clip_mode must be one of"),
        ({"preset": "dgn"}, "unknown preset"),
        ({"preset": "dgn-am"}, "is a rule for method 'map'"),
        ({"method": "hmc", "num_integration_steps": 0}, "at least 1"),
        ({"method": "hmc", "budget": 5}, "does not pay for one step of 10"),
        ({"budget": 0}, "does not pay"),
        ({"step_size": 0.0}, "step_size must be a positive number"),
        ({"step_size": float("nan")}, "step_size must be a positive number"),
        ({"step_decay": -1.0}, "step_decay must not be negative"),
        ({"noise_decay": float("inf")}, "noise_decay must not be negative"),
        ({"step_jitter": 1.0}, "step_jitter must be in"),
        ({"target_acceptance": 1.0}, "target_acceptance must be between"),
        ({"warmup_fraction": 0.0}, "warmup_fraction must be between"),
        ({"block_size": 0}, "block_size"),
        ({"trace_length": 0}, "trace_length"),
        ({"num_projections": -1}, "num_projections"),
    ],
)
def test_settings_that_make_no_sense_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**given).validate()
