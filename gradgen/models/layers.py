"""Layers that the networks share.

These are convolutions and dense layers whose backward pass is fast, and functions that move pixels
into channels and back. Everything is channels-last (NHWC). Layers compute in the type of their
input, so that bfloat16 images give a bfloat16 pass over float32 parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from gradgen.models.fast.winograd import Preparable, Transformed

LAYOUT = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


def _convolve(images: Array, kernel: Array, padding: Padding) -> Array:
    return lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(images: Array, kernel: Array, padding: Padding) -> Array:
    """Compute a convolution with stride 1.

    The gradient with respect to the images is written as a plain convolution with the flipped
    kernel. The rule that JAX derives reverses the kernel inside the convolution, for which XLA's
    CPU back end has no fast path.

    Args:
        images: (n, H, W, c_in).
        kernel: (k, k, c_in, c_out).
        padding: ((top, bottom), (left, right)), the numbers of zeros, each less than k.

    Returns:
        (n, H + top + bottom - k + 1, W + left + right - k + 1, c_out).
    """
    return _convolve(images, kernel, padding)


def _convolve_forward(
    images: Array, kernel: Array, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(images, kernel, padding), (images, kernel)


def _convolve_backward(
    padding: Padding, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    images, kernel = saved
    # The barrier keeps XLA from folding the flip back into a reversed convolution.
    flipped = lax.optimization_barrier(kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    (top, bottom), (left, right) = padding
    height, width = kernel.shape[0] - 1, kernel.shape[1] - 1
    rest = ((height - top, height - bottom), (width - left, width - right))
    _, kernel_gradient = jax.vjp(lambda kernel: _convolve(images, kernel, padding), kernel)
    return _convolve(cotangent, flipped, rest), kernel_gradient(cotangent)[0]


convolve.defvjp(_convolve_forward, _convolve_backward)


def conv2d(images: Array, kernel: Array) -> Array:
    """Apply :func:`convolve` with zero padding that keeps the size. The kernel's size is odd."""
    margins = [(size // 2,) * 2 for size in kernel.shape[:2]]
    return convolve(images, kernel, (margins[0], margins[1]))


@jax.custom_vjp
def dense(inputs: Array, kernel: Array) -> Array:
    """Compute inputs (n, c_in) @ kernel (c_in, c_out).

    The gradient with respect to the inputs is written as (kernel @ cotangent^T)^T. For the rule
    that JAX derives, XLA's CPU back end makes a transposed copy of the kernel. With 4096 x 4096
    numbers that takes ten times as long as the product.
    """
    return inputs @ kernel


def _dense_forward(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ kernel, (inputs, kernel)


def _dense_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    # Without the barriers, XLA would turn the product round again.
    columns = lax.optimization_barrier(cotangent.T)
    return lax.optimization_barrier(kernel @ columns).T, inputs.T @ cotangent


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def pointwise(inputs: Array, kernel: Array) -> Array:
    """Compute inputs (..., c_in) @ kernel (c_in, c_out), for many rows.

    The backward pass computes the cotangent once. XLA would otherwise compute it again for each of
    its two uses, which are transposed copies for the two products.
    """
    return inputs @ kernel


def _pointwise_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    rows = lax.optimization_barrier(cotangent.reshape(-1, cotangent.shape[-1]))
    inputs_gradient = (rows @ kernel.T).reshape(inputs.shape)
    return inputs_gradient, inputs.reshape(-1, inputs.shape[-1]).T @ rows


pointwise.defvjp(_dense_forward, _pointwise_backward)


def space_to_depth(images: Array, factor: int = 2) -> Array:
    """Turn each f x f patch into a single pixel: (n, H, W, c) -> (n, H/f, W/f, f*f*c)."""
    n, height, width, channels = images.shape
    patches = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(
        n, height // factor, width // factor, factor * factor * channels
    )


def depth_to_space(images: Array, factor: int = 2) -> Array:
    """Invert :func:`space_to_depth`: (n, H, W, f*f*c) -> (n, f*H, f*W, c)."""
    n, height, width, channels = images.shape
    patches = images.reshape(n, height, width, factor, factor, channels // factor**2)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(
        n, height * factor, width * factor, channels // factor**2
    )


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, for training only (Ioffe & Szegedy 2015).

    The sums are matrix products with a row of ones. XLA's CPU back end computes them two to three
    times faster than the reductions of ``nnx.BatchNorm``, which took half of a training step.
    Every call with ``running=False`` updates the running mean and variance.

    Args:
        features: number of channels.
        momentum: share of the old value that the running mean and variance keep in an update.
        epsilon: is added to the variance.
    """

    def __init__(self, features: int, momentum: float = 0.97, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum = momentum
        self.epsilon = epsilon
        self.running = False

    def __call__(self, inputs: Array) -> Array:
        if self.running:
            mean, var = self.mean[...], self.var[...]
        else:
            rows = inputs.reshape(-1, inputs.shape[-1])
            mean = _column_means(rows)
            var = jnp.maximum(_column_means(rows * rows) - mean**2, 0.0)
            keep = self.momentum
            self.mean[...] = keep * self.mean[...] + (1 - keep) * lax.stop_gradient(mean)
            self.var[...] = keep * self.var[...] + (1 - keep) * lax.stop_gradient(var)
        factor = self.scale[...] * lax.rsqrt(var + self.epsilon)
        offset = self.shift[...] - mean * factor
        return inputs * per_channel(factor, inputs) + per_channel(offset, inputs)


def per_channel(vector: Array, like: Array) -> Array:
    """Broadcast a vector (c,) to the shape and type of ``like`` (..., c).

    This is a product with a column of ones, so that the gradient, which is the sum over all axes
    but the last, is a matrix product. XLA's CPU back end sums columns many times slower.
    """
    ones = jnp.ones((like.size // like.shape[-1], 1), like.dtype)
    return (ones @ vector.astype(like.dtype)[None]).reshape(like.shape)


def _column_means(rows: Array) -> Array:
    ones = jnp.ones((1, rows.shape[0]), rows.dtype)
    return jnp.dot(ones, rows, preferred_element_type=jnp.float32)[0] / rows.shape[0]


class Affine(Preparable):
    """A convolution with stride 1, or a dense layer, and then a bias.

    In training a batch norm may follow. :func:`fold_batch_norm` merges it into kernel and bias, so
    that a stored network has no batch norm and no image depends on its neighbours.

    Args:
        features_in, features_out: numbers of channels.
        kernel_size: side of the kernel, which is odd; 1 for a pointwise layer, 0 for a dense layer.
        norm: whether a batch norm follows (in training only).
        scale: factor on the kernel of He's initialisation.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int,
        *,
        norm: bool = False,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size,) * 2 if kernel_size > 1 else ()
        fan_in = features_in * max(1, kernel_size) ** 2
        kernel = jax.random.normal(rngs.params(), (*shape, features_in, features_out))
        self.kernel = nnx.Param(kernel * scale * (2.0 / fan_in) ** 0.5)
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.norm = nnx.data(BatchNorm(features_out) if norm else None)

    def __call__(self, inputs: Array) -> Array:
        kernel = self.kernel[...].astype(inputs.dtype)
        if (winograd := self.prepared_for(inputs)) is not None:
            outputs = winograd[0](inputs)
        elif kernel.ndim == 4:
            outputs = conv2d(inputs, kernel)
        else:
            outputs = dense(inputs, kernel) if inputs.ndim == 2 else pointwise(inputs, kernel)
        if self.norm is not None:  # the batch norm has a bias of its own
            return self.norm(outputs)
        return outputs + per_channel(self.bias[...], outputs)

    def transformed(self) -> list[Any]:
        if self.kernel.shape[:-2] != (3, 3):
            return []
        return [Transformed(np.asarray(self.kernel[...]))]


class UnshuffledConv(Affine):
    """An :class:`Affine` layer with k = 3 that runs before :func:`depth_to_space`, not after it.

    depth_to_space(UnshuffledConv(x)) = Affine(depth_to_space(x)). A pixel of x is four pixels after
    depth_to_space, and 3 x 3 pixels of x hold all that those four pixels see. This takes four times
    the products, but it works on many channels at few places in place of few channels at many
    places, and nothing has to be moved.

    Args:
        features_in, features_out: numbers of channels of the :class:`Affine` layer.
        scale: factor on the kernel of He's initialisation.
        rngs: source of the initial weights.
    """

    def __init__(self, features_in: int, features_out: int, *, scale: float, rngs: nnx.Rngs):
        super().__init__(features_in, features_out, 3, scale=scale, rngs=rngs)

    def __call__(self, inputs: Array) -> Array:
        """Apply the layer: (n, H, W, 4 features_in) -> (n, H, W, 4 features_out)."""
        if (winograd := self.prepared_for(inputs)) is not None:
            outputs = winograd[0](inputs)
        else:
            outputs = conv2d(inputs, unshuffled_kernel(self.kernel[...]).astype(inputs.dtype))
        return outputs + per_channel(jnp.tile(self.bias[...], 4), outputs)

    def transformed(self) -> list[Any]:
        return [Transformed(np.asarray(unshuffled_kernel(self.kernel[...])))]


def unshuffled_kernel(kernel: Array) -> Array:
    """Make an :class:`UnshuffledConv`'s kernel: (3, 3, c_in, c_out) -> (3, 3, 4 c_in, 4 c_out)."""
    # Three patches are six pixels along an axis. Pixel a of the middle patch reads the pixels
    # a + 1 … a + 3 of them, counted from 0, so its kernel has a + 1 zeros before and 2 - a after.
    placed = jnp.stack(
        [
            jnp.pad(kernel, ((a + 1, 2 - a), (b + 1, 2 - b), (0, 0), (0, 0)))
            for a in (0, 1)
            for b in (0, 1)
        ],
        axis=-2,
    )
    features_in, _, features_out = placed.shape[2:]
    patches = placed.reshape(3, 2, 3, 2, features_in, 4 * features_out)
    return patches.transpose(0, 2, 1, 3, 4, 5).reshape(3, 3, 4 * features_in, 4 * features_out)


def fold_batch_norm(module: nnx.Module) -> None:
    """Merge every batch norm of a module into its layer's kernel and bias, in place.

    With s = sqrt(var + eps), y = gamma (W x - mean) / s + beta becomes
    (gamma / s) W x + beta - gamma mean / s.
    """
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, Affine) and layer.norm is not None:
            norm = layer.norm
            factor = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)
            layer.kernel[...] = layer.kernel[...] * factor
            layer.bias[...] = norm.shift[...] - norm.mean[...] * factor
            layer.norm = nnx.data(None)


class Residual(nnx.Module):
    """relu(x + conv(relu(conv(x)))), the residual block of He et al. 2016.

    Args:
        features: number of channels.
        norm: whether batch norms follow the convolutions (in training only).
        slope: of the rectifier below 0.
        scale: factor on the second convolution's initial kernel.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        features: int,
        *,
        norm: bool = False,
        slope: float = 0.0,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.conv1 = Affine(features, features, 3, norm=norm, rngs=rngs)
        self.conv2 = Affine(features, features, 3, norm=norm, scale=scale, rngs=rngs)
        self.slope = slope

    def __call__(self, inputs: Array) -> Array:
        hidden = leaky_relu(self.conv1(inputs), self.slope)
        return leaky_relu(inputs + self.conv2(hidden), self.slope)


def leaky_relu(inputs: Array, slope: float) -> Array:
    """Return max(x, slope * x), for slopes in [0, 1)."""
    # The gradient of jnp.maximum would take divisions, to share the gradient where both are equal.
    return jnp.where(inputs > 0, inputs, slope * inputs)
