"""Schedules against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.inference import adaptation, schedules

T = np.arange(0, 6000, 7)


def test_polynomial_decay_is_teh_et_al():
    found = schedules.polynomial_decay(jnp.asarray(T), 0.2, 10.0, 0.55)
    np.testing.assert_allclose(found, 0.2 * (10.0 + T) ** -0.55, rtol=1e-5)


def test_decay_from_is_the_same_schedule_by_its_first_value():
    found = schedules.decay_from(jnp.asarray(T), 0.3, 10.0, 0.55)
    a = 0.3 * 10.0**0.55
    np.testing.assert_allclose(found, a * (10.0 + T) ** -0.55, rtol=1e-5)
    constant = schedules.decay_from(jnp.asarray(T), 0.3, 10.0, 0.0)
    np.testing.assert_array_equal(constant, np.float32(0.3))


def test_annealed_noise_is_neelakantan_et_al():
    found = schedules.annealed_noise(jnp.asarray(T), 0.8)
    np.testing.assert_allclose(found, 0.8 / (1.0 + T) ** 0.55, rtol=1e-5)


def test_a_floor_ends_the_annealing():
    found = schedules.annealed_noise(jnp.asarray(T), 0.8, 0.55, 0.1)
    np.testing.assert_allclose(found, np.maximum(0.8 / (1.0 + T) ** 0.55, 0.1), rtol=1e-5)


def test_linear_ends_where_it_should():
    assert schedules.linear(0, 8.0, 1e-10, 200) == 8.0
    np.testing.assert_allclose(schedules.linear(200, 8.0, 1e-10, 200), 1e-10, atol=1e-6)
    np.testing.assert_allclose(schedules.linear(50, 8.0, 0.0, 200), 6.0)


def test_dual_averaging_is_hoffman_and_gelmans():
    """Steps as in BlackJAX. The average as in the paper's Algorithm 5, whose m-th weight goes to
    the m-th step size; BlackJAX gives it to the one before."""
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    init, update, _ = dual_averaging_adaptation(target=0.65)
    theirs = init(0.5)
    ours = adaptation.init(jnp.full(3, 0.5))
    log_average = np.log(0.5)
    for count, acceptance in enumerate(jax.random.uniform(jax.random.key(0), (60,)), start=1):
        theirs = update(theirs, acceptance)
        ours = adaptation.update(ours, jnp.full(3, acceptance), 0.65)
        np.testing.assert_allclose(ours.log_step_size, np.full(3, theirs.log_step_size), 1e-4, 1e-5)
        forget = count**-0.75
        log_average = forget * float(theirs.log_step_size) + (1 - forget) * log_average
        np.testing.assert_allclose(ours.log_average, np.full(3, log_average), 1e-4, 1e-5)
