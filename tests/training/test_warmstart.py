"""Tests that the first networks of a training compute the same as those from which it starts."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.errors import UsageError
from gradgen.models.layers import fold_batch_norm
from gradgen.models.tiny64 import Encoder, EncoderSizes, Generator, GeneratorSizes
from gradgen.training import loop, warmstart
from gradgen.weights.cards import Card


@pytest.fixture(scope="module")
def encoder():
    module = Encoder(7, rngs=nnx.Rngs(1))
    for index, layer in enumerate(warmstart._affine_layers(module).values()):
        layer.bias[...] = 0.1 * jax.random.normal(jax.random.key(index), layer.bias.shape)
    return module


@pytest.fixture(scope="module")
def images():
    return jnp.tanh(jax.random.normal(jax.random.key(0), (24, 64, 64, 3)))


@pytest.mark.parametrize("running", [False, True], ids=["batch statistics", "running statistics"])
def test_added_norms_change_nothing_on_the_images_they_were_fitted_to(encoder, images, running):
    normed = warmstart.add_batch_norms(encoder, images, 7)
    if running:
        loop.use_running_statistics(normed)
    expected, found = encoder(images), normed(images)
    for name, values in expected.items():
        # float32 rounding through ten layers
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3, err_msg=name)


def test_folding_added_norms_gives_the_first_encoder_back(encoder, images):
    normed = warmstart.add_batch_norms(encoder, images, 7)
    fold_batch_norm(normed)
    back = warmstart._affine_layers(normed)
    for name, layer in warmstart._affine_layers(encoder).items():
        np.testing.assert_allclose(back[name].kernel[...], layer.kernel[...], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(back[name].bias[...], layer.bias[...], atol=1e-4)


def test_other_classes_get_a_new_last_layer_only(encoder, images):
    normed = warmstart.add_batch_norms(encoder, images, 3)
    found = normed(images)
    assert found["fc8"].shape == (24, 3)
    np.testing.assert_allclose(found["fc7"], encoder(images)["fc7"], rtol=1e-3, atol=1e-3)


def test_other_sizes_keep_what_comes_before_them(encoder, images):
    normed = warmstart.add_batch_norms(encoder, images, 7, sizes=EncoderSizes(192, 32, 16))
    found, expected = normed(images), encoder(images)
    np.testing.assert_allclose(found["conv3"], expected["conv3"], rtol=1e-3, atol=1e-3)
    assert found["fc6"].shape == (24, 32) and found["fc8"].shape == (24, 7)


@pytest.fixture(scope="module")
def earlier():
    """A bundle whose classes are a, b, c, with mean codes 0.5, 1.5, 2.5 in every unit."""
    generator = Generator(12, rngs=nnx.Rngs(0))
    means = np.broadcast_to(np.arange(3)[:, None] + 0.5, (3, 12)).astype(np.float32)
    card = Card("earlier", "bundle", labels=("a", "n00000001 b, beta", "c"))
    modules = SimpleNamespace(generator=generator)
    return warmstart.Start(modules, None, {"class_mean": means}, card)


def test_a_generator_that_is_told_classes_begins_with_the_earlier_ones_pictures(earlier):
    """A code whose class is certain is the class's mean code plus the earlier code of the rest."""
    sizes = GeneratorSizes(num_classes=2, finest=16, blurred=False)
    made = warmstart.adapt_generator(earlier, 8, sizes, ("n00000001 b, beta", "elsewhere"))
    z = np.array(jax.random.normal(jax.random.key(0), (4, 8)))
    z[:, 0] = 30.0  # certainly of the first class: b
    made.conv7.kernel[:, :, 8:] = 0.0  # the new channels, which begin near zero
    old = np.zeros((4, 12), np.float32)
    old[:, :6], old[:, 6:8] = z[:, 2:], z[:, :2]
    expected = earlier.modules.generator(old + 1.5)
    np.testing.assert_allclose(made(z), expected, atol=1e-4)
    again = SimpleNamespace(
        modules=SimpleNamespace(generator=made), card=earlier.card, statistics=earlier.statistics
    )
    assert warmstart.adapt_generator(again, 8, sizes, ("x", "y")) is made
    with pytest.raises(UsageError, match="cannot be given 6 and 3"):
        warmstart.adapt_generator(again, 6, GeneratorSizes(3), ("x", "y", "z"))


def test_an_unknown_bundle_to_start_from_is_one_clear_error():
    with pytest.raises(UsageError, match="there is no bundle 'nowhere'"):
        warmstart.load_start("nowhere")
