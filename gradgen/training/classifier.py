"""Training of the classifier, from whose fc6 codes are read too: photographs and drawn pictures."""

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
from gradgen.models.layers import fold_batch_norm
from gradgen.models.tiny64 import Encoder, EncoderSizes
from gradgen.networks.stream import apply_in_batches, pure_function
from gradgen.training.data import batches
from gradgen.training.drawn import Drawn
from gradgen.training.loop import (
    cosine,
    crop_at_random,
    ema_update,
    fit,
    flip_at_random,
    to_images,
    use_running_statistics,
)
from gradgen.training.warmstart import add_batch_norms

FIRST_LOOK = 1000  # images that the norms of a warm start are fitted to


@dataclass(frozen=True)
class ClassifierSettings:
    """SGD with Nesterov momentum on the cross-entropy with what the teacher says.

    Attributes:
        batch_size: half of them photographs, half drawn pictures.
        teacher_weight: share of the teacher's probabilities in the targets of photographs.
        code_weight: of the mean squared gap between the codes of drawn pictures and what a linear
            layer reads off fc6.
    """

    minutes: float = 35.0
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    teacher_weight: float = 0.8
    code_weight: float = 0.5
    crop_padding: int = 6
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0


def train_classifier(
    train: Dataset,
    settings: ClassifierSettings,
    checkpoint: Path,
    on_report: Callable[[int, float, float, dict[str, float]], None] | None = None,
    start: Encoder | None = None,
    *,
    taught: np.ndarray,
    drawn: Drawn,
    sizes: EncoderSizes,
) -> tuple[Encoder, dict[str, Any]]:
    """Train an encoder; returns it with averaged weights and folded norms, and what was done.

    Resumes from ``checkpoint`` when it exists; else begins with the weights of ``start``, if
    given, as far as they fit. The second value holds ``steps`` and ``image_passes``.

    Args:
        taught: (n, num_classes), a teacher's probabilities for the training images.
        drawn: pictures of the generator, whose classes are what the teacher says.
    """
    num_classes, code_size = len(train.classes), drawn.codes.shape[1]
    if start is None:
        module = Encoder(num_classes, sizes, norm=True, rngs=nnx.Rngs(settings.seed))
    else:
        few = next(batches(len(train), min(len(train), FIRST_LOOK), settings.seed))
        images = to_images(jnp.asarray(train.images[few]))
        module = add_batch_norms(start, images, num_classes, settings.seed, sizes)
    graph, params, *others = nnx.split(module, nnx.Param, nnx.BatchStat)
    (statistics,) = others
    dtype = jnp.dtype(settings.precision)
    pure_statistics = nnx.to_pure_dict(statistics)
    pure_params = {
        "encoder": nnx.to_pure_dict(params),
        "codes": jnp.zeros((sizes.fc6, code_size)),
    }
    decay_mask = jax.tree.map(lambda leaf: leaf.ndim > 1, pure_params)
    optimizer = optax.chain(
        optax.add_decayed_weights(settings.weight_decay, mask=decay_mask),
        optax.trace(0.9, nesterov=True),
    )
    state = {
        "step": jnp.int32(0),
        "params": pure_params,
        "statistics": pure_statistics,
        "average": {"params": pure_params, "statistics": pure_statistics},
        "optimizer": optimizer.init(pure_params),
    }

    def rebuild(params_dict: Any, statistics_dict: Any) -> Encoder:
        merged = nnx.merge(graph, params, statistics, copy=True)
        nnx.update(merged, params_dict["encoder"])
        nnx.update(merged, statistics_dict)
        return merged

    def loss_of(
        params_dict: Any, statistics_dict: Any, images: Array, targets: Array, codes: Array
    ) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        """The last len(codes) images are drawn ones."""
        model = rebuild(params_dict, statistics_dict)
        found = model(images.astype(dtype))
        logits = found["fc8"].astype(jnp.float32)
        naming = optax.softmax_cross_entropy(logits, targets).mean()
        read = found["fc6"][-len(codes) :].astype(jnp.float32) @ params_dict["codes"]
        code_gap = jnp.mean((read - codes) ** 2)
        agreed = (logits.argmax(-1) == targets.argmax(-1)).mean()
        figures = {"loss": naming, "agreed": agreed, "codes": code_gap}
        now = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return naming + settings.code_weight * code_gap, (now, figures)

    @jax.jit
    def step(
        state: dict[str, Any], batch: tuple[Array, Array, Array, Drawn], progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        pixels, labels, taught, drawn = batch
        key = jax.random.fold_in(jax.random.key(settings.seed), state["step"])
        flip_key, crop_key = jax.random.split(key)
        images = flip_at_random(flip_key, to_images(pixels))
        images = crop_at_random(crop_key, images, settings.crop_padding)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), settings.label_smoothing)
        targets += settings.teacher_weight * (taught - targets)
        (_, (statistics_dict, figures)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state["params"],
            state["statistics"],
            # as they are: a code is that of the picture where it stands
            jnp.concatenate([images, to_images(jnp.asarray(drawn.images))]),
            jnp.concatenate([targets, drawn.named]),
            drawn.codes,
        )
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        rate = settings.learning_rate * cosine(progress)
        new_params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
        current = {"params": new_params, "statistics": statistics_dict}
        average = ema_update(state["average"], current, state["step"], settings.ema_decay)
        new = {
            "step": state["step"] + 1,
            "params": new_params,
            "statistics": statistics_dict,
            "average": average,
            "optimizer": optimizer_state,
        }
        return new, figures

    def feed(start: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Drawn]]:
        half = settings.batch_size // 2
        photographs = batches(len(train), half, settings.seed, start)
        others = batches(len(drawn.codes), half, settings.seed + 1, start)
        for index, other in zip(photographs, others, strict=True):
            part = Drawn(*(values[other] for values in drawn))
            yield train.images[index], train.labels[index], taught[index], part

    state = fit(
        step, state, feed, minutes=settings.minutes, checkpoint=checkpoint, on_report=on_report
    )
    encoder = rebuild(state["average"]["params"], state["average"]["statistics"])
    use_running_statistics(encoder)
    fold_batch_norm(encoder)
    steps = int(state["step"])
    return encoder, {"steps": steps, "image_passes": steps * (settings.batch_size // 2)}


def predict_logits(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    """Logits (n, num_classes) float32 of uint8 images (n, 64, 64, 3)."""
    return encode_all(encoder, images, "fc8")


def encode_all(encoder: Encoder, images: np.ndarray, layer: str) -> np.ndarray:
    """Activations of one layer for many uint8 images, in float32."""
    return apply_in_batches(*pure_function(encoder, layer), images)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T); Guo et al. 2017.

    The cross-entropy is convex in 1/T, so that Newton's method in log T from 1 finds it.
    """

    def loss(log_t: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(
            jnp.asarray(logits) / jnp.exp(log_t), jnp.asarray(labels)
        ).mean()

    slope, curvature = jax.jit(jax.grad(loss)), jax.jit(jax.grad(jax.grad(loss)))
    log_t = jnp.float32(0.0)
    for _ in range(50):
        move = slope(log_t) / jnp.maximum(jnp.abs(curvature(log_t)), 1e-3)
        log_t = log_t - jnp.clip(move, -0.5, 0.5)
        if abs(float(move)) < 1e-6:
            break
    return float(jnp.exp(log_t))
