"""All loops in one run, and the ratios between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from gradgen.benchmark import loops
from gradgen.benchmark.memory import peak_memory_gb
from gradgen.benchmark.timing import Timings, in_turns
from gradgen.bundle import load_bundle
from gradgen.errors import GradgenError
from gradgen.target import make_target

MATRIX_PRODUCT = "matrix product"
COARSE = "bfloat16 gradient"
PYTORCH = ("PyTorch", "PyTorch, compiled")
INSTALL = "it is not installed (pip install 'gradgen[bench]')"
FLOPS = "FLOP/s: gradient / matrix product"
# what is divided by what (below 1, the first is the faster one), and the goal
RATIOS = {
    ("MALA", "gradient"): "≤ 1.02",
    ("HMC", "gradient"): "≤ 1.02",
    ("MALA", "BlackJAX MALA"): "≤ 1",
    ("HMC", "BlackJAX HMC"): "≤ 1",
    **{(name, "gradient"): "≥ 1.3 (CPU), ≥ 1 (GPU)" for name in PYTORCH},
    (COARSE, "gradient"): "",
}


@dataclass(frozen=True)
class Measured:
    """Timings; floating-point operations of a gradient of all chains and of a matrix product;
    what could not be measured and why."""

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
    """Time everything that can be timed here; see :mod:`gradgen.benchmark.loops`."""
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
    # Whatever follows this one in a turn takes 4 % longer (one chain of CaffeNet, 300 ms a loop)
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
    """Ratios first, then the loops, as JSON has them."""
    timings = measured.timings
    ratios, goals = {}, {FLOPS: ""}
    for pair, goal in RATIOS.items():
        if all(one in timings.each for one in pair):
            name = " / ".join(pair)
            ratios[name], goals[name] = timings.ratio(*pair), goal
    # FLOP/s of the gradient ÷ FLOP/s of the product
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
