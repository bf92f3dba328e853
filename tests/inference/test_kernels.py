"""Tests single steps: BlackJAX is the oracle, SciPy gives densities, and gradients are counted."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.mcmc import hmc as blackjax_hmc
from blackjax.mcmc import integrators, metrics
from scipy import stats

from gradgen.inference import hmc, mala, trajectories
from gradgen.inference import map as map_
from gradgen.inference.kernel import acceptance_probability, init
from gradgen.inference.types import Evaluation
from tests import targets


def evaluate(z):
    return targets.banana(None, z)


@pytest.fixture
def z():
    return jax.random.normal(jax.random.key(2), (50, 2))


@pytest.mark.parametrize("step_size", [0.02, 0.15, 0.6])
def test_mala_is_blackjax_mala_step_for_step(z, step_size):
    """The same keys give the same noise and the same uniforms in both: whole trajectories agree."""
    kernel = jax.jit(jax.vmap(blackjax.mala.build_kernel(), (0, 0, None, None)), static_argnums=2)
    theirs = jax.vmap(lambda position: blackjax.mala.init(position, targets.log_banana))(z)
    ours = init(z, evaluate)
    step = jax.jit(lambda keys, state: mala.mala_step(keys, state, evaluate, step_size))
    seen = set()
    for t in range(40):
        keys = targets.chain_keys(len(z), seed=t)
        theirs, their_info = kernel(keys, theirs, targets.log_banana, step_size)
        ours, info = step(keys, ours)
        np.testing.assert_allclose(
            info.acceptance_probability, their_info.acceptance_rate, rtol=2e-4, atol=1e-5
        )
        np.testing.assert_array_equal(info.is_accepted, their_info.is_accepted)
        np.testing.assert_allclose(ours.position, theirs.position, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            ours.evaluation.gradient, theirs.logdensity_grad, rtol=1e-3, atol=1e-3
        )
        seen |= set(np.asarray(info.is_accepted).tolist())
    assert True in seen and (False in seen or step_size == 0.02)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_leapfrog_is_blackjax_velocity_verlet(z, num_steps):
    momentum = jax.random.normal(jax.random.key(3), z.shape)
    metric = metrics.default_metric(jnp.ones(2))
    verlet = integrators.velocity_verlet(targets.log_banana, metric.kinetic_energy)

    def theirs(position, momentum):
        state = integrators.IntegratorState(
            position, momentum, *jax.value_and_grad(targets.log_banana)(position)
        )
        for _ in range(num_steps):
            state = verlet(state, 0.1)
        return state

    expected = jax.jit(jax.vmap(theirs))(z, momentum)
    step_size = jnp.full((len(z), 1), 0.1)
    position, end_momentum, end = jax.jit(hmc.leapfrog, static_argnums=(3, 5))(
        z, momentum, evaluate(z), evaluate, step_size, num_steps
    )
    np.testing.assert_allclose(position, expected.position, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(end_momentum, expected.momentum, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(end.log_density, expected.logdensity, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(end.gradient, expected.logdensity_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step_size", [0.1, 0.5])
def test_hmc_is_blackjax_hmc_step_for_step(z, step_size):
    """BlackJAX gets the momentum and the accept step's key that ours draws from its own key."""
    num_steps = 3
    metric = metrics.default_metric(jnp.ones(2))
    verlet = integrators.velocity_verlet(targets.log_banana, metric.kinetic_energy)
    propose = blackjax_hmc.hmc_proposal(verlet, metric.kinetic_energy, step_size, num_steps)

    def one(key, position):
        momentum_key, _, accept_key = jax.random.split(key, 3)
        momentum = jax.random.normal(momentum_key, position.shape)
        state = integrators.IntegratorState(
            position, momentum, *jax.value_and_grad(targets.log_banana)(position)
        )
        new, info, _ = propose(accept_key, state)
        return new.position, info.acceptance_rate, info.is_accepted, info.proposal.position

    theirs = jax.jit(jax.vmap(one))
    step = jax.jit(lambda keys, state: hmc.hmc_step(keys, state, evaluate, step_size, num_steps))
    state, position = init(z, evaluate), z
    accepted = []
    for t in range(30):
        keys = targets.chain_keys(len(z), seed=t)
        position, probability, is_accepted, proposal = theirs(keys, position)
        state, info = step(keys, state)
        np.testing.assert_allclose(info.acceptance_probability, probability, rtol=5e-4, atol=1e-5)
        np.testing.assert_array_equal(info.is_accepted, is_accepted)
        finite = np.abs(np.asarray(proposal)).max(1) < 100  # beyond, an overflow in the making
        np.testing.assert_allclose(
            np.asarray(info.proposal)[finite], np.asarray(proposal)[finite], rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(state.position, position, rtol=1e-4, atol=1e-4)
        # go on from the same floats, or rounding grows along the trajectory
        position = state.position
        accepted.append(np.asarray(is_accepted))
    assert 0 < np.mean(accepted) < 1


def test_trajectories_are_blackjax_hmc_step_for_step(z):
    """Each chain draws its own number of leapfrog steps and ends when its time has come. BlackJAX
    gets that number, the momentum and the accept step's key."""
    metric = metrics.default_metric(jnp.ones(2))
    verlet = integrators.velocity_verlet(targets.log_banana, metric.kinetic_energy)

    def one(begin_key, accept_key, position, step_size, num_steps):
        momentum = jax.random.normal(jax.random.split(begin_key, 4)[0], position.shape)
        state = integrators.IntegratorState(
            position, momentum, *jax.value_and_grad(targets.log_banana)(position)
        )
        propose = blackjax_hmc.hmc_proposal(verlet, metric.kinetic_energy, step_size, num_steps)
        new, info, _ = propose(jax.random.split(accept_key, 4)[3], state)
        return new.position, info.acceptance_rate, info.is_accepted

    theirs = jax.jit(jax.vmap(one))
    sizes = jnp.linspace(0.15, 0.5, len(z))
    step = jax.jit(
        lambda keys, state, way: trajectories.trajectory_step(
            keys, state, way, evaluate, sizes, 1.2
        )
    )
    state, way = init(z, evaluate), trajectories.init(z)
    begun_at, ends, lengths = {}, 0, []
    for t in range(60):
        keys = targets.chain_keys(len(z), seed=t)
        begins = np.flatnonzero(np.asarray(way.remaining) == 0)
        begun_at |= {chain: (keys[chain], state.position[chain]) for chain in begins}
        state, way, info = step(keys, state, way)
        ended = np.flatnonzero(np.asarray(way.remaining) == 0)
        if not len(ended):
            continue
        expected, probability, is_accepted = theirs(
            jnp.stack([begun_at[chain][0] for chain in range(len(z))]),
            keys,
            jnp.stack([begun_at[chain][1] for chain in range(len(z))]),
            sizes,
            way.steps,
        )
        np.testing.assert_allclose(
            info.acceptance_probability[ended], probability[ended], rtol=2e-3, atol=1e-4
        )
        np.testing.assert_array_equal(info.is_accepted[ended], is_accepted[ended])
        np.testing.assert_allclose(state.position[ended], expected[ended], rtol=1e-3, atol=1e-3)
        ends += len(ended)
        lengths += np.asarray(way.steps * sizes)[ended].tolist()
    assert ends > 300
    # U(0.84, 1.56), rounded up to whole steps, which are 0.3 long on average
    assert 1.2 < np.mean(lengths) < 1.5 and 0.84 <= np.min(lengths) < np.max(lengths) < 1.56 + 0.5


@pytest.mark.parametrize("noise_scale", [1.0, 0.3, 2.0])
def test_detailed_balance_of_mala_under_any_noise(noise_scale):
    """pi(x) q(y|x) a(x, y) = pi(y) q(x|y) a(y, x), the densities being SciPy's.

    a(x, y) comes from the kernel, for a proposal y that it made itself; a(y, x) from the identity
    a(x, y) / a(y, x) = r, a = min(1, r), with r computed from SciPy's densities alone.
    """
    alpha = 0.3
    x = jax.random.normal(jax.random.key(5), (400, 2))
    _, info = mala.mala_step(
        targets.chain_keys(400), init(x, evaluate), evaluate, alpha, noise_scale
    )
    y = info.proposal

    def log_q(to, origin):
        drift = np.asarray(origin + alpha * evaluate(origin).gradient, np.float64)
        gap = np.asarray(to, np.float64) - drift
        return stats.norm(scale=np.sqrt(2 * alpha * noise_scale)).logpdf(gap).sum(1)

    def log_pi(z):
        return stats.norm.logpdf(targets.banana_to_normal(np.asarray(z, np.float64))).sum(1)

    log_ratio = log_pi(y) + log_q(x, y) - log_pi(x) - log_q(y, x)
    expected = np.exp(np.minimum(log_ratio, 0))
    np.testing.assert_allclose(info.acceptance_probability, expected, rtol=1e-3, atol=1e-5)
    assert np.mean(expected < 0.99) > 0.2 and np.mean(expected > 0.01) > 0.2


@pytest.mark.parametrize("noise_scale", [1.0, 0.3])
def test_mala_proposes_what_algorithm_2_says(noise_scale):
    """(proposal - z - alpha gradient) / sqrt(2 alpha epsilon) is N(0, 1); error rate 1e-4 each."""
    alpha, num_chains = 0.2, 5000
    x = jax.random.normal(jax.random.key(5), (num_chains, 2))
    state = init(x, evaluate)
    _, info = mala.mala_step(targets.chain_keys(num_chains), state, evaluate, alpha, noise_scale)
    noise = (info.proposal - x - alpha * state.evaluation.gradient) / np.sqrt(
        2 * alpha * noise_scale
    )
    for unit in range(2):
        assert stats.kstest(np.asarray(noise)[:, unit], "norm").pvalue > 1e-4


def test_leapfrog_is_reversible_and_keeps_volume():
    """The two properties that make HMC's acceptance formula right."""
    with jax.enable_x64(True):

        def evaluate(z):
            values, gradients = jax.vmap(jax.value_and_grad(targets.log_banana))(z)
            return Evaluation(values, gradients, values)

        size = jnp.full((1, 1), 0.3)

        def flow(state):
            position, momentum = state[None, :2], state[None, 2:]
            new = hmc.leapfrog(position, momentum, evaluate(position), evaluate, size, 5)
            return jnp.concatenate([new[0][0], new[1][0]])

        start = jnp.array([0.3, -0.7, 1.1, 0.4])
        end = flow(start)
        flip = jnp.array([1.0, 1.0, -1.0, -1.0])
        np.testing.assert_allclose(flow(end * flip) * flip, start, rtol=1e-10)
        determinant = jnp.linalg.det(jax.jacobian(flow)(start))
        np.testing.assert_allclose(determinant, 1.0, rtol=1e-10)


def test_leapfrog_error_in_energy_is_of_second_order(z):
    """Halving the step size at constant length quarters the energy error. Without the last half
    step the error would be of first order, and halve."""
    with jax.enable_x64(True):
        position = jnp.asarray(z, jnp.float64)
        momentum = jnp.asarray(np.random.default_rng(1).normal(size=z.shape))

        def error(num_steps):
            start = evaluate(position)
            size = jnp.full((len(z), 1), 0.4 / num_steps)
            _, end_momentum, end = hmc.leapfrog(
                position, momentum, start, evaluate, size, num_steps
            )
            energy = start.log_density - 0.5 * jnp.sum(momentum**2, 1)
            return jnp.abs(end.log_density - 0.5 * jnp.sum(end_momentum**2, 1) - energy)

        ratio = float(jnp.sum(error(20)) / jnp.sum(error(40)))
    assert 3.7 < ratio < 4.3


def test_map_is_algorithm_1(z):
    bounds = (jnp.array([-0.5, -0.4]), jnp.array([0.3, 0.6]))
    state = map_.map_step(init(z, evaluate), evaluate, 0.1, bounds, "project")
    expected = np.clip(z + 0.1 * np.asarray(evaluate(z).gradient), bounds[0], bounds[1])
    np.testing.assert_allclose(state.position, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(state.evaluation.log_density, evaluate(expected).log_density, 1e-5)


def test_map_stays_where_the_next_density_is_no_number():
    def log_density(z):
        return jnp.where(z[0] > 1, jnp.nan, z[0])

    value_and_grad = targets.batched(log_density)

    def evaluate(z):
        return value_and_grad(None, z)

    start = jnp.array([[0.95], [0.0]])
    state = map_.map_step(init(start, evaluate), evaluate, 0.1)
    np.testing.assert_allclose(state.position, [[0.95], [0.1]])


def test_acceptance_of_ratios_that_are_no_numbers():
    ratios = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0, -1.0])
    found = acceptance_probability(ratios)
    np.testing.assert_allclose(found, [0, 1, 0, 1, np.exp(-1)], rtol=1e-6)
    allowed = jnp.array([True, False, True, False, True])
    np.testing.assert_allclose(
        acceptance_probability(ratios, allowed), [0, 0, 0, 0, np.exp(-1)], rtol=1e-6
    )
