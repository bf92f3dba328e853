"""From trained networks to a bundle's folder: temperature, figures, card."""

from __future__ import annotations

import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from gradgen.evaluation.metrics import auc, ranks
from gradgen.models.tiny64 import IMAGE_SIZE, Discriminator, Encoder, Generator
from gradgen.training.classifier import (
    calibration_error,
    encode_all,
    fit_temperature,
    predict_logits,
)
from gradgen.training.data import Dataset
from gradgen.training.whitening import Whitening, whiten
from gradgen.weights.store import file_sha256, save_arrays, save_module, write_card


def training_codes(encoder: Encoder, train: Dataset) -> np.ndarray:
    """fc6 (n, fc6_size) of all training images."""
    return encode_all(encoder, train.images, "fc6")


def measure_classifier(encoder: Encoder, val: Dataset) -> tuple[float, dict[str, float]]:
    """Temperature fitted on the validation images, and accuracy and calibration there."""
    logits = predict_logits(encoder, val.images).astype(np.float64)
    temperature = fit_temperature(logits, val.labels)

    def log_softmax(values: np.ndarray) -> np.ndarray:
        shifted = values - values.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    log_p = log_softmax(logits / temperature)
    rank = ranks(log_p, val.labels)
    raw = log_softmax(logits)
    return temperature, {
        "val_top1": float((rank < 1).mean()),
        "val_top5": float((rank < 5).mean()),
        "val_log_likelihood": float(log_p[np.arange(len(log_p)), val.labels].mean()),
        "val_calibration_error": calibration_error(log_p, val.labels),
        "val_calibration_error_before_temperature": calibration_error(raw, val.labels),
    }


def export_bundle(
    folder: Path,
    name: str,
    *,
    encoder: Encoder,
    generator: Generator,
    discriminator: Discriminator,
    whitening: Whitening,
    statistics: dict[str, np.ndarray],
    train: Dataset,
    temperature: float,
    metrics: dict[str, float],
    training: dict[str, Any],
    licence: str,
    recommended: dict[str, Any],
) -> None:
    """Write the four safetensors files of a bundle and its card.

    Args:
        statistics: of the training images' codes (:func:`whitening.code_statistics`).
        training: what goes into the card under "training".
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_module(folder / "classifier.safetensors", encoder)
    save_module(folder / "generator.safetensors", generator)
    save_module(folder / "discriminator.safetensors", discriminator)
    transform = {"fc6_mean": whitening.mean, "whitening": whitening.kernel}
    save_arrays(folder / "codes.safetensors", {**transform, **statistics}, half=False)
    card = {
        "name": name,
        "kind": "bundle",
        "architecture": "tiny64",
        "code_size": int(whitening.kernel.shape[1]),
        "image_size": IMAGE_SIZE,
        "temperature": temperature,
        "preprocessing": "RGB, pixel / 127.5 - 1",
        "code": "PCA-whitened fc6 before its rectifier; z ~ N(0, I) over the training images in "
        "mean and covariance",
        "code_variance_kept": whitening.kept,
        "recommended": recommended,
        "metrics": metrics,
        "training": {
            **training,
            "data": train.source,
            "images": len(train),
            "date": datetime.date.today().isoformat(),
            "versions": {package: version(package) for package in ("jax", "flax", "optax")},
        },
        "licence": licence,
        "files": {
            f"{part}.safetensors": file_sha256(folder / f"{part}.safetensors")
            for part in ("classifier", "generator", "discriminator", "codes")
        },
        "labels": list(train.classes),
    }
    write_card(folder, card)


def measure_generator(
    encoder: Encoder,
    generator: Generator,
    discriminator: Discriminator,
    whitening: Whitening,
    val: Dataset,
    seed: int,
    count: int = 1000,
) -> dict[str, float]:
    """Reconstruction of validation images, and what the discriminator says of real and g(N(0, I)).

    ``discriminator_auc`` is the probability that a real image gets a higher logit than a
    generated one, a draw counting one half.
    """
    real = val.images[:count]
    codes = whiten(encode_all(encoder, real, "fc6"), whitening)
    noise = np.random.default_rng(seed).normal(size=codes.shape).astype(np.float32)
    rebuilt, dreamt = apply_in_batches(generator, codes), apply_in_batches(generator, noise)
    target = real / 127.5 - 1.0
    error = ((rebuilt - target) ** 2).mean((1, 2, 3))
    on_real = apply_in_batches(discriminator, target.astype(np.float32))
    on_fake = apply_in_batches(discriminator, dreamt)
    return {
        "reconstruction_psnr_db": float(np.mean(10 * np.log10(4.0 / error))),
        "discriminator_auc": auc(on_real, on_fake),
        "discriminator_log_probability_val": float(-np.logaddexp(0, -on_real).mean()),
        "discriminator_log_probability_prior": float(-np.logaddexp(0, -on_fake).mean()),
    }


def apply_in_batches(module: nnx.Module, inputs: np.ndarray, batch_size: int = 250) -> np.ndarray:
    """A module's outputs for many inputs, in float32."""
    graph, params = nnx.split(module)
    run = jax.jit(lambda params, batch: nnx.merge(graph, params)(batch))
    return np.concatenate(
        [
            np.asarray(run(params, inputs[start : start + batch_size]), np.float32)
            for start in range(0, len(inputs), batch_size)
        ]
    )
