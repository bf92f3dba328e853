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
from gradgen.files import file_sha256
from gradgen.labels import Labels, imagenet_labels
from gradgen.models import efficientnet, tiny64
from gradgen.models.fast.winograd import prepare_for_inference
from gradgen.networks.bounds import CodeStatistics, WeightedStatistics
from gradgen.networks.interfaces import (
    Bundle,
    Classifier,
    Network,
    Params,
    Parts,
    calibrated,
    resize,
)
from gradgen.weights.cards import CARD_FILE, read_card
from gradgen.weights.store import load_arrays, load_module

PHOTOGRAPHS_FILE = "photographs.safetensors"


class Modules(NamedTuple):
    """A bundle's networks as Flax modules."""

    encoder: tiny64.Encoder
    generator: tiny64.Generator
    discriminator: tiny64.Discriminator


def load_modules(
    folder: Path, num_classes: int, code_size: int, sizes: tiny64.Sizes = tiny64.TINY64
) -> Modules:
    """Read a bundle's networks.

    Args:
        folder: folder of the bundle.
        num_classes: number of classes of the classifier.
        code_size: number of units of the generator's codes.
        sizes: of the networks' layers.

    Raises:
        GradgenError: a file is missing, is broken or does not fit its network.
    """

    def load(part: str, make: Callable[..., Any], *args: Any) -> Any:
        module = nnx.eval_shape(lambda: make(*args, rngs=nnx.Rngs(0)))
        return load_module(folder / f"{part}.safetensors", module)

    return Modules(
        load("classifier", tiny64.Encoder, num_classes, sizes.encoder),
        load("generator", tiny64.Generator, code_size, sizes.generator),
        load("discriminator", tiny64.Discriminator, sizes.discriminator),
    )


@cache
def load_trained_bundle(folder: Path) -> Bundle:
    """Load a bundle that comes with gradgen or that ``gradgen train`` wrote, from its folder.

    Raises:
        GradgenError: a file is missing or broken, or the architecture is unknown.
    """
    card = read_card(folder)
    if card.architecture != "tiny64":
        raise GradgenError(f"{folder / CARD_FILE}: unknown architecture {card.architecture!r}")
    labels = Labels.from_lines(card.labels, title=card.name)
    sizes = tiny64.Sizes.of_card(card.sizes)
    modules = load_modules(folder, len(labels), card.code_size, sizes)
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

    def layers(params: Params, images: Array) -> dict[str, Array]:
        return nnx.merge(encoder_graph, params)(resize(images, tiny64.IMAGE_SIZE))

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
        return Network(f"{card.name}/generator", generate, generator_params, sha["generator"])

    def classifier() -> Classifier:
        return Classifier(
            name=card.name,
            apply=calibrated(logits, card.temperature),
            params=encoder_params,
            sha256=sha["classifier"],
            input_size=tiny64.IMAGE_SIZE,
            logits=logits,
            labels=labels,
            card=card,
            layers=layers,
        )

    def encoder() -> Network:
        params = (encoder_params, whitening)
        name = f"{card.name}/encoder"
        return Network(name, encode, params, sha["classifier"], tiny64.IMAGE_SIZE)

    def discriminator() -> Network:
        name = f"{card.name}/discriminator"
        return Network(
            name, log_probability_real, critic_params, sha["discriminator"], tiny64.IMAGE_SIZE
        )

    return Bundle(
        name=card.name,
        code_size=card.code_size,
        image_size=tiny64.IMAGE_SIZE,
        labels=labels,
        code_statistics=CodeStatistics(
            codes["class_mean"], codes["class_std"], codes["mean"], codes["std"], labels, card.name
        ),
        code_floor=None,  # a whitened code has both signs
        multiply_adds=tiny64.MULTIPLY_ADDS,
        card=card,
        parts=Parts(generator, classifier, encoder, discriminator),
        photographs=_photographs(folder, card.name),
    )


def _photographs(folder: Path, bundle: str) -> WeightedStatistics | None:
    """Read the table that :mod:`gradgen.tools.weigh_photographs` made for a bundle, if any."""
    path = folder / PHOTOGRAPHS_FILE
    if not path.is_file():
        return None
    names = ("class_mean", "class_std", "effective", "expected", "mean", "std")
    found = load_arrays(path)
    if missing := [name for name in names if name not in found]:
        raise GradgenError(f"{path} lacks {', '.join(missing)}; restore the file")
    means, stds, effective, expected, mean, std = (found[name] for name in names)
    return WeightedStatistics(
        means, stds, effective, expected, mean, std, imagenet_labels(), bundle
    )


def load_lite_module(folder: Path) -> efficientnet.EfficientNetLite:
    """Load EfficientNet-Lite from its folder, as a Flax module.

    Raises:
        GradgenError: a file is missing or broken, or the architecture is unknown.
    """
    variant = read_card(folder).architecture
    if variant not in efficientnet.VARIANTS:
        raise GradgenError(f"{folder / CARD_FILE}: unknown architecture {variant!r}")
    module = nnx.eval_shape(lambda: efficientnet.EfficientNetLite(variant, rngs=nnx.Rngs(0)))
    return load_module(folder / "classifier.safetensors", module)


@cache
def load_lite(folder: Path) -> Classifier:
    """Load EfficientNet-Lite from its folder, as a classifier.

    Raises:
        GradgenError: a file is missing or broken, or the architecture is unknown.
    """
    card = read_card(folder)
    module = load_lite_module(folder)
    graph, params = nnx.split(module)
    size = module.input_size

    def logits(params: Params, images: Array) -> Array:
        return nnx.merge(graph, params)(resize(images, size))

    def features(params: Params, images: Array) -> Array:
        return nnx.merge(graph, params).features(resize(images, size))

    return Classifier(
        name=card.name,
        apply=calibrated(logits, card.temperature),
        params=params,
        sha256=file_sha256(folder / "classifier.safetensors"),
        input_size=size,
        logits=logits,
        labels=Labels.from_lines(card.labels, title=card.name),
        card=card,
        features=features,
    )
