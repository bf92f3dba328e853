"""What a run keeps on the disk while it is not finished: chains on their way, parts that ended.

The folder ``checkpoint`` holds a file for each batch: ``part-*.npz`` once its chains have ended,
``state-*.npz`` with their state on the way and at the end. Once the run is finished, the folder
``states`` keeps the states, so that the run can be extended.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError
from gradgen.files import (
    load_npz,
    make_durable,
    make_folder,
    npz_bytes,
    remove_file,
    write_atomically,
)
from gradgen.inference import ChainState, Traces, state_from_arrays, state_to_arrays
from gradgen.inference.chain import timeline_of
from gradgen.inference.traces import FILE_PREFIX
from gradgen.runs.results import Part, check_rows

if TYPE_CHECKING:
    from gradgen.runs.plan import Plan
    from gradgen.runs.sample import SampleProgress

PART, STATE = "part", "state"
STATE_PREFIX = "state_"  # of the chain state's arrays in a file


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Chains on their way.

    Attributes:
        groups: of the plan, by their place in it.
        state: of their chains.
        traces: of their chains, so far.
    """

    groups: tuple[int, ...]
    state: ChainState
    traces: Traces


def save_part(work: Path, part: Part, keep_state: bool = False) -> None:
    """Write a batch that has ended; its state is removed unless it is to be kept."""
    content = npz_bytes(part.to_arrays())
    write_atomically(_file(work, PART, part.groups), content, parents=False)
    if not keep_state:
        remove_file(_file(work, STATE, part.groups))


def keep_states(work: Path, states: Path) -> None:
    """Move the states of all batches that have ended to where a finished run keeps them.

    Args:
        work: the checkpoint folder.
        states: the folder that keeps them; states of other batches there are removed.
    """
    make_folder(states)
    names = {path.name.replace(PART, STATE, 1) for path in part_files(work)}
    for name in sorted(names):
        if (work / name).is_file():  # otherwise moved before an interruption
            (work / name).replace(states / name)
    for path in states.glob(f"{STATE}-*.npz"):
        if path.name not in names:
            remove_file(path)
    make_durable(sorted(states.glob(f"{STATE}-*.npz")))


def part_files(*folders: Path) -> list[Path]:
    """The files of all batches that have ended, in the order of their groups.

    Args:
        folders: the checkpoint folder, and where a finished run keeps its parts: a run that was
            killed while it moved them has some in each.
    """
    found = {path.name: path for folder in folders for path in folder.glob(f"{PART}-*.npz")}
    return [found[name] for name in sorted(found)]


def read_parts(files: list[Path]) -> Iterator[Part]:
    """Parts one by one, so that they need not fit into memory together.

    Raises:
        GradgenError: a file is broken.
    """
    for path in files:
        yield _loading(path, Part.from_arrays)


def save_state(work: Path, block: SampleProgress | Checkpoint, seconds: float) -> None:
    """Write state and traces of a batch, atomically.

    Args:
        work: the checkpoint folder.
        block: what the run has just done, or where chains stand.
        seconds: wall time of the run so far.
    """
    arrays = {
        f"{STATE_PREFIX}{name}": value for name, value in state_to_arrays(block.state).items()
    }
    arrays |= block.traces.to_arrays()
    arrays |= {"groups": np.asarray(block.groups), "seconds": np.asarray(seconds)}
    write_atomically(_file(work, STATE, block.groups), npz_bytes(arrays), parents=False)


def load_states(folder: Path) -> tuple[tuple[Checkpoint, ...], float]:
    """All states of a folder, and the wall time of the run so far in seconds.

    Raises:
        GradgenError: a file is broken.
    """
    found = [_loading(path, _read_state) for path in sorted(folder.glob(f"{STATE}-*.npz"))]
    return tuple(state for state, _ in found), max((seconds for _, seconds in found), default=0.0)


