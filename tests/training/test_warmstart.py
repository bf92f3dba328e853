"""Going on from earlier networks: what is put in changes nothing at first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.errors import UsageError
from gradgen.models.layers import fold_batch_norm
from gradgen.models.tiny64 import Encoder, Generator
from gradgen.training import loop, warmstart


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


@pytest.mark.parametrize("new_size", [6, 4])
def test_a_turned_generator_draws_the_same_pictures_from_turned_codes(new_size):
    """New codes are a rotation of the old ones (or, if shorter, of those of their subspace)."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0][:new_size]
    new = rng.normal(size=(500, new_size)).astype(np.float32)
    old = (new @ rotation).astype(np.float32)
    generator = Generator(6, rngs=nnx.Rngs(0))
    expected = generator(jnp.asarray(old[:5]))
    turned = warmstart.turn_codes(generator, old, new)
    np.testing.assert_allclose(turned(jnp.asarray(new[:5])), expected, atol=1e-4)


def test_an_unknown_bundle_to_start_from_is_one_clear_error():
    with pytest.raises(UsageError, match="there is no bundle 'nowhere'"):
        warmstart.load_start("nowhere")
