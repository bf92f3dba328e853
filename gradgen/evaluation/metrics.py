"""Numbers for sets of pictures, from pixels, features or log-probabilities. NumPy alone.

Features are (n, d) rows, one a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# sRGB (IEC 61966-2-1) to CIE XYZ, D65 white
RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip
WHITE = RGB_TO_XYZ.sum(1)
LAB_EDGE = 6 / 29  # where CIE's f(t) turns from a cube root into a line


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


def kid(features: np.ndarray, reference: np.ndarray) -> float:
    """Kernel inception distance: the unbiased squared MMD with kernel (x·y / d + 1)³.

    Binkowski et al. 2018, with whatever features are given. Negative values are chance.
    """
    x, y = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    m, n, size = len(x), len(y), x.shape[1]
    if m < 2 or n < 2:
        raise ValueError("a kernel distance takes at least two pictures on either side")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / size + 1) ** 3

    within_x, within_y = kernel(x, x), kernel(y, y)
    return float(
        (within_x.sum() - np.trace(within_x)) / (m * (m - 1))
        + (within_y.sum() - np.trace(within_y)) / (n * (n - 1))
        - 2 * kernel(x, y).mean()
    )


def ranks(log_probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n,) how many classes are likelier than each row's own: 0 is top-1, below 5 is top-5."""
    own = np.take_along_axis(log_probabilities, np.asarray(classes)[:, None], 1)
    return (log_probabilities > own).sum(1)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive score is above a negative one; equal ones count half."""
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
    """Mean of the clusters' means, and its standard error over clusters (None for one).

    Pictures of one class are alike, so that the classes are the independent units.
    """
    means = np.array([values[clusters == name].mean() for name in np.unique(clusters)])
    error = None if len(means) < 2 else float(means.std(ddof=1) / np.sqrt(len(means)))
    return float(means.mean()), error


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float | None],
    groups: Sequence[np.ndarray],
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of a statistic of row numbers, drawn anew within each group.

    Args:
        statistic: takes (n,) row numbers; a draw for which it gives None is left out.
        groups: row numbers of each class.

    Returns None where no draw gives a number.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        value = statistic(rows)
        if value is not None and np.isfinite(value):
            found.append(value)
    if not found:
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
