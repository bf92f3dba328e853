"""The record of a run (run.json) and the recipe of a picture: typed, written and read here alone.

Nothing here needs JAX: a run's folder can be read without it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.files import bytes_sha256, read_json, write_atomically
from gradgen.run_files import RECORD_FILE
from gradgen.runs.settings import SampleSettings

RECORD_FORMAT = "gradgen run 2"
RECIPE_FORMAT = "gradgen recipe 2"
RUNNING, FINISHED, INTERRUPTED = "running", "finished", "interrupted"  # a run's status
PACKAGES = ("gradgen", "jax", "jaxlib", "flax", "numpy")

BITS_DEPEND_ON = ("gradgen", "jax", "jaxlib", "flax", "numpy")

Diagnostics = dict[str, dict[str, float | None]]  # quantity -> r_hat, ess_bulk, ess_tail
Made = TypeVar("Made")


def where_it_is(default: Any = None) -> Any:
    """A field that a record leaves out where it is ``None``."""
    return field(default=default, metadata={"where_it_is": True})


def known_later(default: Any = None, **more: Any) -> Any:
    """A field that a record leaves out as long as it has no value."""
    return field(default=default, metadata={"known_later": True}, **more)


@dataclass(frozen=True)
class NetworkRecord:
    """Which weights: the network's name, and the SHA-256 of its file.

    Attributes:
        way: how a network that is not JAX's own was computed, in words.
    """

    name: str
    sha256: str
    way: str | None = where_it_is()


@dataclass(frozen=True)
class BundleRecord:
    """A run's bundle and the generator that it drew with.

    Attributes:
        file: of Python that made the bundle, and its hash; ``None`` for any other bundle.
        discriminator: that had a part in the target, or ``None``.
    """

    name: str
    generator: NetworkRecord
    file: NetworkRecord | None = where_it_is()
    discriminator: NetworkRecord | None = where_it_is()


@dataclass(frozen=True)
class BoundsRecord:
    """A box in code space: its SHA-256, and its sides where no table has them.

    Attributes:
        sha256: of both sides' numbers.
        lower, upper: float32, little endian, base64; ``None`` if the bundle's table has them.
    """

    sha256: str
    lower: str | None = known_later()
    upper: str | None = known_later()

    @classmethod
    def of(cls, bounds: tuple[np.ndarray, np.ndarray], whole: bool) -> BoundsRecord:
        """Describe a box (lower, upper), each (code,); with its numbers if ``whole``."""
        sides = [np.ascontiguousarray(side, "<f4").tobytes() for side in bounds]
        digest = bytes_sha256(b"".join(sides))
        if not whole:
            return cls(digest)
        return cls(digest, *(base64.b64encode(side).decode() for side in sides))

    def sides(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(lower, upper), each (code,) float32, if the numbers are here.

        Raises:
            UsageError: they are no numbers.
        """
        if self.lower is None or self.upper is None:
            return None
        try:
            lower, upper = (
                np.frombuffer(base64.b64decode(side, validate=True), "<f4").astype(np.float32)
                for side in (self.lower, self.upper)
            )
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"bounds are not numbers in base64 ({error})") from None
        if lower.shape != upper.shape or not np.isfinite([lower, upper]).all():
            raise UsageError("bounds have two sides of different length, or are not finite")
        return lower, upper


@dataclass(frozen=True)
class DeviceRecord:
    """What results are bit-identical on.

    Attributes:
        platform: "cpu", "gpu" …
        kind: the accelerator, or the processor's model.
        cores: of a CPU.
        threads: that XLA computes with on a CPU; ``None`` in records of earlier versions. How a sum
            is cut into pieces depends on it, and so do the last bits.
    """

    platform: str
    kind: str
    cores: int | None = None
    threads: int | None = known_later()


@dataclass(frozen=True)
class Gradients:
    """Gradient evaluations: the most that a chain took, and those of all chains."""

    per_chain: int
    total: int


@dataclass(frozen=True)
class EvidenceRecord:
    """Photographs of a run as they were used, so that it needs their files no more.

    Attributes:
        photograph: that is matched: a PNG file in base64, transparent where it is not known.
        start: the code of the photograph at which chains start: float32, little endian, base64.
    """

    photograph: str | None = where_it_is()
    start: str | None = where_it_is()


@dataclass(frozen=True)
class ClassRecord:
    """A class of a run: what its target is made of, and what became of its chains.

    Attributes:
        query: as it was asked for.
        name, slug, synset, index: of the label; ``synset`` may be empty.
        classifier: that judges the class.
        likelihood_weight: β.
        clip_scope: whose statistics the bounds are from: ``class``, ``all``, ``file`` or ``None``.
        bounds: of the codes, or ``None`` without clipping.
        expression: of a composed class, in synset ids or indices; empty where no class was asked
            for. ``index`` is no position in the classifier's output then, and only numbers the
            class's random numbers.
        num_chains: that the means below are over.
        chains: numbers of the chains that are kept; the lists below are in their order.
        steps: that each of them has done.
        acceptance_by_chain, log_likelihood_by_chain, step_size_by_chain: of each of them.
        diagnostics: of the traces after the warm-up; ``None`` for MAP.
        divergent, nan_proposals: proposals since the warm-up whose log acceptance ratio was below
            -1000, or no number; ``None`` for MAP.
        exchange_acceptance: of chains with replicas, from β down: how often each changes places
            with the next lower one, since the warm-up; the last is how often a draw from the prior
            is taken.
        arrivals: how often what had come from the prior reached β, of all chains together.
        log_likelihood, acceptance, step_size, squared_norm: means over all chains.
    """

    query: str
    name: str
    slug: str
    synset: str
    index: int
    classifier: NetworkRecord
    likelihood_weight: float
    clip_scope: str | None = None
    bounds: BoundsRecord | None = None
    expression: str | None = where_it_is()
    num_chains: int = known_later(0)
    chains: tuple[int, ...] = known_later(())
    steps: tuple[int, ...] = known_later(())
    acceptance_by_chain: tuple[float | None, ...] = known_later(())
    log_likelihood_by_chain: tuple[float | None, ...] = known_later(())
    step_size_by_chain: tuple[float | None, ...] = known_later(())
    diagnostics: Diagnostics | None = known_later()
    divergent: int | None = where_it_is()
    nan_proposals: int | None = where_it_is()
    exchange_acceptance: tuple[float | None, ...] | None = where_it_is()
    arrivals: int | None = where_it_is()
    log_likelihood: float | None = known_later()
    acceptance: float | None = known_later()
    step_size: float | None = known_later()
    squared_norm: float | None = known_later()

    @property
    def identity(self) -> str:
        """What to ask for to get this class of this classifier again."""
        if self.expression is not None:
            return self.expression
        return self.synset or str(self.index)

    def row(self, chain: int) -> int:
        """Where a chain stands in the lists."""
        return self.chains.index(chain)


@dataclass(frozen=True)
class RunRecord:
    """All that run.json holds.

    Attributes:
        status: RUNNING, FINISHED or INTERRUPTED.
        created: time of the beginning, ISO 8601.
        settings: with nothing left to choose but what the warm-up finds.
        bundle, classes: the networks, the targets and their results.
        only_chain: the one chain that is wanted, of a picture that is replayed.
        stop_at: steps after which the run ends although its settings go on.
        notes: what a person was told at the beginning.
        versions: of Python and of the packages that results depend on.
        device, num_devices: that computed.
        total_steps, warmup_steps: of the settings' schedule.
        gradient_evaluations: that were made.
        wall_time_s: over all sessions.
        gradient_evaluations_per_s: of all chains together.
        session: number of the session that works on the run (:mod:`gradgen.hosts`).
        command: how gradgen was called.
        num_hosts: that shared the run.
        silent_hosts: those of them that stopped before they had ended.
        animate: whether the chains' way is drawn too.
        extended: what each extension of the finished run changed, in words.
        pictures: paths of the pictures, relative to the folder.
        picture_folder: where the pictures of a run of very many chains are.
    """

    status: str
    created: str
    settings: SampleSettings
    bundle: BundleRecord
    classes: tuple[ClassRecord, ...]
    evidence: EvidenceRecord | None = where_it_is()
    only_chain: int | None = None
    stop_at: int | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    device: DeviceRecord = DeviceRecord("", "")
    num_devices: int = 1
    total_steps: int | None = known_later()
    warmup_steps: int | None = known_later()
    gradient_evaluations: Gradients | None = known_later()
    wall_time_s: float | None = known_later()
    gradient_evaluations_per_s: float | None = known_later()
    session: int | None = known_later()
    command: tuple[str, ...] | None = known_later()
    num_hosts: int | None = known_later()
    silent_hosts: tuple[int, ...] | None = known_later()
    animate: bool | None = known_later()
    extended: tuple[str, ...] | None = known_later()
    pictures: tuple[str, ...] | None = known_later()
    picture_folder: str | None = known_later()

    FORMAT: ClassVar[str] = RECORD_FORMAT

    @property
    def finished(self) -> bool:
        """Whether all chains have come to their end."""
        return self.status == FINISHED

    def to_json(self) -> dict[str, Any]:
        """As JSON's types, without what is not known yet."""
        return {"format": self.FORMAT, **_plain(self)}

    @classmethod
    def from_json(cls, values: Any, source: str) -> RunRecord:
        """Check and read :meth:`to_json`'s output.

        Args:
            values: what JSON gave.
            source: what messages call it.

        Raises:
            UsageError: the format is another one, or a field is missing or makes no sense; the
                message names it.
        """
        return _read(cls, values, source)


@dataclass(frozen=True)
class RecipeClass:
    """The class of a picture."""

    name: str
    synset: str
    index: int


@dataclass(frozen=True)
class RecipeResult:
    """What became of the picture's chain; ``None`` where there is no such number."""

    log_likelihood: float | None
    log_density: float | None
    squared_norm: float | None
    acceptance: float | None
    step_size: float | None


@dataclass(frozen=True)
class RecipeWeights:
    """Which networks made the picture."""

    bundle: str
    generator: NetworkRecord
    classifier: NetworkRecord
    file: NetworkRecord | None = where_it_is()
    discriminator: NetworkRecord | None = where_it_is()


@dataclass(frozen=True)
class Recipe:
    """All that makes one picture again, and what it is. It travels inside the PNG file.

    Attributes:
        label: the class (``class`` in the file).
        chain: its number within the class.
        steps: that it has done.
        result: what became of it.
        settings: of the run, for this class alone.
        weights, versions, device, created: as in the run's record.
        bounds: of the codes, or ``None`` without clipping.
    """

    label: RecipeClass = field(metadata={"key": "class"})
    chain: int
    steps: int
    result: RecipeResult
    settings: SampleSettings
    weights: RecipeWeights
    versions: dict[str, str]
    device: DeviceRecord
    created: str
    bounds: BoundsRecord | None = known_later()
    evidence: EvidenceRecord | None = where_it_is()

    FORMAT: ClassVar[str] = RECIPE_FORMAT

    def to_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return {"format": self.FORMAT, **_plain(self)}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Recipe:
        """Check and read :meth:`to_json`'s output; see :meth:`RunRecord.from_json`."""
        return _read(cls, values, source)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json, atomically.

    Raises:
        OSError: the folder is gone, for example, or the disk is full.
    """
    text = json.dumps(record.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / RECORD_FILE, text.encode() + b"\n", parents=False)


def read_record(path: Path) -> RunRecord:
    """The run.json of a run's folder (or the file itself).

    Raises:
        UsageError: there is none, or it is no record of a run.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    try:
        values = read_json(file)
    except FileNotFoundError:
        raise UsageError(f"{path} is not the folder of a run: it holds no {RECORD_FILE}") from None
    except GradgenError as error:
        raise UsageError(str(error)) from error
    return RunRecord.from_json(values, str(file))


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def other_conditions(
    before: tuple[DeviceRecord, Mapping[str, str]], now: tuple[DeviceRecord, Mapping[str, str]]
) -> list[str]:
    """What differs of all that bits depend on besides settings and weights, in words.

    Args:
        before: device and versions of a record.
        now: those here.
    """
    (was, were), (device, here) = before, now
    pairs: list[tuple[str, Any, Any]] = [("device", was.platform, device.platform)]
    pairs.append(("processor" if was.platform == "cpu" else "device", was.kind, device.kind))
    if was.threads is None:  # an earlier version's record: the cores are the best that is known
        pairs.append(("cores", was.cores, device.cores))
    else:
        pairs.append(("threads", was.threads, device.threads))
    pairs += [(name, were.get(name), here.get(name)) for name in BITS_DEPEND_ON]
    return [f"{name} {old}, here {new}" for name, old, new in pairs if old != new]


def number(value: Any) -> float | None:
    """A float that JSON can hold; NaN and infinities have none."""
    number = float(value)
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, tuples as lists; fields that are not known yet are left out."""
    if isinstance(value, SampleSettings):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.metadata.get("key", item.name): _plain(getattr(value, item.name))
            for item in fields(value)
            if not (item.metadata.get("known_later") and _unknown(value, item))
            if not (item.metadata.get("where_it_is") and getattr(value, item.name) is None)
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _unknown(record: Any, item: Field[Any]) -> bool:
    """Whether a field that is known later is not known yet; a class's are all known at once."""
    if isinstance(record, ClassRecord):
        return not record.chains
    return getattr(record, item.name) is None


def _read(kind: type[Made], values: Any, source: str) -> Made:
    """Check a record against the fields of its type."""
    from pydantic import ValidationError

    expected = kind.FORMAT  # type: ignore[attr-defined]
    found = values.get("format") if isinstance(values, dict) else None
    if found != expected:
        raise UsageError(
            f"{source} has the format {_short(found)}, expected {expected!r}; it is of another "
            "version of gradgen, or no file of gradgen's"
        )
    keys = {item.metadata.get("key", item.name): item.name for item in fields(kind)}  # type: ignore[arg-type]
    given = {keys[key]: value for key, value in values.items() if key in keys}
    settings = SampleSettings.from_json(_mapping(given.get("settings"), source), source)
    try:
        checked: Made = _adapter(kind.__name__).validate_python(given | {"settings": settings})
    except ValidationError as error:
        fault = error.errors()[0]
        names: dict[Any, str] = {name: key for key, name in keys.items()}
        where = ".".join(str(names.get(part, part)) for part in fault["loc"])
        raise UsageError(f"{source} is broken: {where}: {fault['msg']}") from None
    return checked


def _short(value: Any) -> str:
    """A value for a message, however long it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _mapping(value: Any, source: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{source} is broken: it holds no settings")
    return value


@cache
def _adapter(name: str) -> Any:
    """The checks of one of this module's types; they take some milliseconds to make."""
    from pydantic import TypeAdapter

    return TypeAdapter(globals()[name])
