"""`gradgen diagnose`: whether a run's chains converged, and what would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import note, print_table

if TYPE_CHECKING:
    from gradgen.evaluation.diagnose import ClassDiagnosis


def diagnose(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    netcdf: Annotated[
        Path | None, typer.Option(help="Write the traces as ArviZ InferenceData to this file.")
    ] = None,
    plot: Annotated[
        bool, typer.Option(help="Draw traces and autocorrelations into the run's folder.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Say whether a run's chains agree, what they are worth, and what to change.

    Rank-normalised split R̂, bulk and tail effective sample sizes (Vehtari et al. 2021, by ArviZ) of
    the traces since the warm-up; acceptance; plots.
    """
    from gradgen.evaluation import diagnose as dg
    from gradgen.images import DIAGNOSIS
    from gradgen.plots import png_bytes
    from gradgen.weights.store import write_atomically

    found = dg.diagnose_run(folder)
    written = []
    if plot:
        for one in found.classes:
            name = "".join(c if c.isalnum() else "-" for c in one.name.lower())
            path = folder / (
                f"{DIAGNOSIS}.png" if len(found.classes) == 1 else f"{DIAGNOSIS}-{name}.png"
            )
            title = f"{one.name} · {found.record['settings']['method']}"
            write_atomically(path, png_bytes(dg.diagnosis_figure(one, title)))
            written.append(path)
    if netcdf is not None:
        write_atomically(netcdf, dg.netcdf_bytes(found))
        written.append(netcdf)
    if as_json:
        print(
            json.dumps(
                {
                    "run": str(folder),
                    "classes": [one.to_json() for one in found.classes],
                    "files": [str(path) for path in written],
                },
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    for one in found.classes:
        print_table(_table(one))
        _tell(one)
    for path in written:
        print(path)


def _table(found: ClassDiagnosis) -> Table:
    table = Table(title=escape(found.name), title_justify="left")
    for heading in ("quantity", "R̂", "ESS bulk", "ESS tail"):
        table.add_column(heading, justify="left" if heading == "quantity" else "right")
    for name, figures in found.figures.items():
        table.add_row(
            name,
            *(
                "–" if figures[key] is None else format(figures[key], form)
                for key, form in (("r_hat", ".3f"), ("ess_bulk", ".0f"), ("ess_tail", ".0f"))
            ),
        )
    return table


def _tell(found: ClassDiagnosis) -> None:
    from gradgen.evaluation.diagnose import LARGE_R_HAT, finite

    acceptance, step_size = finite(found.acceptance), finite(found.step_size)
    if acceptance is not None and step_size is not None:
        known = [value for value in found.acceptance if value is not None]
        note(
            f"acceptance {acceptance:.2f} ({min(known):.2f} … {max(known):.2f} by chain), "
            f"step size {step_size:.3g}"
        )
    verdict = {
        True: f"the chains agree (no R̂ above {LARGE_R_HAT})",
        False: "the chains do not agree",
        None: "whether the chains agree cannot be told",
    }[found.agree]
    note(verdict)
    for line in found.advice:
        note(f"- {line}")
