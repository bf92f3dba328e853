"""Runs side by side: how real, how sure, how different from one another, how over-saturated."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation import metrics
from gradgen.evaluation.features import judge
from gradgen.evaluation.fidelity import fidelity
from gradgen.evaluation.metrics import Value
from gradgen.images import decode, evenly_chosen, find_images, resize_square
from gradgen.inference.diagnostics import diagnose_traces, worst_r_hat
from gradgen.networks.interfaces import Bundle, Classifier
from gradgen.networks.load import load_bundle, load_classifier, load_recorded_bundle
from gradgen.networks.stream import apply_in_batches
from gradgen.runs.record import RunRecord, read_record
from gradgen.runs.results import Chains, read_chains

# knows all of ImageNet, and has had no part in training or sampling (lite0 has in both)
JUDGE = "lite1"
MAX_REAL = 500  # photographs that the pictures are compared with


@dataclass(frozen=True)
class Metric:
    """A column: its key, its heading, what it is, and which way is better (+1, -1, 0: neither)."""

    key: str
    heading: str
    meaning: str
    better: int
    form: str = ".2f"


METRICS = (
    Metric("score", "log p(real)", "mean log-probability of being real by the discriminator", 1),
    Metric("own", "p(class)", "mean probability of the class by the sampling classifier", 1),
    Metric("judge", "judge log p", "mean log-probability of the class by the judge", 1),
    Metric("top1", "judge top-1", "share of pictures whose class the judge names first", 1),
    Metric("top5", "judge top-5", "share of pictures whose class is among the judge's five", 1),
    Metric("distance", "distance", "mean cosine distance of a class's pictures, encoder", 1, ".3f"),
    Metric(
        "judge_distance",
        "judge dist.",
        "mean cosine distance of a class's pictures, judge",
        1,
        ".3f",
    ),
    Metric("vendi", "Vendi", "effective number of different pictures a class, encoder", 1),
    Metric("judge_vendi", "judge Vendi", "effective number of different pictures, judge", 1),
    Metric("saturated", "saturated", "share of colour values at 0 or 255", -1, ".3f"),
    Metric("chroma", "chroma", "mean CIELAB chroma", 0, ".1f"),
    Metric("r_hat", "R̂", "rank-normalised split R̂ of all that is traced, the largest", -1),
    Metric("kid", "KID", "kernel distance to the photographs, judge", -1, ".3f"),
    Metric("fid", "FID", "Fréchet distance to the photographs, judge", -1, ".3f"),
    Metric("precision", "precision", "share of pictures among the photographs, judge", 1),
    Metric("recall", "recall", "share of photographs among the pictures, judge", 1),
    Metric("density", "density", "how many photographs are near a picture, judge", 1),
    Metric("coverage", "coverage", "share of photographs with a picture near them, judge", 1),
)


@dataclass(frozen=True, eq=False)
class RunPictures:
    """What a run left: pictures (n, S, S, 3) uint8, and its chains, a chain for each picture."""

    name: str
    folder: Path
    record: RunRecord
    images: np.ndarray
    chains: Chains

    @property
    def class_position(self) -> np.ndarray:
        """(n,) which of the record's classes each picture is of."""
        return self.chains.class_position

    @property
    def synsets(self) -> list[str]:
        """Of each picture's class; empty where it has none."""
        return [self.record.classes[int(position)].synset for position in self.class_position]


@dataclass(frozen=True, eq=False)
class Measured:
    """One run's row."""

    run: RunPictures
    values: dict[str, Value]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        settings = self.run.record.settings
        return {
            "run": str(self.run.folder),
            "method": settings.method,
            "settings": settings.to_json(),
            "classes": [job.name for job in self.run.record.classes],
            "pictures": len(self.run.images),
            "values": {key: vars(value) for key, value in self.values.items()},
            "notes": list(self.notes),
        }


