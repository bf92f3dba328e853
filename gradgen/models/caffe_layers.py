"""Caffe's layers, channels last: convolution with groups, transposed convolution, pooling that
rounds up, local response normalisation.

Everything is NHWC and float32. What differs from the usual layers is said where it does: that is
where conversions go wrong.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from gradgen.models.doubling import FEWEST_CHANNELS, TransformedDoubling, doubling_convolution
from gradgen.models.layers import convolve, dense, space_to_depth
from gradgen.models.winograd import Preparable, Transformed


class Conv(Preparable):
    """Convolution with bias; ``kernel`` (k, k, c_in / groups, c_out).

    Args:
        groups: output channels of group i read input channels of group i only, in order.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, features_in // groups, features_out)
        self.kernel = nnx.Param(_he(rngs, shape))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.stride, self.padding, self.groups = stride, padding, groups

    def __call__(self, images: Array) -> Array:
        kernel, stride, padding = self.kernel[...], self.stride, self.padding
        if stride > 1:
            return strided_convolution(images, kernel, stride, padding) + self.bias[...]
        # XLA's CPU back end is slow at groups, backward above all
        inputs = jnp.split(images, self.groups, axis=-1)
        if (winograd := self.prepared_for(images)) is not None:
            outputs = [group(part) for group, part in zip(winograd, inputs, strict=True)]
        else:
            kernels = jnp.split(kernel, self.groups, axis=-1)
            margins = ((padding,) * 2,) * 2
            outputs = [convolve(*pair, margins) for pair in zip(inputs, kernels, strict=True)]
        return jnp.concatenate(outputs, axis=-1) + self.bias[...]

    def transformed(self) -> list[Any]:
        return _same_size(self, self.groups)


