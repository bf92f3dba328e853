"""What each code unit is like over real images, and the box that a class gets by that.

Both kinds of table, measured moments and published bounds, are asked alike (:class:`BoundsTable`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gradgen.errors import UsageError
from gradgen.labels import Label, Labels

ENOUGH_PHOTOGRAPHS = 30  # effective ones, for a class to be told by its own alone


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of every code unit.

    Attributes:
        lower, upper: (code,) float32.
        scope: whose they are: "class", "all" classes' together, or "file" (a user's own).
        fell_back: whether they are all classes' because the table lacks the class.
        mean, std: (code,) float32, of the codes that they were made from, where those are known.
        origin: where they come from, as JSON can hold it.
    """

    lower: np.ndarray
    upper: np.ndarray
    scope: str
    fell_back: bool = False
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


class BoundsTable(Protocol):
    """What comes with a generator's codes, to keep chains among the codes of real images."""

    def knows(self, label: Label) -> bool:
        """Whether the table has numbers of this class alone."""

    def bounds(self, label: Label | None, sigmas: float, scope: str | None = None) -> Box:
        """The box of a class.

        Args:
            label: in any list of classes; ``None`` for all classes together.
            sigmas: the bounds' distance from the mean, in standard deviations.
            scope: "class" or "all"; ``None``: the class's own where the table knows it.

        Raises:
            UsageError: the scope or so many standard deviations are not to be had.
        """


@dataclass(frozen=True, eq=False)
class CodeStatistics:
    """Mean and standard deviation of real images' codes, per class and over all.

    Attributes:
        class_mean, class_std: (num_classes, code_size).
        mean, std: (code_size,).
        labels: the classes, in the order of the rows.
        source: whose they are, for messages: the bundle's name.
        floor: what no code of a real image is below (0 after a rectifier), or ``None``.
    """

    class_mean: np.ndarray
    class_std: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    labels: Labels
    source: str
    floor: float | None = None

    def knows(self, label: Label) -> bool:
        return self._row(label) is not None

    def bounds(self, label: Label | None, sigmas: float, scope: str | None = None) -> Box:
        row = None if label is None else self._row(label)
        if label is not None and row is None and scope == "class":
            raise UsageError(
                f"{self.source} has no statistics of {label.name}; use `clip_scope=all`, or make "
                f"some with 'gradgen stats --class {label.synset or label.name}' and give them as "
                "`statistics`"
            )
        if row is None or scope == "all":
            mean, std, found = self.mean, self.std, "all"
        else:
            mean, std, found = self.class_mean[row], self.class_std[row], "class"
        lower, upper = clip_bounds(mean, std, sigmas, self.floor)
        fell_back = label is not None and row is None and scope is None
        return Box(lower, upper, found, fell_back, mean, std, {"source": "bundle"})

    def _row(self, label: Label) -> int | None:
        """Where the class is: classes of other lists are the same if their synset ids are."""
        if label.index < len(self.labels) and self.labels[label.index] == label:
            return label.index
        same = self.labels.by_synset(label.synset)
        return None if same is None else same.index


@dataclass(frozen=True, eq=False)
class WeightedStatistics:
    """Mean and standard deviation of photographs' codes, for classes that nobody labelled them by.

    Every photograph counts for every class, by a classifier's p(class | photograph). Where few are
    of a class, its numbers are drawn towards those of all photographs: they count by n / 30, n the
    effective number of photographs, and those of all by the rest. So the box is that of the mixture
    of the two.

    Attributes:
        class_mean, class_std: (num_classes, code_size), as weighted.
        effective: (num_classes,) 1 / Σ w², w the normalised weights.
        expected: (num_classes,) Σ p, how many photographs of the class there are by the classifier.
        mean, std: (code_size,), of all photographs.
        labels: the classes, in the order of the rows.
        source: whose they are, for messages: the bundle's name.
        floor: what no code of a real image is below, or ``None``.
    """

    class_mean: np.ndarray
    class_std: np.ndarray
    effective: np.ndarray
    expected: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    labels: Labels
    source: str
    floor: float | None = None

    def knows(self, label: Label) -> bool:
        return self.labels.by_synset(label.synset) is not None

    def bounds(self, label: Label | None, sigmas: float, scope: str | None = None) -> Box:
        own = None if label is None or scope == "all" else self.labels.by_synset(label.synset)
        if own is None:
            if label is not None and scope != "all":
                raise UsageError(f"{self.source} has no statistics of {label.name}")
            lower, upper = clip_bounds(self.mean, self.std, sigmas, self.floor)
            return Box(lower, upper, "all", False, self.mean, self.std, {"source": "photographs"})
        number = float(self.effective[own.index])
        share = min(1.0, number / ENOUGH_PHOTOGRAPHS)
        mean, std = mixture(
            share, self.class_mean[own.index], self.class_std[own.index], self.mean, self.std
        )
        origin = {
            "source": "photographs",
            "effective_photographs": number,
            "expected_photographs": float(self.expected[own.index]),
            "own_share": share,
        }
        lower, upper = clip_bounds(mean, std, sigmas, self.floor)
        return Box(lower, upper, "class", False, mean, std, origin)


def mixture(
    share: float, mean: np.ndarray, std: np.ndarray, other_mean: np.ndarray, other_std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a mixture: ``share`` of the first part, the rest the other."""
    rest = 1 - share
    between = share * rest * (mean - other_mean) ** 2
    variance = share * std**2 + rest * other_std**2 + between
    return share * mean + rest * other_mean, np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class PublishedBounds:
    """Upper bounds of every code unit that somebody measured and published; the lower ones are 0.

    Attributes:
        upper: {standard deviations above the mean: (code_size,) float32}.
        source: who published them.
    """

    upper: dict[float, np.ndarray]
    source: str

    def knows(self, label: Label) -> bool:
        return False

    def bounds(self, label: Label | None, sigmas: float, scope: str | None = None) -> Box:
        if scope == "class":
            name = "a class" if label is None else label.name
            raise UsageError(
                f"{self.source} published one set of bounds for all classes; measure those of "
                f"{name} by 'gradgen stats --images DIR', and give them as `statistics`"
            )
        if sigmas not in self.upper:
            there = ", ".join(f"{number:g}" for number in self.upper)
            raise UsageError(
                f"the bounds of {self.source} are for {there} standard deviations, not "
                f"{sigmas:g}; others: 'gradgen stats --images DIR --sigmas'"
            )
        upper = self.upper[sigmas]
        origin = {"source": "published", "by": self.source}
        return Box(np.zeros_like(upper), upper, "all", origin=origin)


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


def check_sigmas(sigmas: float) -> None:
    """UsageError unless positive and finite; to ask before the work rather than after it."""
    if not (np.isfinite(sigmas) and sigmas > 0):
        raise UsageError(f"sigmas must be a positive number, not {sigmas}")
