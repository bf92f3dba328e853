"""Draws the README's pictures of other questions than a class. For developers only.

    python -m gradgen.tools.questions composed
    python -m gradgen.tools.questions inpainting --data FOLDER
    python -m gradgen.tools.questions unit
    python -m gradgen.tools.questions morph

Each writes ``questions-<name>.jpg`` into ``gradgen/evaluation`` and prints the figures that stand
beside it. Nothing is picked by hand: the first chains at seed 0, and the first held-out photograph.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

from gradgen import runtime

runtime.configure()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import gradgen  # noqa: E402
from gradgen.datasets import load_held_out  # noqa: E402
from gradgen.evaluation.compare import JUDGE  # noqa: E402
from gradgen.evaluation.features import judge  # noqa: E402
from gradgen.evaluation.figures import titled_grid  # noqa: E402
from gradgen.evidence.unit import activations  # noqa: E402
from gradgen.files import write_atomically  # noqa: E402
from gradgen.inference.diagnostics import worst_r_hat  # noqa: E402
from gradgen.labels import Labels  # noqa: E402
from gradgen.networks.load import load_bundle, load_classifier  # noqa: E402
from gradgen.runs.sample import draw  # noqa: E402

FOLDER = Path(gradgen.__file__).parent / "evaluation"
QUALITY, MOST_BYTES = 85, 150_000
PAIRS = (
    ("school bus", "sports car"),
    ("goldfish", "lemon"),
    ("beacon", "king penguin"),
    ("monarch", "pizza"),
)
SHOWN = 3  # chains of each question in the picture; the figures are over all of them
PHOTOGRAPH_OF, NOISE, FILL = "beacon", 0.3, 128
UNITS = ("conv4:17", "conv4:100", "fc7:3")
MORPH = ("beacon", "pizza")


def composed(options: argparse.Namespace) -> Image.Image:
    """Pairs of classes, each class alone and both at once, and what lite1 says of them."""
    queries = [query for first, second in PAIRS for query in (first, f"{first} & {second}", second)]
    drawn = gradgen.sample(
        options.bundle, queries, num_chains=options.chains, budget=options.budget
    )
    judged = load_classifier(JUDGE)
    probabilities = np.exp(judge(judged, drawn.images)[0])
    print(f"| asked for | {JUDGE}'s p(first) | p(second) |\n|---|---|---|")
    tiles = []
    for row, pair in enumerate(PAIRS):
        index = [judged.labels.find(_synset(options.bundle, name)).index for name in pair]
        for column in range(3):
            own = np.flatnonzero(drawn.class_position == 3 * row + column)
            p = probabilities[own][:, index].mean(0)
            print(f"| `{queries[3 * row + column]}` | {p[0]:.2f} | {p[1]:.2f} |")
            tiles.append(drawn.images[own[:SHOWN]])
    columns = [name for name in ("first alone", "both", "second alone") for _ in range(SHOWN)]
    return titled_grid(np.concatenate(tiles), [" & ".join(pair) for pair in PAIRS], columns)


def inpainting(options: argparse.Namespace) -> Image.Image:
    """A photograph whose right half is unknown, and samples of the whole."""
    if options.data is None:
        raise SystemExit("inpainting takes its photograph from --data FOLDER")
    bundle = load_bundle(options.bundle)
    held_out = load_held_out(options.data, bundle.image_size)
    wanted = Labels.from_lines(held_out.classes, title="the data").find(
        _synset(options.bundle, PHOTOGRAPH_OF)
    )
    photograph = held_out.images[np.flatnonzero(held_out.labels == wanted.index)[0]]
    hidden = np.zeros(photograph.shape[:2], np.uint8)
    hidden[:, hidden.shape[1] // 2 :] = 255
    with tempfile.TemporaryDirectory() as folder:
        photo, mask = (str(Path(folder) / name) for name in ("photo.png", "mask.png"))
        Image.fromarray(photograph).save(photo)
        Image.fromarray(hidden).save(mask)
        drawn = gradgen.sample(
            bundle, PHOTOGRAPH_OF, "mala", match=photo, mask=mask, noise=NOISE,
            num_chains=options.chains, budget=options.budget,
        )  # fmt: skip
    job = drawn.record.classes[0]
    r_hat = worst_r_hat(job.diagnostics or {})
    gap = (drawn.images.astype(float) - photograph) / 255
    seen, unseen = (np.sqrt((gap[:, hidden == value] ** 2).mean()) for value in (0, 255))
    spread = (drawn.images / 255).std(0)
    print(
        f"{len(drawn)} chains, acceptance {_figure(job.acceptance)}, worst R̂ {_figure(r_hat)}; "
        f"root mean square gap to the photograph: {seen:.3f} where it is known, {unseen:.3f} "
        "where it is not; standard deviation over the chains: "
        f"{spread[hidden == 0].mean():.3f} and {spread[hidden > 0].mean():.3f}"
    )
    masked = np.where(hidden[..., None] > 0, np.uint8(FILL), photograph)
    tiles = np.concatenate([photograph[None], masked[None], drawn.images[:6]])
    return titled_grid(tiles, [""], ["photograph", "known", *(["sample"] * (len(tiles) - 2))])


def unit(options: argparse.Namespace) -> Image.Image:
    """Pictures of which a hidden unit is high, and how much higher than on the prior's."""
    bundle = load_bundle(options.bundle)
    codes = np.random.default_rng(0).standard_normal((64, bundle.code_size)).astype(np.float32)
    plain = draw(bundle, codes)
    rows = []
    for name in UNITS:
        layer, number = name.split(":")
        drawn = gradgen.sample(
            bundle, [], unit=name, num_chains=options.chains, budget=options.budget
        )
        before, after = (
            activations(bundle, layer, list(pictures)).values[:, int(number)]
            for pictures in (plain, drawn.images)
        )
        settings = drawn.record.settings
        print(
            f"{name}: {before.mean():.3g} ± {before.std():.2g} on the prior's pictures, wanted "
            f"{settings.unit_value:.3g} ± {settings.unit_noise:.2g}, "
            f"{after.mean():.3g} ± {after.std():.2g} on the samples"
        )
        rows.append(drawn.images[:6])
    tiles = np.concatenate([plain[:6], *rows])
    return titled_grid(tiles, ["the prior", *UNITS], [""] * 6)


def morph(options: argparse.Namespace) -> Image.Image:
    """From one class to another."""
    made = gradgen.morph(*MORPH, options.bundle, budget=options.budget, num_chains=3)
    for place in (0, -1):
        first, second = made.record.log_likelihoods[place]
        print(f"t = {made.shares[place]:g}: log p {first:.1f} and {second:.1f}")
    return made.strip()


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _synset(bundle: str, name: str) -> str:
    return load_bundle(bundle).labels.find(name).synset


def _write(picture: Image.Image, path: Path) -> None:
    """A JPEG of at most MOST_BYTES."""
    for quality in range(QUALITY, 20, -10):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    write_atomically(path, buffer.getvalue())
    print(path)


def main() -> None:
    pictures: dict[str, Any] = {
        function.__name__: function for function in (composed, inpainting, unit, morph)
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", choices=tuple(pictures))
    parser.add_argument("--bundle", default="ten64")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--budget", type=int, default=800)
    options = parser.parse_args()
    _write(pictures[options.picture](options), FOLDER / f"questions-{options.picture}.jpg")


if __name__ == "__main__":
    main()
