"""Clipping statistics: mean, standard deviation and bounds of every code unit.

DGN-AM (Nguyen et al. 2016) keeps each unit of the code between 0 and mean + 3 standard deviations
of that unit over real images; with a whitened code, which has both signs, the box is
mean ± sigmas · std. The numbers come from a folder of images through the bundle's encoder, from
the tables that come with the bundle (its own classes by their labels, all of ImageNet's by weighted
photographs), or from posterior samples of chains that agree.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.files import json_text, load_npz, parse_json, read_limited, write_atomically
from gradgen.hosts import ALONE, Hosts, gather
from gradgen.images import ImageSource, find_images
from gradgen.inference.diagnostics import LARGE_R_HAT
from gradgen.labels import Label, imagenet_labels
from gradgen.networks.bounds import check_sigmas, clip_bounds
from gradgen.networks.catalog import choose_bundle, find_class
from gradgen.networks.stream import BATCH_SIZE, stream

if TYPE_CHECKING:
    from gradgen.networks.interfaces import Bundle
    from gradgen.runs.record import RunRecord
    from gradgen.runs.results import Samples

FORMAT = "gradgen statistics 1"
MAX_STATISTICS_BYTES = 64 * 2**20  # of what an .npz unpacks to; 4096 units take 64 kB
MAX_TEXT_BYTES = 4 * 2**20  # of bounds as text; 4096 units take 40 kB
LISTED_FAILURES = 100  # unreadable files that a record names; it counts them all


@dataclass(frozen=True, eq=False)
class Statistics:
    """A box in code space, and where it comes from.

    lower, upper: (code,) float32, the bounds. mean, std: (code,) float32, of the codes that they
    were made from; None for bounds read from a plain text file. record: what they are of, as JSON
    can hold it: source ("images", "bundle", "samples" or "text"), class, count, sigmas, hashes.
    """

    lower: np.ndarray
    upper: np.ndarray
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def bounds(self, code_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper) for codes of `code_size` units; UsageError if they are for others."""
        if len(self.lower) != code_size:
            name = self.record.get("file", "these statistics")
            raise UsageError(
                f"{name}: bounds of {len(self.lower)} units, but the bundle's code has "
                f"{code_size}; make some for this bundle with 'gradgen stats'"
            )
        return self.lower, self.upper

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `load_statistics` and `gradgen sample --clip --stats` read."""
        arrays: dict[str, Any] = {"lower": self.lower, "upper": self.upper}
        if self.mean is not None and self.std is not None:
            arrays |= {"mean": self.mean, "std": self.std}
        record = json_text({"format": FORMAT, **self.record})
        buffer = io.BytesIO()
        np.savez(buffer, record=np.array(record), **arrays)
        write_atomically(Path(path), buffer.getvalue())


class RunningMoments:
    """Mean and standard deviation of any number of codes, batch by batch, in constant memory.

    Merges each batch's moments into the running ones (Chan, Golub & LeVeque 1979, the pairwise
    form of Welford's algorithm), in double precision: no difference of large sums is ever taken.
    """

    def __init__(self, code_size: int) -> None:
        self.count = 0
        self._mean = np.zeros(code_size, np.float64)
        self._m2 = np.zeros(code_size, np.float64)  # Σ (x - mean)²

    def update(self, codes: np.ndarray) -> None:
        """Take in codes (n, code), n ≥ 0."""
        if len(codes) == 0:
            return
        codes = np.asarray(codes, np.float64)
        mean = codes.mean(axis=0)
        self._merge(len(codes), mean, ((codes - mean) ** 2).sum(axis=0))

    def _merge(self, count: int, mean: np.ndarray, m2: np.ndarray) -> None:
        delta = mean - self._mean
        total = self.count + count
        self._mean += delta * (count / total)
        self._m2 += m2 + delta**2 * (self.count * count / total)
        self.count = total

    def to_json(self) -> list[Any]:
        """All there is to know, to the last bit, for `merge` on another host."""
        return [self.count, self._mean.tolist(), self._m2.tolist()]

    def merge(self, other: list[Any]) -> None:
        """Take in what another host's `to_json` gave."""
        count, mean, m2 = other
        if count:
            self._merge(count, np.array(mean, np.float64), np.array(m2, np.float64))

    @property
    def mean(self) -> np.ndarray:
        """(code,) float32."""
        return self._mean.astype(np.float32)

    @property
    def std(self) -> np.ndarray:
        """(code,) float32: the sample standard deviation (divided by n - 1)."""
        if self.count < 2:
            raise GradgenError(
                f"a standard deviation takes at least 2 codes; there are {self.count}"
            )
        return np.sqrt(self._m2 / (self.count - 1)).astype(np.float32)


