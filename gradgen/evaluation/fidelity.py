"""Metrics of sets of pictures as they were published, over any features: FID, KID, precision and
recall, density and coverage.

Each says how a set of pictures lies to a set of photographs. Features are (n, d), a row for each
picture. The published numbers are over Inception's features; over another network's, lite1's by
default here, the numbers are others, and only comparable with each other.

Values depend on how many pictures and photographs there are: FID is biased upwards by few of them,
and radii to neighbours shrink with many. So each is refused below a number (:data:`LEAST`), and
runs are to be compared with equally many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradgen.evaluation.metrics import Value, quantiles_of_mean

# Pictures, and photographs, below which a metric is refused. KID is unbiased, and below ten its
# interval says nothing; a neighbourhood of three or five among less than fifty is no neighbourhood;
# FID compares covariances, of whose axes n pictures can only see n - 1.
LEAST = {"fid": 500, "kid": 10, "precision": 50, "recall": 50, "density": 50, "coverage": 50}
NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5  # Kynkäänniemi et al. 2019; Naeem et al. 2020
KID_DRAWS, FID_DRAWS = 200, 50  # of the bootstrap; a draw of FID's takes a singular decomposition


# --- the metrics ------------------------------------------------------------------------------


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet inception distance (Heusel et al. 2017): of the normal distributions of both sets.

    |μ - ν|² + tr(Σ + T - 2 (Σ T)^½), Σ and T the sample covariances (divided by n - 1). With
    Σ = A Aᵀ and T = B Bᵀ the last trace is the sum of the singular values of Aᵀ B, which needs no
    square root of a matrix and is exact for singular covariances too.
    """
    return _frechet(np.asarray(features, np.float64), np.asarray(reference, np.float64))