def load_run(folder: Path) -> RunPictures:
    """A run's pictures from its folder.

    Raises:
        UsageError: it is no run's folder, or an unfinished run's.
        GradgenError: a file is broken.
    """
    record = read_record(folder)
    names = record.pictures
    if not names:
        raise UsageError(
            f"{folder} holds no pictures yet; 'gradgen sample --resume {folder}' finishes it"
        )
    chains = read_chains(folder)
    images = np.stack([np.asarray(decode(folder / name)) for name in names])
    return RunPictures(
        folder.resolve().name,
        folder,
        record,
        images,
        chains,
    )


def load_real(paths: Sequence[str], size: int) -> np.ndarray:
    """Photographs (n, S, S, 3) uint8, at most MAX_REAL of them, evenly chosen."""
    chosen = evenly_chosen(find_images(list(paths)), MAX_REAL)
    if len(chosen) < 2:
        raise UsageError(f"a comparison takes at least 2 photographs, {len(chosen)} are given")
    return np.stack([np.asarray(resize_square(decode(path), size)) for path in chosen])


def compare(
    folders: Sequence[str | os.PathLike[str]],
    bundle: str | None = None,
    real: Sequence[str] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Measure runs by the same networks: realism, agreement, diversity, saturation.

    The judge is EfficientNet-Lite1, which has no part in training and sampling.

    Args:
        folders: of finished runs.
        bundle: whose discriminator and encoder measure; ``None``: that of the first run.
        real: photographs (folders, files, globs), for KID, FID, precision and recall, density
            and coverage (:mod:`gradgen.evaluation.fidelity`).
        seed: of the bootstrap.
        on_progress: called with (pictures done, pictures in all) as the judge goes through them.

    Returns:
        For each run its values by the keys of :data:`METRICS`, which say what each is and in which
        unit; log-probabilities are in nats. What is refused, and why, is in its notes.

    Raises:
        UsageError: no folder is given, a folder is none of a finished run, or there is no such
            bundle or photograph.
        GradgenError: a file is broken.
    """
    if not folders:
        raise UsageError("there is nothing to compare: give the folder of a run")
    runs = [load_run(Path(folder)) for folder in folders]
    recorded = runs[0].record.settings.bundle
    measuring = load_bundle(bundle) if bundle else load_recorded_bundle(recorded, runs[0].name)
    classifier = load_classifier(JUDGE)
    photographs = None
    if real:
        pictures = load_real(real, max(len(run.images[0]) for run in runs))
        photographs = judge(classifier, pictures)[1]
    total, done, measured = sum(len(run.images) for run in runs), 0, []
    for run in runs:

        def report(count: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + count, total)

        measured.append(measure(run, measuring, classifier, photographs, seed, report))
        done += len(run.images)
    return measured


def measure(
    run: RunPictures,
    bundle: Bundle,
    classifier: Classifier,
    photographs: np.ndarray | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Measured:
    """All metrics of a run.

    bundle: whose discriminator and encoder measure. classifier: the judge. photographs: (m, d),
    the judge's features of real pictures.
    """
    notes: list[str] = []
    log_p, features = judge(classifier, run.images, on_progress)
    columns: dict[str, np.ndarray | None] = {
        "score": _of_bundle(bundle, "discriminator", run.images, notes),
        "own": np.exp(run.chains.log_likelihood.astype(np.float64)),
        "saturated": metrics.saturated_share(run.images),
        "chroma": metrics.mean_chroma(run.images),
        **_verdicts(run, classifier, log_p, notes),
    }
    drawn_by = run.record.bundle.discriminator
    if drawn_by is not None and drawn_by.sha256 == bundle.discriminator.sha256:
        notes.append(
            f"{run.name} was sampled with realism by {drawn_by.name}: log p(real) is no "
            "independent verdict on it"
        )
    by_class = [
        np.flatnonzero(run.class_position == position) for position in np.unique(run.class_position)
    ]
    values = {key: _mean(column, by_class, seed) for key, column in columns.items()}
    encoded = _of_bundle(bundle, "encoder", run.images, notes)
    for key, rows_of in (("distance", encoded), ("judge_distance", features)):
        values[key] = Value(None) if rows_of is None else _distance(rows_of, by_class, seed)
    for key, rows_of in (("vendi", encoded), ("judge_vendi", features)):
        scores = (
            [] if rows_of is None else [metrics.vendi_score(rows_of[rows]) for rows in by_class]
        )
        values[key] = Value(float(np.mean(scores)) if scores else None)
    values["r_hat"] = Value(largest_r_hat(run))
    if photographs is not None:
        found, refused = fidelity(features, photographs, seed)
        values |= found
        notes += [f"{run.name}: {note}" for note in refused]
    if not metrics.can_be_drawn_anew(by_class):
        notes.append(
            f"{run.name}: no intervals, which take {metrics.LEAST_ROWS} pictures in all and "
            f"{metrics.LEAST_IN_GROUP} of each class"
        )
    return Measured(run, values, tuple(dict.fromkeys(notes)))


def _verdicts(
    run: RunPictures, classifier: Classifier, log_p: np.ndarray, notes: list[str]
) -> dict[str, np.ndarray | None]:
    """What the judge says of each picture's class, if it knows them all."""
    labels = [classifier.labels.by_synset(synset) for synset in run.synsets]
    indices = [label.index for label in labels if label is not None]
    if len(indices) < len(labels):
        notes.append(f"{classifier.name} does not know every class of {run.name}")
        return {"judge": None, "top1": None, "top5": None}
    if any(job.classifier.name == classifier.name for job in run.record.classes):
        notes.append(f"{run.name} was sampled under {classifier.name}: no independent judge of it")
    own = np.asarray(indices)
    rank = metrics.ranks(log_p, own)
    return {
        "judge": log_p[np.arange(len(own)), own],
        "top1": (rank < 1).astype(float),
        "top5": (rank < 5).astype(float),
    }


def _of_bundle(
    bundle: Bundle, part: str, images: np.ndarray, notes: list[str]
) -> np.ndarray | None:
    """A network of the bundle over the pictures; None and a note where its weights are missing."""
    try:
        network = getattr(bundle, part)
    except GradgenError as error:
        notes.append(str(error))
        return None
    return apply_in_batches(network.apply, network.params, images)


def _mean(column: np.ndarray | None, by_class: list[np.ndarray], seed: int) -> Value:
    if column is None:
        return Value(None)
    return _interval(lambda rows: float(column[rows].mean()), by_class, seed)


def _interval(
    statistic: Callable[[np.ndarray], float | None], by_class: list[np.ndarray], seed: int
) -> Value:
    found = statistic(np.concatenate(by_class))
    interval = metrics.bootstrap_interval(statistic, by_class, seed=seed)
    return Value(found, *(interval or (None, None)))


def _distance(features: np.ndarray, by_class: list[np.ndarray], seed: int) -> Value:
    """Mean over classes of the mean cosine distance within each."""

    def statistic(rows: np.ndarray) -> float | None:
        kept = np.unique(rows)  # a picture drawn twice is no pair of like pictures
        return metrics.mean_distance_within(features[np.intersect1d(kept, own)] for own in by_class)

    return _interval(statistic, by_class, seed)


def largest_r_hat(run: RunPictures) -> float | None:
    """Rank-normalised split R-hat of all that is traced since the warm-up, of the worst class.

    None for MAP, which samples nothing, and where it cannot be told.
    """
    record, traces = run.record, run.chains.traces
    if record.settings.method == "map":
        return None
    found = []
    for position, job in enumerate(record.classes):
        own = run.class_position == position
        if own.any():
            figures = diagnose_traces(traces.of(own), record.warmup_steps or 0, min(job.steps))
            found.append(worst_r_hat(figures))
    return max((value for value in found if value is not None), default=None)
