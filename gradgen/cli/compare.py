"""`gradgen compare`: runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import note, print_table, progress

if TYPE_CHECKING:
    from gradgen.evaluation.compare import Measured, Value


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    real: Annotated[
        list[str] | None,
        typer.Option(help="Photographs of the class (folder, glob): adds the kernel distance."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="Whose discriminator and encoder measure [default: the first run's]."),
    ] = None,
    out_file: Annotated[Path, typer.Option("--out", help="The page.")] = Path("compare.html"),
    page: Annotated[bool, typer.Option(help="Write the page.")] = True,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Compare runs: realism, agreement, diversity, saturation, with 95 % bootstrap intervals.

    The judge of agreement is EfficientNet-Lite1, which has no part in training and sampling. Writes
    a table, and a page with the pictures.
    """
    from gradgen import runtime

    runtime.configure()
    from gradgen.evaluation.compare import compare as compare_runs
    from gradgen.evaluation.page import comparison_page
    from gradgen.weights.store import write_atomically

    with progress("judging", unit="pictures") as shown:

        def on_progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done)

        measured = compare_runs(folders, bundle, real, seed, on_progress)
    if page:
        write_atomically(out_file, comparison_page(measured).encode())
    if as_json:
        print(json.dumps([one.to_json() for one in measured], indent=2, ensure_ascii=False))
    else:
        print_table(_table(measured))
    for line in dict.fromkeys(line for one in measured for line in one.notes):
        note(line)
    if page and not as_json:
        print(out_file)


def _table(measured: Sequence[Measured]) -> Table:
    """A row for each metric, a column for each run: few runs, many figures."""
    from gradgen.evaluation.compare import METRICS

    table = Table(caption="95 % bootstrap intervals in brackets")
    table.add_column("")
    for one in measured:
        table.add_column(escape(one.run.name), justify="right", overflow="fold")
    table.add_row("pictures", *(str(len(one.run.images)) for one in measured))
    for metric in METRICS:
        values = [one.values.get(metric.key) for one in measured]
        if any(value is not None and value.value is not None for value in values):
            table.add_row(metric.heading, *(_figure(value, metric.form) for value in values))
    return table


def _figure(value: Value | None, form: str) -> str:
    if value is None or value.value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.value:{form}}"
    return f"{value.value:{form}} ({value.low:{form}} … {value.high:{form}})"