def _frechet(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = x.mean(0), y.mean(0)
    a = (x - mean_x) / np.sqrt(len(x) - 1)
    b = (y - mean_y) / np.sqrt(len(y) - 1)
    # triangular factors have the same products, and are small where there are few dimensions
    overlap = np.linalg.svd(_triangle(a) @ _triangle(b).T, compute_uv=False).sum()
    return float(np.sum((mean_x - mean_y) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * overlap)


def _triangle(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.qr(rows, mode="r"))


def kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Kernel inception distance (Bińkowski et al. 2018): the unbiased squared MMD, kernel
    (x·y / d + 1)³. Negative values are chance."""
    if len(features) < 2 or len(reference) < 2:
        raise ValueError("a kernel distance takes at least two pictures on either side")
    return _Kernels.of(features, reference).distance(
        np.ones(len(features)), np.ones(len(reference))
    )


@dataclass(frozen=True, eq=False)
class _Kernels:
    """The kernel within and between two sets of m and n pictures."""

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, reference: np.ndarray) -> _Kernels:
        x, y = np.asarray(features, np.float64), np.asarray(reference, np.float64)

        def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return (a @ b.T / x.shape[1] + 1) ** 3

        return cls(kernel(x, x), kernel(y, y), kernel(x, y))

    def distance(self, times: np.ndarray, times_real: np.ndarray) -> float:
        """The distance of sets that hold picture i ``times[i]`` times, photographs likewise."""
        m, n = times.sum(), times_real.sum()
        within_x = times @ self.xx @ times - times @ np.diag(self.xx)
        within_y = times_real @ self.yy @ times_real - times_real @ np.diag(self.yy)
        between = times @ self.xy @ times_real
        return float(within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * between / (m * n))


def precision_and_recall(
    features: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Around each picture of a set lies a ball up to its k-th neighbour in that set; their union is
    where the set lives.

    Returns:
        Whether each picture (n,) lies where the photographs live, and whether each photograph (m,)
        lies where the pictures live. Their means are precision and recall.
    """
    distances = _distances(features, reference)
    real, made = _radii(reference, neighbours), _radii(features, neighbours)
    among_real, among_made = distances <= real, distances <= made[:, None]
    return np.any(among_real, axis=1), np.any(among_made, axis=0)


def density_and_coverage(
    features: np.ndarray, reference: np.ndarray, neighbours: int = DENSITY_NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """Density and coverage (Naeem et al. 2020, eq. 4 and 5), which outliers disturb less.

    Returns:
        For each picture (n,) the number of photographs' balls that hold it over k, and for each
        photograph (m,) whether its ball holds a picture. Their means are density, which may exceed
        1, and coverage.
    """
    inside = _distances(features, reference) < _radii(reference, neighbours)
    return inside.sum(1) / neighbours, np.any(inside, axis=0)


def _distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) of rows (n, d) and (m, d)."""
    x, y = np.asarray(features, np.float64), np.asarray(others, np.float64)
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def _radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """(n,) the distance of each row to its k-th neighbour, itself not counted."""
    distances = _distances(features, features)
    np.fill_diagonal(distances, 0)  # rounding must not make a row its own neighbour
    return np.partition(distances, neighbours, axis=1)[:, neighbours]


# --- with intervals ---------------------------------------------------------------------------


def fidelity(
    features: np.ndarray, reference: np.ndarray, seed: int = 0
) -> tuple[dict[str, Value], list[str]]:
    """All metrics with 95 % bootstrap intervals, and what was refused.

    FID's and KID's intervals come from drawing pictures and photographs anew, moved so that the
    draws' mean is at the value: a set drawn with repetitions is not as spread out as the set, which
    shifts both. The others are means over pictures or photographs, and those are drawn anew, with
    the other side's balls as they are.

    Args:
        features: (n, d) of the pictures.
        reference: (m, d) of the photographs.
        seed: of the bootstrap.

    Returns:
        {"fid", "kid", "precision", "recall", "density", "coverage": value}, with None for a metric
        that is refused, and a sentence for those that are.
    """
    fewest = min(len(features), len(reference))
    found = {key: Value(None) for key in LEAST}
    if fewest >= LEAST["kid"]:
        found["kid"] = _kid(features, reference, seed)
    if fewest >= LEAST["precision"]:
        precision, recall = precision_and_recall(features, reference)
        density, coverage = density_and_coverage(features, reference)
        columns = {
            "precision": precision, "recall": recall, "density": density, "coverage": coverage,
        }  # fmt: skip
        for key, column in columns.items():
            low, high = quantiles_of_mean(column.astype(float), seed=seed)
            found[key] = Value(float(column.mean()), low, high)
    if fewest >= LEAST["fid"]:
        found["fid"] = _fid(features, reference, seed)
    refused: dict[int, list[str]] = {}
    for key, least in LEAST.items():
        if fewest < least:
            refused.setdefault(least, []).append(key.upper() if len(key) == 3 else key)
    notes = [
        f"no {', '.join(names)}, which needs at least {least} pictures and {least} photographs; "
        f"there are {len(features)} and {len(reference)}"
        for least, names in sorted(refused.items())
    ]
    return found, notes


def _kid(features: np.ndarray, reference: np.ndarray, seed: int) -> Value:
    rng = np.random.default_rng(seed)
    kernels = _Kernels.of(features, reference)
    m, n = kernels.xy.shape
    draws = [
        kernels.distance(
            rng.multinomial(m, np.full(m, 1 / m)).astype(float),
            rng.multinomial(n, np.full(n, 1 / n)).astype(float),
        )
        for _ in range(KID_DRAWS)
    ]
    return _centred(kernels.distance(np.ones(m), np.ones(n)), np.array(draws))


def _fid(features: np.ndarray, reference: np.ndarray, seed: int) -> Value:
    rng = np.random.default_rng(seed)
    x, y = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    draws = [
        _frechet(x[rng.choice(len(x), len(x))], y[rng.choice(len(y), len(y))])
        for _ in range(FID_DRAWS)
    ]
    return _centred(_frechet(x, y), np.array(draws))


def _centred(value: float, draws: np.ndarray) -> Value:
    low, high = np.quantile(draws, [0.025, 0.975]) - draws.mean()
    return Value(value, float(value + low), float(value + high))
