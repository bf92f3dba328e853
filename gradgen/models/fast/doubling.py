"""Transposed convolutions that double the side, computed plainly and by Winograd's algorithm.

Their kernel size is 4, their stride 2 and their padding 1. Along an axis, pixels 2 i and 2 i + 1 of
the output are

    k0 x[i - 1] + k2 x[i]    and    k1 x[i] + k3 x[i + 1].

So the even pixels are a convolution with two taps, and the odd pixels are another. Two pixels of
such a convolution take three products by F(2, 2) (Winograd 1980) in place of four. With the
differences d[i] = x[i] - x[i - 1], the four pixels from 4 j on are

    -k0 d[2j]                       + (k0 + k2) x[2j]
                -k1 d[2j + 1]       + (k1 + k3) x[2j + 1]
                 k2 d[2j + 1]       + (k0 + k2) x[2j]
                       k3 d[2j + 2] + (k1 + k3) x[2j + 1]

These are six products where the definition has eight; over both axes, 36 in place of 64. They are
computed as 16 matrix products. There are four kinds of inputs along an axis (differences and
pixels, each at even and at odd places), and each of the 4 x 4 pairs of kinds has its own kernels.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gradgen.models.fast.winograd import (
    BothDirections,
    compiled,
    merged,
    on_both_sides,
    with_transpose,
)
from gradgen.models.layers import convolve

FEWEST_CHANNELS = 64  # of the output; with fewer, the sums around the products cost more
# The weights of k0 … k3 in the kernels of d[even], d[odd], x[even] and x[odd]. A difference has two
# kernels, since it contributes to two pixels; the first of d[even] is for the pixel before it.
KINDS = (
    ((0.0, 0.0, 0.0, 1.0), (-1.0, 0.0, 0.0, 0.0)),
    ((0.0, -1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)),
    ((1.0, 0.0, 1.0, 0.0),),
    ((0.0, 1.0, 0.0, 1.0),),
)


def doubling_convolution(images: Array, kernel: Array) -> Array:
    """Compute the transposed convolution plainly, as a 2 x 2 convolution to 4 c_out channels.

    An output pixel sees two of the kernel's four rows. An even pixel sees the input at and before
    its own place, and an odd pixel sees the input at and after it. Columns behave likewise. So the
    four parities are four plain convolutions, and their outputs are the four pixels that an input
    pixel becomes.

    Args:
        images: (n, H, W, c_in).
        kernel: (4, 4, c_in, c_out), the kernel of the plain convolution on the input whose pixels
            are spread out by 2.

    Returns:
        (n, 2 H, 2 W, c_out).
    """
    n, height, width, features_in = images.shape
    features_out = kernel.shape[-1]
    # Taps 0 and 2 of the flipped kernel make the even pixels, taps 1 and 3 make the odd pixels.
    parts = kernel.reshape(2, 2, 2, 2, features_in, features_out)  # tap, parity, tap, parity, …
    parts = parts.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, features_in, 4 * features_out)
    found = convolve(images, parts, ((1, 1), (1, 1))).reshape(
        n, height + 1, width + 1, 2, 2, features_out
    )
    rows = [
        merged([found[:, a : a + height, b : b + width, a, b] for b in (0, 1)], 2) for a in (0, 1)
    ]
    return merged(rows, 1)


def transform_kernel(kernel: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Turn (4, 4, c_in, c_out) into the 16 matrices of each direction.

    Returns:
        The matrices (c_in, u c_out) of the forward pass and (u c_out, c_in) of the backward pass,
        where u is 1, 2 or 4 pixels.
    """
    both = on_both_sides([row for kind in KINDS for row in kind], kernel)
    ends = np.cumsum([len(kind) for kind in KINDS])
    places = [slice(end - len(kind), end) for end, kind in zip(ends, KINDS, strict=True)]
    forward, backward = [], []
    for a, b in itertools.product(places, places):
        units = both[a, b]
        forward.append(units.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1))
        backward.append(units.transpose(0, 1, 3, 2).reshape(-1, kernel.shape[2]))
    return forward, backward


def _every_other(array: Array, axis: int, start: int) -> Array:
    return lax.slice_in_dim(array, start, array.shape[axis], 2, axis)


def _padded(array: Array, axis: int) -> Array:
    """Put a zero before and after, along an axis."""
    margins = [(0, 0)] * array.ndim
    margins[axis] = (1, 1)
    return jnp.pad(array, margins)


