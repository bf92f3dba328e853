"""The paper's figures and tables anew: runs them, draws them, writes down what came out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradgen.errors import UsageError
from gradgen.evaluation import experiments as ex
from gradgen.evaluation.compare import METRICS
from gradgen.evaluation.figures import figure2_picture, figure3_picture
from gradgen.files import write_atomically
from gradgen.images import save_png
from gradgen.plots import budget_figure, save_figure
from gradgen.runs.plan import choose_for

FOLDER = Path("reproduce")  # of all experiments, in the current folder
RESULT_FILE = "result.json"
EXPERIMENT_FILE = "experiment.json"  # what was asked for: no other takes its place
LEAST_BUDGET = 10


@dataclass(frozen=True)
class _Kind:
    """What an experiment takes when nothing else is asked for."""

    num_classes: int
    num_chains: int
    least_chains: int
    own_arguments: tuple[str, ...] = ()


EXPERIMENTS = {
    "figure2": _Kind(num_classes=4, num_chains=1, least_chains=1, own_arguments=("as_paper",)),
    "figure3": _Kind(num_classes=1, num_chains=32, least_chains=2, own_arguments=("count",)),
    "table2": _Kind(10, num_chains=4, least_chains=1, own_arguments=("seeds", "as_paper")),
    "budget": _Kind(num_classes=4, num_chains=4, least_chains=2, own_arguments=("budgets",)),
}


def reproduce(
    experiment: str,
    *,
    classes: Sequence[str] | None = None,
    bundle: str | None = None,
    budget: int | None = None,
    num_chains: int | None = None,
    count: int | None = None,
    seeds: int | None = None,
    budgets: Sequence[int] | None = None,
    seed: int = 0,
    likelihood_weight: float | None = None,
    as_paper: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    on_begin: Callable[[ex.Experiment], None] | None = None,
    on_progress: ex.OnProgress | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Run an experiment of the paper, or what of it is not finished yet, and write its result.

    Args:
        experiment: "figure2" (MAP, MALA and HMC with and without clipping), "figure3" (the most
            different of many chains), "table2" (the discriminator's verdict beside the paper's) or
            "budget" (realism, agreement and diversity over the gradient budget).
        classes: names, synset ids or indices; ``None``: some that the bundle knows well. figure3
            takes a single class.
        bundle: name or folder; ``None``: ten64, or what :func:`gradgen.sample` takes for the
            classes.
        budget: gradient evaluations a chain; ``None``: the paper's 6000 for its own bundles, 1000
            for embedded ones.
        num_chains: pictures a class and method; ``None``: the experiment's own number.
        count: of figure3, how many pictures of each method are picked; ``None``: 8.
        seeds: of table2, how many seeds it is repeated for; ``None``: 1.
        budgets: of the budget's experiment; ``None``: 50, 100, 200, 400, 800.
        seed: of all randomness; the first, where there are several.
        likelihood_weight: β; ``None``: what the bundle recommends, or 1 with ``as_paper``.
        as_paper: of figure2 and table2, whether to take the paper's schedules instead of our
            defaults: steps that decay, MALA's annealed noise, 6000 gradients, β = 1, and 200
            gradients for table2's MAP, which otherwise gets as many as the others.
        out: the folder of its runs and its result; ``None``: a folder in reproduce/ that belongs to
            this experiment with these arguments, such as reproduce/table2 or reproduce/table2-2.
        on_begin: called with the experiment before anything is run.
        on_progress: called with (what is being done, gradients done, gradients in all).
        stop: asked after each block of steps; once it says yes, the experiment ends with
            KeyboardInterrupt, and the same call goes on from there.

    Returns:
        What result.json in the experiment's folder holds: plain numbers and strings.

    Raises:
        UsageError: there is no such experiment or class, an argument is for another experiment, or
            ``out`` holds an experiment with other arguments.
    """
    if experiment not in EXPERIMENTS:
        raise UsageError(f"experiment must be one of {', '.join(EXPERIMENTS)}, not {experiment!r}")
    if bundle is None:
        bundle = choose_for(classes).name if classes else ex.BUNDLE
    kind = EXPERIMENTS[experiment]
    _refuse_foreign(
        experiment,
        {"count": count, "seeds": seeds, "budgets": budgets, "as_paper": as_paper or None},
    )
    chains = kind.num_chains if num_chains is None else num_chains
    if chains < kind.least_chains:
        raise UsageError(f"{experiment} takes `num_chains` of {kind.least_chains} or more")
    if experiment == "figure3" and classes is not None and len(classes) != 1:
        raise UsageError(f"figure3 is of a single class, not of {len(classes)}")
    paper = bool(as_paper)
    gradients = budget or (ex.PAPER_BUDGET if paper else ex.default_budget(bundle))
    asked: dict[str, Any] = {
        "experiment": experiment,
        "classes": list(classes or ex.default_classes(bundle, kind.num_classes)),
        "bundle": bundle,
        "num_chains": chains,
        "seed": seed,
        "likelihood_weight": 1.0 if paper and likelihood_weight is None else likelihood_weight,
        "as_paper": paper,
    }
    if experiment == "budget":
        asked["budgets"] = list(checked_budgets(budgets or ex.BUDGETS))
    else:
        asked["budget"] = gradients
    if experiment == "figure3":
        asked["count"] = count or 8
    if experiment == "table2":
        asked["seeds"] = list(range(seed, seed + (seeds or 1)))
    folder = _free_folder(asked) if out is None else _checked_folder(Path(out), asked)
    made = ex.Experiment(
        folder=folder,
        classes=tuple(asked["classes"]),
        bundle=bundle,
        num_chains=chains,
        seed=seed,
        likelihood_weight=asked["likelihood_weight"],
        as_paper=paper,
        on_progress=on_progress,
        stop=stop,
    )
    if on_begin is not None:
        on_begin(made)
    _write(folder / EXPERIMENT_FILE, asked)
    if experiment == "figure2":
        result = _figure2(made, gradients)
    elif experiment == "figure3":
        result = _figure3(made, gradients, asked["count"])
    elif experiment == "table2":
        result = _table2(made, gradients, asked["seeds"])
    else:
        result = _budget(made, asked["budgets"])
    _write(folder / RESULT_FILE, result)
    return result


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode())


