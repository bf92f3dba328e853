"""Timing loops in turns, and ratios of their times."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loop:
    """Something to time.

    Attributes:
        run: returns when everything that it computes is there.
        evaluations: how many it takes; a time is one of them.
    """

    run: Callable[[], Any]
    evaluations: int


@dataclass(frozen=True)
class Timings:
    """Seconds an evaluation, by loop and turn; of the first call, in all, compilation included."""

    each: Mapping[str, list[float]]
    first: Mapping[str, float]

    def median(self, name: str) -> float:
        """Seconds an evaluation."""
        return statistics.median(self.each[name])

    def ratio(self, name: str, other: str) -> float:
        """Median of the turns' quotients: a load that lasts longer than a turn cancels out."""
        return statistics.median(map(operator.truediv, self.each[name], self.each[other]))


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def in_turns(
    loops: Mapping[str, Loop], repeats: int, on_timing: Callable[[str], None] = lambda name: None
) -> Timings:
    """Time each loop ``repeats`` times, one after the other, so that a load falls on all alike."""
    first = {}
    for name, loop in loops.items():
        first[name] = seconds(loop.run)  # compiles, or reads the cache
        on_timing(f"compiled {name}")
    each: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(repeats):
        for name, loop in loops.items():
            each[name].append(seconds(loop.run) / loop.evaluations)
            on_timing(name)
    return Timings(each, first)
