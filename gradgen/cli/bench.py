"""`gradgen bench`: what the chains cost beyond the gradients that they cannot do without."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from gradgen.cli.common import note, out, print_table, progress
from gradgen.errors import UsageError
from gradgen.settings import PRECISIONS

PARTS = ("loops", "scaling", "startup", "precision")


def bench(
    bundle: Annotated[str, typer.Option(help="The bundle: a name or a folder.")] = "tiny64",
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(PARTS)}; several times for several. All, if none is given."),
    ] = None,
    num_chains: Annotated[
        int | None,
        typer.Option(min=1, help="Chains side by side (loops) [default: 16; on accelerators 64]."),
    ] = None,
    num_integration_steps: Annotated[
        int, typer.Option("--num-integration-steps", "-L", min=1, help="Leapfrog steps (HMC).")
    ] = 10,
    gradients: Annotated[
        int | None,
        typer.Option(
            min=1, help="Gradients a chain in one timing [default: 40; on accelerators 400]."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each, taken in turns.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Time gradients and chains, and print how a chain's step compares with its gradients.

    loops: compiled loops over the same number of gradient evaluations of log p(z | class), all
    chains together; a ratio of 1.05 means 5 % more time. BlackJAX and PyTorch are compared with
    where they are installed. scaling: over chains, steps, devices and processes. startup: the
    help, a first picture, scoring. precision: HMC with float32 and with bfloat16 gradients, whose
    samples should be alike.
    """
    parts = tuple(part or PARTS)
    for one in parts:
        if one not in PARTS:
            raise UsageError(f"--part must be one of {', '.join(PARTS)}, not {one}")
    from gradgen import runtime

    runtime.configure()
    import jax

    from gradgen.benchmark import precision, scaling, startup
    from gradgen.benchmark.suite import measure_loops, summary

    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    num_chains = num_chains or (16 if on_cpu else 64)
    gradients = gradients or (40 if on_cpu else 400)
    iterations = max(1, gradients // num_integration_steps)
    gradients = iterations * num_integration_steps
    result: dict[str, Any] = {
        "bundle": bundle,
        "device": f"{device.platform}: {device.device_kind}",
    }
    if "loops" in parts:
        with progress("timing", unit="loops") as shown:
            measured = measure_loops(
                bundle,
                num_chains,
                gradients,
                num_integration_steps,
                repeats,
                lambda name: shown.advance(note=name),
            )
        result |= summary(measured, num_chains) | {
            "num_chains": num_chains,
            "num_integration_steps": num_integration_steps,
            "gradients_a_chain": gradients,
            "repeats": repeats,
        }
        for name, reason in measured.skipped.items():
            note(f"{name} is left out: {reason}")
    if "scaling" in parts:
        with progress("scaling", unit="figures") as shown:
            result["scaling"] = scaling.measure(
                bundle, on_cpu, lambda what: shown.advance(note=what)
            )
    if "startup" in parts:
        with progress("start-up", unit="figures") as shown:
            result["startup"] = startup.measure(bundle, lambda name: shown.advance(note=name))
    if "precision" in parts:
        with progress("precision", unit="runs") as shown:
            result["precision"] = precision.measure(bundle, lambda which: shown.advance(note=which))
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print as tables what ``--json`` prints."""
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
            numbers = (*(row[one] for one in PRECISIONS), row["difference"], row["standard_error"])
            table.add_row(row["figure"], *(f"{number:.4g}" for number in numbers))
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
        f"{result['bundle']}, {result['num_chains']} chains, HMC with L = "
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