class Deconv(Preparable):
    """Caffe's Deconvolution k3 s1 or k4 s2 p1: side s (H - 1) + k - 2 p; ``kernel`` (k, k, c_in,
    c_out).

    The kernel is stored as that of the plain convolution on the input spread out by the stride:
    spatially flipped against Caffe's blob (:func:`gradgen.weights.caffe.deconvolution_kernel`).
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, features_in, features_out)
        self.kernel = nnx.Param(_he(rngs, shape) * stride)
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.stride, self.padding = stride, padding

    def __call__(self, images: Array) -> Array:
        kernel, margin = self.kernel[...], self.kernel.shape[0] - 1 - self.padding
        if (winograd := self.prepared_for(images)) is not None:
            outputs = winograd[0](images)
        elif self.stride == 1:
            outputs = convolve(images, kernel, ((margin,) * 2,) * 2)
        else:
            outputs = doubling_convolution(images, kernel)
        return outputs + self.bias[...]

    def transformed(self) -> list[Any]:
        if self.stride == 2 and self.kernel.shape[-1] >= FEWEST_CHANNELS:
            return [TransformedDoubling(np.asarray(self.kernel[...]))]
        return _same_size(self)


def _same_size(layer: Conv | Deconv, groups: int = 1) -> list[Any]:
    if layer.kernel.shape[:2] != (3, 3) or layer.stride != 1 or layer.padding != 1:
        return []
    kernels = np.split(np.asarray(layer.kernel[...]), groups, axis=-1)
    return [Transformed(kernel) for kernel in kernels]


def strided_convolution(images: Array, kernel: Array, stride: int, padding: int) -> Array:
    """Convolution with a stride, as one with stride 1 on shuffled pixels.

    A stride x stride patch becomes one pixel, in the picture as in the kernel, which zeros fill up
    to a multiple of the stride. The same sums; but the backward pass, else a transposed
    convolution, is a plain one too.
    """
    size = kernel.shape[0]
    count = [(side + 2 * padding - size) // stride + 1 for side in images.shape[1:3]]
    blocks = -(-size // stride)
    # zeros up to the end of the last block, or less where the last rows are in no window
    after = [
        (n - 1 + blocks) * stride - side - padding
        for n, side in zip(count, images.shape[1:3], strict=True)
    ]
    filled = lax.pad(
        images,
        jnp.zeros((), images.dtype),
        [(0, 0, 0), (padding, after[0], 0), (padding, after[1], 0), (0, 0, 0)],
    )
    fill = blocks * stride - size
    kernel = jnp.pad(kernel, ((0, fill), (0, fill), (0, 0), (0, 0)))
    features_in, features_out = kernel.shape[2:]
    kernel = kernel.reshape(blocks, stride, blocks, stride, features_in, features_out)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(blocks, blocks, -1, features_out)
    return convolve(space_to_depth(filled, stride), kernel, ((0, 0), (0, 0)))


class Dense(nnx.Module):
    """Caffe's InnerProduct; ``kernel`` (features_in, features_out).

    Images are flattened as H x W x C, Caffe's as C x H x W: the converter permutes rows and
    columns, for which the layer keeps the shapes.

    Args:
        input_shape, output_shape: (C, H, W) of what is flattened before the layer, and of what its
            output is the flat form of; None where there is no image.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        input_shape: tuple[int, int, int] | None = None,
        output_shape: tuple[int, int, int] | None = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(_he(rngs, (features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.input_shape, self.output_shape = input_shape, output_shape

    def __call__(self, inputs: Array) -> Array:
        return dense(inputs.reshape(inputs.shape[0], -1), self.kernel[...]) + self.bias[...]


def _he(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """He-initialised: standard deviation sqrt(2 / fan_in)."""
    return jax.random.normal(rngs.params(), shape) * float((2 / np.prod(shape[:-1])) ** 0.5)


@jax.custom_jvp
def _maximum(first: Array, second: Array) -> Array:
    """jnp.maximum, but the first has the gradient where both are equal.

    To share it out between them, as JAX does, takes divisions: most of the time of a pooling layer.
    """
    return jnp.maximum(first, second)


@_maximum.defjvp
def _maximum_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    first, second = primals
    return _maximum(first, second), jnp.where(first >= second, *tangents)


def max_pool(images: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Caffe's max pooling: the output's side is rounded up, windows may hang over the edge.

    side = ceil((H + 2 p - k) / s) + 1, one less if the last window would begin beyond H + p.
    Rows first, then columns, each as the maximum of shifted pictures: XLA's own pooling is ten
    times slower backward on a CPU. Where places of a window are equal, one has all of the gradient.
    """
    for axis in (1, 2):
        before, after = _margin(images.shape[axis], size, stride, padding)
        margins = [(0, 0, 0)] * 4
        margins[axis] = (before, after, 0)
        filled = lax.pad(images, jnp.array(-jnp.inf, images.dtype), margins)
        last = filled.shape[axis] - size
        shifted = [
            lax.slice_in_dim(filled, start, start + last + 1, stride, axis) for start in range(size)
        ]
        images = reduce(_maximum, shifted)
    return images


def _margin(side: int, size: int, stride: int, padding: int) -> tuple[int, int]:
    """Padding before and after, which gives Caffe's number of windows."""
    count = -(-(side + 2 * padding - size) // stride) + 1
    if padding and (count - 1) * stride >= side + padding:
        count -= 1
    return padding, max(0, (count - 1) * stride + size - side - padding)


def local_response_norm(
    images: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Array:
    """x / (1 + (alpha / n) sum x^2)^beta, the sum over n = ``size`` neighbouring channels.

    Krizhevsky et al. 2012 with Caffe's convention: alpha is divided by n.
    """
    # The sums as a product with a band of ones, which is several times faster than a window.
    place = np.arange(images.shape[-1])
    band = (np.abs(place[:, None] - place) <= size // 2).astype(np.float32)
    sums = jnp.matmul(images**2, band.astype(images.dtype), precision=lax.Precision.HIGHEST)
    return images * (1 + alpha / size * sums) ** -beta
