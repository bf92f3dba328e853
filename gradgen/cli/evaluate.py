"""``gradgen evaluate``, which measures how good a bundle's networks are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from gradgen.cli.common import note, print_json, print_table, progress
from gradgen.cli.complete import complete_bundles
from gradgen.cli.options import AsJson, argument, option


def evaluate(
    data: Annotated[
        Path,
        option(help="Photographs as for gradgen train; the validation set is used."),
    ],
    bundle: Annotated[
        str, argument(help="A name or a folder.", autocompletion=complete_bundles)
    ] = "ten64",
    num_images: Annotated[
        int, option("--images", least=2, help="Photographs that the judge, lite1, looks at.")
    ] = 500,
    num_classes: Annotated[int, option(least=1, help="Classes that are sampled.")] = 10,
    num_chains: Annotated[int, option(least=2, help="Chains for each class.")] = 8,
    budget: Annotated[int, option(least=2, help="Gradient evaluations of MALA.")] = 600,
    full: Annotated[
        bool, option("--full", help="2000 photographs, 40 classes, 6000 gradients: hours.")
    ] = False,
    seed: Annotated[int, option(help="The seed of the choice and of the sampling.")] = 0,
    out_file: Annotated[
        Path | None, option("--out", help="Write the JSON to this file too.", default="none")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle: classifier, generator, codes, posterior samples, discriminator.

    EfficientNet-Lite1 judges agreement, feature distances and kernel distances. It has no part in
    training and sampling.
    """
    from gradgen import runtime

    runtime.configure()
    from gradgen.evaluation.quality import evaluate as evaluate_bundle
    from gradgen.files import json_text, write_atomically

    with progress("evaluating") as shown:

        def on_progress(what: str, done: int, total: int) -> None:
            shown.total = total
            shown.update(done, what)

        found = evaluate_bundle(
            bundle,
            data,
            num_images=num_images,
            num_classes=num_classes,
            num_chains=num_chains,
            budget=budget,
            full=full,
            seed=seed,
            on_progress=on_progress,
        )
    if out_file is not None:
        write_atomically(out_file, f"{json_text(found.to_json(), indent=2)}\n".encode())
    if as_json:
        print_json(found.to_json())
        return
    table = Table(caption=f"{found.bundle} on {found.data}")
    table.add_column("part")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for part, figures in found.figures.items():
        for name, value in figures.items():
            shown_value = "–" if value is None else f"{value:.4g}"
            table.add_row(part, name.replace("_", " "), shown_value)
            part = ""
        table.add_section()
    print_table(table)
    if out_file is not None:
        note(str(out_file))
