"""Training of the generator where the sampler will go: g(z) with z ~ N(0, I), against critics.

A generative adversarial network on frozen features (Sauer et al. 2021, "Projected GANs converge
faster") under differentiable augmentation (:mod:`gradgen.training.augmentation`). No code of a
photograph takes part. Each class owns a part of N(0, I) (:func:`models.tiny64.class_of_codes`);
critics are told the class (projection: Miyato & Koyama 2018), of a photograph its label and of g(z)
that of z, and lite0 is to name it as that class (Odena et al. 2017), so that what a part of
N(0, I) shows and what it is called agree.
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
from gradgen.labels import Labels, imagenet_labels
from gradgen.models.efficientnet import EfficientNetLite
from gradgen.models.tiny64 import Generator, class_of_codes
from gradgen.networks.interfaces import resize
from gradgen.training.augmentation import augment
from gradgen.training.critics import (
    LAYERS,
    SIZE,
    TEXTURE,
    Critics,
    fit_scale,
    standardise,
    texture_of,
)
from gradgen.training.data import batches
from gradgen.training.loop import cosine, ema_update, fit, flip_at_random, to_images
from gradgen.training.teacher import LinearClassifier, fit_classifier, lite0_features

NETWORKS = ("generator", "critics")
MOST_NAMED = 20_000  # real images that the linear classifier is fitted to
EXAMPLES = 512  # real images whose features set the critics' scale
NOISE = 0.1  # step of the finite differences, in deviations of the features


@dataclass(frozen=True)
class GeneratorSettings:
    """Adam on logistic GAN losses with penalties on gradients.

    Attributes:
        batch_size: photographs, and as many g(z), in each step.
        critics_weight: of -log sigmoid of the logits for g(z) of the critics on features.
        texture_weight: the same of the critic of textures.
        class_weight: of the cross-entropy of what lite0 names g(z) and z's class.
        diversity_weight: of what the mean cosine distance of two g(z) of one class, in what lite0
            pools, lacks of that of two photographs of one class.
        penalty, texture_penalty: weights of the critics' squared gradient on real images (Mescheder
            et al. 2018), estimated by a finite difference along a random direction.
    """

    minutes: float = 55.0
    batch_size: int = 32
    learning_rate: float = 4e-4
    critic_rate: float = 1e-3
    critics_weight: float = 1.0
    texture_weight: float = 1.0
    class_weight: float = 0.05
    diversity_weight: float = 3.0
    penalty: float = 0.05
    texture_penalty: float = 0.001
    ema_decay: float = 0.998
    precision: str = "float32"
    seed: int = 0


def train_generator(
    train: Dataset,
    lite0: EfficientNetLite,
    start: Generator,
    settings: GeneratorSettings,
    checkpoint: Path,
    on_report: Callable[[int, float, float, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[int, Generator], None] | None = None,
) -> tuple[Generator, dict[str, Any]]:
    """Train a generator; returns it with averaged weights, and what was done.

    Args:
        lite0: whose features the critics look at.
        start: what to begin with, unless there is a checkpoint.
        on_checkpoint: called with the step and the averaged generator whenever a checkpoint has
            been written.
    """
    num_classes = len(train.classes)
    dtype = jnp.dtype(settings.precision)
    rngs = nnx.Rngs(settings.seed)
    graphs: dict[str, Any] = {}
    states: dict[str, Any] = {}
    networks = (start, Critics(LAYERS, num_classes, rngs=rngs))
    for name, module in zip(NETWORKS, networks, strict=True):
        graphs[name], states[name] = nnx.split(module)
    params = {name: nnx.to_pure_dict(state) for name, state in states.items()}
    optimizer = optax.scale_by_adam(b1=0.0, b2=0.99)  # as Projected GAN and StyleGAN have it
    rates = {"generator": settings.learning_rate, "critics": settings.critic_rate}
    state = {
        "step": jnp.int32(0),
        "params": params,
        "average": params["generator"],
        "optimizer": {name: optimizer.init(params[name]) for name in NETWORKS},
    }
    viewer, viewer_state = nnx.split(lite0)

    def view(frozen: Any, images: Array) -> dict[str, Array]:
        """What the critics look at, by layer, and what the classifier reads."""
        lite0 = nnx.merge(viewer, frozen["viewer"])
        found = lite0.stages(resize(images, SIZE).astype(dtype))
        pooled = lite0.pool(found["stage7"]).astype(jnp.float32)
        return found | {TEXTURE: texture_of(images), "pooled": pooled}

    frozen: dict[str, Any] = {"viewer": viewer_state}
    stride = -(-len(train) // EXAMPLES)
    examples = to_images(jnp.asarray(train.images[::stride]))
    changed = augment(jax.random.key(settings.seed), examples)
    frozen["scale"] = fit_scale(jax.jit(view)(frozen, changed), (*LAYERS, TEXTURE))
    frozen["naming"] = _naming(lite0, train, settings.seed)

    def run(name: str, params: Any, *inputs: Any) -> Any:
        module = nnx.merge(graphs[name], states[name], copy=True)
        nnx.update(module, params)
        return module(*inputs)

    def judge(params: Any, seen: dict[str, Array], labels: Array) -> dict[str, Array]:
        narrow = {name: acts.astype(dtype) for name, acts in seen.items()}
        return run("critics", params, narrow, labels)

    def generator_loss(
        params: Any,
        critics: Any,
        frozen: Any,
        z: Array,
        labels: Array,
        spread: Array,
        key: Array,
    ) -> tuple[Array, tuple[dict[str, Array], dict[str, Array]]]:
        fakes = augment(key, run("generator", params, z.astype(dtype)).astype(jnp.float32))
        found = view(frozen, fakes)
        verdicts = judge(critics, standardise(found, frozen["scale"]), labels)
        doubts = {name: jax.nn.softplus(-logits).mean() for name, logits in verdicts.items()}
        texture_fooled = doubts.pop(TEXTURE)
        fooled = jnp.mean(jnp.stack(list(doubts.values())))
        named = jax.nn.log_softmax(frozen["naming"](found["pooled"]))[:, :num_classes]
        naming = -jnp.mean(jnp.sum(labels * named, axis=-1))
        lacking = jax.nn.relu(spread - _spread(found["pooled"], labels))
        agreement = jnp.mean(jnp.argmax(named, -1) == jnp.argmax(labels, -1))
        loss = (
            settings.critics_weight * fooled
            + settings.texture_weight * texture_fooled
            + settings.class_weight * naming
            + settings.diversity_weight * lacking
        )
        figures = {
            "fooled": fooled,
            "texture fooled": texture_fooled,
            "agreement": agreement,
            "lacking": lacking,
        }
        return loss, (found, figures)

    def critics_loss(
        params: Any,
        real: dict[str, Array],
        fake: dict[str, Array],
        labels: tuple[Array, Array],
        key: Array,
    ) -> tuple[Array, dict[str, Array]]:
        """real, fake: standardised features; labels: of either, one-hot."""
        count = len(labels[0])
        some = (count + 3) // 4  # enough for the penalty's estimate
        noisy = {
            name: acts[:some] + NOISE * jax.random.normal(k, acts[:some].shape)
            for k, (name, acts) in zip(jax.random.split(key, len(real)), real.items(), strict=True)
        }
        seen = {name: jnp.concatenate([real[name], noisy[name], fake[name]]) for name in real}
        told = jnp.concatenate([labels[0], labels[0][:some], labels[1]])
        verdicts = judge(params, seen, told)
        loss, contests = jnp.float32(0.0), {}
        for name, logits in verdicts.items():
            contests[name], slope = _contest_and_slope(logits, count, some)
            weight = settings.texture_penalty if name == TEXTURE else settings.penalty
            loss += contests[name] + 0.5 * weight * slope
        texture = contests.pop(TEXTURE)
        of_layers = jnp.mean(jnp.stack(list(contests.values())))
        return loss / len(verdicts), {"critics": of_layers, "texture": texture}

    @jax.jit
    def jitted_step(
        state: dict[str, Any], frozen: Any, pixels: Array, labels: Array, progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed + 1), state["step"])
        flip_key, z_key, real_key, fake_key, critics_key = jax.random.split(key, 5)
        images = augment(real_key, flip_at_random(flip_key, to_images(pixels)))
        real = view(frozen, images)
        z = jax.random.normal(z_key, (len(images), start.code_size))
        told = jax.nn.one_hot(labels, num_classes)
        own = jax.nn.one_hot(class_of_codes(z, num_classes), num_classes)
        params = state["params"]
        gradients = {}
        (_, (found, figures)), gradients["generator"] = jax.value_and_grad(
            generator_loss, has_aux=True
        )(
            params["generator"], params["critics"], frozen, z, own,
            _spread(real["pooled"], told), fake_key,
        )  # fmt: skip
        seen = (standardise(acts, frozen["scale"]) for acts in (real, found))
        gradients["critics"], contests = jax.grad(critics_loss, has_aux=True)(
            params["critics"], *seen, (told, own), critics_key
        )
        new, optimizer_states = {}, {}
        for name in NETWORKS:
            updates, optimizer_states[name] = optimizer.update(
                gradients[name], state["optimizer"][name]
            )
            rate = rates[name] * cosine(progress)
            new[name] = jax.tree.map(lambda p, u, rate=rate: p - rate * u, params[name], updates)
        average = state["average"]
        return {
            "step": state["step"] + 1,
            "params": new,
            "average": ema_update(average, new["generator"], state["step"], settings.ema_decay),
            "optimizer": optimizer_states,
        }, {**figures, **contests}

    def step(
        state: dict[str, Any], batch: tuple[np.ndarray, np.ndarray], progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        return jitted_step(state, frozen, *batch, progress)

    def feed(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in batches(len(train), settings.batch_size, settings.seed, start):
            yield train.images[index], train.labels[index]

    def averaged(state: dict[str, Any]) -> Generator:
        module = nnx.merge(graphs["generator"], states["generator"], copy=True)
        nnx.update(module, state["average"])
        return module

    def show(state: dict[str, Any]) -> None:
        if on_checkpoint is not None:
            on_checkpoint(int(state["step"]), averaged(state))

    state = fit(
        step,
        state,
        feed,
        minutes=settings.minutes,
        checkpoint=checkpoint,
        on_report=on_report,
        on_checkpoint=show,
    )
    steps = int(state["step"])
    facts = {"steps": steps, "pictures_drawn": steps * settings.batch_size}
    return averaged(state), facts


def _spread(features: Array, labels: Array) -> Array:
    """The mean cosine distance of different rows of one class.

    features: (n, d); labels: (n, classes), one-hot.
    """
    rows = features / (jnp.linalg.norm(features, axis=-1, keepdims=True) + 1e-6)
    pairs = labels @ labels.T - jnp.eye(len(labels))
    return jnp.sum(pairs * (1 - rows @ rows.T)) / jnp.maximum(pairs.sum(), 1.0)


def _naming(lite0: EfficientNetLite, train: Dataset, seed: int) -> LinearClassifier:
    """Logits of the training's classes, and perhaps of others after them, from lite0's features.

    lite0's own where it knows all of the classes: to be taken for one of a thousand things asks
    more of a picture than to be taken for one of ten. Else a classifier fitted to the photographs.
    """
    labels = Labels.from_lines(train.classes)
    known = [imagenet_labels().by_synset(label.synset) for label in labels]
    own = [label.index for label in known if label is not None]
    if len(own) < len(known):
        some = slice(None, None, -(-len(train) // MOST_NAMED))
        pooled = lite0_features(lite0, train.images[some], SIZE)
        return fit_classifier(pooled, train.labels[some], len(train.classes), seed)
    kernel, bias = lite0.classifier.kernel[...], lite0.classifier.bias[...]
    order = np.array([*own, *np.setdiff1d(np.arange(len(bias)), own)])
    return LinearClassifier(kernel[:, order], bias[order])


def _contest_and_slope(logits: Array, count: int, some: int) -> tuple[Array, Array]:
    """The logistic loss, and the squared slope along a random direction on real pictures.

    logits: (pictures, places), of ``count`` real pictures, of ``some`` of them again with noise,
    and of fakes.
    """
    on_real, on_noisy, on_fake = jnp.split(logits, [count, count + some])
    contest = jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()
    slope = (on_noisy - on_real[:some]).sum(1) / NOISE
    return contest, jnp.mean(slope**2) / logits.shape[1]
