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

from gradgen.devices import Layout, first, make_layout, padded, place, spread
from gradgen.inference import adaptation, hmc, mala, replicas, trajectories
from gradgen.inference import map as map_
from gradgen.inference.clipping import Bounds
from gradgen.inference.diagnostics import enough
from gradgen.inference.kernel import KernelInfo, KernelState
from gradgen.inference.schedules import annealed_noise, decay_from, linear
from gradgen.inference.settings import (
    MAP_STEP_SIZE,
    WARMUP_LEAPFROGS,
    SamplerSettings,
)
from gradgen.inference.state import ChainState
from gradgen.inference.timeline import timeline_of
from gradgen.inference.traces import NUM_PROJECTIONS, Traces
from gradgen.inference.types import Evaluation, Prior, ValueAndGrad, merged

DGN_AM_STEP_SIZE, DGN_AM_LAST_STEP_SIZE, DGN_AM_SHRINK = 8.0, 1e-10, 0.99
PROJECTION_SEED = 2024  # of the fixed random unit projections of z in the trace
PLAIN = Layout()  # all chains as one group on the default device
# A proposal whose log acceptance ratio is below has gone wrong numerically: the integrator was
# unstable there. The same limit as Stan's.
DIVERGENT = -1000.0
# The share of the warm-up in which trajectories are short.
SHORT_SHARE = 0.5


class Windows(NamedTuple):
    """What a block gives to the :class:`~gradgen.inference.traces.Traces`.

    All (chains, windows), projections (chains, windows, k).
    """

    log_density: Array
    log_likelihood: Array
    acceptance: Array
    step_size: Array
    squared_norm: Array
    projections: Array


@dataclass(frozen=True)
class BlockProgress:
    """What ``on_block`` is told after each block.

    Attributes:
        step, num_steps: steps done and in all.
        gradient_evaluations: a chain, the one at the start included.
        acceptance_rate, log_likelihood, step_size: means over chains (and the block's steps).
        warming_up: whether the step size is being adapted.
        state, traces: for a checkpoint.
    """

    step: int
    num_steps: int
    gradient_evaluations: int
    acceptance_rate: float
    log_likelihood: float
    step_size: float
    warming_up: bool
    state: ChainState
    traces: Traces


@dataclass(frozen=True)
class ChainResult:
    """What became of the chains.

    Attributes:
        state: at the end; ``state.position`` are the codes.
        traces: of all chains.
        step, num_steps, warmup_steps: done, planned, of them adapting the step size.
        gradient_evaluations: a chain; one more than the budget's, for the start.
        acceptance_rate: (chains,) mean acceptance probability since the warm-up; 1 for MAP, NaN
            where nothing has been proposed.
        step_size: (chains,), the schedule's first one (after the warm-up, if there was one).
        interrupted: whether ``on_block`` raised KeyboardInterrupt before the end.
    """

    state: ChainState
    traces: Traces
    step: int
    num_steps: int
    warmup_steps: int
    gradient_evaluations: int
    acceptance_rate: np.ndarray
    step_size: np.ndarray
    interrupted: bool


