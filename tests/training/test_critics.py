"""The critics on frozen networks' features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.models.efficientnet import EfficientNetLite
from gradgen.models.tiny64 import Encoder
from gradgen.training import critics

CODE_SIZE = 6


@pytest.fixture(scope="module")
def features():
    encoder = Encoder(3, rngs=nnx.Rngs(0))
    images = jnp.tanh(jax.random.normal(jax.random.key(0), (8, 64, 64, 3)))
    return encoder(images, depth=6)


@pytest.fixture(scope="module")
def standardised(features):
    return critics.standardise(features, critics.fit_scale(features, critics.ENCODER_LAYERS))


def test_what_critics_see_of_the_examples_has_mean_0_and_deviation_1(features, standardised):
    assert (
        list(standardised) == ["conv1", "conv2", "conv3", "conv4"] == list(critics.ENCODER_LAYERS)
    )
    for name, values in standardised.items():
        awake = np.asarray(features[name].std((0, 1, 2))) > 0.05
        assert awake.sum() > len(awake) / 3
        found = np.asarray(values)[..., awake]
        np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-3)
        # the margin against sleeping units: 1e-3 of at least 0.05
        np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=0.021)


def test_new_critics_are_undecided_whatever_the_code(standardised):
    judges = critics.Critics(critics.ENCODER_LAYERS, CODE_SIZE, rngs=nnx.Rngs(0))
    codes = jax.random.normal(jax.random.key(1), (8, CODE_SIZE))
    verdicts = judges(standardised, codes)
    assert [logits.shape for logits in verdicts] == [(8, 64), (8, 64), (8, 64), (8, 16)]
    assert all(not logits.any() for logits in verdicts)


def test_a_verdict_is_affine_in_the_code_and_of_its_own_picture(standardised):
    """logit = v·h + <W z, h> (Miyato & Koyama 2018), h of the picture alone."""
    judges = critics.Critics(critics.ENCODER_LAYERS, CODE_SIZE, rngs=nnx.Rngs(0))
    for index, judge in enumerate(judges.critics.values()):
        for layer in (judge.verdict, judge.code):
            layer.kernel[...] = jax.random.normal(jax.random.key(index), layer.kernel.shape)
    a, b = jax.random.normal(jax.random.key(2), (2, 8, CODE_SIZE))
    none = jnp.zeros_like(a)
    for both, first, second, neither in zip(
        *(judges(standardised, codes) for codes in (a + b, a, b, none)), strict=True
    ):
        np.testing.assert_allclose(both - first, second - neither, atol=1e-3)
        assert np.abs(first - neither).max() > 0.1
    turned = {name: values[::-1] for name, values in standardised.items()}
    for there, back in zip(judges(standardised, a), judges(turned, a[::-1]), strict=True):
        np.testing.assert_allclose(there, back[::-1], atol=1e-4)


def test_critics_fit_the_layers_of_lite0_too():
    lite0 = EfficientNetLite(rngs=nnx.Rngs(0))
    size = critics.LITE0_SIZE
    features = jax.eval_shape(lite0.stages, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    features = {name: jnp.ones(one.shape) for name, one in features.items()}
    layers = {name: one for name, one in critics.LITE0_LAYERS.items() if name in features}
    assert list(layers) == ["stage2", "stage3", "stage5", "stage7"]
    judges = critics.Critics(layers, CODE_SIZE, rngs=nnx.Rngs(0))
    verdicts = judges(features, jnp.zeros((2, CODE_SIZE)))
    assert [logits.shape for logits in verdicts] == [(2, 64), (2, 64), (2, 64), (2, 16)]