def summary(statistics: Statistics) -> dict[str, float]:
    """A few numbers that say what the box is like."""
    numbers: dict[str, float] = {"units": len(statistics.lower)}
    if statistics.mean is not None and statistics.std is not None:
        numbers["largest_absolute_mean"] = float(np.abs(statistics.mean).max())
        numbers["smallest_std"] = float(statistics.std.min())
        numbers["mean_std"] = float(statistics.std.mean())
        numbers["largest_std"] = float(statistics.std.max())
    numbers["lowest_bound"] = float(statistics.lower.min())
    numbers["highest_bound"] = float(statistics.upper.max())
    return numbers


def stats(
    bundle: Bundle | str | os.PathLike[str] | None = None,
    class_name: str | None = None,
    *,
    images: Any = None,
    samples: Samples | None = None,
    sigmas: float = 3.0,
    generator: str | None = None,
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    hosts: Hosts = ALONE,
) -> Statistics:
    """Mean, standard deviation and clipping bounds of every code unit, of a class or of all.

    They are measured on pictures or on posterior samples where such are given, and else taken from
    the tables that come with the bundle: of its own classes, or of all of ImageNet's, for which
    photographs were weighted (:class:`gradgen.networks.bounds.WeightedStatistics`).
    ``Statistics.save`` writes a file that ``gradgen.sample`` takes as ``statistics``.

    Args:
        bundle: a Bundle, or what ``load_bundle`` takes. ``None``: the one that ``gradgen.sample``
            takes for the class, and tiny64 without a class.
        class_name: a name, a synset id or an index, among the bundle's classes or ImageNet's;
            ``None`` for all classes together.
        images: folders, files, glob patterns (or a list of them) of pictures to encode.
        samples: of ``gradgen.sample(bundle, class_name, clip=False)``: the last state of each of
            several chains that agree.
        sigmas: the bounds' distance from the mean, in standard deviations.
        generator: another generator's codes, as ``load_bundle`` takes it.
        batch_size: pictures encoded at a time.
        threads: that decode pictures; ``None``: one a core, up to 8.
        on_progress: called with the pictures that are done and those of them that cannot be read.
        hosts: that share the pictures and have stayed connected; all return the same.

    Returns:
        Mean, standard deviation and bounds, each (code,) float32, and a record of what they are of.

    Raises:
        UsageError: the class, the bundle or the pictures are not to be found; the class is in no
            table of the bundle; images and samples are both given.
        GradgenError: fewer than two pictures can be read; the sampling was interrupted, or its
            chains do not agree.
    """
    check_sigmas(sigmas)
    if images is not None and samples is not None:
        raise UsageError("images and samples exclude one another")
    if bundle is None:
        bundle = choose_bundle([] if class_name is None else [class_name], generator).name
    if isinstance(bundle, str | os.PathLike):
        from gradgen.networks.load import load_bundle

        bundle = load_bundle(
            bundle if isinstance(bundle, str) else Path(bundle), generator=generator
        )
    elif generator is not None:
        raise UsageError("a bundle that is loaded has its generator; give the bundle by name")
    label = None if class_name is None else find_label(bundle, class_name)
    if images is not None:
        named = None if label is None else str(label)
        found = find_images([images] if isinstance(images, str | os.PathLike) else images)
        return from_images(bundle, found, sigmas, named, batch_size, threads, on_progress, hosts)
    if samples is not None:
        if label is None:
            raise UsageError("samples are of a class: give class_name")
        _check_agreement(samples.record)
        codes = np.asarray(samples.codes).reshape(-1, bundle.code_size)
        return from_samples(bundle, codes, label, samples.record.to_json(), sigmas)
    tables = [table for table in (bundle.code_statistics, bundle.photographs) if table is not None]
    if label is not None and not any(table.knows(label) for table in tables):
        raise UsageError(
            f"{bundle.name} has no statistics of {label.name}: measure some on pictures of it, "
            "'gradgen stats --images DIR', or on posterior samples, 'gradgen stats --from-samples'"
        )
    return from_bundle(bundle, label, sigmas)


# --- the sources ------------------------------------------------------------------------


