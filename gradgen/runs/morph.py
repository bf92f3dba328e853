"""From one posterior to another: chains walk along the geometric path between the two.

At t the chains sample p(A | g(z))^(β(1 - t)) p(B | g(z))^(βt) p(z). They begin at t = 0, stay there
until they have settled, and are taken to t = 1 in small steps; at every t they move by MALA or HMC,
which leave that t's distribution invariant. A and B are classes, plain or composed, or photographs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradgen import notebook
from gradgen.errors import GradgenError, UsageError
from gradgen.evidence.expression import Expression
from gradgen.files import (
    is_leftover,
    json_text,
    load_npz,
    npz_bytes,
    read_json,
    remove_file,
    write_atomically,
)
from gradgen.images import SUFFIXES, image_grid, png_with_recipe
from gradgen.inference.chain import init_chains, run_chains
from gradgen.inference.types import ValueAndGrad
from gradgen.networks.interfaces import Bundle
from gradgen.networks.load import load_bundle
from gradgen.networks.python_file import refuse_recorded
from gradgen.run_files import ANIMATION_FILE, FRAMES_FILE, MORPH_RECORD, STRIP_FILE
from gradgen.runs.animation import animated
from gradgen.runs.folder import new_folder
from gradgen.runs.plan import FALLBACK_CLASSIFIER, Group, Plan, choose_for, describe, prepare
from gradgen.runs.record import FINISHED, RunRecord
from gradgen.runs.results import GRID_TILE
from gradgen.runs.run import check_same, check_sense
from gradgen.runs.sample import (
    Networks,
    chain_keys,
    draw,
    explained,
    first_codes,
    networks_of,
    target_for,
    target_params,
)
from gradgen.runs.settings import make_settings
from gradgen.runs.target import PathTarget

FORMAT = "gradgen morph 1"
METHODS = ("mala", "hmc")
CHAINS, FRAMES, BUDGET, METHOD = 4, 24, 2400, "mala"  # unless something else is asked for
MOST_CHAINS, MOST_FRAMES = 64, 1000
# The share of the budget that the chains spend at t = 0 before the first picture; as much goes to
# t = 1 before the last one.
STILL = 0.25
STRIP_COLUMNS = 9
OPTIONS = frozenset(
    {"budget", "classifier", "likelihood_weight", "start", "step_size", "target_acceptance"}
    | {"trajectory_length", "num_integration_steps"}
)
NETWORKS = ("generator", "classifier")

End = str | int | Expression | Path
OnFrame = Callable[["MorphProgress"], None]


@dataclass(frozen=True)
class MorphProgress:
    """What ``on_frame`` is told after each stop on the way.

    Attributes:
        done, total: stops, those at both ends that give no picture included.
        share: t.
        log_likelihoods: means over the chains, of what the way begins and ends at.
        acceptance: mean over the chains.
    """

    done: int
    total: int
    share: float
    log_likelihoods: tuple[float, float]
    acceptance: float


@dataclass(frozen=True, eq=False)
class MorphRecord:
    """What makes a morph again, and what became of it: morph.json.

    Attributes:
        first, second: both ends as records of runs, which hold settings, weights, photographs,
            versions and device. ``budget`` is that of the whole way.
        num_frames: pictures of each chain.
        shares: t of each of them.
        log_likelihoods: (frames, 2) means over the chains.
        acceptance: of each frame, mean over the chains.
        gradient_evaluations: a chain, in all.
        wall_time_s: that it took.
    """

    first: RunRecord
    second: RunRecord
    num_frames: int
    shares: tuple[float, ...] = ()
    log_likelihoods: tuple[tuple[float, float], ...] = ()
    acceptance: tuple[float, ...] = ()
    gradient_evaluations: int = 0
    wall_time_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            "format": FORMAT,
            "from": self.first.to_json(),
            "to": self.second.to_json(),
            "num_frames": self.num_frames,
            "shares": list(self.shares),
            "log_likelihoods": [list(pair) for pair in self.log_likelihoods],
            "acceptance": list(self.acceptance),
            "gradient_evaluations": self.gradient_evaluations,
            "wall_time_s": self.wall_time_s,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> MorphRecord:
        """Check and read what a replay needs of :meth:`to_json`'s output; results are left out.

        Raises:
            UsageError: it is of another format, or makes no sense.
        """
        if values.get("format") != FORMAT:
            raise UsageError(f"{source} is no record of a morph ({FORMAT!r})")
        return cls(
            RunRecord.from_json(values.get("from"), f"{source}, from"),
            RunRecord.from_json(values.get("to"), f"{source}, to"),
            _checked("num_frames", values.get("num_frames"), 2, MOST_FRAMES, source),
        )


@dataclass(frozen=True, eq=False)
class Morph:
    """Pictures on the way from one posterior to another.

    Attributes:
        shares: (frames,) t of each frame, from 0 to 1.
        codes: (frames, chains, code) float32.
        images: (frames, chains, S, S, 3) uint8.
        log_likelihoods: (frames, chains, 2), unweighted, of what the way begins and ends at.
        record: how it was made.
        notes: what a person should be told.
    """

    shares: np.ndarray
    codes: np.ndarray
    images: np.ndarray
    log_likelihoods: np.ndarray
    record: MorphRecord
    notes: tuple[str, ...] = ()

    def strip(self, columns: int = STRIP_COLUMNS) -> Any:
        """A Pillow image: a row for each chain, from t = 0 at the left to t = 1 at the right."""
        shown = spread_over(len(self.shares), columns)
        tiles = self.images[shown].swapaxes(0, 1)
        scale = max(1, GRID_TILE // self.images.shape[2])
        return image_grid(tiles.reshape(-1, *self.images.shape[2:]), len(shown), scale=scale)

    def animation(self) -> bytes:
        """All chains side by side, all frames, as an animated WebP file."""
        columns = int(np.ceil(np.sqrt(self.images.shape[1])))
        scale = max(1, GRID_TILE // self.images.shape[2])
        return animated([image_grid(frame, columns, scale=scale) for frame in self.images])

    def save(self, folder: str | Path) -> Path:
        """Write strip.png, animation.webp, frames.npz and, last, morph.json; returns the folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        arrays = {
            "shares": self.shares,
            "codes": self.codes,
            "log_likelihoods": self.log_likelihoods,
        }
        for name, content in (
            (STRIP_FILE, png_with_recipe(self.strip())),
            (ANIMATION_FILE, self.animation()),
            (FRAMES_FILE, npz_bytes(arrays)),
            (MORPH_RECORD, json_text(self.record.to_json(), indent=2).encode() + b"\n"),
        ):
            write_atomically(path / name, content, parents=False)
        return path


