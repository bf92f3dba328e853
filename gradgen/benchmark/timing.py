"""Times loops in turns, and computes the ratios of their times."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loop:
    """A computation that is timed.

    Attributes:
        run: computes, and returns when all results are there.
        evaluations: how many gradients or products ``run`` computes. Times are divided by it.
    """

    run: Callable[[], Any]
    evaluations: int


@dataclass(frozen=True)
class Timings:
    """The times of all loops in seconds.

    Attributes:
        each: for each loop, the seconds per evaluation in every turn.
        first: for each loop, the seconds of the whole first call, including compilation.
    """

    each: Mapping[str, list[float]]
    first: Mapping[str, float]

    def median(self, name: str) -> float:
        """Return the median over the turns of a loop's seconds per evaluation."""
        return statistics.median(self.each[name])

    def ratio(self, name: str, other: str) -> float:
        """Return the median over the turns of the quotient of two loops' times.

        A load on the machine that lasts longer than a turn cancels out.
        """
        return statistics.median(map(operator.truediv, self.each[name], self.each[other]))


def seconds(run: Callable[[], Any]) -> float:
    """Measure how long a call takes, in seconds."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def in_turns(
    loops: Mapping[str, Loop], repeats: int, on_timing: Callable[[str], None] = lambda name: None
) -> Timings:
    """Time each loop ``repeats`` times. The loops take turns, so that a load slows all of them.

    Args:
        loops: the loops by name.
        repeats: number of turns.
        on_timing: called with a loop's name after each timing.
    """
    first = {}
    for name, loop in loops.items():
        first[name] = seconds(loop.run)  # includes the time to compile or to read the cache
        on_timing(f"compiled {name}")
    each: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(repeats):
        for name, loop in loops.items():
            each[name].append(seconds(loop.run) / loop.evaluations)
            on_timing(name)
    return Timings(each, first)
