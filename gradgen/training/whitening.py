"""From the encoder's fc6 to codes z that are N(0, I) in mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from gradgen.datasets import Dataset

LEAST_VARIANCE = 0.01  # a direction that hardly varies is not blown up by more than ten
RIDGE = 1e-3  # of the regression, on fc6 of unit variance


@dataclass(frozen=True)
class Whitening:
    """z = (fc6 - mean) @ kernel has zero mean and unit covariance over the training images.

    Attributes:
        mean: (fc6_size,).
        kernel: (fc6_size, code_size).
        kept: share of the variance of drawn pictures' z that fc6 tells.
    """

    mean: np.ndarray
    kernel: np.ndarray
    kept: float


def fit_whitening(fc6: np.ndarray, drawn_fc6: np.ndarray, codes: np.ndarray) -> Whitening:
    """Codes of photographs, as near as can be to the z that would draw them.

    A regression from fc6 to z over drawn pictures, then the least change (ZCA) that makes its
    results N(0, I) in mean and covariance over photographs: a regression alone draws what it is
    unsure of to zero.

    Args:
        fc6: (n, fc6_size) of photographs.
        drawn_fc6, codes: (m, fc6_size) and (m, code_size), of drawn pictures and their z.
    """
    centre = drawn_fc6.mean(0, dtype=np.float64)
    inputs = drawn_fc6 - centre
    gram = inputs.T @ inputs / len(inputs)
    ridge = RIDGE * np.trace(gram) / len(gram)
    slopes = np.linalg.solve(gram + ridge * np.eye(len(gram)), inputs.T @ codes / len(inputs))
    kept = 1 - np.mean((inputs @ slopes + codes.mean(0) - codes) ** 2) / np.mean(codes.var(0))

    mean = fc6.mean(0, dtype=np.float64)
    read = (fc6 - mean) @ slopes
    variance, axes = np.linalg.eigh(read.T @ read / len(read))
    scale = axes / np.sqrt(np.maximum(variance, LEAST_VARIANCE)) @ axes.T
    return Whitening(mean.astype(np.float32), (slopes @ scale).astype(np.float32), float(kept))


def code_statistics(codes: np.ndarray, train: Dataset) -> dict[str, np.ndarray]:
    """Mean and standard deviation of whitened codes (n, code_size), of all and of each class."""
    members = [codes[train.labels == index] for index in range(len(train.classes))]
    return {
        "mean": codes.mean(0),
        "std": codes.std(0, ddof=1),
        "class_mean": np.stack([m.mean(0) for m in members]),
        "class_std": np.stack([m.std(0, ddof=1) for m in members]),
    }


def whiten(fc6: np.ndarray, whitening: Whitening) -> np.ndarray:
    """Codes z (n, code_size) of fc6 activations (n, fc6_size)."""
    return np.asarray(
        (jnp.asarray(fc6) - whitening.mean) @ jnp.asarray(whitening.kernel), dtype=np.float32
    )
