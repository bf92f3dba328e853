"""Training of the generator and its discriminator: DeepSim's recipe, with more critics.

Dosovitskiy & Brox 2016: the generator inverts the encoder's codes under a loss in image space, in
the encoder's features and against a discriminator. Here most of the opposition comes from critics
on frozen networks' features (:mod:`gradgen.training.critics`), and half of what they see is g(z)
with z ~ N(0, I), since that is where the sampler will go. The discriminator on pixels, which scores
pictures later, sees a few of the pictures only: what is left to it is what the others overlook.
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

from gradgen.models.efficientnet import EfficientNetLite
from gradgen.models.tiny64 import Discriminator, Encoder, Generator
from gradgen.networks import resize
from gradgen.training.critics import (
    ENCODER_LAYERS,
    LITE0_LAYERS,
    LITE0_SIZE,
    Critics,
    fit_scale,
    standardise,
)
from gradgen.training.data import Dataset, batches
from gradgen.training.loop import cosine, ema_update, fit, flip_at_random, to_images
from gradgen.training.whitening import Whitening

FEATURE_LAYERS = ("conv3", "conv4", "fc6", "stage5", "stage7")  # the last two are lite0's
NETWORKS = ("generator", "discriminator", "critics")
EXAMPLES = 512  # real images whose features set the critics' scale
# steps of the finite differences: in units of the images' half range, of features' deviations
PIXEL_SIGMA, FEATURE_SIGMA = 0.03, 0.1


@dataclass(frozen=True)
class GeneratorSettings:
    """Adam on image + feature + adversarial loss; logistic GAN losses with penalties on gradients.

    Attributes:
        prior_batch: codes from N(0, I) in each step, beside ``batch_size`` codes of photographs.
        discriminator_batch: photographs, and as many g(N(0, I)), that the discriminator gets of
            each step: with all of them it would take as long as everything else together.
        image_weight: of the mean absolute error of pixels.
        feature_weight: of the layers' mean absolute errors, each divided by the layer's mean size.
        class_weight: of the Kullback-Leibler divergence of lite0's classes of a reconstruction from
            those of its photograph; only where lite0 looks on.
        code_weight: of the mean squared gap between z ~ N(0, I) and the encoder's code of g(z):
            what the feature loss asks of photographs, for codes that no photograph has.
        adversarial_weight: of -log sigmoid of the critics' logits for g(z).
        discriminator_weight: of -log sigmoid of the discriminator's logits.
        adversarial_growth: share of the budget over which the critics' weight grows to its full
            value, since they begin knowing nothing.
        critic_penalty, penalty: weights of the squared gradient on real images (Mescheder et al.
            2018) of critics and discriminator, estimated by a finite difference along a random
            direction.
    """

    minutes: float = 55.0
    batch_size: int = 32
    prior_batch: int = 32
    discriminator_batch: int = 12
    learning_rate: float = 4e-4
    critic_rate: float = 1e-3
    discriminator_rate: float = 2e-4
    image_weight: float = 0.3
    feature_weight: float = 0.25
    class_weight: float = 0.15
    code_weight: float = 0.3
    adversarial_weight: float = 3.0
    discriminator_weight: float = 1.5
    adversarial_growth: float = 0.05
    critic_penalty: float = 0.05
    penalty: float = 0.05
    ema_decay: float = 0.998
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
    lite0: EfficientNetLite | None = None,
) -> tuple[Generator, Discriminator, dict[str, Any]]:
    """Train both; returns the generator with averaged weights, the discriminator, what was done.

    Args:
        encoder: trained, its norms folded.
        whitening: from fc6 to codes z that are N(0, I) in mean and covariance.
        start: begin with these weights rather than at random.
        lite0: a second network whose features the critics and the feature loss look at.
    """
    layers = ENCODER_LAYERS if lite0 is None else LITE0_LAYERS
    code_size = whitening.kernel.shape[1]
    dtype = jnp.dtype(settings.precision)
    rngs = nnx.Rngs(settings.seed)
    if start is None:
        start = Generator(code_size, rngs=rngs), Discriminator(rngs=rngs)
    graphs, states = {}, {}
    networks = (*start, Critics(layers, code_size, rngs=rngs))
    for name, module in zip(NETWORKS, networks, strict=True):
        graphs[name], states[name] = nnx.split(module)
    params = {name: nnx.to_pure_dict(state) for name, state in states.items()}
    optimizer = optax.scale_by_adam(b1=0.0, b2=0.99)  # as Projected GAN and StyleGAN have it
    rates = {
        "generator": settings.learning_rate,
        "discriminator": settings.discriminator_rate,
        "critics": settings.critic_rate,
    }
    kept = {name: params[name] for name in ("generator", "discriminator")}
    state = {
        "step": jnp.int32(0),
        "params": params,
        "average": kept,
        "optimizer": {name: optimizer.init(params[name]) for name in NETWORKS},
    }
    viewers, viewer_state = nnx.split((encoder, lite0))

    def view(frozen: Any, images: Array) -> dict[str, Array]:
        """The features that critics and losses look at, by layer."""
        encoder, lite0 = nnx.merge(viewers, frozen["viewers"])
        acts = encoder(images.astype(dtype), depth=6)
        if lite0 is not None:
            acts |= lite0.stages(resize(images.astype(dtype), LITE0_SIZE))
            logits = lite0.classifier(lite0.pool(acts["stage7"])).astype(jnp.float32)
            acts["log_p"] = jax.nn.log_softmax(logits)
        return acts

    frozen = {
        "viewers": viewer_state,
        "mean": jnp.asarray(whitening.mean),
        "kernel": jnp.asarray(whitening.kernel),
    }
    stride = -(-len(train) // EXAMPLES)
    examples = jax.jit(view)(frozen, to_images(jnp.asarray(train.images[::stride])))
    frozen["scale"] = fit_scale(examples, layers)

    def run(name: str, params: Any, *inputs: Any) -> Any:
        module = nnx.merge(graphs[name], states[name], copy=True)
        nnx.update(module, params)
        return module(*inputs)

    def discriminate(params: Any, images: Array) -> Array:
        return run("discriminator", params, images.astype(dtype)).astype(jnp.float32)

    def whiten(frozen: Any, fc6: Array) -> Array:
        return (fc6.astype(jnp.float32) - frozen["mean"]) @ frozen["kernel"]

    def few_from_prior(fakes: Array) -> Array:
        return fakes[len(fakes) - settings.prior_batch :][: settings.discriminator_batch]

    def judge(params: Any, frozen: Any, acts: dict[str, Array], codes: Array) -> list[Array]:
        seen = standardise(acts, frozen["scale"])
        return run("critics", params, seen, codes)

    def generator_loss(
        params: Any,
        opponents: dict[str, Any],
        frozen: Any,
        images: Array,
        real: dict[str, Array],
        z: Array,
        adversarial_weight: Array,
    ) -> tuple[Array, tuple[Array, dict[str, Array], dict[str, Array]]]:
        fakes = run("generator", params, z.astype(dtype))
        found = view(frozen, fakes)
        pixel = _mean_gap(fakes[: len(images)], images.astype(dtype))
        gaps = {
            name: _mean_gap(found[name][: len(images)], acts) / (_mean_size(acts) + 1e-6)
            for name, acts in real.items()
            if name in FEATURE_LAYERS
        }
        code_gap = jnp.mean((whiten(frozen, found["fc6"]) - z)[len(images) :] ** 2)
        verdicts = judge(opponents["critics"], frozen, found, z)
        on_pixels = discriminate(opponents["discriminator"], few_from_prior(fakes))
        fooled = jnp.mean(jnp.stack([jax.nn.softplus(-logits).mean() for logits in verdicts]))
        loss = (
            settings.image_weight * pixel
            + settings.feature_weight * sum(gaps.values())
            + settings.code_weight * code_gap
            + adversarial_weight * fooled
            + settings.discriminator_weight * jax.nn.softplus(-on_pixels).mean()
        )
        figures = {"pixels": pixel, "fc6": gaps["fc6"], "codes": code_gap, "fooled": fooled}
        if lite0 is not None:
            gap = real["log_p"] - found["log_p"][: len(images)]
            figures["classes"] = jnp.sum(jnp.exp(real["log_p"]) * gap, axis=-1).mean()
            loss += settings.class_weight * figures["classes"]
        return loss, (fakes, found, figures)

    def critics_loss(
        params: Any, real: dict[str, Array], fake: dict[str, Array], z: Array, key: Array
    ) -> tuple[Array, Array]:
        """real, fake: standardised features; z: codes of the real ones, then of the rest."""
        count = len(z) - settings.prior_batch
        some = (count + 1) // 2  # enough for the penalty's estimate
        noisy = {
            name: acts[:some] + FEATURE_SIGMA * jax.random.normal(k, acts[:some].shape)
            for k, (name, acts) in zip(jax.random.split(key, len(real)), real.items(), strict=True)
        }
        seen = {name: jnp.concatenate([real[name], noisy[name], fake[name]]) for name in real}
        verdicts = run("critics", params, seen, jnp.concatenate([z[:count], z[:some], z]))
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
        state: dict[str, Any], frozen: Any, pixels: Array, progress: Array
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed + 1), state["step"])
        flip_key, prior_key, critics_key, noise_key = jax.random.split(key, 4)
        images = flip_at_random(flip_key, to_images(pixels))
        real = view(frozen, images)
        codes = whiten(frozen, real["fc6"])
        prior = jax.random.normal(prior_key, (settings.prior_batch, code_size))
        z = jnp.concatenate([codes, prior])
        params = state["params"]
        growth = jnp.minimum(progress / settings.adversarial_growth, 1.0)
        gradients = {}
        (_, (fakes, found, figures)), gradients["generator"] = jax.value_and_grad(
            generator_loss, has_aux=True
        )(
            params["generator"],
            params,
            frozen,
            images,
            real,
            z,
            settings.adversarial_weight * growth,
        )
        seen = (standardise(acts, frozen["scale"]) for acts in (real, found))
        (_, contest), gradients["critics"] = jax.value_and_grad(critics_loss, has_aux=True)(
            params["critics"], *seen, z, critics_key
        )
        gradients["discriminator"], contest_on_pixels = jax.grad(discriminator_loss, has_aux=True)(
            params["discriminator"],
            images[: settings.discriminator_batch],
            few_from_prior(fakes).astype(jnp.float32),
            noise_key,
        )
        new, optimizer_states = {}, {}
        for name in NETWORKS:
            updates, optimizer_states[name] = optimizer.update(
                gradients[name], state["optimizer"][name]
            )
            rate = rates[name] * cosine(progress)
            new[name] = jax.tree.map(lambda p, u, rate=rate: p - rate * u, params[name], updates)
        kept = {name: new[name] for name in state["average"]}
        return {
            "step": state["step"] + 1,
            "params": new,
            "average": ema_update(state["average"], kept, state["step"], settings.ema_decay),
            "optimizer": optimizer_states,
        }, {**figures, "critics": contest, "discriminator": contest_on_pixels}

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
    generator, discriminator = start
    nnx.update(generator, state["average"]["generator"])
    nnx.update(discriminator, state["average"]["discriminator"])
    steps = int(state["step"])
    facts = {
        "steps": steps,
        "image_passes": steps * settings.batch_size,
        "prior_passes": steps * settings.prior_batch,
    }
    return generator, discriminator, facts


def _contest_and_slope(logits: Array, count: int, some: int, sigma: float) -> tuple[Array, Array]:
    """The logistic loss, and the squared slope along a random direction on real pictures.

    logits: (pictures, places), of ``count`` real pictures, of ``some`` of them again with noise of
    deviation sigma, and of fakes.
    """
    on_real, on_noisy, on_fake = jnp.split(logits, [count, count + some])
    contest = jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()
    slope = (on_noisy - on_real[:some]).sum(1) / sigma
    return contest, jnp.mean(slope**2) / logits.shape[1]


def _mean_gap(a: Array, b: Array) -> Array:
    return jnp.mean(jnp.abs(a - b), dtype=jnp.float32)


def _mean_size(a: Array) -> Array:
    return jnp.mean(jnp.abs(a), dtype=jnp.float32)