def _kinds(images: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """Return the four kinds of inputs: even and odd differences, then even and odd pixels.

    There is one even difference more than there are of each other kind.
    """
    padded, count = _padded(images, axis), images.shape[axis]
    after = lax.slice_in_dim(padded, 1, count + 2, 1, axis)
    differences = after - lax.slice_in_dim(padded, 0, count + 1, 1, axis)
    return (
        _every_other(differences, axis, 0),
        _every_other(differences, axis, 1),
        _every_other(images, axis, 0),
        _every_other(images, axis, 1),
    )


def _kinds_transposed(kinds: list[Array], axis: int) -> Array:
    """Apply the transpose of :func:`_kinds`."""
    even, odd, pixels, others = kinds
    count = pixels.shape[axis]
    before = lax.slice_in_dim(even, 0, count, 1, axis)
    behind = lax.slice_in_dim(even, 1, count + 1, 1, axis)
    return merged([before - odd + pixels, odd - behind + others], axis)


def _pixels(products: list[Array], axis: int, unit: int) -> Array:
    """Turn the products of each kind into four output pixels for every two input pixels.

    Args:
        products: for each kind, in the order of :func:`_kinds`.
        axis: along which the output's pixels lie.
        unit: axis of the pixels to which a product contributes.
    """
    even, odd, both, others = products
    count = both.shape[axis]

    def of(array: Array, index: int) -> Array:
        return lax.index_in_dim(array, index, unit, keepdims=False)

    before = lax.slice_in_dim(of(even, 1), 0, count, 1, axis)
    behind = lax.slice_in_dim(of(even, 0), 1, count + 1, 1, axis)
    both, others = of(both, 0), of(others, 0)
    return merged([before + both, of(odd, 0) + others, both + of(odd, 1), others + behind], axis)


def _pixels_transposed(pixels: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """Apply the transpose of :func:`_pixels`. The axis ``unit`` comes directly after ``axis``."""
    shape = list(pixels.shape)
    shape[axis : axis + 1] = [shape[axis] // 2 + 1, 2]
    pairs = _padded(pixels, axis).reshape(shape)
    count = pixels.shape[axis]
    quarter = [lax.slice_in_dim(pixels, i, count, 4, axis) for i in range(4)]
    return (
        _every_other(pairs, axis, 0),
        _every_other(pairs, axis, 1),
        jnp.expand_dims(quarter[0] + quarter[2], axis + 1),
        jnp.expand_dims(quarter[1] + quarter[3], axis + 1),
    )


@compiled
def _convolve(images: Array, kernels: list[Array]) -> Array:
    by_row = []
    for i, row in enumerate(_kinds(images, 1)):
        products = []
        for j, part in enumerate(_kinds(row, 2)):
            units = [len(KINDS[i]), len(KINDS[j])]
            product = part.reshape(-1, part.shape[-1]) @ kernels[4 * i + j]
            products.append(product.reshape(*part.shape[:3], *units, -1))
        by_row.append(_pixels(products, 2, 4))
    return _pixels(by_row, 1, 3)


@compiled
def _convolve_transposed(cotangent: Array, kernels: list[Array]) -> Array:
    by_row = []
    for i, row in enumerate(_pixels_transposed(cotangent, 1)):  # n, h, unit, W, c
        products = []
        for j, part in enumerate(_pixels_transposed(row, 3)):  # n, h, unit, w, unit, c
            n, height, _, width = part.shape[:4]
            rows = part.transpose(0, 1, 3, 2, 4, 5).reshape(n * height * width, -1)
            products.append((rows @ kernels[4 * i + j]).reshape(n, height, width, -1))
        by_row.append(_kinds_transposed(products, 2))
    return _kinds_transposed(by_row, 1)


# This is doubling_convolution by Winograd's algorithm, for even sides. It takes images
# (n, H, W, c_in), and the forward and backward matrices of transform_kernel.
convolve_doubling = with_transpose(_convolve, _convolve_transposed)


class TransformedDoubling(BothDirections):
    """A kernel (4, 4, c_in, c_out) that is transformed for both directions."""

    def __init__(self, kernel: np.ndarray):
        super().__init__(*transform_kernel(kernel))

    def __call__(self, images: Array) -> Array:
        return convolve_doubling(images, *self.matrices())

    def fits(self, images: Array) -> bool:
        """Tell whether the algorithm can be used, which takes even sides."""
        _, height, width, _ = images.shape
        return height % 2 == width % 2 == 0
