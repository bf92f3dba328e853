"""`gradgen bench`: what the chains cost beyond the gradients that they cannot do without."""

from __future__ import annotations

import json
import operator
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gradgen.cli.common import print_table, progress

if TYPE_CHECKING:
    from jax import Array

    from gradgen.target import Target

STEP_SIZES = {"mala": 0.05, "hmc": 0.1}  # of the order that the warm-up finds; cost does not depend


def bench(
    bundle: Annotated[str, typer.Option(help="The bundle: a name or a folder.")] = "tiny64",
    num_chains: Annotated[int, typer.Option(min=1, help="Chains side by side.")] = 16,
    num_integration_steps: Annotated[
        int, typer.Option("--num-integration-steps", "-L", min=1, help="Leapfrog steps (HMC).")
    ] = 10,
    gradients: Annotated[
        int, typer.Option(min=1, help="Gradient evaluations a chain in one timing.")
    ] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each, taken in turns.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Time gradients, MALA steps and HMC steps, and print how a step compares with its gradients.

    Each is a compiled loop over the same number of gradient evaluations of log p(z | class), all
    chains together; the median of the timings counts. A ratio of 1.05 means that a chain costs 5 %
    more than the gradients alone.
    """
    from gradgen import runtime

    runtime.configure()
    import jax

    from gradgen.bundle import load_bundle
    from gradgen.target import make_target

    loaded = load_bundle(bundle)
    iterations = max(1, gradients // num_integration_steps)
    gradients = iterations * num_integration_steps
    z = jax.random.normal(jax.random.key(0), (num_chains, loaded.code_size))
    target = make_target(loaded)
    loops = _loops(target, gradients, iterations, num_integration_steps)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    first: dict[str, float] = {}
    with progress("timing", total=len(loops) * (repeats + 1), unit="loops") as shown:
        for name, loop in loops.items():
            first[name] = _time(loop, target.params, z)  # compiles, or reads the cache
            shown.advance(note=f"compiled {name}")
        for _ in range(repeats):
            # In turns, so that a load that comes and goes falls on all of them alike.
            for name, loop in loops.items():
                seconds[name].append(_time(loop, target.params, z))
                shown.advance(note=name)
    device = jax.devices()[0]
    result = {
        "bundle": loaded.name,
        "device": f"{device.platform}: {device.device_kind}",
        "num_chains": num_chains,
        "num_integration_steps": num_integration_steps,
        "gradients_a_chain": gradients,
        "repeats": repeats,
        "peak_memory_gb": _peak_memory_gb(device),
        "loops": _summary(seconds, first, gradients, num_chains),
    }
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _show(result)


def _loops(
    target: Target, gradients: int, iterations: int, num_integration_steps: int
) -> dict[str, Callable[[Any, Array], Any]]:
    """Compiled functions (params, z (chains, code)) that each take `gradients` evaluations a chain.

    The chains' loops take one more for their first state, which a run takes once as well.
    """
    import jax

    from gradgen.inference import hmc, mala
    from gradgen.inference.kernel import init

    label = jax.numpy.int32(0)

    def evaluator(params: Any) -> Callable[[Array], Any]:
        return lambda z: target.value_and_grad(params, label, z)

    def keys_at(step: Array, chains: int) -> Array:
        return jax.random.split(jax.random.fold_in(jax.random.key(1), step), chains)

    def gradient_loop(params: Any, z: Array) -> Any:
        def step(z: Array, _: Array) -> tuple[Array, Array]:
            evaluation = evaluator(params)(z)
            # A step that moves: else XLA would see that each round computes the same.
            return z + 1e-6 * evaluation.gradient, evaluation.log_density

        return jax.lax.scan(step, z, jax.numpy.arange(gradients))

    def mala_loop(params: Any, z: Array) -> Any:
        evaluate = evaluator(params)

        def step(state: Any, t: Array) -> tuple[Any, Any]:
            return mala.mala_step(keys_at(t, len(z)), state, evaluate, STEP_SIZES["mala"])

        return jax.lax.scan(step, init(z, evaluate), jax.numpy.arange(gradients))

    def hmc_loop(params: Any, z: Array) -> Any:
        evaluate = evaluator(params)

        def step(state: Any, t: Array) -> tuple[Any, Any]:
            return hmc.hmc_step(
                keys_at(t, len(z)), state, evaluate, STEP_SIZES["hmc"], num_integration_steps
            )

        return jax.lax.scan(step, init(z, evaluate), jax.numpy.arange(iterations))

    return {
        "gradient": jax.jit(gradient_loop),
        "MALA": jax.jit(mala_loop),
        "HMC": jax.jit(hmc_loop),
    }


def _peak_memory_gb(device: Any) -> float | None:
    """Most memory in use so far, in 10^9 bytes: of the accelerator, or of this process."""
    if device.platform != "cpu":
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if peak is None else peak / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1e9 if sys.platform == "darwin" else size * 1024 / 1e9


def _time(loop: Callable[[Any, Array], Any], params: Any, z: Array) -> float:
    """Seconds until everything that the loop computes is there."""
    import jax

    begun = time.perf_counter()
    jax.block_until_ready(loop(params, z))
    return time.perf_counter() - begun


def _summary(
    seconds: dict[str, list[float]], first: dict[str, float], gradients: int, num_chains: int
) -> dict[str, dict[str, float]]:
    """Per loop: evaluations, time of one for all chains, throughput, ratio to bare gradients."""
    # The chains' first state is an evaluation too; it is divided out, not called overhead.
    counts = {name: gradients + (name != "gradient") for name in seconds}
    each = {name: [t / counts[name] for t in times] for name, times in seconds.items()}
    median = {name: statistics.median(times) for name, times in each.items()}
    # Turn by turn, so that a load that lasts longer than a turn cancels out.
    ratio = {
        name: statistics.median(map(operator.truediv, times, each["gradient"]))
        for name, times in each.items()
    }
    return {
        name: {
            "evaluations": counts[name],
            "ms_per_evaluation": 1e3 * median[name],
            "fastest_ms_per_evaluation": 1e3 * min(each[name]),
            "chain_evaluations_per_second": num_chains / median[name],
            "ratio_to_gradient": ratio[name],
            "first_call_seconds": first[name],
        }
        for name in seconds
    }


def _show(result: dict[str, Any]) -> None:
    peak = result["peak_memory_gb"]
    table = Table(
        caption=f"{result['bundle']}, {result['num_chains']} chains, HMC with L = "
        f"{result['num_integration_steps']}, on {result['device']}; median of {result['repeats']}"
        + ("" if peak is None else f"; peak memory {peak:.2f} GB")
    )
    for column in ("loop", "ms / gradient", "chain gradients / s", "ratio", "first call, s"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    for name, row in result["loops"].items():
        table.add_row(
            name,
            f"{row['ms_per_evaluation']:.2f}",
            f"{row['chain_evaluations_per_second']:.0f}",
            f"{row['ratio_to_gradient']:.3f}",
            f"{row['first_call_seconds']:.1f}",
        )
    print_table(table)
