"""From a class to pictures: keys and targets in; codes, pictures, traces and a record out.

The Python interface is :func:`sample`. :mod:`gradgen.runs.run` takes the same steps one by one
(:func:`gradgen.runs.plan.prepare`, :func:`run_batches`) and keeps a run's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen import notebook
from gradgen.errors import GradgenError
from gradgen.evidence.classes import Form
from gradgen.evidence.expression import Expression
from gradgen.evidence.unit import Unit
from gradgen.images import to_uint8
from gradgen.inference import ChainState, Evaluation, Traces, run_chains
from gradgen.inference.chain import BlockProgress, ChainResult
from gradgen.inference.clipping import Bounds
from gradgen.inference.starts import choose_starts
from gradgen.networks.interfaces import Bundle, Classifier
from gradgen.networks.prior import STANDARD_NORMAL, Prior
from gradgen.runs.checkpoint import Checkpoint
from gradgen.runs.finite import check_start, check_state, warn_of_stuck
from gradgen.runs.plan import (
    Batch,
    ClassJob,
    Group,
    Plan,
    batches_of,
    block_size,
    describe,
    most_chains,
    prepare,
)
from gradgen.runs.results import Part, Samples, collect
from gradgen.runs.settings import make_settings
from gradgen.runs.target import Target, make_target

# A chain's start is drawn from its key folded with this, its steps from the key folded with the
# step's number, which stays far below.
START_KEY = 2**32 - 1
AWAY_FROM_START = 0.25  # share of a draw from the prior in a chain's start near a photograph's code


@dataclass(frozen=True, eq=False)
class SampleProgress:
    """What ``on_block`` is told after each block of steps.

    Attributes:
        jobs: the classes whose chains run.
        groups: which groups of the plan they are.
        step, num_steps: of these chains.
        gradient_evaluations, total_gradient_evaluations: of all chains together, those that were
            finished before and those to come included.
        acceptance_rate, log_likelihood, step_size: means over the chains.
        warming_up: whether the step size is being adapted.
        state, traces: for a checkpoint.
    """

    jobs: tuple[ClassJob, ...]
    groups: tuple[int, ...]
    step: int
    num_steps: int
    gradient_evaluations: int
    total_gradient_evaluations: int
    acceptance_rate: float
    log_likelihood: float
    step_size: float
    warming_up: bool
    state: ChainState
    traces: Traces


OnBlock = Callable[[SampleProgress], None]
ClassName = str | int | Expression


def sample(
    bundle: Bundle | str | Path | None,
    class_name: ClassName | Sequence[ClassName],
    method: str | None = None,
    num_chains: int = 16,
    seed: int = 0,
    *,
    likelihood_weight: float | None = None,
    classifier: str | Classifier | None = None,
    clip: bool | None = None,
    on_block: OnBlock | None = None,
    **options: Any,
) -> Samples:
    """Sample pictures of one or several classes.

    Args:
        bundle: from :func:`gradgen.load_bundle`, or its name or folder. None: the first of
            ``ten64`` and ``tiny64`` that knows all of the classes, and ``tiny64`` where none does.
        class_name: a name, words of a name, synset id or index; a composed class such as
            ``"beacon & !pier"`` or ``Class("beacon") & ~Class("pier")``; or several of them.
        method: ``hmc``, ``mala`` or ``map``. None: ``hmc``, or ``map`` with a ``preset``.
        num_chains: chains, and so pictures, a class.
        seed: of all randomness; chain i of a class starts and moves by a key made of the seed,
            the class's index and i.
        likelihood_weight: beta in p(class | g(z))^beta p(z); 1 is the posterior. None: the value
            that the bundle's card recommends.
        classifier: another one than the bundle's own, by name. None: the bundle's own, or lite0
            for a class that only lite0 knows.
        clip: keep codes in a box. None: for MAP yes (Algorithm 1 clips), for MALA and HMC no.
        on_block: called every few seconds; a KeyboardInterrupt that it raises ends the run with
            what is there.
        options: other fields of :class:`gradgen.runs.settings.SampleSettings`, such as ``budget``,
            ``step_size``, ``trajectory_length``, ``chain_batch``, ``clip_mode``.

    Raises:
        UsageError: a class, a name or a number that makes no sense.
        GradgenError: weights that are missing or broken.
    """
    loaded = bundle if isinstance(bundle, Bundle) else None
    named = None if bundle is None else str(bundle)
    given = {
        **options,
        "bundle": named if loaded is None else loaded.name,
        "classes": class_name,
        "method": method,
        "num_chains": num_chains,
        "seed": seed,
        "likelihood_weight": likelihood_weight,
        "classifier": classifier.name if isinstance(classifier, Classifier) else classifier,
    }
    given = {name: value for name, value in given.items() if value is not None}
    plan = prepare(make_settings(given, clip), loaded)
    if on_block is None and notebook.listens():
        on_block = _notebook_bar(plan)
    begun = time.monotonic()
    parts = list(run_batches(plan, range(len(plan.groups)), on_block=on_block))
    return collect(plan, describe(plan), parts, time.monotonic() - begun)


def _notebook_bar(plan: Plan) -> OnBlock:
    bar = notebook.Bar(names_of(plan.jobs), "gradients")

    def show(block: SampleProgress) -> None:
        note = f"log p {block.log_likelihood:.2f}{', warm-up' if block.warming_up else ''}"
        bar.update(block.gradient_evaluations, block.total_gradient_evaluations, note)

    return show


def run_batches(
    plan: Plan,
    todo: Sequence[int],
    checkpoints: Sequence[Checkpoint] = (),
    on_block: OnBlock | None = None,
    share: Sequence[int] | None = None,
) -> Iterator[Part]:
    """Run groups of a plan, a batch of them after another; gives each batch when it has ended.

    Args:
        plan: what to run.
        todo: the groups that are wanted, by their place among the plan's.
        checkpoints: saved states of groups that have started but not finished.
        on_block: see :func:`sample`. After a KeyboardInterrupt that it raises, the batch comes as
            far as it is, and no more do.
        share: what progress is counted in: the groups of this host, ``todo`` and those that were
            finished before. ``None``: all of the plan's.
    """
    started = {index for checkpoint in checkpoints for index in checkpoint.groups}
    rest = [index for index in todo if index not in started]
    devices = jax.local_devices()
    most = most_chains(plan, devices, _bytes_a_chain(plan) if rest else None)
    batches: list[tuple[Batch, Checkpoint | None]] = [
        (checkpoint.groups, checkpoint) for checkpoint in checkpoints
    ]
    batches += [(batch, None) for batch in batches_of(plan, rest, most)]
    each = plan.settings.gradients_after(plan.stop_at)
    sizes = [sum(plan.groups[index].size for index in batch) for batch, _ in batches]
    whole = range(len(plan.groups)) if share is None else share
    total = each * sum(plan.groups[index].size for index in whole)
    done = total - each * sum(sizes)
    for (batch, checkpoint), size in zip(batches, sizes, strict=True):
        result = _run_batch(plan, batch, checkpoint, devices, (done, total), on_block)
        done += each * size
        yield _part(plan, batch, result)
        if result.interrupted:
            return


def names_of(jobs: Sequence[ClassJob]) -> str:
    """For a progress line: the class, or the first one and how many more there are."""
    first = jobs[0].label.name
    return first if len(jobs) == 1 else f"{first} and {len(jobs) - 1} more"


def chain_keys(seed: int, class_index: int, start: int, size: int) -> Array:
    """(size,) typed keys of the chains start … start + size - 1 of a class."""
    key = jax.random.fold_in(jax.random.key(seed), class_index)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(start, start + size))


def starting_codes(keys: Array, code_size: int, prior: Prior = STANDARD_NORMAL) -> Array:
    """(chains, code) draws from the prior, each from its chain's key."""
    return jax.vmap(lambda key: prior.draw(jax.random.fold_in(key, START_KEY), code_size))(keys)


