"""How good a bundle's networks are: the classifier, the generator, the posterior, the critic."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.datasets import Dataset, load_held_out
from gradgen.errors import UsageError
from gradgen.evaluation import metrics
from gradgen.evaluation.compare import JUDGE
from gradgen.evaluation.features import judge
from gradgen.evaluation.fidelity import fidelity, kernel_distance
from gradgen.images import evenly_chosen
from gradgen.labels import Label, Labels
from gradgen.networks.interfaces import Bundle
from gradgen.networks.load import load_bundle, load_classifier
from gradgen.networks.stream import apply_in_batches
from gradgen.runs.sample import SampleProgress, draw, names_of, sample

MORE_LIKELY_THAN_NOT = -0.7  # log p(class | g(z)), a little below log 1/2
Report = dict[str, dict[str, float | None]]
OnProgress = Callable[[str, int, int], None]
FULL = {"num_images": 2000, "num_classes": 40, "num_chains": 8, "budget": 6000}


@dataclass(frozen=True)
class Quality:
    """How good a bundle's networks are.

    Attributes:
        bundle: its name.
        data: the name of the data set that it was measured on.
        seed: of the choice of photographs and classes, and of the sampling.
        sizes: how many photographs, classes, chains and gradient evaluations.
        figures: {part: {figure: value}}.
    """

    bundle: str
    data: str
    seed: int
    sizes: dict[str, int]
    figures: Report

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {
            "bundle": self.bundle,
            "data": self.data,
            "seed": self.seed,
            **self.sizes,
            "figures": self.figures,
        }


def evaluate(
    bundle: Bundle | str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    num_images: int = 500,
    num_classes: int = 10,
    num_chains: int = 8,
    budget: int = 600,
    full: bool = False,
    seed: int = 0,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Quality:
    """Measure a bundle's classifier, generator, codes, posterior samples and discriminator.

    Args:
        bundle: a bundle, or its name or folder.
        data: a folder as ``gradgen train`` takes it; its validation photographs are used.
        num_images: photographs, reconstructions and samples from the prior that the judge, lite1,
            looks at.
        num_classes: classes that are sampled, evenly chosen among those of the data.
        num_chains: MALA chains a class.
        budget: gradient evaluations of each chain.
        full: 2000 photographs, 40 classes and 6000 gradients instead, which takes hours.
        seed: of the choice and of the sampling.
        on_progress: called with (what is being done, done, in all).

    Returns:
        Accuracies and areas under curves as shares, distances as cosines, PSNR in dB,
        log-probabilities in nats. "fidelity" holds the published metrics of sets of pictures
        (:mod:`gradgen.evaluation.fidelity`) over lite1's features, with the limits of their 95 %
        bootstrap intervals; None where there are too few pictures for a metric.

    Raises:
        UsageError: there is no such bundle or folder, or no class of the data is one of the
            bundle's.
    """
    loaded = load_bundle(Path(bundle)) if isinstance(bundle, os.PathLike) else bundle
    if isinstance(loaded, str):
        loaded = load_bundle(loaded)
    sizes = FULL if full else {
        "num_images": num_images,
        "num_classes": num_classes,
        "num_chains": num_chains,
        "budget": budget,
    }  # fmt: skip
    val = load_validation(Path(data), loaded, on_progress)
    figures = measure(loaded, val, **sizes, seed=seed, on_progress=on_progress)
    return Quality(loaded.name, val.source, seed, sizes, figures)


def load_validation(folder: Path, bundle: Bundle, on_progress: OnProgress) -> Dataset:
    """The validation images of a data set's classes that the bundle knows, labelled by its own.

    Raises:
        UsageError: it knows none of them.
    """
    val = load_held_out(
        folder, bundle.image_size, lambda done, total: on_progress("reading images", done, total)
    )
    theirs = Labels.from_lines(val.classes)
    indices = np.array([_index_in(bundle.labels, label) for label in theirs], np.int32)[val.labels]
    known = indices >= 0
    if not known.any():
        raise UsageError(f"no class of the data is one of {bundle.labels.title}")
    return Dataset(val.images[known], indices[known], tuple(map(str, bundle.labels)), val.source)


def _index_in(labels: Labels, label: Label) -> int:
    """The index of the class in the bundle's list; -1 if the bundle does not have it."""
    found = labels.same(label)
    return -1 if found is None else found.index


