"""How good a bundle's networks are: the classifier, the generator, the posterior, the critic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradgen.bundle import load_classifier
from gradgen.errors import UsageError
from gradgen.evaluation import metrics
from gradgen.evaluation.compare import JUDGE
from gradgen.evaluation.features import evaluate, judge
from gradgen.images import evenly_chosen
from gradgen.labels import Label, Labels
from gradgen.networks import Bundle
from gradgen.sampling import SampleProgress, draw, names_of, sample
from gradgen.training.classifier import calibration_error
from gradgen.training.data import Dataset, load_held_out

MORE_LIKELY_THAN_NOT = -0.7  # log p(class | g(z)), a little below log 1/2
Report = dict[str, dict[str, float | None]]
OnProgress = Callable[[str, int, int], None]


def load_validation(folder: Path, bundle: Bundle, on_progress: OnProgress) -> Dataset:
    """The validation images of a data set, labelled by the bundle's own classes.

    Raises:
        UsageError: a class of the data set is none of the bundle's.
    """
    val = load_held_out(
        folder, bundle.image_size, lambda done, total: on_progress("reading images", done, total)
    )
    theirs = Labels.from_lines(val.classes)
    indices = np.array([_index_in(bundle.labels, label) for label in theirs], np.int32)
    return Dataset(val.images, indices[val.labels], val.classes, val.source)


def _index_in(labels: Labels, label: Label) -> int:
    found = labels.by_synset(label.synset) if label.synset else None
    if found is None:
        same = [one for one in labels if one.names == label.names]
        if not same:
            raise UsageError(f"the class {label} of the data is none of {labels.title}")
        found = same[0]
    return found.index


def evaluate_bundle(
    bundle: Bundle,
    val: Dataset,
    *,
    num_images: int = 500,
    num_classes: int = 10,
    num_chains: int = 8,
    budget: int = 600,
    seed: int = 0,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Report:
    """Measure everything; {part: {figure: value}}.

    Args:
        val: of :func:`load_validation`.
        num_images: photographs, reconstructions and samples from the prior that the judge, lite1,
            looks at.
        num_classes: classes that are sampled, evenly chosen among those that ``val`` has.
        num_chains, budget: of MALA, for each of them.
        seed: of the choice and of the sampling.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(val))[:num_images])
    photographs = val.images[chosen]
    classifier = load_classifier(JUDGE)

    def watch(what: str, total: int) -> Callable[[int], None]:
        return lambda done: on_progress(what, done, total)

    report: Report = {"classifier": classifier_figures(bundle, val)}

    codes = evaluate(bundle.encoder.apply, bundle.encoder.params, val.images)
    prior = rng.standard_normal((len(photographs), bundle.code_size)).astype(np.float32)
    rebuilt, imagined = draw(bundle, codes[chosen]), draw(bundle, prior)
    named = (("photographs", photographs), ("reconstructions", rebuilt), ("prior", imagined))
    features = {
        name: judge(classifier, images, watch(f"judging {name}", len(images)))[1]
        for name, images in named
    }
    report["generator"] = {
        "psnr_db": psnr(photographs, rebuilt),
        "judge_distance": _paired_distance(features["photographs"], features["reconstructions"]),
        "kid_reconstructions": metrics.kid(features["reconstructions"], features["photographs"]),
        "kid_prior": metrics.kid(features["prior"], features["photographs"]),
    }
    report["codes"] = {
        **whiteness(codes),
        "kid_of_prior_against_codes": metrics.kid(features["prior"], features["reconstructions"]),
    }

    picked = evenly_chosen(np.unique(val.labels).tolist(), num_classes)
    classes = [bundle.labels[index] for index in picked]

    def on_block(block: SampleProgress) -> None:
        on_progress(
            f"sampling {names_of(block.jobs)}",
            block.gradient_evaluations,
            block.total_gradient_evaluations,
        )

    drawn = sample(
        bundle,
        [label.synset or str(label.index) for label in classes],
        "mala",
        num_chains,
        seed,
        budget=budget,
        on_block=on_block,
    )
    real = np.isin(val.labels, [label.index for label in classes])
    own = np.array([label.index for label in classes])[drawn.class_position]
    report["posterior"] = {
        "classes": len(classes),
        "pictures": len(drawn.images),
        "share_more_likely_than_not": float((drawn.log_likelihood > MORE_LIKELY_THAN_NOT).mean()),
    }
    for name, images, labels in (
        ("samples", drawn.images, own),
        ("photographs", val.images[real], val.labels[real]),
    ):
        log_p, seen = judge(classifier, images, watch(f"judging {name}", len(images)))
        report["posterior"] |= _agreement(name, log_p, labels, bundle.labels, classifier.labels)
        report["posterior"][f"{name}_distance"] = _mean_over_classes(seen, labels)

    critic = bundle.discriminator
    scores = {
        name: evaluate(critic.apply, critic.params, images).astype(np.float64)
        for name, images in (("photographs", val.images[real]), ("samples", drawn.images))
    }
    report["discriminator"] = {
        "auc": metrics.auc(scores["photographs"], scores["samples"]),
        **{f"log_p_{name}": float(values.mean()) for name, values in scores.items()},
    }
    return report


