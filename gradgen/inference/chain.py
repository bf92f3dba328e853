"""Running chains: blocks of ``jax.lax.scan``, a bounded trace, checkpoints that resume exactly.

A step t of a chain draws from ``fold_in(chain_key, t)`` and from nothing else, so that a run can
stop after any block and go on later with the same numbers. The trace has at most ``trace_length``
points however long the run; a point stands for a window of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.inference import adaptation, hmc, mala
from gradgen.inference import map as map_
from gradgen.inference.clipping import Bounds
from gradgen.inference.kernel import KernelState
from gradgen.inference.layout import Layout, first, make_layout, padded, place, spread
from gradgen.inference.schedules import annealed_noise, decay_from, linear
from gradgen.inference.types import (
    MAP_STEP_SIZE,
    TARGET_ACCEPTANCE,
    Evaluation,
    SamplerSettings,
    ValueAndGrad,
)

BLOCK_GRADIENTS = 50  # a look at the chains after about so many gradient evaluations
DGN_AM_STEP_SIZE, DGN_AM_LAST_STEP_SIZE, DGN_AM_SHRINK = 8.0, 1e-10, 0.99
PROJECTION_SEED = 2024
PLAIN = Layout()  # all chains as one group on the default device


class ChainState(NamedTuple):
    """Everything that the next step depends on; arrays only.

    Attributes:
        step: int32 scalar, steps done.
        key_data: (chains, ...) uint32, the chains' keys.
        position, gradient: (chains, code). log_density, log_likelihood: (chains,).
        adaptation: of the warm-up's step size.
        first_step_size: (chains,), alpha at the schedule's t = 0.
        accepted: (chains,), sum of acceptance probabilities since the warm-up's end.
    """

    step: Array
    key_data: Array
    position: Array
    log_density: Array
    gradient: Array
    log_likelihood: Array
    adaptation: adaptation.DualAveraging
    first_step_size: Array
    accepted: Array


class Trace(NamedTuple):
    """Windows of steps: means of acceptance and step size over each, the rest at its end.

    All (chains, windows), projections (chains, windows, k).
    """

    log_density: Array
    log_likelihood: Array
    acceptance: Array
    step_size: Array
    squared_norm: Array
    projections: Array


@dataclass(frozen=True)
class StepPlan:
    """How a run is cut up.

    Attributes:
        num_steps, warmup_steps: in all, and those that adapt the step size.
        stride: steps of a window, one point of the trace.
        num_points: of the trace; the last window may be shorter.
        windows_per_block: windows between two looks at the chains.
    """

    num_steps: int
    warmup_steps: int
    stride: int
    num_points: int
    windows_per_block: int

    @property
    def point_steps(self) -> np.ndarray:
        """(num_points,) steps done at each point of the trace."""
        return np.minimum((np.arange(self.num_points) + 1) * self.stride, self.num_steps)


@dataclass(frozen=True)
class BlockProgress:
    """What ``on_block`` is told after each block.

    Attributes:
        step, num_steps: steps done and in all; an HMC iteration is one.
        gradient_evaluations: a chain, the one at the start included.
        acceptance_rate, log_likelihood, step_size: means over chains (and the block's steps).
        warming_up: whether the step size is being adapted.
        state, traces: for a checkpoint; traces are (chains, num_points, ...), NaN where to come.
    """

    step: int
    num_steps: int
    gradient_evaluations: int
    acceptance_rate: float
    log_likelihood: float
    step_size: float
    warming_up: bool
    state: ChainState
    traces: dict[str, np.ndarray]


@dataclass(frozen=True)
class ChainResult:
    """What became of the chains.

    Attributes:
        state: at the end; ``state.position`` are the codes.
        traces: "step" (points,); "log_density", "log_likelihood", "acceptance", "step_size",
            "squared_norm", each (chains, points); "projections" (chains, points, k).
        step, num_steps, warmup_steps: done, planned, of them adapting the step size.
        gradient_evaluations: a chain; one more than the budget's, for the start.
        acceptance_rate: (chains,) mean acceptance probability since the warm-up; 1 for MAP.
        step_size: (chains,), the schedule's first one (after the warm-up, if there was one).
        interrupted: whether ``on_block`` raised KeyboardInterrupt before the end.
    """

    state: ChainState
    traces: dict[str, np.ndarray]
    step: int
    num_steps: int
    warmup_steps: int
    gradient_evaluations: int
    acceptance_rate: np.ndarray
    step_size: np.ndarray
    interrupted: bool


def plan_steps(settings: SamplerSettings) -> StepPlan:
    """Cut a run into windows and blocks; depends on the settings only."""
    num_steps = settings.num_steps
    stride = -(-num_steps // settings.trace_length)
    block = settings.block_size or max(1, BLOCK_GRADIENTS // settings.gradients_per_step)
    return StepPlan(
        num_steps, settings.warmup_steps, stride, -(-num_steps // stride), max(1, block // stride)
    )


def init_chains(
    chain_keys: Array,
    z0: Array,
    value_and_grad: ValueAndGrad,
    params: Any,
    settings: SamplerSettings,
    bounds: Bounds | None = None,
    chain_params: Any = None,
    layout: Layout = PLAIN,
) -> ChainState:
    """Chains at their start; one gradient evaluation.

    Args:
        chain_keys: (chains,) typed PRNG keys.
        z0: (chains, code); moved into the bounds if there are any.
        chain_params, layout: see :func:`run_chains`; the chains fill the layout.
    """
    if bounds is not None and settings.clip_mode != "none":
        z0 = jnp.clip(z0, bounds[0], bounds[1])
    num_chains, code_size = z0.shape
    evaluation = _evaluate_jitted(value_and_grad, params, chain_params, z0, layout)
    guess = jnp.full(num_chains, first_step_size(settings, code_size))
    return ChainState(
        step=jnp.int32(0),
        key_data=jax.random.key_data(chain_keys),
        position=z0,
        log_density=evaluation.log_density,
        gradient=evaluation.gradient,
        log_likelihood=evaluation.log_likelihood,
        adaptation=adaptation.init(guess, settings.warmup_steps),
        first_step_size=guess,
        accepted=jnp.zeros(num_chains),
    )


def first_step_size(settings: SamplerSettings, code_size: int) -> float:
    """The step size that is set, or the warm-up's first guess.

    The guess follows the scaling of the optimal step with the dimension d on a unit Gaussian:
    d^-1/3 for MALA's alpha (half the squared step of Roberts & Rosenthal 1998), d^-1/4 for HMC.
    """
    if settings.step_size is not None:
        return settings.step_size
    if settings.preset == "dgn-am":
        return DGN_AM_STEP_SIZE
    if settings.method == "map":
        return MAP_STEP_SIZE
    return 0.5 * code_size ** (-1 / 3 if settings.method == "mala" else -1 / 4)


def run_chains(
    chain_keys: Array,
    z0: Array,
    value_and_grad: ValueAndGrad,
    params: Any,
    settings: SamplerSettings,
    bounds: Bounds | None = None,
    state: ChainState | None = None,
    traces: dict[str, np.ndarray] | None = None,
    on_block: Callable[[BlockProgress], None] | None = None,
    stop_at: int | None = None,
    *,
    chain_params: dict[str, Any] | None = None,
    group_size: int | None = None,
    devices: Sequence[Any] | None = None,
) -> ChainResult:
    """Run all chains for the settings' budget.

    Args:
        chain_keys: (chains,) typed PRNG keys; chain i's numbers come from its key alone.
        z0: (chains, code) starting positions.
        value_and_grad: pure; the same function object again means no new compilation.
        params: pytree that value_and_grad takes; an argument of the compiled program.
        bounds: (lower, upper), each (code,) or (chains, code), for the settings' clip_mode.
        state, traces: of a checkpoint (``BlockProgress``), to go on from there bit by bit.
        on_block: called after each block. A KeyboardInterrupt that it raises ends the run, and
            what is there is returned; any other exception goes through.
        stop_at: end once so many steps are done, on the schedule of the whole budget.
        chain_params: {name: array (chains, ...)} of what differs from chain to chain, such as the
            class. value_and_grad finds them in ``params``, which must be a dictionary then.
        group_size: chains that are computed as one (:mod:`gradgen.inference.layout`). With it, a
            chain's bits depend neither on the devices nor on the other groups.
        devices: that share the chains; ``None``: JAX's default device alone.
    """
    settings.validate()
    plan = plan_steps(settings)
    num_chains = len(z0)
    layout = make_layout(num_chains, group_size, devices)
    filled = -(-num_chains // layout.multiple) * layout.multiple
    if bounds is not None:
        bounds = tuple(jnp.broadcast_to(side, z0.shape) for side in bounds)  # type: ignore[assignment]
    per_chain, params = place(padded((chain_params, bounds), filled), params, layout)
    if state is None:
        keys, z0 = padded((chain_keys, z0), filled)
        state = init_chains(
            keys, z0, value_and_grad, params, settings, per_chain[1], per_chain[0], layout
        )
    state, _ = place(padded(state, filled), None, layout)
    # a block hands the trace's numbers to the host, a few kilobytes a second
    traces = (
        _empty_traces(plan, settings, num_chains)
        if traces is None
        else {name: values.copy() for name, values in traces.items()}
    )
    numbers = {
        "step_decay": settings.step_decay,
        "step_decay_offset": settings.step_decay_offset,
        "noise_scale": settings.noise_scale,
        "noise_decay": settings.noise_decay,
        "step_jitter": settings.step_jitter,
        "target_acceptance": settings.target_acceptance
        or TARGET_ACCEPTANCE.get(settings.method, 0.5),
    }
    numbers = {name: jnp.float32(value) for name, value in numbers.items()}
    form = _Form(
        settings.method,
        settings.preset,
        settings.clip_mode,
        settings.num_integration_steps,
        plan.warmup_steps,
        plan.num_steps,
    )
    projections = projection_vectors(settings.num_projections, state.position.shape[1])
    end = plan.num_steps if stop_at is None else min(stop_at, plan.num_steps)
    interrupted = False
    done = int(state.step)
    while done < end and not interrupted:
        point = done // plan.stride
        windows = min(plan.windows_per_block, (end - done) // plan.stride)
        stride = plan.stride
        if windows == 0:  # the last window is a short one
            windows, stride = 1, end - done
        state, block = run_block(
            state,
            per_chain,
            (params, numbers, projections),
            value_and_grad,
            form,
            windows,
            stride,
            layout,
        )
        done += windows * stride
        for name, values in block._asdict().items():
            traces[name][:, point : point + windows] = np.asarray(values)[:num_chains]
        if on_block:
            recent = {
                name: values[:, point : point + windows]
                for name, values in traces.items()
                if name != "step"
            }
            try:
                on_block(
                    BlockProgress(
                        step=done,
                        num_steps=plan.num_steps,
                        gradient_evaluations=settings.gradients_after(done),
                        acceptance_rate=float(recent["acceptance"].mean()),
                        log_likelihood=float(recent["log_likelihood"][:, -1].mean()),
                        step_size=float(recent["step_size"].mean()),
                        warming_up=done <= plan.warmup_steps,
                        state=first(state, num_chains),
                        traces=traces,
                    )
                )
            except KeyboardInterrupt:
                interrupted = True
    state = first(state, num_chains)
    sampled = max(1, done - plan.warmup_steps)
    return ChainResult(
        state=state,
        traces=traces,
        step=done,
        num_steps=plan.num_steps,
        warmup_steps=plan.warmup_steps,
        gradient_evaluations=settings.gradients_after(done),
        acceptance_rate=np.asarray(state.accepted) / sampled,
        step_size=np.asarray(state.first_step_size),
        interrupted=interrupted and done < plan.num_steps,
    )


class _Form(NamedTuple):
    """What of the settings the compiled program depends on; the numbers are its arguments."""

    method: str
    preset: str | None
    clip_mode: str
    num_integration_steps: int
    warmup_steps: int
    num_steps: int


@partial(jax.jit, static_argnames=("value_and_grad", "form", "windows", "stride", "layout"))
def run_block(
    state: ChainState,
    per_chain: tuple[dict[str, Any] | None, Bounds | None],
    shared: tuple[Any, dict[str, Array], Array],
    value_and_grad: ValueAndGrad,
    form: _Form,
    windows: int,
    stride: int,
    layout: Layout = PLAIN,
) -> tuple[ChainState, Trace]:
    """``windows`` x ``stride`` steps of all chains.

    Args:
        per_chain: what differs from chain to chain: parameters and bounds.
        shared: what does not: parameters, the settings' numbers, the trace's projections.
    """

    def group(per_chain: Any, shared: Any) -> tuple[ChainState, Trace]:
        state, chain_params, bounds = per_chain
        params, numbers, projections = shared

        def evaluate(z: Array) -> Evaluation:
            return value_and_grad(_joined(params, chain_params), z)

        def one(state: ChainState, _: None) -> tuple[ChainState, tuple[Array, Array]]:
            return _one_step(state, evaluate, numbers, bounds, form)

        def window(state: ChainState, _: None) -> tuple[ChainState, Trace]:
            state, (acceptance, step_size) = jax.lax.scan(one, state, None, length=stride)
            return state, Trace(
                log_density=state.log_density,
                log_likelihood=state.log_likelihood,
                acceptance=acceptance.mean(0),
                step_size=step_size.mean(0),
                squared_norm=jnp.sum(state.position**2, axis=-1),
                projections=state.position @ projections,
            )

        state, trace = jax.lax.scan(window, state, None, length=windows)
        return state, jax.tree.map(lambda values: jnp.moveaxis(values, 0, 1), trace)

    return spread(group, (state, *per_chain), shared, layout)


def _joined(params: Any, chain_params: dict[str, Any] | None) -> Any:
    return params if chain_params is None else {**params, **chain_params}


def _one_step(
    state: ChainState,
    evaluate: Callable[[Array], Evaluation],
    numbers: dict[str, Array],
    bounds: Bounds | None,
    form: _Form,
) -> tuple[ChainState, tuple[Array, Array]]:
    """A step of the method at the schedule's step size; acceptance and step size (chains,)."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(
        jax.random.wrap_key_data(state.key_data), state.step
    )
    warming = state.step < form.warmup_steps
    t = jnp.maximum(state.step - form.warmup_steps, 0).astype(jnp.float32)
    step_size = decay_from(
        t, state.first_step_size, numbers["step_decay_offset"], numbers["step_decay"]
    )
    if form.warmup_steps:
        step_size = jnp.where(warming, jnp.exp(state.adaptation.log_step_size), step_size)
    evaluation = Evaluation(state.log_density, state.gradient, state.log_likelihood)
    new: Any
    info: Any
    if form.method == "mala":
        noise = annealed_noise(t, numbers["noise_scale"], numbers["noise_decay"])
        new, info = mala.mala_step(
            keys,
            KernelState(state.position, evaluation),
            evaluate,
            step_size,
            noise,
            bounds,
            form.clip_mode,
        )
        acceptance = info.acceptance_probability
    elif form.method == "hmc":
        new, info = hmc.hmc_step(
            keys,
            KernelState(state.position, evaluation),
            evaluate,
            step_size,
            form.num_integration_steps,
            numbers["step_jitter"],
            bounds,
            form.clip_mode,
        )
        acceptance = info.acceptance_probability
    else:
        shrink = 1.0
        if form.preset == "dgn-am":
            step_size = linear(t, state.first_step_size, DGN_AM_LAST_STEP_SIZE, form.num_steps)
            shrink = DGN_AM_SHRINK
        new = map_.map_step(
            KernelState(state.position, evaluation),
            evaluate,
            step_size,
            bounds,
            form.clip_mode,
            shrink,
        )
        acceptance = jnp.ones_like(state.log_density)

    adapted, first = state.adaptation, state.first_step_size
    if form.warmup_steps:
        update = adaptation.update(state.adaptation, acceptance, numbers["target_acceptance"])
        adapted = jax.tree.map(lambda a, b: jnp.where(warming, a, b), update, state.adaptation)
        first = jnp.where(warming, jnp.exp(adapted.log_average), first)
    return (
        ChainState(
            step=state.step + 1,
            key_data=state.key_data,
            position=new.position,
            log_density=new.evaluation.log_density,
            gradient=new.evaluation.gradient,
            log_likelihood=new.evaluation.log_likelihood,
            adaptation=adapted,
            first_step_size=first,
            accepted=state.accepted + jnp.where(warming, 0.0, acceptance),
        ),
        (acceptance, step_size),
    )


