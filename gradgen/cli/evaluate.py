"""`gradgen evaluate`: how good a bundle's networks are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gradgen.cli.common import note, print_table, progress

FULL = {"num_images": 2000, "num_classes": 40, "num_chains": 8, "budget": 6000}


def evaluate(
    bundle: Annotated[str, typer.Argument(help="A name or a folder.")],
    data: Annotated[
        Path,
        typer.Option(help="Photographs as for `gradgen train`; the validation ones are used."),
    ],
    num_images: Annotated[
        int, typer.Option("--images", min=2, help="Photographs that the judge, lite1, looks at.")
    ] = 500,
    num_classes: Annotated[
        int, typer.Option("--num-classes", min=1, help="Classes that are sampled.")
    ] = 10,
    num_chains: Annotated[int, typer.Option(min=2, help="Chains a class.")] = 8,
    budget: Annotated[int, typer.Option(min=2, help="Gradient evaluations of MALA.")] = 600,
    full: Annotated[
        bool, typer.Option("--full", help="2000 photographs, 40 classes, 6000 gradients: hours.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the choice and of the sampling.")] = 0,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the JSON here too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Measure a bundle: classifier, generator, codes, posterior samples, discriminator.

    Agreement, feature distances and kernel distances are EfficientNet-Lite0's, which has no part in
    the bundle.
    """
    from gradgen import runtime

    runtime.configure()
    from gradgen.bundle import load_bundle
    from gradgen.evaluation.quality import evaluate_bundle, load_validation
    from gradgen.weights.store import write_atomically

    sizes = FULL if full else {
        "num_images": num_images,
        "num_classes": num_classes,
        "num_chains": num_chains,
        "budget": budget,
    }  # fmt: skip
    loaded = load_bundle(bundle)
    with progress("evaluating") as shown:

        def on_progress(what: str, done: int, total: int) -> None:
            shown.total = total
            shown.update(done, what)

        val = load_validation(data, loaded, on_progress)
        report = evaluate_bundle(loaded, val, **sizes, seed=seed, on_progress=on_progress)
    result = {"bundle": loaded.name, "data": val.source, "seed": seed, **sizes, "figures": report}
    text = json.dumps(result, indent=2)
    if out_file is not None:
        write_atomically(out_file, f"{text}\n".encode())
    if as_json:
        print(text)
        return
    table = Table(caption=f"{loaded.name} on {val.source}")
    table.add_column("part")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for part, figures in report.items():
        for name, value in figures.items():
            shown_value = "–" if value is None else f"{value:.4g}"
            table.add_row(part, name.replace("_", " "), shown_value)
            part = ""
        table.add_section()
    print_table(table)
    if out_file is not None:
        note(str(out_file))
