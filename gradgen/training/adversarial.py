"""Training of the generator and its discriminator: DeepSim's recipe.

Dosovitskiy & Brox 2016: the generator inverts the encoder's codes under a loss in image space, in
the encoder's features and against a discriminator. Here part of what the discriminator sees is
g(z) with z ~ N(0, I), since that is where the sampler will go.
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

from gradgen.models.tiny64 import Discriminator, Encoder, Generator
from gradgen.training.data import Dataset, batches
from gradgen.training.export import Whitening
from gradgen.training.loop import cosine, ema_update, fit, flip_at_random, to_images

FEATURE_LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc6")


@dataclass(frozen=True)
class GeneratorSettings:
    """Adam on image + feature + adversarial loss; logistic GAN loss with a penalty on gradients.

    Attributes:
        image_weight: of the mean absolute error of pixels.
        feature_weight: of each layer's mean absolute error, divided by the layer's mean size.
        adversarial_weight: of -log sigmoid(D(g(z))).
        adversarial_start: share of the budget before the discriminator joins.
        prior_batch: codes from N(0, I) in each step, beside ``batch_size`` codes of photographs.
        penalty: weight of the squared gradient of D on real images (Mescheder et al. 2018),
            estimated by a finite difference along a random direction.
    """

    minutes: float = 55.0
    batch_size: int = 64
    prior_batch: int = 32
    learning_rate: float = 4e-4
    discriminator_rate: float = 2e-4
    image_weight: float = 3.0
    feature_weight: float = 1.0
    adversarial_weight: float = 0.12
    adversarial_start: float = 0.15
    penalty: float = 0.05
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0


def train_generator(
    train: Dataset,
    encoder: Encoder,
    whitening: Whitening,
    settings: GeneratorSettings,
    checkpoint: Path,
    on_report: Callable[[int, float, float, dict[str, float]], None] | None = None,
    start: tuple[Generator, Discriminator] | None = None,
) -> tuple[Generator, Discriminator, dict[str, Any]]:
    """Train both; returns the generator with averaged weights, the discriminator, what was done.

    Args:
        encoder: trained, its norms folded.
        whitening: from fc6 to codes z that are N(0, I) in mean and covariance.
        start: begin with these weights rather than at random.
    """
    code_size = whitening.kernel.shape[1]
    dtype = jnp.dtype(settings.precision)
    rngs = nnx.Rngs(settings.seed)
    if start is None:
        start = Generator(code_size, rngs=rngs), Discriminator(rngs=rngs)
    generator_graph, generator_state = nnx.split(start[0])
    critic_graph, critic_state = nnx.split(start[1])
    encoder_graph, encoder_state = nnx.split(encoder)
    optimizer = optax.scale_by_adam(b1=0.5, b2=0.99)
    generator_params = nnx.to_pure_dict(generator_state)
    critic_params = nnx.to_pure_dict(critic_state)
    state = {
        "step": jnp.int32(0),
        "generator": generator_params,
        "discriminator": critic_params,
        "average": {"generator": generator_params, "discriminator": critic_params},
        "generator_optimizer": optimizer.init(generator_params),
        "discriminator_optimizer": optimizer.init(critic_params),
    }
    frozen = (encoder_state, jnp.asarray(whitening.mean), jnp.asarray(whitening.kernel))

    def run(graph: Any, like: Any, params: Any, inputs: Array) -> Any:
        module = nnx.merge(graph, like, copy=True)
        nnx.update(module, params)
        return module(inputs.astype(dtype))

    def critic(params: Any, images: Array) -> Array:
        return run(critic_graph, critic_state, params, images).astype(jnp.float32)

    def features(encoder_params: Any, images: Array) -> dict[str, Array]:
        acts = nnx.merge(encoder_graph, encoder_params)(images.astype(dtype), depth=6)
        return {name: acts[name] for name in FEATURE_LAYERS}

    def generator_loss(
        params: Any,
        critic_params: Any,
        frozen: Any,
        images: Array,
        real: Any,
        z: Array,
        adversarial_weight: Array,
    ) -> tuple[Array, tuple[Array, Array, dict[str, Array]]]:
        fakes = run(generator_graph, generator_state, params, z)
        rebuilt = fakes[: images.shape[0]]
        pixel = _mean_gap(rebuilt, images.astype(dtype))
        found = features(frozen[0], rebuilt)
        gaps = {
            name: _mean_gap(found[name], real[name]) / (_mean_size(real[name]) + 1e-6)
            for name in FEATURE_LAYERS
        }
        fooled = jax.nn.softplus(-critic(critic_params, fakes)).mean()
        loss = settings.image_weight * pixel + settings.feature_weight * sum(gaps.values())
        return loss + adversarial_weight * fooled, (fakes, pixel, gaps)

    def critic_loss(params: Any, images: Array, fakes: Array, key: Array) -> tuple[Array, Array]:
        sigma = 0.03  # of the finite difference, in units of the images' half range
        some = images[: (len(images) + 1) // 2]  # enough for the penalty's estimate
        noisy = some + sigma * jax.random.normal(key, some.shape)
        logits = critic(params, jnp.concatenate([images, noisy, fakes]))
        on_real, on_noisy, on_fake = jnp.split(logits, [len(images), len(images) + len(some)])
        penalty = jnp.mean(((on_noisy - on_real[: len(some)]) / sigma) ** 2)
        loss = jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()
        return loss + 0.5 * settings.penalty * penalty, loss

    def advance(params: Any, gradient: Any, optimizer_state: Any, rate: Array) -> tuple[Any, Any]:
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), optimizer_state

    @jax.jit
    def jitted_step(
        state: dict[str, Any], frozen: Any, pixels: Array, progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed + 1), state["step"])
        flip_key, prior_key, noise_key = jax.random.split(key, 3)
        images = flip_at_random(flip_key, to_images(pixels))
        real = features(frozen[0], images)
        codes = (real["fc6"].astype(jnp.float32) - frozen[1]) @ frozen[2]
        prior = jax.random.normal(prior_key, (settings.prior_batch, code_size))
        z = jnp.concatenate([codes, prior])
        started = progress >= settings.adversarial_start
        weight = jnp.where(started, settings.adversarial_weight, 0.0)
        schedule = cosine(progress)
        (_, (fakes, pixel, gaps)), gradient = jax.value_and_grad(generator_loss, has_aux=True)(
            state["generator"], state["discriminator"], frozen, images, real, z, weight
        )
        generator, generator_optimizer = advance(
            state["generator"],
            gradient,
            state["generator_optimizer"],
            settings.learning_rate * schedule,
        )
        fakes = jax.lax.stop_gradient(fakes).astype(jnp.float32)
        (_, contest), gradient = jax.value_and_grad(critic_loss, has_aux=True)(
            state["discriminator"], images, fakes, noise_key
        )
        discriminator, discriminator_optimizer = advance(
            state["discriminator"],
            gradient,
            state["discriminator_optimizer"],
            settings.discriminator_rate * schedule,
        )
        current = {"generator": generator, "discriminator": discriminator}
        new = {
            "step": state["step"] + 1,
            **current,
            "average": ema_update(state["average"], current, state["step"], settings.ema_decay),
            "generator_optimizer": generator_optimizer,
            "discriminator_optimizer": discriminator_optimizer,
        }
        return new, {
            "pixels": pixel,
            "discriminator": contest,
            **{name: gaps[name] for name in ("conv2", "conv4", "fc6")},
        }

    def step(
        state: dict[str, Any], pixels: np.ndarray, progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        return jitted_step(state, frozen, pixels, progress)

    def feed(start: int) -> Iterator[np.ndarray]:
        for index in batches(len(train), settings.batch_size, settings.seed, start):
            yield train.images[index]

    state = fit(
        step, state, feed, minutes=settings.minutes, checkpoint=checkpoint, on_report=on_report
    )
    generator = nnx.merge(generator_graph, generator_state)
    nnx.update(generator, state["average"]["generator"])
    discriminator = nnx.merge(critic_graph, critic_state)
    nnx.update(discriminator, state["average"]["discriminator"])
    steps = int(state["step"])
    return generator, discriminator, {"steps": steps, "image_passes": steps * settings.batch_size}


def _mean_gap(a: Array, b: Array) -> Array:
    return jnp.mean(jnp.abs(a - b), dtype=jnp.float32)


def _mean_size(a: Array) -> Array:
    return jnp.mean(jnp.abs(a), dtype=jnp.float32)
