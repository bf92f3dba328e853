"""Did a run's chains converge, and what would help? From the run's folder, after the fact.

Nothing here needs JAX.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.errors import UsageError
from gradgen.files import write_atomically
from gradgen.inference.diagnostics import (
    LARGE_R_HAT,
    MIN_POINTS,
    in_agreement,
    summarise,
    worst_r_hat,
)
from gradgen.inference.traces import Traces
from gradgen.plots import diagnosis_figure, save_figure
from gradgen.run_files import diagnosis_file
from gradgen.runs.inference_data import inference_data, read_series
from gradgen.runs.record import ClassRecord, RunRecord, number, read_record
from gradgen.runs.results import read_chains
from gradgen.runs.settings import SampleSettings

SMALL_ESS = 400  # Vehtari et al. 2021 ask for more before means of the draws are used
# Around the rates that are best in theory: 0.574 for MALA (Roberts & Rosenthal 1998), 0.65 and more
# for HMC (Betancourt et al. 2014). Outside of these a chain moves clearly slower than it could.
CAREFUL = 0.9  # an acceptance to aim at where steps are too large here and there
FLOOR = 0.9  # a noise scale that leaves most of the acceptance
# Of 100 times 8 chains with an R-hat of 1.05 to 1.35, this many times what the R-hat asks for made
# 96 agree; 1.5 times 81 of them, and 2 times 89 (AR(1), coefficient 0.9, 100 draws).
AMPLE = 2.5
LONGEST = 16.0  # times the budget, that is proposed
LOW_ACCEPTANCE, HIGH_ACCEPTANCE = {"mala": 0.3, "hmc": 0.4}, {"mala": 0.85, "hmc": 0.97}


@dataclass(frozen=True, eq=False)
class ClassDiagnosis:
    """One class of a run.

    Attributes:
        name: of the class.
        series: {quantity: (chains, points)} after the warm-up.
        figures: {quantity: {"r_hat", "ess_bulk", "ess_tail"}}, as
            :func:`gradgen.inference.diagnostics.summarise` gives them.
        acceptance: of each chain, after the warm-up.
        step_size: of each chain, at the end.
        thinning: steps between two points of the trace.
        advice: what to change, in words; empty where all is well.
        divergent, nan_proposals: as in :class:`gradgen.runs.record.ClassRecord`.
    """

    name: str
    series: dict[str, np.ndarray]
    figures: dict[str, dict[str, float | None]]
    acceptance: list[float | None]
    step_size: list[float | None]
    thinning: float
    advice: tuple[str, ...]
    divergent: int | None = None
    nan_proposals: int | None = None

    @property
    def worst_r_hat(self) -> float | None:
        """The largest R-hat of all quantities."""
        return worst_r_hat(self.figures)

    @property
    def agree(self) -> bool | None:
        """Whether the chains look as if they drew from one distribution; None: cannot be told."""
        return in_agreement(self.figures)

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
            "divergent": self.divergent,
            "nan_proposals": self.nan_proposals,
            "advice": list(self.advice),
        }


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """A whole run.

    Attributes:
        folder: of the run; or a NetCDF file, which has neither record nor traces of ours.
        record: what its run.json holds.
        classes: the diagnosis of each class that has chains.
        traces: that they were made from.
        class_position: (chains,) which class each chain is of.
        files: plots and traces that were written.
    """

    folder: Path
    record: RunRecord | None
    classes: tuple[ClassDiagnosis, ...]
    traces: Traces | None
    class_position: np.ndarray
    files: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Numbers and words, without the traces."""
        return {
            "run": str(self.folder),
            "r_hat": "rank-normalised split R-hat (Vehtari et al. 2021)",
            "classes": [found.to_json() for found in self.classes],
            "files": [str(path) for path in self.files],
        }


