"""Everything that decides what a sampling run computes, as one frozen record.

The command line and :func:`gradgen.runs.sample.sample` make it once; it goes into ``run.json`` and
into every picture's recipe as it is, and comes back from there. A new setting is one more field:
:mod:`gradgen.inference.settings` says what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from gradgen.errors import UsageError
from gradgen.evidence.expression import Expression
from gradgen.inference.settings import (
    CHAINS,
    CLIPPING,
    METHODS,
    TARGET,
    SamplerSettings,
    listed,
    setting,
    settings_of,
)

CLIP_SCOPES = ("class", "all")
# Draws of the prior, of which a chain's start is one. With 64, chains of ten64's classes begin with
# p(class) 0.94 in the mean, as exact draws of the posterior have it; with 16 it is 0.77, with one
# 0.10. They cost as much as 30 gradients (gradgen/inference/README.md).
START_CANDIDATES = 64
# Settings of evidence other than classes, which a record leaves out at their defaults.
OTHER_EVIDENCE = (
    *("match", "noise", "mask", "downscaled", "start"),
    *("unit", "unit_value", "unit_noise", "realism"),
)
PRECISIONS = ("float32", "bfloat16")
DGN_AM_ITERATIONS = 200  # Nguyen et al. 2016, their published settings

MAX_CHAINS = 1_000_000

# Xu, Acuna & Duvenaud's settings: 6000 gradients, β = 1, and schedules that decay, with γ = 0.55
# for MALA's noise (Neelakantan et al. 2015) and for the steps; HMC's step and length stay. They
# name no first step, so that the warm-up finds one. A preset fills in what is not given.
PAPER_DECAY = {"step_decay": 0.55, "step_decay_offset": 1.0}
PAPER_MALA = {"method": "mala", **PAPER_DECAY, "noise_decay": 0.55}
PAPER_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper-map": {"method": "map", "clip_mode": "project", **PAPER_DECAY},
    "paper-mala": {**PAPER_MALA, "clip_mode": "none"},
    "paper-mala-clip": {**PAPER_MALA, "clip_mode": "project"},
    "paper-hmc": {"method": "hmc", "num_integration_steps": 10, "clip_mode": "none"},
}
PAPER_REST = {"budget": 6000, "likelihood_weight": 1.0, "start_candidates": 1}


@dataclass(frozen=True, kw_only=True)
class SampleSettings(SamplerSettings):
    """What to sample and how. ``None`` always means "choose", and the run's record says what."""

    classes: tuple[str, ...] = setting(
        help="Name, words of a name, synset id or index; several give a grid row each. Composed: "
        "'beacon & !pier', 'goldfish | lemon', 'beacon:2 & pizza'.",
        panel=TARGET, flags=("--class", "-c"), default_text="none; a new run needs a class",
    )  # fmt: skip
    bundle: str | None = setting(
        None, help="Networks: a name, a folder, or FILE.py[:FUNCTION], which is run.",
        panel=TARGET, default_text="ten64 for its ten classes, else tiny64",
    )  # fmt: skip
    # its encoder and its bounds come with it (gradgen.networks.load.load_bundle)
    generator: str | None = setting(
        None, help="Another generator and its codes: deepsim-fc6, -fc7, -pool5, or a bundle's.",
        panel=TARGET, default_text="the bundle's own",
    )  # fmt: skip
    classifier: str | None = setting(
        None, help="Another classifier: lite0, lite1, or a bundle's.", panel=TARGET,
        default_text="the bundle's own; lite0 for a class that only lite0 knows",
    )  # fmt: skip
    match: str | None = setting(
        None, help="A photograph whose pixels the pictures are to match, up to noise.",
        panel=TARGET, default_text="none",
    )  # fmt: skip
    noise: float | None = setting(
        None, help="Standard deviation of the photograph's pixels; 1 is from black to white.",
        panel=TARGET, above=0, default_text="none; --match needs it",
    )  # fmt: skip
    mask: str | None = setting(
        None, help="A picture of the photograph's size, white where that is unknown.",
        panel=TARGET, default_text="none",
    )  # fmt: skip
    downscaled: int | None = setting(
        None, help="The photograph shows the picture this many times smaller.", panel=TARGET,
        least=2, most=1024, default_text="1",
    )  # fmt: skip
    unit: str | None = setting(
        None, help="A hidden unit that is to be high: conv4:17; 'gradgen units' lists them.",
        panel=TARGET, default_text="none",
    )  # fmt: skip
    unit_value: float | None = setting(
        None, help="The activation that is wanted of it.", panel=TARGET,
        default_text="exceeded by 1 % of the prior's pictures",
    )  # fmt: skip
    unit_noise: float | None = setting(
        None, help="Standard deviation around it.", panel=TARGET, above=0,
        default_text="a quarter of that over the prior's pictures",
    )  # fmt: skip
    start: str | None = setting(
        None, help="A photograph: chain 0 starts at its code, the others near it.", panel=TARGET,
        default_text="draws from the prior",
    )  # fmt: skip
    start_candidates: int | None = setting(
        None, help="Each chain starts at one of so many draws from the prior, chosen by its "
        "likelihood; 1 is the paper's. Each costs a forward pass, which the budget does not count.",
        panel=TARGET, least=1, most=2**31 - 1, methods=METHODS,
        default_text=f"{START_CANDIDATES}; 1 for presets and --start",
    )  # fmt: skip
    likelihood_weight: float | None = setting(
        None, help="β in p(class|image)^β p(z); 1 is the posterior.", panel=TARGET, least=0,
        default_text="the bundle's recommendation",
    )  # fmt: skip
    realism: float = setting(
        0.0, help="γ in p(z)·exp(γ d): d, the log-odds of the bundle's discriminator, says how "
        "real a picture looks. Its score is no independent judge of such pictures.",
        panel=TARGET, least=0,
    )  # fmt: skip
    clip_sigmas: float | None = setting(
        None, help="Box: mean ± this many standard deviations.", panel=CLIPPING, above=0,
        default_text="3, or the file's",
    )  # fmt: skip
    clip_scope: str | None = setting(
        None, help="Statistics of the class, or of all the data.", panel=CLIPPING,
        choices=CLIP_SCOPES, default_text="class, where they exist",
    )  # fmt: skip
    statistics: str | None = setting(
        None, help="File of gradgen stats, or DGN-AM's bounds.", panel=CLIPPING,
        flags=("--stats",), default_text="the bundle's own statistics",
    )  # fmt: skip
    num_chains: int = setting(
        16, help="Chains a class.", panel=CHAINS, flags=("-n",), least=1, most=MAX_CHAINS
    )
    # with it, a chain's bits depend neither on the devices nor on what runs beside it
    chain_group: int | None = setting(
        None,
        help="Chains computed as one, on one device; the last bits of a result depend on it.",
        panel=CHAINS, least=1, default_text="16 on CPUs; on GPUs a class's, shared by the devices",
    )  # fmt: skip
    chain_batch: int | None = setting(
        None, help="Most chains at once, over all devices.", panel=CHAINS, least=1,
        default_text="on CPUs a class's; on GPUs what their memory holds",
    )  # fmt: skip
    # log densities, and so the accept step, stay float32
    gradient_precision: str = setting(
        "float32", help="float32, or bf16: of gradients alone, so that accept steps stay exact.",
        panel=CHAINS, choices=PRECISIONS, aliases={"bf16": "bfloat16"},
    )  # fmt: skip
    seed: int = setting(
        0, help="Of all randomness.", panel=CHAINS, flags=("-s",), least=0, most=2**32 - 1
    )

    def to_json(self) -> dict[str, Any]:
        """As :meth:`Settings.to_json`, without other evidence than classes where there is none."""
        known = settings_of(type(self))
        return {
            name: value
            for name, value in super().to_json().items()
            if name not in OTHER_EVIDENCE or value != known[name].default
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "the record") -> Self:
        """As :meth:`Settings.from_json`. Chains of records without ``start_candidates`` began at
        draws from the prior."""
        return super().from_json({"start_candidates": 1, **values}, source)

    def _check(self) -> None:
        super()._check()
        if self.start is not None and (self.start_candidates or 1) > 1:
            raise UsageError("`start` and `start_candidates` both say where chains start; drop one")
        if not self.classes and self.match is None and self.unit is None:
            raise UsageError("no class given; 'gradgen classes' lists them")
        if self.match is not None and self.noise is None:
            raise UsageError("`match` needs `noise`: by how much pixels may differ, such as 0.1")
        for name in ("noise", "mask", "downscaled"):
            if self.match is None and getattr(self, name) is not None:
                raise UsageError(f"`{name}` is of a photograph; add `match`, or drop it")
        for name in ("unit_value", "unit_noise"):
            if self.unit is None and getattr(self, name) is not None:
                raise UsageError(f"`{name}` is of a hidden unit; add `unit`, or drop it")
        if self.unit is not None and self.classes and self.preset is not None:
            raise UsageError(f"`preset={self.preset}` climbs a class or a unit; drop either")
        if self.match is not None and self.preset is not None:
            raise UsageError(
                f"`preset={self.preset}` climbs a class's logit; drop it, or drop `match`"
            )
        if self.realism and self.preset is not None:
            raise UsageError(
                f"`preset={self.preset}` climbs a logit, not a density; drop it, or drop `realism`"
            )
        repeated = {name for name in self.classes if self.classes.count(name) > 1}
        if repeated:
            raise UsageError(f"class {min(repeated)} is given twice; more pictures: `num_chains`")
        if self.preset is not None and self.gradient_precision != "float32":
            raise UsageError(
                f"`preset={self.preset}` is defined by float32 gradients; drop `gradient_precision`"
            )
        if self.until_r_hat is not None and 1 in (self.num_chains, self.chain_group):
            raise UsageError(
                "`until_r_hat` compares the chains of a group; give it `num_chains` and "
                "`chain_group` of at least 2"
            )
        if self.statistics is not None and self.clip_scope is not None:
            raise UsageError(
                "`clip_scope` chooses among the bundle's statistics; drop it or `statistics`"
            )


