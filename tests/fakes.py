"""Networks in closed form that replace trained networks in tests, and traces of known numbers."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from gradgen.inference.traces import QUANTITIES, Traces


def network(apply, params=None, sha256="0" * 64, input_size=8, per_image=True):
    """What gradgen.networks.interfaces.Network offers to those who only evaluate it."""
    return SimpleNamespace(
        apply=apply,
        params=params or {},
        sha256=sha256,
        name="fake",
        input_size=input_size,
        per_image=per_image,
    )


def brightness_discriminator(slope=0.5):
    """log p = slope * (mean of the picture - 1): 0 for white, -2 * slope for black."""

    def apply(params, images):
        return params["slope"] * (images.mean(axis=(1, 2, 3)) - 1.0)

    return network(apply, {"slope": jnp.float32(slope)}, "d" * 64)


def colour_encoder():
    """Code = the picture's mean red, green and blue, in [-1, 1]."""
    return network(lambda params, images: images.mean(axis=(1, 2)), sha256="e" * 64)


def bundle(**parts):
    """Just enough of a bundle for scoring and statistics."""
    defaults = {
        "name": "fake",
        "code_floor": None,
        "code_size": 3,
        "code_statistics": None,
        "photographs": None,
        "discriminator": brightness_discriminator(),
        "encoder": colour_encoder(),
    }
    return SimpleNamespace(**(defaults | parts))


def traces(step, **given):
    """Traces with the quantities that are given, each (chains, points); the others are ones."""
    shape = next(iter(given.values())).shape[:2]
    rest = {name: np.ones(shape) for name in QUANTITIES if name not in given}
    if "projections" in rest:
        rest["projections"] = np.ones((*shape, 0))
    return Traces(step=np.asarray(step), **rest, **given)
