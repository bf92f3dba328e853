"""Step sizes and noise scales as functions of the step number t = 0, 1, ..."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def polynomial_decay(t: ArrayLike, a: ArrayLike, b: ArrayLike, gamma: ArrayLike) -> Array:
    """alpha_t = a (b + t)^-gamma (Teh, Thiery & Vollmer 2016, "Consistency and fluctuations for
    stochastic gradient Langevin dynamics", arXiv 2014)."""
    return jnp.asarray(a) * (jnp.asarray(b) + t) ** (-jnp.asarray(gamma))


def decay_from(t: ArrayLike, first: ArrayLike, b: ArrayLike, gamma: ArrayLike) -> Array:
    """:func:`polynomial_decay` with a = first * b^gamma, so that alpha_0 = first."""
    return polynomial_decay(jnp.asarray(t) / b, first, 1.0, gamma)


def annealed_noise(
    t: ArrayLike, eta: ArrayLike, gamma: ArrayLike = 0.55, floor: ArrayLike = 0.0
) -> Array:
    """epsilon_t = eta / (1 + t)^gamma (Neelakantan et al. 2015, eq. 1; gamma = 0.55 theirs), but
    no less than the floor."""
    return jnp.maximum(polynomial_decay(t, eta, 1.0, gamma), floor)


def linear(t: ArrayLike, first: ArrayLike, last: ArrayLike, num_steps: int) -> Array:
    """From ``first`` at t = 0 to ``last`` at t = num_steps (DGN-AM's published rule)."""
    return jnp.asarray(first) + (jnp.asarray(last) - first) * t / num_steps
