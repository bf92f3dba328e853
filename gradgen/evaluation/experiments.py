"""The paper's figures and tables as runs: what is run, how it is kept, what is made of it.

Each column of a figure is an ordinary run in a folder of its own, so that it resumes, carries
recipes and can be compared like any other. The randomness of a picture depends on (seed, class,
chain) alone: the columns of a row start from the same codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.errors import UsageError
from gradgen.evaluation import metrics
from gradgen.evaluation.compare import JUDGE, Measured, RunPictures, load_run, measure
from gradgen.evaluation.metrics import Value
from gradgen.inference.diagnostics import running_mean
from gradgen.inference.traces import Traces
from gradgen.networks.catalog import PAPER_BUNDLES
from gradgen.networks.stream import apply_in_batches
from gradgen.run_files import RECORD_FILE
from gradgen.runs import run
from gradgen.runs.results import read_chains
from gradgen.runs.sample import SampleProgress, names_of
from gradgen.runs.settings import SampleSettings, make_settings

BUNDLE = "ten64"  # unless another is asked for
PAPER_BUDGET, EMBEDDED_BUDGET = 6000, 1000
MAP_BUDGET = 200  # the paper's MAP with clipping
# The paper's schedules, for --as-paper: steps a(b + t)^-γ and MALA's noise η/(1 + t)^γ decay, HMC's
# step stays, and a trajectory is ten of them. γ = 0.55 is Neelakantan et al.'s (2015) for the noise
# and Welling & Teh's (2011) for the steps.
PAPER_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "map": {"step_decay": 0.55},
    "mala": {"step_decay": 0.55, "noise_decay": 0.55},
    "hmc": {"num_integration_steps": 10},
}
# Classes: the paper's own where its classifier knows them; else ten64's.
PAPER_CLASSES = ("mask", "library", "leaf beetle", "lipstick", "beacon")
EMBEDDED_CLASSES = (
    "beacon", "goldfish", "lemon", "school bus", "monarch", "jellyfish", "king penguin", "pizza",
    "teapot", "sports car",
)  # fmt: skip
# Xu, Acuna & Duvenaud, Table 2: mean log-probability of being real by DCGAN's discriminator.
PAPER_TABLE2 = {"map-clip": -6.00, "mala-clip": -5.53, "mala": -9.79, "hmc": -7.96}
SMOOTHED_SHARE = 0.05  # of the steps, in the search for the reduced number

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Variant:
    """One way of drawing: a column of a figure, a row of a table.

    Attributes:
        key: of its folder.
        title: for people.
        options: of :func:`gradgen.runs.settings.make_settings`.
        clip: whether codes are kept in the box.
        stop_at: end after this many steps of the options' budget, or ``None``.
    """

    key: str
    title: str
    options: Mapping[str, Any]
    clip: bool
    stop_at: int | None = None


@dataclass(frozen=True)
class Experiment:
    """What all variants share.

    Attributes:
        folder: of the experiment; each variant has a folder in it.
        classes: the rows.
        bundle: name or folder.
        num_chains: pictures a class and variant.
        seed: of all randomness.
        likelihood_weight: β; ``None``: what the bundle recommends.
        as_paper: whether steps and noise decay as in the paper, and MAP takes its 200 steps.
        on_progress: called with (title, gradients done, gradients in all) of all variants.
        stop: asked after each block; once it says yes, the experiment ends with what is there.
    """

    folder: Path
    classes: tuple[str, ...]
    bundle: str = BUNDLE
    num_chains: int = 1
    seed: int = 0
    likelihood_weight: float | None = None
    as_paper: bool = False
    on_progress: OnProgress | None = field(default=None, compare=False)
    stop: Callable[[], bool] | None = field(default=None, compare=False)


def default_budget(bundle: str) -> int:
    """The paper's 6000 gradient evaluations for its own networks, fewer for embedded ones."""
    return PAPER_BUDGET if bundle in PAPER_BUNDLES else EMBEDDED_BUDGET


