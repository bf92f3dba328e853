"""Densities that are no finite numbers: a run ends with a line that names network and class.

A chain that begins at such a density never moves: every proposal is rejected. A chain of MAP whose
steps are so large that they lead to such a density stays where it is, which is a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.errors import GradgenError, GradgenWarning
from gradgen.evidence.realism import log_odds
from gradgen.inference import ChainState
from gradgen.runs.plan import ClassJob, Plan

LOOKED_AT = 8  # codes that are looked at to find the network
MOST_LOST = 0.5  # the share of proposals without a finite density that ends a run
ENOUGH = 20  # proposals of all chains, before that share is looked at


def check_state(plan: Plan, jobs: Sequence[ClassJob], state: ChainState, first: bool) -> None:
    """Look at chains of MALA or HMC after a block of steps.

    Args:
        plan: of the run.
        jobs: (chains,) the class of each chain.
        state: of the chains.
        first: whether it is the first block: an accepted step has a finite gradient.

    Raises:
        GradgenError: some chains have no finite density and so will never move, or most proposals
            since the warm-up had none.
    """
    finite = jnp.isfinite(state.log_density)
    if first:
        finite &= jnp.isfinite(state.gradient).all(axis=-1)
    _refuse(plan, jobs, state.position, ~np.asarray(finite))
    lost = np.asarray(state.faults)[:, 1]
    made = max(0, int(state.step) - plan.settings.warmup_steps) * len(lost)
    if state.trajectory is not None:
        made = int(np.asarray(state.trajectory.ended).sum())
    if made >= ENOUGH and lost.sum() > MOST_LOST * made:
        job = jobs[int(lost.argmax())]
        raise GradgenError(
            f"{job.label.name}: the density of {lost.sum()} of {made} proposals is not a number, "
            f"though that of the chains is, by the generator {plan.bundle.generator.name} and the "
            f"classifier {job.classifier.name}; a smaller step size may help"
        )


def check_start(plan: Plan, jobs: Sequence[ClassJob], codes: Array, log_density: Array) -> None:
    """Look at the density (chains,) of the codes (chains, code) at which chains begin.

    Raises:
        GradgenError: that of some chains is no finite number.
    """
    _refuse(plan, jobs, codes, ~np.isfinite(np.asarray(log_density)))


def warn_of_stuck(
    plan: Plan,
    jobs: Sequence[ClassJob],
    before: Array,
    state: ChainState,
    bounds: tuple[Array, Array] | None,
) -> None:
    """Warn of classes with chains of MAP that a step without a finite density keeps from moving.

    Args:
        plan: of the run.
        jobs: (chains,) the class of each chain.
        before: (chains, code) where the chains were before the last block of steps.
        state: where they are at the end.
        bounds: of their codes, each (chains, code), if there are any.
    """
    if plan.settings.preset is not None or plan.settings.step_decay:
        return  # steps that become so small may leave a code as it is
    position = np.asarray(state.position)
    with np.errstate(over="ignore", invalid="ignore"):
        step = np.asarray(state.first_step_size)[:, None] * np.asarray(state.gradient)
        ahead = position + step
    if bounds is not None:
        ahead = np.clip(ahead, *bounds)
    stuck = (position == np.asarray(before)).all(1) & (ahead != position).any(1)
    for job in dict.fromkeys(job for job, lost in zip(jobs, stuck, strict=True) if lost):
        warnings.warn(
            f"{job.label.name}: chains stay where they are, since the density after their next "
            "step is no finite number; give them a smaller step size",
            GradgenWarning,
            stacklevel=2,
        )


def _refuse(plan: Plan, jobs: Sequence[ClassJob], codes: Array, lost: np.ndarray) -> None:
    rows = np.flatnonzero(lost)
    if not len(rows):
        return
    job = jobs[int(rows[0])]
    own = [row for row in rows if jobs[int(row)] is job]
    count = sum(other is job for other in jobs)
    raise GradgenError(
        f"{job.label.name}: the log density of {len(own)} of {count} chains is no finite number, "
        f"so that they cannot move: {_blame(plan, job, codes[np.array(own[:LOOKED_AT])])}"
    )


def _blame(plan: Plan, job: ClassJob, codes: Array) -> str:
    """Which of the networks gives numbers that are not finite."""
    generator, classifier = plan.bundle.generator, job.classifier
    if not bool(jnp.isfinite(codes).all()):
        return "their codes are not finite themselves"
    images = generator.apply(generator.params, codes)
    if not bool(jnp.isfinite(images).all()):
        return f"the generator {generator.name} draws pictures with NaN or infinities in them"
    if not bool(jnp.isfinite(classifier.apply(classifier.params, images)).all()):
        return f"the classifier {classifier.name} gives NaN or infinities for their pictures"
    if plan.settings.realism:
        critic = plan.bundle.discriminator
        if not bool(jnp.isfinite(log_odds(critic.apply(critic.params, images))).all()):
            return (
                f"the discriminator {critic.name} gives NaN, infinities or a certainty, whose "
                "log-odds are infinite, for their pictures"
            )
    return (
        f"the generator {generator.name} and the classifier {classifier.name} give finite numbers, "
        f"their density or its gradient does not, for β = {job.likelihood_weight:g}"
    )
