"""The types by which the rest of the program knows networks.

A network is a pure function together with its parameters, and a bundle holds networks that belong
together. The parameters are passed at each call, so that ``jax.jit`` sees them as arguments and not
as constants that it would copy into the program. Images are (n, H, W, 3) float32 RGB in [-1, 1].
Codes are (n, code_size) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.errors import UsageError
from gradgen.labels import Labels
from gradgen.networks import own
from gradgen.networks.bounds import BoundsTable
from gradgen.networks.prior import STANDARD_NORMAL, Prior, PriorBounds
from gradgen.weights.cards import Card

Params = Any
Apply = Callable[[Params, Array], Array]


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a pure function: ``apply(params, inputs)``.

    Attributes:
        name: such as "tiny64/generator", for messages and records.
        apply: pure function, which can be jitted.
        params: pytree of float32 arrays.
        sha256: checksum of the file that the parameters came from.
        input_size: side in pixels of the pictures that the network takes. Pictures of other sizes
            are resized to it. 0 for a generator.
        per_image: whether the output for a picture depends on that picture alone.
        way: how a network that is not JAX's own is computed, in words; ``None`` for all others.
    """

    name: str
    apply: Apply
    params: Params
    sha256: str
    input_size: int = 0
    per_image: bool = True
    way: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Classifier(Network):
    """``apply(params, images)`` gives log p(class | image) (n, num_classes), calibrated.

    Images of any size are resized to the network's own input, differentiably.

    Attributes:
        logits: like ``apply``, but before temperature and log-softmax.
        layers: images -> the activations of its layers by their names, (n, units) or
            (n, H, W, units); or ``None``.
        labels: the classes, in the order of the outputs.
        card: what is known of the weights.
        features: images -> (n, d), the input of the last layer, by which pictures are compared; or
            ``None``.
    """

    logits: Apply
    labels: Labels
    card: Card
    features: Apply | None = None
    layers: Callable[[Params, Array], dict[str, Array]] | None = None


@dataclass(frozen=True)
class Parts:
    """Functions that load a bundle's networks. Each is called at most once, when it is needed.

    A run needs the generator and the classifier, and a score needs only the discriminator. So the
    program looks for each network only when it is first used.
    """

    generator: Callable[[], Network]
    classifier: Callable[[], Classifier]
    encoder: Callable[[], Network]
    discriminator: Callable[[], Network]


