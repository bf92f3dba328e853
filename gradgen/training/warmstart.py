"""Going on from an earlier bundle's networks instead of random ones (``gradgen train --from``).

A stored encoder has no batch norms, and a newly trained one gives other codes. So norms are put in
that change nothing at first, and the old generator is turned to read the new codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from gradgen.catalog import find_weights
from gradgen.embedded import Modules, load_modules
from gradgen.errors import UsageError
from gradgen.models.layers import Affine, BatchNorm
from gradgen.models.tiny64 import Encoder, Generator
from gradgen.training.whitening import Whitening
from gradgen.weights.store import load_arrays, read_card


@dataclass(frozen=True)
class Start:
    """What an earlier bundle gives to begin with.

    Attributes:
        modules: its networks.
        whitening: from its fc6 to its codes.
        statistics: of its codes, as :func:`gradgen.training.whitening.code_statistics` gives them.
        card: its own.
    """

    modules: Modules
    whitening: Whitening
    statistics: dict[str, np.ndarray]
    card: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """For the new bundle's card: where its weights began, and how those were trained."""
        return {key: self.card[key] for key in ("name", "files", "training")}

    def check_classes(self, classes: Sequence[str]) -> None:
        """That the classifier can be kept for data of these classes.

        Raises:
            UsageError: they are not its own.
        """
        if tuple(self.card["labels"]) != tuple(classes):
            raise UsageError(
                f"{self.card['name']}'s {len(self.card['labels'])} classes are not the "
                f"{len(classes)} of the data, so its classifier cannot be kept; "
                "leave out --stage generator"
            )


def load_start(name: str) -> Start:
    """A bundle by name or folder.

    Raises:
        UsageError: there is none.
        GradgenError: its files are broken.
    """
    folder = find_weights(name)
    card = read_card(folder)
    modules = load_modules(folder, len(card["labels"]), int(card["code_size"]))
    codes = load_arrays(folder / "codes.safetensors")
    whitening = Whitening(
        codes.pop("fc6_mean"), codes.pop("whitening"), float(card["code_variance_kept"])
    )
    return Start(modules, whitening, codes, card)


class _FirstLook(BatchNorm):
    """Adds the bias, and takes scale and statistics from the first inputs that it is shown.

    With the scale at the inputs' standard deviation and the shift at their mean plus the bias, a
    norm passes on inputs + bias.
    """

    def __init__(self, bias: Array):
        super().__init__(len(bias))
        self.bias = nnx.data(bias)

    def __call__(self, inputs: Array) -> Array:
        rows = inputs.reshape(-1, inputs.shape[-1])
        self.mean[...], self.var[...] = rows.mean(0), rows.var(0)
        self.scale[...] = jnp.sqrt(self.var[...] + self.epsilon)
        self.shift[...] = self.mean[...] + self.bias
        return inputs + self.bias

    def settled(self) -> BatchNorm:
        norm = BatchNorm(len(self.bias))
        for name in ("scale", "shift", "mean", "var"):
            getattr(norm, name)[...] = getattr(self, name)[...]
        return norm


def add_batch_norms(encoder: Encoder, images: Array, num_classes: int, seed: int = 0) -> Encoder:
    """An encoder with norms whose outputs on ``images`` are those of one without.

    Args:
        encoder: as stored, without norms.
        images: (n, 64, 64, 3) in [-1, 1], some training images.
        num_classes: if not the encoder's own number, fc8 begins at random.
    """
    wanted = Encoder(num_classes, norm=True, rngs=nnx.Rngs(seed))
    old = _affine_layers(encoder)
    new = _affine_layers(wanted)
    for name, layer in new.items():
        if layer.kernel.shape == old[name].kernel.shape:
            layer.kernel[...], layer.bias[...] = old[name].kernel[...], old[name].bias[...]
        if layer.norm is not None:
            layer.norm = nnx.data(_FirstLook(old[name].bias[...]))
    wanted(images)
    for layer in new.values():
        if layer.norm is not None:
            layer.norm = nnx.data(layer.norm.settled())
    return wanted


def _affine_layers(module: nnx.Module) -> dict[str, Affine]:
    return {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, Affine)
    }


def turn_codes(generator: Generator, old: np.ndarray, new: np.ndarray) -> Generator:
    """Let a generator of ``old`` codes take ``new`` ones of the same images, in place.

    Args:
        old: (n, old code size), whitened; new: (n, new code size), whitened.

    The rotation Q that brings new @ Q nearest to old (orthogonal Procrustes: Schönemann 1966) goes
    into the first layer. A rotation, not a regression, since it leaves N(0, I) what it is.
    """
    left, _, right = np.linalg.svd(new.T.astype(np.float64) @ old, full_matrices=False)
    rotation = jnp.asarray(left @ right, jnp.float32)
    generator.fc1.kernel = nnx.Param(rotation @ generator.fc1.kernel[...])
    return generator
