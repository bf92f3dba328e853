"""3 x 3 convolutions with 16 multiplications for every 36: Winograd's F(2 x 2, 3 x 3).

The algorithm is in Lavin & Gray 2016 ("Fast Algorithms for Convolutional Neural Networks"), section
4.1. Patches of 4 x 4 pixels, which overlap by two, and the kernel are transformed, so that the
2 x 2 outputs of a patch take 16 products. The products of all patches and channels together are 16
matrix products. On CPUs that is faster than XLA's convolution, which multiplies as often as the
definition says. The libraries of accelerators use such algorithms themselves.

Kernels are transformed once, when a network is loaded (:func:`prepare_for_inference`).
:mod:`gradgen.models.fast.doubling` does the same for convolutions that double the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

# With fewer pictures, the transforms cost more than they save, unless there is much to be saved.
FEWEST_PICTURES, MANY_MULTIPLY_ADDS = 6, 50e6
KERNEL_TRANSFORM = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


# ``compiled`` makes a function a single program even where the network around it is not compiled.
compiled = partial(jax.jit, inline=True)


def transform_kernel(kernel: np.ndarray) -> list[np.ndarray]:
    """Turn (3, 3, c_in, c_out) into 16 matrices (c_in, c_out), a patch's products row by row."""
    return list(on_both_sides(KERNEL_TRANSFORM, kernel).reshape(16, *kernel.shape[2:]))


def on_both_sides(transform: Sequence[Sequence[float]], kernel: np.ndarray) -> np.ndarray:
    """Transform rows and columns by a matrix (m, k): (k, k, c_in, c_out) -> (m, m, c_in, c_out)."""
    # NumPy does this, since JAX would compile it for each shape, which takes longer than computing.
    matrix = np.asarray(transform, kernel.dtype)
    rows = np.tensordot(matrix, kernel, (1, 0))  # its axes are a, j, c, d
    return np.tensordot(matrix, rows, (1, 1)).swapaxes(0, 1)  # from b, a, c, d to a, b, c, d


def merged(arrays: Sequence[Array], axis: int) -> Array:
    """Merge arrays of the same shape along an axis, so that their places alternate."""
    shape = list(arrays[0].shape)
    shape[axis] *= len(arrays)
    return jnp.stack(arrays, axis + 1).reshape(shape)


@compiled
def _convolve(images: Array, kernels: list[Array]) -> Array:
    n, height, width, features = images.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of patches; the last may hang over the edge

    def transformed(array: Array, axis: int, count: int) -> tuple[Array, ...]:
        """Transform the four pixels of each patch along an axis."""
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
    # The products are separate, because to stack the patches for a batched product would copy them.
    products = [
        (patch @ kernel).reshape(n, rows, columns, -1)
        for patch, kernel in zip(patches, kernels, strict=True)
    ]
    by_row = [back(*products[j::4]) for j in range(4)]
    pixels = [merged(back(*row), 2) for row in zip(*by_row, strict=True)]
    return merged(pixels, 1)[:, :height, :width]


Convolution = Callable[[Array, list[Array]], Array]


def with_transpose(apply: Convolution, transposed: Convolution) -> Callable[..., Array]:
    """Give a convolution a gradient with respect to its images. The kernels count as constants.

    Args:
        apply: the convolution of images with the forward kernels.
        transposed: its transpose, which takes a cotangent and the backward kernels.

    Returns:
        A function of (images, forward, backward) that computes ``apply(images, forward)``.
    """

    @jax.custom_vjp
    def convolve(images: Array, forward: list[Array], backward: list[Array]) -> Array:
        return apply(images, forward)

    convolve.defvjp(
        lambda images, forward, backward: (apply(images, forward), backward),
        lambda backward, cotangent: (transposed(cotangent, backward), None, None),
    )
    return convolve


# This is the convolution with a 3 x 3 kernel and zero padding that keeps the size. It takes images
# (n, H, W, c_in), transform_kernel of the kernel (forward), and transform_kernel of the flipped
# kernel with swapped channels (backward).
convolve = with_transpose(_convolve, _convolve)


class Constant(nnx.Variable):
    """A value that is made once from parameters and is not trained."""


class BothDirections(nnx.Module):
    """Transformed kernels for the forward and for the backward pass."""

    def __init__(self, forward: list[np.ndarray], backward: list[np.ndarray]):
        self.forward = nnx.List([Constant(jnp.asarray(matrix)) for matrix in forward])
        self.backward = nnx.List([Constant(jnp.asarray(matrix)) for matrix in backward])

    def matrices(self) -> tuple[list[Array], list[Array]]:
        """Return the kernels of the forward pass and those of the backward pass."""
        return (
            [kernel[...] for kernel in self.forward],
            [kernel[...] for kernel in self.backward],
        )


class Transformed(BothDirections):
    """A kernel (3, 3, c_in, c_out) that is transformed for both directions."""

    def __init__(self, kernel: np.ndarray):
        flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        super().__init__(transform_kernel(kernel), transform_kernel(flipped))

    def __call__(self, images: Array) -> Array:
        return convolve(images, *self.matrices())

    def fits(self, images: Array) -> bool:
        """Tell whether this is faster than the plain convolution."""
        multiply_adds = 9 * math.prod((*images.shape[:-1], *self.forward[0].shape))
        return len(images) >= FEWEST_PICTURES or multiply_adds >= MANY_MULTIPLY_ADDS


class Preparable(nnx.Module):
    """A layer whose convolutions use Winograd's algorithm once it is prepared.

    Attributes:
        winograd: the transformed kernel of each group, or ``None`` before the layer is prepared.
    """

    winograd: nnx.List[Any] | None = None

    def transformed(self) -> list[Any]:
        """Transform the kernel of each group.

        The list is empty if the algorithm does not fit the layer's convolutions.
        """
        raise NotImplementedError

    def prepared_for(self, images: Array) -> nnx.List[Any] | None:
        """Return :attr:`winograd` if it is fast for these images, else ``None``."""
        if self.winograd is None or images.dtype != jnp.float32:
            return None
        return self.winograd if self.winograd[0].fits(images) else None


def prepare_for_inference(module: nnx.Module) -> None:
    """Transform the kernels of a network in place, if JAX runs on a CPU.

    After that the network cannot be trained, because the gradients of its kernels are zero.
    """
    if jax.default_backend() != "cpu":
        return
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, Preparable) and (kernels := layer.transformed()):
            layer.winograd = nnx.List(kernels)