def first_codes(
    plan: Plan, keys: Array, groups: Sequence[Group], devices: Sequence[Any] | None = None
) -> Array:
    """Where the chains of some groups start: (chains, code).

    With a start, chain 0 begins at it and the others near it, which still differ.

    Args:
        plan: of the run.
        keys: of the chains.
        groups: of one program (:func:`gradgen.runs.plan.batches_of`).
        devices: that share the groups; ``None``: JAX's default device alone.
    """
    if (plan.settings.start_candidates or 1) > 1:
        return _likely_codes(plan, keys, groups, devices)
    codes = starting_codes(keys, plan.bundle.code_size, plan.bundle.prior)
    if plan.start is None:
        return codes
    numbers = np.concatenate([group.start + np.arange(group.size) for group in groups])
    share = jnp.asarray(np.where(numbers == 0, 0.0, AWAY_FROM_START), codes.dtype)[:, None]
    return (1 - share) * plan.start + share * codes


def _likely_codes(
    plan: Plan, keys: Array, groups: Sequence[Group], devices: Sequence[Any] | None
) -> Array:
    """For each chain one of many draws from the prior, by their likelihood: (chains, code)."""
    settings, bundle = plan.settings, plan.bundle
    job = plan.jobs[groups[0].class_position]
    steps = block_size(settings, len(keys), bundle.multiply_adds)
    return choose_starts(
        jax.vmap(jax.random.fold_in, (0, None))(keys, START_KEY),
        bundle.prior.draw,
        bundle.code_size,
        _log_likelihood(*networks_of(plan, job)),
        _parameters(plan, job),
        settings.start_candidates or 1,
        _bounds_of(plan, groups),
        chain_params={"asked": _asked_of(plan, groups)},
        group_size=_size_together(groups),
        devices=devices,
        at_once=steps * settings.gradients_per_step,
    )


def _size_together(groups: Sequence[Group]) -> int | None:
    """Chains that are computed as one; an accelerator is filled by many groups at once only."""
    return groups[0].size if jax.default_backend() == "cpu" else None


def _bounds_of(plan: Plan, groups: Sequence[Group]) -> Bounds | None:
    """(lower, upper) of the chains of some groups, each (chains, code), if there are any."""
    each = [(plan.jobs[group.class_position].bounds, group.size) for group in groups]
    rows = [np.repeat(np.stack(box)[:, None], size, axis=1) for box, size in each if box]
    if not rows:
        return None
    lower, upper = np.concatenate(rows, axis=1)
    return jnp.asarray(lower), jnp.asarray(upper)


def _asked_of(plan: Plan, groups: Sequence[Group]) -> Any:
    """What the target is told of the class of each chain of some groups: (chains, ...)."""
    sizes = np.array([group.size for group in groups])
    return jax.tree.map(
        lambda *each: jnp.asarray(np.repeat(np.stack(each), sizes, axis=0)),
        *(plan.jobs[group.class_position].asked for group in groups),
    )


# What a compiled program depends on of a target's networks.
Networks = tuple[Bundle, Classifier, Form | None, int, Unit | None, bool]


def networks_of(plan: Plan, job: ClassJob) -> Networks:
    """What :func:`target_for` takes for a class of a plan."""
    reduction = 0 if plan.photograph is None else plan.photograph.reduction
    unit = None if plan.unit is None else plan.unit.unit
    return plan.bundle, job.classifier, job.form, reduction, unit, plan.settings.realism > 0


def target_for(
    bundle: Bundle,
    classifier: Classifier,
    form: Form | None,
    reduction: int,
    unit: Unit | None,
    realistic: bool,
) -> Target:
    """A target without the numbers that are arguments of its functions."""
    target = make_target(bundle, classifier, form=form, realism_weight=float(realistic))
    return replace(target, reduction=reduction, unit=unit)


@cache
def _log_likelihood(*networks: Any) -> Callable[[Any, Array], Array]:
    """The weighted likelihood as starts are chosen by it; one object for the same networks."""
    target = target_for(*networks)

    def log_likelihood(params: Any, z: Array) -> Array:
        return target.weighted_log_likelihood(params["target"], params["asked"], z)

    return log_likelihood