def measure(
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
    """Measure everything on photographs that are read; {part: {figure: value}}.

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

    codes = apply_in_batches(bundle.encoder.apply, bundle.encoder.params, val.images)
    prior = rng.standard_normal((len(photographs), bundle.code_size)).astype(np.float32)
    rebuilt, imagined = draw(bundle, codes[chosen]), draw(bundle, prior)
    named = (("photographs", photographs), ("reconstructions", rebuilt), ("prior", imagined))
    features = {
        name: judge(classifier, images, watch(f"judging {name}", len(images)))[1]
        for name, images in named
    }
    real, of_rebuilt, of_prior = (features[name] for name, _ in named)
    report["generator"] = {
        "psnr_db": metrics.psnr(photographs, rebuilt),
        "judge_distance": _paired_distance(real, of_rebuilt),
        "kid_reconstructions": kernel_distance(of_rebuilt, real),
        "kid_prior": kernel_distance(of_prior, real),
    }
    report["codes"] = {
        **whiteness(codes),
        "kid_of_prior_against_codes": kernel_distance(of_prior, of_rebuilt),
    }
    report["fidelity"] = {
        **_fidelity("reconstructions", of_rebuilt, real, seed),
        **_fidelity("prior", of_prior, real, seed),
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
    shown = np.isin(val.labels, [label.index for label in classes])
    own = np.array([label.index for label in classes])[drawn.class_position]
    report["posterior"] = {
        "classes": len(classes),
        "pictures": len(drawn.images),
        "share_more_likely_than_not": float((drawn.log_likelihood > MORE_LIKELY_THAN_NOT).mean()),
    }
    of_classes: dict[str, np.ndarray] = {}
    for name, images, labels in (
        ("samples", drawn.images, own),
        ("photographs", val.images[shown], val.labels[shown]),
    ):
        log_p, seen = judge(classifier, images, watch(f"judging {name}", len(images)))
        report["posterior"] |= _agreement(name, log_p, labels, bundle.labels, classifier.labels)
        report["posterior"][f"{name}_distance"] = metrics.mean_distance_within(
            metrics.by_class(seen, labels)
        )
        of_classes[name] = seen
    report["fidelity"] |= _fidelity(
        "samples", of_classes["samples"], of_classes["photographs"], seed
    )

    critic = bundle.discriminator
    scores = {
        name: apply_in_batches(critic.apply, critic.params, images).astype(np.float64)
        for name, images in (("photographs", val.images[shown]), ("samples", drawn.images))
    }
    report["discriminator"] = {
        "auc": metrics.auc(scores["photographs"], scores["samples"]),
        **{f"log_p_{name}": float(values.mean()) for name, values in scores.items()},
    }
    return report


def _fidelity(
    name: str, features: np.ndarray, reference: np.ndarray, seed: int
) -> dict[str, float | None]:
    """The published metrics of a set of pictures, each with the limits of its interval."""
    found, _ = fidelity(features, reference, seed)
    return {
        f"{metric}_{name}{ending}": number
        for metric, value in found.items()
        for ending, number in (("", value.value), ("_low", value.low), ("_high", value.high))
    }


def classifier_figures(bundle: Bundle, val: Dataset) -> dict[str, float | None]:
    """Accuracy, log-likelihood and calibration of the bundle's own classifier."""
    log_p = apply_in_batches(bundle.classifier.apply, bundle.classifier.params, val.images)
    top1, top5 = metrics.top1_and_top5(log_p, val.labels)
    return {
        "images": len(val),
        "top1": top1,
        "top5": top5,
        "log_likelihood": float(log_p[np.arange(len(val)), val.labels].mean()),
        "calibration_error": metrics.calibration_error(log_p.astype(np.float64), val.labels),
    }


def whiteness(codes: np.ndarray) -> dict[str, float | None]:
    """How far codes (n, d) are from N(0, I).

    Mean |correlation| of two units, mean excess kurtosis of a unit (0 for a normal distribution),
    share of squared norms outside the 95 % that N(0, I) has inside chi-squared quantiles (normal
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


def _agreement(
    name: str, log_p: np.ndarray, labels: np.ndarray, own: Labels, theirs: Labels
) -> dict[str, float | None]:
    """Top-1 and top-5 of the judge, on the classes that it knows."""
    matched = [theirs.by_synset(own[int(index)].synset) for index in labels]
    known = np.array([label is not None for label in matched])
    if not known.any():
        return {f"{name}_top1": None, f"{name}_top5": None}
    indices = np.array([label.index for label in matched if label is not None])
    top1, top5 = metrics.top1_and_top5(log_p[known], indices)
    return {f"{name}_top1": top1, f"{name}_top5": top5}
