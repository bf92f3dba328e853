"""Networks over arrays of pictures: features to compare them by, verdicts on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

from gradgen.images import from_uint8
from gradgen.networks import Apply, Classifier, Params

BATCH_SIZE = 16


def evaluate(
    apply: Apply,
    params: Params,
    images: np.ndarray,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """``apply`` over pictures (n, H, W, 3) uint8 in batches of one shape; (n, …).

    on_progress: called with the number of pictures that are done.
    """
    outputs = []
    for start in range(0, len(images), BATCH_SIZE):
        part = from_uint8(images[start : start + BATCH_SIZE])
        filled = np.zeros((BATCH_SIZE, *part.shape[1:]), np.float32)
        filled[: len(part)] = part
        outputs.append(np.asarray(_compiled(apply)(params, filled))[: len(part)])
        if on_progress is not None:
            on_progress(start + len(part))
    return np.concatenate(outputs)


@cache
def _compiled(apply: Apply) -> Callable[..., Any]:
    return jax.jit(apply)


@cache
def _verdict(classifier: Classifier) -> Apply:
    """Log-probabilities and, after them, features: one pass through the network for both."""
    if classifier.features is None:
        raise ValueError(f"{classifier.name} gives no features")
    features = classifier.features

    def both(params: Params, images: jax.Array) -> jax.Array:
        return jax.numpy.concatenate(
            [classifier.apply(params, images), features(params, images)], axis=1
        )

    return both


def judge(
    classifier: Classifier, images: np.ndarray, on_progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(log p(class | image) (n, classes), features (n, d)) of pictures (n, H, W, 3) uint8."""
    found = evaluate(_verdict(classifier), classifier.params, images, on_progress)
    count = len(classifier.labels)
    return found[:, :count], found[:, count:]
