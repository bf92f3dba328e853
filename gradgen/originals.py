"""The paper's own networks as bundles: DeepSim generators with Caffe's classifiers.

Inside the program pictures are RGB in [-1, 1]; here they become what Caffe's networks speak (BGR,
0…255 less the mean pixel) and back. The weights are downloaded (:mod:`gradgen.weights.fetch`); each
network is looked for when it is needed.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from gradgen.catalog import ORIGINALS
from gradgen.models import caffenet, dcgan, googlenet
from gradgen.models.winograd import prepare_for_inference
from gradgen.networks import (
    Bundle,
    Classifier,
    Network,
    Params,
    Parts,
    PublishedBounds,
    calibrated,
    resize,
)
from gradgen.weights.dcgan import load_discriminator, load_reference
from gradgen.weights.networks import architecture
from gradgen.weights.registry import REFERENCE_FILE, WEIGHTS_FILE, require
from gradgen.weights.store import file_sha256, load_module, read_card

MEAN_PIXEL_BGR = (104.0, 117.0, 123.0)  # 0…255; Nguyen et al. 2016, their classifiers' setting


@dataclass(frozen=True)
class ClassifierPlan:
    """A classifier of Caffe's: the side of its input, the blob of its logits, its cost."""

    input_size: int
    logits: str
    multiply_adds: float


@dataclass(frozen=True)
class GeneratorPlan:
    """A DeepSim generator: the layer of CaffeNet that is its code, and that code's size."""

    layer: str
    code_size: int
    multiply_adds: float


CLASSIFIERS = {
    "caffenet": ClassifierPlan(caffenet.INPUT_SIZE, "fc8", 0.72e9),
    "alexnet": ClassifierPlan(caffenet.INPUT_SIZE, "fc8", 0.72e9),
    "googlenet": ClassifierPlan(googlenet.INPUT_SIZE, "loss3/classifier", 1.6e9),
    "places205": ClassifierPlan(caffenet.INPUT_SIZE, "fc8", 0.72e9),
}
GENERATORS = {
    "deepsim-fc6": GeneratorPlan("fc6", 4096, 1.0e9),
    "deepsim-fc7": GeneratorPlan("fc7", 4096, 1.0e9),
    "deepsim-pool5": GeneratorPlan("pool5", 256 * 6 * 6, 1.1e9),
}
ENCODER, DISCRIMINATOR, GENERATOR = "caffenet", "dcgan", "deepsim-fc6"


@cache
def load_original_bundle(name: str, generator: str = GENERATOR) -> Bundle:
    """One of :data:`gradgen.catalog.ORIGINALS`; nothing is read before a network of it is used.

    generator: one of :data:`GENERATORS`. Its picture's centre, as large as the classifier's
    input, is what the bundle calls the image (227, for GoogLeNet 224, of 256 pixels).
    """
    judge, maker = CLASSIFIERS[name], GENERATORS[generator]
    return Bundle(
        name=name,
        code_size=maker.code_size,
        image_size=judge.input_size,
        labels=ORIGINALS[name](),
        code_statistics=dgn_am_bounds() if maker.layer == "fc6" else None,
        code_floor=0.0,  # all three codes are rectified
        multiply_adds=judge.multiply_adds + maker.multiply_adds,
        card={"name": name, "kind": "bundle"},
        parts=Parts(
            partial(load_generator, generator, judge.input_size),
            partial(load_original_classifier, name),
            partial(load_encoder, maker.layer),
            load_dcgan,
        ),
    )


@cache
def dgn_am_bounds() -> PublishedBounds:
    """Nguyen et al. 2016: mean + 1, 2, 3 standard deviations of CaffeNet's fc6, rounded."""
    folder = importlib.resources.files("gradgen").joinpath("data")
    upper = {
        float(sigmas): np.array(
            folder.joinpath(f"dgn-am-fc6-bound-{sigmas}x.txt").read_text().split(), np.float32
        )
        for sigmas in (1, 2, 3)
    }
    return PublishedBounds(upper, "DGN-AM (Nguyen et al. 2016)")


