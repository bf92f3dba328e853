"""From finished batches of chains to samples with their record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradgen.errors import GradgenError
from gradgen.inference.diagnostics import diagnose_traces
from gradgen.plan import ClassJob, Plan
from gradgen.samples import RECORD_FORMAT, Samples, bounds_to_json, number

PACKAGES = ("gradgen", "jax", "jaxlib", "flax", "numpy")


@dataclass(frozen=True, eq=False)
class Part:
    """A batch of chains, at its end or as far as it came. Arrays and numbers only.

    Attributes:
        groups: (g,) of the plan, all of one size; the chains follow one another as they do there.
        codes: (size, code). images: (size, S, S, 3) uint8.
        log_likelihood, log_density, acceptance, step_size: (size,).
        traces: see :class:`gradgen.samples.Samples`.
        step, num_steps, warmup_steps: done, in all, of them adapting the step size.
        gradient_evaluations: a chain.
        interrupted: whether it was stopped on its way.
    """

    groups: np.ndarray
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
    interrupted: bool = False

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
        numbers = {name: int(values[name]) for name in whole}
        return cls(**values | numbers | {"interrupted": bool(values["interrupted"])}, traces=traces)


@dataclass
class _Total:
    """Running sums over a class's chains, as float64."""

    chains: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        self.chains += len(values["squared_norm"])
        for name, column in values.items():
            total = float(np.sum(column, dtype=np.float64))
            self.sums[name] = self.sums.get(name, 0.0) + total

    def means(self) -> dict[str, float | None]:
        if not self.chains:
            return {}
        return {name: number(total / self.chains) for name, total in self.sums.items()}


COLUMNS = ("log_likelihood", "log_density", "acceptance", "step_size", "codes", "images")


def collect(plan: Plan, parts: Iterable[Part], seconds: float, keep: int | None = None) -> Samples:
    """Join batches, drop chains that only filled a group up, write the record.

    Args:
        parts: in any order; looked at one by one, so that they need not fit into memory together.
        seconds: wall time.
        keep: chains of each class, the first ones, that become samples. The record's means are
            over all. ``None``: all chains.

    The record's status is "finished" if all groups of the plan are there and none was interrupted.
    """
    kept: dict[tuple[int, int], dict[str, Any]] = {}  # by class and chain
    totals = [_Total() for _ in plan.jobs]
    evaluations, per_chain, there, interrupted = 0, 0, 0, False
    one: Part | None = None
    for part in parts:
        one = part if one is None else one
        there += len(part.groups)
        interrupted = interrupted or part.interrupted
        size = plan.groups[int(part.groups[0])].size
        per_chain = max(per_chain, part.gradient_evaluations)
        evaluations += part.gradient_evaluations * len(part.codes)
        for place, index in enumerate(part.groups):
            group = plan.groups[int(index)]
            chains = group.start + np.arange(size)
            wanted = chains < plan.settings.num_chains
            if plan.only_chain is not None:
                wanted &= chains == plan.only_chain
            rows = place * size + np.flatnonzero(wanted)
            totals[group.class_position].add(
                {
                    "log_likelihood": part.log_likelihood[rows],
                    "acceptance": part.acceptance[rows],
                    "step_size": part.step_size[rows],
                    "squared_norm": np.square(part.codes[rows].astype(np.float64)).sum(1),
                }
            )
            for row, chain in zip(rows, chains[wanted], strict=True):
                if keep is None or chain < keep:
                    kept[group.class_position, int(chain)] = {
                        **{name: getattr(part, name)[row] for name in COLUMNS},
                        **{
                            f"trace_{name}": values[row]
                            for name, values in part.traces.items()
                            if name != "step"
                        },
                        "steps": part.step,
                    }
    if one is None:
        raise GradgenError("no chain has come far enough to be shown")
    order = sorted(kept)
    columns = {name: np.stack([kept[key][name] for key in order]) for name in kept[order[0]]}
    traces = {
        name: one.traces["step"] if name == "step" else columns[f"trace_{name}"]
        for name in one.traces
    }
    position = np.array([key[0] for key in order])
    chain = np.array([key[1] for key in order])
    classes = []
    for place, job in enumerate(plan.jobs):
        own = position == place
        classes.append(
            describe_class(job)
            | {"num_chains": totals[place].chains}
            | _class_results(
                {name: values[own] for name, values in columns.items()},
                {
                    name: values if name == "step" else values[own]
                    for name, values in traces.items()
                },
                chain[own],
                one,
                sampled=plan.settings.method != "map",
            )
            | totals[place].means()
        )
    finished = there == len(plan.groups) and not interrupted
    record = describe(plan) | {
        "status": "finished" if finished else "interrupted",
        "classes": classes,
        "total_steps": one.num_steps,
        "warmup_steps": one.warmup_steps,
        "gradient_evaluations": {"per_chain": per_chain, "total": evaluations},
        "wall_time_s": round(seconds, 3),
        "gradient_evaluations_per_s": round(evaluations / seconds, 3) if seconds > 0 else None,
    }
    return Samples(
        images=columns["images"],
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
    one: Part,
    sampled: bool,
) -> dict[str, Any]:
    """What became of one class's chains, as JSON has it."""
    if not len(chain):
        return {"chains": [], "steps": []}
    last = int(columns["steps"].min())
    diagnostics = diagnose_traces(traces, one.warmup_steps, last) if sampled else None
    return {
        "chains": chain.tolist(),
        "steps": columns["steps"].tolist(),
        **{
            f"{name}_by_chain": [number(value) for value in columns[name]]
            for name in ("acceptance", "log_likelihood", "step_size")
        },
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
        "num_devices": jax.local_device_count(),
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