@dataclass(frozen=True)
class CodeFile:
    """The Python file that a bundle comes from: its path, and the SHA-256 of its text."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Bundle:
    """Networks that belong together.

    Attributes:
        name: name of the bundle.
        code_size: number of units of z.
        image_size: side of the generator's images in pixels.
        labels: the classifier's classes.
        code_statistics: the table of bounds that comes with the generator, or ``None``.
        code_floor: the least value that a code of a real image can have (0 after a rectifier), or
            ``None``.
        multiply_adds: multiplications with addition that generator and classifier together take for
            one picture.
        card: what the bundle's folder says of it. For the paper's bundles it holds only the name.
        parts: the functions that load the networks.
        photographs: the table of all of ImageNet's classes from weighted photographs
            (:class:`gradgen.networks.bounds.WeightedStatistics`), or ``None``.
        prior: the distribution of the codes, with whose draws the generator was trained.
        file: the Python file that made the bundle, or ``None``.
    """

    name: str
    code_size: int
    image_size: int
    labels: Labels
    code_statistics: BoundsTable | None
    code_floor: float | None
    multiply_adds: float
    card: Card
    parts: Parts
    photographs: BoundsTable | None = None
    prior: Prior = STANDARD_NORMAL
    file: CodeFile | None = None

    @classmethod
    def from_functions(
        cls,
        *,
        generator: Callable[..., Any],
        classifier: Callable[..., Any],
        code_size: int,
        image_size: int,
        labels: Labels | Sequence[str],
        value_range: tuple[float, float] = (-1.0, 1.0),
        encoder: Callable[..., Any] | None = None,
        discriminator: Callable[..., Any] | None = None,
        generator_params: Params = None,
        classifier_params: Params = None,
        encoder_params: Params = None,
        discriminator_params: Params = None,
        log_prior: Callable[[Array], Array] | None = None,
        sample_prior: Callable[[Array], Array] | None = None,
        layers: Callable[..., Any] | None = None,
        input_size: int | None = None,
        likelihood_weight: float | None = None,
        name: str = "own",
    ) -> Bundle:
        """A bundle of your own functions, which ``jax.jit`` and ``jax.grad`` can take.

        A function is called as ``function(params, inputs)``, or as ``function(inputs)`` if it has
        no ``…_params``. Large weights belong into the parameters: what a function closes over is
        copied into the compiled program.

        Args:
            generator: codes (n, code_size) -> pictures (n, S, S, 3), or (n, S, S, 1) for grey
                ones, in ``value_range``.
            classifier: pictures in ``value_range`` (n, T, T, 3 or 1) -> logits (n, classes), of
                which a softmax makes probabilities.
            code_size: units of a code.
            image_size: S, the side of the generator's pictures in pixels.
            labels: the classes' names in the order of the logits; further names of a class follow
                after commas.
            value_range: of the generator's pictures and of what the other networks take: what
                black and white are.
            encoder: pictures -> codes (n, code_size), for ``stats`` and starts at photographs.
            discriminator: pictures -> log-probability of being real (n,), for ``score``.
            generator_params, classifier_params, encoder_params, discriminator_params: pytrees of
                arrays.
            log_prior: codes (n, code_size) -> log p(z) (n,), up to a constant; -inf where there
                is no code. ``None``: N(0, I).
            sample_prior: key -> a code (code_size,) drawn from the prior; belongs to
                ``log_prior``.
            layers: pictures -> {layer: activations (n, units) or (n, H, W, units)}, with the
                classifier's parameters if that has some; for ``--unit``.
            input_size: T, the side of the pictures that classifier, encoder and discriminator
                take; pictures of other sizes are resized. ``None``: ``image_size``.
            likelihood_weight: β that is used unless another is asked for; ``None``: 1.
            name: for messages and records.

        Raises:
            UsageError: arrays of other shapes come out than are expected.
            GradgenError: a function fails; the message holds its own.
        """
        low, high = (float(limit) for limit in value_range)
        if not low < high:
            raise UsageError(f"`value_range` {value_range}: the first number must be the smaller")
        size = input_size or image_size
        classes = own.as_labels(labels, name)
        prior = own.as_prior(log_prior, sample_prior, code_size)
        layers_alone = classifier_params is None
        generator_params = own.params_of(generator, generator_params)
        classifier_params = own.params_of(classifier, classifier_params)
        draw = own.as_apply(generator)
        shape = own.output_shape("generator", draw, generator_params, (1, code_size))
        grey = shape[-1:] == (1,)
        channels = 1 if grey else 3
        own.expect_shape(
            "generator", shape, (1, image_size, image_size, channels), "pictures, channels last"
        )

        def network(
            kind: str,
            function: Callable[..., Any],
            params: Params,
            expected: tuple[int, ...],
            words: str,
        ) -> tuple[Apply, str]:
            """A network of pictures in [-1, 1], and the SHA-256 of its numbers."""
            apply = own.as_apply(function)
            pictures = (1, size, size, channels)
            own.expect_shape(kind, own.output_shape(kind, apply, params, pictures), expected, words)
            example = jax.ShapeDtypeStruct(pictures, jnp.float32)
            sha256 = own.weights_sha256(function, apply, params, example)
            return own.from_unit_range(apply, (low, high), size, grey), sha256

        code = jax.ShapeDtypeStruct((1, code_size), jnp.float32)
        drawing = Network(
            f"{name}/generator",
            own.in_unit_range(draw, (low, high)),
            generator_params,
            own.weights_sha256(generator, draw, generator_params, code),
            way=getattr(generator, "way", None),
        )
        logits, sha256 = network(
            "classifier", classifier, classifier_params, (1, len(classes)), "a logit for each label"
        )
        card = Card(
            name=name,
            kind="bundle",
            architecture="functions",
            labels=tuple(str(label) for label in classes),
            code_size=code_size,
            likelihood_weight=likelihood_weight,
        )
        inside: Any = None  # activations by name, where own.from_unit_range speaks of an array
        if layers is not None:
            inside = own.from_unit_range(
                own.as_layers(layers, layers_alone), (low, high), size, grey
            )
        judging = Classifier(
            name=name,
            apply=calibrated(logits, 1.0),
            params=classifier_params,
            sha256=sha256,
            input_size=size,
            logits=logits,
            labels=classes,
            card=card,
            layers=inside,
            way=getattr(classifier, "way", None),
        )

        def optional(
            kind: str,
            function: Callable[..., Any] | None,
            params: Params,
            expected: tuple[int, ...],
            words: str,
        ) -> Callable[[], Network]:
            if function is None:
                return partial(_missing, name, kind)
            params = own.params_of(function, params)
            apply, sha256 = network(kind, function, params, expected, words)
            found = Network(f"{name}/{kind}", apply, params, sha256, size)
            return lambda: found

        whole = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
        return cls(
            name=name,
            code_size=code_size,
            image_size=image_size,
            labels=classes,
            code_statistics=PriorBounds(prior, code_size),
            code_floor=None,
            multiply_adds=own.multiply_adds(drawing.apply, generator_params, code)
            + own.multiply_adds(logits, classifier_params, whole),
            card=card,
            parts=Parts(
                generator=lambda: drawing,
                classifier=lambda: judging,
                encoder=optional(
                    "encoder", encoder, encoder_params, (1, code_size), "a code for each picture"
                ),
                discriminator=optional(
                    "discriminator", discriminator, discriminator_params, (1,),
                    "a log-probability for each picture",
                ),
            ),
            prior=prior,
        )  # fmt: skip

    @cached_property
    def generator(self) -> Network:
        """The network z (n, code_size) -> images (n, S, S, 3)."""
        return self.parts.generator()

    @cached_property
    def classifier(self) -> Classifier:
        """The network images -> log p(class | image) (n, num_classes)."""
        return self.parts.classifier()

    @cached_property
    def encoder(self) -> Network:
        """The network images -> codes (n, code_size)."""
        return self.parts.encoder()

    @cached_property
    def discriminator(self) -> Network:
        """The network images -> log-probability of being real (n,)."""
        return self.parts.discriminator()


def _missing(bundle: str, part: str) -> NoReturn:
    raise UsageError(f"{bundle} has no {part}; add `{part}` to its functions")


def calibrated(logits: Apply, temperature: float) -> Apply:
    """Make the function log softmax(logits / temperature) of a function that gives logits."""

    def log_probabilities(params: Params, images: Array) -> Array:
        return jax.nn.log_softmax(logits(params, images) / temperature)

    return log_probabilities


def resize(images: Array, size: int) -> Array:
    """Resize (n, H, W, 3) to (n, size, size, 3) bilinearly, with antialiasing if it shrinks."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    return jax.image.resize(images, (n, size, size, channels), "bilinear", antialias=True)
