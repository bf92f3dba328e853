"""How fast chains mix: effective sample sizes for a gradient and for a second, method by method.

The smallest bulk effective sample size of all that a run traces counts, since chains are no better
than their slowest quantity. All methods start where a chain of ours has ended, so that none of them
pays for the way there, and have the same number of gradient evaluations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.inference import SamplerSettings, run_chains
from gradgen.inference.chain import projection_vectors
from gradgen.inference.diagnostics import smallest_ess, summarise
from gradgen.inference.traces import NUM_PROJECTIONS
from gradgen.inference.types import Evaluation, Prior, ValueAndGrad
from gradgen.networks.load import load_bundle
from gradgen.runs.target import make_target

CLASSES, CHAINS, BUDGET = 10, 8, 2000
OURS: Mapping[str, Mapping[str, Any]] = {
    "HMC": {"method": "hmc"},
    "HMC, L = 10": {"method": "hmc", "num_integration_steps": 10},
    "MALA": {"method": "mala"},
    "HMC, 2 replicas": {"method": "hmc", "replicas": 2},
    "HMC, 4 replicas": {"method": "hmc", "replicas": 4},
}
NUTS, NUTS_DEPTH = "BlackJAX NUTS", 8  # doublings of a trajectory at most


def measure(
    bundle: str,
    on_run: Callable[[str], None] = lambda what: None,
    *,
    classes: int = CLASSES,
    chains: int = CHAINS,
    budget: int = BUDGET,
) -> list[dict[str, Any]]:
    """A row for each method: medians over classes that are spread over the bundle's.

    Args:
        bundle: name or folder.
        on_run: called with what has been measured.
        classes: how many.
        chains: of each class.
        budget: gradient evaluations of a chain, warm-up included.
    """
    loaded = load_bundle(bundle)
    target = make_target(loaded, likelihood_weight=loaded.card.likelihood_weight or 1.0)
    found: dict[str, list[dict[str, float]]] = {}
    for index in np.linspace(0, len(loaded.labels) - 1, classes).astype(int):
        asked = jnp.int32(index)
        key = jax.random.fold_in(jax.random.key(0), int(index))
        z0 = jax.random.normal(key, (chains, loaded.code_size))
        function = partial(_of_class, target.value_and_grad)
        params = {"target": target.params, "asked": asked}
        for name, figures in of_target(function, params, z0, key, budget, loaded.prior).items():
            found.setdefault(name, []).append(figures)
            on_run(f"class {index}, {name}")
    return [_row(name, rows) for name, rows in found.items()]


def _of_class(function: Any, params: dict[str, Any], z: Array) -> Evaluation:
    result: Evaluation = function(params["target"], params["asked"], z)
    return result


def of_target(
    value_and_grad: ValueAndGrad,
    params: Any,
    z0: Array,
    key: Array,
    budget: int,
    prior: Prior | None = None,
) -> dict[str, dict[str, float]]:
    """{method: {"ess_per_gradient", "ess_per_second"}} of chains on a target.

    Args:
        value_and_grad, params: the target (:func:`gradgen.inference.run_chains`).
        z0: (chains, code), from which the first chains start.
        key: of all randomness.
        budget: gradient evaluations of a chain, warm-up included.
        prior: of the target; ``None``: replicas of chains, which need it, are left out.
    """
    keys = jax.random.split(key, len(z0))
    settings = SamplerSettings(budget=budget, trace_length=budget)
    first = run_chains(keys, z0, value_and_grad, params, settings)
    start, found = first.state.position, {}
    for name, given in OURS.items():
        settings = SamplerSettings(budget=budget, trace_length=budget, **given)
        if settings.replicas > 1 and prior is None:
            continue
        run = partial(run_chains, keys, start, value_and_grad, params, settings, prior=prior)
        run(stop_at=2 * settings.warmup_steps)  # once for the compiler, and once for the clock
        begun = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - begun
        traces = result.traces.between(result.warmup_steps, result.step)
        figures = {name: summarise(draws) for name, draws in traces.series().items()}
        sampled = settings.num_steps - result.warmup_steps
        gradients = len(z0) * sampled * settings.gradients_per_step
        share = sampled / settings.num_steps
        found[name] = _figures(smallest_ess(figures), gradients, share * seconds)
    with suppress(ImportError):  # BlackJAX need not be installed
        step_size = float(np.mean(first.step_size))
        found[NUTS] = _nuts(value_and_grad, params, start, key, step_size, budget)
    return found


def _nuts(
    value_and_grad: ValueAndGrad,
    params: Any,
    start: Array,
    key: Array,
    step_size: float,
    budget: int,
) -> dict[str, float]:
    """BlackJAX's NUTS at the step size that our warm-up found, until the budget is spent."""
    import blackjax

    vectors = projection_vectors(NUM_PROJECTIONS, start.shape[1])

    @jax.custom_vjp
    def log_density(z: Array, params: Any) -> Array:
        return value_and_grad(params, z[None]).log_density[0]

    def forward(z: Array, params: Any) -> tuple[Array, Array]:
        found = value_and_grad(params, z[None])
        return found.log_density[0], found.gradient[0]

    def backward(gradient: Array, cotangent: Array) -> tuple[Array, None]:
        return cotangent * gradient, None

    log_density.defvjp(forward, backward)

    @partial(jax.jit, static_argnums=3)
    def iterate(params: Any, state: Any, t: Array, init: bool) -> Any:
        algorithm = blackjax.nuts(
            lambda z: log_density(z, params),
            step_size,
            jnp.ones(start.shape[1]),
            max_num_doublings=NUTS_DEPTH,
        )
        if init:
            return jax.vmap(algorithm.init)(state)
        keys = jax.random.split(jax.random.fold_in(key, t), len(start))
        state, info = jax.vmap(algorithm.step)(keys, state)
        z = state.position
        features = value_and_grad(params, z).features
        seen = [state.logdensity[:, None], jnp.sum(z**2, -1, keepdims=True), z @ vectors]
        seen += [] if features is None else [features]
        return state, jnp.concatenate(seen, -1), info.num_integration_steps

    state = iterate(params, start, jnp.int32(0), True)
    iterate(params, state, jnp.int32(0), False)
    begun, spent = time.perf_counter(), np.zeros(len(start))
    draws: list[np.ndarray] = []
    while spent.mean() < budget:
        state, seen, steps = iterate(params, state, jnp.int32(len(draws)), False)
        draws.append(np.asarray(seen))
        spent += np.asarray(steps)
    seconds = time.perf_counter() - begun
    series = np.stack(draws, axis=1).astype(np.float64)
    figures = {str(i): summarise(series[:, :, i]) for i in range(series.shape[2])}
    return _figures(smallest_ess(figures), float(spent.sum()), seconds)


def _figures(ess: float | None, gradients: float, seconds: float) -> dict[str, float]:
    size = ess or 0.0
    return {"ess_per_gradient": size / gradients, "ess_per_second": size / seconds}


def _row(name: str, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over classes, and the range of the first figure."""
    gradient = [row["ess_per_gradient"] for row in rows]
    return {
        "method": name,
        "ess_per_gradient": statistics.median(gradient),
        "smallest": min(gradient),
        "largest": max(gradient),
        "ess_per_second": statistics.median(row["ess_per_second"] for row in rows),
        "classes": len(rows),
    }
