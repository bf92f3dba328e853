"""From finished batches of chains to samples with their record."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradgen.inference.diagnostics import diagnose_traces
from gradgen.plan import ClassJob, Plan
from gradgen.samples import RECORD_FORMAT, Samples, bounds_to_json, number

PACKAGES = ("gradgen", "jax", "jaxlib", "flax", "numpy")


@dataclass(frozen=True, eq=False)
class Part:
    """A batch of chains, at its end or as far as it came. Arrays and numbers only.

    Attributes:
        codes: (size, code). images: (size, S, S, 3) uint8.
        log_likelihood, log_density, acceptance, step_size: (size,).
        traces: see :class:`gradgen.samples.Samples`.
        step, num_steps, warmup_steps: done, in all, of them adapting the step size.
        gradient_evaluations: a chain.
    """

    codes: np.ndarray
    images: np.ndarray
    log_likelihood: np.ndarray
    log_density: np.ndarray
    acceptance: np.ndarray
    step_size: np.ndarray
    traces: dict[str, np.ndarray]
    step: int
    num_steps: int
    warmup_steps: int
    gradient_evaluations: int

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Under flat names, for a checkpoint; :meth:`from_arrays` is the inverse."""
        flat = {name: np.asarray(value) for name, value in vars(self).items() if name != "traces"}
        return flat | {f"trace_{name}": values for name, values in self.traces.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Part:
        """Raises KeyError if an array is missing."""
        traces = {
            name.removeprefix("trace_"): values
            for name, values in arrays.items()
            if name.startswith("trace_")
        }
        values: dict[str, Any] = {
            name: arrays[name] for name in cls.__dataclass_fields__ if name != "traces"
        }
        whole = ("step", "num_steps", "warmup_steps", "gradient_evaluations")
        return cls(**values | {name: int(values[name]) for name in whole}, traces=traces)


def collect(plan: Plan, parts: Mapping[int, Part], status: str, seconds: float) -> Samples:
    """Join the batches, drop chains that only filled one up, write the record.

    status: "finished" or "interrupted". seconds: wall time.
    """
    settings = plan.settings
    rows: list[tuple[int, int, int, int]] = []  # class, chain, batch, row in the batch
    for index in sorted(parts):
        batch = plan.batches[index]
        for row in range(batch.size):
            chain_number = batch.start + row
            if plan.only_chain in (None, chain_number) and chain_number < settings.num_chains:
                rows.append((batch.class_position, chain_number, index, row))

    def gather(name: str, trace: bool = False) -> np.ndarray:
        own = [
            (parts[index].traces[name] if trace else getattr(parts[index], name))[row]
            for _, _, index, row in rows
        ]
        return np.stack(own)

    first = parts[min(parts)]
    traces = {
        name: first.traces["step"] if name == "step" else gather(name, trace=True)
        for name in first.traces
    }
    position = np.array([row[0] for row in rows])
    chain = np.array([row[1] for row in rows])
    steps = np.array([parts[index].step for _, _, index, _ in rows])
    columns = {
        name: gather(name)
        for name in ("log_likelihood", "log_density", "acceptance", "step_size", "codes")
    }
    classes = []
    for place, job in enumerate(plan.jobs):
        own = position == place
        classes.append(
            describe_class(job)
            | _class_results(
                {name: values[own] for name, values in columns.items()},
                {
                    name: values if name == "step" else values[own]
                    for name, values in traces.items()
                },
                chain[own],
                steps[own],
                first,
                sampled=settings.method != "map",
            )
        )
    run_steps = sum(part.gradient_evaluations for part in parts.values())
    record = describe(plan) | {
        "status": status,
        "classes": classes,
        "total_steps": first.num_steps,
        "warmup_steps": first.warmup_steps,
        "gradient_evaluations": {
            "per_chain": int(max(part.gradient_evaluations for part in parts.values())),
            "total": int(
                sum(p.gradient_evaluations * plan.batches[i].size for i, p in parts.items())
            ),
        },
        "wall_time_s": round(seconds, 3),
        "gradient_evaluations_per_s": round(run_steps / seconds, 3) if seconds > 0 else None,
    }
    return Samples(
        images=gather("images"),
        codes=columns["codes"],
        log_likelihood=columns["log_likelihood"],
        log_density=columns["log_density"],
        traces=traces,
        class_position=position,
        chain=chain,
        record=record,
    )


def _class_results(
    columns: Mapping[str, np.ndarray],
    traces: dict[str, np.ndarray],
    chain: np.ndarray,
    steps: np.ndarray,
    first: Part,
    sampled: bool,
) -> dict[str, Any]:
    """What became of one class's chains, as JSON has it."""
    if not len(chain):
        return {"chains": [], "steps": []}
    squared_norm = np.square(columns["codes"].astype(np.float64)).sum(1)
    last = int(steps.min())
    diagnostics = diagnose_traces(traces, first.warmup_steps, last) if sampled else None
    return {
        "chains": chain.tolist(),
        "steps": steps.tolist(),
        "acceptance": number(columns["acceptance"].mean()),
        "log_likelihood": number(columns["log_likelihood"].mean()),
        "squared_norm": number(squared_norm.mean()),
        "step_size": number(columns["step_size"].mean()),
        "acceptance_by_chain": [number(value) for value in columns["acceptance"]],
        "log_likelihood_by_chain": [number(value) for value in columns["log_likelihood"]],
        "step_size_by_chain": [number(value) for value in columns["step_size"]],
        "diagnostics": diagnostics,
    }


def describe(plan: Plan) -> dict[str, Any]:
    """What is known of a run before its first step: goes into run.json at once."""
    return {
        "format": RECORD_FORMAT,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": plan.settings.to_json(),
        "bundle": {
            "name": plan.bundle.name,
            "generator": {
                "name": plan.bundle.generator.name,
                "sha256": plan.bundle.generator.sha256,
            },
        },
        "classes": [describe_class(job) for job in plan.jobs],
        "only_chain": plan.only_chain,
        "stop_at": plan.stop_at,
        "notes": list(plan.notes),
        "versions": versions(),
        "device": device(),
    }


def describe_class(job: ClassJob) -> dict[str, Any]:
    """A class and its target."""
    return {
        "query": job.query,
        "name": job.label.name,
        "slug": job.label.slug,
        "synset": job.label.synset,
        "index": job.label.index,
        "classifier": {"name": job.classifier.name, "sha256": job.classifier.sha256},
        "likelihood_weight": job.likelihood_weight,
        "clip_scope": job.clip_scope,
        "bounds": None
        if job.bounds is None
        else bounds_to_json(job.bounds, whole=job.clip_scope == "file"),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def device() -> dict[str, Any]:
    """What results are bit-identical on: the accelerator, or the processor's model and cores."""
    found = jax.devices()[0]
    kind = _processor() if found.platform == "cpu" else found.device_kind
    return {
        "platform": found.platform,
        "kind": kind,
        "cores": os.cpu_count() if found.platform == "cpu" else None,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
