"""What `gradgen sample` says before a run and after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgen.cli import common

if TYPE_CHECKING:
    from gradgen.runs.record import ClassRecord, RunRecord
    from gradgen.runs.run import Run


def summary(begun: Run, weight_given: bool) -> str:
    """One line: what is about to run, and the choices in it."""
    from gradgen.inference.chain import first_step_size

    plan = begun.plan
    s = plan.settings
    names = ", ".join(str(job.label) for job in plan.jobs)
    chosen = not (weight_given or begun.picture) and plan.bundle.card.likelihood_weight is not None
    whose = f" (recommended by {plan.bundle.name})" if chosen else ""
    auto = s.step_size is None and s.method != "map"
    step = "auto" if auto else f"{first_step_size(s, plan.bundle.code_size):g}"
    parts = [
        f"{names}: {s.preset or s.method}",
        f"bundle {plan.bundle.name}" + (f" ({plan.choice.reason})" if plan.choice else ""),
        common.counted(s.num_chains, "chain"),
        f"β = {s.likelihood_weight:g}{whose}",
        f"budget {common.counted(s.budget, 'gradient evaluation')}"
        + (f", or until R̂ < {s.until_r_hat:g}" if s.until_r_hat is not None else ""),
        f"step size {step}",
    ]
    if s.realism:
        name = plan.bundle.discriminator.name
        parts.insert(4, f"γ = {s.realism:g} by {name}, whose score then judges itself")
    if s.match is not None:
        parts.insert(1, f"matching {s.match} with noise {s.noise:g}")
    if s.method == "hmc":
        length = f"trajectories of {s.trajectory_length:g}"
        parts.append(length if s.has_trajectories else f"L = {s.num_integration_steps}")
    if s.replicas > 1:
        parts.append(f"{s.replicas} replicas, each with {s.replica_ratio:g} of the weight before")
    if s.step_decay:
        parts.append(f"step decay ((b + t)/b)^-{s.step_decay:g}, b = {s.step_decay_offset:g}")
    if s.method == "mala" and (s.noise_decay or s.noise_scale != 1):
        parts.append(f"noise {s.noise_scale:g}/(1 + t)^{s.noise_decay:g}")
    if s.clip_mode != "none":
        scopes = ", ".join(sorted({job.clip_scope or "" for job in plan.jobs}))
        parts.append(f"clip {s.clip_mode} ({scopes})")
    return f"{'; '.join(parts)}; seed {s.seed}; folder {begun.folder}"


def report(
    folder: Path, record: RunRecord, as_json: bool, extra: Mapping[str, Any] | None = None
) -> None:
    """The result on standard output: JSON, or a table and the paths."""
    from gradgen.run_files import ANIMATION_FILE, GRID_FILE

    if as_json:
        result = {"run": str(folder), "grid": str(folder / GRID_FILE), **(extra or {})}
        common.print_json({**result, **record.to_json()})
        return
    common.print_table(result_table(record))
    for job in record.classes:
        for line in faults_of(job):
            common.warn(f"{job.name}: {line}")
    # not through Rich, which would break long paths
    common.say(f"run   {folder}")
    common.say(f"grid  {folder / GRID_FILE}")
    if (folder / ANIMATION_FILE).is_file():
        common.say(f"way   {folder / ANIMATION_FILE}")


def result_table(record: RunRecord) -> Any:
    """One row for each class."""
    from rich.markup import escape
    from rich.table import Table

    from gradgen.inference.diagnostics import in_agreement, smallest_ess, worst_r_hat

    evaluations = record.gradient_evaluations.per_chain if record.gradient_evaluations else 0
    cost = common.counted(evaluations, "gradient evaluation")
    table = Table(
        caption=f"{record.status}: {cost} a chain in "
        f"{common.format_duration(record.wall_time_s or 0)}; the worst rank-normalised split R̂ and "
        "the smallest bulk ESS of all that is traced"
    )
    headings = ["class", "chains", "acceptance", "log p(class)", "‖z‖²", "R̂", "ESS"]
    with_replicas = any(job.arrivals is not None for job in record.classes)
    if with_replicas:
        headings += ["exchanges", "arrivals"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for job in record.classes:
        figures = job.diagnostics or {}
        verdict = {True: " agree", False: " do not agree yet", None: ""}[in_agreement(figures)]
        table.add_row(
            escape(common.printable(job.name)),
            f"{job.num_chains}{verdict}",
            _figure(job.acceptance, ".2f"),
            _figure(job.log_likelihood, ".2f"),
            _figure(job.squared_norm, ".0f"),
            _figure(worst_r_hat(figures), ".3f"),
            _figure(smallest_ess(figures), ".0f"),
            *(_replicas(job) if with_replicas else ()),
        )
    return table


def _replicas(job: ClassRecord) -> tuple[str, str]:
    """The range of how often neighbouring replicas change places, and the arrivals at β."""
    rates = [rate for rate in job.exchange_acceptance or () if rate is not None]
    span = f"{min(rates):.2f}–{max(rates):.2f}" if rates else "–"
    return span, "–" if job.arrivals is None else str(job.arrivals)


def faults_of(job: ClassRecord) -> list[str]:
    """What went wrong numerically in a class's chains; empty where nothing did."""
    found = []
    if job.divergent:
        found.append(f"{common.counted(job.divergent, 'divergent proposal')}")
    if job.nan_proposals:
        found.append(f"{common.counted(job.nan_proposals, 'proposal')} whose density is no number")
    return found


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
