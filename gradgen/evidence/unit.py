"""A hidden unit as evidence: its activation is high, up to Gaussian noise.

A unit is a channel of a layer, whose activation is its mean over the picture, or a number of a
layer without places. What "high" is comes from the unit's activations on pictures of the prior: the
mean of the Gaussian is their 99 % quantile and its standard deviation is a quarter of theirs,
unless somebody says other numbers. So this is a posterior, and no ascent without an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.errors import GradgenError, UsageError
from gradgen.images import ImageSource
from gradgen.networks.interfaces import Apply, Bundle, Classifier, Network
from gradgen.networks.load import load_bundle
from gradgen.networks.stream import stream

REFERENCE, REFERENCE_SEED, BATCH = 512, 0, 32  # pictures of the prior
QUANTILE = 0.99
NOISE_SHARE = 0.25  # of the standard deviation

_UNIT = re.compile(r"\s*([^:\s]+)\s*:\s*(\d{1,9})\s*")


@dataclass(frozen=True)
class Unit:
    """A unit of the classifier; hashable, since the compiled program depends on it."""

    layer: str
    number: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"

    def activation(self, layers: Mapping[str, Array]) -> Array:
        """Activation (n,), given those of all layers: (n, units) or (n, H, W, units)."""
        values = layers[self.layer][..., self.number]
        return values.mean(axis=tuple(range(1, values.ndim)))


@dataclass(frozen=True)
class WantedUnit:
    """A unit and the Gaussian around the activation that is wanted.

    Attributes:
        unit: which.
        value: mean of the Gaussian.
        noise: its standard deviation.
    """

    unit: Unit
    value: float
    noise: float

    @property
    def params(self) -> dict[str, Array]:
        """What :func:`log_likelihood` takes."""
        return {"value": jnp.float32(self.value), "noise": jnp.float32(self.noise)}


def log_likelihood(params: Mapping[str, Array], activation: Array) -> Array:
    """Log density (n,) of the wanted activation around those that there are (n,)."""
    noise = params["noise"]
    gap = (activation - params["value"]) / noise
    return -0.5 * gap**2 - jnp.log(noise) - 0.5 * jnp.log(2 * jnp.pi)


def units(bundle: Bundle | str = "tiny64") -> dict[str, tuple[int, ...]]:
    """The layers of a bundle's classifier and the shapes of their activations.

    Returns {layer: (units,) or (H, W, units)}.

    Raises:
        UsageError: there is no such bundle, or its classifier does not show its layers.
    """
    loaded = load_bundle(bundle) if isinstance(bundle, str) else bundle
    return layers_of(loaded.classifier)


def layers_of(classifier: Classifier) -> dict[str, tuple[int, ...]]:
    """As :func:`units`, of a classifier."""
    if classifier.layers is None:
        raise UsageError(f"{classifier.name} does not show its layers, so no unit can be asked for")
    pictures = jax.ShapeDtypeStruct(
        (1, classifier.input_size, classifier.input_size, 3), jnp.float32
    )
    shapes = jax.eval_shape(classifier.layers, classifier.params, pictures)
    return {name: tuple(value.shape[1:]) for name, value in shapes.items()}


def find_unit(text: str, classifier: Classifier) -> Unit:
    """The unit that a text such as ``conv4:17`` names.

    Raises:
        UsageError: it names none of the classifier's.
    """
    found = _UNIT.fullmatch(text)
    if found is None:
        raise UsageError(f"`unit` {text!r}: write layer:number, such as conv4:17")
    layer, number = found[1], int(found[2])
    shapes = _check_layer(layer, classifier)
    if number >= shapes[layer][-1]:
        raise UsageError(
            f"layer {layer} of {classifier.name} has the units 0…{shapes[layer][-1] - 1}, "
            f"no {number}"
        )
    return Unit(layer, number)


def _check_layer(layer: str, classifier: Classifier) -> dict[str, tuple[int, ...]]:
    """The layers, if this is one of them."""
    shapes = layers_of(classifier)
    if layer not in shapes:
        raise UsageError(
            f"{classifier.name} has no layer {layer!r}; its layers: {', '.join(shapes)}"
        )
    return shapes


def wanted(
    unit: Unit, bundle: Bundle, classifier: Classifier, value: float | None, noise: float | None
) -> WantedUnit:
    """The unit with the numbers that are given; the others are measured on the prior's pictures.

    Raises:
        UsageError: the unit is the same for all pictures.
    """
    if value is None or noise is None:
        seen = _reference(unit, bundle, classifier)
        found = _around(unit, seen, f"{len(seen)} pictures of the prior")
        value = found.value if value is None else value
        noise = found.noise if noise is None else noise
    return WantedUnit(unit, value, noise)


def _around(unit: Unit, seen: np.ndarray, of_what: str) -> WantedUnit:
    """High, by what was seen of the unit (n,)."""
    if not seen.std() > 0:
        raise UsageError(
            f"unit {unit} is {seen[0]:g} on all of {of_what}; choose another, or give "
            "`unit_value` and `unit_noise`"
        )
    return WantedUnit(unit, float(np.quantile(seen, QUANTILE)), float(NOISE_SHARE * seen.std()))


@dataclass(frozen=True, eq=False)
class Activations:
    """What pictures did to the units of a layer.

    Attributes:
        layer: its name.
        values: (pictures, units) float32; of a layer with places the means over them.
        unreadable: messages about pictures that could not be read.
    """

    layer: str
    values: np.ndarray
    unreadable: tuple[str, ...] = ()

    def wanted(self, number: int) -> WantedUnit:
        """The unit with the numbers that these pictures give it.

        Raises:
            UsageError: the unit is the same for all of them.
        """
        return _around(Unit(self.layer, number), self.values[:, number], "the pictures")


def activations(
    bundle: Bundle | str,
    layer: str,
    images: Sequence[ImageSource],
    batch_size: int = BATCH,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Activations:
    """Activations of a layer of the bundle's classifier on pictures.

    Args:
        bundle: or its name.
        layer: one of :func:`units`.
        images: files, or other sources of pictures.
        batch_size: pictures at a time.
        threads: that decode; ``None``: one a core, up to 8.
        on_progress: called with the number of pictures that are done.

    Raises:
        UsageError: there is no such bundle or layer.
        GradgenError: fewer than two pictures can be read.
    """
    loaded = load_bundle(bundle) if isinstance(bundle, str) else bundle
    judge = loaded.classifier
    _check_layer(layer, judge)
    network = Network(f"{judge.name}/{layer}", _mean_of(judge, layer), judge.params, judge.sha256,
                      judge.input_size)  # fmt: skip
    parts, unreadable = [], []
    for chunk in stream(network, images, batch_size, threads):
        if len(chunk.indices):
            parts.append(chunk.outputs)
        unreadable += [failure.message for failure in chunk.failures]
        if on_progress is not None:
            on_progress(chunk.done)
    count = sum(map(len, parts))
    if count < 2:
        raise GradgenError(f"{count} of {len(images)} pictures can be read; at least 2 are needed")
    return Activations(layer, np.concatenate(parts), tuple(unreadable))


@cache
def _mean_of(classifier: Classifier, layer: str) -> Apply:
    """Pictures -> activations (n, units) of a layer; one object, so that it is compiled once."""

    def apply(params: Any, images: Array) -> Array:
        assert classifier.layers is not None
        values = classifier.layers(params, images)[layer]
        return values.mean(axis=tuple(range(1, values.ndim - 1)))

    return apply


def _reference(unit: Unit, bundle: Bundle, classifier: Classifier) -> np.ndarray:
    """Activations (REFERENCE,) on pictures of the prior."""

    def measure(params: Any, keys: Array) -> Array:
        codes = jax.vmap(lambda key: bundle.prior.draw(key, bundle.code_size))(keys)
        images = bundle.generator.apply(params[0], codes)
        assert classifier.layers is not None
        return unit.activation(classifier.layers(params[1], images))

    compiled = jax.jit(measure)
    params = bundle.generator.params, classifier.params
    keys = jax.random.split(jax.random.key(REFERENCE_SEED), REFERENCE)
    return np.concatenate(
        [np.asarray(compiled(params, keys[at : at + BATCH])) for at in range(0, REFERENCE, BATCH)]
    )
