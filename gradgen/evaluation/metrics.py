"""Numbers for sets of pictures, from pixels, features or log-probabilities, and intervals.

Features are (n, d), a row for each picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

# sRGB (IEC 61966-2-1) to CIE XYZ, D65 white
RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip
WHITE = RGB_TO_XYZ.sum(1)
LAB_EDGE = 6 / 29  # where CIE's f(t) turns from a cube root into a line
# Pictures, in all and of a class, below which no interval is given: draws of fewer say too little.
LEAST_ROWS, LEAST_IN_GROUP = 8, 3
MEAN_DRAWS = 1000  # of the bootstrap of a mean


@dataclass(frozen=True)
class Value:
    """A number and its 95 % bootstrap interval, each None where it makes no sense."""

    value: float | None
    low: float | None = None
    high: float | None = None


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Each row divided by its length; a row of zeros stays."""
    features = np.asarray(features, np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def mean_cosine_distance(features: np.ndarray) -> float | None:
    """Mean of 1 - cosine over all pairs of different rows; None for fewer than two rows."""
    rows = unit_rows(features)
    n = len(rows)
    if n < 2:
        return None
    total = np.sum(rows.sum(0) ** 2) - np.sum(rows**2)
    return float(1 - total / (n * (n - 1)))


def mean_distance_within(classes: Iterable[np.ndarray]) -> float | None:
    """Mean over classes of the mean cosine distance of a class's features (n, d).

    Classes of fewer than two rows do not count; None where no other is left.
    """
    found = [mean_cosine_distance(features) for features in classes]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def by_class(features: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
    """The rows (n, d) of each class that there is; classes: (n,)."""
    return [features[classes == index] for index in np.unique(classes)]


def vendi_score(features: np.ndarray) -> float:
    """Effective number of different rows under the cosine kernel (Friedman & Dieng 2023).

    exp of the entropy of the eigenvalues of K / n, K the rows' cosines: 1 if all rows are alike,
    n if they are orthogonal.
    """
    rows = unit_rows(features)
    values = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)
    values = values[values > 1e-15]
    return float(np.exp(-np.sum(values * np.log(values))))


def saturated_share(images: np.ndarray) -> np.ndarray:
    """(n,) share of the colour values that are 0 or 255, of images (n, H, W, 3) uint8."""
    limits = (images == 0) | (images == 255)
    return limits.reshape(len(images), -1).mean(1)


def mean_chroma(images: np.ndarray) -> np.ndarray:
    """(n,) mean CIELAB chroma sqrt(a² + b²) of images (n, H, W, 3) uint8 sRGB, white D65.

    0 for grey; about 130 for the purest blue.
    """
    values = np.arange(256) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratios = (linear[images] @ RGB_TO_XYZ.T) / WHITE
    f = np.where(ratios > LAB_EDGE**3, np.cbrt(ratios), ratios / (3 * LAB_EDGE**2) + 4 / 29)
    a, b = 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    return np.hypot(a, b).reshape(len(images), -1).mean(1)


def ranks(log_probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n,) how many classes are likelier than each row's own: 0 is top-1, below 5 is top-5."""
    own = np.take_along_axis(log_probabilities, np.asarray(classes)[:, None], 1)
    return (log_probabilities > own).sum(1)


def top1_and_top5(log_probabilities: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Shares of rows (n, num_classes) whose own class is the likeliest, and among the five."""
    rank = ranks(log_probabilities, classes)
    return float((rank < 1).mean()), float((rank < 5).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(n, num_classes) float64: each row less the logarithm of the sum of its exponentials."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def calibration_error(log_probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins of confidence (Guo et al. 2017, eq. 3)."""
    confidence = np.exp(log_probabilities.max(1))
    correct = log_probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).mean()
        for b in range(bins)
        if (bin_of == b).any()
    ]
    return float(np.sum(gaps))