def from_images(
    bundle: Bundle,
    sources: Sequence[ImageSource],
    sigmas: float = 3.0,
    class_name: str | None = None,
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    hosts: Hosts = ALONE,
) -> Statistics:
    """Statistics of pictures' codes under the bundle's encoder; memory does not grow with them.

    Unreadable files are skipped, counted and named in the record. on_progress(done, failed) after
    each batch. hosts: that share the pictures and have stayed connected; all return the same.
    Raises GradgenError when fewer than 2 can be read.
    """
    own = hosts.share(len(sources))
    part = RunningMoments(bundle.code_size)
    unreadable: list[str] = []
    failed = 0
    for chunk in stream(bundle.encoder, sources[own.start : own.stop], batch_size, threads):
        part.update(chunk.outputs)
        failed += len(chunk.failures)
        unreadable.extend(f.message for f in chunk.failures[: LISTED_FAILURES - len(unreadable)])
        if on_progress is not None:
            on_progress(chunk.done, failed)
    own_report = json.dumps([part.to_json(), failed, unreadable]).encode()
    reports = [json.loads(one) for one in gather(hosts, own_report)]
    moments = RunningMoments(bundle.code_size)
    for other, _, _ in reports:
        moments.merge(other)
    failed = sum(count for _, count, _ in reports)
    unreadable = [message for _, _, messages in reports for message in messages][:LISTED_FAILURES]
    if moments.count < 2:
        first = f"; the first of {failed} unreadable: {unreadable[0]}" if failed else ""
        raise GradgenError(
            f"statistics take at least 2 images, and {moments.count} could be read{first}"
        )
    record = _record(bundle, "images", class_name, sigmas, moments.count)
    record |= {"unreadable": failed, "unreadable_files": unreadable}
    return _statistics(moments.mean, moments.std, sigmas, record, bundle.code_floor)


def from_bundle(bundle: Bundle, label: Label | None = None, sigmas: float = 3.0) -> Statistics:
    """The statistics that come with the bundle: of its training codes, or published bounds.

    label: a class that a table of the bundle's knows, its own classes' first; None for all classes
    together. Raises UsageError where the table, or the class in it, is not there.
    """
    table = bundle.code_statistics
    own = table is not None and (label is None or table.knows(label))
    if not own and bundle.photographs is not None:
        table = bundle.photographs
    if table is None:
        raise UsageError(f"no statistics come with {bundle.name}'s codes; give pictures: --images")
    box = table.bounds(label, sigmas, None if label is None else "class")
    record = {
        **box.origin,
        "class": None if label is None else str(label),
        "sigmas": sigmas,
        "bundle": bundle.name,
    }
    if box.mean is not None:
        record |= {"count": None, "encoder_sha256": bundle.encoder.sha256}
    return Statistics(box.lower, box.upper, box.mean, box.std, record)


def from_samples(
    bundle: Bundle, codes: np.ndarray, label: Label, sampling: dict[str, Any], sigmas: float = 3.0
) -> Statistics:
    """Statistics of a class's posterior samples.

    codes: (n, code), n ≥ 2, independent of one another: the last of each of n chains, as
    `gradgen.sample` returns them. sampling: how they were drawn, for the record.
    """
    moments = RunningMoments(bundle.code_size)
    moments.update(codes)
    record = _record(bundle, "samples", str(label), sigmas, moments.count)
    record["sampling"] = sampling
    return _statistics(moments.mean, moments.std, sigmas, record, bundle.code_floor)


def find_label(bundle: Bundle, query: str) -> Label:
    """The class that `query` means, of the bundle's classes first, then of ImageNet's.

    Raises UsageError like `Labels.find`.
    """
    return find_class(query, (bundle.labels, imagenet_labels()))[1]


def _check_agreement(record: RunRecord) -> None:
    """Refuse samples that tell of where their chains began rather than of the posterior."""
    if not record.finished:
        raise GradgenError("the sampling was interrupted: its chains are not at their ends")
    advice = "raise `budget`, or measure photographs of the class: 'gradgen stats --images DIR'"
    found = [
        figures["r_hat"]
        for job in record.classes
        for figures in (job.diagnostics or {}).values()
        if figures["r_hat"] is not None
    ]
    if not found:
        raise GradgenError(
            "whether the chains agree cannot be told: R̂ takes two or more chains of a method that "
            f"samples, and a longer trace; {advice}"
        )
    if max(found) > LARGE_R_HAT:
        raise GradgenError(
            f"the chains do not agree (R̂ {max(found):.2f}, above {LARGE_R_HAT:g}), so that the "
            f"statistics would be those of where they began; {advice}"
        )


