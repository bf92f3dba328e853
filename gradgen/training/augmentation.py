"""Changes to pictures before critics look at them, of photographs and of g(z) alike.

Zhao et al. 2020 ("Differentiable augmentation for data-efficient GAN training"): with a few
thousand photographs critics soon know each by heart, unless they never see the same one twice. As
the pictures of the generator are changed in the same way, and gradients go through the change, the
generator does not learn to draw the changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

BRIGHTNESS, SATURATION, CONTRAST = 0.3, 0.6, 0.3  # largest change: added, and of factors from 1
SHIFT = 8 / 64  # largest, of the side
CUT_OUT = 20 / 64  # side of the grey square, of the picture's
CUT_OUT_SHARE = 0.5  # of the pictures


def augment(key: Array, images: Array) -> Array:
    """Random colour, shift and cut-out of each of (n, S, S, 3) images in [-1, 1]."""
    colour_key, shift_key, cut_key = jax.random.split(key, 3)
    images = _recolour(colour_key, images)
    images = _shift(shift_key, images, round(SHIFT * images.shape[1]))
    return _cut_out(cut_key, images, round(CUT_OUT * images.shape[1]))


def _recolour(key: Array, images: Array) -> Array:
    draws = jax.random.uniform(key, (3, len(images), 1, 1, 1), minval=-1.0, maxval=1.0)
    brightness, saturation, contrast = draws
    grey = images.mean(-1, keepdims=True)
    images = grey + (1 + SATURATION * saturation) * (images - grey)
    level = images.mean((1, 2, 3), keepdims=True)
    return level + (1 + CONTRAST * contrast) * (images - level) + BRIGHTNESS * brightness


def _shift(key: Array, images: Array, most: int) -> Array:
    """Move each image by up to ``most`` pixels; what enters is the mirrored border.

    As products with matrices that select rows and columns: their gradient is a product too, where
    that of a slice would be a slow scatter.
    """
    size = images.shape[1]
    offsets = jax.random.randint(key, (2, len(images), 1), -most, most + 1)
    places = jnp.abs(jnp.arange(size) + offsets)
    places = size - 1 - jnp.abs(size - 1 - places)
    rows, columns = jax.nn.one_hot(places, size, dtype=images.dtype)
    moved = jnp.einsum("nij,njkc->nikc", rows, images)
    return jnp.einsum("nkj,nijc->nikc", columns, moved)


def _cut_out(key: Array, images: Array, side: int) -> Array:
    size = images.shape[1]
    place_key, choice_key = jax.random.split(key)
    centres = jax.random.randint(place_key, (2, len(images), 1), 0, size)
    first = centres - side // 2
    near = (jnp.arange(size) >= first) & (jnp.arange(size) < first + side)
    chosen = jax.random.bernoulli(choice_key, CUT_OUT_SHARE, (len(images), 1, 1, 1))
    square = near[0][:, :, None, None] & near[1][:, None, :, None] & chosen
    return jnp.where(square, 0.0, images)
