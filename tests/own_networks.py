"""A bundle of functions whose posterior is known: two numbers, three classes."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradgen

SIDE = 4
# For commands in processes of their own, which have little to compile: pictures of 64 x 64.
WIDE = f"{Path(__file__).resolve()}:wide_plane"
# Logits of the three classes are linear in the code.
KERNEL = np.array([[1.5, -1.0, 0.2], [0.3, 0.8, -1.2]], np.float32)


def generate(params, z, side=SIDE):
    """Codes (n, 2) -> pictures whose red is the first number, whose green is the second."""
    colours = jnp.concatenate([z * params["scale"], jnp.zeros((len(z), 1))], axis=1)
    return jnp.broadcast_to(colours[:, None, None, :], (len(z), side, side, 3))


def classify(params, images):
    return images.mean(axis=(1, 2))[:, :2] / 0.1 @ params


def plane(**more):
    """The bundle; ``more`` goes to from_functions."""
    given = {
        "generator": generate,
        "classifier": classify,
        "generator_params": {"scale": jnp.float32(0.1)},
        "classifier_params": jnp.asarray(KERNEL),
        "code_size": 2,
        "image_size": SIDE,
        "labels": ["alpha", "beta", "gamma ray, ray"],
        "name": "plane",
    }
    return gradgen.Bundle.from_functions(**(given | more))


def wide_plane():
    """The bundle with larger pictures, and with an encoder and a discriminator."""
    return plane(
        generator=partial(generate, side=64),
        encoder=lambda images: images.mean(axis=(1, 2))[:, :2] / 0.1,
        discriminator=lambda images: jax.nn.log_sigmoid(images.mean(axis=(1, 2, 3))),
        image_size=64,
    )


def probabilities(z):
    """p(class | g(z)) (n, 3) in double precision, by NumPy alone."""
    logits = np.asarray(z, np.float64) @ KERNEL.astype(np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def integrated(weight, reach=7.0, points=701):
    """Mean (2,), second moments (2,) and standard deviations of both under a density, by sums over
    a fine grid.

    weight: z (n, 2) -> the unnormalised density (n,).
    """
    axis = np.linspace(-reach, reach, points)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = weight(z)
    density = density / density.sum()
    quantities = np.concatenate([z, z**2, z[:, :1] * z[:, 1:]], axis=1)
    mean = density @ quantities
    return mean, np.sqrt(density @ quantities**2 - mean**2)


def moments(z):
    """The same quantities of draws (n, 2)."""
    z = np.asarray(z, np.float64)
    return np.concatenate([z, z**2, z[:, :1] * z[:, 1:]], axis=1).mean(0)
