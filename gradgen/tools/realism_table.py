"""What a bundle's discriminator makes of photographs, of samples, and of what is neither.

    python -m gradgen.tools.realism_table ten64 --data FOLDER

A table in Markdown, a row for each kind of picture: how many, their mean log-probability of being
real with its standard error, and how often a held-out photograph scores higher than one of them.
The drawings at the end are of kinds that no discriminator was shown in its training. For developers
only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from gradgen import runtime

runtime.configure()

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

from gradgen.evaluation.metrics import auc  # noqa: E402
from gradgen.evaluation.quality import load_validation  # noqa: E402
from gradgen.images import from_uint8  # noqa: E402
from gradgen.networks.interfaces import Bundle  # noqa: E402
from gradgen.networks.load import load_bundle  # noqa: E402
from gradgen.networks.stream import apply_in_batches  # noqa: E402
from gradgen.runs.sample import draw, sample  # noqa: E402
from gradgen.scoring import group_score  # noqa: E402
from gradgen.training.corruption import CORRUPTIONS  # noqa: E402

LEVELS = (20, 80, 140, 200, 250)  # of each of three colours, of the flat fields
METHODS = ("hmc", "mala", "map")
TEXT = "abcdefghijklmnopqrstuvwxyz"


def flat_fields(size: int) -> np.ndarray:
    """A field of each of 125 colours: (125, size, size, 3) uint8."""
    colours = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 3)
    return np.tile(colours[:, None, None].astype(np.uint8), (1, size, size, 1))


def chequered(rng: np.random.Generator, size: int) -> np.ndarray:
    """Squares of two colours."""
    side = int(rng.choice([4, 8, 16]))
    places = np.arange(size) // side
    return rng.integers(0, 256, (2, 3))[np.add.outer(places, places) % 2].astype(np.uint8)


def striped(rng: np.random.Generator, size: int) -> np.ndarray:
    """Waves between two colours."""
    down, right = rng.uniform(-0.8, 0.8, 2)
    wave = 0.5 + 0.5 * np.sin(np.add.outer(down * np.arange(size), right * np.arange(size)))
    dark, bright = rng.integers(0, 256, (2, 3))
    return (dark + wave[..., None] * (bright - dark)).astype(np.uint8)


def written(rng: np.random.Generator, size: int) -> np.ndarray:
    """Lines of letters on a plain ground."""
    ground, ink = (tuple(colour) for colour in rng.integers(0, 256, (2, 3)).tolist())
    picture = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(picture)
    for top in range(2, size, 12):
        pen.text((2, top), "".join(rng.choice(list(TEXT), size // 6)), fill=ink)
    return np.asarray(picture)


UNKNOWN = (chequered, striped, written)


def table(kinds: Iterable[tuple[str, np.ndarray]]) -> list[str]:
    """Lines of Markdown.

    Args:
        kinds: (name, log-probabilities (n,)); the first is of held-out photographs.
    """
    kinds = list(kinds)
    reference = kinds[0][1]
    lines = ["| pictures | number | log p(real) | photographs are above |", "|---|---|---|---|"]
    for name, values in kinds:
        score = group_score(name, values)
        error = "" if score.standard_error is None else f" ± {score.standard_error:.2f}"
        above = "" if values is reference else f"{auc(reference, values):.3f}"
        lines.append(f"| {name} | {score.count} | {score.mean:.2f}{error} | {above} |")
    return lines


def pictures(
    bundle: Bundle, data: Path, chains: int, budget: int, seed: int
) -> Iterable[tuple[str, np.ndarray]]:
    """(name, pictures (n, S, S, 3) uint8) of each kind; held-out photographs come first."""
    size, rng = bundle.image_size, np.random.default_rng(seed)
    photographs = load_validation(data, bundle, lambda *_: None).images
    yield "held-out photographs", photographs
    codes = rng.standard_normal((500, bundle.code_size)).astype(np.float32)
    yield "g(z), z ~ N(0, I)", draw(bundle, codes)
    for method in METHODS if chains else ():
        classes = [label.synset or str(label.index) for label in bundle.labels][:10]
        drawn = sample(bundle, classes, method, chains, seed, budget=budget)
        beta = drawn.record.settings.likelihood_weight
        yield f"{method.upper()}, {budget} gradients, β = {beta:g}", drawn.images
    yield "flat fields of 125 colours", flat_fields(size)
    for way in CORRUPTIONS:
        yield way.__name__, np.stack([way(rng, photograph) for photograph in photographs])
    for draw_one in UNKNOWN:
        yield draw_one.__name__, np.stack([draw_one(rng, size) for _ in range(200)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chains", type=int, default=4, help="a class and method; 0: no samples")
    parser.add_argument("--budget", type=int, default=300, help="gradients a chain")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    critic = bundle.discriminator

    def judged() -> Iterable[tuple[str, np.ndarray]]:
        for name, images in pictures(
            bundle, options.data, options.chains, options.budget, options.seed
        ):
            print(name, file=sys.stderr)
            yield name, apply_in_batches(critic.apply, critic.params, from_uint8(images))

    print("\n".join(table(judged())))


if __name__ == "__main__":
    main()
