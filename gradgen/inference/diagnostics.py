"""Have the chains converged, and how many independent draws are they worth? (ArviZ)"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from gradgen.inference.chain import ChainResult

MIN_POINTS = 8  # of a trace; split R-hat and the effective sample size mean nothing below


def diagnose(result: ChainResult) -> dict[str, dict[str, float | None]]:
    """Split R-hat and effective sample sizes of the trace since the warm-up.

    Returns a dictionary from "log_density" and "projection_0", ... to "r_hat" (split, not
    rank-normalised), "ess_bulk" and "ess_tail" (Vehtari et al. 2021); None where the trace is too
    short, has one chain only (R-hat) or does not move.
    """
    return diagnose_traces(result.traces, result.warmup_steps, result.step)


def diagnose_traces(
    traces: dict[str, np.ndarray], warmup_steps: int, last_step: int
) -> dict[str, dict[str, float | None]]:
    """:func:`diagnose`, of traces alone."""
    series = kept_series(traces, warmup_steps, last_step)
    names = [name for name in series if name == "log_density" or name.startswith("projection_")]
    return {name: summarise(series[name]) for name in names}


def kept_series(
    traces: dict[str, np.ndarray], warmup_steps: int, last_step: int
) -> dict[str, np.ndarray]:
    """{quantity: (chains, points) float64} of the trace after the warm-up."""
    kept = (traces["step"] > warmup_steps) & (traces["step"] <= last_step)
    names = ("log_density", "log_likelihood", "squared_norm")
    series = {name: traces[name][:, kept] for name in names if name in traces}
    for index in range(traces["projections"].shape[2]):
        series[f"projection_{index}"] = traces["projections"][:, kept, index]
    return {name: values.astype(np.float64) for name, values in series.items()}


def summarise(draws: np.ndarray, r_hat: str = "split") -> dict[str, float | None]:
    """R-hat and effective sample sizes of draws (chains, points).

    r_hat: "split" or "rank", rank-normalised split R-hat (Vehtari et al. 2021).
    """
    num_chains, num_points = draws.shape
    if num_points < MIN_POINTS or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return {"r_hat": None, "ess_bulk": None, "ess_tail": None}
    arviz = import_arviz()
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved: None below
        figures: dict[str, Any] = {
            "r_hat": arviz.rhat(draws, method=r_hat) if num_chains > 1 else None,
            "ess_bulk": arviz.ess(draws, method="bulk"),
            "ess_tail": arviz.ess(draws, method="tail"),
        }
    return {
        name: float(value) if value is not None and np.isfinite(value) else None
        for name, value in figures.items()
    }


def import_arviz() -> Any:
    """ArviZ, without its notice that it is being rewritten: nothing that a user can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz
