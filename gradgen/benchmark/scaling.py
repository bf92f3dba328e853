"""Measures how time and memory grow with chains, steps, devices and processes.

Each figure is measured in a process of its own (``python -m gradgen.benchmark.scaling``), since the
number of devices is fixed when JAX starts and the peak memory of a process never falls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gradgen.errors import GradgenError

CHAIN_COUNTS, STEP_COUNTS, DEVICE_COUNTS = (1, 4, 16, 64), (100, 400, 1600), (1, 2, 4, 8)
CHAINS, STEPS = 16, 20  # where they are not varied
FEW_CHAINS = 2  # where the steps are varied, so that many steps do not take long


@dataclass(frozen=True)
class Case:
    """MALA chains of a bundle on ``num_devices`` devices (``None`` means all that there are)."""

    bundle: str
    num_chains: int = CHAINS
    num_steps: int = STEPS
    num_devices: int | None = None
    group_size: int | None = None


Row = dict[str, Any]


def cases(bundle: str, on_cpu: bool) -> list[tuple[str, list[Case]]]:
    """List the figures to measure: (what is varied, the processes that run at the same time)."""
    found = [("chains", [Case(bundle, num_chains=count)]) for count in CHAIN_COUNTS]
    found += [
        ("steps", [Case(bundle, num_chains=FEW_CHAINS, num_steps=count)]) for count in STEP_COUNTS
    ]
    if on_cpu:  # only CPUs can be divided into several devices, which then share the cores
        found += [
            ("devices", [Case(bundle, num_devices=count, group_size=CHAINS // DEVICE_COUNTS[-1])])
            for count in DEVICE_COUNTS
        ]
    found += [("processes", [Case(bundle, num_chains=CHAINS // count)] * count) for count in (1, 2)]
    return found


def measure(
    bundle: str, on_cpu: bool, on_case: Callable[[str], None] = lambda what: None
) -> list[Row]:
    """Measure all figures.

    Args:
        bundle: name or folder.
        on_cpu: whether JAX runs on a CPU.
        on_case: called with a figure's description after it has been measured.

    Returns:
        A row for each figure: what is varied, its value, seconds, ms a step, peak memory.

    Raises:
        GradgenError: a process of the benchmark failed.
    """
    rows = []
    for what, together in cases(bundle, on_cpu):
        results = _run(together)
        value = {
            "chains": together[0].num_chains,
            "steps": together[0].num_steps,
            "devices": together[0].num_devices,
            "processes": len(together),
        }[what]
        longest = max(result["seconds"] for result in results)
        rows.append(
            {
                "varied": what,
                "value": value,
                "num_chains": sum(case.num_chains for case in together),
                "num_steps": together[0].num_steps,
                "seconds": longest,
                "ms_per_step": 1e3 * longest / together[0].num_steps,
                "peak_memory_gb": sum(result["peak_memory_gb"] or 0.0 for result in results),
            }
        )
        on_case(f"{value} {what}")
    return rows


def _run(together: list[Case]) -> list[Row]:
    processes = [_start(case) for case in together]
    found = []
    for process in processes:
        output, errors = process.communicate()
        if process.returncode:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            raise GradgenError(f"a process of the benchmark failed: {last}")
        found.append(json.loads(output.splitlines()[-1]))
    return found


def _start(case: Case) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if case.num_devices is not None:
        forced = f"--xla_force_host_platform_device_count={case.num_devices}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {forced}".strip()
    return subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(asdict(case))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def run_case(case: Case) -> Row:
    """Run a case twice, and return the seconds of the second run and the peak memory.

    Everything has been compiled before the second run.
    """
    import jax
    import jax.numpy as jnp

    from gradgen.benchmark.memory import peak_memory_gb
    from gradgen.inference import SamplerSettings, run_chains
    from gradgen.networks.load import load_bundle
    from gradgen.runs.target import make_target

    bundle = load_bundle(case.bundle)
    target = make_target(bundle)
    z = jax.random.normal(jax.random.key(0), (case.num_chains, bundle.code_size))
    keys = jax.random.split(jax.random.key(1), case.num_chains)

    def value_and_grad(params: Any, z: Any) -> Any:
        return target.value_and_grad(params, jnp.int32(0), z)

    def run(steps: int) -> float:
        settings = SamplerSettings(method="mala", budget=steps, step_size=0.02)
        begun = time.perf_counter()
        run_chains(
            keys,
            z,
            value_and_grad,
            target.params,
            settings,
            group_size=case.group_size,
            devices=jax.local_devices(),
        )
        return time.perf_counter() - begun

    run(case.num_steps)
    return {"seconds": run(case.num_steps), "peak_memory_gb": peak_memory_gb(jax.devices()[0])}


if __name__ == "__main__":
    from gradgen import runtime

    runtime.configure()
    print(json.dumps(run_case(Case(**json.loads(sys.argv[1])))))
