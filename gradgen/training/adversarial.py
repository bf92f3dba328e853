"""Training of the generator where the sampler will go: g(z) with z ~ N(0, I), against critics.

A generative adversarial network on frozen features (Sauer et al. 2021, "Projected GANs converge
faster") under differentiable augmentation (:mod:`gradgen.training.augmentation`). No code of a
photograph takes part. Each class owns a part of N(0, I) (:func:`models.tiny64.class_of_codes`);
critics are told the class (projection: Miyato & Koyama 2018), of a photograph its label and of g(z)
that of z, and lite0 is to name it as that class (Odena et al. 2017), so that what a part of
N(0, I) shows and what it is called agree. The discriminator on pixels sees a few of
the pictures only: what is left to it is what is too fine for the features.
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
from gradgen.models.tiny64 import Discriminator, Generator, class_of_codes
from gradgen.networks.interfaces import resize
from gradgen.training.augmentation import augment
from gradgen.training.critics import LAYERS, SIZE, Critics, fit_scale, standardise
from gradgen.training.data import batches
from gradgen.training.loop import cosine, ema_update, fit, flip_at_random, to_images
from gradgen.training.teacher import LinearClassifier, fit_classifier, lite0_features

NETWORKS = ("generator", "discriminator", "critics")
MOST_NAMED = 20_000  # real images that the linear classifier is fitted to
EXAMPLES = 512  # real images whose features set the critics' scale
# steps of the finite differences: in units of the images' half range, of features' deviations
PIXEL_SIGMA, FEATURE_SIGMA = 0.03, 0.1


@dataclass(frozen=True)
class GeneratorSettings:
    """Adam on logistic GAN losses with penalties on gradients.

    Attributes:
        batch_size: photographs, and as many g(z), in each step.
        discriminator_batch: of either, that the discriminator gets of each step.
        critics_weight: of -log sigmoid of the critics' logits for g(z).
        discriminator_weight: of -log sigmoid of the discriminator's logits.
        class_weight: of the cross-entropy of what lite0 names g(z) and z's class.
        diversity_weight: of what the mean cosine distance of two g(z) of one class, in what lite0
            pools, lacks of that of two photographs of one class.
        critic_penalty, penalty: weights of the squared gradient on real images (Mescheder et al.
            2018) of critics and discriminator, estimated by a finite difference along a random
            direction.
    """

    minutes: float = 55.0
    batch_size: int = 32
    discriminator_batch: int = 16
    learning_rate: float = 4e-4
    critic_rate: float = 1e-3
    discriminator_rate: float = 4e-4
    critics_weight: float = 1.0
    discriminator_weight: float = 1.0
    class_weight: float = 0.05
    diversity_weight: float = 3.0
    critic_penalty: float = 0.05
    penalty: float = 0.05
    ema_decay: float = 0.998
    precision: str = "float32"
    seed: int = 0


def train_generator(
    train: Dataset,
    lite0: EfficientNetLite,
    start: tuple[Generator, Discriminator],
    settings: GeneratorSettings,
    checkpoint: Path,
    on_report: Callable[[int, float, float, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[int, Generator], None] | None = None,
) -> tuple[Generator, dict[str, Any]]:
    """Train a generator; returns it with averaged weights, and what was done.

    Args:
        lite0: whose features the critics look at.
        start: what to begin with, unless there is a checkpoint; the discriminator is used up.
        on_checkpoint: called with the step and the averaged generator whenever a checkpoint has
            been written.
    """
    num_classes = len(train.classes)
    dtype = jnp.dtype(settings.precision)
    rngs = nnx.Rngs(settings.seed)
    graphs: dict[str, Any] = {}
    states: dict[str, Any] = {}
    networks = (*start, Critics(LAYERS, num_classes, rngs=rngs))
    for name, module in zip(NETWORKS, networks, strict=True):
        graphs[name], states[name] = nnx.split(module)
    params = {name: nnx.to_pure_dict(state) for name, state in states.items()}
    optimizer = optax.scale_by_adam(b1=0.0, b2=0.99)  # as Projected GAN and StyleGAN have it
    rates = {
        "generator": settings.learning_rate,
        "discriminator": settings.discriminator_rate,
        "critics": settings.critic_rate,
    }
    state = {
        "step": jnp.int32(0),
        "params": params,
        "average": params["generator"],
        "optimizer": {name: optimizer.init(params[name]) for name in NETWORKS},
    }
    viewer, viewer_state = nnx.split(lite0)

    def view(frozen: Any, images: Array) -> dict[str, Array]:
        """The features that the critics look at, by layer, and what the classifier reads."""
        lite0 = nnx.merge(viewer, frozen["viewer"])
        found = lite0.stages(resize(images, SIZE).astype(dtype))
        return found | {"pooled": lite0.pool(found["stage7"]).astype(jnp.float32)}

    frozen: dict[str, Any] = {"viewer": viewer_state}
    stride = -(-len(train) // EXAMPLES)
    examples = to_images(jnp.asarray(train.images[::stride]))
    changed = augment(jax.random.key(settings.seed), examples)
    frozen["scale"] = fit_scale(jax.jit(view)(frozen, changed), LAYERS)
    frozen["naming"] = _naming(lite0, train, settings.seed)

    def run(name: str, params: Any, *inputs: Any) -> Any:
        module = nnx.merge(graphs[name], states[name], copy=True)
        nnx.update(module, params)
        return module(*inputs)

    def judge(params: Any, seen: dict[str, Array], labels: Array) -> list[Array]:
        narrow = {name: acts.astype(dtype) for name, acts in seen.items()}
        return run("critics", params, narrow, labels)

    def discriminate(params: Any, images: Array) -> Array:
        return run("discriminator", params, images.astype(dtype)).astype(jnp.float32)

    def generator_loss(
        params: Any,
        opponents: dict[str, Any],
        frozen: Any,
        z: Array,
        labels: Array,
        spread: Array,
        key: Array,
    ) -> tuple[Array, tuple[Array, dict[str, Array], dict[str, Array]]]:
        fakes = augment(key, run("generator", params, z.astype(dtype)).astype(jnp.float32))
        found = view(frozen, fakes)
        verdicts = judge(opponents["critics"], standardise(found, frozen["scale"]), labels)
        fooled = jnp.mean(jnp.stack([jax.nn.softplus(-logits).mean() for logits in verdicts]))
        few = fakes[: settings.discriminator_batch]
        on_pixels = jax.nn.softplus(-discriminate(opponents["discriminator"], few)).mean()
        named = jax.nn.log_softmax(frozen["naming"](found["pooled"]))[:, :num_classes]
        naming = -jnp.mean(jnp.sum(labels * named, axis=-1))
        lacking = jax.nn.relu(spread - _spread(found["pooled"], labels))
        agreement = jnp.mean(jnp.argmax(named, -1) == jnp.argmax(labels, -1))
        loss = (
            settings.critics_weight * fooled
            + settings.discriminator_weight * on_pixels
            + settings.class_weight * naming
            + settings.diversity_weight * lacking
        )
        figures = {
            "fooled": fooled,
            "on pixels": on_pixels,
            "agreement": agreement,
            "lacking": lacking,
        }
        return loss, (few, found, figures)

    def critics_loss(
        params: Any,
        real: dict[str, Array],
        fake: dict[str, Array],
        labels: tuple[Array, Array],
        key: Array,
    ) -> tuple[Array, Array]:
        """real, fake: standardised features; labels: of either, one-hot."""
        count = len(labels[0])
        some = (count + 3) // 4  # enough for the penalty's estimate
        noisy = {
            name: acts[:some] + FEATURE_SIGMA * jax.random.normal(k, acts[:some].shape)
            for k, (name, acts) in zip(jax.random.split(key, len(real)), real.items(), strict=True)
        }
        seen = {name: jnp.concatenate([real[name], noisy[name], fake[name]]) for name in real}
        told = jnp.concatenate([labels[0], labels[0][:some], labels[1]])
        verdicts = judge(params, seen, told)
        each = [_contest_and_slope(logits, count, some, FEATURE_SIGMA) for logits in verdicts]
        contest, penalty = (sum(figures) / len(verdicts) for figures in zip(*each, strict=True))
        return contest + 0.5 * settings.critic_penalty * penalty, contest

    def discriminator_loss(
        params: Any, images: Array, fakes: Array, key: Array
    ) -> tuple[Array, Array]:
        some = images[: (len(images) + 1) // 2]
        noisy = some + PIXEL_SIGMA * jax.random.normal(key, some.shape)
        logits = discriminate(params, jnp.concatenate([images, noisy, fakes]))[:, None]
        contest, penalty = _contest_and_slope(logits, len(images), len(some), PIXEL_SIGMA)
        return contest + 0.5 * settings.penalty * penalty, contest

    @jax.jit
    def jitted_step(
        state: dict[str, Any], frozen: Any, pixels: Array, labels: Array, progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed + 1), state["step"])
        flip_key, z_key, real_key, fake_key, critics_key, noise_key = jax.random.split(key, 6)
        images = augment(real_key, flip_at_random(flip_key, to_images(pixels)))
        real = view(frozen, images)
        z = jax.random.normal(z_key, (len(images), start[0].code_size))
        told = jax.nn.one_hot(labels, num_classes)
        own = jax.nn.one_hot(class_of_codes(z, num_classes), num_classes)
        params = state["params"]
        gradients = {}
        (_, (fakes, found, figures)), gradients["generator"] = jax.value_and_grad(
            generator_loss, has_aux=True
        )(params["generator"], params, frozen, z, own, _spread(real["pooled"], told), fake_key)
        seen = (standardise(acts, frozen["scale"]) for acts in (real, found))
        (_, contest), gradients["critics"] = jax.value_and_grad(critics_loss, has_aux=True)(
            params["critics"], *seen, (told, own), critics_key
        )
        gradients["discriminator"], contest_on_pixels = jax.grad(discriminator_loss, has_aux=True)(
            params["discriminator"], images[: settings.discriminator_batch], fakes, noise_key
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
        }, {**figures, "critics": contest, "discriminator": contest_on_pixels}

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


def _contest_and_slope(logits: Array, count: int, some: int, sigma: float) -> tuple[Array, Array]:
    """The logistic loss, and the squared slope along a random direction on real pictures.

    logits: (pictures, places), of ``count`` real pictures, of ``some`` of them again with noise of
    deviation sigma, and of fakes.
    """
    on_real, on_noisy, on_fake = jnp.split(logits, [count, count + some])
    contest = jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()
    slope = (on_noisy - on_real[:some]).sum(1) / sigma
    return contest, jnp.mean(slope**2) / logits.shape[1]
