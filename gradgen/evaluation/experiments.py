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

from gradgen import run
from gradgen.catalog import ORIGINALS
from gradgen.errors import UsageError
from gradgen.evaluation import metrics
from gradgen.evaluation.compare import JUDGE, Measured, RunPictures, Value, load_run, measure
from gradgen.evaluation.diagnose import read_chains
from gradgen.evaluation.features import evaluate
from gradgen.plots import running_mean
from gradgen.samples import RECORD_FILE
from gradgen.sampling import SampleProgress, names_of, sampler_settings
from gradgen.settings import make_settings

PAPER_BUDGET, EMBEDDED_BUDGET = 6000, 1000
MAP_BUDGET = 200  # the paper's MAP with clipping
# Classes: the paper's own where its classifier knows them; else some that tiny64 was trained on.
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
        options: of :func:`gradgen.settings.make_settings`.
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
        on_progress: called with (title, gradients done, gradients in all) of all variants.
        stop: asked after each block; once it says yes, the experiment ends with what is there.
    """

    folder: Path
    classes: tuple[str, ...]
    bundle: str = "tiny64"
    num_chains: int = 1
    seed: int = 0
    likelihood_weight: float | None = None
    on_progress: OnProgress | None = field(default=None, compare=False)
    stop: Callable[[], bool] | None = field(default=None, compare=False)


def default_budget(bundle: str) -> int:
    """The paper's 6000 gradient evaluations for its own networks, fewer for embedded ones."""
    return PAPER_BUDGET if bundle in ORIGINALS else EMBEDDED_BUDGET


def default_classes(bundle: str, count: int) -> tuple[str, ...]:
    """So many classes that the bundle's own classifier knows."""
    if bundle == "places205":
        return ("alley", "coast", "bridge", "forest path", "lighthouse")[:count]
    return (PAPER_CLASSES if bundle in ORIGINALS else EMBEDDED_CLASSES)[:count]


def variant(method: str, clip: bool, budget: int, title: str | None = None) -> Variant:
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
    costs = [_gradients(experiment, one) for one in variants]
    total, before = sum(costs), 0
    for one, cost in zip(variants, costs, strict=True):

        def show(
            block: SampleProgress, one: Variant = one, before: int = before, cost: int = cost
        ) -> None:
            if experiment.on_progress is not None:
                share = block.gradient_evaluations / block.total_gradient_evaluations
                done = before + round(share * cost)
                experiment.on_progress(f"{one.title}: {names_of(block.jobs)}", done, total)

        ran = _run(experiment, one, show)
        before += cost
        if ran and one is not variants[-1] and experiment.stop is not None and experiment.stop():
            raise KeyboardInterrupt
        if experiment.on_progress is not None:
            experiment.on_progress(one.title, before, total)
    return {one.key: load_run(experiment.folder / one.key) for one in variants}


def _given(experiment: Experiment, one: Variant) -> dict[str, Any]:
    given = {
        "classes": experiment.classes,
        "bundle": experiment.bundle,
        "num_chains": experiment.num_chains,
        "seed": experiment.seed,
        "likelihood_weight": experiment.likelihood_weight,
        **one.options,
    }
    return {name: value for name, value in given.items() if value is not None}


def _gradients(experiment: Experiment, one: Variant) -> int:
    """Gradient evaluations of all of a variant's chains; some more where a group is filled up."""
    sampler = sampler_settings(make_settings(_given(experiment, one), one.clip))
    chains = len(experiment.classes) * experiment.num_chains
    return chains * sampler.gradients_after(one.stop_at)


def _run(experiment: Experiment, one: Variant, show: Callable[[SampleProgress], None]) -> bool:
    """Run a variant, unless it is finished; returns whether there was anything to do."""
    folder, given = experiment.folder / one.key, _given(experiment, one)
    if (folder / RECORD_FILE).is_file():
        try:
            begun = run.resume(folder, given, one.clip)
        except UsageError as error:
            raise UsageError(
                f"{error}; {experiment.folder} holds another experiment: choose another --out"
            ) from error
        if not isinstance(begun, run.Run):
            return False
        if begun.plan.stop_at != one.stop_at:
            raise UsageError(f"{folder} stops at another step; choose another --out")
    else:
        begun = run.begin(given, one.clip, out=folder, stop_at=one.stop_at)
    samples = begun.execute(show, experiment.stop)
    if samples.record["status"] != "finished":
        raise KeyboardInterrupt
    return True


# --- figure 2 ---------------------------------------------------------------------------------


def figure2(experiment: Experiment, budget: int) -> tuple[list[Variant], dict[str, RunPictures]]:
    """The columns of figure 2 in its order, and their pictures.

    MALA with clipping is run for the whole budget; then the number of steps that it needed is
    found (:func:`steps_needed`), and the column shows the same chains stopped there.
    """
    long = [
        variant("map", True, MAP_BUDGET),
        variant("map", False, MAP_BUDGET),
        variant("map", True, budget),
        variant("map", False, budget),
        variant("mala", True, budget),
        variant("mala", False, budget),
        variant("hmc", False, budget),
    ]
    if budget == MAP_BUDGET:
        long = long[2:]
    pictures = run_variants(experiment, long)
    whole = next(one for one in long if one.options["method"] == "mala" and one.clip)
    steps = steps_needed(read_chains(experiment.folder / whole.key))
    short = Variant(
        f"mala-clip-{steps}-steps", f"MALA {steps}, clipped", whole.options, True, stop_at=steps
    )
    pictures |= run_variants(experiment, [short])
    columns = [short if one is whole else one for one in long]
    return columns, pictures


