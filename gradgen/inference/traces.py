"""What is kept of a run's steps: a bounded number of points for each chain.

A point stands for a window of steps. The number of points does not grow with the run, so that a
run of a million steps takes no more memory than one of a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

FILE_PREFIX = "trace_"  # of the arrays' names in files, where other arrays stand beside them
NUM_PROJECTIONS = 4  # of z; more columns are the target's features


@dataclass(frozen=True, eq=False)
class Traces:
    """Quantities of all chains at the points of the trace; NaN where a chain has not come.

    Attributes:
        step: (points,) steps done at each point, the same for all chains.
        log_density, log_likelihood: (chains, points), at the end of each window.
        acceptance: (chains, points), mean acceptance probability over each window.
        step_size: (chains, points), mean over each window.
        squared_norm: (chains, points), ‖z‖² at the end of each window.
        projections: (chains, points, k), fixed random projections of z there, NUM_PROJECTIONS of
            them, and then the target's features: of a run those are fixed random projections of
            the classifier's log-probabilities of the picture.
    """

    step: np.ndarray
    log_density: np.ndarray
    log_likelihood: np.ndarray
    acceptance: np.ndarray
    step_size: np.ndarray
    squared_norm: np.ndarray
    projections: np.ndarray

    @classmethod
    def empty(cls, step: np.ndarray, num_chains: int, num_projections: int) -> Traces:
        """Traces of chains that have not begun."""
        shape = (num_chains, len(step))
        quantities = {name: np.full(shape, np.nan, np.float32) for name in QUANTITIES}
        quantities["projections"] = np.full((*shape, num_projections), np.nan, np.float32)
        return cls(step, **quantities)

    @property
    def num_chains(self) -> int:
        """Chains, the length of all arrays but ``step``."""
        return len(self.log_density)

    def copy(self) -> Traces:
        """The same numbers in arrays of their own."""
        return self._each(np.copy)

    def of(self, chains: np.ndarray) -> Traces:
        """The traces of some chains, chosen by a mask (chains,) or by their rows."""
        return self._each(lambda values: values[chains])

    def between(self, warmup_steps: int, last_step: int) -> Traces:
        """The points after the warm-up, up to a step."""
        kept = (self.step > warmup_steps) & (self.step <= last_step)
        return replace(self._each(lambda values: values[:, kept]), step=self.step[kept])

    def without_acceptance(self) -> Traces:
        """The same, with NaN as acceptance: for a method that accepts nothing."""
        return replace(self, acceptance=np.full_like(self.acceptance, np.nan))

    def on_points(self, step: np.ndarray) -> Traces:
        """The same chains' traces for a run that has been given other windows.

        Where the new windows are made of whole old ones, nothing is lost. Otherwise a point takes
        the values of the last old point before it.

        Args:
            step: (points,) steps done at each new point.

        Returns:
            Traces at these points; NaN at those that these traces have not reached.
        """
        edges = np.searchsorted(self.step, step, side="right")  # old points up to each new one
        reached = (step <= self.step[-1]) & (edges > 0)
        last = np.maximum(edges - 1, 0)
        found = self._each(lambda values: values[:, last])
        length = np.diff(self.step, prepend=0).astype(np.float32)
        starts = np.concatenate([[0], edges[:-1]])
        for name in ("acceptance", "step_size"):
            old, new = getattr(self, name), getattr(found, name)
            for point in np.flatnonzero(reached & (edges - starts > 1)):
                own = slice(starts[point], edges[point])
                new[:, point] = old[:, own] @ length[own] / length[own].sum()
        found._each(lambda values: values.__setitem__((slice(None), ~reached), np.nan))
        return replace(found, step=step)

    def write(self, point: int, windows: Mapping[str, np.ndarray]) -> None:
        """Enter the windows of a block, in place.

        Args:
            point: the first window's point.
            windows: {quantity: (chains, windows, ...)} of all quantities; chains and features
                beyond these traces' own are left out (earlier versions traced no features).
        """
        for name, values in windows.items():
            own = getattr(self, name)
            kept = values[: self.num_chains]
            if kept.ndim == 3:
                kept = kept[:, :, : own.shape[2]]
            own[:, point : point + values.shape[1]] = kept

    def series(self) -> dict[str, np.ndarray]:
        """{quantity: (chains, points) float64} of what says whether chains agree."""
        names = ("log_density", "log_likelihood", "squared_norm")
        found = {name: getattr(self, name) for name in names}
        for index in range(self.projections.shape[2]):
            feature = index - NUM_PROJECTIONS
            name = f"projection_{index}" if feature < 0 else f"log_probabilities_{feature}"
            found[name] = self.projections[:, :, index]
        return {name: values.astype(np.float64) for name, values in found.items()}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Under the names that files have; :meth:`from_arrays` is the inverse."""
        return {f"{FILE_PREFIX}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Traces:
        """Find the traces among a file's arrays.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays do not fit together.
        """
        found = cls(**{field.name: arrays[f"{FILE_PREFIX}{field.name}"] for field in fields(cls)})
        shape = (found.num_chains, len(found.step))
        wrong = [name for name in QUANTITIES if getattr(found, name).shape[:2] != shape]
        if wrong or found.step.ndim != 1 or found.projections.ndim != 3:
            raise ValueError(f"traces of different lengths: {', '.join(wrong) or 'step'}")
        return found

    def _each(self, change: Any) -> Traces:
        return replace(self, **{name: change(getattr(self, name)) for name in QUANTITIES})


# Everything that has a row for each chain.
QUANTITIES = tuple(field.name for field in fields(Traces) if field.name != "step")


def names_in_files() -> list[str]:
    """The names that :meth:`Traces.to_arrays` gives."""
    return [f"{FILE_PREFIX}{field.name}" for field in fields(Traces)]


def joined(parts: Sequence[Traces]) -> Traces:
    """The chains of several traces, one after another; their points are the same."""
    quantities = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in QUANTITIES
    }
    return replace(parts[0], **quantities)
