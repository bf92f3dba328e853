"""A hidden unit as evidence: its activation is high, up to Gaussian noise.

A unit is a channel of a layer, whose activation is its mean over the picture, or a number of a
layer without places. What "high" is comes from the unit's activations on pictures of the prior: the
mean of the Gaussian is their 99 % quantile and its standard deviation is a quarter of theirs,
unless somebody says other numbers. So this is a posterior, and no ascent without an end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.errors import UsageError
from gradgen.networks.interfaces import Bundle, Classifier
from gradgen.networks.load import load_bundle

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
    shapes = layers_of(classifier)
    if layer not in shapes:
        raise UsageError(
            f"{classifier.name} has no layer {layer!r}; its layers: {', '.join(shapes)}"
        )
    if number >= shapes[layer][-1]:
        raise UsageError(
            f"layer {layer} of {classifier.name} has the units 0…{shapes[layer][-1] - 1}, "
            f"no {number}"
        )
    return Unit(layer, number)


def wanted(
    unit: Unit, bundle: Bundle, classifier: Classifier, value: float | None, noise: float | None
) -> WantedUnit:
    """The unit with the numbers that are given; the others are measured on the prior's pictures.

    Raises:
        UsageError: the unit is the same for all pictures.
    """
    if value is None or noise is None:
        seen = _reference(unit, bundle, classifier)
        if not seen.std() > 0:
            raise UsageError(
                f"unit {unit} of {classifier.name} is {seen[0]:g} on all of {len(seen)} pictures "
                "of the prior; choose another, or give `unit_value` and `unit_noise`"
            )
        value = float(np.quantile(seen, QUANTILE)) if value is None else value
        noise = float(NOISE_SHARE * seen.std()) if noise is None else noise
    return WantedUnit(unit, value, noise)


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
