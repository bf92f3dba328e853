"""Finding and loading bundles and their parts by name or folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from gradgen import originals
from gradgen.catalog import ORIGINALS, find_weights
from gradgen.embedded import load_embedded_bundle, load_lite
from gradgen.networks import Bundle, Classifier, Network
from gradgen.weights.store import read_card


def load_bundle(
    name: str | Path = "tiny64",
    *,
    generator: str | None = None,
    discriminator: str | None = None,
) -> Bundle:
    """Load a bundle by its name or from a folder that ``gradgen train`` wrote.

    Args:
        name: "tiny64", "caffenet", "alexnet", "googlenet", "places205", or a folder.
        generator: another bundle's generator, with its encoder and its clipping statistics: the
            name or folder of a bundle, "deepsim-fc6", "deepsim-fc7" or "deepsim-pool5".
        discriminator: "dcgan", or the name or folder of the bundle whose discriminator to take.

    Raises:
        UsageError: there is no such bundle or part.
        GradgenError: its files are broken. Weights that are missing are an error once they are
            used; it names the command that fetches them.
    """
    bundle = _bundle(name)
    if generator is not None:
        bundle = _with_generator(bundle, generator)
    if discriminator is not None:
        bundle = _with_discriminator(bundle, discriminator)
    return bundle


def load_classifier(name: str | Path = "lite0") -> Classifier:
    """Load a classifier: "lite0" or "lite1" (EfficientNet-Lite, all 1000 ImageNet classes), or a
    bundle's.

    Raises:
        UsageError: there is no such classifier.
        GradgenError: its files are missing or broken.
    """
    if name in ORIGINALS:
        return originals.load_original_classifier(str(name))
    folder = find_weights(name, "classifier")
    if read_card(folder).get("kind") == "bundle":
        return load_embedded_bundle(folder).classifier
    return load_lite(folder)


def _bundle(name: str | Path) -> Bundle:
    if name in ORIGINALS:
        return originals.load_original_bundle(str(name))
    return load_embedded_bundle(find_weights(name))


@cache
def _with_generator(bundle: Bundle, generator: str) -> Bundle:
    """The bundle with another generator and what belongs to it: encoder, size and bounds."""
    if generator in originals.GENERATORS:
        own = bundle.name if bundle.name in ORIGINALS else originals.ENCODER
        giver = originals.load_original_bundle(own, generator)
    else:
        giver = _bundle(generator)
    return replace(
        bundle,
        code_size=giver.code_size,
        image_size=giver.image_size,
        code_statistics=giver.code_statistics,
        code_floor=giver.code_floor,
        multiply_adds=max(bundle.multiply_adds, giver.multiply_adds),
        parts=replace(bundle.parts, generator=giver.parts.generator, encoder=giver.parts.encoder),
    )


@cache
def _with_discriminator(bundle: Bundle, name: str) -> Bundle:
    if name == originals.DISCRIMINATOR:
        load: Callable[[], Network] = originals.load_dcgan
    else:
        load = _bundle(name).parts.discriminator
    return replace(bundle, parts=replace(bundle.parts, discriminator=load))
