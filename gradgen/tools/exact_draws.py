"""How often lite1 names exact draws of a bundle's posterior. For developers only.

    python -m gradgen.tools.exact_draws ten64 --data FOLDER
    python -m gradgen.tools.exact_draws ten64 --data FOLDER --draws 8000 --realism 0.5 1 2

Draws of p(z | class) ∝ p(class | g(z))^β p(z) by rejection: z ~ N(0, I) is accepted with the
probability p(class | g(z))^β. No chain can err here, so that what is wrong with the pictures is
the networks' fault. lite1 has no part in training and sampling. With realism γ it is accepted with
the probability p(class | g(z)) exp(γ d(g(z))) divided by the largest such weight among the draws,
of which d, the discriminator's log-odds, has no bound of its own: many draws are needed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradgen import runtime

runtime.configure()

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from gradgen.evaluation import metrics  # noqa: E402
from gradgen.evaluation.compare import JUDGE  # noqa: E402
from gradgen.evaluation.features import judge  # noqa: E402
from gradgen.evaluation.fidelity import kernel_distance  # noqa: E402
from gradgen.evaluation.quality import load_validation  # noqa: E402
from gradgen.evidence.realism import log_odds  # noqa: E402
from gradgen.labels import Labels  # noqa: E402
from gradgen.networks.load import load_bundle, load_classifier  # noqa: E402
from gradgen.networks.stream import apply_in_batches  # noqa: E402
from gradgen.runs.sample import draw  # noqa: E402

WEIGHTS = (1.0, 3.0)


def accept(
    log_weight: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which draws of the prior are draws of which class's posterior: (rows, classes).

    log_weight: (n, classes), at most 0: of n draws of the prior, the logarithm of the posterior
    over the prior; most: accepted draws of a class that are kept.
    """
    accepted = np.log(rng.random(log_weight.shape)) < log_weight
    rows = [np.flatnonzero(column)[:most] for column in accepted.T]
    classes = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return np.concatenate(rows), classes


def weights_with_realism(log_p: np.ndarray, odds: np.ndarray, gamma: float) -> np.ndarray:
    """log p(class | g(z)) + γ d(g(z)) less the largest of each class's: (n, classes).

    log_p: (n, classes); odds: (n,), d.
    """
    log_weight = log_p + gamma * odds[:, None]
    return log_weight - log_weight.max(0)


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
        "diversity": metrics.mean_distance_within(metrics.by_class(features, classes)),
    }


def measure(
    name: str, data: Path, draws: int, most: int, seed: int, realism: Sequence[float] = ()
) -> dict[str, Any]:
    """Names, distances and diversity by lite1; {kind of pictures: figures}.

    realism: values of γ besides 0.
    """
    bundle, classifier = load_bundle(name), load_classifier(JUDGE)
    val = load_validation(data, bundle, lambda *_: None)
    own = np.array([classifier.labels.find(label.synset).index for label in bundle.labels])
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((draws, bundle.code_size)).astype(np.float32)
    images = draw(bundle, z)
    log_p = apply_in_batches(bundle.classifier.apply, bundle.classifier.params, images)
    kinds = {"photographs": (val.images, val.labels)}
    for weight in WEIGHTS:
        rows, classes = accept(weight * log_p, most, rng)
        kinds[f"exact draws, weight {weight:g}"] = images[rows], classes
    if realism:
        critic = bundle.discriminator
        log_real = apply_in_batches(critic.apply, critic.params, images)
        odds = np.asarray(log_odds(jnp.asarray(log_real)))
        for gamma in realism:
            rows, classes = accept(weights_with_realism(log_p, odds, gamma), most, rng)
            kinds[f"exact draws, weight 1, realism {gamma:g}"] = images[rows], classes
    features = {}
    report: dict[str, Any] = {}
    for kind, (pictures, labels) in kinds.items():
        verdicts, features[kind] = judge(classifier, pictures)
        report[kind] = named(verdicts, features[kind], labels, bundle.labels, own)
    for kind, found in list(features.items())[1:]:
        report[kind]["kid"] = kernel_distance(found, features["photographs"])
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
    parser.add_argument("--realism", type=float, nargs="*", default=(), help="γ, besides 0")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = measure(
        options.bundle,
        options.data,
        options.draws,
        options.most,
        options.seed,
        options.realism,
    )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
