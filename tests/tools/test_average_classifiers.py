"""Averaging stages of a training, and the statistics that the average needs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradgen.models.layers import space_to_depth
from gradgen.models.tiny64 import Encoder
from gradgen.tools import average_classifiers
from gradgen.training.data import Dataset
from gradgen.training.loop import to_images


def test_the_average_is_the_mean_of_each_weight():
    stages = [
        {"w": jnp.array([1.0, 2.0])},
        {"w": jnp.array([3.0, 8.0])},
        {"w": jnp.array([5.0, 2])},
    ]
    np.testing.assert_allclose(average_classifiers.average(stages)["w"], [3, 4])


def test_statistics_are_those_of_the_training_images(monkeypatch):
    """Ten strided batches of 4 are all 40 images: the first norm's mean is their mean."""
    monkeypatch.setattr(average_classifiers, "BATCH_SIZE", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    train = Dataset(pixels, np.zeros(40, np.int32), ("a", "b"), "test")
    encoder = Encoder(2, norm=True, rngs=nnx.Rngs(0))
    average_classifiers.take_statistics(encoder, train)

    hidden = space_to_depth(jax.nn.relu(encoder.conv1(space_to_depth(to_images(pixels)))))
    outputs = np.asarray(hidden @ encoder.down2.kernel[...], np.float64)
    batches = outputs.reshape(4, 10, -1, 64).swapaxes(0, 1).reshape(10, -1, 64)
    norm = encoder.down2.norm
    np.testing.assert_allclose(norm.mean[...], outputs.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm.var[...], batches.var(1).mean(0), rtol=1e-4)
