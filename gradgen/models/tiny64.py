"""The embedded networks for 64 x 64 images: encoder and classifier, generator, discriminator.

The encoder is CaffeNet's plan at a small size (convolutions, then fc6, fc7, fc8) with residual
blocks; fc6 before its rectifier is the code. The generator is DeepSim's plan (Dosovitskiy & Brox
2016): dense layers, then upsampling convolutions. Downsampling and upsampling are pointwise layers
on shuffled pixels, since a strided convolution's backward pass is slow in XLA.

Images are (n, 64, 64, 3) RGB in [-1, 1], channels last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gradgen.models.layers import (
    Affine,
    Residual,
    UnshuffledConv,
    depth_to_space,
    leaky_relu,
    space_to_depth,
)

IMAGE_SIZE = 64
FC6_SIZE = 512
MULTIPLY_ADDS = 126e6  # of generator and classifier, for one picture


class Encoder(nnx.Module):
    """Classifier whose fc6 is the code; 59.5 million multiply-adds an image for 200 classes.

    Calling it returns the activations by name: ``conv1`` (n, 32, 32, 32), ``conv2`` (n, 16, 16,
    64), ``conv3`` (n, 8, 8, 128), ``conv4`` (n, 4, 4, 256), ``fc6`` (n, 512, before its
    rectifier), ``fc7`` (n, 512) and ``fc8`` (n, num_classes), the logits.

    Args:
        num_classes: number of logits.
        norm: batch norms, for training; fold them before storing.
    """

    def __init__(self, num_classes: int, *, norm: bool = False, rngs: nnx.Rngs):
        # a norm after conv1 would cost as much time as all convolutions together
        self.conv1 = Affine(12, 32, 3, rngs=rngs)
        self.down2 = Affine(128, 64, 1, norm=norm, rngs=rngs)
        self.conv2 = Residual(64, norm=norm, rngs=rngs)
        self.down3 = Affine(256, 128, 1, norm=norm, rngs=rngs)
        self.conv3 = Residual(128, norm=norm, rngs=rngs)
        self.down4 = Affine(512, 256, 1, norm=norm, rngs=rngs)
        self.conv4 = Affine(256, 256, 3, norm=norm, rngs=rngs)
        self.fc6 = Affine(4096, FC6_SIZE, 0, norm=norm, rngs=rngs)
        self.fc7 = Affine(FC6_SIZE, 512, 0, norm=norm, rngs=rngs)
        self.fc8 = Affine(512, num_classes, 0, scale=0.5, rngs=rngs)

    def __call__(
        self, images: Array, depth: int = 8, dropout_key: Array | None = None
    ) -> dict[str, Array]:
        """images: (n, 64, 64, 3) in [-1, 1]. Returns the activations up to layer ``depth``.

        dropout_key: given in training only: what fc7 and fc8 read loses half of its units, as in
        CaffeNet.
        """
        acts = {}
        acts["conv1"] = jax.nn.relu(self.conv1(space_to_depth(images)))
        hidden = jax.nn.relu(self.down2(space_to_depth(acts["conv1"])))
        acts["conv2"] = self.conv2(hidden)
        hidden = jax.nn.relu(self.down3(space_to_depth(acts["conv2"])))
        acts["conv3"] = self.conv3(hidden)
        hidden = jax.nn.relu(self.down4(space_to_depth(acts["conv3"])))
        acts["conv4"] = jax.nn.relu(hidden + self.conv4(hidden))
        acts["fc6"] = self.fc6(acts["conv4"].reshape(images.shape[0], -1))
        if depth > 6:
            hidden = _drop_half(jax.nn.relu(acts["fc6"]), dropout_key, 6)
            acts["fc7"] = jax.nn.relu(self.fc7(hidden))
            acts["fc8"] = self.fc8(_drop_half(acts["fc7"], dropout_key, 7))
        return acts


def _drop_half(units: Array, key: Array | None, layer: int) -> Array:
    """Set a random half of the units to 0 and double the rest; without a key, all stay."""
    if key is None:
        return units
    kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 0.5, units.shape)
    return jnp.where(kept, 2 * units, 0)


class Generator(nnx.Module):
    """Code to image; 66 million multiply-adds. No norms, so images are independent of each other.

    Args:
        code_size: units of z.
    """

    def __init__(self, code_size: int, *, rngs: nnx.Rngs):
        slope = 0.2
        self.fc1 = Affine(code_size, 512, 0, rngs=rngs)
        self.fc2 = Affine(512, 4096, 0, rngs=rngs)
        self.conv3 = Affine(256, 256, 3, scale=0.3, rngs=rngs)
        self.up4 = Affine(256, 4 * 128, 1, rngs=rngs)
        self.conv4 = Residual(128, slope=slope, scale=0.3, rngs=rngs)
        self.up5 = Affine(128, 4 * 64, 1, rngs=rngs)
        self.conv5 = Residual(64, slope=slope, scale=0.3, rngs=rngs)
        self.up6 = Affine(64, 4 * 32, 1, rngs=rngs)
        self.conv6 = Affine(32, 4 * 8, 3, rngs=rngs)
        self.conv7 = UnshuffledConv(8, 3, scale=0.3, rngs=rngs)
        self.slope = slope

    def __call__(self, codes: Array) -> Array:
        """codes: (n, code_size) ~ N(0, I). Returns images (n, 64, 64, 3) in [-1, 1]."""
        slope = self.slope
        hidden = leaky_relu(self.fc1(codes), slope)
        hidden = leaky_relu(self.fc2(hidden), slope).reshape(-1, 4, 4, 256)
        hidden = leaky_relu(hidden + self.conv3(hidden), slope)
        hidden = self.conv4(leaky_relu(depth_to_space(self.up4(hidden)), slope))
        hidden = self.conv5(leaky_relu(depth_to_space(self.up5(hidden)), slope))
        hidden = leaky_relu(depth_to_space(self.up6(hidden)), slope)
        hidden = leaky_relu(self.conv6(hidden), slope)
        return depth_to_space(jnp.tanh(self.conv7(hidden)))


class Discriminator(nnx.Module):
    """Real or generated, 26 million multiply-adds; its output is a logit, positive for real."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = Affine(12, 32, 3, rngs=rngs)
        self.down2 = Affine(128, 64, 1, rngs=rngs)
        self.conv2 = Affine(64, 64, 3, rngs=rngs)
        self.down3 = Affine(256, 128, 1, rngs=rngs)
        self.conv3 = Affine(128, 128, 3, rngs=rngs)
        self.down4 = Affine(512, 256, 1, rngs=rngs)
        self.fc5 = Affine(4096, 256, 0, rngs=rngs)
        self.fc6 = Affine(256, 1, 0, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """images: (n, 64, 64, 3) in [-1, 1]. Returns logits (n,)."""
        slope = 0.2
        hidden = leaky_relu(self.conv1(space_to_depth(images)), slope)
        hidden = leaky_relu(self.down2(space_to_depth(hidden)), slope)
        hidden = leaky_relu(hidden + self.conv2(hidden), slope)
        hidden = leaky_relu(self.down3(space_to_depth(hidden)), slope)
        hidden = leaky_relu(hidden + self.conv3(hidden), slope)
        hidden = leaky_relu(self.down4(space_to_depth(hidden)), slope)
        hidden = leaky_relu(self.fc5(hidden.reshape(images.shape[0], -1)), slope)
        return self.fc6(hidden)[:, 0]