@cache
def _value_and_grad(
    networks: Networks, preset: str | None, precision: str
) -> Callable[[Any, Array], Evaluation]:
    """The target as the chains want it. One object for the same networks: compiled only once."""
    target = target_for(*networks)
    function = target.value_and_grad
    if preset == "dgn-am":
        function = target.dgn_am_value_and_grad
    elif precision != "float32":
        function = partial(target.mixed_value_and_grad, precision)

    def value_and_grad(params: Any, z: Array) -> Evaluation:
        return function(params["target"], params["asked"], z)

    return value_and_grad


@cache
def decoder(bundle: Bundle) -> Callable[[Any, Array], Array]:
    """jit(generator), the same object for the same bundle."""
    return jax.jit(bundle.generator.apply)


def _bytes_a_chain(plan: Plan) -> int | None:
    """What a chain's gradient takes besides the weights, by the compiler's word.

    None on CPUs, where only one group at a time is in memory, and if the settings say how many
    chains run at once.
    """
    if jax.default_backend() == "cpu" or plan.settings.chain_batch is not None:
        return None
    job, size = plan.jobs[0], plan.groups[0].size
    params = _parameters(plan, job)
    z = jax.ShapeDtypeStruct((size, plan.bundle.code_size), jnp.float32)
    params |= {"asked": jax.tree.map(jnp.asarray, job.asked)}
    compiled = jax.jit(_function(plan, job)).lower(params, z)
    analysis = compiled.compile().memory_analysis()
    each = None if analysis is None else analysis.temp_size_in_bytes // size
    return None if each is None else each * plan.settings.replicas


def _function(plan: Plan, job: ClassJob) -> Callable[[Any, Array], Evaluation]:
    settings = plan.settings
    return _value_and_grad(networks_of(plan, job), settings.preset, settings.gradient_precision)


def target_params(plan: Plan, job: ClassJob) -> dict[str, Any]:
    """The parameters and numbers that the functions of a class's target take."""
    return make_target(
        plan.bundle,
        job.classifier,
        job.likelihood_weight,
        seen=plan.photograph,
        wanted=plan.unit,
        realism_weight=plan.settings.realism,
    ).params


def _parameters(plan: Plan, job: ClassJob) -> dict[str, Any]:
    return {"target": target_params(plan, job)}


def _run_batch(
    plan: Plan,
    batch: Batch,
    checkpoint: Checkpoint | None,
    devices: Sequence[Any],
    overall: tuple[int, int],
    on_block: OnBlock | None,
) -> ChainResult:
    """overall: chain gradients done before this batch, and in all."""
    settings = plan.settings
    groups = [plan.groups[index] for index in batch]
    jobs = [plan.jobs[group.class_position] for group in groups]
    sizes = np.array([group.size for group in groups])
    num_chains = int(sizes.sum())
    keys = jnp.concatenate(
        [
            chain_keys(settings.seed, job.label.index, group.start, group.size)
            for job, group in zip(jobs, groups, strict=True)
        ]
    )
    with explained(plan.bundle, num_chains, devices[0]):
        starts = (
            first_codes(plan, keys, groups, devices)
            if checkpoint is None
            else checkpoint.state.position
        )
    jobs_of_chains = [job for job, size in zip(jobs, sizes, strict=True) for _ in range(size)]
    sampler = replace(
        settings,
        block_size=block_size(settings, num_chains, plan.bundle.multiply_adds),
        # a picture's recipe says after how many steps its chains had agreed
        until_r_hat=settings.until_r_hat if plan.only_chain is None else None,
    )

    first = True
    before = latest = starts

    def report(block: BlockProgress) -> None:
        nonlocal first, before, latest
        before, latest = latest, block.state.position
        if settings.method != "map":
            check_state(plan, jobs_of_chains, block.state, first)
        elif first and not np.isfinite(np.asarray(block.state.log_density)).all():
            check_start(plan, jobs_of_chains, starts, evaluate(starts).log_density)
        first = False
        if on_block:
            on_block(
                SampleProgress(
                    jobs=tuple(dict.fromkeys(jobs)),
                    groups=batch,
                    step=block.step,
                    num_steps=block.num_steps,
                    gradient_evaluations=overall[0] + num_chains * block.gradient_evaluations,
                    total_gradient_evaluations=overall[1],
                    acceptance_rate=block.acceptance_rate,
                    log_likelihood=block.log_likelihood,
                    step_size=block.step_size,
                    warming_up=block.warming_up,
                    state=block.state,
                    traces=block.traces,
                )
            )

    bounds, asked = _bounds_of(plan, groups), _asked_of(plan, groups)

    def evaluate(codes: Array) -> Evaluation:
        params = _parameters(plan, jobs[0]) | {"asked": asked}
        return _function(plan, jobs[0])(params, codes)

    with explained(plan.bundle, num_chains, devices[0]):
        result = run_chains(
            keys,
            starts,
            _function(plan, jobs[0]),
            _parameters(plan, jobs[0]),
            sampler,
            bounds=bounds,
            state=checkpoint.state if checkpoint else None,
            traces=checkpoint.traces if checkpoint else None,
            on_block=report,
            stop_at=plan.stop_at,
            chain_params={"asked": asked},
            group_size=_size_together(groups),
            devices=devices,
            prior=plan.bundle.prior,
        )
    if settings.method == "map" and not first:
        warn_of_stuck(plan, jobs_of_chains, before, result.state, bounds)
    return result


