"""Whether coarse gradients harm the chains: HMC with float32 gradients and with bfloat16 ones.

Both sample the same density, since densities and the accept step are float32's in either
(:meth:`gradgen.runs.target.Target.mixed_value_and_grad`); what coarse gradients could cost is
acceptance, and with it the step size that the warm-up finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradgen.networks.load import load_bundle
from gradgen.runs.results import Samples
from gradgen.runs.sample import sample
from gradgen.runs.settings import PRECISIONS

CLASSES, CHAINS = 4, 8  # classes spread over the bundle's, chains of each
BUDGET = 400  # gradient evaluations a chain


def measure(
    bundle: str,
    on_run: Callable[[str], None] = lambda what: None,
    *,
    classes: int = CLASSES,
    chains: int = CHAINS,
    budget: int = BUDGET,
) -> list[dict[str, Any]]:
    """A row for each figure: its mean over the chains with each precision, the difference, and the
    difference's standard error (chains as independent draws)."""
    loaded = load_bundle(bundle)
    chosen = np.linspace(0, len(loaded.labels) - 1, classes).astype(int)
    found = []
    for precision in PRECISIONS:
        samples = sample(
            loaded,
            [str(index) for index in chosen],
            num_chains=chains,
            budget=budget,
            gradient_precision=precision,
        )
        found.append(_figures(samples))
        on_run(precision)
    return [_row(name, *(figures[name] for figures in found)) for name in found[0]]


def _figures(samples: Samples) -> dict[str, np.ndarray]:
    """{figure: (chains,)}."""
    classes = samples.record.classes
    return {
        "acceptance rate": np.concatenate([job.acceptance_by_chain for job in classes]),
        "step size": np.concatenate([job.step_size_by_chain for job in classes]),
        "log p(class | g(z))": samples.log_likelihood,
        "|z|² / units": (samples.codes**2).mean(1),
    }


def _row(name: str, fine: np.ndarray, coarse: np.ndarray) -> dict[str, Any]:
    error = math.sqrt(fine.var(ddof=1) / len(fine) + coarse.var(ddof=1) / len(coarse))
    means = {p: float(values.mean()) for p, values in zip(PRECISIONS, (fine, coarse), strict=True)}
    difference = means[PRECISIONS[1]] - means[PRECISIONS[0]]
    return {"figure": name, **means, "difference": difference, "standard_error": error}
