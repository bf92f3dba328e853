"""The folders that runs write into: their names, their locks, and what is removed from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gradgen import files
from gradgen.errors import GradgenError, UsageError
from gradgen.run_files import (
    ANIMATION_FILE,
    CHAINS_FILE,
    CHAINS_FOLDER,
    CHECKPOINT,
    FRAMES,
    GRID_FILE,
    PICTURES_FOLDER,
    RECORD_FILE,
    STATES_FOLDER,
    TRACE_FILE,
    diagnosis_file,
)
from gradgen.runs.plan import Plan
from gradgen.runs.record import RUNNING, RunRecord, read_record, write_record

RUNS = Path("runs")
LOCK_FILE = "lock"
MOST_DIGITS = 7  # of a chain's number in a picture's name


def make_folder(out: Path | None, plan: Plan, force: bool) -> Path:
    """Make the run's folder; see :func:`begin`."""
    if out is None:
        return new_folder(default_name(plan, datetime.now()))
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    if out.is_dir() and not all(files.is_leftover(path) for path in out.iterdir()):
        if not force:
            raise UsageError(
                f"{out} is not empty; choose another --out, or --force to replace the run in it"
            )
        clear_run(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def default_name(plan: Plan, now: datetime) -> str:
    """``<time>-<class>-<method>-<seed>``, local time; further classes are counted."""
    slug = plan.jobs[0].label.slug
    more = f"-and-{len(plan.jobs) - 1}-more" if len(plan.jobs) > 1 else ""
    settings = plan.settings
    method = settings.preset or settings.method
    return f"{now:%Y%m%d-%H%M%S}-{slug}{more}-{method}-{settings.seed}"


def new_folder(name: str) -> Path:
    """A new folder among the runs; mkdir decides who has a name, since two may begin at a time."""
    for attempt in range(1, 1000):
        folder = RUNS / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise GradgenError(f"{RUNS / name} and its successors all exist")


# --- locks ------------------------------------------------------------------------------------


def locked(folder: Path, host: int = 0) -> AbstractContextManager[None]:
    """Hold a run's folder, which has a checkpoint folder, for this process alone.

    Args:
        folder: of the run.
        host: each host of a shared run has a lock of its own.

    Raises:
        UsageError: another process has it.
    """
    return files.locked(folder / CHECKPOINT / f"{LOCK_FILE}-{host}", str(folder))


def _nobody_at_work(folder: Path) -> ExitStack:
    """The locks of all hosts of a run.

    Raises:
        UsageError: another process has one of them.
    """
    with ExitStack() as stack:
        if (folder / CHECKPOINT).is_dir():
            names = {path.name for path in (folder / CHECKPOINT).glob(f"{LOCK_FILE}-*")}
            for name in sorted({f"{LOCK_FILE}-0", *names}):
                stack.enter_context(files.locked(folder / CHECKPOINT / name, str(folder)))
        return stack.pop_all()


# --- removing ---------------------------------------------------------------------------------

# What gradgen itself puts into the folders of a run, but for pictures.
_OF_CHECKPOINT = re.compile(r"(part|state)-\d+\.npz|host-\d+\.json")
_OF_FRAMES = re.compile(r"\d+-\d+\.npy")
_OF_STATES = re.compile(r"state-\d+\.npz")
_OF_CHAINS = re.compile(r"part-\d+\.npz")
_LOCK = re.compile(rf"{LOCK_FILE}-\d+(\.lock)?")
_PICTURE_FOLDER = re.compile(r"\d{4,}")


def clear_run(folder: Path) -> None:
    """Remove an earlier run's own files, and nothing else that is in the folder.

    What is not named as gradgen names its files stays, whatever run.json says of it.

    Raises:
        UsageError: a process is at work on the run.
    """
    if not (folder / RECORD_FILE).is_file():
        return
    with _nobody_at_work(folder):
        try:
            record = read_record(folder)
        except GradgenError:  # of an earlier version, for example: its pictures are not known
            record = None
        if record is not None:
            # a kill in the middle shall not leave a finished run without its pictures
            write_record(folder, replace(record, status=RUNNING))
            is_own = _names_of_pictures(record)
            drawn = {diagnosis_file(), *(diagnosis_file(job.name) for job in record.classes)}
            if not (folder / PICTURES_FOLDER).is_symlink():
                for below in sorted((folder / PICTURES_FOLDER).glob("*")):
                    if _PICTURE_FOLDER.fullmatch(below.name):
                        _remove_own(below, is_own)
                _remove_own(folder / PICTURES_FOLDER, lambda _: False)
            _remove_own(folder, lambda name: name in drawn or is_own(name))
        empty_checkpoint(folder)
        _remove_own(folder / STATES_FOLDER, _OF_STATES.fullmatch)
        _remove_own(folder / CHAINS_FOLDER, _OF_CHAINS.fullmatch)
        for name in (GRID_FILE, TRACE_FILE, CHAINS_FILE, ANIMATION_FILE, RECORD_FILE):
            files.remove_file(folder / name)
    remove_checkpoint(folder)


def remove_pictures(folder: Path, record: RunRecord, but: Collection[str]) -> None:
    """Remove pictures of a run that have other names than these."""
    is_own = _names_of_pictures(record)
    _remove_own(folder, lambda name: name not in but and is_own(name))


def _names_of_pictures(record: RunRecord) -> Callable[[str], bool]:
    """Whether a name is that of a picture of a run.

    The record's own list of pictures is not looked at: it may have been tampered with.
    """
    patterns = []
    for job in record.classes:
        identity = re.escape(str(job.synset or job.index))
        number = rf"(?P<chain>\d{{2,{MOST_DIGITS}}})"
        patterns.append(re.compile(rf"{re.escape(job.slug)}(-{identity})?-{number}\.png"))

    def is_own(name: str) -> bool:
        found = [pattern.fullmatch(name) for pattern in patterns]
        chains = [int(match["chain"]) for match in found if match]
        return any(chain < record.settings.num_chains for chain in chains)

    return is_own


def _remove_own(folder: Path, is_own: Callable[[str], object]) -> None:
    """Remove the files that have such names, and the folder if nothing is left in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    files.remove_leftovers(folder)
    for path in sorted(folder.iterdir()):
        if is_own(path.name) and not path.is_dir():
            files.remove_file(path)
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()


def empty_checkpoint(folder: Path) -> None:
    """Remove what an unfinished run needs, all but the locks, which whoever calls this holds."""
    _remove_own(folder / CHECKPOINT / FRAMES, _OF_FRAMES.fullmatch)
    _remove_own(folder / CHECKPOINT, _OF_CHECKPOINT.fullmatch)


def remove_checkpoint(folder: Path) -> None:
    """Remove the rest of the checkpoint folder when its locks have been released."""
    _remove_own(folder / CHECKPOINT, _LOCK.fullmatch)


def tidy(folder: Path) -> None:
    """Remove what a finished run needs no more, left by a process that was killed at its end."""
    if (folder / CHECKPOINT).is_dir():
        with suppress(OSError, UsageError):  # it may not be written, or somebody is about it
            with _nobody_at_work(folder):
                empty_checkpoint(folder)
            remove_checkpoint(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed while they worked on a run."""
    files.remove_leftovers(folder)
    for below in (CHAINS_FOLDER, STATES_FOLDER, f"{PICTURES_FOLDER}/*"):
        for path in folder.glob(below):
            files.remove_leftovers(path)
