"""From the encoder's fc6 to codes z that are N(0, I) in mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from gradgen.training.data import Dataset


@dataclass(frozen=True)
class Whitening:
    """z = (fc6 - mean) @ kernel has zero mean and unit covariance over the training images.

    Attributes:
        mean: (fc6_size,).
        kernel: (fc6_size, code_size), the leading principal axes over their standard deviations.
        kept: share of fc6's variance that the kept axes hold.
    """

    mean: np.ndarray
    kernel: np.ndarray
    kept: float


def fit_whitening(fc6: np.ndarray, code_size: int) -> Whitening:
    """PCA-whitening of codes (n, fc6_size) to ``code_size`` dimensions."""
    mean = fc6.mean(0, dtype=np.float64)
    centred = fc6 - mean
    variance, axes = np.linalg.eigh(centred.T @ centred / len(fc6))
    order = np.argsort(variance)[::-1][:code_size]
    kernel = axes[:, order] / np.sqrt(variance[order])
    kept = variance[order].sum() / variance.sum()
    return Whitening(mean.astype(np.float32), kernel.astype(np.float32), float(kept))


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