def _record(
    bundle: Bundle, source: str, class_name: str | None, sigmas: float, count: int | None
) -> dict[str, Any]:
    return {
        "source": source,
        "class": class_name,
        "sigmas": sigmas,
        "count": count,
        "bundle": bundle.name,
        "encoder_sha256": _encoder_sha256(bundle),
    }


def _encoder_sha256(bundle: Bundle) -> str | None:
    """None for a bundle of one's own functions that has no encoder."""
    try:
        return bundle.encoder.sha256
    except UsageError:
        return None


def _statistics(
    mean: np.ndarray,
    std: np.ndarray,
    sigmas: float,
    record: dict[str, Any],
    floor: float | None,
) -> Statistics:
    lower, upper = clip_bounds(mean, std, sigmas, floor)
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return Statistics(lower, upper, mean, std, record)


# --- files ------------------------------------------------------------------------------------


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read a file of `gradgen stats`, or DGN-AM's plain text bounds (lower bound 0).

    A text file holds one upper bound a unit, separated by white space or commas. Raises UsageError
    for anything else; the record's "file" is the path.
    """
    path = Path(path)
    try:
        content = read_limited(path, MAX_STATISTICS_BYTES)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; 'gradgen stats' makes one") from None
    except GradgenError as error:
        raise UsageError(str(error)) from error
    if content[:4] == b"PK\x03\x04":
        return _read_npz(path, content)
    return _read_text(path, content)


def _read_npz(path: Path, content: bytes) -> Statistics:
    try:
        arrays = load_npz(
            content,
            ("lower", "upper", "record"),
            optional=("mean", "std"),
            limit=MAX_STATISTICS_BYTES,
            name=str(path),
        )
        record = parse_json(str(arrays.pop("record").reshape(())), f"{path}: its record")
        if record.pop("format", None) != FORMAT:
            raise GradgenError(f"its record has not the format {FORMAT!r}")
    except (GradgenError, ValueError) as error:  # ValueError: the record is not a single text
        raise UsageError(
            f"{path} is no statistics file of 'gradgen stats', or is broken ({error})"
        ) from error
    lower, upper = arrays["lower"], arrays["upper"]
    _check(path, lower, upper)
    mean, std = arrays.get("mean"), arrays.get("std")
    _check_moments(path, mean, std, lower.shape)
    return Statistics(lower, upper, mean, std, {**record, "file": str(path)})


def _read_text(path: Path, content: bytes) -> Statistics:
    if len(content) > MAX_TEXT_BYTES:
        raise UsageError(f"{path} is too large: {len(content)} bytes of text")
    try:
        numbers = content.decode("ascii").replace(",", " ").split()
        upper = np.array([float(number) for number in numbers], np.float32)
    except ValueError as error:
        raise UsageError(
            f"{path} is neither a statistics file of 'gradgen stats' nor a list of numbers"
        ) from error
    lower = np.zeros_like(upper)
    _check(path, lower, upper)
    return Statistics(lower, upper, record={"source": "text", "file": str(path)})


def _check(path: Path, lower: np.ndarray, upper: np.ndarray) -> None:
    if lower.ndim != 1 or lower.shape != upper.shape or len(lower) == 0:
        raise UsageError(f"{path}: bounds of shapes {lower.shape} and {upper.shape}")
    if lower.dtype.kind != "f" or upper.dtype.kind != "f":
        raise UsageError(f"{path}: bounds of the types {lower.dtype} and {upper.dtype}")
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise UsageError(f"{path}: bounds that are not finite")
    wrong = np.flatnonzero(lower > upper)
    if wrong.size:
        unit = int(wrong[0])
        raise UsageError(f"{path}: unit {unit} has bounds {lower[unit]:g} > {upper[unit]:g}")


def _check_moments(
    path: Path, mean: np.ndarray | None, std: np.ndarray | None, shape: tuple[int, ...]
) -> None:
    """Mean and standard deviation make a box of another width: NaN there would be NaN codes."""
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if values.shape != shape or values.dtype.kind != "f":
            raise UsageError(
                f"{path}: {name} is {values.dtype} {values.shape}, the bounds are {shape}"
            )
        if not np.isfinite(values).all():
            raise UsageError(f"{path}: {name} has numbers that are not finite")
    if std is not None and (std < 0).any():
        unit = int(np.flatnonzero(std < 0)[0])
        raise UsageError(f"{path}: unit {unit} has the standard deviation {std[unit]:g}")
