"""Training of the discriminator that scores pictures: photographs or not.

It takes no part in the generator's training. Half of what it is to turn down are pictures of the
generator, half are spoilt photographs and drawings (:mod:`gradgen.training.corruption`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from gradgen.datasets import Dataset
from gradgen.models.tiny64 import Discriminator
from gradgen.training.corruption import corrupt
from gradgen.training.data import batches
from gradgen.training.loop import cosine, crop_at_random, ema_update, fit, flip_at_random, to_images


@dataclass(frozen=True)
class DiscriminatorSettings:
    """Adam on the logistic loss, as much of it on photographs as on the rest.

    Attributes:
        batch_size: photographs; as many pictures of other kinds beside them.
        crop_padding: pixels by which all of them are shifted.
    """

    minutes: float = 5.0
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    crop_padding: int = 4
    ema_decay: float = 0.99
    seed: int = 0


def train_discriminator(
    train: Dataset,
    drawn: np.ndarray,
    start: Discriminator,
    settings: DiscriminatorSettings,
    checkpoint: Path,
    on_report: Callable[[int, float, float, dict[str, float]], None] | None = None,
) -> tuple[Discriminator, dict[str, Any]]:
    """Train a discriminator; returns it with averaged weights, and what was done.

    Args:
        drawn: (n, 64, 64, 3) uint8, pictures of the generator.
        start: what to begin with, unless there is a checkpoint.
    """
    graph, params = nnx.split(start)
    optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(settings.weight_decay))
    pure = nnx.to_pure_dict(params)
    state = {
        "step": jnp.int32(0),
        "params": pure,
        "average": pure,
        "optimizer": optimizer.init(pure),
    }

    def rebuild(values: Any) -> Discriminator:
        module = nnx.merge(graph, params, copy=True)
        nnx.update(module, values)
        return module

    def loss_of(values: Any, images: Array, is_real: Array) -> tuple[Array, Array]:
        logits = rebuild(values)(images)
        losses = optax.sigmoid_binary_cross_entropy(logits, is_real)
        return losses.mean(), jnp.mean((logits > 0) == (is_real > 0.5))

    @jax.jit
    def step(
        state: dict[str, Any], batch: tuple[Array, Array], progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        pixels, is_real = batch
        key = jax.random.fold_in(jax.random.key(settings.seed), state["step"])
        flip_key, crop_key = jax.random.split(key)
        images = flip_at_random(flip_key, to_images(pixels))
        images = crop_at_random(crop_key, images, settings.crop_padding)
        (loss, right), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state["params"], images, is_real
        )
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        rate = settings.learning_rate * cosine(progress)
        new = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
        return {
            "step": state["step"] + 1,
            "params": new,
            "average": ema_update(state["average"], new, state["step"], settings.ema_decay),
            "optimizer": optimizer_state,
        }, {"loss": loss, "right": right}

    def feed(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        half = settings.batch_size // 2
        is_real = np.repeat([1.0, 0.0], [settings.batch_size, 2 * half]).astype(np.float32)
        real = batches(len(train), settings.batch_size, settings.seed, start)
        others = batches(len(drawn), half, settings.seed + 1, start)
        for number, (index, other) in enumerate(zip(real, others, strict=True), start):
            photographs = train.images[index]
            rng = np.random.default_rng((settings.seed, number))
            spoilt = corrupt(rng, rng.permutation(photographs)[:half])
            yield np.concatenate([photographs, drawn[other], spoilt]), is_real

    state = fit(
        step, state, feed, minutes=settings.minutes, checkpoint=checkpoint, on_report=on_report
    )
    steps = int(state["step"])
    return rebuild(state["average"]), {"steps": steps, "photographs": steps * settings.batch_size}
