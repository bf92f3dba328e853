"""How a run is cut up: into blocks of steps, windows of the trace, and checks of agreement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradgen.inference.settings import BLOCK_GRADIENTS, SamplerSettings

CHECKS = 20  # of whether the chains agree, in a whole budget
CHECK_WINDOWS = 12  # from check to check is a multiple of so many, which blocks of many sizes fill


@dataclass(frozen=True)
class Timeline:
    """How a run is cut up: into windows, the points of the trace, and into blocks of steps.

    Attributes:
        num_steps: steps of the whole run.
        warmup_steps: how many of them adapt the step size.
        stride: steps of a window.
        num_points: points of the trace; the last window may be shorter than the others.
        block: steps between two looks at the chains.
        checked: whether the run ends once the chains agree, so that blocks end at the checks.
    """

    num_steps: int
    warmup_steps: int
    stride: int
    num_points: int
    block: int
    checked: bool = False

    @property
    def point_steps(self) -> np.ndarray:
        """(num_points,) steps done at each point of the trace."""
        return np.minimum((np.arange(self.num_points) + 1) * self.stride, self.num_steps)

    @property
    def check_every(self) -> int:
        """Steps between two checks of whether the chains agree; whole windows."""
        unit = CHECK_WINDOWS * self.stride
        return unit * math.ceil((self.num_steps - self.warmup_steps) / CHECKS / unit)

    def is_check(self, done: int) -> bool:
        """Whether, after ``done`` steps, it is time to check whether the chains agree.

        The steps are fixed, so that where chains stop does not depend on blocks.
        """
        return self.checked and done > self.warmup_steps and done % self.check_every == 0

    def next_block(self, done: int, end: int) -> tuple[int, int]:
        """(windows, steps of each) of the block that begins after ``done`` steps.

        A block is as many whole windows as it has room for. Where a window is longer than a block,
        or has begun in an earlier block, the block is a piece of that window.

        Args:
            done: steps done.
            end: steps after which the run ends.
        """
        block = self.block
        if self.checked:
            end = min(end, done - done % self.check_every + self.check_every)
            windows = self.check_every // self.stride
            room = self.block // self.stride
            # blocks of one size fill the way from check to check: another size is compiled anew
            fits = [size for size in range(1, room + 1) if windows % size == 0]
            block = fits[-1] * self.stride if fits else block
        within = done % self.stride
        whole = min(block, end - done) // self.stride
        if within == 0 and whole > 0:
            return whole, self.stride
        return 1, min(block, end - done, self.stride - within)


def timeline_of(settings: SamplerSettings) -> Timeline:
    """Cut a run into windows and blocks; depends on the settings only."""
    num_steps = settings.num_steps
    stride = -(-num_steps // settings.trace_length)
    block = settings.block_size or max(1, BLOCK_GRADIENTS // settings.gradients_per_step)
    return Timeline(
        num_steps,
        settings.warmup_steps,
        stride,
        -(-num_steps // stride),
        block,
        settings.until_r_hat is not None,
    )