def init_chains(
    chain_keys: Array,
    z0: Array,
    value_and_grad: ValueAndGrad,
    params: Any,
    settings: SamplerSettings,
    bounds: Bounds | None = None,
    chain_params: Any = None,
    layout: Layout = PLAIN,
    prior: Prior | None = None,
) -> ChainState:
    """Chains at their start; one gradient evaluation.

    Args:
        chain_keys: (chains,) typed PRNG keys.
        z0: (chains, code); moved into the bounds if there are any.
        chain_params, layout, prior: see :func:`run_chains`; the chains fill the layout.
    """
    if settings.replicas > 1:
        assert prior is not None
        rungs = settings.num_rungs + 1  # the last has no chain, but a place
        if layout.group_size is not None:
            layout = layout._replace(group_size=rungs * layout.group_size)
        chain_keys, z0 = replicas.first_rows(chain_keys, z0, settings.num_rungs, prior)
        chain_params, bounds = _for_rungs((chain_params, bounds), rungs)
    if bounds is not None and settings.clip_mode != "none":
        z0 = jnp.clip(z0, bounds[0], bounds[1])
    num_chains, code_size = z0.shape
    evaluation = _evaluate_jitted(value_and_grad, params, chain_params, z0, layout)
    # A dtype that is named: jnp.full would make a weak one of a Python number, which is strong
    # after the first block, and the block would be compiled a second time.
    guess = jnp.full(num_chains, first_step_size(settings, code_size), jnp.float32)
    long = settings.has_trajectories
    adapted = adaptation.init(
        guess, settings.warmup_steps // (WARMUP_LEAPFROGS if long else 1), alike=not long
    )
    state = ChainState(
        step=jnp.int32(0),
        key_data=jax.random.key_data(chain_keys),
        position=z0,
        log_density=evaluation.log_density,
        gradient=evaluation.gradient,
        log_likelihood=evaluation.log_likelihood,
        adaptation=adapted,
        first_step_size=guess,
        accepted=jnp.zeros(num_chains),
        faults=jnp.zeros((num_chains, 2), jnp.int32),
        window_sums=jnp.zeros((num_chains, 2)),
        trajectory=trajectories.init(z0) if long else None,
        features=evaluation.features,
    )
    return state if settings.replicas == 1 else replicas.init(state, settings.num_rungs)


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
    traces: Traces | None = None,
    on_block: Callable[[BlockProgress], None] | None = None,
    stop_at: int | None = None,
    *,
    chain_params: dict[str, Any] | None = None,
    group_size: int | None = None,
    devices: Sequence[Any] | None = None,
    prior: Prior | None = None,
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
        group_size: chains that are computed as one (:mod:`gradgen.devices`). With it, a
            chain's bits depend neither on the devices nor on the other groups.
        devices: that share the chains; ``None``: JAX's default device alone.
        prior: the target without its likelihood; needed for ``replicas`` of the settings.

    Raises:
        ValueError: there are to be replicas, and no prior is given.
    """
    if settings.replicas > 1 and prior is None:
        raise ValueError("replicas are tempered towards a prior; give it")
    timeline = timeline_of(settings)
    num_chains = len(z0)
    layout = make_layout(num_chains, group_size, devices)
    filled = -(-num_chains // layout.multiple) * layout.multiple
    if bounds is not None:
        bounds = tuple(jnp.broadcast_to(side, z0.shape) for side in bounds)  # type: ignore[assignment]
    per_chain, params = place(padded((chain_params, bounds), filled), params, layout)
    if state is None:
        keys, z0 = padded((chain_keys, z0), filled)
        state = init_chains(
            keys, z0, value_and_grad, params, settings, per_chain[1], per_chain[0], layout, prior
        )
    elif state.features is None:
        # earlier versions' states have none; nothing is known of them until the chain moves
        given = jax.eval_shape(value_and_grad, merged(params, per_chain[0]), state.position)
        if given.features is not None:
            features = jnp.full(given.features.shape, jnp.nan, given.features.dtype)
            state = state._replace(features=features)
    state, _ = place(padded(state, filled), None, layout)
    # a block hands the trace's numbers to the host, a few kilobytes a second
    traces = (
        Traces.empty(timeline.point_steps, num_chains, NUM_PROJECTIONS + _width(state.features))
        if traces is None
        else traces.copy()
    )
    numbers = {
        "step_decay": settings.step_decay,
        "step_decay_offset": settings.step_decay_offset,
        "noise_scale": settings.noise_scale,
        "noise_decay": settings.noise_decay,
        "noise_floor": settings.noise_floor,
        "step_jitter": settings.step_jitter,
        "trajectory_length": settings.trajectory_length,
        "target_acceptance": settings.aimed_acceptance,
        "replica_ratio": settings.replica_ratio,
    }
    numbers = {name: jnp.float32(value) for name, value in numbers.items()}
    numbers |= {
        "warmup_steps": jnp.int32(timeline.warmup_steps),
        "stride": jnp.int32(timeline.stride),
    }
    form = _Form(
        settings.method,
        settings.preset,
        settings.clip_mode,
        settings.num_integration_steps,
        settings.has_trajectories,
        timeline.warmup_steps > 0,
        timeline.num_steps if settings.preset else None,
        settings.replicas,
        prior if settings.replicas > 1 else None,
    )
    projections = projection_vectors(NUM_PROJECTIONS, state.position.shape[1])
    end = timeline.num_steps if stop_at is None else min(stop_at, timeline.num_steps)
    interrupted = False
    done = int(state.step)
    while done < end and not interrupted:
        if timeline.is_check(done) and enough(
            traces, timeline.warmup_steps, done, settings.until_r_hat or 0.0
        ):
            break
        point = done // timeline.stride
        windows, steps = timeline.next_block(done, end)
        state, block = run_block(
            state,
            per_chain,
            (params, numbers, projections),
            value_and_grad,
            form,
            windows,
            steps,
            layout,
        )
        done += windows * steps
        values = {name: np.asarray(column) for name, column in block._asdict().items()}
        traces.write(point, values)
        if on_block:
            try:
                on_block(
                    BlockProgress(
                        step=done,
                        num_steps=timeline.num_steps,
                        gradient_evaluations=settings.gradients_after(done),
                        acceptance_rate=_mean(values["acceptance"][:num_chains]),
                        log_likelihood=float(values["log_likelihood"][:num_chains, -1].mean()),
                        step_size=float(values["step_size"][:num_chains].mean()),
                        warming_up=done <= timeline.warmup_steps,
                        state=first(state, num_chains),
                        traces=traces,
                    )
                )
            except KeyboardInterrupt:
                interrupted = True
    state = first(state, num_chains)
    proposals = np.full(num_chains, max(1, done - timeline.warmup_steps))
    if state.trajectory is not None:
        proposals = np.asarray(state.trajectory.ended)
    return ChainResult(
        state=state,
        traces=traces,
        step=done,
        num_steps=timeline.num_steps,
        warmup_steps=timeline.warmup_steps,
        gradient_evaluations=settings.gradients_after(done),
        acceptance_rate=np.where(
            proposals > 0, np.asarray(state.accepted) / np.maximum(proposals, 1), np.nan
        ).astype(np.float32),
        step_size=np.asarray(state.first_step_size),
        interrupted=interrupted and done < timeline.num_steps,
    )


class _Form(NamedTuple):
    """What of the settings the compiled program depends on; the numbers are its arguments.

    Attributes:
        method, preset, clip_mode, num_integration_steps, has_trajectories: the settings'.
        adapts: whether there is a warm-up.
        num_steps: of the whole run, where there is a preset. DGN-AM's rule divides by them, and XLA
            divides by a constant in its own way.
        replicas: the settings'. prior: that they are tempered towards, if there are any.
    """

    method: str
    preset: str | None
    clip_mode: str
    num_integration_steps: int | None
    has_trajectories: bool
    adapts: bool
    num_steps: int | None
    replicas: int
    prior: Prior | None


@partial(jax.jit, static_argnames=("value_and_grad", "form", "windows", "steps", "layout"))
def run_block(
    state: ChainState,
    per_chain: tuple[dict[str, Any] | None, Bounds | None],
    shared: tuple[Any, dict[str, Array], Array],
    value_and_grad: ValueAndGrad,
    form: _Form,
    windows: int,
    steps: int,
    layout: Layout = PLAIN,
) -> tuple[ChainState, Windows]:
    """``windows`` x ``steps`` steps of all chains.

    Args:
        per_chain: what differs from chain to chain: parameters and bounds.
        shared: what does not: parameters, the settings' numbers, the trace's projections.
    """

    def group(per_chain: Any, shared: Any) -> tuple[ChainState, Windows]:
        state, chain_params, bounds = per_chain
        params, numbers, projections = shared

        def evaluate(z: Array) -> Evaluation:
            return value_and_grad(merged(params, chain_params), z)

        def step(state: ChainState, _: None) -> tuple[ChainState, None]:
            if form.prior is not None:
                return _step_of_replicas(
                    state, value_and_grad, (params, chain_params), numbers, bounds, form
                ), None
            return _one_step(state, evaluate, numbers, bounds, form), None

        def window(state: ChainState, _: None) -> tuple[ChainState, Windows]:
            state, _ = jax.lax.scan(step, state, None, length=steps)
            means = state.window_sums / _steps_of_window(state.step, numbers["stride"])
            return state, Windows(
                log_density=state.log_density,
                log_likelihood=state.log_likelihood,
                acceptance=means[:, 0],
                step_size=means[:, 1],
                squared_norm=jnp.sum(state.position**2, axis=-1),
                projections=_with_features(state.position @ projections, state.features),
            )

        state, trace = jax.lax.scan(window, state, None, length=windows)
        return state, jax.tree.map(lambda values: jnp.moveaxis(values, 0, 1), trace)

    return spread(group, (state, *per_chain), shared, layout)


def _with_features(projections: Array, features: Array | None) -> Array:
    """Columns (chains, k) of the trace."""
    return projections if features is None else jnp.concatenate([projections, features], axis=-1)


def _width(features: Array | None) -> int:
    return 0 if features is None else features.shape[1]


def _steps_of_window(step: Array, stride: Array) -> Array:
    """Of ``step`` steps done, how many belong to the window that the last of them is in."""
    return ((step - 1) % stride + 1).astype(jnp.float32)


def _for_rungs(per_chain: Any, count: int) -> Any:
    """What belongs to chains (chains, ...), for so many rungs of each."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), per_chain)


