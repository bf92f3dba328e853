"""`gradgen reproduce`: the paper's figures and tables, one command each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gradgen.cli import common
from gradgen.cli.sample import stopped_by_interrupt

if TYPE_CHECKING:
    from gradgen.evaluation.experiments import Experiment, Table2

reproduce = typer.Typer(
    name="reproduce",
    help="The paper's figures and tables. What was interrupted goes on by the same command.",
    no_args_is_help=True,
)
FOLDER = Path("reproduce")

Classes = Annotated[
    list[str] | None, typer.Option("--class", "--classes", "-c", help="A class; repeat it.")
]
BundleName = Annotated[str, typer.Option("--bundle", help="Networks: a name or a folder.")]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget", "-b", min=10, help="Gradients a chain [default: 6000; embedded bundles: 1000]."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of all randomness.")]
Weight = Annotated[
    float | None,
    typer.Option("--likelihood-weight", help="β; 1 is the posterior [default: as recommended]."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the runs and the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


@contextmanager
def _experiment(
    out: Path,
    classes: tuple[str, ...],
    bundle: str,
    num_chains: int,
    seed: int,
    weight: float | None,
) -> Iterator[Experiment]:
    """An experiment whose progress is one bar, and which Ctrl-C ends cleanly."""
    from gradgen.evaluation.experiments import Experiment

    common.note(
        f"{', '.join(classes)}; {num_chains} chain{'s' if num_chains > 1 else ''} a class; "
        f"{bundle}; seed {seed}; folder {out}"
    )
    try:
        with (
            stopped_by_interrupt() as stop,
            common.progress(out.name, unit="gradients") as shown,
        ):

            def on_progress(title: str, done: int, total: int) -> None:
                shown.total = total
                shown.update(done, title)

            yield Experiment(out, classes, bundle, num_chains, seed, weight, on_progress, stop)
    except KeyboardInterrupt:
        common.note("the same command goes on from here")
        raise


def _prepare() -> None:
    from gradgen.runtime import configure

    configure()


def _write(out: Path, result: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """result.json beside the runs; the result on standard output."""
    from gradgen.weights.store import write_atomically

    text = json.dumps(result, indent=2, ensure_ascii=False)
    write_atomically(out / "result.json", f"{text}\n".encode())
    if as_json:
        print(text)
    else:
        show()


@reproduce.command()
def figure2(
    classes: Classes = None,
    bundle: BundleName = "tiny64",
    budget: Budget = None,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """One row a class: MAP, MALA and HMC, with and without clipping, short and long.

    The pictures of a row start from the same code. How many steps MALA needs with clipping is
    found, and stated in its column's heading. Every picture's recipe is in its file.
    """
    _prepare()
    from gradgen.evaluation import experiments as ex
    from gradgen.evaluation.figures import figure2_picture
    from gradgen.images import save_png

    folder = out or FOLDER / "figure2"
    names = tuple(classes or ex.default_classes(bundle, 4))
    gradients = budget or ex.default_budget(bundle)
    with _experiment(folder, names, bundle, 1, seed, likelihood_weight) as experiment:
        columns, pictures = ex.figure2(experiment, gradients)
    picture = folder / "figure2.png"
    save_png(picture, figure2_picture(columns, pictures))
    result: dict[str, Any] = {
        "picture": str(picture),
        "budget": gradients,
        "columns": [
            {
                "title": column.title,
                "run": str(folder / column.key),
                "log_likelihood": {
                    job["name"]: job["log_likelihood"]
                    for job in pictures[column.key].record["classes"]
                },
            }
            for column in columns
        ],
    }

    def show() -> None:
        table = Table(caption="log p(class | image) of each picture")
        table.add_column("")
        for name in result["columns"][0]["log_likelihood"]:
            table.add_column(name, justify="right")
        for column in result["columns"]:
            values = column["log_likelihood"].values()
            table.add_row(column["title"], *(f"{value:.2f}" for value in values))
        common.print_table(table)
        print(picture)

    _write(folder, result, as_json, show)


@reproduce.command()
def figure3(
    class_name: Annotated[str | None, typer.Option("--class", "-c", help="The class.")] = None,
    bundle: BundleName = "tiny64",
    budget: Budget = None,
    num_chains: Annotated[int, typer.Option(min=2, help="Chains to pick from.")] = 32,
    count: Annotated[int, typer.Option(min=2, help="Pictures of each method.")] = 8,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Many chains of one class by MALA and HMC, the most different picked, beside MAP's.

    Picked by farthest points in the encoder's features, of all three methods alike.
    """
    _prepare()
    from gradgen.evaluation import experiments as ex
    from gradgen.evaluation.figures import figure3_picture
    from gradgen.images import save_png

    folder = out or FOLDER / "figure3"
    names = (class_name or ex.default_classes(bundle, 1)[0],)
    gradients = budget or ex.default_budget(bundle)
    with _experiment(folder, names, bundle, num_chains, seed, likelihood_weight) as experiment:
        variants, pictures, picked, distances = ex.figure3(experiment, gradients, count)
    picture = folder / "figure3.png"
    save_png(picture, figure3_picture(variants, pictures, picked))
    result: dict[str, Any] = {
        "picture": str(picture),
        "class": names[0],
        "budget": gradients,
        "rows": [
            {
                "title": one.title,
                "run": str(folder / one.key),
                "picked": picked[one.key],
                "mean_cosine_distance": distances[one.key],
            }
            for one in variants
        ],
    }

    def show() -> None:
        table = Table(caption="mean cosine distance of the pictures that were picked, encoder")
        table.add_column("")
        table.add_column("distance", justify="right")
        for row in result["rows"]:
            table.add_row(row["title"], f"{row['mean_cosine_distance']:.3f}")
        common.print_table(table)
        print(picture)

    _write(folder, result, as_json, show)


