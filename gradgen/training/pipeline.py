"""From a folder of photographs to a bundle: generator, classifier, discriminator.

The Python interface is :func:`train`.

The generator comes first, at N(0, I). The classifier, whose encoder reads codes off pictures, and
the discriminator learn from the best generator's pictures afterwards, beside the photographs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from gradgen.datasets import Dataset, load_datasets, only_classes
from gradgen.errors import UsageError
from gradgen.models import tiny64
from gradgen.models.efficientnet import EfficientNetLite
from gradgen.networks.catalog import find_weights
from gradgen.networks.trained import load_lite_module
from gradgen.training import adversarial, classifier, export, realism, warmstart
from gradgen.training.drawn import Drawn, draw_and_name
from gradgen.training.loop import seconds_done
from gradgen.training.preview import save_preview
from gradgen.training.teacher import Lessons, ask
from gradgen.training.watch import Watch
from gradgen.training.whitening import code_statistics, fit_whitening, whiten

STAGES = ("all", "generator", "others")
PRECISIONS = ("auto", "float32", "bfloat16")
SHARES = {"generator": 0.72, "classifier": 0.16, "discriminator": 0.12}  # of the minutes
DRAWN = 8000  # pictures of the generator that classifier and discriminator learn from
FEW_CLASSES = 50  # up to so many, a smaller classifier does
MOST_UNITS = 512  # of a code


@dataclass(frozen=True)
class Progress:
    """How far a part of a training is.

    Attributes:
        what: the part.
        done: units that are done, those of an earlier, interrupted call included.
        total: units in all, or ``None`` where that is not known.
        unit: "images", or "s" for seconds.
        detail: figures of the moment.
    """

    what: str
    done: int
    total: int | None
    unit: str
    detail: str = ""


@dataclass(frozen=True)
class Trained:
    """What a training has come to.

    Attributes:
        folder: of the bundle, for :func:`gradgen.load_bundle`; after the stage "generator" it holds
            checkpoints only.
        preview: a picture of what the bundle can do; ``None`` after the stage "generator".
        figures: of the best generator's look or, of a whole bundle, its card's metrics.
    """

    folder: Path
    preview: Path | None
    figures: dict[str, float]


OnProgress = Callable[[Progress], None]
OnNote = Callable[[str], None]


@dataclass(frozen=True)
class _Options:
    """The arguments of :func:`train` that its parts look at."""

    folder: Path
    minutes: float
    code_size: int
    batch_size: int
    learning_rate: float
    generator_rate: float
    precision: str
    seed: int
    on_progress: OnProgress
    on_note: OnNote

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def share(self, part: str) -> float:
        """Minutes that a part gets."""
        return self.minutes * SHARES[part]


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    minutes: float = 180.0,
    stage: str = "all",
    name: str | None = None,
    code_size: int = 96,
    batch_size: int = 64,
    start: str | None = None,
    learning_rate: float = 0.04,
    generator_rate: float = 4e-4,
    likelihood_weight: float = 1.0,
    precision: str = "auto",
    licence: str = "MIT",
    seed: int = 0,
    command: Sequence[str] | None = None,
    on_progress: OnProgress = lambda progress: None,
    on_note: OnNote = lambda text: None,
) -> Trained:
    """Train generator, classifier and discriminator on photographs, and write them as a bundle.

    Checkpoints are kept in ``out``/checkpoints every two minutes, and what the generator draws
    every five. The same call goes on from them.

    Args:
        data: a folder with a folder of images for each class (or train/ and val/ of such), or with
            train-*.npz and val.npz shards (:func:`gradgen.datasets.load_datasets`).
        out: the bundle's folder.
        classes: names or synset ids of the classes to train on; ``None``: all of the data's.
        minutes: time to train, over all calls that go on from each other.
        stage: "all"; "generator": stop after it; "others": classifier and discriminator for the
            best generator so far.
        name: in the card; ``None``: the folder's.
        code_size: units of z, at least as many as classes and at most 512.
        batch_size: pictures a step, half of them photographs.
        start: name or folder of a bundle whose weights are begun with; ``None``: random weights.
        learning_rate: peak rate of the classifier.
        generator_rate: peak rate of the generator.
        likelihood_weight: the β that the card recommends for pictures.
        precision: "float32", "bfloat16", or "auto" for bfloat16 where JAX has a GPU.
        licence: of the weights, for the card.
        seed: of weights, batches and augmentation.
        command: how it was called, for the card.
        on_progress: called often with how far the part at work is.
        on_note: called with a line for people, now and then.

    Returns:
        The bundle's folder, its preview and its figures: accuracies and areas under curves as
        shares, PSNR in dB, log-probabilities in nats.

    Raises:
        UsageError: an argument or the data make no sense.
        GradgenError: an image, a checkpoint or the bundle to start from is broken; there is no
            generator for the stage "others".
    """
    _check(minutes, stage, code_size, batch_size, precision)
    earlier = None if start is None else warmstart.load_start(start)
    lite0 = load_lite_module(find_weights("lite0", "classifier"))
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    options = _Options(
        Path(out), minutes, code_size, batch_size, learning_rate, generator_rate, precision, seed,
        on_progress, on_note,
    )  # fmt: skip
    training, val = _read(Path(data), classes, options)
    sizes = _sizes_for(len(training.classes))

    kept = options.checkpoints / "lite0.safetensors"
    asked = _reporter_of_images(options, "asking lite0", len(training))
    lessons = ask(lite0, training, kept, seed, asked)
    watch = Watch(options.checkpoints, lite0, lessons.naming, val, seed, on_look=_tell(on_note))
    first = _first_generator(earlier, sizes, training.classes, options)
    record: dict[str, Any] = {} if command is None else {"command": " ".join(command)}
    if earlier is not None:
        record["from"] = earlier.describe()
    settings = adversarial.GeneratorSettings(
        minutes=options.share("generator"),
        batch_size=batch_size // 2,
        learning_rate=generator_rate,
        precision=precision,
        seed=seed,
    )
    if stage != "others":
        checkpoint = options.checkpoints / "generator.msgpack"
        generator, facts = adversarial.train_generator(
            training,
            lite0,
            first,
            settings,
            checkpoint,
            _reporter(options, "generator", checkpoint, batch_size),
            on_checkpoint=watch,
        )
        watch(facts["steps"], generator, final=True)
    generator = watch.load_best(first)
    best = min(watch.looks(), key=lambda look: look["kid"])
    figures = {"kid": best["kid"], "agreement": best["agreement"]}
    if stage == "generator":
        return Trained(options.folder, None, figures)
    record["generator"] = {**asdict(settings), "best": best}

    drawn = _draw(generator, lite0, lessons, options)
    encoder, record["classifier"] = _train_classifier(
        training, earlier, lessons, drawn, sizes, options
    )
    temperature, of_classifier = export.measure_classifier(encoder, val)
    on_note(
        f"classifier: top-1 {of_classifier['val_top1']:.1%}, "
        f"top-5 {of_classifier['val_top5']:.1%}, "
        f"calibration error {of_classifier['val_calibration_error']:.3f}, on {len(val)} images"
    )
    fc6, drawn_fc6 = (
        classifier.encode_all(encoder, images, "fc6") for images in (training.images, drawn.images)
    )
    whitening = fit_whitening(fc6, drawn_fc6, drawn.codes)
    on_note(f"codes: fc6 tells {whitening.kept:.1%} of the variance of a drawn picture's z")

    discriminator, record["discriminator"] = _train_discriminator(
        training, earlier, drawn, sizes, options
    )
    figures = {
        **of_classifier,
        **figures,
        **export.measure_generator(encoder, generator, discriminator, whitening, val, seed),
    }
    export.export_bundle(
        options.folder,
        name or options.folder.name,
        encoder=encoder,
        generator=generator,
        discriminator=discriminator,
        whitening=whitening,
        statistics=code_statistics(whiten(fc6, whitening), training),
        train=training,
        temperature=temperature,
        metrics=figures,
        training=record,
        licence=licence,
        recommended={"likelihood_weight": likelihood_weight},
    )
    return Trained(options.folder, save_preview(options.folder, val), figures)


def _check(minutes: float, stage: str, code_size: int, batch_size: int, precision: str) -> None:
    faults = {
        f"`minutes` must be positive, not {minutes:g}": not 0 < minutes < float("inf"),
        f"`stage` must be one of {', '.join(STAGES)}, not {stage}": stage not in STAGES,
        f"`code_size` must be between 2 and {MOST_UNITS}, not {code_size}": not 2
        <= code_size
        <= MOST_UNITS,
        f"`batch_size` must be at least 4, not {batch_size}": batch_size < 4,
        f"`precision` must be one of {', '.join(PRECISIONS)}, not {precision}": precision
        not in PRECISIONS,
    }
    for message, wrong in faults.items():
        if wrong:
            raise UsageError(message)


def _read(folder: Path, classes: Sequence[str] | None, options: _Options) -> tuple[Dataset, ...]:
    """The training and the validation photographs."""

    def advance(done: int, total: int) -> None:
        options.on_progress(Progress("reading images", done, None, "images", f"of {total}"))

    found = load_datasets(folder, export.IMAGE_SIZE, advance)
    if classes is not None:
        found = only_classes(found[0], classes), only_classes(found[1], classes)
    count = len(found[0].classes)
    options.on_note(
        f"{len(found[0])} photographs to train on and {len(found[1])} to validate with, "
        f"{count} classes"
    )
    if count > options.code_size:
        raise UsageError(f"{count} classes need a `code_size` of {count} or more")
    return found


def _sizes_for(num_classes: int) -> tiny64.Sizes:
    encoder = tiny64.TINY64.encoder
    if num_classes <= FEW_CLASSES:
        encoder = tiny64.EncoderSizes(conv4=192, fc6=256, fc7=128)
    return tiny64.Sizes(
        encoder,
        tiny64.GeneratorSizes(num_classes, finest=16, blurred=True),
        tiny64.DiscriminatorSizes(fc5=64),
    )


def _first_generator(
    earlier: warmstart.Start | None,
    sizes: tiny64.Sizes,
    classes: Sequence[str],
    options: _Options,
) -> tiny64.Generator:
    if earlier is not None:
        return warmstart.adapt_generator(earlier, options.code_size, sizes.generator, classes)
    rngs = nnx.Rngs(options.seed)
    return tiny64.Generator(options.code_size, sizes.generator, rngs=rngs)


def _draw(
    generator: tiny64.Generator, lite0: EfficientNetLite, lessons: Lessons, options: _Options
) -> Drawn:
    report = _reporter_of_images(options, "asking lite0 of drawn pictures", DRAWN)
    return draw_and_name(generator, lite0, lessons.naming, DRAWN, options.seed, report)


def _train_classifier(
    training: Dataset,
    earlier: warmstart.Start | None,
    lessons: Lessons,
    drawn: Drawn,
    sizes: tiny64.Sizes,
    options: _Options,
) -> tuple[tiny64.Encoder, dict[str, Any]]:
    """The encoder, and what the card says of its training."""
    settings = classifier.ClassifierSettings(
        minutes=options.share("classifier"),
        batch_size=2 * options.batch_size,
        learning_rate=options.learning_rate,
        precision=options.precision,
        seed=options.seed,
    )
    checkpoint = options.checkpoints / "classifier.msgpack"
    encoder, facts = classifier.train_classifier(
        training,
        settings,
        checkpoint,
        _reporter(options, "classifier", checkpoint, settings.batch_size),
        start=None if earlier is None else earlier.modules.encoder,
        taught=lessons.named,
        drawn=drawn,
        sizes=sizes.encoder,
    )
    return encoder, {**asdict(settings), **facts}


def _train_discriminator(
    training: Dataset,
    earlier: warmstart.Start | None,
    drawn: Drawn,
    sizes: tiny64.Sizes,
    options: _Options,
) -> tuple[tiny64.Discriminator, dict[str, Any]]:
    """The discriminator that scores pictures, and what the card says of its training."""
    first = tiny64.Discriminator(sizes.discriminator, rngs=nnx.Rngs(options.seed))
    if earlier is not None and earlier.modules.discriminator.sizes == sizes.discriminator:
        first = earlier.modules.discriminator
    settings = realism.DiscriminatorSettings(
        minutes=options.share("discriminator"),
        batch_size=options.batch_size // 2,
        seed=options.seed,
    )
    checkpoint = options.checkpoints / "discriminator.msgpack"
    discriminator, facts = realism.train_discriminator(
        training,
        drawn.images,
        first,
        settings,
        checkpoint,
        _reporter(options, "discriminator", checkpoint, options.batch_size),
    )
    return discriminator, {**asdict(settings), **facts}


# --- what a person is told --------------------------------------------------------------------


def _tell(on_note: OnNote) -> Callable[[dict[str, Any]], None]:
    """Say what a look at the generator found (:class:`gradgen.training.watch.Watch`)."""

    def tell(look: dict[str, Any]) -> None:
        diversity = "not known" if look["diversity"] is None else f"{look['diversity']:.2f}"
        on_note(
            f"step {look['step']}: kernel distance {look['kid']:.4f} to held-out photographs; "
            f"lite0 calls {look['agreement']:.0%} of g(z) what z says, "
            f"their diversity over that of photographs is {diversity}"
        )

    return tell


def _reporter_of_images(options: _Options, what: str, total: int) -> Callable[[int], None]:
    options.on_progress(Progress(what, 0, total, "images"))
    return lambda done: options.on_progress(Progress(what, done, total, "images"))


def _reporter(
    options: _Options, part: str, checkpoint: Path, batch_size: int
) -> Callable[[int, float, float, dict[str, float]], None]:
    """What a part's training reports to (:func:`gradgen.training.loop.fit`)."""
    total = round(options.share(part) * 60)

    def tell(done: float, detail: str = "") -> None:
        options.on_progress(Progress(part, round(done), total, "s", detail))

    def report(step: int, share: float, rate: float, metrics: dict[str, float]) -> None:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        tell(share * total, f"step {step}, {rate * batch_size:.0f} images/s, {figures}")

    tell(seconds_done(checkpoint))
    return report
