"""`gradgen sample`: pictures of a class by MAP, MALA or HMC."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gradgen.cli import common
from gradgen.cli.common import option
from gradgen.cli.hosts import Coordinator, Distributed, NumProcesses, ProcessId, join_hosts
from gradgen.cli.report import report, summary

if TYPE_CHECKING:
    from gradgen.run import Run
    from gradgen.sampling import SampleProgress

LOW_ACCEPTANCE = 0.1  # below it a person is warned
WIDE_TERMINAL = 150  # columns that hold a progress line unbroken
TARGET, CHAINS, STEPS, CLIPPING, OUTPUT = "Target", "Chains", "Steps", "Clipping", "Output"


def sample(
    classes: Annotated[
        list[str] | None,
        option(
            "--class",
            "-c",
            panel=TARGET,
            help="Name, synset id, index, or part of a name; several give a grid row each.",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        option("--bundle", panel=TARGET, help="Networks: a name or a folder.", default="tiny64"),
    ] = None,
    generator: Annotated[
        str | None,
        option(
            "--generator",
            panel=TARGET,
            help="Another generator and its codes: deepsim-fc6, -fc7, -pool5, or a bundle's.",
            default="the bundle's own",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        option(
            "--classifier",
            panel=TARGET,
            help="Another classifier: lite0, lite1, or a bundle's.",
            default="the bundle's own; lite0 for a class that only lite0 knows",
        ),
    ] = None,
    likelihood_weight: Annotated[
        float | None,
        option(
            "--likelihood-weight",
            panel=TARGET,
            help="β in p(class|image)^β p(z); 1 is the posterior.",
            default="the bundle's recommendation",
        ),
    ] = None,
    method: Annotated[
        str | None, option("--method", "-m", panel=STEPS, help="map, mala or hmc.", default="hmc")
    ] = None,
    preset: Annotated[
        str | None,
        option("--preset", panel=STEPS, help="dgn-am: the published MAP rule, 200 iterations."),
    ] = None,
    budget: Annotated[
        int | None,
        option(
            "--budget",
            "-b",
            panel=STEPS,
            help="Gradient evaluations a chain, for every method, warm-up included.",
            default="6000",
        ),
    ] = None,
    step_size: Annotated[
        str | None,
        option(
            "--step-size",
            panel=STEPS,
            help="A number, or auto: dual averaging in a warm-up.",
            default="auto",
        ),
    ] = None,
    step_decay: Annotated[
        float | None,
        option(
            "--step-decay",
            panel=STEPS,
            help="γ of the step sizes a((b+t)/b)^-γ.",
            default="0, constant",
        ),
    ] = None,
    step_decay_offset: Annotated[
        float | None,
        option(
            "--step-decay-offset",
            panel=STEPS,
            help="b of the step sizes a((b+t)/b)^-γ.",
            default="1",
        ),
    ] = None,
    noise_scale: Annotated[
        float | None,
        option("--noise-scale", panel=STEPS, help="η of MALA's noise η/(1+t)^γ.", default="1"),
    ] = None,
    noise_decay: Annotated[
        float | None,
        option(
            "--noise-decay",
            panel=STEPS,
            help="γ of MALA's noise η/(1+t)^γ; 0.55 anneals it.",
            default="0, constant",
        ),
    ] = None,
    num_integration_steps: Annotated[
        int | None,
        option(
            "--num-integration-steps", "-L", panel=STEPS, help="Leapfrog steps (HMC).", default="10"
        ),
    ] = None,
    step_jitter: Annotated[
        float | None,
        option(
            "--step-jitter",
            panel=STEPS,
            help="Relative jitter of HMC's step size, 0…1.",
            default="0",
        ),
    ] = None,
    target_acceptance: Annotated[
        float | None,
        option(
            "--target-acceptance",
            panel=STEPS,
            help="Of the warm-up.",
            default="0.574 MALA, 0.8 HMC",
        ),
    ] = None,
    warmup_fraction: Annotated[
        float | None,
        option("--warmup-fraction", panel=STEPS, help="Share of the budget.", default="0.15"),
    ] = None,
    clip: Annotated[
        bool | None,
        option(
            "--clip/--no-clip",
            panel=CLIPPING,
            help="Keep codes in a box.",
            default="on for map, whose algorithm clips; off for mala and hmc",
        ),
    ] = None,
    clip_mode: Annotated[
        str | None,
        option(
            "--clip-mode",
            panel=CLIPPING,
            help="project: the paper's heuristic, which does not leave the target invariant; "
            "reject: exact on the truncated target.",
            default="project",
        ),
    ] = None,
    clip_sigmas: Annotated[
        float | None,
        option(
            "--clip-sigmas", panel=CLIPPING, help="Box: mean ± this many deviations.", default="3"
        ),
    ] = None,
    clip_scope: Annotated[
        str | None,
        option(
            "--clip-scope",
            panel=CLIPPING,
            help="Statistics of the class, or of all the data.",
            default="class, where they exist",
        ),
    ] = None,
    statistics: Annotated[
        Path | None,
        option("--stats", panel=CLIPPING, help="File of gradgen stats, or DGN-AM's bounds."),
    ] = None,
    num_chains: Annotated[
        int | None,
        option("--num-chains", "-n", panel=CHAINS, help="Chains a class.", default="16"),
    ] = None,
    chain_group: Annotated[
        int | None,
        option(
            "--chain-group",
            panel=CHAINS,
            help="Chains computed as one, on one device; the last bits of a result depend on it.",
            default="16 on CPUs; on GPUs a class's, shared by the devices",
        ),
    ] = None,
    chain_batch: Annotated[
        int | None,
        option(
            "--chain-batch",
            panel=CHAINS,
            help="Most chains at once, over all devices.",
            default="on CPUs a class's; on GPUs what their memory holds",
        ),
    ] = None,
    gradient_precision: Annotated[
        str | None,
        option(
            "--gradient-precision",
            panel=CHAINS,
            help="float32, or bf16: of gradients alone, so that accept steps stay exact.",
            default="float32",
        ),
    ] = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    seed: Annotated[
        int | None, option("--seed", "-s", panel=CHAINS, help="Of all randomness.", default="0")
    ] = None,
    block_size: Annotated[
        int | None,
        option(
            "--block-size",
            panel=CHAINS,
            help="Steps between two checkpoints.",
            default="a few seconds of them",
        ),
    ] = None,
    trace_length: Annotated[
        int | None,
        option("--trace-length", panel=CHAINS, help="Points kept a chain.", default="1000"),
    ] = None,
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
        option("--resume", panel=OUTPUT, help="Continue an interrupted run's folder."),
    ] = None,
    recipe: Annotated[
        Path | None,
        option("--recipe", panel=OUTPUT, help="Make a picture of an earlier run again."),
    ] = None,
    animate: Annotated[
        bool,
        option(
            "--animate",
            panel=OUTPUT,
            help="Draw the chains' way, animation.webp, 60 frames at most.",
        ),
    ] = False,
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

    Ctrl-C ends with what is there; --resume continues to the very same pictures.
    """
    from gradgen.runtime import configure

    configure()
    from gradgen import run
    from gradgen.errors import UsageError

    options = {
        "classes": classes, "bundle": bundle, "generator": generator,
        "classifier": classifier, "method": method,
        "likelihood_weight": likelihood_weight, "preset": preset, "budget": budget,
        "step_size": parse_step_size(step_size), "step_decay": step_decay,
        "step_decay_offset": step_decay_offset, "noise_scale": noise_scale,
        "noise_decay": noise_decay, "num_integration_steps": num_integration_steps,
        "step_jitter": step_jitter, "target_acceptance": target_acceptance,
        "warmup_fraction": warmup_fraction, "clip_mode": clip_mode, "clip_sigmas": clip_sigmas,
        "clip_scope": clip_scope, "statistics": None if statistics is None else str(statistics),
        "num_chains": num_chains, "chain_group": chain_group, "chain_batch": chain_batch,
        "gradient_precision": "bfloat16" if gradient_precision == "bf16" else gradient_precision,
        "seed": seed,
        "block_size": block_size, "trace_length": trace_length,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    if resume is not None and recipe is not None:
        raise UsageError("--resume and --recipe exclude each other; drop one")
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
    for line in (*begun.notes, summary(begun, likelihood_weight is not None)):
        common.note(line)
    try:
        with stopped_by_interrupt() as stop, shown(begun) as show:
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
    for host in samples.record["silent_hosts"]:
        common.warn(f"host {host} has stopped; its chains are missing")
    extra = {}
    if begun.picture is not None:
        same, difference = run.same_pixels(begun.picture, samples.images[0])
        extra = {"same_pixels": same}
        if same:
            common.note(f"the same pixels as {begun.picture}")
        else:
            common.warn(f"not the same pixels as {begun.picture}: {difference}")
    for job in samples.record["classes"]:
        acceptance = job.get("acceptance")
        if acceptance is not None and acceptance < LOW_ACCEPTANCE:
            common.warn(
                f"{job['name']}: an acceptance of {acceptance:.2f} means chains that hardly "
                "moved; give them a smaller --step-size or a longer warm-up (--budget)"
            )
    report(begun.folder, {**samples.record, "pictures": samples.picture_names()}, as_json, extra)
    if samples.record["status"] == "interrupted":
        common.note(f"continue with: gradgen sample --resume {begun.folder}")
        if samples.record["silent_hosts"]:
            return 1
        raise KeyboardInterrupt
    return None


def parse_step_size(text: str | None) -> float | str | None:
    """A number, "auto", or None where nothing was given."""
    from gradgen.errors import UsageError

    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"step-size {text!r}: must be a number above 0, or auto") from None