@reproduce.command()
def table2(
    classes: Classes = None,
    bundle: BundleName = "tiny64",
    budget: Budget = None,
    num_chains: Annotated[int, typer.Option(min=1, help="Pictures a class and method.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat for so many seeds, from --seed.")] = 1,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How real the methods' pictures look to the discriminator, beside the paper's numbers.

    Means over classes, standard errors clustered by class, and for each pair of the paper's order
    whether it holds: the same classes and starting codes, compared class by class.
    """
    _prepare()
    from gradgen.evaluation import experiments as ex

    folder = out or FOLDER / "table2"
    names = tuple(classes or ex.default_classes(bundle, 10))
    gradients = budget or ex.default_budget(bundle)
    with _experiment(folder, names, bundle, num_chains, seed, likelihood_weight) as experiment:
        found = ex.table2(experiment, gradients, range(seed, seed + seeds))
    result = {
        "budget": gradients,
        "discriminator": found.discriminator,
        "seeds": list(found.seeds),
        "rows": [asdict(row) for row in found.rows],
        "pairs": [asdict(pair) for pair in found.pairs],
        "order": list(found.order),
        "paper_order_holds": found.holds,
    }
    _write(folder, result, as_json, lambda: _show_table2(found))


def _show_table2(found: Table2) -> None:
    from gradgen.evaluation.experiments import PAPER_TABLE2

    titles = {row.key: row.title for row in found.rows}
    table = Table(
        caption=f"mean log-probability of being real by {found.discriminator}, ± standard error "
        "over classes; the paper's by DCGAN on its own networks"
    )
    table.add_column("")
    for row in found.rows:
        table.add_column(row.title, justify="right")
    table.add_row("ours", *(_with_error(row.mean, row.standard_error) for row in found.rows))
    table.add_row("paper, Table 2", *(f"{PAPER_TABLE2[row.key]:.2f}" for row in found.rows))
    table.add_row("pictures", *(str(row.pictures) for row in found.rows))
    common.print_table(table)
    for pair in found.pairs:
        verdict = {
            True: "holds",
            False: "does not hold: it is the other way round",
            None: "cannot be told (within two standard errors)",
        }[pair.holds]
        print(
            f"{titles[pair.better]} above {titles[pair.worse]}: {verdict}; difference "
            f"{_with_error(pair.difference, pair.standard_error)}"
        )
    verdict = {True: "holds", False: "does not hold", None: "cannot be told in full"}[found.holds]
    print(f"the paper's order {verdict}; ours: {' > '.join(titles[key] for key in found.order)}")


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


@reproduce.command()
def budget(
    classes: Classes = None,
    bundle: BundleName = "tiny64",
    budgets: Annotated[
        str | None, typer.Option(help="Budgets, by commas [default: 50,100,200,400,800].")
    ] = None,
    num_chains: Annotated[int, typer.Option(min=2, help="Pictures a class and cell.")] = 4,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Realism, agreement and diversity against the gradient budget, with and without clipping."""
    _prepare()
    from gradgen.evaluation import experiments as ex
    from gradgen.evaluation.figures import budget_figure
    from gradgen.plots import png_bytes
    from gradgen.weights.store import write_atomically

    folder = out or FOLDER / "budget"
    names = tuple(classes or ex.default_classes(bundle, 4))
    numbers = parse_budgets(budgets) if budgets else ex.BUDGETS
    with _experiment(folder, names, bundle, num_chains, seed, likelihood_weight) as experiment:
        found = ex.budget_study(experiment, numbers)
    picture = folder / "budget.png"
    title = f"{', '.join(names)}; {num_chains} chains a class; {bundle}"
    write_atomically(picture, png_bytes(budget_figure(found, title)))
    result: dict[str, Any] = {
        "picture": str(picture),
        "classes": list(names),
        "cells": [
            {
                "method": method,
                "clipped": clip,
                "budget": number,
                **{key: asdict(value) for key, value in values.items()},
            }
            for (method, clip), by_budget in found.items()
            for number, values in by_budget.items()
        ],
    }

    def show() -> None:
        from gradgen.evaluation.compare import METRICS

        studied = [metric for metric in METRICS if metric.key in ex.STUDIED]
        table = Table(caption="95 % bootstrap intervals are in result.json and in the picture")
        for heading in ("method", "budget", *(metric.heading for metric in studied)):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for (method, clip), by_budget in found.items():
            for number, values in by_budget.items():
                figures = [(values[metric.key].value, metric.form) for metric in studied]
                table.add_row(
                    f"{method.upper()}{', clipped' if clip else ''}",
                    str(number),
                    *("–" if value is None else f"{value:{form}}" for value, form in figures),
                )
            table.add_section()
        common.print_table(table)
        print(picture)

    _write(folder, result, as_json, show)


def parse_budgets(text: str) -> tuple[int, ...]:
    """ "50,100" -> (50, 100), increasing; UsageError for anything else."""
    from gradgen.errors import UsageError

    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 10:
        raise UsageError(f"budgets {text!r}: whole numbers of at least 10, by commas")
    return numbers
