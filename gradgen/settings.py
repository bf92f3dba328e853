"""Everything that decides what a sampling run computes, as one frozen record.

The command line and :func:`gradgen.sampling.sample` make it once; it goes into ``run.json`` and
into every picture's recipe as it is, and comes back from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gradgen.errors import UsageError

METHODS = ("map", "mala", "hmc")
PRESETS = ("dgn-am",)
CLIP_MODES = ("none", "project", "reject")
CLIP_SCOPES = ("class", "all")
PRECISIONS = ("float32", "bfloat16")
DGN_AM_ITERATIONS = 200  # Nguyen et al. 2016, their published settings

MAX_CHAINS = 1_000_000


@dataclass(frozen=True)
class SampleSettings:
    """What to sample and how. ``None`` always means "choose", and the run's record says what.

    Attributes:
        classes: names, synset ids or indices; each gives one row of the grid.
        bundle: name or folder of the networks.
        generator: another one than the bundle's own, with its encoder and bounds: a name or folder
            (:func:`gradgen.bundle.load_bundle`).
        classifier: name of another classifier than the bundle's own; ``None``: the bundle's own,
            or lite0 for a class that only lite0 knows.
        method: ``map``, ``mala`` or ``hmc``.
        preset: ``dgn-am``, the published rule of DGN-AM (method ``map``).
        likelihood_weight: β in p(class | g(z))^β p(z); ``None``: what the bundle's card recommends.
        budget: gradient evaluations a chain, warm-up included.
        num_chains: chains a class.
        chain_group: chains that are computed as one (:mod:`gradgen.inference.layout`): with it, a
            chain's bits depend neither on the devices nor on what runs beside it. ``None``: 16 on a
            CPU; on accelerators a class's chains, shared by the devices.
        chain_batch: most chains at once, over all devices; ``None``: on a CPU about a class, on
            accelerators what their memory holds.
        gradient_precision: ``float32``, or ``bfloat16`` for gradients alone: log densities, and so
            the accept step, stay float32.
        seed: of all randomness.
        step_size: α (MAP, MALA) or the leapfrog's ε; ``None``: found in a warm-up.
        step_decay, step_decay_offset: γ and b of the schedule a((b+t)/b)^-γ, Teh et al.'s a(b+t)^-γ
            scaled so that step_size is the first step after the warm-up.
        noise_scale, noise_decay: η and γ of the annealed noise η/(1+t)^γ (MALA).
        num_integration_steps: leapfrog steps a HMC iteration.
        step_jitter: relative; each HMC iteration's step size is uniform within ± this much.
        clip_mode: ``none``; ``project``, the papers' heuristic, which does not leave the target
            invariant; ``reject``, exact on the target truncated to the box.
        clip_sigmas: half width of the box in standard deviations; ``None``: 3, or the file's.
        clip_scope: statistics of the ``class`` or of the whole data set, ``all``; ``None``: of the
            class where the bundle has them.
        statistics: a file of ``gradgen stats``, or DGN-AM's text bounds, instead of the bundle's
            own table.
        target_acceptance: of the warm-up; ``None``: 0.574 for MALA, 0.8 for HMC.
        warmup_fraction: share of the budget.
        block_size: steps between two looks at the chains; ``None``: from the budget.
        trace_length: most points kept of a chain's trace.
    """

    classes: tuple[str, ...]
    bundle: str = "tiny64"
    generator: str | None = None
    classifier: str | None = None
    method: str = "hmc"
    preset: str | None = None
    likelihood_weight: float | None = None
    budget: int = 6000
    num_chains: int = 16
    chain_group: int | None = None
    chain_batch: int | None = None
    gradient_precision: str = "float32"
    seed: int = 0
    step_size: float | None = None
    step_decay: float = 0.0
    step_decay_offset: float = 1.0
    noise_scale: float = 1.0
    noise_decay: float = 0.0
    num_integration_steps: int = 10
    step_jitter: float = 0.0
    clip_mode: str = "none"
    clip_sigmas: float | None = None
    clip_scope: str | None = None
    statistics: str | None = None
    target_acceptance: float | None = None
    warmup_fraction: float = 0.15
    block_size: int | None = None
    trace_length: int = 1000

    def __post_init__(self) -> None:
        _validate(self)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON's types; :meth:`from_json` is the inverse."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "classes": list(self.classes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "the record") -> SampleSettings:
        """Read :meth:`to_json`'s output.

        Raises:
            UsageError: a setting that this version does not know, or a value that makes no sense.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(
                f"{source} has settings that this version of gradgen does not know: "
                f"{', '.join(unknown)}; it was made by a newer one"
            )
        if not isinstance(values.get("classes"), list | tuple):
            raise UsageError(f"{source} names no classes")
        try:
            return cls(**{**values, "classes": tuple(values["classes"])})
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None

    def differences(self, other: SampleSettings) -> list[str]:
        """For each setting in which two records differ, one text ``name: own, not other``."""
        return [
            f"{field.name}: {_shown(getattr(self, field.name))}, "
            f"not {_shown(getattr(other, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def make_settings(
    options: Mapping[str, Any], clip: bool | None = None, base: SampleSettings | None = None
) -> SampleSettings:
    """Settings from the options that were given, with the defaults that depend on others.

    MAP clips unless told otherwise, since Algorithm 1 does (z ← clip(z + α∇)); MALA and HMC do
    not, since projecting would change what they sample from. An option about clipping
    (``clip_mode``, ``clip_sigmas``, ``clip_scope``, ``statistics``) turns clipping on.

    Args:
        options: fields of :class:`SampleSettings`; only those that were given.
        clip: on, off, or ``None`` for the method's own habit.
        base: settings that the options change; ``None``: the defaults.

    Raises:
        UsageError: an unknown option, contradicting options, or a number that makes no sense.
    """
    given = dict(options)
    unknown = sorted(set(given) - {field.name for field in fields(SampleSettings)})
    if unknown:
        raise UsageError(f"unknown option {', '.join(unknown)} of sample")
    if isinstance(given.get("classes"), str | int):
        given["classes"] = (given["classes"],)
    if "classes" in given:
        given["classes"] = tuple(str(name) for name in given["classes"])
    if given.get("step_size") == "auto":
        given["step_size"] = None
    if base is None and given.get("preset") is not None:
        if given.setdefault("method", "map") != "map":
            raise UsageError(f"preset {given['preset']} is a form of MAP; drop method")
        given.setdefault("budget", DGN_AM_ITERATIONS)
    about_clipping = [
        name
        for name in ("clip_mode", "clip_sigmas", "clip_scope", "statistics")
        if given.get(name) is not None and given[name] != "none"
    ]
    if clip is False and about_clipping:
        raise UsageError(f"{about_clipping[0].replace('_', '-')} contradicts no-clip; drop one")
    if clip is True and given.get("clip_mode") == "none":
        raise UsageError("clip contradicts clip-mode none; drop one")
    if clip is False:
        given["clip_mode"] = "none"
    elif "clip_mode" not in given:
        habit = base is None and given.get("method", "hmc") == "map"
        if clip or about_clipping or habit:
            already = base.clip_mode if base is not None else "none"
            given["clip_mode"] = already if already != "none" else "project"
    if base is not None:
        return replace(base, **given)
    if "classes" not in given:
        raise UsageError("no class given; 'gradgen classes' lists them")
    return SampleSettings(**given)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return "auto" if value is None else str(value)