def default_classes(bundle: str, count: int) -> tuple[str, ...]:
    """So many classes that the bundle's own classifier knows."""
    if bundle == "places205":
        return ("alley", "coast", "bridge", "forest path", "lighthouse")[:count]
    return (PAPER_CLASSES if bundle in PAPER_BUNDLES else EMBEDDED_CLASSES)[:count]


def variant_of(method: str, clip: bool, budget: int, title: str | None = None) -> Variant:
    """A method with or without clipping, for a budget of gradient evaluations."""
    key = f"{method}-{budget}{'-clip' if clip else ''}"
    name = f"{method.upper()} {budget}{', clipped' if clip else ''}"
    return Variant(key, title or name, {"method": method, "budget": budget}, clip)


# --- running ----------------------------------------------------------------------------------


def run_variants(experiment: Experiment, variants: Sequence[Variant]) -> dict[str, RunPictures]:
    """Run what is not finished yet; {variant's key: its pictures}.

    Raises:
        UsageError: a folder holds a run of other settings.
        KeyboardInterrupt: the experiment was stopped; asking again goes on from there.
    """
    costs = [_gradients(experiment, variant) for variant in variants]
    total, before = sum(costs), 0
    for variant, cost in zip(variants, costs, strict=True):

        def show(
            block: SampleProgress,
            variant: Variant = variant,
            before: int = before,
            cost: int = cost,
        ) -> None:
            if experiment.on_progress is not None:
                share = block.gradient_evaluations / block.total_gradient_evaluations
                done = before + round(share * cost)
                experiment.on_progress(f"{variant.title}: {names_of(block.jobs)}", done, total)

        ran = _run(experiment, variant, show)
        before += cost
        if (
            ran
            and variant is not variants[-1]
            and experiment.stop is not None
            and experiment.stop()
        ):
            raise KeyboardInterrupt
        if experiment.on_progress is not None:
            experiment.on_progress(variant.title, before, total)
    return {variant.key: load_run(experiment.folder / variant.key) for variant in variants}


def _given(experiment: Experiment, variant: Variant) -> dict[str, Any]:
    given = {
        "classes": experiment.classes,
        "bundle": experiment.bundle,
        "num_chains": experiment.num_chains,
        "seed": experiment.seed,
        "likelihood_weight": experiment.likelihood_weight,
        **(PAPER_SCHEDULES[variant.options["method"]] if experiment.as_paper else {}),
        **variant.options,
    }
    return {name: value for name, value in given.items() if value is not None}


def settings_for(experiment: Experiment, variant: Variant) -> SampleSettings:
    """The settings that a variant is run with."""
    return make_settings(_given(experiment, variant), variant.clip)


def _gradients(experiment: Experiment, variant: Variant) -> int:
    """Gradient evaluations of all of a variant's chains; some more where a group is filled up."""
    settings = settings_for(experiment, variant)
    chains = len(experiment.classes) * experiment.num_chains
    return chains * settings.gradients_after(variant.stop_at)


def _run(experiment: Experiment, variant: Variant, show: Callable[[SampleProgress], None]) -> bool:
    """Run a variant, unless it is finished; returns whether there was anything to do."""
    folder, given = experiment.folder / variant.key, _given(experiment, variant)
    if (folder / RECORD_FILE).is_file():
        try:
            begun = run.resume(folder, given, variant.clip)
        except UsageError as error:
            raise UsageError(
                f"{error}; {experiment.folder} holds another experiment: choose another `out`"
            ) from error
        if not isinstance(begun, run.Run):
            return False
        if begun.plan.stop_at != variant.stop_at:
            raise UsageError(f"{folder} stops at another step; choose another `out`")
    else:
        begun = run.begin(given, variant.clip, out=folder, stop_at=variant.stop_at)
    samples = begun.execute(show, experiment.stop)
    if not samples.record.finished:
        raise KeyboardInterrupt
    return True


# --- figure 2 ---------------------------------------------------------------------------------


