"""A run in its folder: begun, checkpointed, resumed, replayed from a picture's recipe.

The folder holds run.json from the first moment (status "running"), a ``checkpoint`` folder while
there is something left to do, and at the end, or when the run is interrupted, the files that
:meth:`gradgen.runs.results.Samples.save` writes.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gradgen import files
from gradgen.errors import GradgenError, UsageError
from gradgen.hosts import ALONE, Hosts
from gradgen.images import decode, read_recipe
from gradgen.networks.interfaces import Bundle
from gradgen.networks.python_file import refuse_recorded
from gradgen.run_files import (
    CHAINS_FOLDER,
    CHECKPOINT,
    FOLDER_SIZE,
    FRAMES,
    PICTURES_FOLDER,
    STATES_FOLDER,
    STREAMED,
)
from gradgen.runs.animation import Recorder, block_size_for
from gradgen.runs.checkpoint import (
    Checkpoint,
    keep_states,
    load_checkpoints,
    part_files,
    read_parts,
    save_part,
    save_state,
)
from gradgen.runs.extend import EXTENDABLE, extend, longer
from gradgen.runs.folder import (
    RUNS,
    default_name,
    empty_checkpoint,
    locked,
    make_folder,
    remove_checkpoint,
    remove_leftovers,
    remove_pictures,
    tidy,
)
from gradgen.runs.plan import Plan, describe, prepare
from gradgen.runs.record import (
    RUNNING,
    NetworkRecord,
    Recipe,
    RunRecord,
    other_conditions,
    read_record,
    write_record,
)
from gradgen.runs.results import Part, Samples, collect
from gradgen.runs.sample import SampleProgress, run_batches
from gradgen.runs.settings import SampleSettings, make_settings

# On an accelerator a block may take milliseconds: writing after each would cost more than the
# blocks. Nobody minds losing a second. Where a checkpoint takes longer than CHECKPOINT_COST, since
# the disk is slow or the chains are many, the interval is as many times as long.
CHECKPOINT_INTERVAL = 1.0  # seconds
CHECKPOINT_COST = 0.01  # seconds

KEPT = 1024  # chains of such a run, shared by its classes, that grid, traces and diagnostics show


@dataclass(eq=False)
class Run:
    """A run that can be executed, from the start or from where it stopped.

    Attributes:
        folder: where it writes.
        plan: what it runs.
        record: run.json as it stands.
        finished: groups of the plan whose chains earlier sessions have brought to their end.
        checkpoints: chains that earlier sessions have begun.
        seconds: wall time of the earlier sessions.
        hosts: that share the run, and which of them this is.
        notes: what a person should be told before it starts.
        picture: the file whose recipe is replayed, or ``None``.
    """

    folder: Path
    plan: Plan
    record: RunRecord
    finished: frozenset[int] = frozenset()
    checkpoints: tuple[Checkpoint, ...] = ()
    seconds: float = 0.0
    hosts: Hosts = ALONE
    notes: tuple[str, ...] = ()
    picture: Path | None = None

    @property
    def gradients(self) -> tuple[int, int]:
        """Gradient evaluations of all chains of this host: done in earlier sessions, and in all."""
        sampler = self.plan.settings
        each = sampler.gradients_after(self.plan.stop_at)
        own = self.hosts.share(len(self.plan.groups))
        size = self.plan.groups[0].size
        done = each * size * sum(index in self.finished for index in own)
        for checkpoint in self.checkpoints:
            gradients = sampler.gradients_after(int(checkpoint.state.step))
            done += len(checkpoint.groups) * size * gradients
        return done, each * size * len(own)

    @property
    def streamed(self) -> bool:
        """Whether it has too many chains to be in memory as a whole."""
        return sum(group.size for group in self.plan.groups) > STREAMED

    @property
    def keeps_states(self) -> bool:
        """Whether it keeps where its chains stand, so that it can be extended."""
        return not self.streamed and self.plan.only_chain is None

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
            UsageError: another process is at work in the folder, or has finished the run.
            GradgenError: nothing has come far enough to be shown; the folder is gone; or it cannot
                be written into, which the message explains.
        """
        begun = time.monotonic()
        with self._explained(), self._at_work() as (work, recorder):
            partial = self._run_share(work, recorder, on_progress, stop)
            silent = self.hosts.wait_for_others(work, stop)
            seconds = self.seconds + time.monotonic() - begun
            keep = max(1, KEPT // len(self.plan.jobs)) if self.streamed else None
            record = replace(
                describe(self.plan),
                created=self.record.created,
                command=self.record.command,
                extended=self.record.extended,
                num_hosts=self.hosts.count,
                silent_hosts=tuple(silent),
                animate=self.record.animate,
            )
            samples = collect(self.plan, record, self._parts(partial), seconds, keep)
            if recorder is not None:
                recorder.write(samples, self.plan, self.folder)
            if samples.record.finished:
                remove_leftovers(self.folder)
            # run.json comes last: where it says "finished", the disk has all the rest
            if self.streamed:
                samples = self._write_streamed(samples, work)
            else:
                names = samples.picture_names()
                if samples.record.finished and self.keeps_states:
                    keep_states(work, self.folder / STATES_FOLDER)
                samples.save_pictures([self.folder / name for name in names])
                if samples.record.finished:
                    # a number has more digits where the run has got more chains in the meantime
                    remove_pictures(self.folder, samples.record, but=names)
                samples.save_summary(self.folder, names)
            if samples.record.finished:
                empty_checkpoint(self.folder)
        if samples.record.finished:
            remove_checkpoint(self.folder)
        return samples

    def take_part(
        self,
        on_progress: Callable[[SampleProgress], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Run this host's share for the first host, which collects it; :meth:`execute` of the rest.

        Returns whether it has ended, rather than been stopped.
        """
        with self._explained(), self._at_work() as (work, recorder):
            return not self._run_share(work, recorder, on_progress, stop)

    @contextmanager
    def _at_work(self) -> Iterator[tuple[Path, Recorder | None]]:
        """The folder of what is not finished, locked, and what draws the chains' way."""
        work = self.folder / CHECKPOINT
        files.make_folder(work)
        with locked(self.folder, self.hosts.index):
            if self.hosts.is_first:
                if read_record(self.folder).finished:
                    raise UsageError(f"another process has finished {self.folder} in the meantime")
                # under the lock: what another process has written there meanwhile does not hold
                write_record(self.folder, self.record)
            recorder = None
            if self.record.animate:
                recorder = Recorder(work / FRAMES)
                files.make_folder(recorder.folder)
            yield work, recorder

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of a disk that is full, or of a folder that is gone, what it means for the run."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            if not self.folder.is_dir():
                raise GradgenError(
                    f"{self.folder} is gone: it was removed or renamed while the run wrote into it"
                ) from error
            place = error.filename or self.folder
            room = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise GradgenError(
                f"{place}: {error.strerror}; what was saved before is whole"
                f"{' and nothing is lost. Make room, then' if room else '. Once that is mended,'} "
                f"continue with: gradgen sample --resume {self.folder}"
            ) from error

    def _run_share(
        self,
        work: Path,
        recorder: Recorder | None,
        on_progress: Callable[[SampleProgress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> list[Part]:
        """Run this host's groups; a batch that was interrupted is returned, the rest is on disk."""
        begun = written = time.monotonic()
        interval = CHECKPOINT_INTERVAL
        own = self.hosts.share(len(self.plan.groups))

        last: SampleProgress | None = None

        def on_block(block: SampleProgress) -> None:
            nonlocal written, interval, last
            last = block
            stopping = stop is not None and stop()
            if recorder is not None:
                recorder.take(block, self.plan)
            now = time.monotonic()
            if stopping or now - written >= interval:
                if recorder is not None:
                    recorder.settle()  # before the state: it is not drawn again
                save_state(work, block, self.seconds + now - begun)
                self.hosts.report(work, done, len(own))
                written = time.monotonic()
                interval = interval_after(written - now)
            if on_progress:
                on_progress(block)
            if stopping:
                raise KeyboardInterrupt

        todo = [index for index in own if index not in self.finished]
        done = len(own) - len(todo)
        self.hosts.report(work, done, len(own))
        partial: list[Part] = []
        for part in run_batches(self.plan, todo, self.checkpoints, on_block, own):
            if self.streamed:
                self._write_pictures(part)
                part = replace(part, images=part.images[:, :0])
            if part.interrupted:
                partial.append(part)
                continue
            done += len(part.groups)
            if recorder is not None:
                recorder.settle()
            if (
                self.keeps_states
                and last is not None
                and last.groups == tuple(part.groups.tolist())
            ):
                save_state(work, last, self.seconds + time.monotonic() - begun)
            save_part(work, part, keep_state=self.keeps_states)
        self.hosts.report(work, done, len(own), ended=True)
        return partial

    def _parts(self, partial: list[Part]) -> Iterator[Part]:
        """All that has ended, of all hosts, one by one from the disk; then what was interrupted."""
        yield from read_parts(_part_files(self.folder))
        yield from partial

    def _write_pictures(self, part: Part) -> None:
        samples = collect(self.plan, self.record, [part], seconds=0.0)
        pictures = self._pictures(samples)
        files.make_folder(self.folder / PICTURES_FOLDER)
        for folder in sorted({picture.parent for picture in pictures}):
            files.make_folder(folder)
        samples.save_pictures(pictures)

    def _pictures(self, samples: Samples) -> list[Path]:
        names = samples.picture_names(self._digits)
        chains = samples.chain.tolist()
        return [self._picture(name, chain) for name, chain in zip(names, chains, strict=True)]

    @property
    def _digits(self) -> int:
        return len(str(self.plan.settings.num_chains - 1))

    def _picture(self, name: str, chain: int) -> Path:
        return self.folder / PICTURES_FOLDER / f"{chain // FOLDER_SIZE:04d}" / name

    def _write_streamed(self, samples: Samples, work: Path) -> Samples:
        """The summary of a run whose pictures are written; all chains' numbers beside it."""
        pictures = self._pictures(samples)
        images = np.stack([np.asarray(decode(picture)) for picture in pictures])
        samples = replace(samples, images=images)
        if samples.record.finished:
            kept = self.folder / CHAINS_FOLDER
            files.make_folder(kept)
            files.make_durable([path.replace(kept / path.name) for path in part_files(work)])
        shown = [picture.relative_to(self.folder).as_posix() for picture in pictures]
        samples.save_summary(self.folder, shown, PICTURES_FOLDER)
        return samples


def interval_after(cost: float) -> float:
    """Seconds until the next checkpoint, after one that took ``cost`` seconds."""
    return CHECKPOINT_INTERVAL * max(1.0, cost / CHECKPOINT_COST)


def _part_files(folder: Path) -> list[Path]:
    """The parts of a run, wherever they are (:func:`part_files`)."""
    return part_files(folder / CHECKPOINT, folder / CHAINS_FOLDER)


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
    bundle: Bundle | None = None,
) -> Run:
    """A new run.

    Args:
        given: the settings that were given (:func:`gradgen.runs.settings.make_settings`).
        out: folder; ``None``: ``runs/<time>-<class>-<method>-<seed>``.
        force: replace an earlier run in ``out``.
        command: how it was called, for the record.
        animate: draw the chains' way too; blocks are so short that it has frames enough.
        stop_at: end after this many steps of the settings' schedule.
        hosts: that share the run; all call this alike.
        bundle: loaded already, in place of a name in ``given``.

    Raises:
        UsageError: settings that make no sense, or an ``out`` that is not empty.
    """
    if bundle is not None:
        given = {**given, "bundle": bundle.name}
    plan = prepare(make_settings(given, clip), bundle, stop_at=stop_at)
    num_steps = plan.settings.num_steps
    if animate and given.get("block_size") is None:
        size = block_size_for(num_steps)
        plan = replace(plan, settings=replace(plan.settings, block_size=size))
    if hosts.count > 1 and out is None:
        out = RUNS / default_name(plan, datetime.fromtimestamp(hosts.session / 1000))
    if not hosts.is_first and out is not None:
        hosts.wait_for_first(lambda: _session_of(out), out)
        return Run(out, plan, describe(plan), hosts=hosts, notes=plan.notes)
    folder = make_folder(out, plan, force)
    record = replace(describe(plan), session=hosts.session, animate=animate or None)
    run = Run(folder, plan, record, hosts=hosts, notes=plan.notes)
    return _started(run, command)


def _session_of(folder: Path) -> int | None:
    try:
        return read_record(folder).session
    except UsageError:  # not there yet
        return None


def resume(
    folder: Path,
    given: Mapping[str, Any],
    clip: bool | None = None,
    force: bool = False,
    hosts: Hosts = ALONE,
    bundle: Bundle | None = None,
) -> Run | RunRecord:
    """An interrupted run, ready to go on; a finished one that is to be extended, or its record.

    Args:
        folder: of the run.
        given: options may only repeat the run's. But a larger ``budget`` lets the chains of a
            finished run go on from where they stand, and a larger ``num_chains`` adds chains.
        clip: as in the run.
        force: go on although weights differ.
        hosts: that share the run; it is extended by a single host.
        bundle: of the run, where no name of it can be loaded.

    Raises:
        UsageError: not a run's folder, an option that differs from the run's, or a run that cannot
            be extended.
        GradgenError: the weights are others than the run began with (unless ``force``), or the
            checkpoint is broken.
    """
    record = read_record(folder)
    free = EXTENDABLE if record.finished else ()
    settings = _settings_of(record.settings, given, clip, "resumed", free)
    if record.finished and all(
        getattr(settings, name) == getattr(record.settings, name) for name in free
    ):
        tidy(folder)
        return record
    if bundle is None and "bundle" not in given:
        refuse_recorded(record.settings.bundle, str(folder))
    if record.finished:
        settings = longer(folder, record, settings, hosts)
    boxes = [job.bounds for job in record.classes if job.bounds and job.clip_scope == "file"]
    plan = prepare(
        settings,
        bundle,
        only_chain=record.only_chain,
        stop_at=record.stop_at,
        bounds=boxes[0].sides() if boxes else None,
        evidence=record.evidence,
    )
    check_sense(plan, len(record.classes), str(folder))
    now = describe(plan)
    notes = [*plan.notes, *check_same(record, now, str(folder), force)]
    if record.finished:
        record = extend(folder, record, plan)
        notes += (record.extended or ())[-1:]
    own = hosts.share(len(plan.groups))
    finished, checkpoints, seconds = load_checkpoints(
        folder / CHECKPOINT, own, plan, _part_files(folder)
    )
    record = replace(record, status=RUNNING, session=hosts.session)
    return Run(folder, plan, record, finished, checkpoints, seconds, hosts, tuple(notes))


def from_recipe(
    picture: Path,
    given: Mapping[str, Any],
    clip: bool | None = None,
    out: Path | None = None,
    force: bool = False,
    command: list[str] | None = None,
    bundle: Bundle | None = None,
) -> Run:
    """A run that makes one picture again; the chains of its batch run with it.

    ``bundle`` is the one of the picture where no name of it can be loaded.

    Raises:
        UsageError: the file carries no recipe, or an option contradicts it.
        GradgenError: the weights are others than the recipe's (unless ``force``).
    """
    source = f"the recipe of {picture}"
    recipe = Recipe.from_json(read_recipe(picture), source)
    if bundle is None and "bundle" not in given:
        refuse_recorded(recipe.settings.bundle, source)
    settings = _settings_of(recipe.settings, given, clip, "replayed")
    total = settings.num_steps
    plan = prepare(
        settings,
        bundle,
        only_chain=recipe.chain,
        stop_at=recipe.steps if recipe.steps < total else None,
        bounds=recipe.bounds.sides() if recipe.bounds else None,
        evidence=recipe.evidence,
    )
    check_sense(plan, 1, str(picture))
    record = describe(plan)
    expected = replace(
        record,
        bundle=replace(
            record.bundle,
            generator=recipe.weights.generator,
            file=recipe.weights.file,
            discriminator=recipe.weights.discriminator,
        ),
        classes=tuple(
            replace(job, classifier=recipe.weights.classifier, bounds=recipe.bounds)
            for job in record.classes
        ),
        versions=recipe.versions,
        device=recipe.device,
    )
    notes = (*plan.notes, *check_same(expected, record, str(picture), force))
    folder = make_folder(out, plan, force)
    run = Run(folder, plan, record, notes=notes, picture=picture)
    return _started(run, command)


def _started(run: Run, command: list[str] | None) -> Run:
    if command is not None:
        run.record = replace(run.record, command=tuple(command))
    write_record(run.folder, run.record)
    return run


def check_sense(plan: Plan, classes: int, source: str) -> None:
    """Refuse a record or a recipe whose parts, each good in itself, do not go together.

    Args:
        plan: that was made of it.
        classes: that it describes.
        source: what messages call it.
    """
    code = plan.bundle.code_size
    units = {len(side) for job in plan.jobs for side in job.bounds or ()}
    if len(plan.jobs) != classes:
        raise GradgenError(
            f"{source} is broken: it describes {classes} classes of {len(plan.jobs)}"
        )
    if not plan.groups:
        raise GradgenError(f"{source} is broken (no chain {plan.only_chain})")
    if plan.stop_at is not None and plan.stop_at < 1:
        raise GradgenError(f"{source} is broken (it ends after {plan.stop_at} steps)")
    if units - {code}:
        raise GradgenError(f"{source} is broken: bounds of {units - {code}} units, not {code}")


def _settings_of(
    recorded: SampleSettings,
    given: Mapping[str, Any],
    clip: bool | None,
    what: str,
    free: tuple[str, ...] = (),
) -> SampleSettings:
    """The recorded settings; options given anew may only repeat them, but for the free ones.

    But the bundle may have moved, and how many chains run at once changes no result.
    """
    changed = {name: given[name] for name in ("bundle", "chain_batch", *free) if name in given}
    base = make_settings(changed, base=recorded)
    differences = make_settings(given, clip, base=base).differences(base)
    if differences:
        raise UsageError(
            f"a run is {what} with its own settings; asked for {'; '.join(differences)}. "
            "Drop these options, or start a new run"
        )
    return base


def check_same(recorded: RunRecord, now: RunRecord, source: str, force: bool) -> list[str]:
    """Refuse other weights or bounds; tell of another device, thread number or version."""
    faults = []
    pairs: list[tuple[str, Any, Any]] = [
        ("generator", recorded.bundle.generator, now.bundle.generator),
        ("discriminator", recorded.bundle.discriminator, now.bundle.discriminator),
        ("code", recorded.bundle.file, now.bundle.file),
    ]
    for was, is_ in zip(recorded.classes, now.classes, strict=True):
        pairs.append(("classifier", was.classifier, is_.classifier))
        pairs.append(("clipping bounds", was.bounds, is_.bounds))
    for kind, before, after in pairs:
        old, new = (str(side and side.sha256) for side in (before, after))
        if old != new:
            name = getattr(before, "name", "")
            faults.append(f"{kind} {name}".rstrip() + f" was {old[:12]}…, is {new[:12]}…")
    faults = list(dict.fromkeys(faults))
    other_code = any(fault.startswith("code") for fault in faults)
    if faults and not force:
        raise GradgenError(
            f"{source} was made with other {'code' if other_code else 'weights'} "
            f"({'; '.join(faults)}): the result would differ; restore them or go on with --force"
        )
    notes = [f"not the weights of {source}: {fault}" for fault in faults]
    ways = {
        f"{before.name} was {before.way}, is {after.way}: the last bits may differ"
        for _, before, after in pairs
        if isinstance(before, NetworkRecord) and after is not None and before.way != after.way
    }
    notes += sorted(ways)
    changed = other_conditions((recorded.device, recorded.versions), (now.device, now.versions))
    if changed:
        notes.append(f"{source} was made with {'; '.join(changed)}: the last bits may differ")
    return notes


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