def morph(
    first: End,
    second: End,
    bundle: Bundle | str | Path | None = None,
    method: str = METHOD,
    num_chains: int = CHAINS,
    num_frames: int = FRAMES,
    seed: int = 0,
    *,
    noise: float | None = None,
    on_frame: OnFrame | None = None,
    **options: Any,
) -> Morph:
    """Walk from one posterior to another, and look at the chains on the way.

    Args:
        first, second: where the way begins and ends: a class, plain or composed, as
            :func:`gradgen.sample` takes it, or the file of a photograph.
        bundle: from :func:`gradgen.load_bundle`, or its name. ``None``: the first that knows the
            classes.
        method: ``mala``, whose steps are small, or ``hmc``.
        num_chains: that walk side by side.
        num_frames: stops on the way at which the chains are drawn, the two ends included.
        seed: of all randomness.
        noise: of the photographs' pixels, a standard deviation where black is 0 and white is 1.
        on_frame: called after each stop; what it raises ends the walk.
        options: ``budget`` (gradient evaluations of a chain for the whole way, a quarter of them
            at either end), ``start`` (a photograph at whose code the chains begin, that of
            ``first`` if it is one) and the others of OPTIONS, which are those of
            :class:`gradgen.runs.settings.SampleSettings`.

    Raises:
        UsageError: a class, a name or a number that makes no sense.
        GradgenError: weights or pictures that are missing or broken.
    """
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise UsageError(f"unknown option {', '.join(unknown)} of morph")
    if method not in METHODS:
        raise UsageError(f"`method` {method!r}: choose one of {', '.join(METHODS)}")
    loaded = bundle if isinstance(bundle, Bundle) else None
    if loaded is None:
        named = [end for end in (first, second) if not _is_photograph(end)]
        name = str(bundle) if bundle is not None else choose_for([str(end) for end in named]).name
        loaded = load_bundle(name)
    else:
        name = loaded.name
    ends = [_asked(end, noise) for end in (first, second)]
    if _is_photograph(first) and "start" not in options and _has_encoder(loaded):
        options["start"] = first
    if options.get("start") is not None:
        ends[0]["start"] = str(options.pop("start"))
    given = {
        "bundle": name,
        "method": method,
        "num_chains": _checked("num_chains", num_chains, 1, MOST_CHAINS),
        "chain_group": num_chains,
        "budget": BUDGET,
        "seed": seed,
        **{name: value for name, value in options.items() if value is not None},
    }

    def plans(more: dict[str, Any]) -> list[Plan]:
        return [prepare(make_settings(given | end | more, False), loaded) for end in ends]

    made = plans({})
    judges = {plan.jobs[0].classifier.name for plan in made if plan.settings.classes}
    if judges and any(plan.jobs[0].classifier.name not in judges for plan in made):
        made = plans({"classifier": min(judges)})  # a photograph alone has none of its own
    if len(judges) > 1:
        made = plans({"classifier": FALLBACK_CLASSIFIER})
    return _walk(made, _checked("num_frames", num_frames, 2, MOST_FRAMES), on_frame)


