"""Tests the critics on features of a frozen network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.models.efficientnet import EfficientNetLite
from gradgen.training import critics
from tests.viewers import Viewer

NUM_CLASSES = 6


@pytest.fixture(scope="module")
def features():
    noise, colours = (
        jax.random.normal(jax.random.key(seed), (8, side, side, 3))
        for seed, side in ((0, critics.SIZE), (1, 1))
    )
    return Viewer().stages(jnp.tanh(noise + colours))


@pytest.fixture(scope="module")
def standardised(features):
    return critics.standardise(features, critics.fit_scale(features, critics.LAYERS))


def test_what_critics_see_of_the_examples_has_mean_0_and_deviation_1(features, standardised):
    assert list(standardised) == list(critics.LAYERS)
    for name, values in standardised.items():
        np.testing.assert_allclose(values.mean((0, 1, 2)), 0, atol=1e-3)
        std = np.asarray(features[name].std((0, 1, 2)))
        expected = std / (std + 1e-3)  # the margin against sleeping units
        np.testing.assert_allclose(values.std((0, 1, 2)), expected, rtol=1e-3)


def test_new_critics_are_undecided_whatever_the_class(standardised):
    judges = critics.Critics(critics.LAYERS, NUM_CLASSES, rngs=nnx.Rngs(0))
    codes = jax.random.normal(jax.random.key(1), (8, NUM_CLASSES))
    verdicts = judges(standardised, codes)
    assert [logits.shape for logits in verdicts] == [(8, 36)] * 4 + [(8, 9)]
    assert all(not logits.any() for logits in verdicts)


def test_a_verdict_is_affine_in_the_class_and_of_its_own_picture(standardised):
    """logit = v·h + <W z, h> (Miyato & Koyama 2018), h of the picture alone."""
    judges = critics.Critics(critics.LAYERS, NUM_CLASSES, rngs=nnx.Rngs(0))
    for index, judge in enumerate(judges.critics.values()):
        for layer in (judge.verdict, judge.told):
            layer.kernel[...] = jax.random.normal(jax.random.key(index), layer.kernel.shape)
    a, b = jax.random.normal(jax.random.key(2), (2, 8, NUM_CLASSES))
    none = jnp.zeros_like(a)
    for both, first, second, neither in zip(
        *(judges(standardised, codes) for codes in (a + b, a, b, none)), strict=True
    ):
        np.testing.assert_allclose(both - first, second - neither, atol=1e-3)
        assert np.abs(first - neither).max() > 0.1
    turned = {name: values[::-1] for name, values in standardised.items()}
    for there, back in zip(judges(standardised, a), judges(turned, a[::-1]), strict=True):
        np.testing.assert_allclose(there, back[::-1], atol=1e-4)


def test_critics_fit_the_layers_of_lite0():
    lite0 = EfficientNetLite(rngs=nnx.Rngs(0))
    shape = jax.ShapeDtypeStruct((2, critics.SIZE, critics.SIZE, 3), jnp.float32)
    features = jax.eval_shape(lite0.stages, shape)
    features = {name: jnp.ones(features[name].shape) for name in critics.LAYERS}
    judges = critics.Critics(critics.LAYERS, NUM_CLASSES, rngs=nnx.Rngs(0))
    verdicts = judges(features, jnp.zeros((2, NUM_CLASSES)))
    assert [logits.shape for logits in verdicts] == [(2, 36)] * 4 + [(2, 9)]
