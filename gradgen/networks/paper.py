"""The paper's own networks as bundles: DeepSim generators with Caffe's classifiers.

The rest of the program holds pictures as RGB in [-1, 1]. This module turns them into the form of
Caffe's networks (BGR, 0…255 less the mean pixel) and back. :mod:`gradgen.weights.fetch` downloads
the weights, and a bundle looks for each network only when it is needed.
"""

from __future__ import annotations

import importlib.resources
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from gradgen.files import file_sha256
from gradgen.models import dcgan
from gradgen.models.fast.winograd import prepare_for_inference
from gradgen.models.published import architecture
from gradgen.networks.bounds import PublishedBounds
from gradgen.networks.catalog import PAPER_BUNDLES
from gradgen.networks.interfaces import (
    Bundle,
    Classifier,
    Network,
    Params,
    Parts,
    calibrated,
    resize,
)
from gradgen.weights.cards import Card, read_card
from gradgen.weights.dcgan import load_discriminator, load_reference
from gradgen.weights.registry import REFERENCE_FILE, WEIGHTS_FILE, require
from gradgen.weights.store import load_module

DISCRIMINATOR = "dcgan"
MEAN_PIXEL_BGR = (104.0, 117.0, 123.0)  # 0…255, as for the classifiers of Nguyen et al. 2016


@cache
def load_paper_bundle(name: str, generator: str | None = None) -> Bundle:
    """Make a bundle of the catalog's ``PAPER_BUNDLES``. No weights are read before they are used.

    Args:
        name: name of the bundle.
        generator: another generator of the table of architectures, or ``None`` for the bundle's
            own. The codes are the generator's. The image is the centre of the generator's picture,
            as large as the classifier's input (227 of 256 pixels, for GoogLeNet 224).
    """
    networks = PAPER_BUNDLES[name]
    generator = generator or networks.generator
    classifies, generates = architecture(networks.classifier), architecture(generator)
    layer = generates.code_layer
    return Bundle(
        name=name,
        code_size=generates.code_size,
        image_size=classifies.input_size,
        labels=networks.labels(),
        code_statistics=dgn_am_bounds() if layer == "fc6" else None,
        code_floor=0.0,  # all three codes are rectified
        multiply_adds=classifies.multiply_adds + generates.multiply_adds,
        card=Card(name, "bundle"),
        parts=Parts(
            partial(load_generator, generator, classifies.input_size),
            partial(load_paper_classifier, networks.classifier),
            partial(load_encoder, networks.encoder, layer),
            load_dcgan,
        ),
    )


@cache
def dgn_am_bounds() -> PublishedBounds:
    """Read the bounds of Nguyen et al. 2016 for the units of CaffeNet's fc6.

    They are mean + 1, 2 or 3 standard deviations, rounded.
    """
    folder = importlib.resources.files("gradgen").joinpath("data")
    upper = {
        float(sigmas): np.array(
            folder.joinpath(f"dgn-am-fc6-bound-{sigmas}x.txt").read_text().split(), np.float32
        )
        for sigmas in (1, 2, 3)
    }
    return PublishedBounds(upper, "DGN-AM (Nguyen et al. 2016)")


def to_caffe(images: Array) -> Array:
    """Turn RGB in [-1, 1] into BGR, 0…255 less the mean pixel. Channels are last."""
    return (images[..., ::-1] + 1.0) * 127.5 - jnp.array(MEAN_PIXEL_BGR, jnp.result_type(images))


def from_caffe(images: Array) -> Array:
    """Invert :func:`to_caffe`."""
    return ((images + jnp.array(MEAN_PIXEL_BGR, jnp.result_type(images))) / 127.5 - 1.0)[..., ::-1]


def centre(images: Array, size: int) -> Array:
    """Cut out the centre (n, size, size, c) of pictures.

    For 227 of 256 pixels it begins (256 - 227) // 2 = 14 pixels from the edge, as in DGN-AM.
    """
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _load(name: str) -> tuple[Any, Params, str, Card]:
    """Load a converted network. Returns its graph, parameters, SHA-256 and card."""
    folder = require(name)
    path = folder / WEIGHTS_FILE
    module = load_module(path, architecture(name).abstract())
    prepare_for_inference(module)
    graph, params = nnx.split(module)
    return graph, params, file_sha256(path), read_card(folder)