def replay(
    folder: str | Path,
    bundle: Bundle | str | Path | None = None,
    force: bool = False,
    on_frame: OnFrame | None = None,
) -> Morph:
    """Make a morph again from its folder; the photographs are in its record.

    Args:
        folder: of :meth:`Morph.save`, or its morph.json.
        bundle: the same networks, where they have moved or are a Python file.
        force: go on although weights differ.
        on_frame: as for :func:`morph`.

    Raises:
        UsageError: there is no such record, or it is broken.
        GradgenError: the weights are others (unless ``force``).
    """
    path = Path(folder)
    file = path / MORPH_RECORD if path.is_dir() else path
    try:
        record = MorphRecord.from_json(read_json(file), str(file))
    except FileNotFoundError:
        raise UsageError(f"{path} is not the folder of a morph: it has no {MORPH_RECORD}") from None
    loaded = bundle if isinstance(bundle, Bundle) else None
    if loaded is None:
        recorded = record.first.settings.bundle
        if bundle is None:
            refuse_recorded(recorded, str(file))
        loaded = load_bundle(str(bundle or recorded))
    plans, notes = [], []
    for end in (record.first, record.second):
        plan = prepare(end.settings, loaded, evidence=end.evidence)
        check_sense(plan, len(end.classes), str(file))
        notes += check_same(end, describe(plan), str(file), force)
        plans.append(plan)
    made = _walk(plans, record.num_frames, on_frame)
    return replace(made, notes=tuple(dict.fromkeys([*made.notes, *notes])))


def same_frames(made: Morph, folder: str | Path) -> bool:
    """Whether a folder holds the very codes of a morph."""
    path = Path(folder)
    codes = load_npz((path if path.is_dir() else path.parent) / FRAMES_FILE, ["codes"])["codes"]
    return codes.shape == made.codes.shape and bool((codes == made.codes).all())


def make_folder(out: Path | None, record: MorphRecord, force: bool = False) -> Path:
    """The folder of a morph: a new one among the runs, or ``out``, which has to be empty.

    Raises:
        UsageError: it is not, and ``force``, which removes an earlier morph, is not given.
    """
    if out is None:
        settings = record.first.settings
        names = f"{record.first.classes[0].slug}-to-{record.second.classes[0].slug}"
        now = datetime.now()
        return new_folder(f"{now:%Y%m%d-%H%M%S}-{names}-{settings.method}-{settings.seed}")
    if not force:
        refuse_full(out)
    elif out.is_dir():
        for name in (MORPH_RECORD, STRIP_FILE, ANIMATION_FILE, FRAMES_FILE):
            remove_file(out / name)
    return out


def spread_over(num_frames: int, most: int = STRIP_COLUMNS) -> list[int]:
    """At most so many of the frames, evenly, the first and the last among them."""
    places = np.linspace(0, num_frames - 1, min(num_frames, max(2, most)))
    return [int(place) for place in np.rint(places)]


def refuse_full(out: Path) -> None:
    """Raise UsageError unless a folder is empty or not there yet."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out names a folder")
    if out.is_dir() and not all(is_leftover(path) for path in out.iterdir()):
        raise UsageError(
            f"{out} is not empty; choose another --out, or --force to replace the morph in it"
        )


def _asked(end: End, noise: float | None) -> dict[str, Any]:
    """The settings of an end."""
    if not _is_photograph(end):
        return {"classes": (str(end),)}
    if noise is None:
        raise UsageError(f"{end} is a photograph, which needs `noise`: such as 0.1")
    return {"match": str(end), "noise": noise}


def _is_photograph(end: End) -> bool:
    """Whether an end is a picture's file, by the ending of its name."""
    return isinstance(end, Path) or (isinstance(end, str) and Path(end).suffix.lower() in SUFFIXES)


def _has_encoder(bundle: Bundle) -> bool:
    try:
        return bundle.encoder is not None
    except UsageError:  # of functions without one
        return False


def _checked(name: str, value: Any, least: int, most: int, source: str = "") -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        where = f"{source}: `{name}`" if source else f"`{name}`"
        raise UsageError(f"{where} {value!r}: must be a whole number from {least} to {most}")
    return int(value)


# --- the walk ---------------------------------------------------------------------------------


def stops(num_frames: int) -> tuple[np.ndarray, int]:
    """t at all stops, and how many of them come before the first picture."""
    # of n + 2k stops, k at either end take the share STILL of the budget
    still = round(num_frames * STILL / (1 - 2 * STILL))
    way = np.linspace(0.0, 1.0, num_frames)
    return np.concatenate([np.zeros(still), way[:-1], np.ones(still), way[-1:]]), still


