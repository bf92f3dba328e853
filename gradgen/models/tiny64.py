"""The embedded networks for 64 x 64 images: encoder and classifier, generator, discriminator.

The encoder is CaffeNet's plan at a small size (convolutions, then fc6, fc7, fc8) with residual
blocks; fc6 before its rectifier is the code. The generator is DeepSim's plan (Dosovitskiy & Brox
2016): dense layers, then upsampling convolutions. Downsampling and upsampling are pointwise layers
on shuffled pixels, since a strided convolution's backward pass is slow in XLA.

Images are (n, 64, 64, 3) RGB in [-1, 1], channels last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gradgen.errors import GradgenError
from gradgen.models.layers import (
    Affine,
    Residual,
    UnshuffledConv,
    depth_to_space,
    leaky_relu,
    space_to_depth,
)

IMAGE_SIZE = 64
MULTIPLY_ADDS = 126e6  # of generator and classifier, for one picture, at their default sizes
CLASS_SHARPNESS = 6.0  # of the softmax through which a generator reads a code's class


class EncoderSizes(NamedTuple):
    """Channels of conv4, units of fc6 and fc7."""

    conv4: int = 256
    fc6: int = 512
    fc7: int = 512


class GeneratorSizes(NamedTuple):
    """What of a generator's shape bundles differ in.

    Attributes:
        num_classes: how many classes own a part of N(0, I) (:func:`class_of_codes`); 0 for a
            generator that was told none.
        finest: channels of the 64 x 64 pixels.
        blurred: whether the picture is smoothed before its tanh by the binomial filter
            [1, 2, 1] x [1, 2, 1] / 16. It is zero at the period of two pixels, where upsampling
            leaves dots, and every other frequency can be amplified before it.
    """

    num_classes: int = 0
    finest: int = 8
    blurred: bool = False


class DiscriminatorSizes(NamedTuple):
    """Units of fc5."""

    fc5: int = 256


class Sizes(NamedTuple):
    """The sizes of a bundle's networks, as its card has them; tiny64's are the defaults."""

    encoder: EncoderSizes = EncoderSizes()
    generator: GeneratorSizes = GeneratorSizes()
    discriminator: DiscriminatorSizes = DiscriminatorSizes()

    @classmethod
    def of_card(cls, sizes: Mapping[str, Any]) -> Sizes:
        """The ``sizes`` of a card's architecture; what it does not name is as in tiny64.

        Raises:
            GradgenError: it names a size that there is not.
        """
        try:
            return cls(
                EncoderSizes(**sizes.get("encoder", {})),
                GeneratorSizes(**sizes.get("generator", {})),
                DiscriminatorSizes(**sizes.get("discriminator", {})),
            )
        except (TypeError, AttributeError) as error:
            raise GradgenError(
                f"a card's architecture has sizes of no known form: {error}"
            ) from None

    def for_card(self) -> dict[str, dict[str, Any]]:
        """What :meth:`of_card` reads."""
        return {name: part._asdict() for name, part in self._asdict().items()}


TINY64 = Sizes()


class Encoder(nnx.Module):
    """Classifier whose fc6 is the code; 59.5 million multiply-adds an image for 200 classes.

    Calling it returns the activations by name: ``conv1`` (n, 32, 32, 32), ``conv2`` (n, 16, 16,
    64), ``conv3`` (n, 8, 8, 128), ``conv4`` (n, 4, 4, 256), ``fc6`` (n, 512, before its
    rectifier), ``fc7`` (n, 512) and ``fc8`` (n, num_classes), the logits.

    Args:
        num_classes: number of logits.
        sizes: of conv4, fc6 and fc7, where they are not those above.
        norm: batch norms, for training; fold them before storing.
    """

    def __init__(
        self,
        num_classes: int,
        sizes: EncoderSizes = TINY64.encoder,
        *,
        norm: bool = False,
        rngs: nnx.Rngs,
    ):
        conv4, fc6, fc7 = sizes
        # a norm after conv1 would cost as much time as all convolutions together
        self.conv1 = Affine(12, 32, 3, rngs=rngs)
        self.down2 = Affine(128, 64, 1, norm=norm, rngs=rngs)
        self.conv2 = Residual(64, norm=norm, rngs=rngs)
        self.down3 = Affine(256, 128, 1, norm=norm, rngs=rngs)
        self.conv3 = Residual(128, norm=norm, rngs=rngs)
        self.down4 = Affine(512, conv4, 1, norm=norm, rngs=rngs)
        self.conv4 = Affine(conv4, conv4, 3, norm=norm, rngs=rngs)
        self.fc6 = Affine(16 * conv4, fc6, 0, norm=norm, rngs=rngs)
        self.fc7 = Affine(fc6, fc7, 0, norm=norm, rngs=rngs)
        self.fc8 = Affine(fc7, num_classes, 0, scale=0.5, rngs=rngs)
        self.sizes = sizes

    def __call__(self, images: Array, depth: int = 8) -> dict[str, Array]:
        """images: (n, 64, 64, 3) in [-1, 1]. Returns the activations up to layer ``depth``."""
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
            acts["fc7"] = jax.nn.relu(self.fc7(jax.nn.relu(acts["fc6"])))
            acts["fc8"] = self.fc8(acts["fc7"])
        return acts


def class_of_codes(codes: Array, num_classes: int) -> Array:
    """The class that each code (n, code_size) is of: the largest of its first units. (n,)

    Under N(0, I) each class has the same share, a cone, so that a chain need not leave a class's
    part to cross it.
    """
    return jnp.argmax(codes[:, :num_classes], axis=-1)


class Generator(nnx.Module):
    """Code to image; 66 million multiply-adds at the least size. No norms, so images are
    independent of each other.

    Where classes own a part of N(0, I), the first layer reads besides z the softmax of the units
    that decide, which is a smooth way to say which is largest.

    Args:
        code_size: units of z.
    """

    def __init__(self, code_size: int, sizes: GeneratorSizes = TINY64.generator, *, rngs: nnx.Rngs):
        slope = 0.2
        self.fc1 = Affine(code_size + sizes.num_classes, 512, 0, rngs=rngs)
        self.fc2 = Affine(512, 4096, 0, rngs=rngs)
        self.conv3 = Affine(256, 256, 3, scale=0.3, rngs=rngs)
        self.up4 = Affine(256, 4 * 128, 1, rngs=rngs)
        self.conv4 = Residual(128, slope=slope, scale=0.3, rngs=rngs)
        self.up5 = Affine(128, 4 * 64, 1, rngs=rngs)
        self.conv5 = Residual(64, slope=slope, scale=0.3, rngs=rngs)
        self.up6 = Affine(64, 4 * 32, 1, rngs=rngs)
        self.conv6 = Affine(32, 4 * sizes.finest, 3, rngs=rngs)
        self.conv7 = UnshuffledConv(sizes.finest, 3, scale=0.3, rngs=rngs)
        self.slope = slope
        self.code_size = code_size
        self.sizes = sizes

    def __call__(self, codes: Array) -> Array:
        """codes: (n, code_size) ~ N(0, I). Returns images (n, 64, 64, 3) in [-1, 1]."""
        slope = self.slope
        if classes := self.sizes.num_classes:
            told = jax.nn.softmax(CLASS_SHARPNESS * codes[:, :classes])
            codes = jnp.concatenate([codes, told], axis=-1)
        hidden = leaky_relu(self.fc1(codes), slope)
        hidden = leaky_relu(self.fc2(hidden), slope).reshape(-1, 4, 4, 256)
        hidden = leaky_relu(hidden + self.conv3(hidden), slope)
        hidden = self.conv4(leaky_relu(depth_to_space(self.up4(hidden)), slope))
        hidden = self.conv5(leaky_relu(depth_to_space(self.up5(hidden)), slope))
        hidden = leaky_relu(depth_to_space(self.up6(hidden)), slope)
        hidden = leaky_relu(self.conv6(hidden), slope)
        picture = depth_to_space(self.conv7(hidden))
        return jnp.tanh(binomial_blur(picture) if self.sizes.blurred else picture)


def binomial_blur(images: Array) -> Array:
    """[1, 2, 1] x [1, 2, 1] / 16 over (n, H, W, c), the border repeated."""
    for axis in (1, 2):
        margins = [(1, 1) if axis == other else (0, 0) for other in range(4)]
        padded, size = jnp.pad(images, margins, mode="edge"), images.shape[axis]
        before, here, after = (
            jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(3)
        )
        images = 0.25 * before + 0.5 * here + 0.25 * after
    return images


class Discriminator(nnx.Module):
    """Real or generated, 26 million multiply-adds; its output is a logit, positive for real."""

    def __init__(self, sizes: DiscriminatorSizes = TINY64.discriminator, *, rngs: nnx.Rngs):
        self.conv1 = Affine(12, 32, 3, rngs=rngs)
        self.down2 = Affine(128, 64, 1, rngs=rngs)
        self.conv2 = Affine(64, 64, 3, rngs=rngs)
        self.down3 = Affine(256, 128, 1, rngs=rngs)
        self.conv3 = Affine(128, 128, 3, rngs=rngs)
        self.down4 = Affine(512, 256, 1, rngs=rngs)
        self.fc5 = Affine(4096, sizes.fc5, 0, rngs=rngs)
        self.fc6 = Affine(sizes.fc5, 1, 0, rngs=rngs)
        self.sizes = sizes

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
