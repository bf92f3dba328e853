"""Measures a bundle's codes for each of ImageNet's classes. For developers only.

    python -m gradgen.tools.weigh_photographs tiny64 ../shared/data/tiny-imagenet \
        --kept runs/verdicts --write

The photographs on which a bundle was trained show only some classes, but they tell something about
every other class. Each photograph is weighted by lite0's p(class | photograph), divided by the sum
over all photographs. The tool writes photographs.safetensors, which holds the mean and the standard
deviation of the codes under these weights, and the number of photographs that they are worth,
1 / Σ w². :class:`gradgen.networks.bounds.WeightedStatistics` explains how it is used. On the
bundle's own classes, the tool compares the weighted moments with the moments by label; and again
without the photographs of the class itself, since there are none of the other classes either.

lite0 looks at the photographs at 160 x 160 (``SIDE``). There it names no fewer of those of 64 x 64
than at its own 224, and takes half the time: 34 minutes for 100 000 on two cores that other
programs used too. Its temperature at this size is fitted to the validation photographs. Results
that take long are kept in a folder, and are read from there the next time.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gradgen import runtime
from gradgen.files import file_sha256, replacing

SIDE = 160
VAL_STEP = 2  # every second validation photograph is looked at: enough for a single number
ROWS = 20_000  # photographs that are weighted at a time
BATCH_SIZE = 32

Moments = dict[str, np.ndarray]


def weighted_moments(codes: np.ndarray, probabilities: Callable[[slice], np.ndarray]) -> Moments:
    """Compute mean, standard deviation and effective number of photographs of every class.

    Args:
        codes: (n, code), the codes of the photographs.
        probabilities: takes a slice of the photographs and gives their p(class | photograph) (rows,
            num_classes) float64.

    Returns:
        "class_mean" and "class_std" (num_classes, code); "effective" (num_classes,), which is
        1 / Σ w² of the normalised weights w; "expected" (num_classes,), which is Σ p, the number of
        photographs of the class by the judge; "mean" and "std" (code,) of all photographs with
        equal weights. The variances are unbiased for weights of reliability:
        Σ w (z - mean)² / (1 - Σ w²).
    """
    codes = codes.astype(np.float64)
    mean = codes.mean(0)
    centred = codes - mean  # otherwise the variance would be a difference of large sums
    total: Any = 0.0
    squares: Any = 0.0
    first: Any = 0.0
    second: Any = 0.0
    for start in range(0, len(codes), ROWS):
        rows = slice(start, start + ROWS)
        weights = probabilities(rows)
        total += weights.sum(0)
        squares += (weights**2).sum(0)
        first += weights.T @ centred[rows]
        second += weights.T @ centred[rows] ** 2
    inverse = squares / total**2  # Σ w²
    shift = first / total[:, None]
    variance = (second / total[:, None] - shift**2) / (1 - inverse)[:, None]
    return {
        "class_mean": mean + shift,
        "class_std": np.sqrt(variance),
        "effective": 1 / inverse,
        "expected": total,
        "mean": mean,
        "std": codes.std(0, ddof=1),
    }


def agreement(ours: Moments, theirs: Moments, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Correlate the weighted moments with the moments by label, over the code units of each class.

    Args:
        ours: the moments by weights.
        theirs: the moments by label, "class_mean" and "class_std" (classes, code).
        rows: (classes,) rows of ``ours``, in the order of ``theirs``.

    Returns:
        The median, lowest and highest correlation of "class_mean" and of "class_std".
    """
    found = {}
    for name in ("class_mean", "class_std"):
        pairs = zip(ours[name][rows], theirs[name], strict=True)
        values = np.array([np.corrcoef(own, labelled)[0, 1] for own, labelled in pairs])
        found[name] = {
            "median": round(float(np.median(values)), 4),
            "lowest": round(float(values.min()), 4),
            "highest": round(float(values.max()), 4),
        }
    return found


