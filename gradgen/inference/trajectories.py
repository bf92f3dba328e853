"""Hamiltonian Monte Carlo with trajectories of a given length, a leapfrog step at a time.

The length of a trajectory is a time, in units of the prior's deviation, so the number of its
leapfrog steps follows from the step size. Chains have different step sizes and draw different
lengths; if a step of the driver were a whole trajectory, all chains would wait for the longest.
Here a step of the driver is one leapfrog step of every chain, and each chain ends its trajectory,
accepts or rejects and begins the next when its own time has come. So a step always costs one
gradient evaluation, and a budget is spent exactly.

The number of leapfrog steps is drawn independently of the chain's state, so the state after any
fixed number of gradient evaluations is distributed as after whole iterations.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.inference.clipping import Bounds, inside, project
from gradgen.inference.kernel import (
    KernelInfo,
    KernelState,
    acceptance_probability,
    select,
    split_keys,
)
from gradgen.inference.types import Evaluate

# A trajectory's length is multiplied by U(1 - JITTER, 1 + JITTER), or it could be the period of a
# direction of the target, in which a chain would then stay where it is. Around a quarter of the
# period of unit scale, wider jitter leaves ‖z‖² more correlated: 0.07 with 0.3, 0.18 with 0.5.
JITTER = 0.3
# Leapfrog steps. Only a step size that is far from right yet would ask for more.
MOST_STEPS = 1024


class Trajectory(NamedTuple):
    """A trajectory on its way; what it began from is the chain's own state.

    Attributes:
        position, momentum: (chains, code).
        kinetic_energy: (chains,), at its start.
        step_size: (chains,).
        remaining: (chains,) int32, leapfrog steps to go; at 0 the next trajectory begins.
        steps: (chains,) int32, leapfrog steps of the whole trajectory.
        mean_acceptance: (chains,), over the points so far, of the probability with which each
            would be accepted if the trajectory ended there. It tells more of the step size than
            the end alone does (Hoffman & Gelman 2014, eq. 12, do so too).
        last_acceptance: (chains,), acceptance probability of the latest trajectory that ended; NaN
            before the first.
        ended: (chains,) int32, trajectories that ended since the warm-up.
    """

    position: Array
    momentum: Array
    kinetic_energy: Array
    step_size: Array
    remaining: Array
    steps: Array
    mean_acceptance: Array
    last_acceptance: Array
    ended: Array


def init(position: Array) -> Trajectory:
    """No trajectory yet: each chain begins its first at the next step. position: (chains, code)."""
    zero, none = jnp.zeros(len(position)), jnp.zeros(len(position), jnp.int32)
    unknown = jnp.full(len(position), jnp.nan, jnp.float32)
    return Trajectory(
        position, jnp.zeros_like(position), zero, zero, none, none, zero, unknown, none
    )


def trajectory_step(
    keys: Array,
    state: KernelState,
    trajectory: Trajectory,
    evaluate: Evaluate,
    step_size: Array | float,
    length: Array | float,
    step_jitter: Array | float = 0.0,
    most_steps: Array | int = MOST_STEPS,
    bounds: Bounds | None = None,
    clip_mode: str = "none",
    leaders: Array | None = None,
) -> tuple[KernelState, Trajectory, KernelInfo]:
    """One leapfrog step of all chains; one gradient evaluation.

    Args:
        keys: (chains,) PRNG keys of this step, one a chain.
        state: where each chain's trajectory began.
        step_size: of trajectories that begin now, a scalar or one a chain.
        length: mean length of a trajectory in time: step size times leapfrog steps.
        step_jitter: as for :func:`gradgen.inference.hmc.hmc_step`, drawn for each trajectory.
        most_steps: leapfrog steps of a trajectory.
        bounds, clip_mode: see :mod:`gradgen.inference.clipping`.
        leaders: (chains,) int32, for each chain the one whose number of leapfrog steps it takes
            over, so that their trajectories end together; ``None``: each has its own.

    Returns the state, the trajectory and what the step tells. Where no trajectory has ended
    (``remaining`` is not 0), the acceptance probability means nothing.
    """
    momentum_keys, length_keys, jitter_keys, accept_keys = split_keys(keys, 4)
    begins = trajectory.remaining == 0
    fresh = jax.vmap(lambda key: jax.random.normal(key, state.position.shape[1:]))(momentum_keys)
    jitter = jax.vmap(lambda key: jax.random.uniform(key, minval=-1.0))(jitter_keys)
    wide = jax.vmap(lambda key: jax.random.uniform(key, minval=1.0 - JITTER, maxval=1.0 + JITTER))(
        length_keys
    )
    base = jnp.broadcast_to(step_size, keys.shape)
    size = jnp.where(begins, base * (1 + step_jitter * jitter), trajectory.step_size)
    steps = jnp.clip(jnp.ceil(length * wide / base), 1, most_steps).astype(jnp.int32)
    if leaders is not None:
        steps = steps[leaders]
    steps = jnp.where(begins, steps, trajectory.steps)
    remaining = jnp.where(begins, steps, trajectory.remaining) - 1
    kinetic = jnp.where(begins, 0.5 * jnp.sum(fresh**2, axis=-1), trajectory.kinetic_energy)

    each = size[:, None]
    first = begins[:, None]
    position = jnp.where(first, state.position, trajectory.position)
    momentum = jnp.where(first, fresh + 0.5 * each * state.evaluation.gradient, trajectory.momentum)
    position = position + each * momentum
    ended = remaining == 0
    position = jnp.where(ended[:, None], project(position, bounds, clip_mode), position)
    new = evaluate(position)
    kick = 0.5 * each * new.gradient
    momentum = momentum + kick
    log_ratio = (
        new.log_density
        - state.evaluation.log_density
        - 0.5 * jnp.sum(momentum**2, axis=-1)
        + kinetic
    )
    probability = acceptance_probability(log_ratio, inside(position, bounds, clip_mode))
    seen = (steps - remaining).astype(jnp.float32)
    mean = jnp.where(begins, 0.0, trajectory.mean_acceptance)
    mean = mean + (probability - mean) / seen
    accepted = ended & (jax.vmap(jax.random.uniform)(accept_keys) < probability)
    return (
        select(accepted, KernelState(position, new), state),
        trajectory._replace(
            position=position,
            momentum=momentum + kick,  # neighbouring half steps are one whole step
            kinetic_energy=kinetic,
            step_size=size,
            remaining=remaining,
            steps=steps,
            mean_acceptance=mean,
        ),
        KernelInfo(probability, accepted, position, log_ratio),
    )
