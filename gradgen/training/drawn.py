"""Pictures of the trained generator, for the networks that are trained after it to learn from.

A classifier that has only seen photographs can be led astray by a sampler that looks for what
pleases it, and none of the generator's codes can be read off pictures it has never drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.images import to_uint8
from gradgen.models.efficientnet import EfficientNetLite
from gradgen.models.tiny64 import Generator
from gradgen.networks.stream import apply_in_batches, pure_function
from gradgen.training.teacher import LinearClassifier, lite0_features

BATCH_SIZE = 250  # codes


class Drawn(NamedTuple):
    """Pictures g(z), z ~ N(0, I).

    Attributes:
        images: (n, 64, 64, 3) uint8.
        codes: (n, code_size), their z.
        named: (n, classes), the probabilities that the teacher gives them.
    """

    images: np.ndarray
    codes: np.ndarray
    named: np.ndarray


def draw(generator: Generator, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 64, 64, 3) uint8 and their codes (count, code_size)."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((count, generator.code_size)).astype(np.float32)
    return to_uint8(apply_in_batches(*pure_function(generator), codes, BATCH_SIZE)), codes


def draw_and_name(
    generator: Generator,
    lite0: EfficientNetLite,
    naming: LinearClassifier,
    count: int,
    seed: int,
    on_progress: Callable[[int], None] | None = None,
) -> Drawn:
    """Pictures and what lite0 makes of them.

    Args:
        naming: on lite0's features, fitted to the training photographs.
        on_progress: called with the number of pictures that lite0 has looked at.
    """
    images, codes = draw(generator, count, seed)
    features = lite0_features(lite0, images, on_progress=on_progress)
    named = np.asarray(jax.nn.softmax(naming(jnp.asarray(features))))
    return Drawn(images, codes, named)
