"""A run's folder: begun, checkpointed, resumed, replayed from a picture's recipe.

The folder holds run.json from the first moment (status "running"), a ``checkpoint`` folder while
there is something left to do, and at the end, or when the run is interrupted, the files that
:meth:`gradgen.samples.Samples.save` writes.
"""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.animation import Recorder, block_size_for
from gradgen.errors import GradgenError, UsageError
from gradgen.hosts import ALONE, Hosts
from gradgen.images import decode, read_recipe
from gradgen.inference import state_from_arrays, state_to_arrays
from gradgen.plan import Plan, prepare
from gradgen.record import Part, collect, describe
from gradgen.samples import (
    CHAINS_FILE,
    CHAINS_FOLDER,
    FOLDER_SIZE,
    GRID_FILE,
    PICTURES_FOLDER,
    RECIPE_FORMAT,
    RECORD_FILE,
    TRACE_FILE,
    Samples,
    bounds_from_json,
    npz_bytes,
    read_record,
    write_record,
)
from gradgen.sampling import Checkpoint, SampleProgress, run_batches, sampler_settings
from gradgen.settings import SampleSettings, make_settings
from gradgen.weights.store import write_atomically

RUNS = Path("runs")
CHECKPOINT, FRAMES = "checkpoint", "frames"
LOCK_FILE = "lock"
# On an accelerator a block may take milliseconds: writing after each would cost more than the
# blocks. Nobody minds losing a second.
CHECKPOINT_INTERVAL = 1.0  # seconds

# Runs of more chains are never in memory as a whole: their pictures are written as they come.
STREAMED = 2048
KEPT = 1024  # chains of such a run, shared by its classes, that grid, traces and diagnostics show