def diagnose(
    run: str | os.PathLike[str],
    plot: bool = False,
    netcdf: str | os.PathLike[str] | None = None,
) -> Diagnosis:
    """Say whether the chains of a run agree, what they are worth, and what to change.

    Args:
        run: the folder of a run; or a NetCDF file with ArviZ InferenceData, of gradgen or of any
            other library, which is judged without advice on settings.
        plot: whether to draw traces and autocorrelations of each class into that folder; of a file
            nothing is drawn.
        netcdf: a file to write the traces of a run to, as ArviZ InferenceData.

    Returns:
        For each class rank-normalised split R-hat and effective sample sizes (in draws) of the
        traces since the warm-up, acceptance and step size of each chain, and advice, which names
        the arguments of :func:`gradgen.sample` in backquotes.

    Raises:
        UsageError: it is not a run's folder, or a run of MAP, which samples nothing.
        GradgenError: its files are broken.
    """
    if Path(run).is_file() and Path(run).suffix != ".json":
        if netcdf is not None:
            raise UsageError(f"{run} is a file of chains already; drop `netcdf`")
        return _read_file(Path(run))
    found = _read(Path(run))
    assert found.record is not None
    files = []
    if plot:
        for each in found.classes:
            several = len(found.classes) > 1
            path = found.folder / diagnosis_file(each.name if several else None)
            title = f"{each.name} · {found.record.settings.method}"
            save_figure(diagnosis_figure(each, title), path)
            files.append(path)
    if netcdf is not None:
        write_atomically(Path(netcdf), netcdf_bytes(found))
        files.append(Path(netcdf))
    return replace(found, files=tuple(files))


def _read_file(path: Path) -> Diagnosis:
    classes = []
    for name, series in read_series(path).items():
        figures = {quantity: summarise(draws) for quantity, draws in series.items()}
        made = ClassDiagnosis(name, series, figures, [], [], 1.0, ())
        advice = () if made.agree is not False else (_disagreement(figures)[1],)
        classes.append(replace(made, advice=advice))
    return Diagnosis(path, None, tuple(classes), None, np.zeros(0, np.int64))


def _disagreement(figures: Mapping[str, Mapping[str, float | None]]) -> tuple[float, str]:
    """The worst R-hat, and in words on which quantity chains disagree."""
    worst = max(((f["r_hat"] or 0, name) for name, f in figures.items()), default=(0.0, ""))
    return worst[0], f"the chains disagree on {worst[1]} (R̂ {worst[0]:.2f})"


def _read(folder: Path) -> Diagnosis:
    record = read_record(folder)
    if record.settings.method == "map":
        raise UsageError(f"{folder} is a run of MAP, which climbs to a maximum and samples nothing")
    chains = read_chains(folder)
    classes = []
    for position, job in enumerate(record.classes):
        own = chains.class_position == position
        if own.any():
            classes.append(_diagnose_class(record, job, chains.traces.of(own)))
    return Diagnosis(folder, record, tuple(classes), chains.traces, chains.class_position)


def _diagnose_class(record: RunRecord, job: ClassRecord, traces: Traces) -> ClassDiagnosis:
    series = traces.between(record.warmup_steps or 0, min(job.steps)).series()
    figures = {name: summarise(values) for name, values in series.items()}
    made = ClassDiagnosis(
        name=job.name,
        series=series,
        figures=figures,
        acceptance=list(job.acceptance_by_chain),
        step_size=list(job.step_size_by_chain),
        thinning=float(np.median(np.diff(traces.step))) if len(traces.step) > 1 else 1.0,
        advice=(),
        divergent=job.divergent,
        nan_proposals=job.nan_proposals,
    )
    return replace(made, advice=tuple(_advice(made, record.settings)))


