"""A box around the codes: bounds (lower, upper), each (code,)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

Bounds = tuple[Array, Array]


def project(z: Array, bounds: Bounds | None, clip_mode: str) -> Array:
    """Clip to the box in mode "project", else return z as it is.

    The paper clips after the accept step. Here the proposal is clipped before it is evaluated:
    the same points are visited when it is accepted, the state's gradient is that of the state, and
    no second gradient is needed. Neither leaves the target invariant.
    """
    if bounds is None or clip_mode != "project":
        return z
    return jnp.clip(z, bounds[0], bounds[1])


def inside(z: Array, bounds: Bounds | None, clip_mode: str) -> Array | bool:
    """Whether each chain (chains,) is in the box; anywhere is, unless the mode is "reject"."""
    if bounds is None or clip_mode != "reject":
        return True
    return jnp.all((z >= bounds[0]) & (z <= bounds[1]), axis=-1)
