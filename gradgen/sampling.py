"""From a class to pictures: keys and targets in; codes, pictures, traces and a record out.

The Python interface is :func:`sample`. ``gradgen.run`` takes the same steps one by one
(:func:`gradgen.plan.prepare`, :func:`run_sampling`) and keeps a run's folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.bundle import load_bundle
from gradgen.errors import GradgenError, UsageError
from gradgen.images import to_uint8
from gradgen.inference import ChainState, Evaluation, SamplerSettings, run_chains
from gradgen.inference.chain import BlockProgress, ChainResult
from gradgen.networks import Bundle, Classifier
from gradgen.plan import Batch, ClassJob, Plan, prepare
from gradgen.record import Part, collect
from gradgen.samples import Samples
from gradgen.settings import SampleSettings, make_settings
from gradgen.target import make_target

# A chain's start is drawn from its key folded with this, its steps from the key folded with the
# step's number, which stays far below.
START_KEY = 2**32 - 1


@dataclass(frozen=True, eq=False)
class SampleProgress:
    """What ``on_block`` is told after each block of steps.

    Attributes:
        job: the class whose chains run.
        batch_number: index of the batch among the plan's.
        step, num_steps: of these chains; an HMC iteration is one.
        gradient_evaluations, total_gradient_evaluations: of all batches one after another; with
            a single batch: a chain's.
        acceptance_rate, log_likelihood, step_size: means over the chains.
        warming_up: whether the step size is being adapted.
        state, traces: for a checkpoint.
    """

    job: ClassJob
    batch_number: int
    step: int
    num_steps: int
    gradient_evaluations: int
    total_gradient_evaluations: int
    acceptance_rate: float
    log_likelihood: float
    step_size: float
    warming_up: bool
    state: ChainState
    traces: dict[str, np.ndarray]


OnBlock = Callable[[SampleProgress], None]


def sample(
    bundle: Bundle | str | Path,
    class_name: str | int | list[str] | tuple[str, ...],
    method: str = "hmc",
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
        bundle: from :func:`gradgen.load_bundle`, or its name or folder.
        class_name: a name, synset id, index or part of a name; or several.
        method: ``hmc``, ``mala`` or ``map``.
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
        options: other fields of :class:`gradgen.settings.SampleSettings`, such as ``budget``,
            ``step_size``, ``num_integration_steps``, ``chain_batch``, ``clip_mode``.

    Raises:
        UsageError: a class, a name or a number that makes no sense.
        GradgenError: weights that are missing or broken.
    """
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    given = {
        **options,
        "bundle": loaded.name if isinstance(bundle, Bundle) else str(bundle),
        "classes": class_name,
        "method": method,
        "num_chains": num_chains,
        "seed": seed,
        "likelihood_weight": likelihood_weight,
        "classifier": classifier.name if isinstance(classifier, Classifier) else classifier,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("preset") is not None and method == "hmc":
        del given["method"]  # the default stands for "not said"
    return run_sampling(prepare(make_settings(given, clip), loaded), on_block=on_block)


def run_sampling(
    plan: Plan,
    parts: Mapping[int, Part] | None = None,
    checkpoint: tuple[ChainState, dict[str, np.ndarray]] | None = None,
    on_block: OnBlock | None = None,
    on_part: Callable[[int, Part], None] | None = None,
    seconds_before: float = 0.0,
) -> Samples:
    """Run a plan's batches one after another, or what is left of them.

    Args:
        plan: what to run.
        parts: by batch number, those that are finished already.
        checkpoint: state and traces of the first unfinished batch.
        on_block: see :func:`sample`.
        on_part: called with each batch that is finished.
        seconds_before: wall time of the run's earlier sessions.
    """
    begun = time.monotonic()
    done = dict(parts or {})
    interrupted = False
    for index, batch in enumerate(plan.batches):
        if index in done:
            continue
        result = _run_batch(plan, index, checkpoint, on_block)
        checkpoint = None
        done[index] = _part(plan, batch, result)
        if result.interrupted:
            interrupted = True
            break
        if on_part:
            on_part(index, done[index])
    seconds = seconds_before + time.monotonic() - begun
    return collect(plan, done, "interrupted" if interrupted else "finished", seconds)


def sampler_settings(settings: SampleSettings) -> SamplerSettings:
    """The part of the settings that the chains know."""
    names = set(SamplerSettings.__dataclass_fields__) & set(vars(settings))
    made = SamplerSettings(**{name: getattr(settings, name) for name in names})
    try:
        return made.validate()
    except ValueError as error:
        raise UsageError(str(error)) from error


def chain_keys(seed: int, class_index: int, start: int, size: int) -> Array:
    """(size,) typed keys of the chains start … start + size - 1 of a class."""
    key = jax.random.fold_in(jax.random.key(seed), class_index)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(start, start + size))