def _kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Read an array from a file, and make the file first if it does not exist."""
    if not path.is_file():
        made = make()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, made)
    return np.load(path)


def _report(what: str, total: int) -> Callable[[int], None]:
    def report(done: int) -> None:
        if done % (100 * BATCH_SIZE) == 0 or done == total:
            print(f"{what}: {done} of {total}", flush=True)

    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("data", type=Path, help="what the bundle was trained on")
    parser.add_argument("--kept", type=Path, required=True, help="folder of what takes long")
    parser.add_argument("--write", action="store_true", help="put the table beside the weights")
    options = parser.parse_args()
    runtime.configure()

    import jax
    from flax import nnx

    from gradgen.datasets import load_datasets
    from gradgen.evaluation.metrics import log_softmax, top1_and_top5
    from gradgen.labels import Labels, imagenet_labels
    from gradgen.networks.bounds import ENOUGH_PHOTOGRAPHS
    from gradgen.networks.catalog import find_weights
    from gradgen.networks.interfaces import resize
    from gradgen.networks.load import load_bundle
    from gradgen.networks.stream import apply_in_batches
    from gradgen.networks.trained import PHOTOGRAPHS_FILE, load_lite_module
    from gradgen.training.classifier import fit_temperature
    from gradgen.weights.cards import read_card, write_card
    from gradgen.weights.store import load_arrays, save_arrays

    bundle = load_bundle(options.bundle)
    train, val = load_datasets(options.data, bundle.image_size)
    graph, params = nnx.split(load_lite_module(find_weights("lite0", "classifier")))

    def judge(params: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(resize(images, SIDE))

    def logits_of(what: str, images: np.ndarray) -> np.ndarray:
        report = _report(what, len(images))
        return apply_in_batches(judge, params, images, BATCH_SIZE, report).astype(np.float16)

    seen = val.images[::VAL_STEP]
    val_logits = _kept(options.kept / "logits-val.npy", lambda: logits_of("validation", seen))
    logits = _kept(options.kept / "logits-train.npy", lambda: logits_of("lite0", train.images))
    codes = _kept(
        options.kept / "codes.npy",
        lambda: apply_in_batches(
            bundle.encoder.apply,
            bundle.encoder.params,
            train.images,
            BATCH_SIZE,
            _report("codes", len(train)),
        ),
    )

    imagenet = imagenet_labels()
    own = [imagenet.same(label) for label in Labels.from_lines(train.classes)]
    if None in own:
        raise SystemExit("the data has classes that are none of ImageNet's")
    rows = np.array([label.index for label in own if label is not None])
    truth = rows[val.labels[::VAL_STEP]]
    temperature = fit_temperature(val_logits.astype(np.float32), truth)

    def probabilities(part: slice) -> np.ndarray:
        return np.exp(log_softmax(logits[part] / temperature))

    label_of = rows[train.labels]

    def of_other_classes(part: slice) -> np.ndarray:
        found = probabilities(part)
        found[np.arange(len(found)), label_of[part]] = 0
        return found

    by_label = load_arrays(find_weights(options.bundle) / "codes.safetensors")
    moments = weighted_moments(codes, probabilities)
    without = weighted_moments(codes, of_other_classes)
    log_p = log_softmax(val_logits / temperature)
    top1, top5 = top1_and_top5(log_p, truth)
    effective = moments["effective"]
    others = np.setdiff1d(np.arange(len(imagenet)), rows)
    figures = {
        "command": f"python -m gradgen.tools.weigh_photographs {options.bundle} "
        f"../shared/data/{options.data.name} --kept runs/verdicts --write",
        "photographs": len(train),
        "side": SIDE,
        "temperature": round(temperature, 4),
        "judge_top1": round(top1, 4),
        "judge_top5": round(top5, 4),
        "judge_log_likelihood": round(float(log_p[np.arange(len(truth)), truth].mean()), 4),
        "effective_of_own_classes": _spread(effective[rows]),
        "effective_of_other_classes": _spread(effective[others]),
        "expected_of_own_classes": _spread(moments["expected"][rows]),
        "expected_of_other_classes": _spread(moments["expected"][others]),
        "classes_below_30": int((effective < ENOUGH_PHOTOGRAPHS).sum()),
        "correlation_with_labels": agreement(moments, by_label, rows),
        "correlation_without_own_photographs": agreement(without, by_label, rows),
    }
    print(json.dumps(figures, indent=1))
    if not all(math.isfinite(value) for array in moments.values() for value in array.ravel()):
        raise SystemExit("a number is not finite; nothing is written")
    if options.write:
        folder = find_weights(options.bundle)
        save_arrays(folder / PHOTOGRAPHS_FILE, moments)
        card = read_card(folder)
        files = {**card.files, PHOTOGRAPHS_FILE: file_sha256(folder / PHOTOGRAPHS_FILE)}
        write_card(folder, {**card.content, "files": files, "weighted_photographs": figures})


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "lowest": round(float(values.min()), 1),
        "median": round(float(np.median(values)), 1),
        "highest": round(float(values.max()), 1),
    }


if __name__ == "__main__":
    main()
