"""`gradgen diagnose`: whether a run's chains converged, and what would help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.markup import escape
from rich.table import Table

from gradgen.cli.common import note, print_json, print_table, say
from gradgen.cli.options import AsJson, argument, as_options, option

if TYPE_CHECKING:
    from gradgen.evaluation.diagnose import ClassDiagnosis


def diagnose(
    folder: Annotated[
        Path,
        argument(
            metavar="RUN", help="The folder of a run, or a NetCDF file with ArviZ's InferenceData."
        ),
    ],
    netcdf: Annotated[
        Path | None,
        option(help="Write the traces as ArviZ InferenceData to this file.", default="none"),
    ] = None,
    plot: Annotated[
        bool, option(help="Draw traces and autocorrelations into the run's folder.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Say whether a run's chains agree, what they are worth, and what to change.

    Rank-normalised split R̂, bulk and tail effective sample sizes (Vehtari et al. 2021, by ArviZ) of
    the traces since the warm-up; acceptance; plots.
    """
    from gradgen.evaluation.diagnose import diagnose as diagnose_run

    found = diagnose_run(folder, plot, netcdf)
    if as_json:
        print_json(found.to_json())
        return
    for each in found.classes:
        print_table(_table(each))
        _tell(each)
    for path in found.files:
        say(path)


def _table(found: ClassDiagnosis) -> Table:
    table = Table(
        title=escape(found.name), title_justify="left", caption="R̂: rank-normalised, split"
    )
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
        note(f"- {as_options(line)}")
