"""What the kernels share: a chain's state, what a step tells, accepting and rejecting."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.inference.types import Evaluate, Evaluation

State = TypeVar("State")


class KernelState(NamedTuple):
    """position: (chains, code); evaluation: of the target there."""

    position: Array
    evaluation: Evaluation


class KernelInfo(NamedTuple):
    """What a step tells of its proposal.

    Attributes:
        acceptance_probability, is_accepted: (chains,).
        proposal: (chains, code).
        log_ratio: (chains,), of the accept step, before it is cut off at 0. For HMC this is the
            energy at the trajectory's start less that at its end.
    """

    acceptance_probability: Array
    is_accepted: Array
    proposal: Array
    log_ratio: Array


def init(position: Array, evaluate: Evaluate) -> KernelState:
    """The state at a position (chains, code); one gradient evaluation."""
    return KernelState(position, evaluate(position))


def acceptance_probability(log_ratio: Array, allowed: Array | bool = True) -> Array:
    """min(1, exp(log_ratio)), and 0 where not allowed or where the ratio is NaN.

    This is the one place where a NaN density or gradient becomes a rejection.
    """
    probability = jnp.exp(jnp.minimum(log_ratio, 0.0))
    return jnp.where(jnp.isnan(log_ratio) | ~jnp.asarray(allowed), 0.0, probability)


def select(accepted: Array, new: State, old: State) -> State:
    """Per chain: the new state where accepted, else the old one."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(accepted.reshape(accepted.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def split_keys(keys: Array, count: int = 2) -> tuple[Array, ...]:
    """Split each chain's key: ``count`` arrays of keys (chains,)."""
    pieces = jax.vmap(lambda key: jax.random.split(key, count))(keys)
    return tuple(pieces[:, index] for index in range(count))
