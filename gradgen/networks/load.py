"""Finds and loads bundles and their parts by name or folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from gradgen.models.published import is_generator
from gradgen.networks import paper
from gradgen.networks.catalog import DEFAULT_BUNDLE, PAPER_BUNDLES, find_bundle, find_weights
from gradgen.networks.interfaces import Bundle, Classifier, Network
from gradgen.networks.python_file import is_python_file, load_python_bundle, refuse_recorded
from gradgen.networks.trained import load_lite, load_trained_bundle
from gradgen.weights.cards import read_card

# In a bundle that is not the paper's, a DeepSim generator's picture is cut to this network's input.
PICTURES_FOR = "caffenet"


def load_bundle(
    name: str | Path = "tiny64",
    *,
    generator: str | None = None,
    discriminator: str | None = None,
) -> Bundle:
    """Load a bundle by its name, from a folder that ``gradgen train`` wrote, or from Python code.

    Args:
        name: "tiny64", "ten64", "caffenet", "alexnet", "googlenet", "places205", a folder, or
            "FILE.py" or "FILE.py:function" (:mod:`gradgen.networks.python_file`), which is run.
        generator: where another generator comes from, with its encoder and its clipping statistics.
            This is the name or folder of a bundle, "deepsim-fc6", "deepsim-fc7" or "deepsim-pool5".
        discriminator: where another discriminator comes from: "dcgan", or the name or folder of a
            bundle.

    Raises:
        UsageError: there is no such bundle or part.
        GradgenError: its files are broken. If weights are missing, the error comes when they are
            first used, and it names the command that fetches them.
    """
    bundle = load_python_bundle(name) if is_python_file(name) else _bundle(name)
    if generator is not None:
        bundle = _with_generator(bundle, generator)
    if discriminator is not None:
        bundle = _with_discriminator(bundle, discriminator)
    return bundle


def load_recorded_bundle(name: str | None, source: str) -> Bundle:
    """Load the bundle that a record names; code is not run.

    Args:
        name: in the record; ``None``, in a record that names none, is the default bundle.
        source: what messages call the record.

    Raises:
        UsageError: there is no such bundle, or it is code.
        GradgenError: its files are broken.
    """
    refuse_recorded(name, source)
    return load_bundle(name or DEFAULT_BUNDLE)


def load_classifier(name: str | Path = "lite0") -> Classifier:
    """Load a classifier.

    Args:
        name: "lite0" or "lite1" (EfficientNet-Lite with all 1000 ImageNet classes), or the name or
            folder of a bundle, whose classifier is loaded.

    Raises:
        UsageError: there is no such classifier.
        GradgenError: its files are missing or broken.
    """
    if name in PAPER_BUNDLES:
        return paper.load_paper_classifier(str(name))
    folder = find_weights(name, "classifier")
    if read_card(folder).kind == "bundle":
        return load_trained_bundle(folder).classifier
    return load_lite(folder)


def _bundle(name: str | Path) -> Bundle:
    entry = find_bundle(name)
    if entry.folder is None:
        return paper.load_paper_bundle(entry.name)
    return load_trained_bundle(entry.folder)


@cache
def _with_generator(bundle: Bundle, generator: str) -> Bundle:
    """Replace the bundle's generator and what belongs to it: encoder, sizes and bounds."""
    if is_generator(generator):
        own = bundle.name if bundle.name in PAPER_BUNDLES else PICTURES_FOR
        giver = paper.load_paper_bundle(own, generator)
    else:
        giver = _bundle(generator)
    return replace(
        bundle,
        code_size=giver.code_size,
        image_size=giver.image_size,
        code_statistics=giver.code_statistics,
        code_floor=giver.code_floor,
        photographs=giver.photographs,
        multiply_adds=max(bundle.multiply_adds, giver.multiply_adds),
        parts=replace(bundle.parts, generator=giver.parts.generator, encoder=giver.parts.encoder),
    )


@cache
def _with_discriminator(bundle: Bundle, name: str) -> Bundle:
    if name == paper.DISCRIMINATOR:
        load: Callable[[], Network] = paper.load_dcgan
    else:
        load = _bundle(name).parts.discriminator
    return replace(bundle, parts=replace(bundle.parts, discriminator=load))