def classifier_figures(bundle: Bundle, val: Dataset) -> dict[str, float | None]:
    """Accuracy, log-likelihood and calibration of the bundle's own classifier."""
    log_p = evaluate(bundle.classifier.apply, bundle.classifier.params, val.images)
    rank = metrics.ranks(log_p, val.labels)
    return {
        "images": len(val),
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
        "log_likelihood": float(log_p[np.arange(len(val)), val.labels].mean()),
        "calibration_error": calibration_error(log_p.astype(np.float64), val.labels),
    }


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB; both (n, H, W, 3) uint8."""
    error = np.square(images.astype(np.float64) - others).reshape(len(images), -1).mean(1)
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-10))))


def whiteness(codes: np.ndarray) -> dict[str, float | None]:
    """How far codes (n, d) are from N(0, I).

    Mean |correlation| of two units, mean excess kurtosis of a unit (0 for a normal one), share of
    squared norms outside the 95 % that N(0, I) has inside chi-squared quantiles (normal
    approximation), all over units or pairs.
    """
    codes = np.asarray(codes, np.float64)
    centred = codes - codes.mean(0)
    std = centred.std(0)
    n, size = codes.shape
    correlation = (centred / std).T @ (centred / std) / n
    pairs = correlation[np.triu_indices(size, 1)]
    fourth = (centred**4).mean(0) / std**4
    norms = (codes**2).sum(1)
    outside = np.abs(norms - size) > 1.96 * np.sqrt(2 * size)
    return {
        "mean_absolute_correlation": float(np.abs(pairs).mean()) if size > 1 else None,
        "mean_excess_kurtosis": float(fourth.mean() - 3),
        "largest_excess_kurtosis": float(fourth.max() - 3),
        "norms_outside_95": float(outside.mean()),
    }


def _paired_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Mean cosine distance of each row to its own partner."""
    return float(1 - np.sum(metrics.unit_rows(features) * metrics.unit_rows(others), 1).mean())


def _mean_over_classes(features: np.ndarray, labels: np.ndarray) -> float | None:
    found = [metrics.mean_cosine_distance(features[labels == c]) for c in np.unique(labels)]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _agreement(
    name: str, log_p: np.ndarray, labels: np.ndarray, own: Labels, theirs: Labels
) -> dict[str, float | None]:
    """Top-1 and top-5 of the judge, on the classes that it knows."""
    matched = [theirs.by_synset(own[int(index)].synset) for index in labels]
    known = np.array([label is not None for label in matched])
    if not known.any():
        return {f"{name}_top1": None, f"{name}_top5": None}
    indices = np.array([label.index for label in matched if label is not None])
    rank = metrics.ranks(log_p[known], indices)
    return {
        f"{name}_top1": float((rank < 1).mean()),
        f"{name}_top5": float((rank < 5).mean()),
    }