def _step_of_replicas(
    state: ChainState,
    value_and_grad: ValueAndGrad,
    params: tuple[Any, dict[str, Any] | None],
    numbers: dict[str, Array],
    bounds: Bounds | None,
    form: _Form,
) -> ChainState:
    """A step of all rungs that move, a draw from the prior, and the exchanges.

    Args:
        params: those that all chains share, and those that differ.
    """
    assert form.prior is not None
    prior, count = form.prior, form.replicas - 1
    shared, own = params
    of_rows, row_bounds = _for_rungs((own, bounds), count)
    rungs = replicas.rungs_of(len(state.position), count, numbers["replica_ratio"], prior)

    def evaluate_rows(z: Array) -> Evaluation:
        whole = value_and_grad(merged(shared, of_rows), z)
        return replicas.tempered(z, whole, rungs.weight, prior)

    def evaluate(z: Array) -> Evaluation:
        return value_and_grad(merged(shared, own), z)

    rows = _one_step(replicas.rows_of(state), evaluate_rows, numbers, row_bounds, form, rungs)
    state = replicas.chains_of(rows, state)
    ended = jnp.ones(len(state.position), bool)
    if state.trajectory is not None:
        ended = state.trajectory.remaining == 0
    return replicas.exchange(
        state,
        evaluate,
        replicas.weights(count, numbers["replica_ratio"]),
        prior,
        bounds,
        form.clip_mode,
        ended,
        state.step > numbers["warmup_steps"],
    )


