"""Measures the accuracy and calibration of lite0 or lite1, for its card. For developers only.

    python -m gradgen.tools.evaluate_lite lite0 --photos ../shared/data/imagenet-samples \
        --tiny ../shared/data/tiny-imagenet --write

The photographs are files named <synset>_<name>.jpg. ``--tiny`` is a folder with ``classes.txt`` and
``val.npz`` (Tiny ImageNet's validation images, 64 x 64). The tool measures photographs that are
cropped as by the original's authors, and 64 x 64 pictures that the loaded classifier enlarges, as
it does when it judges the pictures of tiny64. It reports the temperature that would fit best, but
does not apply it. The card says why.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradgen import runtime
from gradgen.tools.convert_lite import SOURCES

SMALL_SIDE = 64  # pixels of Tiny ImageNet's photographs
CROP_PADDING = 32  # the original looks at the central size/(size + 32) of the shorter side
COMMAND = (
    "python -m gradgen.tools.evaluate_lite {variant} --photos ../shared/data/imagenet-samples "
    "--tiny ../shared/data/tiny-imagenet --write"
)


def original_crop(image: Image.Image, size: int) -> Image.Image:
    """Cut out a centre square and resize it with a bicubic filter, as the original's authors do."""
    width, height = image.size
    side = min(width, height) * size / (size + CROP_PADDING)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def read_photos(folder: Path) -> tuple[list[Image.Image], np.ndarray]:
    """Read photographs named <synset>_….jpg and their ImageNet indices (n,)."""
    from gradgen.images import decode
    from gradgen.labels import imagenet_labels

    paths = sorted(folder.glob("n????????_*"))
    indices = [imagenet_labels().find(path.name.split("_")[0]).index for path in paths]
    return [decode(path) for path in paths], np.asarray(indices)


def read_tiny(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read Tiny ImageNet's validation images.

    Returns:
        The images (n, 64, 64, 3) uint8 and their ImageNet indices (n,).
    """
    from gradgen.datasets import load_held_out
    from gradgen.labels import Labels, imagenet_labels

    val = load_held_out(folder, SMALL_SIDE)
    classes = Labels.from_lines(val.classes)
    to_imagenet = np.asarray([imagenet_labels().find(label.synset).index for label in classes])
    return val.images, to_imagenet[val.labels]


def logits_of(classifier: Any, images: np.ndarray) -> np.ndarray:
    """Compute the uncalibrated logits (n, 1000) float64 of uint8 images (n, H, W, 3)."""
    from gradgen.networks.stream import apply_in_batches

    return apply_in_batches(classifier.logits, classifier.params, images).astype(np.float64)


def metrics(logits: np.ndarray, indices: np.ndarray, temperature: float) -> dict[str, float]:
    """Compute accuracy, mean log-likelihood of the right class and calibration error.

    Args:
        logits: (n, 1000).
        indices: (n,) right classes.
        temperature: divides the logits.
    """
    from gradgen.evaluation.metrics import calibration_error, log_softmax, top1_and_top5

    log_p = log_softmax(logits / temperature)
    own = log_p[np.arange(len(log_p)), indices]
    top1, top5 = top1_and_top5(log_p, indices)
    return {
        "images": len(log_p),
        "temperature": round(temperature, 4),
        "top1": round(top1, 4),
        "top5": round(top5, 4),
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

    from gradgen.networks.load import load_classifier
    from gradgen.training.classifier import fit_temperature
    from gradgen.weights.cards import read_card, write_card
    from gradgen.weights.store import weights_dir

    classifier = load_classifier(arguments.variant)
    photos, photo_indices = read_photos(arguments.photos)
    size = classifier.input_size
    cropped = np.stack([np.asarray(original_crop(photo, size)) for photo in photos])
    photo_logits = logits_of(classifier, cropped)

    tiny, tiny_indices = read_tiny(arguments.tiny)
    tiny_logits = logits_of(classifier, tiny)
    temperature = classifier.card.temperature

    def figures_of(data: str, logits: np.ndarray, indices: np.ndarray) -> dict[str, Any]:
        # fit_temperature differentiates with JAX, which takes float32.
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
        write_card(
            folder, {**read_card(folder).content, "metrics": {"command": command, **figures}}
        )


if __name__ == "__main__":
    main()