def steps_needed(arrays: Mapping[str, np.ndarray]) -> int:
    """After how many steps chains are as sure of their class as they will be.

    The first traced step at which the mean over chains of log p(class | g(z)), averaged over the
    last 5 % of the steps, reaches its mean over the second half of the run less one standard
    deviation of it (over that half).
    """
    steps = arrays["trace_step"]
    mean = np.nanmean(arrays["trace_log_likelihood"].astype(np.float64), axis=0)
    smooth = running_mean(mean[None], max(1, round(SMOOTHED_SHARE * len(mean))))[0]
    settled = smooth[len(smooth) // 2 :]
    reached = smooth >= settled.mean() - settled.std()
    return int(steps[np.argmax(reached)])


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
        variant("mala", False, budget),
        variant("hmc", False, budget),
        variant("map", True, MAP_BUDGET),
    ]
    pictures = run_variants(experiment, variants)
    encoder = _bundle(experiment).encoder
    picked: dict[str, list[int]] = {}
    distances: dict[str, float | None] = {}
    for key, found in pictures.items():
        features = evaluate(encoder.apply, encoder.params, found.images)
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
    """Two methods that are neighbours in the paper's order, the better one first.

    difference: mean over classes of (better - worse), its standard error over classes. holds:
    True, False, or None where the difference is within two standard errors.
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
    discriminator: str
    seeds: tuple[int, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Our order, the best first."""
        return tuple(row.key for row in sorted(self.rows, key=lambda row: -row.mean))

    @property
    def holds(self) -> bool | None:
        """Whether every pair holds; False if one does not; None if some cannot be told."""
        verdicts = [pair.holds for pair in self.pairs]
        if False in verdicts:
            return False
        return None if None in verdicts else True


def table2(experiment: Experiment, budget: int, seeds: Sequence[int]) -> Table2:
    """Draw pictures by the four methods for each seed, and score them."""
    variants = {
        "map-clip": variant("map", True, MAP_BUDGET, "MAP, clipped"),
        "mala-clip": variant("mala", True, budget, "MALA, clipped"),
        "mala": variant("mala", False, budget, "MALA"),
        "hmc": variant("hmc", False, budget, "HMC"),
    }
    critic = _bundle(experiment).discriminator
    scores: dict[str, list[np.ndarray]] = {key: [] for key in variants}
    clusters: list[np.ndarray] = []
    for seed in seeds:
        own = Experiment(
            **{**vars(experiment), "seed": seed, "folder": experiment.folder / f"seed-{seed}"}
        )
        pictures = run_variants(own, list(variants.values()))
        for key, one in variants.items():
            found = pictures[one.key]
            scores[key].append(evaluate(critic.apply, critic.params, found.images))
        clusters.append(pictures[variants["mala"].key].class_position)
    titles = {key: one.title for key, one in variants.items()}
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
    pairs = []
    for better, worse in pairwise(order):
        mean, error = metrics.clustered_mean(scores[better] - scores[worse], classes)
        clear = error is not None and abs(mean) > 2 * error
        pairs.append(Pair(better, worse, mean, error, mean > 0 if clear else None))
    return Table2(rows, tuple(pairs), discriminator, seeds)


# --- the budget -------------------------------------------------------------------------------

BUDGETS = (50, 100, 200, 400, 800)
STUDIED = ("score", "own", "top5", "distance")


def budget_study(
    experiment: Experiment, budgets: Sequence[int]
) -> dict[tuple[str, bool], dict[int, dict[str, Value]]]:
    """{(method, clipped): {budget: {metric: value}}} for every method with and without clipping.

    Each budget is a run of its own: its warm-up is a share of it.
    """
    from gradgen.bundle import load_classifier

    cells = [
        (method, clip, budget, variant(method, clip, budget))
        for method in ("map", "mala", "hmc")
        for clip in (True, False)
        for budget in budgets
        if method != "hmc" or budget >= 10  # less than one trajectory
    ]
    pictures = run_variants(experiment, [cell[3] for cell in cells])
    bundle, judge = _bundle(experiment), load_classifier(JUDGE)
    found: dict[tuple[str, bool], dict[int, dict[str, Value]]] = {}
    for number, (method, clip, budget, one) in enumerate(cells, 1):
        measured: Measured = measure(pictures[one.key], bundle, judge, seed=experiment.seed)
        found.setdefault((method, clip), {})[budget] = {
            key: measured.values[key] for key in STUDIED
        }
        if experiment.on_progress is not None:
            experiment.on_progress(f"measuring {one.title}", number, len(cells))
    return found


def _bundle(experiment: Experiment) -> Any:
    from gradgen.bundle import load_bundle

    return load_bundle(experiment.bundle)
