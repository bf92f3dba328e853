"""Longer, not again: a finished run goes on from where its chains stand, or gets more chains.

What is promised, under the conditions of a picture's recipe: the result has the same bits as a run
that was begun with the larger ``budget`` and with the first budget as its ``warmup_budget``. That
is simply a run with the larger budget where there is no warm-up (a step size that is set, or MAP).
Where there is a warm-up it is not: the warm-up took a share of the first budget and is over. With
more chains the result has the same bits as a run that was begun with all of them, in groups of
this run's size (``chain_group``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gradgen.errors import UsageError
from gradgen.files import make_folder
from gradgen.hosts import Hosts
from gradgen.inference.timeline import timeline_of
from gradgen.run_files import CHECKPOINT, STATES_FOLDER, STREAMED
from gradgen.runs.checkpoint import Checkpoint, load_states, save_state
from gradgen.runs.folder import empty_checkpoint, locked
from gradgen.runs.plan import Plan, groups_of
from gradgen.runs.record import RUNNING, RunRecord, write_record
from gradgen.runs.settings import SampleSettings

EXTENDABLE = ("budget", "num_chains")  # settings that may become larger


def longer(folder: Path, record: RunRecord, asked: SampleSettings, hosts: Hosts) -> SampleSettings:
    """The settings of the extended run.

    Args:
        folder: of the finished run.
        record: of it.
        asked: its settings with the larger budget or number of chains.
        hosts: that would share it.

    Raises:
        UsageError: the run cannot be extended so.
    """
    first = record.settings
    if hosts.count > 1:
        raise UsageError("a run is extended by a single host; drop --distributed")
    if record.only_chain is not None or record.stop_at is not None:
        raise UsageError(f"{folder} is a picture made again from its recipe; extend its own run")
    for name in EXTENDABLE:
        before, after = getattr(first, name), getattr(asked, name)
        if after < before:
            raise UsageError(f"`{name}` {after} is less than the {before} that {folder} has")
    if first.preset is not None and asked.budget > first.budget:
        raise UsageError(
            f"the step sizes of `preset={first.preset}` end with the budget, so that {folder} "
            "cannot be extended; start a new run"
        )
    if asked.num_chains * len(asked.classes) > STREAMED:
        raise UsageError(f"runs of more than {STREAMED} chains cannot be extended; start a new run")
    if not any((folder / STATES_FOLDER).glob("*.npz")):
        raise UsageError(
            f"{folder} was finished by an earlier version of gradgen, which did not keep where "
            "the chains stand: it cannot be extended; start a new run"
        )
    if asked.budget > first.budget and first.warmup_steps:
        asked = replace(asked, warmup_budget=first.warmup_budget or first.budget)
    if asked.num_chains > first.num_chains:
        size = _group_size(first.num_chains, first.chain_group)
        if _group_size(asked.num_chains, size) != size:
            whole = -(-asked.num_chains // size) * size
            raise UsageError(
                f"{folder} computes its chains in groups of {size}; add whole groups: "
                f"`num_chains={whole}`"
            )
        asked = replace(asked, chain_group=size)
    return asked


def extend(folder: Path, record: RunRecord, plan: Plan) -> RunRecord:
    """Put the chains' states into the checkpoint folder, as those of an interrupted run.

    run.json is written last: until then the run is the finished one that it was.

    Args:
        folder: of the finished run.
        record: of it.
        plan: of the extended run (:func:`longer`).

    Returns the record of the run that is to go on.

    Raises:
        UsageError: another process is at work in the folder.
        GradgenError: a state is broken.
    """
    checkpoints, seconds = load_states(folder / STATES_FOLDER)
    first, now = record.settings, plan.settings
    size = _group_size(first.num_chains, first.chain_group)
    before = groups_of(len(plan.jobs), first.num_chains, size)
    places = {(group.class_position, group.start): i for i, group in enumerate(plan.groups)}
    work = folder / CHECKPOINT
    make_folder(work)
    with locked(folder):
        empty_checkpoint(folder)  # what a process left that was killed in here
        for checkpoint in checkpoints:
            old = [before[index] for index in checkpoint.groups]
            groups = tuple(places[group.class_position, group.start] for group in old)
            save_state(work, _continued(replace(checkpoint, groups=groups), plan), seconds)
        changes = [
            f"{name.replace('_', ' ')} from {getattr(first, name)} to {getattr(now, name)}"
            for name in EXTENDABLE
            if getattr(first, name) != getattr(now, name)
        ]
        words = f"extended: {' and '.join(changes)}"
        if now.warmup_steps and now.budget != first.budget:
            words += f"; the warm-up stays that of {now.warmup_budget} gradient evaluations"
        record = replace(
            record,
            status=RUNNING,
            settings=now,
            animate=None,  # the frames of the way so far are gone
            extended=(
                *(record.extended or ()),
                f"{datetime.now(UTC).isoformat(timespec='seconds')} {words}",
            ),
        )
        write_record(folder, record)
    return record


def _group_size(num_chains: int, group: int | None) -> int:
    return groups_of(1, num_chains, group or num_chains)[0].size


def _continued(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """Chains at their end as chains on their way: a longer run has longer windows."""
    timeline = timeline_of(plan.settings)
    old, done = checkpoint.traces, int(checkpoint.state.step)
    if np.array_equal(old.step, timeline.point_steps):
        return checkpoint
    # the sums of the window that is to be filled further; its old windows are in the trace
    began = done - done % timeline.stride
    length = np.diff(old.step, prepend=0)
    inside = old.step > began
    means = np.stack([old.acceptance[:, inside], old.step_size[:, inside]], axis=-1)
    sums = np.einsum("cpq,p->cq", means, length[inside]).astype(np.float32)
    state = checkpoint.state
    stride = int(old.step[0])
    if timeline.stride != stride:
        state = state._replace(window_sums=jnp.asarray(np.nan_to_num(sums)))
    return replace(checkpoint, state=state, traces=old.on_points(timeline.point_steps))
