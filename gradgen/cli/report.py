"""What `gradgen sample` says before a run and after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgen.cli import common

if TYPE_CHECKING:
    from gradgen.run import Run


def summary(begun: Run, weight_given: bool) -> str:
    """One line: what is about to run, and the choices in it."""
    from gradgen.inference.chain import first_step_size
    from gradgen.sampling import sampler_settings

    plan = begun.plan
    s = plan.settings
    names = ", ".join(str(job.label) for job in plan.jobs)
    chosen = not (weight_given or begun.picture) and "recommended" in plan.bundle.card
    whose = f" (recommended by {plan.bundle.name})" if chosen else ""
    auto = s.step_size is None and s.method != "map"
    step = "auto" if auto else f"{first_step_size(sampler_settings(s), plan.bundle.code_size):g}"
    parts = [
        f"{names}: {s.preset or s.method}",
        f"{s.num_chains} chains",
        f"β = {s.likelihood_weight:g}{whose}",
        f"budget {s.budget} gradient evaluations",
        f"step size {step}",
    ]
    if s.method == "hmc":
        parts.append(f"L = {s.num_integration_steps}")
    if s.step_decay:
        parts.append(f"step decay ((b + t)/b)^-{s.step_decay:g}, b = {s.step_decay_offset:g}")
    if s.method == "mala" and (s.noise_decay or s.noise_scale != 1):
        parts.append(f"noise {s.noise_scale:g}/(1 + t)^{s.noise_decay:g}")
    if s.clip_mode != "none":
        scopes = ", ".join(sorted({job.clip_scope or "" for job in plan.jobs}))
        parts.append(f"clip {s.clip_mode} ({scopes})")
    return f"{'; '.join(parts)}; seed {s.seed}; folder {begun.folder}"


def report(
    folder: Path, record: Mapping[str, Any], as_json: bool, extra: Mapping[str, Any] | None = None
) -> None:
    """The result on standard output: JSON, or a table and the paths."""
    from gradgen.images import ANIMATION_FILE
    from gradgen.samples import GRID_FILE

    if as_json:
        paths = {"run": str(folder), "grid": str(folder / GRID_FILE)}
        print(json.dumps({**paths, **(extra or {}), **record}, indent=2, ensure_ascii=False))
        return
    common.print_table(result_table(record))
    # not through Rich, which would break long paths
    print(f"run   {folder}")
    print(f"grid  {folder / GRID_FILE}")
    if (folder / ANIMATION_FILE).is_file():
        print(f"way   {folder / ANIMATION_FILE}")


def result_table(record: Mapping[str, Any]) -> Any:
    """One row for each class."""
    from rich.markup import escape
    from rich.table import Table

    evaluations = record["gradient_evaluations"]["per_chain"]
    table = Table(
        caption=f"{record['status']}: {evaluations} gradient evaluations a chain in "
        f"{common.format_duration(record['wall_time_s'])}; R̂ and ESS of the log density"
    )
    headings = ("class", "chains", "acceptance", "log p(class)", "‖z‖²", "step size", "R̂", "ESS")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for job in record["classes"]:
        convergence = (job.get("diagnostics") or {}).get("log_density", {})
        table.add_row(
            escape(job["name"]),
            str(job["num_chains"]),
            _figure(job.get("acceptance"), ".2f"),
            _figure(job.get("log_likelihood"), ".2f"),
            _figure(job.get("squared_norm"), ".0f"),
            _figure(job.get("step_size"), ".3g"),
            _figure(convergence.get("r_hat"), ".3f"),
            _figure(convergence.get("ess_bulk"), ".0f"),
        )
    return table


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
