"""Everything that ``gradgen bench`` measures, and the ratios between the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from gradgen.benchmark import PARTS, USUAL, loops, mixing, scaling, startup
from gradgen.benchmark.memory import peak_memory_gb
from gradgen.benchmark.timing import Timings, in_turns
from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation import precision
from gradgen.networks.load import load_bundle
from gradgen.runs.target import make_target

MATRIX_PRODUCT = "matrix product"
COARSE = "bfloat16 gradient"
PYTORCH = ("PyTorch", "PyTorch, compiled")
INSTALL = "it is not installed (pip install 'gradgen[bench]')"
FLOPS = "FLOP/s: gradient / matrix product"
# {(divided, divisor): goal}. If the ratio is below 1, the first loop is faster than the second.
RATIOS = {
    ("MALA", "gradient"): "≤ 1.02",
    ("HMC", "gradient"): "≤ 1.02",
    ("MALA", "BlackJAX MALA"): "≤ 1",
    ("HMC", "BlackJAX HMC"): "≤ 1",
    **{(name, "gradient"): "≥ 1.3 (CPU), ≥ 1 (GPU)" for name in PYTORCH},
    (COARSE, "gradient"): "",
}


def bench(
    bundle: str = "tiny64",
    parts: Sequence[str] = USUAL,
    *,
    num_chains: int | None = None,
    num_integration_steps: int = 10,
    gradients: int | None = None,
    repeats: int = 5,
    on_progress: Callable[[str, str], None] = lambda part, what: None,
) -> dict[str, Any]:
    """Time gradients and chains, and compare a chain's step with its gradients.

    Args:
        bundle: name or folder.
        parts: "loops", "scaling" (over chains, steps, devices and processes), "startup" (what a
            user waits for), "precision" (HMC with float32 and with bfloat16 gradients), "mixing"
            (effective samples of each method, not among the default).
        num_chains: chains side by side in the loops. ``None`` means 16, and 64 on accelerators.
        num_integration_steps: leapfrog steps of HMC.
        gradients: gradients of a chain in a timing, rounded down to whole trajectories. ``None``
            means 40, and 400 on accelerators.
        repeats: timings of each loop. The loops take turns.
        on_progress: called with (part, what has been measured).

    Returns:
        Plain numbers and strings, as ``gradgen bench --json`` prints them.

    Raises:
        UsageError: a part is unknown.
        GradgenError: a process of the benchmark failed.
    """
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"`part` must be one of {', '.join(PARTS)}, not {part}")
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    num_chains = num_chains or (16 if on_cpu else 64)
    gradients = gradients or (40 if on_cpu else 400)
    gradients = max(1, gradients // num_integration_steps) * num_integration_steps
    result: dict[str, Any] = {
        "bundle": bundle,
        "device": f"{device.platform}: {device.device_kind}",
    }

    def watch(part: str) -> Callable[[str], None]:
        return lambda what: on_progress(part, what)

    if "loops" in parts:
        measured = measure_loops(
            bundle, num_chains, gradients, num_integration_steps, repeats, watch("loops")
        )
        result |= summary(measured, num_chains) | {
            "num_chains": num_chains,
            "num_integration_steps": num_integration_steps,
            "gradients_a_chain": gradients,
            "repeats": repeats,
        }
    if "scaling" in parts:
        result["scaling"] = scaling.measure(bundle, on_cpu, watch("scaling"))
    if "startup" in parts:
        result["startup"] = startup.measure(bundle, watch("startup"))
    if "precision" in parts:
        result["precision"] = precision.measure(bundle, watch("precision"))
    if "mixing" in parts:
        result["mixing"] = mixing.measure(bundle, watch("mixing"))
    return result


@dataclass(frozen=True)
class Measured:
    """What :func:`measure_loops` has measured.

    Attributes:
        timings: of all loops.
        gradient_flops: floating-point operations of a gradient of all chains.
        product_flops: floating-point operations of a matrix product.
        peak_memory_gb: in 10^9 bytes, or ``None`` if the system does not tell.
        skipped: {what could not be measured: the reason}.
    """

    timings: Timings
    gradient_flops: float
    product_flops: float
    peak_memory_gb: float | None
    skipped: dict[str, str]


def measure_loops(
    bundle: str,
    num_chains: int,
    gradients: int,
    num_integration_steps: int,
    repeats: int,
    on_timing: Callable[[str], None] = lambda name: None,
) -> Measured:
    """Time all loops of :mod:`gradgen.benchmark.loops` that can run here.

    The arguments are those of :func:`bench`, except that ``on_timing`` is called with the name of a
    loop after each of its timings.
    """
    loaded = load_bundle(bundle)
    target = make_target(loaded)
    z = jax.random.normal(jax.random.key(0), (num_chains, loaded.code_size))
    arguments = (target, z, gradients, num_integration_steps)
    timed = loops.gradient_and_chains(*arguments)
    skipped = {}
    try:
        timed |= loops.blackjax_chains(*arguments)
    except ImportError:
        skipped["BlackJAX"] = INSTALL
    try:
        from gradgen.benchmark.torch_networks import gradient_loops

        timed |= gradient_loops(loaded, z, gradients)
        if PYTORCH[1] not in timed:
            skipped[PYTORCH[1]] = "torch.compile does not work here"
    except ImportError:
        skipped["PyTorch"] = INSTALL
    except GradgenError as error:
        skipped["PyTorch"] = str(error)
    # The loop after the coarse gradient takes 4 % longer (a chain of CaffeNet, 300 ms a loop), so
    # only the matrix product may follow it.
    timed[COARSE] = timed.pop(COARSE)
    timed[MATRIX_PRODUCT], product_flops = loops.matrix_product()
    timings = in_turns(timed, repeats, on_timing)
    return Measured(
        timings,
        loops.gradient_flops(loaded.multiply_adds, num_chains),
        product_flops,
        peak_memory_gb(jax.devices()[0]),
        skipped,
    )


def summary(measured: Measured, num_chains: int) -> dict[str, Any]:
    """Compute the ratios and the figures of each loop, in the form of the JSON output."""
    timings = measured.timings
    ratios, goals = {}, {FLOPS: ""}
    for pair, goal in RATIOS.items():
        if all(name in timings.each for name in pair):
            name = " / ".join(pair)
            ratios[name], goals[name] = timings.ratio(*pair), goal
    # FLOP/s of the gradient, divided by FLOP/s of the product
    ratios[FLOPS] = (
        measured.gradient_flops / measured.product_flops * timings.ratio(MATRIX_PRODUCT, "gradient")
    )
    return {
        "ratios": ratios,
        "goals": goals,
        "loops": {
            name: {
                "ms_per_evaluation": 1e3 * timings.median(name),
                "fastest_ms_per_evaluation": 1e3 * min(timings.each[name]),
                "chain_evaluations_per_second": num_chains / timings.median(name),
                "first_call_seconds": timings.first[name],
            }
            for name in timings.each
            if name != MATRIX_PRODUCT
        },
        "matrix_product_gflops": 1e-9 * measured.product_flops / timings.median(MATRIX_PRODUCT),
        "gradient_gflops": 1e-9 * measured.gradient_flops / timings.median("gradient"),
        "peak_memory_gb": measured.peak_memory_gb,
        "skipped": measured.skipped,
    }
