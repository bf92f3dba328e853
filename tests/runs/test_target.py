"""Tests the target density against SciPy, finite differences and DGN-AM's rule as it is written."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradgen.networks.load import load_bundle
from gradgen.runs.target import make_target

BEACON = 124  # any class will do


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("tiny64")


@pytest.fixture(scope="module")
def z(bundle):
    return jax.random.normal(jax.random.key(1), (3, bundle.code_size))


def test_log_density_is_weighted_log_probability_plus_scipys_normal(bundle, z):
    target = make_target(bundle, likelihood_weight=2.5)
    log_density, log_likelihood = jax.jit(target.log_density)(target.params, BEACON, z)
    images = jax.jit(bundle.generator.apply)(bundle.generator.params, z)
    log_p = jax.jit(bundle.classifier.apply)(bundle.classifier.params, images)[:, BEACON]
    prior = stats.norm.logpdf(np.asarray(z, np.float64)).sum(1)
    np.testing.assert_allclose(log_likelihood, log_p, rtol=1e-4)
    np.testing.assert_allclose(log_density, 2.5 * log_p + prior, rtol=1e-5)


def test_each_chain_may_have_its_own_class(bundle, z):
    target = make_target(bundle)
    classes = jnp.array([3, 50, 199])
    together = jax.jit(target.log_density)(target.params, classes, z)[1]
    alone = [
        jax.jit(target.log_density)(target.params, int(c), z)[1][i] for i, c in enumerate(classes)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_gradient_agrees_with_central_differences_in_float64(bundle, z):
    with jax.enable_x64(True):
        target = make_target(bundle, likelihood_weight=8.0)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), target.params)
        z64 = jnp.asarray(z, jnp.float64)
        gradient = jax.jit(target.value_and_grad)(params, BEACON, z64).gradient
        direction = jnp.asarray(np.random.default_rng(0).normal(size=z.shape))
        log_density = jax.jit(target.log_density)
        # Small, since between the two points no rectifier may have its kink; rounding, about
        # 1e-16 * |log density| / h = 2e-6 of a slope of 30 to 70, is still far below the tolerance.
        h = 1e-8

        def along(t):
            return log_density(params, BEACON, z64 + t * direction)[0]

        difference = (along(h) - along(-h)) / (2 * h)
        slope = jnp.sum(gradient * direction, axis=1)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


def test_dgn_am_direction_is_the_twice_normalised_gradient_of_the_logit(bundle, z):
    target = make_target(bundle)
    found = jax.jit(target.dgn_am_value_and_grad)(target.params, BEACON, z)

    def generate(code):
        return bundle.generator.apply(bundle.generator.params, code[None])[0]

    def logit(image):
        return bundle.classifier.logits(bundle.classifier.params, image[None])[0, BEACON]

    pulled_back = jax.jit(jax.grad(lambda code, weights: jnp.sum(generate(code) * weights)))
    for chain in range(len(z)):
        image_gradient = np.asarray(
            jax.jit(jax.grad(logit))(jax.jit(generate)(z[chain])), np.float64
        )
        image_gradient /= np.abs(image_gradient).mean()
        code_gradient = np.asarray(pulled_back(z[chain], image_gradient), np.float64)
        code_gradient /= np.abs(code_gradient).mean()
        np.testing.assert_allclose(found.gradient[chain], code_gradient, rtol=1e-3, atol=1e-3)
    expected = jax.jit(target.log_density)(target.params, BEACON, z)
    np.testing.assert_allclose(found.log_density, expected[0], rtol=1e-5)
    np.testing.assert_allclose(found.log_likelihood, expected[1], rtol=1e-4)


def test_a_coarse_gradient_leaves_the_density_as_it_is(bundle, z):
    target = make_target(bundle, likelihood_weight=4.0)
    fine = jax.jit(target.value_and_grad)(target.params, BEACON, z)
    coarse = jax.jit(partial(target.mixed_value_and_grad, "bfloat16"))(target.params, BEACON, z)
    # float32 on both sides: only the order of sums may differ
    np.testing.assert_allclose(coarse.log_density, fine.log_density, rtol=1e-5)
    np.testing.assert_allclose(coarse.log_likelihood, fine.log_likelihood, rtol=1e-4)
    assert coarse.gradient.dtype == jnp.float32
    product = jnp.sum(coarse.gradient * fine.gradient, axis=1)
    norms = jnp.linalg.norm(coarse.gradient, axis=1) * jnp.linalg.norm(fine.gradient, axis=1)
    assert (product / norms > 0.99).all()  # the way up
    # bfloat16 has 8 bits: 2^-8 relative error in each number is the least that must show
    gap = jnp.linalg.norm(coarse.gradient - fine.gradient, axis=1)
    assert (gap > 2**-10 * jnp.linalg.norm(fine.gradient, axis=1)).all()
