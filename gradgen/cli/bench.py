"""``gradgen bench``, which measures what chains cost beyond the gradients that they need."""

from __future__ import annotations

from typing import Annotated, Any

from rich.table import Table

from gradgen.benchmark import PARTS, USUAL
from gradgen.cli.common import counted, note, out, print_json, print_table, progress
from gradgen.cli.complete import complete_bundles
from gradgen.cli.options import AsJson, option
from gradgen.runs.settings import PRECISIONS


def bench(
    bundle: Annotated[
        str, option(help="The bundle: a name or a folder.", autocompletion=complete_bundles)
    ] = "tiny64",
    part: Annotated[
        list[str] | None,
        option(
            help=f"What to measure: {', '.join(PARTS)}. Repeat it for several.",
            default="all but mixing, which takes hours",
        ),
    ] = None,
    num_chains: Annotated[
        int | None,
        option(least=1, help="Chains side by side (loops).", default="16; on accelerators 64"),
    ] = None,
    num_integration_steps: Annotated[
        int, option("--num-integration-steps", "-L", least=1, help="Leapfrog steps (HMC).")
    ] = 10,
    gradients: Annotated[
        int | None,
        option(
            least=1, help="Gradients of a chain in a timing.", default="40; on accelerators 400"
        ),
    ] = None,
    repeats: Annotated[
        int, option(least=1, help="Timings of each loop; the loops take turns.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Time gradients and chains, and print how a chain's step compares with its gradients.

    The part "loops" times compiled loops over the same number of gradient evaluations of
    log p(z | class), for all chains together. A ratio of 1.05 means 5 % more time. BlackJAX and
    PyTorch are compared if they are installed. "scaling" varies chains, steps, devices and
    processes. "startup" times the help, a first picture and scoring. "precision" compares HMC with
    float32 and with bfloat16 gradients, whose samples should be alike. "mixing" compares methods,
    BlackJAX's NUTS among them, by the effective samples that they get from as many gradients.
    """
    from gradgen import runtime

    runtime.configure()
    from gradgen.benchmark.suite import bench as measure

    with progress("measuring", unit="figures") as shown:
        result = measure(
            bundle,
            part or USUAL,
            num_chains=num_chains,
            num_integration_steps=num_integration_steps,
            gradients=gradients,
            repeats=repeats,
            on_progress=lambda part, what: shown.advance(note=f"{part}: {what}"),
        )
    for name, reason in result.get("skipped", {}).items():
        note(f"{name} is left out: {reason}")
    if as_json:
        print_json(result)
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print the result of :func:`gradgen.benchmark.suite.bench` as tables."""
    if "ratios" in result:
        _show_loops(result)
    if "scaling" in result:
        table = _table("varied", "", "chains", "steps", "seconds", "ms / step", "peak memory, GB")
        for row in result["scaling"]:
            table.add_row(
                row["varied"],
                str(row["value"]),
                str(row["num_chains"]),
                str(row["num_steps"]),
                f"{row['seconds']:.2f}",
                f"{row['ms_per_step']:.1f}",
                f"{row['peak_memory_gb']:.2f}",
            )
        print_table(table)
    if "precision" in result:
        table = _table("HMC, mean over chains", *PRECISIONS, "difference", "its standard error")
        for row in result["precision"]:
            numbers = (
                *(row[name] for name in PRECISIONS),
                row["difference"],
                row["standard_error"],
            )
            table.add_row(row["figure"], *(f"{number:.4g}" for number in numbers))
        print_table(table)
    if "mixing" in result:
        table = _table("method", "ESS a 1000 gradients", "smallest, largest class", "ESS a second")
        for row in result["mixing"]:
            table.add_row(
                row["method"],
                f"{1e3 * row['ess_per_gradient']:.2f}",
                f"{1e3 * row['smallest']:.2f}, {1e3 * row['largest']:.2f}",
                f"{row['ess_per_second']:.3g}",
            )
        table.caption = "the smallest bulk ESS of all that is traced; medians over classes"
        print_table(table)
    for name, value in result.get("startup", {}).items():
        out.print(f"{name.replace('_', ' ')}: {value:.2f}", highlight=False)


def _show_loops(result: dict[str, Any]) -> None:
    ratios = _table("ratio", "", "goal")
    for name, value in result["ratios"].items():
        ratios.add_row(name, f"{value:.3f}", result["goals"][name])
    print_table(ratios)
    peak = result["peak_memory_gb"]
    table = _table("loop", "ms / gradient", "chain gradients / s", "first call, s")
    table.caption = (
        f"{result['bundle']}, {counted(result['num_chains'], 'chain')}, HMC with L = "
        f"{result['num_integration_steps']}, on {result['device']}; median of {result['repeats']}"
        + ("" if peak is None else f"; peak memory {peak:.2f} GB")
    )
    for name, row in result["loops"].items():
        table.add_row(
            name,
            f"{row['ms_per_evaluation']:.2f}",
            f"{row['chain_evaluations_per_second']:.0f}",
            f"{row['first_call_seconds']:.1f}",
        )
    print_table(table)


def _table(*columns: str) -> Table:
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table
