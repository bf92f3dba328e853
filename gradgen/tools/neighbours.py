"""Does a generator copy its photographs? For developers only.

    python -m gradgen.tools.neighbours ten64 --data FOLDER

Pictures g(z), z ~ N(0, I), each beside the three training photographs of the bundle's classes that
are nearest to it in lite1's features (by cosine), flipped ones included. Beside the distances stand
those of held-out photographs to their own nearest training photographs: a generator that copied
would be nearer than these.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from gradgen import runtime

runtime.configure()

import numpy as np  # noqa: E402

from gradgen.datasets import load_datasets, only_classes  # noqa: E402
from gradgen.evaluation import metrics  # noqa: E402
from gradgen.evaluation.compare import JUDGE  # noqa: E402
from gradgen.evaluation.features import judge  # noqa: E402
from gradgen.files import write_atomically  # noqa: E402
from gradgen.images import image_grid  # noqa: E402
from gradgen.networks.load import load_bundle, load_classifier  # noqa: E402
from gradgen.runs.sample import draw  # noqa: E402
from gradgen.weights.store import weights_dir  # noqa: E402

SHOWN, DRAWN, NEAREST, ACROSS, QUALITY = 24, 200, 3, 3, 85


def nearest(features: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` rows of others nearest to each row by cosine: distances, indices (n, count)."""
    distances = 1 - metrics.unit_rows(features) @ metrics.unit_rows(others).T
    indices = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, indices, axis=1), indices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle, classifier = load_bundle(options.bundle), load_classifier(JUDGE)
    names = [label.synset or label.name for label in bundle.labels]
    train, val = (
        only_classes(data, names) for data in load_datasets(options.data, bundle.image_size)
    )
    rng = np.random.default_rng(options.seed)
    images = draw(bundle, rng.standard_normal((DRAWN, bundle.code_size)).astype(np.float32))
    drawn, held_out, known = (
        judge(classifier, pictures)[1]
        for pictures in (np.concatenate([images, images[:, :, ::-1]]), val.images, train.images)
    )
    distances, indices = nearest(drawn, known, NEAREST)
    flipped = distances[DRAWN:, 0] < distances[:DRAWN, 0]
    rows = np.arange(DRAWN) + DRAWN * flipped
    for name, found in (
        ("g(z)", distances[rows, 0]),
        ("held-out photographs", nearest(held_out, known, 1)[0][:, 0]),
    ):
        print(
            f"{name}: distance to the nearest of {len(train)} training photographs: "
            f"mean {found.mean():.3f}, least {found.min():.3f}"
        )
    shown = [
        np.concatenate([images[[row]], train.images[indices[rows[row]]]]) for row in range(SHOWN)
    ]
    buffer = io.BytesIO()
    grid = image_grid(np.concatenate(shown), ACROSS * (1 + NEAREST))
    grid.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    path = weights_dir() / options.bundle / "neighbours.jpg"
    write_atomically(path, buffer.getvalue())
    print(path)


if __name__ == "__main__":
    main()
