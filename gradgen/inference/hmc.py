"""Hamiltonian Monte Carlo with the leapfrog integrator and a unit mass matrix (Neal 2011)."""

from __future__ import annotations

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
from gradgen.inference.types import Evaluate, Evaluation


def leapfrog(
    position: Array,
    momentum: Array,
    evaluation: Evaluation,
    evaluate: Evaluate,
    step_size: Array,
    num_integration_steps: int,
    bounds: Bounds | None = None,
    clip_mode: str = "none",
) -> tuple[Array, Array, Evaluation]:
    """Integrate dz = p dt, dp = grad log_density(z) dt for L steps; L gradient evaluations.

    Args:
        position, momentum: (chains, code).
        evaluation: of the target at the position.
        step_size: (chains, 1).

    Returns position, momentum and the evaluation at the end. Neighbouring half steps of the
    momentum are merged, so that L steps take L gradients and not 2 L. In clip mode "project" the
    last position is clipped before it is evaluated.
    """
    momentum = momentum + 0.5 * step_size * evaluation.gradient

    def inner(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        position, momentum = carry
        position = position + step_size * momentum
        return position, momentum + step_size * evaluate(position).gradient

    position, momentum = jax.lax.fori_loop(
        0, num_integration_steps - 1, inner, (position, momentum)
    )
    position = project(position + step_size * momentum, bounds, clip_mode)
    end = evaluate(position)
    return position, momentum + 0.5 * step_size * end.gradient, end


def hmc_step(
    keys: Array,
    state: KernelState,
    evaluate: Evaluate,
    step_size: Array | float,
    num_integration_steps: int,
    step_jitter: Array | float = 0.0,
    bounds: Bounds | None = None,
    clip_mode: str = "none",
) -> tuple[KernelState, KernelInfo]:
    """One iteration of all chains; ``num_integration_steps`` gradient evaluations.

    Args:
        keys: (chains,) PRNG keys, one a chain.
        step_size: of the leapfrog, a scalar or one a chain.
        step_jitter: the step size is multiplied by U(1 - jitter, 1 + jitter), drawn anew for each
            chain and iteration, independent of the state, which keeps the target invariant.
        bounds, clip_mode: see :mod:`gradgen.inference.clipping`.
    """
    momentum_keys, jitter_keys, accept_keys = split_keys(keys, 3)
    momentum = jax.vmap(lambda key: jax.random.normal(key, state.position.shape[1:]))(momentum_keys)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, minval=-1.0))(jitter_keys)
    size = (jnp.broadcast_to(step_size, keys.shape) * (1 + step_jitter * uniform))[:, None]
    proposal, end_momentum, new = leapfrog(
        state.position,
        momentum,
        state.evaluation,
        evaluate,
        size,
        num_integration_steps,
        bounds,
        clip_mode,
    )
    log_ratio = (
        new.log_density
        - state.evaluation.log_density
        - 0.5 * jnp.sum(end_momentum**2, axis=-1)
        + 0.5 * jnp.sum(momentum**2, axis=-1)
    )
    probability = acceptance_probability(log_ratio, inside(proposal, bounds, clip_mode))
    accepted = jax.vmap(jax.random.uniform)(accept_keys) < probability
    return (
        select(accepted, KernelState(proposal, new), state),
        KernelInfo(probability, accepted, proposal, log_ratio),
    )