@contextmanager
def stopped_by_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only ask to stop, which the run does after its block of steps.

    The second one stops at once, as ever.
    """
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)
        common.note("finishing the block of steps; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, ask)
    if before is None:  # it was not installed from Python
        before = signal.default_int_handler
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def shown(begun: Run) -> Iterator[Callable[[SampleProgress], None]]:
    """A progress bar over all gradient evaluations of the run."""
    from gradgen.sampling import names_of, sampler_settings

    sampler = sampler_settings(begun.plan.settings)
    start, total = begun.gradients
    names = [job.label.name for job in begun.plan.jobs]
    title = names[0] if len(names) == 1 else f"{len(names)} classes"
    if begun.hosts.count > 1:
        title = f"host {begun.hosts.index} of {begun.hosts.count}: {title}"
    # on a terminal the bar's line has to fit into 80 columns, so it is broken into short ones
    narrow = common.err.is_terminal and common.err.width < WIDE_TERMINAL
    with common.progress(title, total, "grads" if narrow else "gradients", start) as bar:

        def show(block: SampleProgress) -> None:
            step = f"step {block.step}/{block.num_steps}"
            if len(names) > 1:
                step = f"{names_of(block.jobs)} {step}"
            parts = [step, f"log p {block.log_likelihood:.2f}"]
            if sampler.method != "map":
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