def _one_step(
    state: ChainState,
    evaluate: Callable[[Array], Evaluation],
    numbers: dict[str, Array],
    bounds: Bounds | None,
    form: _Form,
    rungs: replicas.Rungs | None = None,
) -> ChainState:
    """A step of the method at the schedule's step size.

    Args:
        rungs: of replicas, whose tempered target ``evaluate`` is then; the state's is not.
    """
    keys = jax.vmap(jax.random.fold_in, (0, None))(
        jax.random.wrap_key_data(state.key_data), state.step
    )
    warmup_steps = numbers["warmup_steps"]
    warming = state.step < warmup_steps
    t = jnp.maximum(state.step - warmup_steps, 0).astype(jnp.float32)
    step_size = decay_from(
        t, state.first_step_size, numbers["step_decay_offset"], numbers["step_decay"]
    )
    if form.adapts:
        step_size = jnp.where(warming, jnp.exp(state.adaptation.log_step_size), step_size)
    evaluation = Evaluation(state.log_density, state.gradient, state.log_likelihood, state.features)
    if rungs is not None:
        evaluation = replicas.tempered(state.position, evaluation, rungs.weight, rungs.prior)
    new: Any
    info: KernelInfo | None = None
    trajectory = None
    ended: Array | bool = True
    counted: Array = jnp.logical_not(warming)
    if form.has_trajectories:
        assert state.trajectory is not None
        searching = state.step < warmup_steps * SHORT_SHARE
        new, trajectory, info = trajectories.trajectory_step(
            keys,
            KernelState(state.position, evaluation),
            state.trajectory,
            evaluate,
            step_size,
            numbers["trajectory_length"],
            numbers["step_jitter"],
            jnp.where(searching, WARMUP_LEAPFROGS, trajectories.MOST_STEPS),
            bounds,
            form.clip_mode,
            None if rungs is None else rungs.leaders,
        )
        step_size = trajectory.step_size
        ended = trajectory.remaining == 0
        counted = counted & ended
    elif form.method == "mala":
        noise = annealed_noise(
            t, numbers["noise_scale"], numbers["noise_decay"], numbers["noise_floor"]
        )
        new, info = mala.mala_step(
            keys,
            KernelState(state.position, evaluation),
            evaluate,
            step_size,
            noise,
            bounds,
            form.clip_mode,
        )
    elif form.method == "hmc":
        new, info = hmc.hmc_step(
            keys,
            KernelState(state.position, evaluation),
            evaluate,
            step_size,
            form.num_integration_steps or 1,
            numbers["step_jitter"],
            bounds,
            form.clip_mode,
        )
    else:
        shrink = 1.0
        if form.preset == "dgn-am":
            assert form.num_steps is not None
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
    faults = state.faults
    if info is not None:
        acceptance = info.acceptance_probability
        found = jnp.stack([info.log_ratio < DIVERGENT, jnp.isnan(info.log_ratio)], axis=-1)
        counts = jnp.broadcast_to(counted, acceptance.shape)[:, None]
        faults = faults + (found & counts).astype(jnp.int32)
    adapted, first = state.adaptation, state.first_step_size
    if form.adapts:
        told = acceptance if trajectory is None else trajectory.mean_acceptance
        if rungs is not None and trajectory is not None:
            told = told[rungs.leaders]  # one step size, so that one length fits all
        update = adaptation.update(state.adaptation, told, numbers["target_acceptance"])
        adapted = jax.tree.map(
            lambda a, b: jnp.where(warming & ended, a, b), update, state.adaptation
        )
        first = jnp.where(warming, jnp.exp(adapted.log_average), first)
    shown = acceptance
    if trajectory is not None and state.trajectory is not None:
        shown = jnp.where(ended, acceptance, state.trajectory.last_acceptance)
        total = state.trajectory.ended + counted
        trajectory = trajectory._replace(last_acceptance=shown, ended=total)
    sums = jnp.where(state.step % numbers["stride"] == 0, 0.0, state.window_sums)
    found = new.evaluation if new.evaluation.whole is None else new.evaluation.whole
    return ChainState(
        step=state.step + 1,
        key_data=state.key_data,
        position=new.position,
        log_density=found.log_density,
        gradient=found.gradient,
        log_likelihood=found.log_likelihood,
        adaptation=adapted,
        first_step_size=first,
        accepted=state.accepted + jnp.where(counted, acceptance, 0.0),
        faults=faults,
        window_sums=sums + jnp.stack([shown, step_size], axis=-1),
        trajectory=trajectory,
        features=found.features,
    )


def _mean(values: np.ndarray) -> float:
    """Of those that are numbers; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def projection_vectors(count: int, code_size: int) -> Array:
    """(code, count) fixed random unit vectors, the same for every run."""
    vectors = jax.random.normal(jax.random.key(PROJECTION_SEED), (code_size, count))
    return vectors / jnp.linalg.norm(vectors, axis=0)


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
        return value_and_grad(merged(params, chain_params), z)

    return spread(group, (z, chain_params), params, layout)
