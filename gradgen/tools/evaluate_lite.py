"""Measures the accuracy and calibration of lite0 or lite1, for its card. For developers only.

    python -m gradgen.tools.evaluate_lite lite0 --photos ../shared/data/imagenet-samples \
        --tiny ../shared/data/tiny-imagenet --write

Photos are files named <synset>_<name>.jpg; `--tiny` is a folder with `classes.txt` and `val.npz`
(Tiny ImageNet's validation images, 64 x 64). Two situations are measured: photographs cropped as
the original's authors do, and 64 x 64 pictures enlarged by the loaded classifier,
which is how it judges the pictures of tiny64. The temperature that would fit best is reported and
not applied: see the card.
"""

from __future__ import annotations

import argparse
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradgen import runtime
from gradgen.tools.convert_lite import SOURCES

CROP_PADDING = 32  # the original evaluates the central size/(size + 32) of the shorter side
COMMAND = (
    "python -m gradgen.tools.evaluate_lite {variant} --photos ../shared/data/imagenet-samples "
    "--tiny ../shared/data/tiny-imagenet --write"
)


def original_crop(image: Image.Image, size: int) -> Image.Image:
    """The original's evaluation crop: a centre square, resized with a bicubic filter."""
    width, height = image.size
    side = min(width, height) * size / (size + CROP_PADDING)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def read_photos(folder: Path) -> tuple[list[Image.Image], np.ndarray]:
    """Photographs named <synset>_….jpg and their ImageNet indices."""
    from gradgen.images import decode
    from gradgen.labels import imagenet_labels

    paths = sorted(folder.glob("n????????_*"))
    indices = [imagenet_labels().find(path.name.split("_")[0]).index for path in paths]
    return [decode(path) for path in paths], np.asarray(indices)


def read_tiny(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tiny ImageNet's validation images (n, 64, 64, 3) uint8 and their ImageNet indices (n,)."""
    from gradgen.labels import Labels, imagenet_labels

    classes = Labels.from_lines((folder / "classes.txt").read_text(encoding="utf-8").splitlines())
    to_imagenet = np.asarray([imagenet_labels().find(label.synset).index for label in classes])
    with np.load(folder / "val.npz") as shard:
        data, offset, label = shard["jpeg"].tobytes(), shard["offset"], shard["label"]
    blobs = [io.BytesIO(data[a:b]) for a, b in pairwise(offset)]
    images = np.stack([np.asarray(Image.open(blob).convert("RGB")) for blob in blobs])
    return images, to_imagenet[label]


def logits_of(classifier: Any, images: np.ndarray) -> np.ndarray:
    """Uncalibrated logits (n, 1000) float64 of uint8 images (n, H, W, 3)."""
    from gradgen.evaluation.features import evaluate

    return evaluate(classifier.logits, classifier.params, images).astype(np.float64)


def metrics(logits: np.ndarray, indices: np.ndarray, temperature: float) -> dict[str, float]:
    """Accuracy, mean log-likelihood of the right class and calibration error at a temperature."""
    from gradgen.evaluation.metrics import ranks
    from gradgen.training.classifier import calibration_error

    scaled = logits / temperature
    shifted = scaled - scaled.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    own = log_p[np.arange(len(log_p)), indices]
    rank = ranks(log_p, indices)
    return {
        "images": len(log_p),
        "temperature": round(temperature, 4),
        "top1": round(float((rank < 1).mean()), 4),
        "top5": round(float((rank < 5).mean()), 4),
        "log_likelihood": round(float(own.mean()), 4),
        "calibration_error": round(calibration_error(log_p, indices), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=list(SOURCES))
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--tiny", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="put the figures into the card")
    arguments = parser.parse_args()
    runtime.configure()

    from gradgen.bundle import load_classifier
    from gradgen.training.classifier import fit_temperature
    from gradgen.weights.store import read_card, weights_dir, write_card

    classifier = load_classifier(arguments.variant)
    photos, photo_indices = read_photos(arguments.photos)
    size = int(classifier.card["input_size"])
    cropped = np.stack([np.asarray(original_crop(photo, size)) for photo in photos])
    photo_logits = logits_of(classifier, cropped)

    tiny, tiny_indices = read_tiny(arguments.tiny)
    tiny_logits = logits_of(classifier, tiny)
    temperature = float(classifier.card["temperature"])

    def figures_of(data: str, logits: np.ndarray, indices: np.ndarray) -> dict[str, Any]:
        # in float32: fit_temperature differentiates with JAX
        best = fit_temperature(logits.astype(np.float32), indices)
        return {
            "data": data,
            **metrics(logits, indices, temperature),
            "best_temperature": round(best, 3),
            "calibration_error_at_best": metrics(logits, indices, best)["calibration_error"],
        }

    figures = {
        "photographs": figures_of(
            f"{arguments.photos.name}, centre crop as the original evaluates",
            photo_logits,
            photo_indices,
        ),
        "small_pictures": figures_of(
            f"{arguments.tiny.name} val.npz, 64 x 64, enlarged to {size} x {size}",
            tiny_logits,
            tiny_indices,
        ),
    }
    print(json.dumps(figures, indent=2))
    if arguments.write:
        folder = weights_dir() / arguments.variant
        command = COMMAND.format(variant=arguments.variant)
        write_card(folder, {**read_card(folder), "metrics": {"command": command, **figures}})


if __name__ == "__main__":
    main()