def _free_folder(asked: dict[str, Any]) -> Path:
    """The folder that this experiment was begun in, or the first that nothing is in."""
    name = asked["experiment"]
    for begun in sorted(FOLDER.glob(f"{name}*/{EXPERIMENT_FILE}")):
        if _asked_before(begun.parent) == asked:
            return begun.parent
    number = 1
    while True:
        folder = FOLDER / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or not any(folder.iterdir()):
            return folder
        number += 1


def _checked_folder(folder: Path, asked: dict[str, Any]) -> Path:
    """The folder that was asked for, unless it is another experiment's."""
    before = _asked_before(folder)
    if before is None and (folder / RESULT_FILE).exists():
        raise UsageError(f"{folder} holds the result of another experiment: choose another `out`")
    if before is not None and before != asked:
        differing = [
            f"`{name}`: {asked.get(name)}, not {before.get(name)}"
            for name in sorted(set(asked) | set(before))
            if asked.get(name) != before.get(name)
        ]
        raise UsageError(
            f"{folder} holds an experiment with other arguments ({'; '.join(differing)}): choose "
            "another `out`"
        )
    return folder


def _asked_before(folder: Path) -> dict[str, Any] | None:
    """What the experiment in a folder was asked for; None where there is none."""
    try:
        return json.loads((folder / EXPERIMENT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{folder / EXPERIMENT_FILE} is not JSON ({error})") from error


def checked_budgets(budgets: Sequence[int]) -> tuple[int, ...]:
    """Budgets in increasing order, each once.

    Raises:
        UsageError: there is none, or a number is below 10, HMC's shortest trajectory.
    """
    numbers = tuple(sorted(set(budgets)))
    if not numbers or numbers[0] < LEAST_BUDGET:
        raise UsageError(f"`budgets` are whole numbers of at least {LEAST_BUDGET}, not {budgets}")
    return numbers


def _refuse_foreign(experiment: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None and name not in EXPERIMENTS[experiment].own_arguments:
            owners = [key for key, kind in EXPERIMENTS.items() if name in kind.own_arguments]
            raise UsageError(f"`{name}` is for {' and '.join(owners)}, not for {experiment}")


def _figure2(experiment: ex.Experiment, budget: int) -> dict[str, Any]:
    columns, pictures = ex.figure2(experiment, budget)
    picture = experiment.folder / "figure2.png"
    save_png(picture, figure2_picture(columns, pictures))
    return {
        "picture": str(picture),
        "budget": budget,
        "columns": [
            {
                "title": column.title,
                "run": str(experiment.folder / column.key),
                "log_likelihood": {
                    job.name: job.log_likelihood for job in pictures[column.key].record.classes
                },
            }
            for column in columns
        ],
    }


def _figure3(experiment: ex.Experiment, budget: int, count: int) -> dict[str, Any]:
    variants, pictures, picked, distances = ex.figure3(experiment, budget, count)
    picture = experiment.folder / "figure3.png"
    save_png(picture, figure3_picture(variants, pictures, picked))
    return {
        "picture": str(picture),
        "class": experiment.classes[0],
        "budget": budget,
        "rows": [
            {
                "title": variant.title,
                "run": str(experiment.folder / variant.key),
                "picked": picked[variant.key],
                "mean_cosine_distance": distances[variant.key],
            }
            for variant in variants
        ],
    }


def _table2(experiment: ex.Experiment, budget: int, seeds: Sequence[int]) -> dict[str, Any]:
    found = ex.table2(experiment, budget, seeds)
    return {
        "budget": budget,
        "discriminator": found.discriminator,
        "seeds": list(found.seeds),
        "num_classes": found.num_classes,
        "rows": [asdict(row) for row in found.rows],
        "pairs": [asdict(pair) for pair in found.pairs],
        "order": list(found.order),
        "paper_order_holds": found.holds,
    }


def _budget(experiment: ex.Experiment, budgets: Sequence[int]) -> dict[str, Any]:
    found = ex.budget_study(experiment, budgets)
    picture = experiment.folder / "budget.png"
    title = (
        f"{', '.join(experiment.classes)}; {experiment.num_chains} chains a class; "
        f"{experiment.bundle}"
    )
    save_figure(budget_figure(found, studied_metrics(), title), picture)
    return {
        "picture": str(picture),
        "classes": list(experiment.classes),
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


def studied_metrics() -> list[Any]:
    """The metrics of the budget's experiment, in the order in which they are shown."""
    return [metric for metric in METRICS if metric.key in ex.STUDIED]
