"""`gradgen reproduce`: the paper's figures and tables, each by a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from gradgen.cli import common
from gradgen.cli.complete import complete_bundles
from gradgen.cli.help import App
from gradgen.cli.options import AsJson, option
from gradgen.cli.sample import stopped_by_interrupt

if TYPE_CHECKING:
    from gradgen.evaluation.experiments import Experiment

reproduce = App(
    name="reproduce",
    help="The paper's figures and tables. What was interrupted goes on by the same command.",
)
BY_BUNDLE = "some that the bundle knows"

Classes = Annotated[
    list[str] | None,
    option("--class", "--classes", "-c", help="A class; repeat it.", default=BY_BUNDLE),
]
BundleName = Annotated[
    str | None,
    option(
        "--bundle",
        help="Networks: a name or a folder.",
        default="ten64; with other classes than its ten, tiny64",
        autocompletion=complete_bundles,
    ),
]
Budget = Annotated[
    int | None,
    option(
        "--budget",
        "-b",
        least=10,
        help="Gradients a chain.",
        default="6000; embedded bundles: 1000",
    ),
]
Seed = Annotated[int, option("--seed", help="Of all randomness.")]
Weight = Annotated[
    float | None,
    option(
        "--likelihood-weight",
        help="β; 1 is the posterior.",
        default="the bundle's recommendation",
    ),
]
Out = Annotated[
    Path | None,
    option(
        "--out",
        help="Folder of the runs and the result.",
        default="a folder of its own in reproduce/",
    ),
]


def _run(name: str, as_json: bool, **arguments: Any) -> dict[str, Any] | None:
    """Run an experiment with a bar and an end by Ctrl-C; None where its JSON has been printed."""
    from gradgen.runtime import configure

    configure()
    from gradgen.evaluation.reproduce import reproduce as reproduce_experiment

    try:
        with stopped_by_interrupt() as stop, common.progress(name, unit="gradients") as shown:

            def on_progress(title: str, done: int, total: int) -> None:
                shown.total = total
                shown.update(done, title)

            result = reproduce_experiment(
                name, on_begin=_announce, on_progress=on_progress, stop=stop, **arguments
            )
    except KeyboardInterrupt:
        common.note("the same command goes on from here")
        raise
    if as_json:
        common.print_json(result)
        return None
    return result


def _announce(experiment: Experiment) -> None:
    common.note(
        f"{', '.join(experiment.classes)}; "
        f"{common.counted(experiment.num_chains, 'chain')} a class; "
        f"{experiment.bundle}; seed {experiment.seed}; folder {experiment.folder}"
    )


AsPaper = Annotated[
    bool,
    option(
        "--as-paper",
        help="The paper's schedules: decaying steps, annealed noise, 6000 gradients, β = 1.",
    ),
]


@reproduce.command()
def figure2(
    classes: Classes = None,
    bundle: BundleName = None,
    budget: Budget = None,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    as_paper: AsPaper = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """One row a class: MAP, MALA and HMC, with and without clipping, short and long.

    The pictures of a row start from the same code. How many steps MALA needs with clipping is
    found, and stated in its column's heading. Every picture's recipe is in its file.
    """
    result = _run(
        "figure2",
        as_json,
        classes=classes,
        bundle=bundle,
        budget=budget,
        seed=seed,
        likelihood_weight=likelihood_weight,
        as_paper=as_paper,
        out=out,
    )
    if result is not None:
        table = Table(caption="log p(class | image) of each picture")
        table.add_column("")
        for class_name in result["columns"][0]["log_likelihood"]:
            table.add_column(class_name, justify="right")
        for column in result["columns"]:
            values = column["log_likelihood"].values()
            table.add_row(column["title"], *(f"{value:.2f}" for value in values))
        common.print_table(table)
        common.say(result["picture"])


@reproduce.command()
def figure3(
    class_name: Annotated[
        str | None, option("--class", "-c", help="The class.", default=BY_BUNDLE)
    ] = None,
    bundle: BundleName = None,
    budget: Budget = None,
    num_chains: Annotated[int, option(least=2, help="Chains to pick from.")] = 32,
    count: Annotated[int, option(least=2, help="Pictures of each method.")] = 8,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Many chains of one class by MALA and HMC, the most different picked, beside MAP's.

    Picked by farthest points in the encoder's features, of all three methods alike.
    """
    result = _run(
        "figure3",
        as_json,
        classes=None if class_name is None else [class_name],
        bundle=bundle,
        budget=budget,
        seed=seed,
        likelihood_weight=likelihood_weight,
        out=out,
        num_chains=num_chains,
        count=count,
    )
    if result is not None:
        table = Table(caption="mean cosine distance of the pictures that were picked, encoder")
        table.add_column("")
        table.add_column("distance", justify="right")
        for row in result["rows"]:
            table.add_row(row["title"], f"{row['mean_cosine_distance']:.3f}")
        common.print_table(table)
        common.say(result["picture"])