def starting_codes(keys: Array, code_size: int) -> Array:
    """(chains, code) draws from the prior N(0, I), each from its chain's key."""
    return jax.vmap(
        lambda key: jax.random.normal(jax.random.fold_in(key, START_KEY), (code_size,))
    )(keys)


@cache
def _value_and_grad(
    bundle: Bundle, classifier: Classifier, preset: str | None
) -> Callable[[Any, Array], Evaluation]:
    """The target as the chains want it. One object for the same networks: compiled only once."""
    target = make_target(bundle, classifier)
    function = target.dgn_am_value_and_grad if preset == "dgn-am" else target.value_and_grad

    def value_and_grad(params: Any, z: Array) -> Evaluation:
        return function(params["target"], params["class_index"], z)

    return value_and_grad


@cache
def decoder(bundle: Bundle) -> Callable[[Any, Array], Array]:
    """jit(generator), the same object for the same bundle."""
    return jax.jit(bundle.generator.apply)


def _run_batch(
    plan: Plan,
    index: int,
    checkpoint: tuple[ChainState, dict[str, np.ndarray]] | None,
    on_block: OnBlock | None,
) -> ChainResult:
    batch, settings = plan.batches[index], plan.settings
    job = plan.jobs[batch.class_position]
    sampler = sampler_settings(settings)
    target = make_target(plan.bundle, job.classifier, job.likelihood_weight)
    keys = chain_keys(settings.seed, job.label.index, batch.start, batch.size)
    each = 1 + sampler.num_steps * sampler.gradients_per_step

    def report(block: BlockProgress) -> None:
        if on_block:
            on_block(
                SampleProgress(
                    job=job,
                    batch_number=index,
                    step=block.step,
                    num_steps=block.num_steps,
                    gradient_evaluations=index * each + block.gradient_evaluations,
                    total_gradient_evaluations=len(plan.batches) * each,
                    acceptance_rate=block.acceptance_rate,
                    log_likelihood=block.log_likelihood,
                    step_size=block.step_size,
                    warming_up=block.warming_up,
                    state=block.state,
                    traces=block.traces,
                )
            )

    state, traces = checkpoint or (None, None)
    bounds = (
        None if job.bounds is None else (jnp.asarray(job.bounds[0]), jnp.asarray(job.bounds[1]))
    )
    try:
        return run_chains(
            keys,
            starting_codes(keys, plan.bundle.code_size),
            _value_and_grad(plan.bundle, job.classifier, settings.preset),
            {"target": target.params, "class_index": jnp.int32(job.label.index)},
            sampler,
            bounds=bounds,
            state=state,
            traces=traces,
            on_block=report,
            stop_at=plan.stop_at,
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise GradgenError(
            f"{batch.size} chains at once do not fit into the memory of {jax.devices()[0]}; "
            f"set chain-batch to a smaller number, such as {max(1, batch.size // 2)}"
        ) from error


def _part(plan: Plan, batch: Batch, result: ChainResult) -> Part:
    codes = result.state.position
    pictures = decoder(plan.bundle)(plan.bundle.generator.params, codes)
    no_acceptance = plan.settings.method == "map"
    traces = dict(result.traces)
    if no_acceptance:  # MAP accepts nothing: a rate of 1 would say otherwise
        traces["acceptance"] = np.full_like(traces["acceptance"], np.nan)
    acceptance = np.asarray(result.acceptance_rate, np.float32)
    if no_acceptance or result.step <= result.warmup_steps:
        acceptance = np.full_like(acceptance, np.nan)
    return Part(
        codes=np.asarray(codes),
        images=to_uint8(pictures),
        log_likelihood=np.asarray(result.state.log_likelihood),
        log_density=np.asarray(result.state.log_density),
        acceptance=acceptance,
        step_size=np.asarray(result.step_size),
        traces=traces,
        step=result.step,
        num_steps=result.num_steps,
        warmup_steps=result.warmup_steps,
        gradient_evaluations=result.gradient_evaluations,
    )
