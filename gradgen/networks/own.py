"""A user's own functions as networks: their checks, their range of numbers, their hash.

:meth:`gradgen.networks.interfaces.Bundle.from_functions` puts them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.errors import GradgenError, UsageError
from gradgen.labels import Labels
from gradgen.networks.prior import STANDARD_NORMAL, Prior
from gradgen.networks.torch_module import TorchFunction

Params = Any
Apply = Callable[[Params, Array], Array]
LEAST_MULTIPLY_ADDS = 1e7  # of functions whose cost cannot be seen, such as calls of PyTorch


def as_apply(function: Callable[..., Any]) -> Apply:
    """A function of (params, inputs), of one that takes the inputs alone if the params are None.

    Arrays of coarser numbers come out as float32.
    """

    def apply(params: Params, inputs: Array) -> Array:
        if isinstance(function, TorchFunction):
            outputs = function.apply(params, inputs)
        else:
            outputs = function(inputs) if params is None else function(params, inputs)
        return jnp.asarray(outputs, jnp.promote_types(jnp.float32, outputs.dtype))

    return apply


def params_of(function: Callable[..., Any], params: Params) -> Params:
    """A function's parameters: those that are given, or those that a PyTorch module brings."""
    return function.params if params is None and isinstance(function, TorchFunction) else params


def as_layers(function: Callable[..., Any], alone: bool) -> Callable[[Params, Array], Any]:
    """As :func:`as_apply`, of a function that gives activations by name.

    alone: whether it takes the inputs alone, whatever parameters the classifier has.
    """

    def apply(params: Params, inputs: Array) -> Any:
        return function(inputs) if alone else function(params, inputs)

    return apply


def output_shape(
    name: str, apply: Apply, params: Params, inputs: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of what a function gives for inputs of a shape, without computing it.

    Raises:
        GradgenError: the function fails; the message holds its own.
    """
    example = jax.ShapeDtypeStruct(inputs, jnp.float32)
    try:
        return tuple(jax.eval_shape(apply, params, example).shape)
    except GradgenError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise GradgenError(
            f"the {name} fails for an input of shape {inputs}: {type(error).__name__}: {error}"
        ) from error


def expect_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...], words: str) -> None:
    """Raise UsageError unless a network's output has the shape that it should have."""
    if found != expected:
        raise UsageError(
            f"the {name} gives an array of shape {found} where {expected} is expected: {words}"
        )


def in_unit_range(apply: Apply, value_range: tuple[float, float]) -> Apply:
    """A generator whose pictures are in [-1, 1], and of three channels if it has a single one."""
    low, high = value_range

    def generate(params: Params, z: Array) -> Array:
        images = apply(params, z)
        if (low, high) != (-1.0, 1.0):
            images = (images - low) * (2.0 / (high - low)) - 1.0
        if images.shape[-1] == 1:
            images = jnp.repeat(images, 3, axis=-1)
        return images

    return generate


def from_unit_range(apply: Apply, value_range: tuple[float, float], size: int, grey: bool) -> Apply:
    """A network of pictures of its own range and size, as one of pictures in [-1, 1]."""
    low, high = value_range

    def network(params: Params, images: Array) -> Array:
        n, height, width, channels = images.shape
        if (height, width) != (size, size):
            images = jax.image.resize(images, (n, size, size, channels), "bilinear", antialias=True)
        if grey:
            images = images.mean(axis=-1, keepdims=True)
        if (low, high) != (-1.0, 1.0):
            images = (images + 1.0) * ((high - low) / 2.0) + low
        return apply(params, images)

    return network


def weights_sha256(function: Callable[..., Any], apply: Apply, params: Params, example: Any) -> str:
    """SHA-256 of a function's numbers: its parameters and the arrays that it closes over.

    A function may know better, and say so in an attribute ``weights_sha256``.

    Args:
        function: as the user gave it.
        apply: the same as ``apply(params, inputs)``.
        example: shape and type of an input.
    """
    own = getattr(function, "weights_sha256", None)
    if own is not None:
        return str(own)
    closed_over = jax.make_jaxpr(apply)(params, example).consts
    digest = hashlib.sha256()
    for leaf in [*jax.tree.leaves(params), *closed_over]:
        values = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def multiply_adds(apply: Apply, params: Params, example: Any) -> float:
    """Multiply-adds of a function for its example, as far as the compiler sees them."""
    try:
        analysis = jax.jit(apply).lower(params, example).cost_analysis() or {}
        flops = float(analysis.get("flops", 0.0))
    except Exception:  # the analysis is not there on every backend
        flops = 0.0
    return max(LEAST_MULTIPLY_ADDS, flops / 2)


def as_labels(labels: Labels | Sequence[str] | Iterable[str], title: str) -> Labels:
    """Labels of names, a class each; more names of a class follow after commas."""
    if isinstance(labels, Labels):
        return labels
    if isinstance(labels, str):
        raise UsageError("`labels` is a list of names, not a single text")
    lines = [str(label) for label in labels]
    if not all(line.strip() for line in lines):
        raise UsageError("`labels` holds an empty name")
    return Labels.from_lines(lines, title=title)


def as_prior(
    log_prior: Callable[[Array], Array] | None,
    sample_prior: Callable[[Array], Array] | None,
    code_size: int,
) -> Prior:
    """A user's prior, or N(0, I); see :meth:`gradgen.networks.interfaces.Bundle.from_functions`.

    Raises:
        UsageError: only half of it is given, or it gives arrays of another shape.
        GradgenError: a function of it fails.
    """
    if log_prior is None and sample_prior is None:
        return STANDARD_NORMAL
    if log_prior is None or sample_prior is None:
        raise UsageError("`log_prior` and `sample_prior` belong together; give both or neither")
    density = as_apply(log_prior)
    found = output_shape("log_prior", density, None, (3, code_size))
    expect_shape("log_prior", found, (3,), "a number for each of three codes")

    def draw(key: Array, size: int) -> Array:
        return jnp.asarray(sample_prior(key), jnp.float32).reshape(size)

    try:
        drawn = jax.eval_shape(sample_prior, jax.random.key(0)).shape
    except Exception as error:
        raise GradgenError(f"sample_prior(key) fails: {type(error).__name__}: {error}") from error
    expect_shape("sample_prior", tuple(drawn), (code_size,), "a single code for a key")
    return Prior(lambda z: density(None, z), draw)
