"""Layers against JAX's and Flax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from gradgen.models import layers


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def array(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_conv2d_has_the_values_and_gradients_of_jaxs_convolution(rng):
    images, kernel, cotangent = (
        array(rng, 2, 8, 8, 5),
        array(rng, 3, 3, 5, 4),
        array(rng, 2, 8, 8, 4),
    )

    def plain(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    ours, pull_ours = jax.vjp(layers.conv2d, images, kernel)
    theirs, pull_theirs = jax.vjp(plain, images, kernel)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(pull_ours(cotangent), pull_theirs(cotangent), strict=True):
        # sums of up to 2 * 64 products of unit normals in float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_shuffles_are_inverse_and_keep_patches_together(rng):
    images = array(rng, 2, 8, 8, 3)
    shuffled = layers.space_to_depth(images)
    assert shuffled.shape == (2, 4, 4, 12)
    np.testing.assert_array_equal(shuffled[0, 1, 2], images[0, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(layers.depth_to_space(shuffled), images)


def test_batch_norm_agrees_with_flax_in_value_gradient_and_running_statistics(rng):
    inputs = array(rng, 16, 4, 4, 6) * 3 + 1
    ours = layers.BatchNorm(6, momentum=0.9)
    theirs = nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    weights = array(rng, 16, 4, 4, 6)

    for norm in (ours, theirs):
        norm.scale[...] = jnp.arange(1.0, 7.0)
    np.testing.assert_allclose(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.mean[...], theirs.mean[...], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.var[...], rtol=1e-4, atol=1e-5)

    def gradient(norm):
        graph, state = nnx.split(norm)
        return jax.grad(lambda x: jnp.sum(weights * nnx.merge(graph, state, copy=True)(x)))(inputs)

    np.testing.assert_allclose(gradient(ours), gradient(theirs), rtol=1e-3, atol=1e-4)


def test_a_folded_batch_norm_changes_nothing(rng):
    layer = layers.Affine(4, 6, 3, norm=True, rngs=nnx.Rngs(0))
    layer.norm.scale[...] = array(rng, 6)
    layer.norm.shift[...] = array(rng, 6)
    layer.norm.mean[...] = array(rng, 6)
    layer.norm.var[...] = jnp.abs(array(rng, 6)) + 0.1
    layer.norm.running = True
    inputs = array(rng, 2, 8, 8, 4)
    before = layer(inputs)
    layers.fold_batch_norm(layer)
    assert layer.norm is None
    np.testing.assert_allclose(layer(inputs), before, rtol=1e-4, atol=1e-4)


def test_a_bias_gradient_is_the_sum_over_all_axes_but_the_last(rng):
    like, bias = array(rng, 3, 4, 5, 6), array(rng, 6)
    gradient = jax.grad(lambda b: jnp.sum(like * layers.per_channel(b, like)))(bias)
    np.testing.assert_allclose(gradient, np.asarray(like).sum((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layers.per_channel(bias, like)[1, 2, 3], bias)