@dataclass(eq=False)
class Run:
    """A run that can be executed, from the start or from where it stopped.

    Attributes:
        folder: where it writes.
        plan: what it runs.
        record: run.json as it stands.
        finished, checkpoints, seconds: what earlier sessions did: groups of the plan that have
            ended, chains on their way, wall time.
        hosts: that share the run, and which of them this is.
        notes: what a person should be told before it starts.
        picture: the file whose recipe is replayed, or ``None``.
        animate: whether to draw the chains' way (``animation.webp``) too.
    """

    folder: Path
    plan: Plan
    record: dict[str, Any]
    finished: frozenset[int] = frozenset()
    checkpoints: tuple[Checkpoint, ...] = ()
    seconds: float = 0.0
    hosts: Hosts = ALONE
    notes: tuple[str, ...] = ()
    picture: Path | None = None
    animate: bool = False

    @property
    def gradients(self) -> tuple[int, int]:
        """Gradient evaluations of all chains of this host: done in earlier sessions, and in all."""
        sampler = sampler_settings(self.plan.settings)
        each = sampler.gradients_after(self.plan.stop_at)
        own = self.hosts.share(len(self.plan.groups))
        size = self.plan.groups[0].size
        done = each * size * sum(index in self.finished for index in own)
        for one in self.checkpoints:
            done += len(one.groups) * size * sampler.gradients_after(int(one.state.step))
        return done, each * size * len(own)

    @property
    def streamed(self) -> bool:
        """Whether it has too many chains to be in memory as a whole."""
        return sum(group.size for group in self.plan.groups) > STREAMED

    def execute(
        self,
        on_progress: Callable[[SampleProgress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Samples:
        """Run what is left and write the folder.

        on_progress is called after each block. stop is asked after each block; once it says yes,
        the run ends cleanly: a checkpoint, the pictures of the moment, run.json with the status
        "interrupted".

        Returns the samples; of a run of more than STREAMED chains, the first KEPT of them. This is
        for the first of several hosts: it waits for the others and writes what belongs to all.

        Raises:
            UsageError: another process is at work in the folder.
            GradgenError: nothing has come far enough to be shown.
        """
        begun = time.monotonic()
        with self._at_work() as (work, recorder):
            partial = self._run_share(work, recorder, on_progress, stop)
            silent = self.hosts.wait_for_others(work, stop)
            seconds = self.seconds + time.monotonic() - begun
            keep = max(1, KEPT // len(self.plan.jobs)) if self.streamed else None
            samples = collect(self.plan, self._parts(work, partial), seconds, keep)
            for key in ("created", "command"):
                if key in self.record:
                    samples.record[key] = self.record[key]
            samples.record.update(num_hosts=self.hosts.count, silent_hosts=silent)
            if self.streamed:
                samples = self._write_streamed(samples, work)
            else:
                samples.save(self.folder)
            if recorder is not None:
                recorder.write(samples, self.plan, self.folder)
        if samples.record["status"] == "finished":
            shutil.rmtree(work)
        return samples

    def take_part(
        self,
        on_progress: Callable[[SampleProgress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Run this host's share for the first host, which collects it; :meth:`execute` of the rest.

        Returns whether it has ended, rather than been stopped.
        """
        with self._at_work() as (work, recorder):
            return not self._run_share(work, recorder, on_progress, stop)

    @contextmanager
    def _at_work(self) -> Iterator[tuple[Path, Recorder | None]]:
        """The folder of what is not finished, locked, and what draws the chains' way."""
        work = self.folder / CHECKPOINT
        work.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(work / FRAMES) if self.animate or (work / FRAMES).is_dir() else None
        with locked(work / f"{LOCK_FILE}-{self.hosts.index}"):
            yield work, recorder

    def _run_share(
        self,
        work: Path,
        recorder: Recorder | None,
        on_progress: Callable[[SampleProgress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> list[Part]:
        """Run this host's groups; a batch that was interrupted is returned, the rest is on disk."""
        begun = written = time.monotonic()
        own = self.hosts.share(len(self.plan.groups))

        def on_block(block: SampleProgress) -> None:
            nonlocal written
            stopping = stop is not None and stop()
            now = time.monotonic()
            if stopping or now - written >= CHECKPOINT_INTERVAL:
                save_state(work, block, self.seconds + now - begun)
                self.hosts.report(work, done, len(own))
                written = now
            if recorder is not None:
                recorder.take(block, self.plan)
            if on_progress:
                on_progress(block)
            if stopping:
                raise KeyboardInterrupt

        todo = [index for index in own if index not in self.finished]
        done = len(own) - len(todo)
        self.hosts.report(work, done, len(own))
        partial: list[Part] = []
        for part in run_batches(self.plan, todo, self.checkpoints, on_block, own):
            if part.interrupted:
                partial.append(part)
                continue
            done += len(part.groups)
            if self.streamed:
                self._write_pictures(part)
                part = replace(part, images=part.images[:, :0])
            write_atomically(_file(work, PART, part.groups), npz_bytes(part.to_arrays()))
            _file(work, STATE, part.groups).unlink(missing_ok=True)
        self.hosts.report(work, done, len(own), ended=True)
        return partial

    def _parts(self, work: Path, partial: list[Part]) -> Iterator[Part]:
        """All that has ended, of all hosts, one by one from the disk; then what was interrupted."""
        for path in sorted(work.glob(f"{PART}-*.npz")):
            yield _loading(path, Part.from_arrays)
        yield from partial

    def _write_pictures(self, part: Part) -> None:
        samples = collect(self.plan, [part], seconds=0.0)
        for index, name in enumerate(samples.picture_names(self._digits)):
            samples.save_picture(self._picture(name, int(samples.chain[index])), index)

    @property
    def _digits(self) -> int:
        return len(str(self.plan.settings.num_chains - 1))

    def _picture(self, name: str, chain: int) -> Path:
        return self.folder / PICTURES_FOLDER / f"{chain // FOLDER_SIZE:04d}" / name

    def _write_streamed(self, samples: Samples, work: Path) -> Samples:
        """The summary of a run whose pictures are written; all chains' numbers beside it."""
        names = samples.picture_names(self._digits)
        files = [
            self._picture(name, int(chain))
            for name, chain in zip(names, samples.chain, strict=True)
        ]
        there = np.array([file.is_file() for file in files])  # not those of an interrupted batch
        for index in np.flatnonzero(~there):
            samples.save_picture(files[index], int(index))
        samples = replace(samples, images=np.stack([np.asarray(decode(file)) for file in files]))
        if samples.record["status"] == "finished":
            (self.folder / CHAINS_FOLDER).mkdir(exist_ok=True)
            for path in sorted(work.glob(f"{PART}-*.npz")):
                path.replace(self.folder / CHAINS_FOLDER / path.name)
        shown = [file.relative_to(self.folder).as_posix() for file in files]
        samples.save_summary(self.folder, shown, picture_folder=PICTURES_FOLDER)
        return samples


# --- three beginnings -------------------------------------------------------------------------


def begin(
    given: Mapping[str, Any],
    clip: bool | None = None,
    out: Path | None = None,
    force: bool = False,
    command: list[str] | None = None,
    animate: bool = False,
    stop_at: int | None = None,
    hosts: Hosts = ALONE,
) -> Run:
    """A new run.

    Args:
        given: the settings that were given (:func:`gradgen.settings.make_settings`).
        out: folder; ``None``: ``runs/<time>-<class>-<method>-<seed>``.
        force: replace an earlier run in ``out``.
        command: how it was called, for the record.
        animate: draw the chains' way too; blocks are so short that it has frames enough.
        stop_at: end after this many steps of the settings' schedule.
        hosts: that share the run; all call this alike.

    Raises:
        UsageError: settings that make no sense, or an ``out`` that is not empty.
    """
    plan = prepare(make_settings(given, clip), stop_at=stop_at)
    num_steps = sampler_settings(plan.settings).num_steps
    if animate and given.get("block_size") is None:
        size = block_size_for(num_steps)
        plan = replace(plan, settings=replace(plan.settings, block_size=size))
    if hosts.count > 1 and out is None:
        out = RUNS / default_name(plan, datetime.fromtimestamp(hosts.session / 1000))
    if not hosts.is_first and out is not None:
        hosts.wait_for_first(lambda: _session_of(out), out)
        return Run(out, plan, describe(plan), hosts=hosts, notes=plan.notes, animate=animate)
    folder = make_folder(out, plan, force)
    record = describe(plan) | {"session": hosts.session}
    run = Run(folder, plan, record, hosts=hosts, notes=plan.notes, animate=animate)
    return _started(run, command)


def _session_of(folder: Path) -> int | None:
    try:
        return read_record(folder).get("session")
    except UsageError:  # not there yet
        return None


def resume(
    folder: Path,
    given: Mapping[str, Any],
    clip: bool | None = None,
    force: bool = False,
    hosts: Hosts = ALONE,
) -> Run | dict[str, Any]:
    """An interrupted run, ready to go on; of a finished one, its record.

    Raises:
        UsageError: not a run's folder, or an option that differs from the run's.
        GradgenError: the weights are others than the run began with (unless ``force``), or the
            checkpoint is broken.
    """
    record = read_record(folder)
    settings = _settings_of(record, given, clip, str(folder / RECORD_FILE), "resumed")
    if record.get("status") == "finished":
        return record
    boxes = [job["bounds"] for job in record["classes"] if job.get("clip_scope") == "file"]
    plan = prepare(
        settings,
        only_chain=record.get("only_chain"),
        stop_at=record.get("stop_at"),
        bounds=bounds_from_json(boxes[0]) if boxes else None,
    )
    now = describe(plan)
    notes = [*plan.notes, *_check_same(record, now, str(folder), force)]
    work = folder / CHECKPOINT
    finished, checkpoints, seconds = load_checkpoints(work, hosts.share(len(plan.groups)))
    record = {**record, "status": "running", "session": hosts.session}
    if hosts.is_first:
        write_record(folder, record)
    return Run(folder, plan, record, finished, checkpoints, seconds, hosts, tuple(notes))


def from_recipe(
    picture: Path,
    given: Mapping[str, Any],
    clip: bool | None = None,
    out: Path | None = None,
    force: bool = False,
    command: list[str] | None = None,
) -> Run:
    """A run that makes one picture again; the chains of its batch run with it.

    Raises:
        UsageError: the file carries no recipe, or an option contradicts it.
        GradgenError: the weights are others than the recipe's (unless ``force``).
    """
    recipe = read_recipe(picture)
    if recipe.get("format") != RECIPE_FORMAT:
        raise UsageError(
            f"{picture}: its recipe has the format {recipe.get('format')!r}, expected "
            f"{RECIPE_FORMAT!r}; another version of gradgen made it"
        )
    try:
        settings = _settings_of(recipe, given, clip, f"the recipe of {picture}", "replayed")
        chain, steps = int(recipe["chain"]), int(recipe["steps"])
        weights = recipe["weights"]
        expected = {
            "bundle": {"generator": weights["generator"]},
            "classes": [{"classifier": weights["classifier"], "bounds": recipe.get("bounds")}],
            "versions": recipe["versions"],
            "device": recipe["device"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise GradgenError(f"{picture}: its recipe is broken ({error})") from error
    total = sampler_settings(settings).num_steps
    plan = prepare(
        settings,
        only_chain=chain,
        stop_at=steps if steps < total else None,
        bounds=bounds_from_json(recipe.get("bounds", {})),
    )
    if not plan.groups:
        raise GradgenError(f"{picture}: its recipe is broken (no chain {chain})")
    record = describe(plan)
    notes = (*plan.notes, *_check_same(expected, record, str(picture), force))
    folder = make_folder(out, plan, force)
    run = Run(folder, plan, record, notes=notes, picture=picture)
    return _started(run, command)


def _started(run: Run, command: list[str] | None) -> Run:
    if command is not None:
        run.record["command"] = command
    write_record(run.folder, run.record)
    return run


def _settings_of(
    record: Mapping[str, Any],
    given: Mapping[str, Any],
    clip: bool | None,
    source: str,
    what: str,
) -> SampleSettings:
    """The recorded settings; options given anew may only repeat them.

    But the bundle may have moved, and how many chains run at once changes no result.
    """
    recorded = SampleSettings.from_json(record["settings"], source)
    free = {name: given[name] for name in ("bundle", "chain_batch") if name in given}
    base = make_settings(free, base=recorded)
    differences = make_settings(given, clip, base=base).differences(base)
    if differences:
        raise UsageError(
            f"a run is {what} with its own settings; asked for {'; '.join(differences)}. "
            "Drop these options, or start a new run"
        )
    return base


def _check_same(
    recorded: Mapping[str, Any], now: Mapping[str, Any], source: str, force: bool
) -> list[str]:
    """Refuse other weights or bounds; tell of another device or version."""
    faults = []
    pairs = [("generator", recorded["bundle"]["generator"], now["bundle"]["generator"])]
    for was, is_ in zip(recorded["classes"], now["classes"], strict=True):
        pairs.append(("classifier", was["classifier"], is_["classifier"]))
        pairs.append(("clipping bounds", was["bounds"] or {}, is_["bounds"] or {}))
    for kind, was, is_ in pairs:
        if was.get("sha256") != is_.get("sha256"):
            old, new = (str(side.get("sha256"))[:12] for side in (was, is_))
            faults.append(f"{kind} {was.get('name', '')}".rstrip() + f" was {old}…, is {new}…")
    faults = list(dict.fromkeys(faults))
    if faults and not force:
        raise GradgenError(
            f"{source} was made with other weights ({'; '.join(faults)}): the result would differ; "
            "restore them or go on with --force"
        )
    notes = [f"not the weights of {source}: {fault}" for fault in faults]
    if recorded["device"] != now["device"]:
        was_on, is_on = (
            f"{d['platform']} {d['kind']}" for d in (recorded["device"], now["device"])
        )
        notes.append(f"begun on another device ({was_on}; here {is_on}): the last bits may differ")
    changed = [
        f"{name} {recorded['versions'].get(name)}, here {value}"
        for name, value in now["versions"].items()
        if name in ("jax", "jaxlib") and recorded["versions"].get(name) != value
    ]
    if changed:
        notes.append(f"begun with {'; '.join(changed)}: the last bits may differ")
    return notes


# --- folders ----------------------------------------------------------------------------------


def make_folder(out: Path | None, plan: Plan, force: bool) -> Path:
    """Make the run's folder; see :func:`begin`."""
    if out is None:
        return _new_folder(default_name(plan, datetime.now()))
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    if out.is_dir() and any(out.iterdir()):
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


def _new_folder(name: str) -> Path:
    """Two runs may begin in the same second: mkdir decides whose name it is."""
    for attempt in range(1, 1000):
        folder = RUNS / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise GradgenError(f"{RUNS / name} and its successors all exist")


def clear_run(folder: Path) -> None:
    """Remove an earlier run's own files, and nothing else that is in the folder."""
    if not (folder / RECORD_FILE).is_file():
        return
    try:
        pictures = read_record(folder).get("pictures", [])
    except (GradgenError, UsageError):
        pictures = []
    for name in (*pictures, GRID_FILE, TRACE_FILE, CHAINS_FILE, RECORD_FILE):
        # only names: a record that was tampered with shall not reach outside
        (folder / Path(str(name)).name).unlink(missing_ok=True)
    for name in (CHECKPOINT, PICTURES_FOLDER, CHAINS_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)


# --- checkpoints ------------------------------------------------------------------------------


PART, STATE = "part", "state"  # of files: chains that have ended, chains on their way


def _file(work: Path, kind: str, groups: Any) -> Path:
    """Of a batch, by its first group; no two batches share one."""
    return work / f"{kind}-{int(groups[0]):07d}.npz"


def save_state(work: Path, block: SampleProgress, seconds: float) -> None:
    """Write state and traces of the batch that runs, atomically."""
    arrays = {f"state_{name}": value for name, value in state_to_arrays(block.state).items()}
    arrays |= {f"trace_{name}": value for name, value in block.traces.items()}
    arrays["groups"] = np.asarray(block.groups)
    arrays["seconds"] = np.asarray(seconds)
    write_atomically(_file(work, STATE, block.groups), npz_bytes(arrays))


def _finished_groups(work: Path) -> set[int]:
    """Groups whose chains have ended, of all hosts."""
    found: set[int] = set()
    for path in work.glob(f"{PART}-*.npz"):
        found.update(_loading(path, lambda arrays: arrays["groups"].tolist()))
    return found


def load_checkpoints(
    work: Path, own: range
) -> tuple[frozenset[int], tuple[Checkpoint, ...], float]:
    """Groups that have ended, those on their way, seconds so far.

    own: the groups that are wanted; others may be another host's.

    Raises:
        GradgenError: a file is broken.
    """
    finished = _finished_groups(work)
    found, seconds = [], 0.0
    for path in sorted(work.glob(f"{STATE}-*.npz")):
        checkpoint, elapsed = _loading(path, _read_state)
        seconds = max(seconds, elapsed)
        # a part is written before its state is removed
        wanted = [index in own and index not in finished for index in checkpoint.groups]
        if any(wanted):
            found.append(_some_groups(checkpoint, wanted))
    return frozenset(finished), tuple(found), seconds


def _read_state(arrays: dict[str, np.ndarray]) -> tuple[Checkpoint, float]:
    state = state_from_arrays(_with_prefix(arrays, "state_"))
    groups = tuple(arrays["groups"].tolist())
    return Checkpoint(groups, state, _with_prefix(arrays, "trace_")), float(arrays["seconds"])


def _some_groups(checkpoint: Checkpoint, wanted: list[bool]) -> Checkpoint:
    """Those groups of a checkpoint: another number of hosts shares them out otherwise."""
    if all(wanted):
        return checkpoint
    size = len(checkpoint.state.position) // len(wanted)
    rows = np.repeat(wanted, size)
    arrays = {
        name: values[rows] if values.ndim else values
        for name, values in state_to_arrays(checkpoint.state).items()
    }
    return Checkpoint(
        tuple(np.array(checkpoint.groups)[wanted].tolist()),
        state_from_arrays(arrays),
        {
            name: values if name == "step" else values[rows]
            for name, values in checkpoint.traces.items()
        },
    )


def _loading(path: Path, read: Callable[[dict[str, np.ndarray]], Any]) -> Any:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return read(dict(stored))
    except Exception as error:  # zipfile and NumPy raise nearly anything on broken bytes
        raise GradgenError(
            f"{path} is a broken checkpoint ({error}); remove it to run its chains anew"
        ) from error


def _with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


class locked:
    """Hold a folder for this process alone, where the system can lock files.

    Raises UsageError on entry if another process has it. The system lets go when the process ends,
    however it ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            folder = self.path.parent.parent
            raise UsageError(f"{folder} is being worked on by another process") from None

    def __exit__(self, *_: object) -> None:
        self.file.close()


def same_pixels(picture: Path, image: np.ndarray) -> tuple[bool, str]:
    """Whether a file shows just this image (S, S, 3) uint8, and how they differ if not."""
    other = np.asarray(decode(picture))
    if other.shape != image.shape:
        return False, f"{other.shape} and {image.shape}"
    gap = np.abs(other.astype(int) - image.astype(int))
    count = int((gap.max(-1) > 0).sum())
    if not count:
        return True, ""
    return False, f"{count} of {gap[..., 0].size} pixels, by at most {gap.max()} of 255"
