"""What lite0 would say of the training photographs, for the classifier to learn from.

Hinton et al. 2015 ("Distilling the knowledge in a neural network"). lite0 knows other classes than
the data's and was trained on larger pictures, so a linear classifier on its features is fitted
first, to the data's own labels. Each half of the photographs is named by a classifier fitted to
the other half, since what has been fitted to an image's label only repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from gradgen.datasets import Dataset
from gradgen.models.efficientnet import EfficientNetLite
from gradgen.networks.interfaces import Apply, resize
from gradgen.networks.stream import apply_in_batches
from gradgen.training.data import batches
from gradgen.weights.store import load_arrays, save_arrays

SIZE = 128  # side of the pictures that lite0 is shown
BATCH_SIZE = 500
EPOCHS, LEAST_STEPS = 8, 1000
LEARNING_RATE = 2e-3
PENALTY = 2e-3  # of the squared weights, on standardised features


def lite0_features(
    lite0: EfficientNetLite,
    images: np.ndarray,
    size: int = SIZE,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """lite0's pooled features (n, 1280) of uint8 images (n, 64, 64, 3), shown at size x size.

    on_progress: called with the number of images that are done.
    """
    graph, params = nnx.split(lite0)
    apply = _features_at(graph, size)
    return apply_in_batches(apply, params, images, on_progress=on_progress)


@lru_cache(maxsize=4)
def _features_at(graph: Any, size: int) -> Apply:
    """The same function for the same network and size, so that it is compiled once."""

    def run(params: Any, images: Array) -> Array:
        return nnx.merge(graph, params).features(resize(images, size))

    return run


class LinearClassifier(NamedTuple):
    """Logits (n, classes) of features (n, d): features @ kernel + bias."""

    kernel: Array
    bias: Array

    def __call__(self, features: Array) -> Array:
        return features @ self.kernel + self.bias


class Lessons(NamedTuple):
    """What lite0 says.

    Attributes:
        named: (n, classes) probabilities of the training photographs.
        naming: the classifier on its features, fitted to all of them, for other pictures.
    """

    named: np.ndarray
    naming: LinearClassifier


def ask(
    lite0: EfficientNetLite,
    train: Dataset,
    path: Path,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Lessons:
    """What lite0 says of the training photographs, kept in a file: it takes minutes for it.

    Args:
        path: safetensors; read if it is there and of as many photographs, else written.
        on_progress: called with the number of photographs that lite0 has looked at.

    Raises:
        GradgenError: the file is not readable.
    """
    if not path.exists() or load_arrays(path)["named"].shape != (len(train), len(train.classes)):
        features = lite0_features(lite0, train.images, on_progress=on_progress)
        naming = fit_classifier(features, train.labels, len(train.classes), seed)
        named = name_classes(features, train, seed)
        save_arrays(
            path,
            {"named": named, "kernel": np.asarray(naming.kernel), "bias": np.asarray(naming.bias)},
            half=False,
        )
    kept = load_arrays(path)
    naming = LinearClassifier(jnp.asarray(kept["kernel"]), jnp.asarray(kept["bias"]))
    return Lessons(kept["named"], naming)


def name_classes(features: np.ndarray, train: Dataset, seed: int = 0) -> np.ndarray:
    """Probabilities (n, classes) float32 that the teacher gives the training photographs.

    features: (n, 1280), of the training photographs.
    """
    halves = np.random.default_rng(seed).permutation(len(features)) % 2
    named = np.empty((len(features), len(train.classes)), np.float32)
    for half in (0, 1):
        seen, unseen = halves != half, halves == half
        classifier = fit_classifier(features[seen], train.labels[seen], len(train.classes), seed)
        named[unseen] = np.asarray(jax.nn.softmax(classifier(jnp.asarray(features[unseen]))))
    return named


def fit_classifier(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int
) -> LinearClassifier:
    """Multinomial logistic regression on standardised features."""
    mean, std = features.mean(0), features.std(0) + 1e-4
    inputs, targets = jnp.asarray((features - mean) / std), jnp.asarray(labels)
    batch_size = min(BATCH_SIZE, len(labels))
    steps = max(EPOCHS * (len(labels) // batch_size), LEAST_STEPS)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    layer = {
        "kernel": jnp.zeros((features.shape[1], num_classes)),
        "bias": jnp.zeros(num_classes),
    }

    def loss_of(layer: dict[str, Array], inputs: Array, targets: Array) -> Array:
        logits = inputs @ layer["kernel"] + layer["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return losses.mean() + PENALTY * jnp.sum(layer["kernel"] ** 2)

    @jax.jit
    def step(
        layer: dict[str, Array], state: Any, inputs: Array, targets: Array
    ) -> tuple[dict[str, Array], Any]:
        updates, state = optimizer.update(jax.grad(loss_of)(layer, inputs, targets), state)
        return optax.apply_updates(layer, updates), state

    state = optimizer.init(layer)
    for index, _ in zip(batches(len(labels), batch_size, seed), range(steps), strict=False):
        layer, state = step(layer, state, inputs[index], targets[index])

    kernel = layer["kernel"] / std[:, None]
    return LinearClassifier(kernel, layer["bias"] - mean @ kernel)