@reproduce.command()
def table2(
    classes: Classes = None,
    bundle: BundleName = None,
    budget: Budget = None,
    num_chains: Annotated[int, option(least=1, help="Pictures a class and method.")] = 4,
    seeds: Annotated[int, option(least=1, help="Repeat for so many seeds, from --seed.")] = 1,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    as_paper: AsPaper = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How real the methods' pictures look to the discriminator, beside the paper's numbers.

    Means over classes, standard errors clustered by class, and for each pair of the paper's order
    whether it holds: the same classes and starting codes, compared class by class.
    """
    result = _run(
        "table2",
        as_json,
        classes=classes,
        bundle=bundle,
        budget=budget,
        seed=seed,
        likelihood_weight=likelihood_weight,
        as_paper=as_paper,
        out=out,
        num_chains=num_chains,
        seeds=seeds,
    )
    if result is not None:
        _show_table2(result)


def _show_table2(result: dict[str, Any]) -> None:
    rows = result["rows"]
    titles = {row["key"]: row["title"] for row in rows}
    table = Table(
        caption=f"mean log-probability of being real by {result['discriminator']}, ± standard "
        "error over classes; the paper's by DCGAN on its own networks"
    )
    table.add_column("")
    for row in rows:
        table.add_column(row["title"], justify="right")
    table.add_row("ours", *(_with_error(row["mean"], row["standard_error"]) for row in rows))
    table.add_row("paper, Table 2", *(f"{row['paper']:.2f}" for row in rows))
    table.add_row("pictures", *(str(row["pictures"]) for row in rows))
    common.print_table(table)
    count = result["num_classes"]
    for pair in result["pairs"]:
        verdict = {
            True: "holds",
            False: "does not hold: it is the other way round",
            None: f"cannot be told (Student's t, {common.counted(count, 'class', 'classes')})",
        }[pair["holds"]]
        print(
            f"{titles[pair['better']]} above {titles[pair['worse']]}: {verdict}; difference "
            f"{_with_error(pair['difference'], pair['standard_error'])}"
        )
    verdict = {True: "holds", False: "does not hold", None: "cannot be told in full"}[
        result["paper_order_holds"]
    ]
    order = " > ".join(titles[key] for key in result["order"])
    print(f"the paper's order {verdict}; ours: {order}")


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


@reproduce.command()
def budget(
    classes: Classes = None,
    bundle: BundleName = None,
    budgets: Annotated[
        str | None, option(help="Budgets, by commas.", default="50,100,200,400,800")
    ] = None,
    num_chains: Annotated[int, option(least=2, help="Pictures a class and cell.")] = 4,
    seed: Seed = 0,
    likelihood_weight: Weight = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Realism, agreement and diversity against the gradient budget, with and without clipping."""
    result = _run(
        "budget",
        as_json,
        classes=classes,
        bundle=bundle,
        budgets=parse_budgets(budgets) if budgets else None,
        seed=seed,
        likelihood_weight=likelihood_weight,
        out=out,
        num_chains=num_chains,
    )
    if result is not None:
        _show_budget(result)


def _show_budget(result: dict[str, Any]) -> None:
    from gradgen.evaluation.reproduce import studied_metrics

    studied = studied_metrics()
    table = Table(caption="95 % bootstrap intervals are in result.json and in the picture")
    for heading in ("method", "budget", *(metric.heading for metric in studied)):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    before = None
    for cell in result["cells"]:
        method = f"{cell['method'].upper()}{', clipped' if cell['clipped'] else ''}"
        if before not in (None, method):
            table.add_section()
        before = method
        figures = [(cell[metric.key]["value"], metric.form) for metric in studied]
        table.add_row(
            method,
            str(cell["budget"]),
            *("–" if value is None else f"{value:{form}}" for value, form in figures),
        )
    common.print_table(table)
    common.say(result["picture"])


def parse_budgets(text: str) -> list[int]:
    """ "50,100" -> [50, 100]; UsageError for anything but whole numbers."""
    from gradgen.errors import UsageError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--budgets {text!r}: whole numbers, by commas") from None
