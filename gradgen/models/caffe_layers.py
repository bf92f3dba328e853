"""Caffe's layers: convolution with groups, transposed convolution, pooling, normalisation.

Everything is NHWC (channels last) and float32. Each docstring says where Caffe's layer differs from
the usual layer of that name, because conversions go wrong there.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from gradgen.models.fast.doubling import FEWEST_CHANNELS, TransformedDoubling, doubling_convolution
from gradgen.models.fast.winograd import Preparable, Transformed
from gradgen.models.layers import convolve, dense, space_to_depth


class Conv(Preparable):
    """A convolution with a bias. Its ``kernel`` is (k, k, c_in / groups, c_out).

    Args:
        features_in, features_out: numbers of channels, c_in and c_out.
        kernel_size: side k of the kernel.
        stride: pixels from one window to the next.
        padding: rows or columns of zeros on each side.
        groups: number of groups. The output channels of group i read only the input channels of
            group i, in order.
        rngs: source of the initial weights.
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
        # Each group is a convolution of its own, because XLA's CPU back end is slow at convolutions
        # with groups, above all in the backward pass.
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
    """Caffe's Deconvolution with k = 3, s = 1 or with k = 4, s = 2, p = 1.

    The output's side is s (H - 1) + k - 2 p. The ``kernel`` (k, k, c_in, c_out) belongs to the
    plain convolution of the input whose pixels are spread out by the stride. So it is Caffe's blob
    flipped in both directions (:func:`gradgen.weights.caffe.deconvolution_kernel`).

    Args:
        features_in, features_out: numbers of channels, c_in and c_out.
        kernel_size: side k of the kernel.
        stride: s, by which the side grows.
        padding: p, rows or columns that are cut off on each side.
        rngs: source of the initial weights.
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
    """Compute a convolution with a stride as a convolution with stride 1 on rearranged pixels.

    Each stride x stride patch becomes a single pixel, both in the picture and in the kernel. Before
    that, zeros fill the kernel up to a multiple of the stride. The sums stay the same, but the
    backward pass becomes a plain convolution, where it would be a transposed convolution otherwise.

    Args:
        images: (n, H, W, c_in).
        kernel: (k, k, c_in, c_out).
        stride: pixels from one window to the next.
        padding: rows or columns of zeros on each side.

    Returns:
        (n, H', W', c_out) with H' = (H + 2 padding - k) // stride + 1, and W' likewise.
    """
    size = kernel.shape[0]
    count = [(side + 2 * padding - size) // stride + 1 for side in images.shape[1:3]]
    blocks = -(-size // stride)
    # The zeros reach to the end of the last block. Their number is negative, so that rows are cut
    # off, where the last rows lie in no window.
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
    """Caffe's InnerProduct. Its ``kernel`` is (features_in, features_out).

    Images are flattened here as H x W x C, but in Caffe as C x H x W. The converter therefore
    permutes rows and columns, and the layer keeps the shapes for it.

    Args:
        features_in, features_out: lengths of the input and of the output.
        input_shape: (C, H, W) of the image that is flattened before the layer, or ``None`` if there
            is none.
        output_shape: (C, H, W) of the image that the output becomes, or ``None`` if it becomes
            none.
        rngs: source of the initial weights.
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
    """Draw weights with He's initialisation: their standard deviation is sqrt(2 / fan_in)."""
    return jax.random.normal(rngs.params(), shape) * float((2 / np.prod(shape[:-1])) ** 0.5)


@jax.custom_jvp
def _maximum(first: Array, second: Array) -> Array:
    """Return ``jnp.maximum``, but give ``first`` the whole gradient where both are equal.

    JAX's own rule shares the gradient between equal inputs. That takes divisions, which would cost
    most of the time of a pooling layer.
    """
    return jnp.maximum(first, second)


@_maximum.defjvp
def _maximum_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    first, second = primals
    return _maximum(first, second), jnp.where(first >= second, *tangents)


def max_pool(images: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Apply Caffe's max pooling, which rounds the output's side up.

    The last windows may hang over the edge. The side is ceil((H + 2 p - k) / s) + 1, and it is
    smaller by 1 if the last window would begin beyond H + p.

    The maximum is taken first over rows and then over columns, each time of shifted pictures,
    because XLA's own pooling is ten times slower in the backward pass on a CPU. If several pixels
    of a window are equal, a single one of them gets the whole gradient.

    Args:
        images: (n, H, W, c).
        size: side k of a window.
        stride: s, pixels from one window to the next.
        padding: p, rows or columns on each side that no maximum counts.

    Returns:
        (n, side of the rows, side of the columns, c).
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
    """Return the padding before and after that gives Caffe's number of windows."""
    count = -(-(side + 2 * padding - size) // stride) + 1
    if padding and (count - 1) * stride >= side + padding:
        count -= 1
    return padding, max(0, (count - 1) * stride + size - side - padding)


def local_response_norm(
    images: Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Array:
    """Return x / (1 + (alpha / n) sum x^2)^beta, with the sum over n neighbouring channels.

    This is Krizhevsky et al. 2012 with Caffe's convention, in which alpha is divided by n.

    Args:
        images: x, (n, H, W, c).
        size: n, the number of channels in a sum.
        alpha, beta: the constants of the formula.
    """
    # A product with a band matrix of ones gives the sums several times faster than a window does.
    place = np.arange(images.shape[-1])
    band = (np.abs(place[:, None] - place) <= size // 2).astype(np.float32)
    sums = jnp.matmul(images**2, band.astype(images.dtype), precision=lax.Precision.HIGHEST)
    return images * (1 + alpha / size * sums) ** -beta