def _advice(found: ClassDiagnosis, settings: SampleSettings) -> list[str]:
    """What to change, the most important first; arguments of `sample` are in backquotes."""
    method, budget, advice = settings.method, settings.budget, []
    points = found.series["log_density"].shape[1]
    if points < MIN_POINTS:
        return [f"only {points} points after the warm-up: too few to tell; raise `budget`"]
    still = [chain for chain, draws in enumerate(found.series["log_density"]) if np.ptp(draws) == 0]
    if still:
        listed = ", ".join(map(str, still[:8]))
        advice.append(f"chain {listed} never moved: give it a smaller `step_size`")
    worst, words = _disagreement(found.figures)
    if worst > LARGE_R_HAT:
        longer = f"raise `budget` (now {budget}), say to {longer_budget(budget, worst)}"
        more = ""
        if method == "mala":
            more = ", or use `method=hmc`, which moves farther for as many gradients"
        elif settings.num_integration_steps is not None:
            more = (
                f", or drop `num_integration_steps={settings.num_integration_steps}`: trajectories "
                "of `trajectory_length` move farther"
            )
        if settings.replicas == 1 and settings.clip_mode != "project":
            more += "; if each chain stays in a look of its own, `replicas=3` lets them change"
        advice.append(f"{words}: {longer}{more}")
    if found.divergent:
        advice.append(
            f"{found.divergent} proposals diverged (the energy was off by more than 1000): regions "
            f"that the step is too large for; smaller steps: `target_acceptance={CAREFUL}`"
        )
    if found.nan_proposals:
        advice.append(
            f"{found.nan_proposals} proposals had a density that is no number, and were rejected: "
            f"the networks overflow far from the data; smaller steps: `target_acceptance={CAREFUL}`"
        )
    if len(found.acceptance) == 1:
        advice.append("one chain cannot be compared with another: `num_chains=4` or more")
    known = [value for value in found.acceptance if value is not None]
    if known and annealed(settings) and float(np.mean(known)) < LOW_ACCEPTANCE[method]:
        advice.append(annealing_advice(settings, float(np.mean(known))))
    elif known:
        mean = float(np.mean(known))
        if mean < LOW_ACCEPTANCE[method]:
            advice.append(
                f"acceptance {mean:.2f} is low: a smaller `step_size`, or a longer warm-up"
            )
        elif mean > HIGH_ACCEPTANCE[method]:
            advice.append(f"acceptance {mean:.2f} is high: a larger `step_size` would move faster")
        if min(known) < 0.5 * mean:
            chain = found.acceptance.index(min(known))
            advice.append(
                f"chain {chain} accepts {min(known):.2f}, far below the mean {mean:.2f}: its "
                "warm-up ended in another region; a longer warm-up: `warmup_fraction`"
            )
    if settings.clip_mode == "project":
        advice.append("clipping by projection: the draws are not from the posterior, whatever R̂")
    sizes = [f["ess_bulk"] for f in found.figures.values() if f["ess_bulk"] is not None]
    if sizes and min(sizes) < SMALL_ESS and worst <= LARGE_R_HAT:
        advice.append(
            f"the smallest effective sample size is {min(sizes):.0f}: enough to look at pictures; "
            f"means of the draws want {SMALL_ESS}, by a larger `budget` or more `num_chains`"
        )
    return advice


def longer_budget(budget: int, r_hat: float) -> int:
    """A budget with which chains that have this R-hat would agree, to two digits.

    R̂² - 1 is one over the effective draws of half a chain, and so falls as chains become longer.
    It is multiplied by AMPLE for the error of the estimate. More than LONGEST times the budget is
    not proposed: chains that far apart may each be in a look of their own, and their R̂ says
    nothing of how long they would need.
    """
    factor = AMPLE * (r_hat**2 - 1) / (LARGE_R_HAT**2 - 1)
    wanted = budget * min(max(factor, 2.0), LONGEST)
    return int(float(f"{wanted:.1e}"))


def annealed(settings: SampleSettings) -> bool:
    """Whether MALA's noise falls below half of what its proposals are made for."""
    least = annealed_to(settings)
    return settings.method == "mala" and least < 0.5


def annealed_to(settings: SampleSettings) -> float:
    """The last noise scale of a run of MALA."""
    falling = settings.noise_scale / (1 + settings.num_steps) ** settings.noise_decay
    return max(settings.noise_floor, falling)


def annealing_advice(settings: SampleSettings, acceptance: float) -> str:
    """Why annealed noise leaves nothing accepted, and what helps."""
    return (
        f"acceptance {acceptance:.2f}: the noise is annealed to {annealed_to(settings):.2g}, and "
        "the accept step rejects what proposals with so little noise could not have come back "
        "from; neither a longer budget nor a smaller step helps. Stop the annealing: "
        f"`noise_floor={FLOOR}`, or drop `noise_decay` and `noise_scale`"
    )


# --- pictures and files -----------------------------------------------------------------------


def netcdf_bytes(diagnosis: Diagnosis) -> bytes:
    """The chains as ArviZ InferenceData (:func:`gradgen.runs.inference_data.inference_data`) in
    NetCDF form."""
    assert diagnosis.record is not None and diagnosis.traces is not None
    data = inference_data(diagnosis.record, diagnosis.traces, diagnosis.class_position)
    with tempfile.TemporaryDirectory() as folder:  # ArviZ writes to paths only
        path = Path(folder) / "run.nc"
        data.to_netcdf(str(path))
        return path.read_bytes()


def finite(values: list[float | None]) -> float | None:
    """Mean of those that are there."""
    known = [value for value in values if value is not None]
    return number(np.mean(known)) if known else None
