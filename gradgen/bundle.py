"""A bundle: the networks that belong together, loaded and ready to call.

Every network is a pure function and its parameters. The parameters are passed at each call, so
that ``jax.jit`` sees them as arguments and not as constants that it would copy into the program.
Images are (n, H, W, 3) float32 RGB in [-1, 1]; codes are (n, code_size) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from gradgen.errors import GradgenError, UsageError
from gradgen.labels import Labels, imagenet_labels
from gradgen.models import efficientnet, tiny64
from gradgen.weights.store import file_sha256, load_arrays, load_module, read_card, weights_dir

Params = Any
Apply = Callable[[Params, Array], Array]


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a pure function: ``apply(params, inputs)``.

    Attributes:
        name: "tiny64/generator", for messages and records.
        apply: pure, can be jitted.
        params: pytree of float32 arrays.
        sha256: of the file that the parameters came from.
    """

    name: str
    apply: Apply
    params: Params
    sha256: str


@dataclass(frozen=True, eq=False)
class Classifier(Network):
    """``apply(params, images)`` gives log p(class | image) (n, num_classes), calibrated.

    Images of any size are resized to the network's own input, differentiably.

    Attributes:
        logits: like ``apply``, but before temperature and log-softmax.
        labels: the classes, in the order of the outputs.
        card: what the weights are.
    """

    logits: Apply
    labels: Labels
    card: dict[str, Any]


@dataclass(frozen=True, eq=False)
class CodeStatistics:
    """Mean and standard deviation of real images' codes, per class and over all.

    Attributes:
        class_mean, class_std: (num_classes, code_size).
        mean, std: (code_size,).
        labels: the classes, in the order of the rows.
    """

    class_mean: np.ndarray
    class_std: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    labels: Labels


@dataclass(frozen=True, eq=False)
class Bundle:
    """Networks that belong together.

    Attributes:
        name: of the bundle.
        code_size: units of z.
        image_size: side of the generator's images in pixels.
        generator: z (n, code_size) -> images (n, S, S, 3).
        classifier: images -> log p(class | image).
        encoder: images (n, S, S, 3) -> codes (n, code_size), which real images make N(0, I).
        discriminator: images (n, S, S, 3) -> log-probability of being real (n,).
        code_statistics: the embedded clipping statistics.
        card: origin, training, metrics, licence; ``card["recommended"]`` holds settings.
    """

    name: str
    code_size: int
    image_size: int
    generator: Network
    classifier: Classifier
    encoder: Network
    discriminator: Network
    code_statistics: CodeStatistics
    card: dict[str, Any]


def load_bundle(name: str | Path = "tiny64") -> Bundle:
    """Load a bundle by its name or from a folder that ``gradgen train`` wrote.

    Raises:
        UsageError: there is no such bundle.
        GradgenError: its files are broken.
    """
    return _load_bundle(find_weights(name))


def load_classifier(name: str | Path = "lite0") -> Classifier:
    """Load a classifier: "tiny64" or "lite0" (EfficientNet-Lite0, all 1000 ImageNet classes).

    Raises:
        UsageError: there is no such classifier.
        GradgenError: its files are broken.
    """
    folder = find_weights(name, "classifier")
    if read_card(folder).get("kind") == "bundle":
        return _load_bundle(folder).classifier
    return _load_lite0(folder)


def find_weights(name: str | Path, kind: str = "bundle") -> Path:
    """The folder of a bundle (or, with kind "classifier", of any classifier).

    Raises:
        UsageError: there is none of that name.
    """
    embedded = weights_dir() / str(name)
    for folder in (embedded, Path(name)):
        if (folder / "card.json").is_file():
            if kind == "bundle" and read_card(folder).get("kind") != "bundle":
                raise UsageError(f"{name} is no bundle; use it as --classifier {name}")
            return folder.resolve()
    known = sorted(
        card.parent.name
        for card in weights_dir().glob("*/card.json")
        if kind == "classifier" or read_card(card.parent).get("kind") == "bundle"
    )
    raise UsageError(
        f"there is no {kind} {str(name)!r}; embedded: {', '.join(known) or 'none'}; "
        "or give a folder that `gradgen train` wrote"
    )


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
def _load_bundle(folder: Path) -> Bundle:
    card = read_card(folder)
    try:
        if card["architecture"] != "tiny64":
            raise GradgenError(f"{folder}: unknown architecture {card['architecture']!r}")
        labels = Labels.from_lines(card["labels"], title=card["name"])
        code_size, temperature = int(card["code_size"]), float(card["temperature"])
    except KeyError as missing:
        raise GradgenError(f"{folder / 'card.json'} lacks {missing}; restore the file") from None

    modules = load_modules(folder, len(labels), code_size)
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
    return Bundle(
        name=card["name"],
        code_size=code_size,
        image_size=tiny64.IMAGE_SIZE,
        generator=Network(
            f"{card['name']}/generator", generate, generator_params, sha["generator"]
        ),
        classifier=Classifier(
            name=card["name"],
            apply=_calibrated(logits, temperature),
            params=encoder_params,
            sha256=sha["classifier"],
            logits=logits,
            labels=labels,
            card=card,
        ),
        encoder=Network(
            f"{card['name']}/encoder", encode, (encoder_params, whitening), sha["classifier"]
        ),
        discriminator=Network(
            f"{card['name']}/discriminator",
            log_probability_real,
            critic_params,
            sha["discriminator"],
        ),
        code_statistics=CodeStatistics(
            codes["class_mean"], codes["class_std"], codes["mean"], codes["std"], labels
        ),
        card=card,
    )


@cache
def _load_lite0(folder: Path) -> Classifier:
    card = read_card(folder)
    path = folder / "classifier.safetensors"
    module = nnx.eval_shape(lambda: efficientnet.EfficientNetLite0(rngs=nnx.Rngs(0)))
    graph, params = nnx.split(load_module(path, module))

    def logits(params: Params, images: Array) -> Array:
        return nnx.merge(graph, params)(resize(images, efficientnet.INPUT_SIZE))

    return Classifier(
        name=card["name"],
        apply=_calibrated(logits, float(card["temperature"])),
        params=params,
        sha256=file_sha256(path),
        logits=logits,
        labels=imagenet_labels(),
        card=card,
    )


def _calibrated(logits: Apply, temperature: float) -> Apply:
    def log_probabilities(params: Params, images: Array) -> Array:
        return jax.nn.log_softmax(logits(params, images) / temperature)

    return log_probabilities


def resize(images: Array, size: int) -> Array:
    """Bilinear resize of (n, H, W, 3) to (n, size, size, 3), antialiased when shrinking."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    return jax.image.resize(images, (n, size, size, channels), "bilinear", antialias=True)
