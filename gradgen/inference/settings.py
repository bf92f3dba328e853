"""Settings: each is defined in one place; and those that say how chains run.

A setting is a field of a frozen dataclass made by :func:`setting`: its name, type, default, range
and help stand together there. From the fields come the checks, the JSON of a record
(:class:`Settings`) and the options of the command line (:mod:`gradgen.cli.options`).

Nothing here imports JAX, since the command line reads it for its help.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Any, Self, get_args, get_origin, get_type_hints

from gradgen.errors import UsageError

METHODS = ("map", "mala", "hmc")
# dgn-am is a rule of its own; the others name settings (gradgen.runs.settings.PAPER_PRESETS)
PRESETS = ("dgn-am", "paper-map", "paper-mala", "paper-mala-clip", "paper-hmc")
CLIP_MODES = ("none", "project", "reject")
# Roberts & Rosenthal 1998 for MALA; Betancourt et al. 2014 for HMC
TARGET_ACCEPTANCE = {"mala": 0.574, "hmc": 0.8}
MAX_STEPS = 2**31 - 1  # they are counted in 32 bits
MAX_TRACE_LENGTH = 1_000_000  # points; a chain's take 36 bytes each
# The mean over a trajectory's points. At its end, on tiny64's posterior, 0.1 less is accepted.
TRAJECTORY_ACCEPTANCE = 0.75
LEAST_WARMUP = 5  # steps, or half of them where there are fewer than ten
# Leapfrog steps of a trajectory while the step size is far from right. A search learns from the
# ends of trajectories alone, so that short ones teach it more for as many gradients.
WARMUP_LEAPFROGS = 10
# A direction of unit scale, as the prior's are, has no correlation left after a quarter of its
# period; gradgen/inference/README.md has what was measured.
TRAJECTORY_LENGTH = 1.57
# Of replicas; gradgen/inference/README.md has what was measured.
REPLICA_RATIO, MAX_REPLICAS = 0.5, 64
MAP_STEP_SIZE = 0.02  # tiny64 settles in 200 steps; at 0.05 long runs jump out of their maximum
BLOCK_GRADIENTS = 50  # gradient evaluations, about, between two looks at the chains

# Panels of the help, in its order.
TARGET, STEPS, CLIPPING, CHAINS = "Target", "Steps", "Clipping", "Chains"


@dataclass(frozen=True)
class Setting:
    """What is known of a setting.

    Attributes:
        name: of the field and of the argument from Python.
        kind: ``int``, ``float``, ``str``, or ``tuple`` for several texts.
        optional: whether ``None``, which means "choose", is a value.
        default: its value if it is not given.
        help: for people.
        panel: under which heading the help shows it.
        flags: of the command line; the first is the long one.
        default_text: what the help says of the default, where the value does not say it.
        least, most, above, below: the range of a number; ``least`` and ``most`` belong to it.
        choices: the texts that it may be.
        methods: the methods, or presets, that look at it; empty: all of them.
        aliases: other ways of writing a value, such as ``auto`` for ``None``.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    help: str
    panel: str
    flags: tuple[str, ...] = ()
    default_text: str = ""
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    aliases: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self, value: Any) -> None:
        """Raise UsageError, with one clear line, for a value that makes no sense."""
        if value is None and self.optional:
            return
        if self.choices:
            if value not in self.choices:
                raise UsageError(
                    f"`{self.name}` {value!r}: choose one of {', '.join(self.choices)}"
                )
        elif self.kind in (int, float):
            whole = isinstance(value, int) and not isinstance(value, bool)
            number = whole or (self.kind is float and isinstance(value, float))
            finite = number and (self.kind is int or _is_finite(value))
            if not finite or not self._in_range(value):
                raise UsageError(f"`{self.name}` {_shown(value)}: must be {self._range_in_words()}")
        elif self.kind is str and not isinstance(value, str):
            raise UsageError(f"`{self.name}` {_shown(value)}: must be text")
        elif self.kind is tuple and not all(isinstance(part, str) for part in value):
            raise UsageError(f"`{self.name}` {_shown(value)}: must be texts")

    def _in_range(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _range_in_words(self) -> str:
        if self.least is not None and self.most is not None:
            limits = [f"from {self.least} to {self.most}"]
        else:
            limits = [
                f"{words} {limit:g}"
                for words, limit in (
                    ("of at least", self.least),
                    ("of at most", self.most),
                    ("above", self.above),
                    ("below", self.below),
                )
                if limit is not None
            ]
        kind = "a whole number" if self.kind is int else "a number"
        others = "".join(f", or {alias}" for alias in self.aliases)
        return f"{kind} {' and '.join(limits)}".rstrip() + others


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    panel: str,
    flags: tuple[str, ...] = (),
    **details: Any,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: leave it out where a value has to be given.
        flags: of the command line; the long one follows from the name unless it is given.
        details: further attributes of :class:`Setting`.
    """
    return field(
        default=default, metadata={"help": help, "panel": panel, "flags": flags, **details}
    )


def settings_of(kind: type) -> dict[str, Setting]:
    """The settings of a dataclass by name, in its order."""
    return _settings_of(kind)


@cache
def _settings_of(kind: type) -> dict[str, Setting]:
    hints = get_type_hints(kind)
    found = {}
    for item in fields(kind):
        parts = [part for part in get_args(hints[item.name]) if part is not NoneType]
        optional = NoneType in get_args(hints[item.name])
        own = parts[0] if optional else get_origin(hints[item.name]) or hints[item.name]
        details = dict(item.metadata)
        flags = details.pop("flags")
        if not any(flag.startswith("--") for flag in flags):
            flags = (f"--{item.name.replace('_', '-')}", *flags)
        found[item.name] = Setting(
            name=item.name,
            kind=own,
            optional=optional,
            default=item.default,
            flags=flags,
            **details,
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of settings dataclasses: checked when they are made, JSON and back."""

    def __post_init__(self) -> None:
        for name, known in settings_of(type(self)).items():
            known.check(getattr(self, name))
        self._check()

    def _check(self) -> None:
        """Raise UsageError for settings that contradict each other."""

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON's types; :meth:`from_json` is the inverse."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "the record") -> Self:
        """Read :meth:`to_json`'s output; what is missing has its default.

        Raises:
            UsageError: a setting that this version does not know, or a value that makes no sense.
        """
        known = settings_of(cls)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(
                f"{source} has settings that this version of gradgen does not know: "
                f"{_shown(', '.join(unknown))}; it was made by a newer one"
            )
        for name, own in known.items():
            if own.kind is tuple and not isinstance(values.get(name), list | tuple):
                raise UsageError(f"{source} names no {name}")
        given = {
            name: tuple(value) if known[name].kind is tuple else value
            for name, value in values.items()
        }
        try:
            return cls(**given)
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None

    def differences(self, other: Settings) -> list[str]:
        """For each setting in which the two differ, one text ``name: own, not other``."""
        pairs = {
            item.name: (getattr(self, item.name), getattr(other, item.name))
            for item in fields(self)
        }
        return [
            f"`{name}`: {_in_words(own)}, not {_in_words(others)}"
            for name, (own, others) in pairs.items()
            if own != others
        ]


@dataclass(frozen=True, kw_only=True)
class SamplerSettings(Settings):
    """How chains run; the symbols are the paper's. ``None`` always means "choose".

    ``budget`` includes the warm-up; the evaluation at a chain's start comes on top. A step of HMC
    is a leapfrog step of trajectories whose mean length is ``trajectory_length``
    (:mod:`gradgen.inference.trajectories`). With ``num_integration_steps`` it is a whole trajectory
    of so many leapfrog steps, which takes as many gradients of the budget.

    ``step_decay`` and ``step_decay_offset`` are gamma and b of alpha_t = a ((b + t) / b)^-gamma.
    This is Teh et al.'s a(b + t)^-gamma scaled so that a, the ``step_size``, is the first step. t
    counts from the end of the warm-up, and gamma = 0 keeps the step constant, which leaves the
    target invariant for ever. ``noise_scale``, ``noise_decay`` and ``noise_floor`` are eta, gamma
    and the floor of epsilon_t = max(floor, eta / (1 + t)^gamma) (Neelakantan et al. 2015, gamma =
    0.55, no floor). The preset ``dgn-am`` moves the step size linearly from a (8 unless it is
    given) to 1e-10 and multiplies positions by 0.99 after each step; the target must give
    DGN-AM's normalised direction as its gradient. ``block_size`` changes no result.
    """

    method: str = setting(
        "hmc", help="map, mala or hmc.", panel=STEPS, flags=("-m",), choices=METHODS,
        default_text="hmc; a preset's own",
    )  # fmt: skip
    preset: str | None = setting(
        None, help="dgn-am: the published MAP rule, 200 iterations; paper-map, paper-mala, "
        "paper-mala-clip, paper-hmc: the settings of Xu, Acuna and Duvenaud.", panel=STEPS,
        choices=PRESETS, default_text="none",
    )  # fmt: skip
    budget: int = setting(
        6000, help="Gradient evaluations a chain, for every method, warm-up included.",
        panel=STEPS, flags=("-b",), least=1, most=MAX_STEPS, default_text="6000; 200 for dgn-am",
    )  # fmt: skip
    until_r_hat: float | None = setting(
        None,
        help="Stop before the budget ends, once all that is traced has an R̂ below this (1.05, "
        "say) and a bulk ESS above 100.",
        panel=STEPS, above=1, methods=("mala", "hmc"), default_text="none; spend the budget",
    )  # fmt: skip
    step_size: float | None = setting(
        None, help="A number, or auto: found in a warm-up by dual averaging.", panel=STEPS,
        above=0, aliases={"auto": None},
        default_text=f"auto; {MAP_STEP_SIZE:g} for map; 8 for dgn-am",
    )  # fmt: skip
    step_decay: float = setting(
        0.0, help="γ of the step sizes a((b+t)/b)^-γ; 0 keeps them constant.", panel=STEPS,
        least=0, methods=METHODS,
    )  # fmt: skip
    step_decay_offset: float = setting(
        1.0, help="b of the step sizes a((b+t)/b)^-γ.", panel=STEPS, above=0, methods=METHODS
    )
    noise_scale: float = setting(
        1.0, help="η of MALA's noise η/(1+t)^γ.", panel=STEPS, above=0, methods=("mala",)
    )
    noise_decay: float = setting(
        0.0, help="γ of MALA's noise η/(1+t)^γ; 0 keeps it constant, 0.55 anneals it.",
        panel=STEPS, least=0, methods=("mala",),
    )  # fmt: skip
    noise_floor: float = setting(
        0.0, help="Where MALA's noise stops falling; 0.9, say, keeps acceptance up.", panel=STEPS,
        least=0, methods=("mala",),
    )  # fmt: skip
    trajectory_length: float = setting(
        TRAJECTORY_LENGTH,
        help="Mean length of HMC's trajectories, in deviations of the prior; the number of "
        "leapfrog steps follows from the step size.",
        panel=STEPS, above=0, methods=("hmc",),
    )  # fmt: skip
    num_integration_steps: int | None = setting(
        None, help="Leapfrog steps of every HMC iteration, instead of a length.", panel=STEPS,
        flags=("-L",), least=1, methods=("hmc",), default_text="as many as the length needs",
    )  # fmt: skip
    step_jitter: float = setting(
        0.0, help="Relative jitter of HMC's step size, at least 0 and below 1.", panel=STEPS,
        least=0, below=1, methods=("hmc",),
    )  # fmt: skip
    target_acceptance: float | None = setting(
        None, help="Acceptance that the warm-up aims at (MALA, HMC).", panel=STEPS, above=0,
        below=1, methods=("mala", "hmc"),
        default_text=f"{TARGET_ACCEPTANCE['mala']:g} for mala; {TRAJECTORY_ACCEPTANCE:g} for hmc, "
        f"{TARGET_ACCEPTANCE['hmc']:g} with a number of leapfrog steps",
    )  # fmt: skip
    warmup_fraction: float = setting(
        0.15, help="Share of the budget that the warm-up takes (MALA, HMC).", panel=STEPS,
        above=0, below=1, methods=("mala", "hmc"),
    )  # fmt: skip
    warmup_budget: int | None = setting(
        None, help="Budget that the warm-up takes its share of; a run that is extended keeps that "
        "of its beginning (MALA, HMC).",
        panel=STEPS, least=1, methods=("mala", "hmc"), default_text="the budget",
    )  # fmt: skip
    replicas: int = setting(
        1,
        help="Replicas of each chain, at likelihood weights from β down to 0, that change places: "
        "for classes of several looks. Each takes its share of the budget (MALA, HMC).",
        panel=STEPS, flags=("-K",), least=1, most=MAX_REPLICAS, methods=("mala", "hmc"),
    )  # fmt: skip
    replica_ratio: float = setting(
        REPLICA_RATIO,
        help="Likelihood weight of a replica to that of the next higher one; the lowest has 0.",
        panel=STEPS, above=0, below=1, methods=("mala", "hmc"),
    )  # fmt: skip
    clip_mode: str = setting(
        "none",
        help="project: the paper's heuristic, which does not leave the target invariant; reject: "
        "exact on the truncated target (MALA, HMC).",
        panel=CLIPPING, choices=CLIP_MODES, default_text="none; project where codes are clipped",
    )  # fmt: skip
    block_size: int | None = setting(
        None, help="Steps between two checkpoints.", panel=CHAINS, least=1,
        default_text="a few seconds of them",
    )  # fmt: skip
    trace_length: int = setting(
        1000, help="Points of its trace that are kept of a chain, at most.", panel=CHAINS, least=2,
        most=MAX_TRACE_LENGTH,
    )  # fmt: skip

    def _check(self) -> None:
        if self.preset is not None and self.method != "map":
            raise UsageError(
                f"`preset={self.preset}` is a form of map, not of {self.method}; "
                f"drop `preset` or `method`"
            )
        if self.num_steps < 1:
            raise UsageError(
                f"`budget` {self.budget} is less than the {self.gradients_per_step} gradients of "
                "one step; raise `budget`"
                if self.replicas > 1
                else f"`budget` {self.budget} is less than one HMC iteration of "
                f"{self.num_integration_steps} leapfrog steps; raise `budget` or lower "
                "`num_integration_steps`"
            )
        if self.warmup_budget is not None and self.warmup_budget > self.budget:
            raise UsageError(
                f"`warmup_budget` {self.warmup_budget} is more than the `budget` of {self.budget}"
            )
        if self.replicas > 1 and self.method == "map":
            raise UsageError("`replicas` does nothing for map; it belongs to mala and hmc")
        if self.replicas > 1 and self.clip_mode == "project":
            raise UsageError(
                "`replicas` change places exactly, and `clip_mode=project` is not exact; use "
                "`clip_mode=reject`, or drop either"
            )

    @property
    def has_trajectories(self) -> bool:
        """Whether chains move along trajectories of a length, a leapfrog step at a time."""
        return self.method == "hmc" and self.num_integration_steps is None

    @property
    def aimed_acceptance(self) -> float:
        """The acceptance that a warm-up aims at."""
        usual = TARGET_ACCEPTANCE.get(self.method, 0.5)
        return self.target_acceptance or (TRAJECTORY_ACCEPTANCE if self.has_trajectories else usual)

    @property
    def num_rungs(self) -> int:
        """Replicas of a chain that move: all but the lowest, which is drawn anew in every step."""
        return max(1, self.replicas - 1)

    @property
    def gradients_per_step(self) -> int:
        """1, or L for HMC with so many leapfrog steps in every iteration; with replicas, for each
        that moves, and 1 for the draw of the lowest."""
        each = (self.num_integration_steps or 1) if self.method == "hmc" else 1
        return each * self.num_rungs + (self.replicas > 1)

    @property
    def num_steps(self) -> int:
        """Steps that the budget pays for."""
        return self.budget // self.gradients_per_step

    def gradients_after(self, steps: int | None = None) -> int:
        """Gradient evaluations of a chain, those at its start included, after so many steps.

        ``None``: after all; no more than all are counted. Those of all its replicas count.
        """
        done = self.num_steps if steps is None else min(steps, self.num_steps)
        return self.replicas + done * self.gradients_per_step

    @property
    def warmup_steps(self) -> int:
        """Steps in which the step size is adapted."""
        if self.method == "map" or self.step_size is not None:
            return 0
        steps = (self.warmup_budget or self.budget) // self.gradients_per_step
        enough = LEAST_WARMUP * (WARMUP_LEAPFROGS if self.has_trajectories else 1)
        least = max(1, min(enough, steps // 2))
        return max(least, int(steps * self.warmup_fraction))


def listed(words: tuple[str, ...]) -> str:
    """``a``, ``a and b``, or ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _shown(value: Any) -> str:
    """A value for a message, which may come from anybody's file."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return "auto" if value is None else str(value)
