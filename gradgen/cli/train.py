"""`gradgen train`: train a bundle on one's own photographs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gradgen.cli.common import ProgressReporter, note, progress, say
from gradgen.cli.options import argument, option

if TYPE_CHECKING:
    from gradgen.training.pipeline import Progress


def train(
    data: Annotated[
        Path,
        argument(
            help="A folder with one folder of images per class (or train/ and val/ of such), or "
            "with train-*.npz and val.npz shards."
        ),
    ],
    folder: Annotated[Path, option("--out", help="The bundle's folder.")],
    classes: Annotated[
        str | None,
        option(
            help="Only these classes: names or synset ids with commas between them.",
            default="all",
        ),
    ] = None,
    minutes: Annotated[float, option(help="Time to train, over all resumptions.")] = 180.0,
    stage: Annotated[
        str,
        option(
            help="all; generator: stop after it; others: classifier and discriminator for the "
            "best generator so far.",
        ),
    ] = "all",
    name: Annotated[str | None, option(help="Name in the card.", default="the folder's")] = None,
    code_size: Annotated[int, option(help="Units of z, at least one a class, at most 512.")] = 96,
    batch_size: Annotated[int, option(help="Pictures a step, half of them photographs.")] = 64,
    start: Annotated[
        str | None,
        option(
            "--from",
            help="Begin with this bundle's weights (name or folder).",
            default="random weights",
        ),
    ] = None,
    learning_rate: Annotated[float, option(help="Peak rate of the classifier.")] = 0.04,
    generator_rate: Annotated[float, option(help="Peak rate of the generator.")] = 4e-4,
    likelihood_weight: Annotated[
        float, option(help="The weight that the card recommends for pictures.")
    ] = 1.0,
    precision: Annotated[
        str, option(help="auto (bfloat16 on a GPU), float32 or bfloat16.")
    ] = "auto",
    licence: Annotated[str, option(help="Licence of the weights, for the card.")] = "MIT",
    seed: Annotated[int, option(help="Of weights, batches and augmentation.")] = 0,
) -> None:
    """Train generator, classifier and discriminator and write a bundle.

    Checkpoints are kept in OUT/checkpoints every two minutes, and what the generator draws every
    five; the same command run again goes on from them. The result is used as `gradgen sample
    --bundle OUT`.
    """
    from gradgen import runtime

    runtime.configure()
    from gradgen.training import pipeline

    with _Bars() as bars:
        found = pipeline.train(
            data,
            folder,
            classes=None if classes is None else classes.split(","),
            minutes=minutes,
            stage=stage,
            name=name,
            code_size=code_size,
            batch_size=batch_size,
            start=start,
            learning_rate=learning_rate,
            generator_rate=generator_rate,
            likelihood_weight=likelihood_weight,
            precision=precision,
            licence=licence,
            seed=seed,
            command=["gradgen", *sys.argv[1:]],
            on_progress=bars.show,
            on_note=note,
        )
    if found.preview is not None:
        say(found.folder)
        say(found.preview)


class _Bars(ExitStack):
    """A bar for each part of the training, one after another."""

    what = ""
    bar: ProgressReporter

    def show(self, at: Progress) -> None:
        """Move the part's bar; a new part's takes the place of the bar before."""
        if at.what != self.what:
            self.close()
            self.what = at.what
            self.bar = self.enter_context(
                progress(at.what, total=at.total, unit=at.unit, start_at=at.done)
            )
            return
        self.bar.update(at.done, at.detail or None)
