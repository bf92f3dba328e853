"""3 x 3 convolutions with 16 multiplications for every 36: Winograd's F(2 x 2, 3 x 3).

Lavin & Gray 2016 ("Fast Algorithms for Convolutional Neural Networks"), section 4.1: patches of
4 x 4 pixels, which overlap by two, and the kernel are transformed so that the 2 x 2 outputs of a
patch take 16 products; those of all patches and channels are 16 matrix products. On CPUs that is
faster than XLA's convolution, which multiplies as often as the definition says; accelerators'
libraries do the like themselves.

Kernels are transformed once, when a network is loaded (:func:`prepare_for_inference`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

FEWEST_PICTURES = 8  # with fewer, the matrix products are too small to be fast
KERNEL_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def transform_kernel(kernel: np.ndarray) -> np.ndarray:
    """(3, 3, c_in, c_out) -> (16, c_in, c_out)."""
    # by NumPy: JAX would compile this for each shape, which takes longer than computing it
    transform = np.asarray(KERNEL_TRANSFORM, kernel.dtype)
    rows = np.tensordot(transform, kernel, (1, 0))  # a, j, c, d
    transformed = np.tensordot(transform, rows, (1, 1)).swapaxes(0, 1)  # b, a, … to a, b, …
    return transformed.reshape(16, *kernel.shape[2:])


def _convolve(images: Array, kernels: Array) -> Array:
    n, height, width, features = images.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of patches; one hangs over an odd edge

    def transformed(array: Array, axis: int, count: int) -> tuple[Array, ...]:
        """Of the four pixels of each patch along an axis."""
        a, b, c, d = (lax.slice_in_dim(array, i, i + 2 * count - 1, 2, axis) for i in range(4))
        return a - c, b + c, c - b, b - d

    def back(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array]:
        return a + b + c, b - c - d

    margins = ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0))
    patches = [
        patch.reshape(-1, features)
        for row in transformed(jnp.pad(images, margins), 1, rows)
        for patch in transformed(row, 2, columns)
    ]
    products = jnp.einsum("pnc,pcd->pnd", jnp.stack(patches), kernels)
    by_row = [back(*products[j::4]) for j in range(4)]
    pixels = [jnp.stack(back(*row), 1) for row in zip(*by_row, strict=True)]
    tiles = jnp.stack(pixels, 1).reshape(n, rows, columns, 2, 2, kernels.shape[-1])
    outputs = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * rows, 2 * columns, -1)
    return outputs[:, :height, :width]


@jax.custom_vjp
def convolve(images: Array, forward: Array, backward: Array) -> Array:
    """Convolution with a 3 x 3 kernel and zero padding to the same size.

    images: (n, H, W, c_in). forward: :func:`transform_kernel` of the kernel; backward: of the
    flipped kernel with channels swapped. The gradient is with respect to the images alone: the
    kernels count as constants.
    """
    return _convolve(images, forward)


def _forward(images: Array, forward: Array, backward: Array) -> tuple[Array, Array]:
    return _convolve(images, forward), backward


def _backward(backward: Array, cotangent: Array) -> tuple[Array, None, None]:
    return _convolve(cotangent, backward), None, None


convolve.defvjp(_forward, _backward)


class Constant(nnx.Variable):
    """Made from parameters, once."""


class Transformed(nnx.Module):
    """A kernel (3, 3, c_in, c_out), transformed for both directions."""

    def __init__(self, kernel: np.ndarray):
        flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        self.forward = Constant(jnp.asarray(transform_kernel(kernel)))
        self.backward = Constant(jnp.asarray(transform_kernel(flipped)))

    def __call__(self, images: Array) -> Array:
        return convolve(images, self.forward[...], self.backward[...])


class Preparable(nnx.Module):
    """A layer whose convolutions are done by Winograd once it is prepared.

    Attributes:
        winograd: its kernels, one a group; ``None`` before it is prepared.
    """

    winograd: nnx.List[Transformed] | None = None

    def same_size_kernels(self) -> list[np.ndarray]:
        """Its kernels (3, 3, c_in, c_out) with stride 1 and padding 1, one a group; else none."""
        raise NotImplementedError

    def prepared_for(self, images: Array) -> nnx.List[Transformed] | None:
        """:attr:`winograd` where it will be fast, else ``None``."""
        fits = images.dtype == jnp.float32 and len(images) >= FEWEST_PICTURES
        return self.winograd if fits else None


def prepare_for_inference(module: nnx.Module) -> None:
    """On CPUs, transform the kernels of a network, in place.

    It cannot be trained then: its kernels' gradients are zero.
    """
    if jax.default_backend() != "cpu":
        return
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, Preparable) and (kernels := layer.same_size_kernels()):
            layer.winograd = nnx.List([Transformed(kernel) for kernel in kernels])
