"""What a target gives, and the settings that say how it is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax import Array

METHODS = ("map", "mala", "hmc")
CLIP_MODES = ("none", "project", "reject")
# Roberts & Rosenthal 1998 for MALA; Betancourt et al. 2014 for HMC
TARGET_ACCEPTANCE = {"mala": 0.574, "hmc": 0.8}
LEAST_WARMUP = 5  # steps, or half of them where there are fewer than ten
MAP_STEP_SIZE = 0.02  # tiny64 settles in 200 steps; at 0.05 long runs jump out of their maximum


class Evaluation(NamedTuple):
    """A target at the positions of all chains, from one forward and one backward pass.

    Attributes:
        log_density: (chains,), unnormalised.
        gradient: (chains, code), of the log density.
        log_likelihood: (chains,), for the trace; a target without one repeats the log density.
    """

    log_density: Array
    gradient: Array
    log_likelihood: Array


Evaluate = Callable[[Array], Evaluation]  # z (chains, code) -> Evaluation
ValueAndGrad = Callable[[Any, Array], Evaluation]  # the same with the parameters in front


@dataclass(frozen=True)
class SamplerSettings:
    """How to sample; the symbols are the paper's.

    Attributes:
        method: "map" (Algorithm 1), "mala" (Algorithm 2) or "hmc".
        budget: gradient evaluations a chain, warm-up included; an HMC iteration takes
            ``num_integration_steps`` of them. The evaluation at the start comes on top.
        step_size: a, alpha_t at t = 0. None: found by dual averaging in a warm-up (MALA, HMC), or
            0.02 for MAP.
        step_decay, step_decay_offset: gamma and b of alpha_t = a ((b + t) / b)^-gamma, Teh et
            al.'s a(b + t)^-gamma scaled so that a is the first step; t counts from the warm-up's
            end. gamma = 0 keeps it constant, which is what leaves the target invariant for ever.
        noise_scale, noise_decay: eta and gamma of epsilon_t = eta / (1 + t)^gamma, MALA's annealed
            noise (Neelakantan et al. 2015; 0.55 there).
        num_integration_steps: L, leapfrog steps an iteration.
        step_jitter: HMC's step size is multiplied by a number from U(1 - jitter, 1 + jitter) at
            each iteration.
        clip_mode: what happens outside the bounds, if bounds are given: "project" (the paper's
            clipping, a heuristic that does not leave the target invariant), "reject" (exact for
            the target truncated to the box) or "none".
        preset: "dgn-am" (MAP only): step size linearly from a (8 unless set) to 1e-10 over the
            budget, positions multiplied by 0.99 after each step. The target must give DGN-AM's
            normalised direction as its gradient.
        target_acceptance: of the warm-up; None: 0.574 for MALA, 0.8 for HMC.
        warmup_fraction: share of the budget for the warm-up, if there is one; LEAST_WARMUP steps
            at least.
        block_size: steps between two looks at the chains; None: about 50 gradient evaluations.
            Does not change results.
        trace_length: at most so many points are kept of each trace.
        num_projections: fixed random unit projections of z in the trace.
    """

    method: str = "mala"
    budget: int = 6000
    step_size: float | None = None
    step_decay: float = 0.0
    step_decay_offset: float = 1.0
    noise_scale: float = 1.0
    noise_decay: float = 0.0
    num_integration_steps: int = 10
    step_jitter: float = 0.0
    clip_mode: str = "none"
    preset: str | None = None
    target_acceptance: float | None = None
    warmup_fraction: float = 0.15
    block_size: int | None = None
    trace_length: int = 1000
    num_projections: int = 4

    @property
    def gradients_per_step(self) -> int:
        """1, or L for HMC."""
        return self.num_integration_steps if self.method == "hmc" else 1

    @property
    def num_steps(self) -> int:
        """Steps (MAP, MALA) or iterations (HMC) that the budget pays for."""
        return self.budget // self.gradients_per_step

    def gradients_after(self, steps: int | None = None) -> int:
        """Gradient evaluations of a chain, the one at its start included, after so many steps.

        ``None``: after all; no more than all are counted.
        """
        done = self.num_steps if steps is None else min(steps, self.num_steps)
        return 1 + done * self.gradients_per_step

    @property
    def warmup_steps(self) -> int:
        """Steps in which the step size is adapted."""
        if self.method == "map" or self.step_size is not None:
            return 0
        least = max(1, min(LEAST_WARMUP, self.num_steps // 2))
        return max(least, int(self.num_steps * self.warmup_fraction))

    def validate(self) -> SamplerSettings:
        """Return the settings.

        Raises:
            ValueError: one of them makes no sense; the message says which and why.
        """
        _require(self.method in METHODS, f"method must be one of {METHODS}, not {self.method!r}")
        _require(
            self.clip_mode in CLIP_MODES,
            f"clip_mode must be one of {CLIP_MODES}, not {self.clip_mode!r}",
        )
        _require(self.preset in (None, "dgn-am"), f"unknown preset {self.preset!r}; try 'dgn-am'")
        _require(
            self.preset is None or self.method == "map",
            f"preset {self.preset!r} is a rule for method 'map', not {self.method!r}",
        )
        _require(self.num_integration_steps >= 1, "num_integration_steps must be at least 1")
        _require(
            self.num_steps >= 1,
            f"a budget of {self.budget} gradient evaluations does not pay for one step of "
            f"{self.gradients_per_step}",
        )
        for name in ("step_size", "step_decay_offset", "noise_scale"):
            value = getattr(self, name)
            _require(
                value is None or (math.isfinite(value) and value > 0),
                f"{name} must be a positive number, not {value}",
            )
        for name in ("step_decay", "noise_decay"):
            value = getattr(self, name)
            _require(
                math.isfinite(value) and value >= 0, f"{name} must not be negative, but is {value}"
            )
        _require(
            0 <= self.step_jitter < 1, f"step_jitter must be in [0, 1), not {self.step_jitter}"
        )
        _require(
            self.target_acceptance is None or 0 < self.target_acceptance < 1,
            f"target_acceptance must be between 0 and 1, not {self.target_acceptance}",
        )
        _require(
            0 < self.warmup_fraction < 1,
            f"warmup_fraction must be between 0 and 1, not {self.warmup_fraction}",
        )
        _require(self.block_size is None or self.block_size >= 1, "block_size must be at least 1")
        _require(self.trace_length >= 1, "trace_length must be at least 1")
        _require(self.num_projections >= 0, "num_projections must not be negative")
        return self


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