def _validate(s: SampleSettings) -> None:
    """Raise UsageError, one clear line, for the first setting that makes no sense."""
    if not s.classes:
        raise UsageError("no class given; 'gradgen classes' lists them")
    repeated = {name for name in s.classes if s.classes.count(name) > 1}
    if repeated:
        raise UsageError(f"class {min(repeated)} is given twice; more pictures: num-chains")
    _one_of("method", s.method, METHODS)
    if s.preset is not None:
        _one_of("preset", s.preset, PRESETS)
        if s.method != "map":
            raise UsageError(f"preset {s.preset} is a form of MAP, not of {s.method}")
    _one_of("clip-mode", s.clip_mode, CLIP_MODES)
    _one_of("gradient-precision", s.gradient_precision, PRECISIONS)
    if s.preset is not None and s.gradient_precision != "float32":
        raise UsageError("preset dgn-am is defined by float32 gradients; drop gradient-precision")
    if s.clip_scope is not None:
        _one_of("clip-scope", s.clip_scope, CLIP_SCOPES)
    _whole("budget", s.budget, 1)
    _whole("num-chains", s.num_chains, 1, MAX_CHAINS)
    _whole("seed", s.seed, 0, 2**32 - 1)
    _whole("num-integration-steps", s.num_integration_steps, 1)
    _whole("trace-length", s.trace_length, 2)
    optional = {
        "chain-group": s.chain_group,
        "chain-batch": s.chain_batch,
        "block-size": s.block_size,
    }
    for name, number in optional.items():
        if number is not None:
            _whole(name, number, 1)
    if s.method == "hmc" and s.budget < s.num_integration_steps:
        raise UsageError(
            f"budget {s.budget} is less than one HMC iteration of {s.num_integration_steps} "
            "leapfrog steps; raise budget or lower num-integration-steps"
        )
    _number("step-size", s.step_size, above=0)
    _number("step-decay", s.step_decay, least=0)
    _number("step-decay-offset", s.step_decay_offset, above=0)
    _number("noise-scale", s.noise_scale, above=0)
    _number("noise-decay", s.noise_decay, least=0)
    _number("step-jitter", s.step_jitter, least=0, below=1)
    _number("clip-sigmas", s.clip_sigmas, above=0)
    if s.statistics is not None and s.clip_scope is not None:
        raise UsageError("clip-scope chooses among the bundle's statistics; drop it or stats")
    _number("likelihood-weight", s.likelihood_weight, least=0)
    _number("target-acceptance", s.target_acceptance, above=0, below=1)
    _number("warmup-fraction", s.warmup_fraction, above=0, below=1)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r}: choose one of {', '.join(choices)}")


def _whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name} {value}: must be a whole number {span}")


def _number(
    name: str,
    value: Any,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """``None`` passes: it means "choose"."""
    if value is None:
        return
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or value < least or value <= above or value >= below:
        limits = [
            f"at least {least:g}" if least > -math.inf else "",
            f"above {above:g}" if above > -math.inf else "",
            f"below {below:g}" if below < math.inf else "",
        ]
        span = " and ".join(limit for limit in limits if limit)
        raise UsageError(f"{name} {value}: must be a number {span}")