def to_caffe(images: Array) -> Array:
    """RGB in [-1, 1] -> BGR, 0…255 less the mean pixel; channels last."""
    return (images[..., ::-1] + 1.0) * 127.5 - jnp.array(MEAN_PIXEL_BGR, jnp.result_type(images))


def from_caffe(images: Array) -> Array:
    """The inverse of :func:`to_caffe`."""
    return ((images + jnp.array(MEAN_PIXEL_BGR, jnp.result_type(images))) / 127.5 - 1.0)[..., ::-1]


def centre(images: Array, size: int) -> Array:
    """The centre (n, size, size, c) of pictures; (256 - 227) // 2 = 14 pixels in, as DGN-AM has."""
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _load(name: str) -> tuple[Any, Params, str, dict[str, Any]]:
    """(graph, parameters, SHA-256, card) of a converted network."""
    folder = require(name)
    path = folder / WEIGHTS_FILE
    module = load_module(path, architecture(name).abstract())
    prepare_for_inference(module)
    graph, params = nnx.split(module)
    return graph, params, file_sha256(path), read_card(folder)


@cache
def load_original_classifier(name: str) -> Classifier:
    """One of :data:`CLASSIFIERS`.

    Raises:
        GradgenError: its weights are missing or broken.
    """
    plan = CLASSIFIERS[name]
    graph, params, sha256, card = _load(name)

    def logits(params: Params, images: Array) -> Array:
        inputs = to_caffe(resize(images, plan.input_size))
        return nnx.merge(graph, params)(inputs)[plan.logits]

    return Classifier(
        name=name,
        apply=calibrated(logits, 1.0),
        params=params,
        sha256=sha256,
        input_size=plan.input_size,
        logits=logits,
        labels=ORIGINALS[name](),
        card=card,
    )


@cache
def load_generator(name: str, image_size: int) -> Network:
    """One of :data:`GENERATORS`, whose picture is cut to its centre.

    Codes are flat; pool5's are flattened as C x H x W, as Caffe has them.

    Raises:
        GradgenError: its weights are missing or broken.
    """
    plan = GENERATORS[name]
    graph, params, sha256, _ = _load(name)

    def generate(params: Params, z: Array) -> Array:
        if plan.layer == "pool5":
            z = z.reshape(-1, 256, 6, 6).transpose(0, 2, 3, 1)
        picture = nnx.merge(graph, params)(z)["deconv0"]
        return from_caffe(centre(picture, image_size))

    return Network(name, generate, params, sha256)


@cache
def load_encoder(layer: str) -> Network:
    """Pictures to the codes that CaffeNet gives them at a layer: "fc6", "fc7" or "pool5".

    Raises:
        GradgenError: CaffeNet's weights are missing or broken.
    """
    graph, params, sha256, _ = _load(ENCODER)

    def encode(params: Params, images: Array) -> Array:
        inputs = to_caffe(resize(images, caffenet.INPUT_SIZE))
        acts = nnx.merge(graph, params)(inputs)[layer]
        if acts.ndim == 4:
            acts = acts.transpose(0, 3, 1, 2)
        return acts.reshape(acts.shape[0], -1)

    return Network(f"{ENCODER}/{layer}", encode, params, sha256, caffenet.INPUT_SIZE)


@cache
def load_dcgan(batch_statistics: bool = False) -> Network:
    """DCGAN's discriminator: images -> log-probability of being real (n,).

    batch_statistics: normalise with the batch's own statistics, as the original does; a picture's
    score then depends on the pictures beside it.

    Raises:
        GradgenError: its weights or its reference statistics are missing or broken.
    """
    folder = require(DISCRIMINATOR)
    statistics = None if batch_statistics else load_reference(folder)
    flip = bool(read_card(folder).get("reference", {}).get("flip_kernels", True))
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
