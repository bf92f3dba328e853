"""Tests the critics on features of a frozen network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.models.efficientnet import EfficientNetLite
from gradgen.networks.interfaces import resize
from gradgen.training import critics
from tests.viewers import Viewer

NUM_CLASSES = 6
SEEN = (*critics.LAYERS, critics.TEXTURE)


@pytest.fixture(scope="module")
def features():
    noise, colours = (
        jax.random.normal(jax.random.key(seed), (8, side, side, 3))
        for seed, side in ((0, critics.SIZE), (1, 1))
    )
    images = jnp.tanh(noise + colours)
    return Viewer().stages(images) | {critics.TEXTURE: critics.texture_of(resize(images, 64))}


@pytest.fixture(scope="module")
def standardised(features):
    return critics.standardise(features, critics.fit_scale(features, SEEN))


def test_what_critics_see_of_the_examples_has_mean_0_and_deviation_1(features, standardised):
    assert tuple(standardised) == SEEN
    for name, values in standardised.items():
        np.testing.assert_allclose(values.mean((0, 1, 2)), 0, atol=1e-3)
        std = np.asarray(features[name].std((0, 1, 2)))
        expected = std / (std + 1e-3)  # the margin against sleeping units
        np.testing.assert_allclose(values.std((0, 1, 2)), expected, rtol=1e-3)


def test_new_critics_are_undecided_whatever_the_class(standardised):
    judges = critics.Critics(critics.LAYERS, NUM_CLASSES, rngs=nnx.Rngs(0))
    codes = jax.random.normal(jax.random.key(1), (8, NUM_CLASSES))
    verdicts = judges(standardised, codes)
    shapes = [(8, 36)] * 4 + [(8, 9), (8, 256)]
    assert [logits.shape for logits in verdicts.values()] == shapes
    assert all(not logits.any() for logits in verdicts.values())


def test_a_verdict_is_affine_in_the_class_and_of_its_own_picture(standardised):
    """logit = v·h + <W z, h> (Miyato & Koyama 2018), h of the picture alone."""
    judges = critics.Critics(critics.LAYERS, NUM_CLASSES, rngs=nnx.Rngs(0))
    for index, judge in enumerate(judges.critics.values()):
        for layer in (judge.verdict, judge.told):
            layer.kernel[...] = jax.random.normal(jax.random.key(index), layer.kernel.shape)
    a, b = jax.random.normal(jax.random.key(2), (2, 8, NUM_CLASSES))
    none = jnp.zeros_like(a)
    verdicts = [judges(standardised, codes) for codes in (a + b, a, b, none)]
    for name in critics.LAYERS:
        both, first, second, neither = (verdict[name] for verdict in verdicts)
        np.testing.assert_allclose(both - first, second - neither, atol=1e-3)
        assert np.abs(first - neither).max() > 0.1
    turned = {name: values[::-1] for name, values in standardised.items()}
    back = judges(turned, a[::-1])
    for name, there in judges(standardised, a).items():
        np.testing.assert_allclose(there, back[name][::-1], atol=1e-4)


def test_texture_is_what_the_eye_cannot_see_from_afar():
    """Flat fields and slow waves have none; the period of two pixels is left as it is."""
    rows, columns = np.mgrid[:64, :64]
    board = jnp.asarray((-1.0) ** (rows + columns))[None, ..., None]
    slow = jnp.asarray(np.cos(2 * np.pi * columns / 32))[None, ..., None]
    np.testing.assert_allclose(critics.texture_of(board)[:, 2:-2, 2:-2], board[:, 2:-2, 2:-2])
    # of a wave of 32 pixels the filter leaves cos(pi / 32)^4 = 0.981, but at the border
    assert np.abs(critics.texture_of(0.3 + slow)[:, 2:-2, 2:-2]).max() < 0.0192


def test_a_place_of_the_critic_of_textures_sees_16_pixels():
    judge = critics.TextureCritic(rngs=nnx.Rngs(0))
    judge.verdict.kernel[...] = jax.random.normal(jax.random.key(1), judge.verdict.kernel.shape)
    place = 8 * 16 + 8  # of 16 x 16
    pixels = jax.random.normal(jax.random.key(2), (1, 64, 64, 3))
    slope = jax.grad(lambda pixels: judge(pixels)[0, place])(pixels)[0]
    rows, columns = np.nonzero(np.abs(slope).sum(-1))
    for seen in (rows, columns):
        assert (seen.min(), seen.max()) == (26, 41)


def test_critics_fit_the_layers_of_lite0():
    lite0 = EfficientNetLite(rngs=nnx.Rngs(0))
    shape = jax.ShapeDtypeStruct((2, critics.SIZE, critics.SIZE, 3), jnp.float32)
    features = jax.eval_shape(lite0.stages, shape)
    features = {name: jnp.ones(features[name].shape) for name in critics.LAYERS}
    features[critics.TEXTURE] = jnp.ones((2, 64, 64, 3))
    judges = critics.Critics(critics.LAYERS, NUM_CLASSES, rngs=nnx.Rngs(0))
    verdicts = judges(features, jnp.zeros((2, NUM_CLASSES)))
    shapes = [(2, 36)] * 4 + [(2, 9), (2, 256)]
    assert [logits.shape for logits in verdicts.values()] == shapes