def make_settings(
    options: Mapping[str, Any],
    clip: bool | None = None,
    base: SampleSettings | None = None,
    kind: type[SampleSettings] = SampleSettings,
) -> SampleSettings:
    """Settings from the options that were given, with the defaults that depend on others.

    MAP clips unless told otherwise, since Algorithm 1 does (z ← clip(z + α∇)); MALA and HMC do
    not, since projecting would change what they sample from. An option about clipping
    (``clip_mode``, ``clip_sigmas``, ``clip_scope``, ``statistics``) turns clipping on.

    Args:
        options: fields of :class:`SampleSettings`; only those that were given. ``None`` counts as
            given only over a ``base``.
        clip: on, off, or ``None`` for the method's own habit.
        base: settings that the options change; ``None``: the defaults.
        kind: the class of the settings that are made.

    Raises:
        UsageError: an unknown option, contradicting options, one that does nothing for the
            method, or a number that makes no sense.
    """
    known = settings_of(kind)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"unknown option {', '.join(unknown)} of sample")
    given = {
        name: known[name].aliases.get(value, value) if isinstance(value, str) else value
        for name, value in options.items()
    }
    if isinstance(given.get("classes"), str | int | Expression):
        given["classes"] = (given["classes"],)
    if "classes" in given:
        given["classes"] = tuple(str(name) for name in given["classes"])
    if given.get("preset") in PAPER_PRESETS:
        given = _with_paper_preset(given, clip)
    if base is None and given.get("preset") is not None:
        given.setdefault("method", "map")
        given.setdefault("budget", DGN_AM_ITERATIONS)
    _turn_clipping(given, clip, base)
    if base is not None:
        return replace(base, **given)
    if given.get("match") is not None or given.get("unit") is not None:
        given.setdefault("classes", ())
    if "classes" not in given:
        raise UsageError("no class given; 'gradgen classes' lists them")
    if given.get("trajectory_length") and given.get("num_integration_steps"):
        raise UsageError(
            "`trajectory_length` and `num_integration_steps` both say how far HMC goes; drop one"
        )
    made = kind(**given)
    _refuse_idle(made, given)
    return made


