"""Caffe's layers, channels last: convolution with groups, transposed convolution, pooling that
rounds up, local response normalisation.

Everything is NHWC and float32. What differs from the usual layers is said where it does: that is
where conversions go wrong.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from gradgen.models.layers import LAYOUT


class Conv(nnx.Module):
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
        outputs = lax.conv_general_dilated(
            images,
            self.kernel[...],
            (self.stride,) * 2,
            ((self.padding,) * 2,) * 2,
            dimension_numbers=LAYOUT,
            feature_group_count=self.groups,
        )
        return outputs + self.bias[...]


class Deconv(nnx.Module):
    """Caffe's Deconvolution: side s (H - 1) + k - 2 p; ``kernel`` (k, k, c_in, c_out).

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
        kernel = self.kernel[...]
        margin = kernel.shape[0] - 1 - self.padding
        outputs = lax.conv_general_dilated(
            images,
            kernel,
            (1, 1),
            ((margin,) * 2,) * 2,
            lhs_dilation=(self.stride,) * 2,
            dimension_numbers=LAYOUT,
        )
        return outputs + self.bias[...]


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
        return inputs.reshape(inputs.shape[0], -1) @ self.kernel[...] + self.bias[...]


def _he(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """He-initialised: standard deviation sqrt(2 / fan_in)."""
    return jax.random.normal(rngs.params(), shape) * float((2 / np.prod(shape[:-1])) ** 0.5)


def max_pool(images: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Caffe's max pooling: the output's side is rounded up, windows may hang over the edge.

    side = ceil((H + 2 p - k) / s) + 1, one less if the last window would begin beyond H + p.
    """
    margins = [(0, 0), *(_margin(side, size, stride, padding) for side in images.shape[1:3])]
    return lax.reduce_window(
        images, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), [*margins, (0, 0)]
    )


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
    margin = size // 2
    sums = lax.reduce_window(
        images**2,
        0.0,
        lax.add,
        (1, 1, 1, size),
        (1, 1, 1, 1),
        [(0, 0), (0, 0), (0, 0), (margin, margin)],
    )
    return images / (1 + alpha / size * sums) ** beta
