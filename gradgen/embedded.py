"""The networks that come with gradgen, and those that ``gradgen train`` makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gradgen.errors import GradgenError
from gradgen.labels import Labels, imagenet_labels
from gradgen.models import efficientnet, tiny64
from gradgen.models.winograd import prepare_for_inference
from gradgen.networks import (
    Bundle,
    Classifier,
    CodeStatistics,
    Network,
    Params,
    Parts,
    calibrated,
    resize,
)
from gradgen.weights.store import file_sha256, load_arrays, load_module, read_card


class Modules(NamedTuple):
    """A bundle's networks as Flax modules."""

    encoder: tiny64.Encoder
    generator: tiny64.Generator
    discriminator: tiny64.Discriminator


def load_modules(folder: Path, num_classes: int, code_size: int) -> Modules:
    """Read a bundle's networks.

    Raises:
        GradgenError: a file is missing, broken or does not fit its network.
    """

    def load(part: str, make: Callable[..., Any], *args: Any) -> Any:
        module = nnx.eval_shape(lambda: make(*args, rngs=nnx.Rngs(0)))
        return load_module(folder / f"{part}.safetensors", module)

    return Modules(
        load("classifier", tiny64.Encoder, num_classes),
        load("generator", tiny64.Generator, code_size),
        load("discriminator", tiny64.Discriminator),
    )


@cache
def load_embedded_bundle(folder: Path) -> Bundle:
    """A bundle from its folder: an embedded one, or one that ``gradgen train`` wrote."""
    card = read_card(folder)
    try:
        if card["architecture"] != "tiny64":
            raise GradgenError(f"{folder}: unknown architecture {card['architecture']!r}")
        labels = Labels.from_lines(card["labels"], title=card["name"])
        code_size, temperature = int(card["code_size"]), float(card["temperature"])
    except KeyError as missing:
        raise GradgenError(f"{folder / 'card.json'} lacks {missing}; restore the file") from None

    modules = load_modules(folder, len(labels), code_size)
    for module in modules:
        prepare_for_inference(module)
    encoder_graph, encoder_params = nnx.split(modules.encoder)
    generator_graph, generator_params = nnx.split(modules.generator)
    critic_graph, critic_params = nnx.split(modules.discriminator)
    codes = load_arrays(folder / "codes.safetensors")
    sha = {
        part: file_sha256(folder / f"{part}.safetensors")
        for part in ("classifier", "generator", "discriminator", "codes")
    }

    def logits(params: Params, images: Array) -> Array:
        images = resize(images, tiny64.IMAGE_SIZE)
        return nnx.merge(encoder_graph, params)(images)["fc8"]

    def encode(params: Params, images: Array) -> Array:
        network, whitening = params
        fc6 = nnx.merge(encoder_graph, network)(resize(images, tiny64.IMAGE_SIZE), depth=6)["fc6"]
        return (fc6 - whitening["mean"]) @ whitening["kernel"]

    def generate(params: Params, z: Array) -> Array:
        return nnx.merge(generator_graph, params)(z)

    def log_probability_real(params: Params, images: Array) -> Array:
        images = resize(images, tiny64.IMAGE_SIZE)
        return jax.nn.log_sigmoid(nnx.merge(critic_graph, params)(images))

    whitening = {"mean": jnp.asarray(codes["fc6_mean"]), "kernel": jnp.asarray(codes["whitening"])}

    def generator() -> Network:
        return Network(f"{card['name']}/generator", generate, generator_params, sha["generator"])

    def classifier() -> Classifier:
        return Classifier(
            name=card["name"],
            apply=calibrated(logits, temperature),
            params=encoder_params,
            sha256=sha["classifier"],
            input_size=tiny64.IMAGE_SIZE,
            logits=logits,
            labels=labels,
            card=card,
        )

    def encoder() -> Network:
        params = (encoder_params, whitening)
        name = f"{card['name']}/encoder"
        return Network(name, encode, params, sha["classifier"], tiny64.IMAGE_SIZE)

    def discriminator() -> Network:
        name = f"{card['name']}/discriminator"
        return Network(
            name, log_probability_real, critic_params, sha["discriminator"], tiny64.IMAGE_SIZE
        )

    return Bundle(
        name=card["name"],
        code_size=code_size,
        image_size=tiny64.IMAGE_SIZE,
        labels=labels,
        code_statistics=CodeStatistics(
            codes["class_mean"], codes["class_std"], codes["mean"], codes["std"], labels
        ),
        code_floor=None,  # a whitened code has both signs
        multiply_adds=tiny64.MULTIPLY_ADDS,
        card=card,
        parts=Parts(generator, classifier, encoder, discriminator),
    )


def load_lite_module(folder: Path) -> efficientnet.EfficientNetLite:
    """EfficientNet-Lite from its folder, as a Flax module."""
    architecture = read_card(folder).get("architecture")
    variant = architecture.get("variant") if isinstance(architecture, dict) else None
    if variant not in efficientnet.VARIANTS:
        raise GradgenError(f"{folder}: unknown architecture {architecture!r}")
    module = nnx.eval_shape(lambda: efficientnet.EfficientNetLite(variant, rngs=nnx.Rngs(0)))
    return load_module(folder / "classifier.safetensors", module)


@cache
def load_lite(folder: Path) -> Classifier:
    """EfficientNet-Lite from its folder."""
    card = read_card(folder)
    module = load_lite_module(folder)
    graph, params = nnx.split(module)
    size = module.input_size

    def logits(params: Params, images: Array) -> Array:
        return nnx.merge(graph, params)(resize(images, size))

    def features(params: Params, images: Array) -> Array:
        return nnx.merge(graph, params).features(resize(images, size))

    return Classifier(
        name=card["name"],
        apply=calibrated(logits, float(card["temperature"])),
        params=params,
        sha256=file_sha256(folder / "classifier.safetensors"),
        input_size=size,
        logits=logits,
        labels=imagenet_labels(),
        card=card,
        features=features,
    )
