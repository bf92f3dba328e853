"""DCGAN's ImageNet discriminator (Radford et al. 2015), with fixed normalisation statistics.

The original normalises with the mean and the variance of the batch that it is given, so that its
verdict on a picture depends on the pictures beside it. Here the statistics are arguments. They come
from a reference set of photographs (:func:`reference_statistics`) or, for comparison, from the
batch itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from gradgen.models.layers import LAYOUT, leaky_relu

IMAGE_SIZE = 32
EPSILON = 1e-8  # as in the original's batch normalisation
SLOPE = 0.2  # of the leaky rectifier
# (output channels, stride) of conv1 … conv6
PLAN = ((128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2))

Statistics = Mapping[str, tuple[Array | np.ndarray, Array | np.ndarray]]


class Layer(nnx.Module):
    """A 3 x 3 convolution with padding 1 and no bias, and the normalisation after it.

    ``scale`` and ``shift`` (features,) belong to the normalisation.
    """

    def __init__(self, channels: int, features: int, stride: int, norm: bool, rngs: nnx.Rngs):
        kernel = 0.02 * jax.random.normal(rngs.params(), (3, 3, channels, features))
        self.kernel = nnx.Param(kernel)
        if norm:
            self.scale = nnx.Param(jnp.ones(features))
            self.shift = nnx.Param(jnp.zeros(features))
        self.stride, self.norm = stride, norm

    def convolve(self, images: Array) -> Array:
        """Apply the convolution: (n, H, W, channels) -> (n, H/stride, W/stride, features)."""
        return lax.conv_general_dilated(
            images,
            self.kernel[...],
            (self.stride,) * 2,
            ((1, 1), (1, 1)),
            dimension_numbers=LAYOUT,
        )

    def finish(
        self, hidden: Array, statistics: tuple[Array | np.ndarray, Array | np.ndarray] | None
    ) -> Array:
        """Normalise, if the layer does so, and rectify.

        Args:
            hidden: (n, H, W, features), the result of :meth:`convolve`.
            statistics: mean and variance (features,), or ``None`` for those of ``hidden``.
        """
        if self.norm:
            mean, variance = moments(hidden) if statistics is None else statistics
            factor = self.scale[...] * lax.rsqrt(variance + EPSILON)
            hidden = (hidden - mean) * factor + self.shift[...]
        return leaky_relu(hidden, SLOPE)


class Discriminator(nnx.Module):
    """Judges images (n, 32, 32, 3), RGB in [-1, 1]. A positive logit means "real".

    A call returns the rectified activations ``conv1`` … ``conv6`` and the ``logit`` (n,).
    """

    def __init__(self, *, rngs: nnx.Rngs):
        layers: dict[str, Layer] = {}
        channels = 3
        for number, (features, stride) in enumerate(PLAN, 1):
            layers[f"conv{number}"] = Layer(channels, features, stride, number > 1, rngs)
            channels = features
        self.layers: nnx.Dict[Layer] = nnx.Dict(layers)
        self.output = nnx.Param(0.02 * jax.random.normal(rngs.params(), (4 * 4 * channels,)))

    def __call__(self, images: Array, statistics: Statistics | None = None) -> dict[str, Array]:
        """Compute all activations.

        Args:
            images: (n, 32, 32, 3).
            statistics: {"conv2": (mean, variance), …}, or ``None`` for those of this batch.
        """
        acts: dict[str, Array] = {}
        hidden = images
        for name in layer_names():
            layer = self.layers[name]
            own = None if statistics is None else statistics.get(name)
            hidden = acts[name] = layer.finish(layer.convolve(hidden), own)
        acts["logit"] = hidden.reshape(hidden.shape[0], -1) @ self.output[...]
        return acts


def layer_names() -> list[str]:
    """Return "conv1" … "conv6"."""
    return [f"conv{number}" for number in range(1, len(PLAN) + 1)]


def moments(hidden: Array) -> tuple[Array, Array]:
    """Return mean and variance (c,) of each channel, over the pictures and their pixels."""
    mean = hidden.mean((0, 1, 2))
    return mean, ((hidden - mean) ** 2).mean((0, 1, 2))


def reference_statistics(
    network: Discriminator,
    images: np.ndarray,
    batch_size: int = 64,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute the statistics with which the original would normalise these pictures as one batch.

    The function goes through the network layer by layer, in batches whose moments are merged in
    double precision. It holds the activations of one layer for all pictures, which is at most
    0.5 MB for each picture.

    Args:
        network: the discriminator.
        images: (n, 32, 32, 3) in [-1, 1].
        batch_size: pictures that are computed at a time.

    Returns:
        {"conv2": (mean, variance), …}, each (features,).
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    hidden = np.asarray(images, np.float32)
    for name in layer_names():
        layer = network.layers[name]
        graph, params = nnx.split(layer)
        convolve = jax.jit(lambda p, x, graph=graph: nnx.merge(graph, p).convolve(x))
        convolved = np.concatenate(
            [np.asarray(convolve(params, part)) for part in _batches(hidden, batch_size)]
        )
        statistics = None
        if layer.norm:
            mean = convolved.mean((0, 1, 2), dtype=np.float64)
            squares = [
                np.square(part - mean.astype(np.float32)).sum((0, 1, 2), dtype=np.float64)
                for part in _batches(convolved, batch_size)
            ]
            variance = np.sum(squares, 0) / (convolved.size / convolved.shape[-1])
            found[name] = (mean.astype(np.float32), variance.astype(np.float32))
            statistics = found[name]
        finish = jax.jit(lambda p, x, s, graph=graph: nnx.merge(graph, p).finish(x, s))
        hidden = np.concatenate(
            [
                np.asarray(finish(params, part, statistics))
                for part in _batches(convolved, batch_size)
            ]
        )
    return found


def _batches(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(array), size):
        yield array[start : start + size]
