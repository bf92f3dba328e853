"""What a classifier says of pictures, and the features by which pictures are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.networks.interfaces import Apply, Classifier, Params
from gradgen.networks.stream import apply_in_batches

BATCH_SIZE = 16  # a run has as many pictures, and a batch is filled up to its size


def judge(
    classifier: Classifier, images: np.ndarray, on_progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and features of pictures, from one pass through the network.

    Args:
        classifier: a network that gives features.
        images: (n, H, W, 3) uint8.
        on_progress: called with the number of pictures that are done.

    Returns:
        log p(class | image) (n, classes), and features (n, d).
    """
    found = apply_in_batches(
        _verdict_and_features(classifier), classifier.params, images, BATCH_SIZE, on_progress
    )
    count = len(classifier.labels)
    return found[:, :count], found[:, count:]


@lru_cache(maxsize=4)
def _verdict_and_features(classifier: Classifier) -> Apply:
    """The same function for the same classifier, so that it is compiled once."""
    if classifier.features is None:
        raise ValueError(f"{classifier.name} gives no features")
    features = classifier.features

    def both(params: Params, images: jax.Array) -> jax.Array:
        return jnp.concatenate([classifier.apply(params, images), features(params, images)], axis=1)

    return both