def projection_vectors(count: int, code_size: int) -> Array:
    """(code, count) fixed random unit vectors, the same for every run."""
    vectors = jax.random.normal(jax.random.key(PROJECTION_SEED), (code_size, count))
    return vectors / jnp.linalg.norm(vectors, axis=0)


def state_to_arrays(state: ChainState) -> dict[str, np.ndarray]:
    """A checkpoint's arrays under flat names."""
    flat = {name: value for name, value in state._asdict().items() if name != "adaptation"}
    flat |= {f"adaptation_{name}": value for name, value in state.adaptation._asdict().items()}
    return {name: np.asarray(value) for name, value in flat.items()}


def state_from_arrays(arrays: dict[str, np.ndarray]) -> ChainState:
    """The state that :func:`state_to_arrays` took apart.

    Raises:
        KeyError: an array is missing.
    """
    rest = {name: jnp.asarray(arrays[name]) for name in ChainState._fields if name != "adaptation"}
    adapted = adaptation.DualAveraging(
        **{
            name: jnp.asarray(arrays[f"adaptation_{name}"])
            for name in adaptation.DualAveraging._fields
        }
    )
    return ChainState(adaptation=adapted, **rest)


def _empty_traces(
    plan: StepPlan, settings: SamplerSettings, num_chains: int
) -> dict[str, np.ndarray]:
    shape = (num_chains, plan.num_points)
    traces = {
        name: np.full(shape, np.nan, np.float32) for name in Trace._fields if name != "projections"
    }
    traces["projections"] = np.full((*shape, settings.num_projections), np.nan, np.float32)
    return {"step": plan.point_steps, **traces}


@partial(jax.jit, static_argnames=("value_and_grad", "layout"))
def _evaluate_jitted(
    value_and_grad: ValueAndGrad,
    params: Any,
    chain_params: dict[str, Any] | None,
    z: Array,
    layout: Layout,
) -> Evaluation:
    def group(per_chain: Any, params: Any) -> Evaluation:
        z, chain_params = per_chain
        return value_and_grad(_joined(params, chain_params), z)

    return spread(group, (z, chain_params), params, layout)
