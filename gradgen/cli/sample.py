"""`gradgen sample`: pictures of a class by MAP, MALA or HMC."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gradgen.cli import common
from gradgen.cli.hosts import (
    MANY_HOSTS,
    Coordinator,
    Distributed,
    NumProcesses,
    ProcessId,
    join_hosts,
)
from gradgen.cli.options import as_options, option, takes_settings
from gradgen.cli.preview import can_show, preview_option, show_file, strip_of
from gradgen.cli.report import report, summary
from gradgen.inference.settings import CHAINS, CLIPPING, STEPS, TARGET
from gradgen.run_files import GRID_FILE
from gradgen.runs.settings import SampleSettings

if TYPE_CHECKING:
    from gradgen.runs.run import Run
    from gradgen.runs.sample import SampleProgress

OUTPUT = "Output"
LOW_ACCEPTANCE = 0.1  # below it a person is warned
# Ctrl-C, a cluster's polite request, and a terminal that is closed (which Windows does not tell).
STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
WIDE_TERMINAL = 150  # columns that hold a progress line unbroken
PANELS = (TARGET, STEPS, CLIPPING, CHAINS, MANY_HOSTS, OUTPUT)  # of the help, in its order


@takes_settings(SampleSettings, PANELS)
def sample(
    given: dict[str, Any],
    clip: Annotated[
        bool | None,
        option(
            "--clip/--no-clip",
            panel=CLIPPING,
            help="Keep codes in a box.",
            default="on for map, whose algorithm clips; off for mala and hmc",
        ),
    ] = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    out: Annotated[
        Path | None,
        option(
            "--out",
            "-o",
            panel=OUTPUT,
            help="Folder.",
            default="runs/<time>-<class>-<method>-<seed>",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        option(
            panel=OUTPUT,
            help="Continue the run in this folder, which was interrupted; with a larger --budget "
            "or --num-chains, extend it, which is finished.",
            default="a new run",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        option(
            panel=OUTPUT, help="Make this picture of an earlier run again.", default="a new run"
        ),
    ] = None,
    check: Annotated[
        bool,
        option(
            "--check",
            panel=OUTPUT,
            help="With --recipe: exit code 1 if the pixels are not the very same.",
        ),
    ] = False,
    animate: Annotated[
        bool,
        option(
            "--animate",
            panel=OUTPUT,
            help="Draw the chains' way, animation.webp, 60 frames at most.",
        ),
    ] = False,
    preview: Annotated[bool, preview_option(OUTPUT)] = True,
    as_json: Annotated[
        bool, option("--json", panel=OUTPUT, help="The result as JSON on standard output.")
    ] = False,
    force: Annotated[
        bool,
        option(
            "--force",
            panel=OUTPUT,
            help="Replace an earlier run in --out; go on although weights differ.",
        ),
    ] = False,
) -> int | None:
    """Make pictures of a class by MAP, MALA or HMC in the generator's code.

    Writes a folder: a picture a chain, grid.png, trace.png, run.json, chains.npz.

    Ctrl-C ends with what is there; --resume continues to the very same pictures, and with a larger
    --budget it lets the chains of a finished run go on from where they stand.
    """
    from gradgen.runtime import configure

    configure()
    from gradgen.errors import UsageError
    from gradgen.runs import run

    if resume is not None and recipe is not None:
        raise UsageError("--resume and --recipe exclude each other; drop one")
    if check and recipe is None:
        raise UsageError("--check compares with the picture of --recipe; give one, or drop it")
    if animate and (resume is not None or recipe is not None):
        raise UsageError("--animate is for a new run; one that was begun so goes on so")
    if resume is not None and out is not None:
        raise UsageError("--resume writes into the run's own folder; drop --out")
    command = ["gradgen", *sys.argv[1:]]
    hosts = join_hosts(distributed, coordinator, num_processes, process_id)
    if hosts.count > 1 and (recipe is not None or animate):
        raise UsageError("--recipe and --animate are for one host; drop --distributed")
    if resume is not None:
        begun = run.resume(resume, given, clip, force=force, hosts=hosts)
        if not isinstance(begun, run.Run):
            common.note(f"{resume} is finished: there is nothing to resume")
            report(resume, begun, as_json)
            return None
    elif recipe is not None:
        begun = run.from_recipe(recipe, given, clip, out=out, force=force, command=command)
    else:
        begun = run.begin(
            given, clip, out=out, force=force, command=command, animate=animate, hosts=hosts
        )
    for line in (*begun.notes, summary(begun, "likelihood_weight" in given)):
        common.note(line)
    preview = preview and can_show() and hosts.is_first
    try:
        with stopped_by_interrupt() as stop, shown(begun, preview) as show:
            if hosts.is_first:
                samples = begun.execute(on_progress=show, stop=stop)
            else:
                ended = begun.take_part(on_progress=show, stop=stop)
    except KeyboardInterrupt:
        common.note(f"stopped at once; continue with: gradgen sample --resume {begun.folder}")
        raise
    if not hosts.is_first:
        if not ended:
            raise KeyboardInterrupt
        return None
    for host in samples.record.silent_hosts or ():
        common.warn(f"host {host} has stopped; its chains are missing")
    extra, differs = {}, False
    if begun.picture is not None:
        same, difference = run.same_pixels(begun.picture, samples.images[0])
        extra, differs = {"same_pixels": same}, not same
        if same:
            common.note(f"the same pixels as {begun.picture}")
        else:
            common.warn(f"not the same pixels as {begun.picture}: {difference}")
    settings = samples.record.settings
    for job in samples.record.classes:
        acceptance = job.acceptance
        if acceptance is not None and acceptance < LOW_ACCEPTANCE:
            common.warn(f"{job.name}: {low_acceptance(settings, acceptance)}")
    record = replace(samples.record, pictures=tuple(samples.picture_names()))
    if preview and not as_json:
        show_file(begun.folder / GRID_FILE)
    report(begun.folder, record, as_json, extra)
    if not samples.record.finished:
        common.note(f"continue with: gradgen sample --resume {begun.folder}")
        if samples.record.silent_hosts or ():
            return 1
        raise KeyboardInterrupt
    return int(check and differs) or None


def low_acceptance(settings: SampleSettings, acceptance: float) -> str:
    """What a low acceptance comes from, and what helps."""
    from gradgen.evaluation.diagnose import annealed, annealing_advice

    if annealed(settings):
        return as_options(annealing_advice(settings, acceptance))
    return (
        f"an acceptance of {acceptance:.2f} means chains that hardly moved; give them a smaller "
        "--step-size or a longer warm-up (--budget)"
    )


@contextmanager
def stopped_by_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only ask to stop, which the run does after its block of steps.

    So does SIGTERM, which clusters send before they take a machine away, and SIGHUP, which comes
    when the terminal is closed. The second signal stops at once.
    """
    asked = False
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def ask(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if number != signal.SIGINT and number != signal.SIGTERM:
            _to_nowhere(terminals)
        common.note("finishing the block of steps; Ctrl-C again stops at once")

    numbers = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            if handler is None:  # it was not installed from Python
                usual = number == signal.SIGINT
                handler = signal.default_int_handler if usual else signal.SIG_DFL
            signal.signal(number, handler)


def _to_nowhere(descriptors: Sequence[int]) -> None:
    """Have what is printed there vanish: to write to a terminal that is gone is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def shown(begun: Run, preview: bool = False) -> Iterator[Callable[[SampleProgress], None]]:
    """A progress bar over the run's gradient evaluations, and the chains' pictures under it."""
    from gradgen.runs.sample import names_of

    settings = begun.plan.settings
    start, total = begun.gradients
    names = [job.label.name for job in begun.plan.jobs]
    title = names[0] if len(names) == 1 else common.counted(len(names), "class", "classes")
    if begun.hosts.count > 1:
        title = f"host {begun.hosts.index} of {begun.hosts.count}: {title}"
    # on a terminal the bar's line has to fit into 80 columns, so it is broken into short ones
    narrow = common.err.is_terminal and common.err.width < WIDE_TERMINAL
    with common.progress(title, total, "grads" if narrow else "gradients", start) as bar:
        strip = strip_of(begun) if preview else None

        def show(block: SampleProgress) -> None:
            if strip is not None and (pictures := strip(block)) is not None:
                bar.show_below(pictures)
            step = f"step {block.step}/{block.num_steps}"
            if len(names) > 1:
                step = f"{names_of(block.jobs)} {step}"
            parts = [step, f"log p {block.log_likelihood:.2f}"]
            if settings.method != "map":
                parts.insert(1, f"acceptance {block.acceptance_rate:.2f}")
            parts.append(f"step size {block.step_size:.3g}")
            if block.warming_up:
                parts.append("warm-up")
            bar.update(block.gradient_evaluations, in_lines(parts, 2 if narrow else len(parts)))

        yield show


def in_lines(parts: Sequence[str], per_line: int) -> str:
    """Join with commas; where there are more than ``per_line``, on lines of their own."""
    if len(parts) <= per_line:
        return ", ".join(parts)
    lines = [", ".join(parts[i : i + per_line]) for i in range(0, len(parts), per_line)]
    return "\n" + ",\n".join(lines)