def _with_paper_preset(given: dict[str, Any], clip: bool | None) -> dict[str, Any]:
    """What was given, and what the preset that it names says of the rest.

    The settings that come out say it all; the preset's name is not among them.
    """
    name = given["preset"]
    preset = {**PAPER_REST, **PAPER_PRESETS[name]}
    if given.get("method") not in (None, preset["method"]):
        raise UsageError(
            f"`preset={name}` is a form of {preset['method']}, not of {given['method']}; drop "
            "`preset` or `method`"
        )
    if clip is not None:
        del preset["clip_mode"]
    if "trajectory_length" in given:
        preset.pop("num_integration_steps", None)
    return {**preset, **{key: value for key, value in given.items() if key != "preset"}}


def _turn_clipping(given: dict[str, Any], clip: bool | None, base: SampleSettings | None) -> None:
    """Put the clip mode that ``clip`` and the options about clipping ask for into ``given``."""
    about_clipping = [
        name
        for name in ("clip_mode", "clip_sigmas", "clip_scope", "statistics")
        if given.get(name) is not None and given[name] != "none"
    ]
    if clip is False and about_clipping:
        raise UsageError(f"`{about_clipping[0]}` contradicts `clip=False`; drop one")
    if clip is True and given.get("clip_mode") == "none":
        raise UsageError("`clip=True` contradicts `clip_mode=none`; drop one")
    if clip is False:
        given["clip_mode"] = "none"
    elif "clip_mode" not in given:
        habit = base is None and given.get("method", "hmc") == "map"
        if clip or about_clipping or habit:
            already = base.clip_mode if base is not None else "none"
            given["clip_mode"] = already if already != "none" else "project"


def _refuse_idle(made: SampleSettings, given: Mapping[str, Any]) -> None:
    """Raise UsageError for a setting that was given and that the method does not look at."""
    rule = made.preset or made.method
    for name, known in settings_of(type(made)).items():
        if given.get(name) is not None and known.methods and rule not in known.methods:
            raise UsageError(
                f"`{name}` does nothing for {rule}; it belongs to {listed(known.methods)}"
            )
    if made.method == "map" and given.get("clip_mode") == "reject":
        raise UsageError(
            "`clip_mode=reject` does nothing for map, which accepts every step; it belongs to "
            "mala and hmc"
        )
