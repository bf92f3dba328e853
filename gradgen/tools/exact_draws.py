"""How often lite1 names exact draws of a bundle's posterior. For developers only.

    python -m gradgen.tools.exact_draws ten64 --data FOLDER

Draws of p(z | class) ∝ p(class | g(z))^β p(z) by rejection: z ~ N(0, I) is accepted with the
probability p(class | g(z))^β. No chain can err here, so that what is wrong with the pictures is
the networks' fault. lite1 has no part in training and sampling.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gradgen import runtime

runtime.configure()

import numpy as np  # noqa: E402

from gradgen.evaluation import metrics  # noqa: E402
from gradgen.evaluation.compare import JUDGE  # noqa: E402
from gradgen.evaluation.features import judge  # noqa: E402
from gradgen.evaluation.fidelity import kernel_distance  # noqa: E402
from gradgen.evaluation.quality import load_validation  # noqa: E402
from gradgen.labels import Labels  # noqa: E402
from gradgen.networks.load import load_bundle, load_classifier  # noqa: E402
from gradgen.networks.stream import apply_in_batches  # noqa: E402
from gradgen.runs.sample import draw  # noqa: E402

WEIGHTS = (1.0, 3.0)


def accept(
    log_p: np.ndarray, weight: float, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which draws of the prior are draws of which class's posterior: (rows, classes).

    log_p: (n, classes), of n draws of the prior; most: accepted draws of a class that are kept.
    """
    accepted = np.log(rng.random(log_p.shape)) < weight * log_p
    rows = [np.flatnonzero(column)[:most] for column in accepted.T]
    classes = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return np.concatenate(rows), classes


def named(
    verdicts: np.ndarray, features: np.ndarray, classes: np.ndarray, labels: Labels, own: np.ndarray
) -> dict[str, Any]:
    """How often the judge names pictures, and how they differ within a class.

    Args:
        verdicts, features: of the pictures, by :func:`gradgen.evaluation.features.judge`.
        classes: (n,) which class each picture is of.
        labels: of these classes.
        own: for each of them the judge's own index.
    """
    rank = metrics.ranks(verdicts, own[classes])
    return {
        "pictures": len(classes),
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
        "top5 by class": {
            label.name: round(float((rank < 5)[classes == label.index].mean()), 3)
            for label in labels
            if (classes == label.index).any()
        },
        "diversity": float(
            np.mean(
                [
                    metrics.mean_cosine_distance(features[classes == index])
                    for index in np.unique(classes)
                    if (classes == index).sum() > 1
                ]
            )
        ),
    }


def measure(name: str, data: Path, draws: int, most: int, seed: int) -> dict[str, Any]:
    """Names, distances and diversity by lite1; {kind of pictures: figures}."""
    bundle, classifier = load_bundle(name), load_classifier(JUDGE)
    val = load_validation(data, bundle, lambda *_: None)
    own = np.array([classifier.labels.find(label.synset).index for label in bundle.labels])
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((draws, bundle.code_size)).astype(np.float32)
    images = draw(bundle, z)
    log_p = apply_in_batches(bundle.classifier.apply, bundle.classifier.params, images)
    kinds = {"photographs": (val.images, val.labels)}
    for weight in WEIGHTS:
        rows, classes = accept(log_p, weight, most, rng)
        kinds[f"exact draws, weight {weight:g}"] = images[rows], classes
    features = {}
    report: dict[str, Any] = {}
    for kind, (pictures, labels) in kinds.items():
        verdicts, features[kind] = judge(classifier, pictures)
        report[kind] = named(verdicts, features[kind], labels, bundle.labels, own)
    _, prior = judge(classifier, images[: 2 * len(val)])
    report["kid of g(N(0, I))"] = kernel_distance(prior, features["photographs"])
    report["share of classes under N(0, I)"] = np.exp(log_p).mean(0).round(3).tolist()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=2000, help="of the prior")
    parser.add_argument("--most", type=int, default=50, help="accepted draws of a class")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = measure(options.bundle, options.data, options.draws, options.most, options.seed)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
