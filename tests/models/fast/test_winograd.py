"""Winograd's convolutions against XLA's, and layers that are prepared for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from gradgen.models.caffe_layers import Conv, Deconv
from gradgen.models.fast import winograd
from gradgen.models.fast.doubling import TransformedDoubling, doubling_convolution
from gradgen.models.layers import LAYOUT, Affine, Residual, UnshuffledConv, conv2d


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 6), (13, 7), (1, 2)])
def test_it_is_the_convolution_in_value_and_in_the_images_gradient(height, width):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        images, kernel, cotangent = (
            jnp.asarray(rng.normal(size=shape), jnp.float64)
            for shape in ((2, height, width, 5), (3, 3, 5, 4), (2, height, width, 4))
        )
        ours, pull_ours = jax.vjp(winograd.Transformed(np.asarray(kernel)), images)
        theirs, pull_theirs = jax.vjp(lambda x: conv2d(x, kernel), images)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)
        np.testing.assert_allclose(pull_ours(cotangent)[0], pull_theirs(cotangent)[0], atol=1e-13)


def doubled_by_lax(images, kernel):
    return lax.conv_general_dilated(
        images, kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=LAYOUT
    )


@pytest.mark.parametrize(
    ("height", "width", "make"),
    [
        (5, 7, lambda kernel: lambda images: doubling_convolution(images, kernel)),
        (4, 6, lambda kernel: TransformedDoubling(np.asarray(kernel))),
        (2, 2, lambda kernel: TransformedDoubling(np.asarray(kernel))),
        # as BlackJAX computes chains
        (4, 2, lambda kernel: lambda images: one_by_one(TransformedDoubling(kernel), images)),
    ],
    ids=["plainly", "winograd", "smallest", "mapped"],
)
def test_a_doubling_convolution_is_laxs_transposed_one_in_value_and_gradient(height, width, make):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        images, kernel, cotangent = (
            jnp.asarray(rng.normal(size=shape), jnp.float64)
            for shape in ((2, height, width, 3), (4, 4, 3, 6), (2, 2 * height, 2 * width, 6))
        )
        ours, pull_ours = jax.vjp(make(kernel), images)
        theirs, pull_theirs = jax.vjp(lambda x: doubled_by_lax(x, kernel), images)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)
        np.testing.assert_allclose(pull_ours(cotangent)[0], pull_theirs(cotangent)[0], atol=1e-13)


def one_by_one(layer, images):
    return jax.vmap(lambda image: layer(image[None])[0])(images)


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (lambda rngs: Residual(16, rngs=rngs), 16),
        (lambda rngs: Affine(12, 8, 3, rngs=rngs), 12),
        (lambda rngs: Conv(16, 8, 3, padding=1, groups=2, rngs=rngs), 16),
        (lambda rngs: Deconv(16, 8, 3, padding=1, rngs=rngs), 16),
        (lambda rngs: UnshuffledConv(4, 3, scale=1.0, rngs=rngs), 16),
    ],
    ids=["residual", "affine", "groups", "deconvolution", "unshuffled"],
)
def test_a_prepared_layer_computes_what_it_did(make, features):
    plain, prepared = make(nnx.Rngs(0)), make(nnx.Rngs(0))
    winograd.prepare_for_inference(prepared)
    on_cpu = jax.default_backend() == "cpu"
    for count, changes in ((winograd.FEWEST_PICTURES, on_cpu), (2, False)):
        images = normal(0, count, 7, 8, features)
        found, expected = prepared(images), plain(images)
        # sums of 144 float32 products of unit normals, in another order; twice, in a residual block
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert bool((found != expected).any()) == changes, "few pictures go the plain way"


@pytest.mark.parametrize(
    ("make", "image", "type_", "by_winograd"),
    [
        (lambda rngs: Affine(64, 64, 3, rngs=rngs), (40, 40, 64), jnp.float32, True),
        (lambda rngs: Affine(64, 64, 3, rngs=rngs), (40, 40, 64), jnp.bfloat16, False),
        (lambda rngs: Deconv(5, 64, 4, stride=2, padding=1, rngs=rngs), (4, 4, 5), None, True),
        (lambda rngs: Deconv(5, 64, 4, stride=2, padding=1, rngs=rngs), (3, 4, 5), None, False),
    ],
    ids=["much to save", "bfloat16", "doubling", "doubling an odd side"],
)
def test_a_single_picture_goes_by_winograd_where_that_can_be_faster(
    make, image, type_, by_winograd
):
    plain, prepared = make(nnx.Rngs(0)), make(nnx.Rngs(0))
    winograd.prepare_for_inference(prepared)
    images = normal(0, 1, *image).astype(type_ or jnp.float32)
    found, expected = prepared(images), plain(images)
    on_cpu = jax.default_backend() == "cpu"
    assert bool((found != expected).any()) == (by_winograd and on_cpu)
    # sums of up to 576 products of unit normals in float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "layer",
    [
        Affine(4, 4, 1, rngs=nnx.Rngs(0)),
        Affine(4, 4, 0, rngs=nnx.Rngs(0)),
        Conv(4, 4, 3, rngs=nnx.Rngs(0)),
        Conv(4, 4, 3, stride=2, padding=1, rngs=nnx.Rngs(0)),
        Conv(4, 4, 5, padding=2, rngs=nnx.Rngs(0)),
        Deconv(4, 4, 4, stride=2, padding=1, rngs=nnx.Rngs(0)),
    ],
    ids=["pointwise", "dense", "valid", "strided", "5 x 5", "doubling to few channels"],
)
def test_other_layers_stay_as_they_are(layer):
    before = len(jax.tree.leaves(nnx.state(layer)))
    winograd.prepare_for_inference(layer)
    assert layer.winograd is None and len(jax.tree.leaves(nnx.state(layer))) == before
