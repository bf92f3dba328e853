"""Did a run's chains converge, and what would help? From the run's folder, after the fact."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.inference.diagnostics import MIN_POINTS, import_arviz, kept_series, summarise
from gradgen.samples import CHAINS_FILE, number, read_record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Vehtari et al. 2021 ask for 1.01 and an effective sample size of 400; 1.05 is where pictures of
# different chains are plainly of different distributions, and the issue's own limit.
LARGE_R_HAT, SMALL_ESS = 1.05, 400
LOW_ACCEPTANCE, HIGH_ACCEPTANCE = {"mala": 0.3, "hmc": 0.5}, {"mala": 0.85, "hmc": 0.97}
MAX_LAG = 200  # points of the trace in the autocorrelation plot
PANELS = ("log_density", "log_likelihood", "squared_norm", "projection_0")


@dataclass(frozen=True, eq=False)
class ClassDiagnosis:
    """One class of a run.

    Attributes:
        name: of the class.
        series: {quantity: (chains, points)} after the warm-up.
        figures: {quantity: {"r_hat", "ess_bulk", "ess_tail"}}.
        acceptance: of each chain, after the warm-up.
        step_size: of each chain, at the end.
        thinning: steps between two points of the trace.
        advice: what to change, in words; empty where all is well.
    """

    name: str
    series: dict[str, np.ndarray]
    figures: dict[str, dict[str, float | None]]
    acceptance: list[float | None]
    step_size: list[float | None]
    thinning: float
    advice: tuple[str, ...]

    @property
    def worst_r_hat(self) -> float | None:
        """The largest R-hat of all quantities."""
        known = [f["r_hat"] for f in self.figures.values() if f["r_hat"] is not None]
        return max(known, default=None)

    @property
    def agree(self) -> bool | None:
        """Whether the chains look as if they drew from one distribution; None: cannot be told."""
        return None if self.worst_r_hat is None else self.worst_r_hat <= LARGE_R_HAT

    def to_json(self) -> dict[str, Any]:
        """Without the series."""
        return {
            "class": self.name,
            "agree": self.agree,
            "worst_r_hat": self.worst_r_hat,
            "figures": self.figures,
            "acceptance_by_chain": self.acceptance,
            "step_size_by_chain": self.step_size,
            "thinning": self.thinning,
            "advice": list(self.advice),
        }


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """A whole run: its record, its classes, the traces that they were made from."""

    folder: Path
    record: dict[str, Any]
    classes: tuple[ClassDiagnosis, ...]
    traces: dict[str, np.ndarray]
    class_position: np.ndarray


def diagnose_run(folder: Path) -> Diagnosis:
    """Diagnose the run in a folder.

    Raises:
        UsageError: it is not a run's folder, or a run of MAP, which samples nothing.
        GradgenError: its files are broken.
    """
    record = read_record(folder)
    method = record["settings"]["method"]
    if method == "map":
        raise UsageError(f"{folder} is a run of MAP, which climbs to a maximum and samples nothing")
    arrays = read_chains(folder)
    traces = {
        name.removeprefix("trace_"): values
        for name, values in arrays.items()
        if name.startswith("trace_")
    }
    classes = []
    for position, job in enumerate(record["classes"]):
        own = arrays["class_position"] == position
        if own.any():
            mine = {name: v if name == "step" else v[own] for name, v in traces.items()}
            classes.append(_diagnose_class(record, job, mine))
    return Diagnosis(folder, record, tuple(classes), traces, arrays["class_position"])


def read_chains(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a run's chains.npz.

    Raises:
        UsageError: the run has none yet.
        GradgenError: the file is broken.
    """
    path = folder / CHAINS_FILE
    if not path.is_file():
        raise UsageError(
            f"{folder} has no {CHAINS_FILE} yet; 'gradgen sample --resume {folder}' finishes it"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a broken zip raises zlib.error, BadZipFile, ValueError …
        raise GradgenError(f"{path} is broken ({error})") from error


def _diagnose_class(
    record: Mapping[str, Any], job: Mapping[str, Any], traces: dict[str, np.ndarray]
) -> ClassDiagnosis:
    last = int(min(job["steps"]))
    series = kept_series(traces, record["warmup_steps"], last)
    figures = {name: summarise(values, "rank") for name, values in series.items()}
    steps = traces["step"]
    made = ClassDiagnosis(
        name=job["name"],
        series=series,
        figures=figures,
        acceptance=list(job["acceptance_by_chain"]),
        step_size=list(job["step_size_by_chain"]),
        thinning=float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0,
        advice=(),
    )
    settings = record["settings"]
    return ClassDiagnosis(**{**vars(made), "advice": tuple(_advice(made, settings))})


def _advice(found: ClassDiagnosis, settings: Mapping[str, Any]) -> list[str]:
    """What to change, the most important first."""
    method, budget, advice = settings["method"], settings["budget"], []
    points = found.series["log_density"].shape[1]
    if points < MIN_POINTS:
        return [f"only {points} points after the warm-up: too few to tell; raise --budget"]
    still = [chain for chain, draws in enumerate(found.series["log_density"]) if np.ptp(draws) == 0]
    if still:
        listed = ", ".join(map(str, still[:8]))
        advice.append(f"chain {listed} never moved: give it a smaller --step-size")
    worst = max(((f["r_hat"] or 0, name) for name, f in found.figures.items()), default=(0.0, ""))
    if worst[0] > LARGE_R_HAT:
        longer = f"raise --budget (now {budget}), say to {4 * budget}"
        more = (
            f", or let trajectories be longer: -L {2 * settings['num_integration_steps']}"
            if method == "hmc"
            else ", or use --method hmc, which moves farther for as many gradients"
        )
        advice.append(f"the chains disagree on {worst[1]} (R̂ {worst[0]:.2f}): {longer}{more}")
    if len(found.acceptance) == 1:
        advice.append("one chain cannot be compared with another: --num-chains 4 or more")
    known = [value for value in found.acceptance if value is not None]
    if known:
        mean = float(np.mean(known))
        if mean < LOW_ACCEPTANCE[method]:
            advice.append(
                f"acceptance {mean:.2f} is low: a smaller --step-size, or a longer warm-up"
            )
        elif mean > HIGH_ACCEPTANCE[method]:
            advice.append(f"acceptance {mean:.2f} is high: a larger --step-size would move faster")
        if min(known) < 0.5 * mean:
            chain = found.acceptance.index(min(known))
            advice.append(
                f"chain {chain} accepts {min(known):.2f}, far below the mean {mean:.2f}: its "
                "warm-up ended in another region; a longer one: --warmup-fraction"
            )
    if settings["clip_mode"] == "project":
        advice.append("clipping by projection: the draws are not from the posterior, whatever R̂")
    sizes = [f["ess_bulk"] for f in found.figures.values() if f["ess_bulk"] is not None]
    if sizes and min(sizes) < SMALL_ESS and worst[0] <= LARGE_R_HAT:
        advice.append(
            f"the smallest effective sample size is {min(sizes):.0f}: enough to look at pictures; "
            f"means of the draws want {SMALL_ESS}, by a larger --budget or more --num-chains"
        )
    return advice


# --- pictures and files -----------------------------------------------------------------------


def autocorrelation(draws: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """(chains, lags) autocorrelation of draws (chains, points), by ArviZ."""
    arviz = import_arviz()
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved
        return np.asarray(arviz.autocorr(draws, axis=-1))[:, : max_lag + 1]


def diagnosis_figure(found: ClassDiagnosis, title: str = "") -> Figure:
    """Traces (left) and autocorrelations (right) of four quantities, a line a chain."""
    from matplotlib.figure import Figure

    names = [name for name in PANELS if name in found.series]
    figure = Figure(figsize=(11, 2.1 * len(names) + 0.6), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, width_ratios=(2, 1))
    for (left, right), name in zip(axes, names, strict=True):
        draws = found.series[name]
        left.plot(draws.T, linewidth=0.6, alpha=0.7)
        left.set_ylabel(name.replace("_", " "))
        figures = found.figures[name]
        told = [
            f"{label} {figures[key]:{form}}"
            for key, label, form in (("r_hat", "R̂", ".3f"), ("ess_bulk", "ESS", ".0f"))
            if figures[key] is not None
        ]
        left.set_title(", ".join(told), fontsize="small", loc="right")
        if draws.shape[1] >= MIN_POINTS:
            correlation = autocorrelation(draws)
            right.plot(correlation.T, linewidth=0.5, alpha=0.5, color="tab:blue")
            right.plot(correlation.mean(0), color="black", linewidth=1.4)
        right.axhline(0, color="grey", linewidth=0.6)
        right.set_ylim(-0.4, 1.05)
        for axis in (left, right):
            axis.grid(alpha=0.3)
    axes[0, 1].set_title("autocorrelation", fontsize="small")
    axes[-1, 0].set_xlabel(f"point of the trace (one in {found.thinning:g} steps)")
    axes[-1, 1].set_xlabel("lag, points")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def netcdf_bytes(diagnosis: Diagnosis) -> bytes:
    """The chains as ArviZ InferenceData in NetCDF form.

    Group ``posterior``: the traced quantities, one variable each, with dimensions chain and draw;
    several classes' chains follow one another, ``class_index`` in ``sample_stats`` says whose.
    """
    arviz = import_arviz()

    record, traces = diagnosis.record, diagnosis.traces
    last = min(min(job["steps"]) for job in record["classes"] if job["steps"])
    series = kept_series(traces, record["warmup_steps"], int(last))
    kept = (traces["step"] > record["warmup_steps"]) & (traces["step"] <= last)
    shape = series["log_density"].shape
    position = diagnosis.class_position
    data = arviz.from_dict(
        posterior={
            # ArviZ means something else by log_likelihood
            "log_p_class" if name == "log_likelihood" else name: values
            for name, values in series.items()
            if name != "log_density"
        },
        sample_stats={
            "lp": series["log_density"],
            "acceptance_rate": traces["acceptance"][:, kept],
            "step_size": traces["step_size"][:, kept],
            "class_index": np.broadcast_to(position[:, None], shape).copy(),
        },
        attrs={
            "gradgen_settings": json.dumps(record["settings"], ensure_ascii=False),
            "gradgen_classes": json.dumps([job["name"] for job in record["classes"]]),
            "inference_library": "gradgen",
        },
    )
    with tempfile.TemporaryDirectory() as folder:  # ArviZ writes to paths only
        path = Path(folder) / "run.nc"
        data.to_netcdf(str(path))
        return path.read_bytes()


def finite(values: list[float | None]) -> float | None:
    """Mean of those that are there."""
    known = [value for value in values if value is not None]
    return number(np.mean(known)) if known else None
