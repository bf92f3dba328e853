"""Have the chains converged, and how many independent draws are they worth? (ArviZ)"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradgen.inference.traces import Traces

MAX_LAG = 200  # points of the trace that an autocorrelation reaches back
# Vehtari et al. 2021 ask for an R-hat of 1.01 before means of the draws are used; 1.05 is where
# RStan warns that chains have not mixed.
LARGE_R_HAT = 1.05
ENOUGH_ESS = 100  # of every quantity, before chains may stop of themselves
MIN_POINTS = 8  # of a trace; R-hat and the effective sample size mean nothing below


def diagnose_traces(
    traces: Traces, warmup_steps: int, last_step: int
) -> dict[str, dict[str, float | None]]:
    """R-hat and effective sample sizes of the traces since the warm-up.

    Returns a dictionary from each quantity of :meth:`Traces.series` to what :func:`summarise`
    gives.
    """
    series = traces.between(warmup_steps, last_step).series()
    return {name: summarise(draws) for name, draws in series.items()}


def worst_r_hat(figures: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """The largest R-hat of all quantities; ``None`` where no quantity has any."""
    return max((f["r_hat"] for f in figures.values() if f["r_hat"] is not None), default=None)


def smallest_ess(figures: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """The smallest bulk effective sample size of all quantities; as :func:`worst_r_hat`."""
    return min((f["ess_bulk"] for f in figures.values() if f["ess_bulk"] is not None), default=None)


def in_agreement(
    figures: Mapping[str, Mapping[str, float | None]], largest: float = LARGE_R_HAT
) -> bool | None:
    """Whether no quantity's R-hat is above ``largest``; ``None``: it cannot be told."""
    worst = worst_r_hat(figures)
    return None if worst is None else worst <= largest


def enough(traces: Traces, warmup_steps: int, last_step: int, largest: float) -> bool:
    """Whether chains may stop: of each quantity R-hat is below ``largest``, and the bulk effective
    sample size above ENOUGH_ESS."""
    for draws in traces.between(warmup_steps, last_step).series().values():
        found = summarise(draws)
        r_hat, size = found["r_hat"], found["ess_bulk"]
        if r_hat is None or size is None or r_hat >= largest or size <= ENOUGH_ESS:
            return False
    return True


def summarise(draws: np.ndarray) -> dict[str, float | None]:
    """R-hat and effective sample sizes of draws (chains, points); Vehtari et al. 2021.

    Returns:
        "r_hat": rank-normalised split R-hat, the same number wherever gradgen shows one.
        "ess_bulk", "ess_tail": effective sample sizes, of the middle and of the tails.
        Each is None where the trace is too short or does not move; R-hat also where there is a
        single chain.
    """
    num_chains, num_points = draws.shape
    if num_points < MIN_POINTS or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return {"r_hat": None, "ess_bulk": None, "ess_tail": None}
    arviz = import_arviz()
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved: None below
        figures: dict[str, Any] = {
            "r_hat": arviz.rhat(draws, method="rank") if num_chains > 1 else None,
            "ess_bulk": arviz.ess(draws, method="bulk"),
            "ess_tail": arviz.ess(draws, method="tail"),
        }
    return {
        name: float(value) if value is not None and np.isfinite(value) else None
        for name, value in figures.items()
    }


def autocorrelation(draws: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """(chains, lags) autocorrelation of draws (chains, points), by ArviZ."""
    arviz = import_arviz()
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved
        return np.asarray(arviz.autocorr(draws, axis=-1))[:, : max_lag + 1]


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means over the ``width`` points up to each point (fewer at the start), of rows (n, points).

    Points that are not finite are left out; where nothing is left, NaN.
    """
    held = np.isfinite(values)
    sums, counts = (
        np.cumsum(np.pad(part, ((0, 0), (width, 0))), axis=1, dtype=float)
        for part in (np.where(held, values, 0.0), held)
    )
    count = counts[:, width:] - counts[:, :-width]
    total = sums[:, width:] - sums[:, :-width]
    return np.where(held & (count > 0), total / np.maximum(count, 1), np.nan)


def import_arviz() -> Any:
    """ArviZ, without its notice that it is being rewritten: nothing that a user can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz
