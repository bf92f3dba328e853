"""Caffe's layers, channels last: convolution with groups, transposed convolution, pooling that
rounds up, local response normalisation.

Everything is NHWC and float32. What differs from the usual layers is said where it does: that is
where conversions go wrong.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from gradgen.models.layers import convolve, dense, space_to_depth
from gradgen.models.winograd import Preparable


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

    def same_size_kernels(self) -> list[np.ndarray]:
        return _same_size_kernels(self, self.groups)


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

    def same_size_kernels(self) -> list[np.ndarray]:
        return _same_size_kernels(self)


def _same_size_kernels(layer: Conv | Deconv, groups: int = 1) -> list[np.ndarray]:
    same = layer.kernel.shape[:2] == (3, 3) and layer.stride == layer.padding == 1
    return np.split(np.asarray(layer.kernel[...]), groups, axis=-1) if same else []


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


def doubling_convolution(images: Array, kernel: Array) -> Array:
    """Transposed convolution k4 s2 p1, as a plain one of 2 x 2 to four times the channels.

    An output pixel sees two of the kernel's four rows, an even one those before and at its own
    place, an odd one those at and after it; columns likewise. So the four parities are four plain
    convolutions, and their outputs the four pixels that one input pixel becomes.

    kernel: (4, 4, c_in, c_out), that of the plain convolution on the input spread out by 2.
    """
    n, height, width, features_in = images.shape
    features_out = kernel.shape[-1]
    # taps 0 and 2 of the flipped kernel make the even pixels, 1 and 3 the odd ones
    parts = kernel.reshape(2, 2, 2, 2, features_in, features_out)  # tap, parity; tap, parity
    parts = parts.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, features_in, 4 * features_out)
    found = convolve(images, parts, ((1, 1), (1, 1))).reshape(
        n, height + 1, width + 1, 2, 2, features_out
    )
    rows = [
        jnp.stack(
            [found[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3
        )  # n, H, W, 2, c
        for a in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(n, 2 * height, 2 * width, features_out)


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


def max_pool(images: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Caffe's max pooling: the output's side is rounded up, windows may hang over the edge.

    side = ceil((H + 2 p - k) / s) + 1, one less if the last window would begin beyond H + p.
    Rows first, then columns, each as the maximum of shifted pictures: XLA's own pooling is ten
    times slower backward on a CPU. Where places of a window are equal, they share the gradient.
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
        images = reduce(jnp.maximum, shifted)
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
