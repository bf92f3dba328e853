"""Maximum a posteriori with clipping (Xu, Acuna & Duvenaud, Algorithm 1; DGN-AM's rule)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from gradgen.inference.clipping import Bounds, project
from gradgen.inference.kernel import KernelState, select
from gradgen.inference.types import Evaluate


def map_step(
    state: KernelState,
    evaluate: Evaluate,
    step_size: Array | float,
    bounds: Bounds | None = None,
    clip_mode: str = "none",
    shrink: float = 1.0,
) -> KernelState:
    """z <- clip(shrink * (z + alpha * gradient)); one gradient evaluation.

    With shrink = 1 this is Algorithm 1. DGN-AM (Nguyen et al. 2016) multiplies by 0.99 before it
    clips, and its target's "gradient" is the normalised one of
    :meth:`gradgen.runs.target.Target.dgn_am_value_and_grad`. A chain whose step leads to a density
    that is not a number stays where it was.
    """
    alpha = jnp.broadcast_to(step_size, state.position.shape[:1])[:, None]
    position = project(
        shrink * (state.position + alpha * state.evaluation.gradient), bounds, clip_mode
    )
    new = KernelState(position, evaluate(position))
    finite = jnp.isfinite(new.evaluation.log_density)
    return select(finite, new, state)
