"""From trained networks to a bundle's folder: temperature, figures, card."""

from __future__ import annotations

import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.datasets import Dataset
from gradgen.evaluation.metrics import auc, calibration_error, log_softmax, psnr, top1_and_top5
from gradgen.files import file_sha256
from gradgen.images import from_uint8
from gradgen.models.tiny64 import IMAGE_SIZE, Discriminator, Encoder, Generator, Sizes
from gradgen.networks.stream import apply_in_batches, pure_function
from gradgen.training.classifier import (
    encode_all,
    fit_temperature,
    predict_logits,
)
from gradgen.training.whitening import Whitening, whiten
from gradgen.weights.cards import write_card
from gradgen.weights.store import save_arrays, save_module

BATCH_SIZE = 250  # pictures of 64 x 64


def measure_classifier(encoder: Encoder, val: Dataset) -> tuple[float, dict[str, float]]:
    """Temperature fitted on the validation images, and accuracy and calibration there."""
    logits = predict_logits(encoder, val.images).astype(np.float64)
    temperature = fit_temperature(logits, val.labels)

    log_p, raw = log_softmax(logits / temperature), log_softmax(logits)
    top1, top5 = top1_and_top5(log_p, val.labels)
    return temperature, {
        "val_top1": top1,
        "val_top5": top5,
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
    sizes = Sizes(encoder.sizes, generator.sizes, discriminator.sizes)
    save_module(folder / "classifier.safetensors", encoder)
    save_module(folder / "generator.safetensors", generator)
    save_module(folder / "discriminator.safetensors", discriminator)
    transform = {"fc6_mean": whitening.mean, "whitening": whitening.kernel}
    save_arrays(folder / "codes.safetensors", {**transform, **statistics}, half=False)
    card = {
        "name": name,
        "kind": "bundle",
        "architecture": {"name": "tiny64", "sizes": sizes.for_card()},
        "code_size": generator.code_size,
        "image_size": IMAGE_SIZE,
        "temperature": temperature,
        "preprocessing": "RGB, pixel / 127.5 - 1",
        "code": "read off fc6 before its rectifier by a regression on g(z), then N(0, I) over the "
        "training images in mean and covariance; the largest of the first units, one a class, "
        "says which class a code is of",
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
    generate, discriminate = pure_function(generator), pure_function(discriminator)
    rebuilt, dreamt = (apply_in_batches(*generate, z, BATCH_SIZE) for z in (codes, noise))
    target = from_uint8(real)
    on_real = apply_in_batches(*discriminate, target, BATCH_SIZE)
    on_fake = apply_in_batches(*discriminate, dreamt, BATCH_SIZE)
    return {
        "reconstruction_psnr_db": psnr(rebuilt, target, span=2.0),
        "discriminator_auc": auc(on_real, on_fake),
        "discriminator_log_probability_val": float(-np.logaddexp(0, -on_real).mean()),
        "discriminator_log_probability_prior": float(-np.logaddexp(0, -on_fake).mean()),
    }
