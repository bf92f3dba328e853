"""`gradgen compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import note, print_json, print_table, progress, say
from gradgen.cli.complete import complete_bundles
from gradgen.cli.options import AsJson, argument, as_options, option

if TYPE_CHECKING:
    from gradgen.evaluation.compare import Measured
    from gradgen.evaluation.metrics import Value


def compare(
    folders: Annotated[list[Path], argument(metavar="RUN...", help="Folders of runs.")],
    real: Annotated[
        list[str] | None,
        option(
            metavar="PATH...",
            help="Photographs of the class (files, folders, globs): adds KID, and where there are "
            "enough pictures precision, recall, density, coverage, FID.",
            default="none",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        option(
            help="Whose discriminator and encoder measure.",
            default="the first run's",
            autocompletion=complete_bundles,
        ),
    ] = None,
    out_file: Annotated[Path, option("--out", help="The page.")] = Path("compare.html"),
    page: Annotated[bool, option(help="Write the page.")] = True,
    seed: Annotated[int, option(help="Of the bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare runs: realism, agreement, diversity, saturation, with 95 % bootstrap intervals.

    The judge of agreement is EfficientNet-Lite1, which has no part in training and sampling. Writes
    a table, and a page with the pictures.
    """
    from gradgen import runtime

    runtime.configure()
    from gradgen.evaluation.compare import compare as compare_runs
    from gradgen.evaluation.page import comparison_page
    from gradgen.files import write_atomically

    with progress("judging", unit="pictures") as shown:

        def on_progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done)

        measured = compare_runs(folders, bundle, real, seed, on_progress)
    if page:
        write_atomically(out_file, comparison_page(measured, as_options).encode())
    if as_json:
        print_json([entry.to_json() for entry in measured])
    else:
        print_table(_table(measured))
    for line in dict.fromkeys(line for entry in measured for line in entry.notes):
        note(line)
    if page and not as_json:
        say(out_file)


def _table(measured: Sequence[Measured]) -> Table:
    """A row for each metric, a column for each run: few runs, many figures."""
    from gradgen.evaluation.compare import METRICS

    table = Table(caption="95 % bootstrap intervals in brackets")
    table.add_column("")
    for entry in measured:
        table.add_column(escape(entry.run.name), justify="right", overflow="fold")
    table.add_row("pictures", *(str(len(entry.run.images)) for entry in measured))
    for metric in METRICS:
        values = [entry.values.get(metric.key) for entry in measured]
        if any(value is not None and value.value is not None for value in values):
            table.add_row(metric.heading, *(_figure(value, metric.form) for value in values))
    return table


def _figure(value: Value | None, form: str) -> str:
    if value is None or value.value is None:
        return "–"
    if value.low is None or value.high is None:
        return f"{value.value:{form}}"
    return f"{value.value:{form}} ({value.low:{form}} … {value.high:{form}})"
