"""Going on from an earlier bundle's networks instead of random ones (``gradgen train --from``).

A stored encoder has no batch norms, and a newly trained encoder gives other codes. So norms are put
in that change nothing at first, and the old generator is turned to read the new codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from gradgen.errors import UsageError
from gradgen.labels import Labels
from gradgen.models.layers import Affine, BatchNorm
from gradgen.models.tiny64 import Encoder, EncoderSizes, Generator, GeneratorSizes, Sizes
from gradgen.networks.catalog import find_weights
from gradgen.networks.trained import Modules, load_modules
from gradgen.training.whitening import Whitening
from gradgen.weights.cards import Card, read_card
from gradgen.weights.store import load_arrays


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
    card: Card

    def describe(self) -> dict[str, Any]:
        """For the new bundle's card: where its weights began, and how those were trained."""
        return {key: self.card.content[key] for key in ("name", "files", "training")}


def load_start(name: str) -> Start:
    """A bundle by name or folder.

    Raises:
        UsageError: there is none.
        GradgenError: its files are broken.
    """
    folder = find_weights(name)
    card = read_card(folder)
    sizes = Sizes.of_card(card.sizes)
    modules = load_modules(folder, len(card.labels), card.code_size, sizes)
    codes = load_arrays(folder / "codes.safetensors")
    whitening = Whitening(codes.pop("fc6_mean"), codes.pop("whitening"), card.code_variance_kept)
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


def add_batch_norms(
    encoder: Encoder,
    images: Array,
    num_classes: int,
    seed: int = 0,
    sizes: EncoderSizes | None = None,
) -> Encoder:
    """An encoder with norms whose outputs on ``images`` are those of the encoder without.

    Args:
        encoder: as stored, without norms.
        images: (n, 64, 64, 3) in [-1, 1], some training images.
        num_classes: if not the encoder's own number, fc8 begins at random.
        sizes: if not the encoder's own, the layers that they change begin at random.
    """
    wanted = Encoder(num_classes, sizes or encoder.sizes, norm=True, rngs=nnx.Rngs(seed))
    old = _affine_layers(encoder)
    new = _affine_layers(wanted)
    for name, layer in new.items():
        if layer.kernel.shape == old[name].kernel.shape:
            layer.kernel[...], layer.bias[...] = old[name].kernel[...], old[name].bias[...]
        if layer.norm is not None:
            layer.norm = nnx.data(_FirstLook(layer.bias[...]))
    wanted(images)
    for layer in new.values():
        if isinstance(layer.norm, _FirstLook):
            layer.norm = nnx.data(layer.norm.settled())
    return wanted


def _affine_layers(module: nnx.Module) -> dict[str, Affine]:
    return {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, Affine)
    }


def adapt_generator(
    start: Start, code_size: int, sizes: GeneratorSizes, classes: Sequence[str]
) -> Generator:
    """An earlier generator for codes of another size, of whose units some decide on a class.

    What is new of the picture's last layers begins near zero. The unit of a class begins with what
    the mean code of that class was in the earlier bundle, if it had that class and knew none of
    the units; the rest of the units with those of the earlier codes, the most varied first.

    Raises:
        UsageError: the earlier code has too few units.
    """
    earlier = start.modules.generator
    if earlier.sizes == sizes and earlier.code_size == code_size:
        return earlier
    if earlier.code_size < code_size or earlier.sizes.num_classes:
        raise UsageError(
            f"{start.card.name}'s generator of {earlier.code_size} units and "
            f"{earlier.sizes.num_classes} classes cannot be given {code_size} and "
            f"{sizes.num_classes}"
        )
    made = Generator(code_size, sizes, rngs=nnx.Rngs(0))
    old, new = _affine_layers(earlier), _affine_layers(made)
    for name, layer in new.items():
        if layer.kernel.shape == old[name].kernel.shape:
            layer.kernel[...], layer.bias[...] = old[name].kernel[...], old[name].bias[...]
    told = old["fc1"].kernel[...]
    means = _class_means(start, classes)
    free = code_size - len(means)
    made.fc1.kernel[...] = jnp.concatenate([told[free:code_size], told[:free], means @ told])
    made.fc1.bias[...] = earlier.fc1.bias[...]
    had, has = earlier.sizes.finest, sizes.finest
    if has > had:
        wide = 0.5 * made.conv6.kernel[...].reshape(3, 3, 32, 4, has)
        narrow = earlier.conv6.kernel[...].reshape(3, 3, 32, 4, had)
        made.conv6.kernel[...] = wide.at[..., :had].set(narrow).reshape(made.conv6.kernel.shape)
        bias = jnp.zeros((4, has)).at[:, :had].set(earlier.conv6.bias[...].reshape(4, had))
        made.conv6.bias[...] = bias.reshape(-1)
        made.conv7.kernel[...] = (
            (0.1 * made.conv7.kernel[...]).at[:, :, :had].set(earlier.conv7.kernel[...])
        )
        made.conv7.bias[...] = earlier.conv7.bias[...]
    return made


def _class_means(start: Start, classes: Sequence[str]) -> np.ndarray:
    """The mean code (classes, code_size) of each class in the earlier bundle; zero if unknown."""
    known = {
        Labels.from_lines([line])[0].names: index for index, line in enumerate(start.card.labels)
    }
    means = np.zeros((len(classes), start.modules.generator.code_size), np.float32)
    for row, line in zip(means, classes, strict=True):
        index = known.get(Labels.from_lines([line])[0].names)
        if index is not None:
            row[:] = start.statistics["class_mean"][index]
    return means