def psnr(images: np.ndarray, others: np.ndarray, span: float = 255.0) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB.

    Args:
        images: (n, H, W, 3); others: as many.
        span: of the values: 255 for uint8, 2 for floating point in [-1, 1].
    """
    error = np.square(images.astype(np.float64) - others).reshape(len(images), -1).mean(1)
    least = span**2 * 1e-15  # equal pictures have 150 dB
    return float(np.mean(10 * np.log10(span**2 / np.maximum(error, least))))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive score is above a negative one; equal scores count half."""
    above = positive[:, None] > negative
    return float(above.mean() + 0.5 * (positive[:, None] == negative).mean())


def farthest_points(features: np.ndarray, count: int) -> list[int]:
    """``count`` rows, each as far as can be from those before it (Gonzalez 1985).

    The first is the row farthest from the mean; distances are Euclidean between unit rows. The
    earliest of equals is taken. Fewer rows than ``count``: all of them.
    """
    rows = unit_rows(features)
    chosen: list[int] = []
    nearest = np.linalg.norm(rows - rows.mean(0), axis=1)
    for _ in range(min(count, len(rows))):
        chosen.append(int(np.argmax(nearest)))
        distance = np.linalg.norm(rows - rows[chosen[-1]], axis=1)
        nearest = distance if len(chosen) == 1 else np.minimum(nearest, distance)
        nearest[chosen] = -1
    return chosen


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float | None]:
    """Mean of the clusters' means, and its standard error over clusters (None for n = 1).

    Pictures of a class are alike, so that the classes are the independent units.
    """
    means = np.array([values[clusters == name].mean() for name in np.unique(clusters)])
    error = None if len(means) < 2 else float(means.std(ddof=1) / np.sqrt(len(means)))
    return float(means.mean()), error


def sign_of_mean(
    mean: float, standard_error: float | None, count: int, level: float = 0.95
) -> int | None:
    """Whether a mean of ``count`` independent numbers is above 0 (1), below (-1) or cannot be told.

    Student's t with count - 1 degrees of freedom: with five classes a mean has to lie 2.8 standard
    errors away from 0, with two classes 12.7. None: it cannot be told.
    """
    if standard_error is None or count < 2:
        return None
    if abs(mean) <= t_quantile(count - 1, level) * standard_error:
        return None
    return 1 if mean > 0 else -1


def t_quantile(degrees: float, level: float = 0.95) -> float:
    """How many standard errors Student's t keeps within, on both sides, with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float | None],
    groups: Sequence[np.ndarray],
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Expanded percentile interval of a statistic of row numbers, drawn anew within each group.

    Draws from few rows vary less than the statistic does: by (k - 1) / k in variance for groups of
    k rows, and as a normal distribution where Student's t were right. So quantiles farther out are
    taken (Hesterberg 2015, "What teachers should know about the bootstrap", section 3.3).

    Args:
        statistic: takes (n,) row numbers; a draw for which it gives None is left out.
        groups: row numbers of each class.
        draws: how many.
        level: the probability that the interval is to hold the truth with.
        seed: of the draws.

    Returns:
        The limits, or None where no draw gives a number, where there are fewer than LEAST_ROWS rows
        in all, or fewer than LEAST_IN_GROUP in a group.
    """
    if not can_be_drawn_anew(groups):
        return None
    total, smallest = sum(map(len, groups)), min(map(len, groups))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        value = statistic(rows)
        if value is not None and np.isfinite(value):
            found.append(value)
    if not found:
        return None
    wider = math.sqrt(smallest / (smallest - 1)) * t_quantile(total - len(groups), level)
    outside = NormalDist().cdf(-wider)
    low, high = np.quantile(found, [outside, 1 - outside])
    return float(low), float(high)


def can_be_drawn_anew(groups: Sequence[np.ndarray]) -> bool:
    """Whether there are LEAST_ROWS rows in all, and LEAST_IN_GROUP in each, for an interval."""
    sizes = [len(group) for group in groups]
    return sum(sizes) >= LEAST_ROWS and min(sizes) >= LEAST_IN_GROUP


def quantiles_of_mean(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (n,), of which there are many."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(MEAN_DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
