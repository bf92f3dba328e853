"""Tests layers against those of JAX and Flax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from gradgen.models import layers
from gradgen.models.caffe_layers import max_pool, strided_convolution
from gradgen.models.layers import LAYOUT, dense, leaky_relu, pointwise


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


STRIDED = [(227, 11, 4, 0), (40, 7, 2, 3), (23, 5, 3, 2), (17, 3, 2, 0), (16, 3, 2, 1)]


@pytest.mark.parametrize(("side", "size", "stride", "padding"), STRIDED)
def test_a_strided_convolution_is_laxs_in_value_and_gradient(side, size, stride, padding):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, side, side + 4, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 5)).astype(np.float32)
    theirs = partial(
        lax.conv_general_dilated,
        rhs=kernel,
        window_strides=(stride,) * 2,
        padding=((padding,) * 2,) * 2,
        dimension_numbers=LAYOUT,
    )
    same_function(lambda x: strided_convolution(x, kernel, stride, padding), theirs, images)


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"),
    [(55, 3, 2, 0), (28, 3, 1, 1), (112, 3, 2, 0), (8, 2, 2, 1)],
)
def test_pooling_is_laxs_in_value_and_gradient(side, size, stride, padding):
    images = np.random.default_rng(2).standard_normal((2, side, side, 4)).astype(np.float32)
    # Caffe's number of windows, hanging over the edge where they do
    count = -(-(side + 2 * padding - size) // stride) + 1
    count -= bool(padding) and (count - 1) * stride >= side + padding
    after = max(0, (count - 1) * stride + size - side - padding)
    margins = [(0, 0), (padding, after), (padding, after), (0, 0)]
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    same_function(
        lambda x: max_pool(x, size, stride, padding),
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, margins),
        images,
    )


def test_of_equal_pixels_in_a_pooling_window_one_has_the_gradient():
    images, cotangent = jnp.ones((1, 4, 4, 1)), jnp.array([[1.0, 2.0], [3.0, 4.0]])
    gradient = jax.vjp(lambda x: max_pool(x, 2, 2), images)[1](cotangent[None, :, :, None])[0]
    expected = np.zeros((4, 4))
    expected[::2, ::2] = cotangent
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


def test_a_pooling_window_with_a_nan_is_nan():
    images = jnp.ones((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert np.isnan(max_pool(images, 2, 2)[0, ..., 0]).tolist() == [[True, False], [False, False]]


def test_an_unshuffled_convolution_is_that_of_the_shuffled_picture():
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        inputs, kernel, bias = (
            jnp.asarray(rng.normal(size=shape)) for shape in ((2, 4, 5, 12), (3, 3, 3, 2), (2,))
        )

        def shuffled(kernel, inputs):
            return layers.conv2d(layers.depth_to_space(inputs), kernel) + bias

        def unshuffled(kernel, inputs):
            layer = layers.UnshuffledConv(3, 2, scale=1.0, rngs=nnx.Rngs(0))
            layer.kernel[...], layer.bias[...] = kernel, bias
            return layers.depth_to_space(layer(inputs))

        theirs, pull_theirs = jax.vjp(shuffled, kernel, inputs)
        ours, pull_ours = jax.vjp(unshuffled, kernel, inputs)
        np.testing.assert_allclose(ours, theirs, atol=1e-13)
        for mine, other in zip(pull_ours(theirs), pull_theirs(theirs), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-12)


def test_a_dense_layers_gradients_are_those_of_the_product():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((5, 40)).astype(np.float32)
    kernel = rng.standard_normal((40, 30)).astype(np.float32)
    same_function(lambda x: dense(x, kernel), lambda x: x @ kernel, rows)
    same_function(lambda w: dense(rows, w), lambda w: rows @ w, kernel)


def test_a_pointwise_layers_gradients_are_those_of_the_product():
    rng = np.random.default_rng(4)
    images = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)
    kernel = rng.standard_normal((6, 5)).astype(np.float32)
    same_function(lambda x: pointwise(x, kernel), lambda x: x @ kernel, images)
    same_function(lambda w: pointwise(images, w), lambda w: images @ w, kernel)


def test_a_leaky_rectifier_and_its_gradient():
    inputs = jnp.array([-3.0, -0.5, 0.5, 2.0])
    np.testing.assert_allclose(leaky_relu(inputs, 0.2), [-0.6, -0.1, 0.5, 2.0], rtol=1e-6)
    slope = jax.vmap(jax.grad(lambda x: leaky_relu(x, 0.2)))(inputs)
    np.testing.assert_allclose(slope, [0.2, 0.2, 1.0, 1.0], rtol=1e-6)


def same_function(ours, theirs, inputs):
    """Values and gradients of a smooth function of them, to float32's rounding of the sums."""
    expected = theirs(inputs)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(ours(inputs), expected, atol=1e-5 * scale)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(inputs) for f in (ours, theirs)]
    scale = float(np.abs(gradients[1]).max())
    np.testing.assert_allclose(*gradients, atol=3e-5 * scale)
