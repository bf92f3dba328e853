"""Looking at a generator in training now and then: how far from photographs, and pictures of it.

The best generator by the distance to held-out photographs is kept, since a generative adversarial
network does not get better all the time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradgen.datasets import Dataset
from gradgen.errors import GradgenError
from gradgen.evaluation.fidelity import kernel_distance
from gradgen.evaluation.metrics import by_class, mean_distance_within
from gradgen.images import image_grid
from gradgen.models.efficientnet import EfficientNetLite
from gradgen.models.tiny64 import Generator, class_of_codes
from gradgen.training.drawn import draw
from gradgen.training.teacher import LinearClassifier, lite0_features
from gradgen.weights.store import load_module, save_module

PICTURES = 1000  # that the distance is taken of
SECONDS = 300.0  # between two looks
ROWS, COLUMNS = 10, 10  # of the strip: the first classes, their first pictures


class Watch:
    """Looks at a generator when it is time to, and keeps what it saw in a folder.

    ``looks.jsonl`` has a line a look, ``looks/STEP.png`` pictures of each class and
    ``best.safetensors`` the generator with the least distance.

    Args:
        lite0: whose features the distance is taken in.
        naming: on these features; how many pictures does it call what their codes say?
        val: held-out photographs.
        seconds: between two looks.
        on_look: called with each line.
    """

    def __init__(
        self,
        folder: Path,
        lite0: EfficientNetLite,
        naming: LinearClassifier,
        val: Dataset,
        seed: int,
        seconds: float = SECONDS,
        on_look: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.folder, self.lite0, self.naming = folder, lite0, naming
        self.num_classes = len(val.classes)
        self.photographs = lite0_features(lite0, val.images[: 2 * PICTURES])
        self.distance = mean_distance_within(by_class(self.photographs, val.labels[: 2 * PICTURES]))
        self.seed, self.seconds, self.on_look = seed, seconds, on_look
        self.last = -seconds

    def __call__(self, step: int, generator: Generator, final: bool = False) -> None:
        """Look, if the last look is long enough ago or this is the last chance."""
        if not final and time.monotonic() - self.last < self.seconds:
            return
        images, codes = draw(generator, PICTURES, self.seed)
        classes = np.asarray(class_of_codes(jnp.asarray(codes), self.num_classes))
        features = lite0_features(self.lite0, images)
        named = np.asarray(self.naming(jnp.asarray(features))).argmax(1)
        line: dict[str, Any] = {
            "step": step,
            "kid": kernel_distance(features, self.photographs),
            "agreement": float((named == classes).mean()),
            "diversity": self._diversity(features, classes),
        }
        best = min((look["kid"] for look in self.looks()), default=float("inf"))
        if line["kid"] < best:
            save_module(self.best, generator, half=False)
        with (self.folder / "looks.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
        self._draw(step, images, classes)
        if self.on_look is not None:
            self.on_look(line)
        self.last = time.monotonic()

    def looks(self) -> list[dict[str, Any]]:
        """What was seen so far, resumed trainings included."""
        path = self.folder / "looks.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def best(self) -> Path:
        """The file of the best generator."""
        return self.folder / "best.safetensors"

    def load_best(self, generator: Generator) -> Generator:
        """Fill a generator with the best one's weights.

        Raises:
            GradgenError: there has been no look.
        """
        if not self.best.exists():
            raise GradgenError(
                f"{self.folder} has no trained generator; run `stage=generator` first"
            )
        load_module(self.best, generator)
        return generator

    def _diversity(self, features: np.ndarray, classes: np.ndarray) -> float | None:
        """Mean distance within classes over that of photographs; None where they are too few."""
        distance = mean_distance_within(by_class(features, classes))
        return distance / self.distance if distance is not None and self.distance else None

    def _draw(self, step: int, images: np.ndarray, classes: np.ndarray) -> None:
        rows = [np.flatnonzero(classes == index)[:COLUMNS] for index in range(self.num_classes)]
        full = [row for row in rows if len(row) == COLUMNS][:ROWS]
        if not full:
            return
        path = self.folder / "looks" / f"{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        image_grid(images[np.concatenate(full)], COLUMNS).save(path, optimize=True)