def load_checkpoints(
    work: Path, own: range, plan: Plan, parts: Collection[Path]
) -> tuple[frozenset[int], tuple[Checkpoint, ...], float]:
    """What earlier sessions left.

    Args:
        work: the checkpoint folder.
        own: the groups that are wanted; others may be another host's.
        plan: of the run.
        parts: files of the batches that have ended (:func:`part_files`).

    Returns the groups that have ended, those on their way, and the wall time so far in seconds.

    Raises:
        GradgenError: a file is broken, or does not fit the run.
    """

    def groups_of_part(arrays: Mapping[str, np.ndarray]) -> list[int]:
        _check_fits(plan, arrays["groups"], arrays["codes"], arrays[f"{FILE_PREFIX}step"])
        return list(arrays["groups"].tolist())

    def checkpoint_of_state(arrays: Mapping[str, np.ndarray]) -> tuple[Checkpoint, float]:
        checkpoint, elapsed = _read_state(arrays)
        groups = np.array(checkpoint.groups)
        _check_fits(plan, groups, arrays[f"{STATE_PREFIX}position"], checkpoint.traces.step)
        return checkpoint, elapsed

    finished: set[int] = set()
    for path in parts:
        names = ("groups", "codes", f"{FILE_PREFIX}step")
        finished.update(_loading(path, groups_of_part, names))
    found, seconds = [], 0.0
    for path in sorted(work.glob(f"{STATE}-*.npz")):
        checkpoint, elapsed = _loading(path, checkpoint_of_state)
        seconds = max(seconds, elapsed)
        # a part is written before its state is removed
        wanted = [index in own and index not in finished for index in checkpoint.groups]
        if any(wanted):
            found.append(_some_groups(checkpoint, wanted))
    return frozenset(finished), tuple(found), seconds


def _file(work: Path, kind: str, groups: Any) -> Path:
    """A batch's file is named after its first group, which belongs to no other batch."""
    return work / f"{kind}-{int(groups[0]):07d}.npz"


def _check_fits(plan: Plan, groups: np.ndarray, codes: np.ndarray, points: np.ndarray) -> None:
    """Raise ValueError unless a file's chains are chains of this run.

    Args:
        plan: of the run.
        groups: (g,) that the file names.
        codes: (chains, code).
        points: (points,) steps at the points of the trace.
    """
    if groups.ndim != 1 or groups.dtype.kind not in "iu" or not len(groups):
        raise ValueError("it names no groups of chains")
    if groups.min() < 0 or groups.max() >= len(plan.groups):
        raise ValueError("it has chains that are not the run's")
    size = sum(plan.groups[int(group)].size for group in groups)
    if codes.shape != (size, plan.bundle.code_size):
        raise ValueError(
            f"it has codes of the shape {codes.shape}, expected {(size, plan.bundle.code_size)}"
        )
    if len(points) != timeline_of(plan.settings).num_points:
        raise ValueError("its trace has another length than the run's")


def _read_state(arrays: Mapping[str, np.ndarray]) -> tuple[Checkpoint, float]:
    check_rows(arrays, but=("groups", f"{FILE_PREFIX}step"), scalars=True)
    if int(arrays[f"{STATE_PREFIX}step"]) < 0:
        raise ValueError("it has a negative number of steps")
    state = state_from_arrays(
        {
            name.removeprefix(STATE_PREFIX): value
            for name, value in arrays.items()
            if name.startswith(STATE_PREFIX)
        }
    )
    groups = tuple(arrays["groups"].tolist())
    return Checkpoint(groups, state, Traces.from_arrays(arrays)), float(arrays["seconds"])


def _some_groups(checkpoint: Checkpoint, wanted: list[bool]) -> Checkpoint:
    """Some groups of a checkpoint, since another number of hosts shares them out otherwise."""
    if all(wanted):
        return checkpoint
    size = len(checkpoint.state.position) // len(wanted)
    rows = np.repeat(wanted, size)
    arrays = {
        name: values[rows] if values.ndim else values
        for name, values in state_to_arrays(checkpoint.state).items()
    }
    groups = tuple(np.array(checkpoint.groups)[wanted].tolist())
    return Checkpoint(groups, state_from_arrays(arrays), checkpoint.traces.of(rows))


def _loading(
    path: Path,
    read: Callable[[dict[str, np.ndarray]], Any],
    wanted: Collection[str] | None = None,
) -> Any:
    """What ``read`` makes of a file's arrays, of all or of those that are wanted."""
    try:
        # Ours are not packed: what would unpack to more than the file has is somebody else's.
        return read(load_npz(path, wanted, limit=path.stat().st_size, name="the file"))
    except (GradgenError, KeyError, ValueError, TypeError, IndexError) as error:
        raise GradgenError(
            f"{path} is a broken checkpoint ({error}); remove it to run its chains anew"
        ) from error