def _walk(plans: Sequence[Plan], num_frames: int, on_frame: OnFrame | None) -> Morph:
    begun = time.monotonic()
    first, second = plans
    settings, bundle = first.settings, first.bundle
    if first.jobs[0].classifier is not second.jobs[0].classifier:
        raise UsageError(
            f"{first.jobs[0].label.name} is judged by {first.jobs[0].classifier.name} and "
            f"{second.jobs[0].label.name} by {second.jobs[0].classifier.name}: name a "
            "`classifier` that knows both"
        )
    shares, still = stops(num_frames)
    each = settings.budget // len(shares) - 1  # a stop takes one more, for its density
    if each < max(1, settings.gradients_per_step):
        raise UsageError(
            f"`budget` {settings.budget} is too small for {num_frames} frames: at least "
            f"{len(shares) * (1 + settings.gradients_per_step)}"
        )
    sampler = replace(settings, budget=each, trace_length=2)
    if on_frame is None and notebook.listens():
        on_frame = _notebook_bar(first, second)

    size = settings.num_chains
    keys = chain_keys(settings.seed, first.jobs[0].label.index, 0, size)
    codes = first_codes(first, keys, [Group(0, 0, size)])
    second_number = second.jobs[0].label.index
    moving = jax.vmap(lambda key: jax.random.fold_in(key, second_number))(keys)
    function, params = _function(first, second), _parameters(first, second)
    kept: list[tuple[np.ndarray, np.ndarray, float]] = []
    state = None
    for number, share in enumerate(shares):
        here = {**params, "share": jnp.float32(share)}
        own_keys = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(moving)
        with explained(bundle, size, jax.local_devices()[0]):
            begin = init_chains(own_keys, codes, function, here, sampler)
            if state is None and not np.isfinite(np.asarray(begin.log_density)).all():
                raise GradgenError("the density is no finite number where a chain starts")
            if state is not None:  # the search for the step size goes on
                begin = begin._replace(
                    adaptation=state.adaptation, first_step_size=state.first_step_size
                )
            result = run_chains(own_keys, codes, function, here, sampler, state=begin)
        state = result.state
        codes = state.position
        assert state.features is not None
        both = np.asarray(state.features)
        accepted = float(result.acceptance_rate.mean())
        kept.append((np.asarray(codes), both, accepted))
        if on_frame is not None:
            pair = tuple(float(value) for value in both.mean(0))
            on_frame(MorphProgress(number + 1, len(shares), float(share), pair, accepted))  # type: ignore[arg-type]
    shown = [*range(still, still + num_frames - 1), len(shares) - 1]
    frames = [kept[number] for number in shown]
    likelihoods = np.stack([both for _, both, _ in frames])
    whole = np.stack([position for position, _, _ in frames])
    record = MorphRecord(
        replace(describe(first), status=FINISHED),
        replace(describe(second), status=FINISHED),
        num_frames=num_frames,
        shares=tuple(float(share) for share in shares[shown]),
        log_likelihoods=tuple((float(a), float(b)) for a, b in likelihoods.mean(1)),
        acceptance=tuple(rate for _, _, rate in frames),
        gradient_evaluations=len(shares) * (each + 1),
        wall_time_s=time.monotonic() - begun,
    )
    images = np.stack([draw(bundle, position, size) for position in whole])
    notes = tuple(dict.fromkeys([*first.notes, *second.notes]))
    return Morph(shares[shown], whole, images, likelihoods, record, notes)


def _notebook_bar(first: Plan, second: Plan) -> OnFrame:
    bar = notebook.Bar(f"{first.jobs[0].label.name} to {second.jobs[0].label.name}", "stops")

    def show(frame: MorphProgress) -> None:
        bar.update(frame.done, frame.total, f"t {frame.share:.2f}")

    return show


@cache
def _compiled_once(first: Networks, second: Networks) -> ValueAndGrad:
    """The path's density; one object for the same networks, so that it is compiled only once."""
    return PathTarget(target_for(*first), target_for(*second)).value_and_grad


def _function(first: Plan, second: Plan) -> ValueAndGrad:
    return _compiled_once(*(networks_of(plan, plan.jobs[0]) for plan in (first, second)))


def _parameters(first: Plan, second: Plan) -> dict[str, Any]:
    def own(plan: Plan) -> dict[str, Any]:
        job = plan.jobs[0]
        params = target_params(plan, job)
        rest = {name: value for name, value in params.items() if name not in NETWORKS}
        return {"target": rest, "asked": jax.tree.map(jnp.asarray, job.asked)}

    networks = {
        "generator": first.bundle.generator.params,
        "classifier": first.jobs[0].classifier.params,
    }
    return {"networks": networks, "first": own(first), "second": own(second)}
