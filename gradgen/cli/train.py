"""`gradgen train`: train a bundle on one's own photographs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgen.cli.common import ProgressReporter, note, out, progress
from gradgen.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from gradgen.models.efficientnet import EfficientNetLite
    from gradgen.training.data import Dataset

STAGES = ("all", "classifier", "generator")
PRECISIONS = ("auto", "float32", "bfloat16")


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder with one folder of images per class (or train/ and val/ of such), or "
            "with train-*.npz and val.npz shards."
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="The bundle's folder.")],
    minutes: Annotated[float, typer.Option(help="Time to train, over all resumptions.")] = 85.0,
    classifier_share: Annotated[
        float, typer.Option(help="Share of the minutes that the classifier gets.")
    ] = 0.38,
    stage: Annotated[
        str,
        typer.Option(
            help="all; classifier: stop after it; generator: use the trained one, or with --from "
            "that bundle's, kept with its codes as they are.",
        ),
    ] = "all",
    name: Annotated[str | None, typer.Option(help="Name in the card; the folder's.")] = None,
    code_size: Annotated[int, typer.Option(help="Units of z after whitening, at most 512.")] = 192,
    batch_size: Annotated[int, typer.Option(help="The generator gets half of it.")] = 128,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Begin with this bundle's weights (name or folder)."),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(help="Peak rate of the classifier; with --from, try 0.03.")
    ] = 0.1,
    generator_rate: Annotated[float, typer.Option(help="Peak rate of the generator.")] = 4e-4,
    lite0: Annotated[
        bool,
        typer.Option(
            "--lite0/--no-lite0",
            help="Whether lite0 teaches the classifier, and the generator's critics and losses "
            "look at its features: far better pictures, though a step takes twice as long.",
        ),
    ] = True,
    likelihood_weight: Annotated[
        float, typer.Option(help="The weight that the card recommends for pictures.")
    ] = 8.0,
    precision: Annotated[
        str, typer.Option(help="auto (bfloat16 on a GPU), float32 or bfloat16.")
    ] = "auto",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the card.")] = "MIT",
    seed: Annotated[int, typer.Option(help="Of weights, batches and augmentation.")] = 0,
) -> None:
    """Train classifier, generator and discriminator and write a bundle.

    Checkpoints are kept in OUT/checkpoints every two minutes; the same command run again goes on
    from them. The result is used as `gradgen sample --bundle OUT`.
    """
    _check(minutes, classifier_share, stage, code_size, batch_size, precision)
    from gradgen import runtime

    runtime.configure()
    import jax

    from gradgen.catalog import find_weights
    from gradgen.embedded import load_lite_module
    from gradgen.training import adversarial, classifier, export, preview, warmstart
    from gradgen.training import data as datasets
    from gradgen.training.loop import seconds_done
    from gradgen.training.whitening import code_statistics, fit_whitening, whiten

    earlier = None if start is None else warmstart.load_start(start)
    viewer = load_lite_module(find_weights("lite0", "classifier")) if lite0 else None

    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    with progress("reading images", unit="images") as bar:
        training, val = datasets.load_datasets(
            data, export.IMAGE_SIZE, lambda done, total: bar.update(done, f"of {total}")
        )
    note(
        f"{len(training)} training and {len(val)} validation images, "
        f"{len(training.classes)} classes"
    )

    record: dict[str, Any] = {"command": " ".join(["gradgen", *sys.argv[1:]])}
    if earlier is not None:
        record["from"] = earlier.describe()
    networks = None
    if earlier is not None and stage == "generator":
        earlier.check_classes(training.classes)
        encoder, whitening, statistics = (
            earlier.modules.encoder,
            earlier.whitening,
            earlier.statistics,
        )
        temperature, metrics = float(earlier.card["temperature"]), dict(earlier.card["metrics"])
        networks = earlier.modules.generator, earlier.modules.discriminator
        classifier_share = 0.0
    else:
        settings = classifier.ClassifierSettings(
            minutes=minutes * classifier_share,
            batch_size=batch_size,
            learning_rate=learning_rate,
            precision=precision,
            seed=seed,
        )
        checkpoint = folder / "checkpoints" / "classifier.msgpack"
        done = seconds_done(checkpoint)
        trained = done >= settings.minutes * 60
        lessons = (
            None if viewer is None or trained else _ask(viewer, training, checkpoint.parent, seed)
        )
        with _training_bar("classifier", settings.minutes, done) as bar:
            encoder, facts = classifier.train_classifier(
                training,
                settings,
                checkpoint,
                _reporter(bar.update, settings.minutes, batch_size),
                start=None if earlier is None else earlier.modules.encoder,
                taught=lessons,
            )
        record["classifier"] = {**dataclasses.asdict(settings), "lite0": lite0, **facts}
        temperature, metrics = export.measure_classifier(encoder, val)
        note(
            f"classifier: top-1 {metrics['val_top1']:.1%}, top-5 {metrics['val_top5']:.1%}, "
            f"calibration error {metrics['val_calibration_error']:.3f}, on {len(val)} images"
        )
        if stage == "classifier":
            return
        fc6 = export.training_codes(encoder, training)
        whitening = fit_whitening(fc6, code_size)
        codes = whiten(fc6, whitening)
        statistics = code_statistics(codes, training)
        note(
            f"codes: {code_size} of {fc6.shape[1]} dimensions hold {whitening.kept:.1%} of the "
            "variance"
        )
        if earlier is not None:
            old_fc6 = export.training_codes(earlier.modules.encoder, training)
            old_codes = whiten(old_fc6, earlier.whitening)
            networks = (
                warmstart.turn_codes(earlier.modules.generator, old_codes, codes),
                earlier.modules.discriminator,
            )

    generator_settings = adversarial.GeneratorSettings(
        minutes=minutes * (1 - classifier_share),
        batch_size=max(1, batch_size // 4),
        prior_batch=max(1, batch_size // 4),
        learning_rate=generator_rate,
        precision=precision,
        seed=seed,
    )
    checkpoint = folder / "checkpoints" / "generator.msgpack"
    with _training_bar("generator", generator_settings.minutes, seconds_done(checkpoint)) as bar:
        generator, discriminator, facts = adversarial.train_generator(
            training,
            encoder,
            whitening,
            generator_settings,
            checkpoint,
            _reporter(bar.update, generator_settings.minutes, generator_settings.batch_size),
            start=networks,
            lite0=viewer,
        )
    record["generator"] = {**dataclasses.asdict(generator_settings), "lite0": lite0, **facts}
    metrics |= export.measure_generator(encoder, generator, discriminator, whitening, val, seed)
    export.export_bundle(
        folder,
        name or folder.name,
        encoder=encoder,
        generator=generator,
        discriminator=discriminator,
        whitening=whitening,
        statistics=statistics,
        train=training,
        temperature=temperature,
        metrics=metrics,
        training=record,
        licence=licence,
        recommended={"likelihood_weight": likelihood_weight},
    )
    picture = preview.save_preview(folder, val)
    out.print(f"{folder}\n{picture}", highlight=False, soft_wrap=True)


def _ask(lite0: EfficientNetLite, training: Dataset, checkpoints: Path, seed: int) -> np.ndarray:
    """What lite0 makes of the training images, for the classifier to learn from."""
    from gradgen.training import teacher

    kept = checkpoints / "lite0.safetensors"
    count = len(training)
    done = count if kept.exists() else 0
    with progress("asking lite0", total=count, unit="images", start_at=done) as bar:
        return teacher.ask(lite0, training, kept, seed, bar.update)


def _check(
    minutes: float, share: float, stage: str, code_size: int, batch_size: int, precision: str
) -> None:
    faults = {
        f"--minutes must be positive, not {minutes:g}": not 0 < minutes < float("inf"),
        f"--classifier-share must be between 0 and 1, not {share:g}": not 0 < share < 1,
        f"--stage must be one of {', '.join(STAGES)}, not {stage}": stage not in STAGES,
        f"--code-size must be between 2 and 512, not {code_size}": not 2 <= code_size <= 512,
        f"--batch-size must be at least 2, not {batch_size}": batch_size < 2,
        f"--precision must be one of {', '.join(PRECISIONS)}, not {precision}": precision
        not in PRECISIONS,
    }
    for message, wrong in faults.items():
        if wrong:
            raise UsageError(message)


def _training_bar(
    what: str, minutes: float, done: float
) -> AbstractContextManager[ProgressReporter]:
    """done: seconds that the checkpoint, if any, has been trained for."""
    return progress(what, total=round(minutes * 60), unit="s", start_at=round(done))


def _reporter(
    update: Callable[[int, str], None], minutes: float, batch_size: int
) -> Callable[[int, float, float, dict[str, float]], None]:
    def report(step: int, share: float, rate: float, metrics: dict[str, float]) -> None:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        update(
            round(share * minutes * 60),
            f"step {step}, {rate * batch_size:.0f} images/s, {figures}",
        )

    return report
