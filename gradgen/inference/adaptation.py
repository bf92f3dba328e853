"""Finding a step size: dual averaging on the acceptance probability, for each chain alone.

Hoffman & Gelman 2014, section 3.2. Each chain has its own step size, so that what a chain does
depends on nothing but its own key, however chains are batched.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

GAMMA, T0, KAPPA = 0.05, 10.0, 0.75  # their values
SHORT = 5  # updates


class DualAveraging(NamedTuple):
    """All (chains,); the number of updates may be a scalar.

    Attributes:
        log_step_size: of the next step.
        log_average: weighted average, the result.
        error: average of target acceptance less acceptance.
        anchor: mu, the point that the log step size shrinks towards.
        num_updates: so far.
    """

    log_step_size: Array
    log_average: Array
    error: Array
    anchor: Array
    num_updates: Array


def init(step_size: Array, num_updates: int = SHORT, alike: bool = True) -> DualAveraging:
    """Start from a guess (chains,).

    Args:
        num_updates: that are to come. The search is drawn towards ten times the guess, as theirs
            is; a SHORT one, which could not find back in time, towards the guess itself.
        alike: whether all chains are updated at the same steps, and so counted as one.
    """
    log_step_size = jnp.log(step_size)
    zero = jnp.zeros_like(log_step_size)
    reach = math.log(10.0 if num_updates >= SHORT else 1.0)
    count = jnp.float32(0) if alike else zero
    return DualAveraging(log_step_size, log_step_size, zero, reach + log_step_size, count)


def update(state: DualAveraging, acceptance_probability: Array, target: ArrayLike) -> DualAveraging:
    """Take in the acceptance probabilities (chains,) of one step (eq. 6 there)."""
    count = state.num_updates + 1
    weight = 1 / (count + T0)
    error = (1 - weight) * state.error + weight * (target - acceptance_probability)
    log_step_size = state.anchor - jnp.sqrt(count) / GAMMA * error
    forget = count**-KAPPA
    log_average = forget * log_step_size + (1 - forget) * state.log_average
    return DualAveraging(log_step_size, log_average, error, state.anchor, count)
