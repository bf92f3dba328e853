"""The Metropolis-adjusted Langevin algorithm (Xu, Acuna & Duvenaud, Algorithm 2)."""

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
from gradgen.inference.types import Evaluate


def mala_step(
    keys: Array,
    state: KernelState,
    evaluate: Evaluate,
    step_size: Array | float,
    noise_scale: Array | float = 1.0,
    bounds: Bounds | None = None,
    clip_mode: str = "none",
) -> tuple[KernelState, KernelInfo]:
    """One step of all chains; one gradient evaluation.

    Args:
        keys: (chains,) PRNG keys, one a chain.
        step_size: alpha, a scalar or one a chain.
        noise_scale: epsilon, a scalar or one a chain. With 1 this is standard MALA; smaller values
            make the proposal greedier, and the accept step pays for it.
        bounds, clip_mode: see :mod:`gradgen.inference.clipping`.
    """
    alpha = jnp.broadcast_to(step_size, keys.shape)[:, None]
    epsilon = jnp.broadcast_to(noise_scale, keys.shape)[:, None]
    noise_keys, accept_keys = split_keys(keys)
    xi = jax.vmap(lambda key: jax.random.normal(key, state.position.shape[1:]))(noise_keys)
    drift = state.position + alpha * state.evaluation.gradient
    proposal = project(drift + jnp.sqrt(2 * alpha * epsilon) * xi, bounds, clip_mode)
    new = evaluate(proposal)

    log_ratio = (
        new.log_density
        - state.evaluation.log_density
        + log_proposal_density(state.position, proposal, new.gradient, alpha, epsilon)
        - log_proposal_density(proposal, state.position, state.evaluation.gradient, alpha, epsilon)
    )
    probability = acceptance_probability(log_ratio, inside(proposal, bounds, clip_mode))
    accepted = jax.vmap(jax.random.uniform)(accept_keys) < probability
    return (
        select(accepted, KernelState(proposal, new), state),
        KernelInfo(probability, accepted, proposal, log_ratio),
    )


def log_proposal_density(
    to: Array, origin: Array, gradient: Array, alpha: Array, epsilon: Array
) -> Array:
    """log q(to | origin) up to a constant: -|to - origin - alpha grad(origin)|^2 / (4 alpha eps).

    Algorithm 2's proposal is N(origin + alpha * gradient, 2 alpha epsilon I); the constant is the
    same in both directions, since a step uses one alpha and one epsilon.
    """
    gap = to - origin - alpha * gradient
    return -jnp.sum(gap**2 / (4 * alpha * epsilon), axis=-1)
