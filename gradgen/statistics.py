"""Clipping statistics: mean, standard deviation and bounds of every code unit.

DGN-AM (Nguyen et al. 2016) keeps each unit of the code between 0 and mean + 3 standard deviations
of that unit over real images; with a whitened code, which has both signs, the box is
mean ± sigmas · std. The numbers come from a folder of images through the bundle's encoder, from
the table that comes with the bundle, or, for a class without either, from posterior samples.
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
from gradgen.hosts import ALONE, Hosts, gather
from gradgen.images import ImageSource
from gradgen.labels import Label, find_class, imagenet_labels
from gradgen.networks import CodeStatistics, PublishedBounds
from gradgen.plots import png_bytes
from gradgen.streaming import BATCH_SIZE, stream
from gradgen.weights.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradgen.networks import Bundle

FORMAT = "gradgen statistics 1"
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
        record = json.dumps({"format": FORMAT, **self.record}, ensure_ascii=False)
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


def clip_bounds(
    mean: np.ndarray, std: np.ndarray, sigmas: float = 3.0, floor: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """mean ∓ sigmas · std: (lower, upper), float32, of any shape.

    floor: the lower bound of all units instead, for codes that have one (0 after a rectifier:
    Nguyen et al. 2016).
    """
    check_sigmas(sigmas)
    width = np.float32(sigmas) * np.asarray(std, np.float32)
    centre = np.asarray(mean, np.float32)
    lower = centre - width if floor is None else np.full_like(centre, floor)
    return lower, np.maximum(lower, centre + width)


def published_bounds(table: PublishedBounds, sigmas: float) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) as they were published for so many standard deviations.

    Raises:
        UsageError: none were.
    """
    if sigmas not in table.upper:
        there = ", ".join(f"{number:g}" for number in table.upper)
        raise UsageError(
            f"the bounds of {table.source} are for {there} standard deviations, not {sigmas:g}; "
            "others: 'gradgen stats --images DIR --sigmas'"
        )
    upper = table.upper[sigmas]
    return np.zeros_like(upper), upper


def check_sigmas(sigmas: float) -> None:
    """UsageError unless positive and finite; to ask before the work rather than after it."""
    if not (np.isfinite(sigmas) and sigmas > 0):
        raise UsageError(f"sigmas must be a positive number, not {sigmas}")


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


# --- the three sources ------------------------------------------------------------------------


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

    label: of `bundle.code_statistics.labels`; None for all classes together.
    """
    table = bundle.code_statistics
    if table is None:
        raise UsageError(f"no statistics come with {bundle.name}'s codes; give pictures: --images")
    if isinstance(table, PublishedBounds):
        record = {
            "source": "published",
            "by": table.source,
            "class": None,
            "sigmas": sigmas,
            "bundle": bundle.name,
        }
        return Statistics(*published_bounds(table, sigmas), record=record)
    mean, std = (
        (table.mean, table.std)
        if label is None
        else (table.class_mean[label.index], table.class_std[label.index])
    )
    record = _record(bundle, "bundle", None if label is None else str(label), sigmas, None)
    return _statistics(mean, std, sigmas, record, bundle.code_floor)


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


def find_label(bundle: Bundle, query: str) -> tuple[Label, bool]:
    """The class that `query` means, and whether the bundle's own table has it.

    Looks in the bundle's classes first, then in ImageNet's; raises UsageError like `Labels.find`.
    """
    where, label = find_class(query, (bundle.labels, imagenet_labels()))
    return label, where == 0 and isinstance(bundle.code_statistics, CodeStatistics)


def _record(
    bundle: Bundle, source: str, class_name: str | None, sigmas: float, count: int | None
) -> dict[str, Any]:
    return {
        "source": source,
        "class": class_name,
        "sigmas": sigmas,
        "count": count,
        "bundle": bundle.name,
        "encoder_sha256": bundle.encoder.sha256,
    }


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
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; 'gradgen stats' makes one") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if content[:4] == b"PK\x03\x04":
        return _read_npz(path, content)
    return _read_text(path, content)


def _read_npz(path: Path, content: bytes) -> Statistics:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        record = json.loads(arrays.pop("record").item())
        if record.pop("format") != FORMAT:
            raise KeyError("format")
        lower, upper = arrays["lower"], arrays["upper"]
    except Exception as error:  # a broken zip raises zlib.error, BadZipFile, ValueError, EOFError …
        raise UsageError(
            f"{path} is no statistics file of 'gradgen stats', or is broken"
        ) from error
    _check(path, lower, upper)
    return Statistics(
        lower, upper, arrays.get("mean"), arrays.get("std"), {**record, "file": str(path)}
    )


def _read_text(path: Path, content: bytes) -> Statistics:
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
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise UsageError(f"{path}: bounds that are not finite")
    wrong = np.flatnonzero(lower > upper)
    if wrong.size:
        unit = int(wrong[0])
        raise UsageError(f"{path}: unit {unit} has bounds {lower[unit]:g} > {upper[unit]:g}")


# --- plot -------------------------------------------------------------------------------------


def statistics_figure(statistics: Statistics, title: str = "") -> Figure:
    """Mean and bounds of every unit, and the standard deviations, units sorted by mean.

    Where the bounds come from a text file, only they are drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.5), layout="constrained")
    mean, std = statistics.mean, statistics.std
    order = np.argsort(statistics.upper if mean is None else mean, kind="stable")
    units = np.arange(len(order))
    rows = 1 if std is None else 2
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    axes[0].fill_between(
        units,
        statistics.lower[order],
        statistics.upper[order],
        step="mid",
        alpha=0.25,
        linewidth=0,
        label="between the bounds",
    )
    if mean is not None and std is not None:
        axes[0].plot(units, mean[order], linewidth=1.2, label="mean")
        axes[0].axhline(0.0, color="black", linewidth=0.6, linestyle=":")
        axes[1].plot(units, std[order], ".", markersize=3)
        axes[1].axhline(1.0, color="black", linewidth=0.6, linestyle=":", label="the prior's")
        axes[1].set_ylim(bottom=0.0)
        axes[1].set_ylabel("standard deviation")
        axes[1].legend(loc="best", fontsize="small")
    axes[0].set_ylabel("code")
    axes[0].legend(loc="best", fontsize="small")
    axes[-1].set_xlabel("code unit, sorted by " + ("upper bound" if mean is None else "mean"))
    for axis in axes:
        axis.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, atomically."""
    write_atomically(Path(path), png_bytes(figure))