def figure2(experiment: Experiment, budget: int) -> tuple[list[Variant], dict[str, RunPictures]]:
    """The columns of figure 2 in its order, and their pictures.

    MALA with clipping is run for the whole budget; then the number of steps that it needed is
    found (:func:`steps_needed`), and the column shows the same chains stopped there.
    """
    long = [
        variant_of("map", True, MAP_BUDGET),
        variant_of("map", False, MAP_BUDGET),
        variant_of("map", True, budget),
        variant_of("map", False, budget),
        variant_of("mala", True, budget),
        variant_of("mala", False, budget),
        variant_of("hmc", False, budget),
    ]
    if budget == MAP_BUDGET:
        long = long[2:]
    pictures = run_variants(experiment, long)
    whole = next(
        variant for variant in long if variant.options["method"] == "mala" and variant.clip
    )
    steps = steps_needed(read_chains(experiment.folder / whole.key).traces)
    short = Variant(
        f"mala-clip-{steps}-steps", f"MALA {steps}, clipped", whole.options, True, stop_at=steps
    )
    pictures |= run_variants(experiment, [short])
    columns = [short if variant is whole else variant for variant in long]
    return columns, pictures


def steps_needed(traces: Traces) -> int:
    """After how many steps chains are as sure of their class as they will be.

    The first traced step at which the mean over chains of log p(class | g(z)), averaged over the
    last 5 % of the steps, reaches its mean over the second half of the run less one standard
    deviation of it (over that half).
    """
    mean = np.nanmean(traces.log_likelihood.astype(np.float64), axis=0)
    smooth = running_mean(mean[None], max(1, round(SMOOTHED_SHARE * len(mean))))[0]
    settled = smooth[len(smooth) // 2 :]
    reached = smooth >= settled.mean() - settled.std()
    return int(traces.step[np.argmax(reached)])


# --- figure 3 ---------------------------------------------------------------------------------


def figure3(
    experiment: Experiment, budget: int, count: int
) -> tuple[list[Variant], dict[str, RunPictures], dict[str, list[int]], dict[str, float | None]]:
    """Many chains of one class by MALA, HMC and MAP, and the ``count`` most different of each.

    Returns the variants, their pictures, {key: rows that were picked} and {key: mean cosine
    distance of those}. All three are picked from alike (:func:`metrics.farthest_points`, in the
    encoder's features), so that MAP is not at a disadvantage.
    """
    variants = [
        variant_of("mala", False, budget),
        variant_of("hmc", False, budget),
        variant_of("map", True, budget),
    ]
    pictures = run_variants(experiment, variants)
    encoder = _bundle(experiment).encoder
    picked: dict[str, list[int]] = {}
    distances: dict[str, float | None] = {}
    for key, found in pictures.items():
        features = apply_in_batches(encoder.apply, encoder.params, found.images)
        picked[key] = metrics.farthest_points(features, count)
        distances[key] = metrics.mean_cosine_distance(features[picked[key]])
    return variants, pictures, picked, distances


# --- table 2 ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableRow:
    """A method's line of table 2: mean over classes, standard error clustered by class."""

    key: str
    title: str
    pictures: int
    mean: float
    standard_error: float | None
    paper: float


@dataclass(frozen=True)
class Pair:
    """Two methods that are neighbours in the paper's order, the better method first.

    difference: mean over classes of (better - worse), its standard error over classes. holds: True
    or False by Student's t at 95 % with as many classes as there are, None where it cannot be told.
    """

    better: str
    worse: str
    difference: float
    standard_error: float | None
    holds: bool | None


@dataclass(frozen=True)
class Table2:
    """Table 2 anew: rows in the paper's order of methods, and whether that order holds."""

    rows: tuple[TableRow, ...]
    pairs: tuple[Pair, ...]
    num_classes: int
    discriminator: str
    seeds: tuple[int, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Our order, the best first."""
        return tuple(row.key for row in sorted(self.rows, key=lambda row: -row.mean))

    @property
    def holds(self) -> bool | None:
        """Whether every pair holds; False if any does not; None if some cannot be told."""
        verdicts = [pair.holds for pair in self.pairs]
        if False in verdicts:
            return False
        return None if None in verdicts else True


def table2(experiment: Experiment, budget: int, seeds: Sequence[int]) -> Table2:
    """Draw pictures by the four methods for each seed, and score them.

    MAP gets as many gradients as the others; as in the paper: 200.
    """
    map_budget = MAP_BUDGET if experiment.as_paper else budget
    variants = {
        "map-clip": variant_of("map", True, map_budget, "MAP, clipped"),
        "mala-clip": variant_of("mala", True, budget, "MALA, clipped"),
        "mala": variant_of("mala", False, budget, "MALA"),
        "hmc": variant_of("hmc", False, budget, "HMC"),
    }
    critic = _bundle(experiment).discriminator
    scores: dict[str, list[np.ndarray]] = {key: [] for key in variants}
    clusters: list[np.ndarray] = []
    for seed in seeds:
        own = Experiment(
            **{**vars(experiment), "seed": seed, "folder": experiment.folder / f"seed-{seed}"}
        )
        pictures = run_variants(own, list(variants.values()))
        for key, variant in variants.items():
            found = pictures[variant.key]
            scores[key].append(apply_in_batches(critic.apply, critic.params, found.images))
        clusters.append(pictures[variants["mala"].key].class_position)
    titles = {key: variant.title for key, variant in variants.items()}
    joined = {key: np.concatenate(parts) for key, parts in scores.items()}
    return make_table2(joined, np.concatenate(clusters), titles, critic.name, tuple(seeds))


def make_table2(
    scores: Mapping[str, np.ndarray],
    classes: np.ndarray,
    titles: Mapping[str, str],
    discriminator: str,
    seeds: tuple[int, ...] = (0,),
) -> Table2:
    """The table from scores (n,) of each method, the same pictures' classes (n,) for all.

    The design is paired: the same classes and the same starting codes. A difference is taken class
    by class, so that what is hard to draw is hard for both.
    """
    rows = tuple(
        TableRow(
            key,
            titles[key],
            len(scores[key]),
            *metrics.clustered_mean(scores[key], classes),
            PAPER_TABLE2[key],
        )
        for key in PAPER_TABLE2
    )
    order = sorted(PAPER_TABLE2, key=lambda key: -PAPER_TABLE2[key])
    num_classes = len(np.unique(classes))
    pairs = []
    for better, worse in pairwise(order):
        mean, error = metrics.clustered_mean(scores[better] - scores[worse], classes)
        sign = metrics.sign_of_mean(mean, error, num_classes)
        pairs.append(Pair(better, worse, mean, error, None if sign is None else sign > 0))
    return Table2(rows, tuple(pairs), num_classes, discriminator, seeds)


# --- the budget -------------------------------------------------------------------------------

BUDGETS = (50, 100, 200, 400, 800)
STUDIED = ("score", "own", "top5", "distance")


def budget_study(
    experiment: Experiment, budgets: Sequence[int]
) -> dict[tuple[str, bool], dict[int, dict[str, Value]]]:
    """{(method, clipped): {budget: {metric: value}}} for every method with and without clipping.

    Each budget is a run of its own: its warm-up is a share of it.
    """
    from gradgen.networks.load import load_classifier

    cells = [
        (method, clip, budget, variant_of(method, clip, budget))
        for method in ("map", "mala", "hmc")
        for clip in (True, False)
        for budget in budgets
        if method != "hmc" or budget >= 10  # less than a trajectory
    ]
    pictures = run_variants(experiment, [cell[3] for cell in cells])
    bundle, judge = _bundle(experiment), load_classifier(JUDGE)
    found: dict[tuple[str, bool], dict[int, dict[str, Value]]] = {}
    for number, (method, clip, budget, variant) in enumerate(cells, 1):
        measured: Measured = measure(pictures[variant.key], bundle, judge, seed=experiment.seed)
        found.setdefault((method, clip), {})[budget] = {
            key: measured.values[key] for key in STUDIED
        }
        if experiment.on_progress is not None:
            experiment.on_progress(f"measuring {variant.title}", number, len(cells))
    return found


def _bundle(experiment: Experiment) -> Any:
    from gradgen.networks.load import load_bundle

    return load_bundle(experiment.bundle)