@contextmanager
def explained(bundle: Bundle, num_chains: int, device: Any) -> Iterator[None]:
    """What JAX says of a network that fails, or of memory that is full, as one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "CpuCallback error" in str(error):  # of a network that is not JAX's own
            last = str(error).strip().splitlines()[-1]
            raise GradgenError(f"{bundle.name}: a network's own code failed: {last}") from error
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise GradgenError(
            f"{num_chains} chains at once do not fit into the memory of {device}; "
            f"set `chain_batch` to a smaller number, such as {max(1, num_chains // 2)}"
        ) from error


def _part(plan: Plan, batch: Batch, result: ChainResult) -> Part:
    codes = np.asarray(result.state.position)
    no_acceptance = plan.settings.method == "map"
    traces = result.traces
    if no_acceptance:  # MAP accepts nothing: a rate of 1 would say otherwise
        traces = traces.without_acceptance()
    acceptance = np.asarray(result.acceptance_rate, np.float32)
    if no_acceptance or result.step <= result.warmup_steps:
        acceptance = np.full_like(acceptance, np.nan)
    replicas = result.state.replicas
    return Part(
        groups=np.array(batch, np.int64),
        codes=codes,
        images=draw(plan.bundle, codes, plan.groups[batch[0]].size),
        log_likelihood=np.asarray(result.state.log_likelihood),
        log_density=np.asarray(result.state.log_density),
        acceptance=acceptance,
        step_size=np.asarray(result.step_size),
        traces=traces,
        step=result.step,
        num_steps=result.num_steps,
        warmup_steps=result.warmup_steps,
        gradient_evaluations=result.gradient_evaluations,
        interrupted=result.interrupted,
        faults=np.asarray(result.state.faults),
        exchanges_offered=None if replicas is None else np.asarray(replicas.offered),
        exchanges_accepted=None if replicas is None else np.asarray(replicas.accepted),
        arrivals=None if replicas is None else np.asarray(replicas.arrivals),
    )


def draw(bundle: Bundle, codes: np.ndarray, size: int = 32) -> np.ndarray:
    """Pictures (n, S, S, 3) uint8 of codes (n, code), ``size`` of them at a time, the last ones
    filled up: a picture's bits depend on no other batch."""
    decode, params = decoder(bundle), bundle.generator.params
    parts = []
    for start in range(0, len(codes), size):
        part = codes[start : start + size]
        filled = np.zeros((size, codes.shape[1]), np.float32)
        filled[: len(part)] = part
        parts.append(to_uint8(decode(params, jnp.asarray(filled)))[: len(part)])
    return np.concatenate(parts)
