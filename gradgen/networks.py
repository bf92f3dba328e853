"""What networks are to the rest of the program: pure functions, their parameters, and a bundle of
those that belong together.

The parameters are passed at each call, so that ``jax.jit`` sees them as arguments and not as
constants that it would copy into the program. Images are (n, H, W, 3) float32 RGB in [-1, 1]; codes
are (n, code_size) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import Array

from gradgen.labels import Labels

Params = Any
Apply = Callable[[Params, Array], Array]


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a pure function: ``apply(params, inputs)``.

    Attributes:
        name: "tiny64/generator", for messages and records.
        apply: pure, can be jitted.
        params: pytree of float32 arrays.
        sha256: of the file that the parameters came from.
        input_size: side of the pictures that it takes; those of other sizes are resized to it.
            0 for a generator.
        per_image: whether what comes out for a picture is a function of that picture alone.
    """

    name: str
    apply: Apply
    params: Params
    sha256: str
    input_size: int = 0
    per_image: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Network):
    """``apply(params, images)`` gives log p(class | image) (n, num_classes), calibrated.

    Images of any size are resized to the network's own input, differentiably.

    Attributes:
        logits: like ``apply``, but before temperature and log-softmax.
        features: images -> (n, d), what the last layer reads, to compare pictures by; or ``None``.
        labels: the classes, in the order of the outputs.
        card: what the weights are.
    """

    logits: Apply
    labels: Labels
    card: dict[str, Any]
    features: Apply | None = None


@dataclass(frozen=True, eq=False)
class CodeStatistics:
    """Mean and standard deviation of real images' codes, per class and over all.

    Attributes:
        class_mean, class_std: (num_classes, code_size).
        mean, std: (code_size,).
        labels: the classes, in the order of the rows.
    """

    class_mean: np.ndarray
    class_std: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    labels: Labels


@dataclass(frozen=True, eq=False)
class PublishedBounds:
    """Upper bounds of every code unit that somebody measured and published; the lower ones are 0.

    Attributes:
        upper: {standard deviations above the mean: (code_size,) float32}.
        source: who published them.
    """

    upper: dict[float, np.ndarray]
    source: str


@dataclass(frozen=True)
class Parts:
    """Functions that load a bundle's networks; each is called at most once, when it is needed.

    A run needs generator and classifier, a score the discriminator alone: nobody has to download
    what he does not use.
    """

    generator: Callable[[], Network]
    classifier: Callable[[], Classifier]
    encoder: Callable[[], Network]
    discriminator: Callable[[], Network]


@dataclass(frozen=True, eq=False)
class Bundle:
    """Networks that belong together.

    Attributes:
        name: of the bundle.
        code_size: units of z.
        image_size: side of the generator's images in pixels.
        labels: the classifier's classes.
        code_statistics: the clipping statistics that come with the generator, if any do.
        code_floor: what no code of a real image is below (0 after a rectifier), or ``None``.
        multiply_adds: of generator and classifier together, for one picture.
        card: origin, training, metrics, licence; ``card["recommended"]`` holds settings.
        parts: loaders of the networks.
    """

    name: str
    code_size: int
    image_size: int
    labels: Labels
    code_statistics: CodeStatistics | PublishedBounds | None
    code_floor: float | None
    multiply_adds: float
    card: dict[str, Any]
    parts: Parts

    @cached_property
    def generator(self) -> Network:
        """z (n, code_size) -> images (n, S, S, 3)."""
        return self.parts.generator()

    @cached_property
    def classifier(self) -> Classifier:
        """images -> log p(class | image)."""
        return self.parts.classifier()

    @cached_property
    def encoder(self) -> Network:
        """images -> codes (n, code_size)."""
        return self.parts.encoder()

    @cached_property
    def discriminator(self) -> Network:
        """images -> log-probability of being real (n,)."""
        return self.parts.discriminator()


def calibrated(logits: Apply, temperature: float) -> Apply:
    """log softmax(logits / temperature)."""

    def log_probabilities(params: Params, images: Array) -> Array:
        return jax.nn.log_softmax(logits(params, images) / temperature)

    return log_probabilities


def resize(images: Array, size: int) -> Array:
    """Bilinear resize of (n, H, W, 3) to (n, size, size, 3), antialiased when shrinking."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    return jax.image.resize(images, (n, size, size, channels), "bilinear", antialias=True)