@cache
def load_paper_classifier(name: str) -> Classifier:
    """Load the classifier of the paper's bundle of that name.

    Raises:
        GradgenError: its weights are missing or broken.
    """
    made = architecture(name)
    graph, params, sha256, card = _load(name)

    def logits(params: Params, images: Array) -> Array:
        inputs = to_caffe(resize(images, made.input_size))
        return nnx.merge(graph, params)(inputs)[made.logits]

    def layers(params: Params, images: Array) -> dict[str, Array]:
        found: dict[str, Array] = nnx.merge(graph, params)(
            to_caffe(resize(images, made.input_size))
        )
        return found

    return Classifier(
        name=name,
        apply=calibrated(logits, 1.0),
        params=params,
        sha256=sha256,
        input_size=made.input_size,
        logits=logits,
        labels=PAPER_BUNDLES[name].labels(),
        card=card,
        layers=layers,
    )


@cache
def load_generator(name: str, image_size: int) -> Network:
    """Load a generator of the table of architectures, whose picture is cut to its centre.

    Codes are flat. Those of pool5 are flattened as C x H x W, as in Caffe.

    Args:
        name: name of the generator.
        image_size: side of the centre in pixels.

    Raises:
        GradgenError: its weights are missing or broken.
    """
    layer = architecture(name).code_layer
    graph, params, sha256, _ = _load(name)

    def generate(params: Params, z: Array) -> Array:
        if layer == "pool5":
            z = z.reshape(-1, 256, 6, 6).transpose(0, 2, 3, 1)
        picture = nnx.merge(graph, params)(z)["deconv0"]
        return from_caffe(centre(picture, image_size))

    return Network(name, generate, params, sha256)


@cache
def load_encoder(name: str, layer: str) -> Network:
    """Load the encoder of pictures, whose codes are the activations of a layer of CaffeNet.

    Args:
        name: name of CaffeNet in the table of architectures.
        layer: "fc6", "fc7" or "pool5".

    Raises:
        GradgenError: CaffeNet's weights are missing or broken.
    """
    size = architecture(name).input_size
    graph, params, sha256, _ = _load(name)

    def encode(params: Params, images: Array) -> Array:
        inputs = to_caffe(resize(images, size))
        acts = nnx.merge(graph, params)(inputs)[layer]
        if acts.ndim == 4:
            acts = acts.transpose(0, 3, 1, 2)
        return acts.reshape(acts.shape[0], -1)

    return Network(f"{name}/{layer}", encode, params, sha256, size)


@cache
def load_dcgan(batch_statistics: bool = False) -> Network:
    """Load DCGAN's discriminator: images -> log-probability of being real (n,).

    Args:
        batch_statistics: whether to normalise with the batch's own statistics, as the original
            does. The score of a picture then depends on the pictures beside it.

    Raises:
        GradgenError: its weights or its reference statistics are missing or broken.
    """
    folder = require(DISCRIMINATOR)
    statistics = None if batch_statistics else load_reference(folder)
    flip = bool(read_card(folder).content.get("reference", {}).get("flip_kernels", True))
    graph, params = nnx.split(load_discriminator(folder, flip))

    def log_probability_real(params: Params, images: Array) -> Array:
        network, own = params
        acts = nnx.merge(graph, network)(resize(images, dcgan.IMAGE_SIZE), own)
        return jax.nn.log_sigmoid(acts["logit"])

    file = WEIGHTS_FILE if batch_statistics else REFERENCE_FILE
    return Network(
        f"{DISCRIMINATOR} (batch statistics)" if batch_statistics else DISCRIMINATOR,
        log_probability_real,
        (params, statistics),
        file_sha256(folder / file),
        dcgan.IMAGE_SIZE,
        per_image=not batch_statistics,
    )
