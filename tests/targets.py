"""Densities with known answers, in the form in which the kernels take a target."""

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.inference import Evaluation, SamplerSettings, run_chains

COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
MEAN = np.array([1.0, -2.0, 0.5])
SCALES = np.array([0.7, 1.0, 1.6])
BANANA_SCALE, BEND = 1.4, 0.5


def batched(log_density):
    """log_density(z (code,)) -> scalar, as a value_and_grad(params, z (chains, code))."""

    def value_and_grad(params, z):
        values, gradients = jax.vmap(jax.value_and_grad(log_density))(z)
        return Evaluation(values, gradients, values)

    return value_and_grad


def log_gaussian(z):
    """N(MEAN, COVARIANCE), unnormalised."""
    gap = z - jnp.asarray(MEAN)
    return -0.5 * gap @ jnp.asarray(np.linalg.inv(COVARIANCE)) @ gap


def log_independent(z):
    """N(0, diag(SCALES^2)), unnormalised; only elementwise, so that batches change no bit."""
    return -0.5 * jnp.sum((z / jnp.asarray(SCALES)) ** 2)


def log_banana(z):
    """u = (z0 / s, z1 - b (z0^2 - s^2)) is N(0, I)."""
    return -0.5 * jnp.sum(banana_to_normal(z) ** 2)


def banana_to_normal(z):
    first, second = z[..., 0], z[..., 1]
    return jnp.stack([first / BANANA_SCALE, second - BEND * (first**2 - BANANA_SCALE**2)], -1)


def banana_from_normal(u):
    first = BANANA_SCALE * u[..., 0]
    return jnp.stack([first, u[..., 1] + BEND * (first**2 - BANANA_SCALE**2)], -1)


gaussian = batched(log_gaussian)
independent = batched(log_independent)
banana = batched(log_banana)


def chain_keys(num_chains, seed=0):
    return jax.random.split(jax.random.key(seed), num_chains)


def run(
    value_and_grad, code_size, num_chains, bounds=None, z0=None, seed=0, on_block=None,
    prior=None, **given,
):  # fmt: skip
    """Chains from z0 (3 N(0, I) if none is given), under settings made of the keywords."""
    if z0 is None:
        z0 = 3 * jax.random.normal(jax.random.key(seed + 1000), (num_chains, code_size))
    if bounds is not None:
        bounds = tuple(jnp.asarray(bound, jnp.float32) for bound in bounds)
    return run_chains(
        chain_keys(num_chains, seed),
        jnp.asarray(z0, jnp.float32),
        value_and_grad,
        None,
        SamplerSettings(**given),
        bounds,
        on_block=on_block,
        prior=prior,
    )
