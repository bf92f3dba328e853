"""What lite0 would say of the training photographs, for the classifier to learn from.

Hinton et al. 2015 ("Distilling the knowledge in a neural network"). lite0 knows other classes than
the data's and was trained on larger pictures, so a linear classifier on its features is fitted
first, to the data's own labels. Each half of the photographs is named by a classifier fitted to
the other half, since what has been fitted to an image's label only repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from gradgen.evaluation.features import evaluate
from gradgen.models.efficientnet import EfficientNetLite
from gradgen.networks import resize
from gradgen.training.critics import LITE0_SIZE
from gradgen.training.data import Dataset, batches
from gradgen.weights.store import load_arrays, save_arrays

BATCH_SIZE = 500
EPOCHS, LEAST_STEPS = 8, 1000
LEARNING_RATE = 2e-3
PENALTY = 2e-3  # of the squared weights, on standardised features


def all_features(
    lite0: EfficientNetLite,
    images: np.ndarray,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """lite0's pooled features (n, 1280) of uint8 images (n, 64, 64, 3).

    on_progress: called with the number of images that are done.
    """
    graph, params = nnx.split(lite0)

    def run(params: Any, images: Array) -> Array:
        return nnx.merge(graph, params).features(resize(images, LITE0_SIZE))

    return evaluate(run, params, images, on_progress)


def ask(
    lite0: EfficientNetLite,
    train: Dataset,
    path: Path,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """:func:`name_classes` of the training photographs, kept in a file: lite0 takes minutes for it.

    Args:
        path: safetensors; read if it is there and of as many photographs, else written.
        on_progress: called with the number of photographs that lite0 has looked at.

    Raises:
        GradgenError: the file is not readable.
    """
    if path.exists():
        named = load_arrays(path).get("named")
        if named is not None and named.shape == (len(train), len(train.classes)):
            return named
    named = name_classes(all_features(lite0, train.images, on_progress), train, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, {"named": named})
    return load_arrays(path)["named"]  # as a resumed training will read it: in half precision


def name_classes(features: np.ndarray, train: Dataset, seed: int = 0) -> np.ndarray:
    """Probabilities (n, classes) float32 that the teacher gives the training photographs.

    features: (n, 1280), of the training photographs.
    """
    halves = np.random.default_rng(seed).permutation(len(features)) % 2
    named = np.empty((len(features), len(train.classes)), np.float32)
    for half in (0, 1):
        seen, unseen = halves != half, halves == half
        named[unseen] = _fit(features[seen], train.labels[seen], len(train.classes), seed)(
            features[unseen]
        )
    return named


def _fit(
    features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Multinomial logistic regression; returns the map from features to probabilities."""
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

    def predict(features: np.ndarray) -> np.ndarray:
        logits = (features - mean) / std @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        return np.asarray(jax.nn.softmax(logits.astype(np.float32)))

    return predict
