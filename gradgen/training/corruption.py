"""Pictures that nobody would take for a photograph, for the discriminator to turn down.

One that has only seen photographs and a generator's pictures knows no more than what tells these
apart: it takes a blue square for the sky. Plain pictures are the hardest to turn down, since skies
and seas are nearly plain; they come twice as often, and half of them in the photograph's colours.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Corruption = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def corrupt(rng: np.random.Generator, photographs: np.ndarray) -> np.ndarray:
    """Each of (n, S, S, 3) uint8 photographs spoilt in one of the ways of this module.

    The ways go round in an order drawn anew each time, so that no few photographs miss any.
    """
    ways = (*CORRUPTIONS, *PLAIN)
    rounds = -(-len(photographs) // len(ways))
    order = np.concatenate([rng.permutation(len(ways)) for _ in range(rounds)])
    return np.stack([ways[way](rng, one) for way, one in zip(order, photographs, strict=False)])


def _colour(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """Any colour, or one of the photograph's."""
    if rng.random() < 0.5:
        return rng.integers(0, 256, 3).astype(np.float32)
    row, column = rng.integers(0, len(photograph), 2)
    return photograph[row, column].astype(np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A little noise now and then, which makes no photograph of a plain picture."""
    return rng.normal(0, rng.choice([0.0, 1.0, 4.0]), shape)


def flat(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """One colour."""
    return _to_pixels(_colour(rng, photograph) + _grain(rng, photograph.shape))


def gradient(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """From one colour to another, in some direction or away from some place."""
    size = len(photograph)
    down, right = rng.normal(size=2)
    places = np.arange(size)
    ramp = np.add.outer(down * places, right * places)
    if rng.random() < 0.3:
        row, column = rng.uniform(0, size, 2)
        ramp = np.hypot.outer(places - row, places - column)
    share = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    begin, end = _colour(rng, photograph), _colour(rng, photograph)
    return _to_pixels(begin + share[..., None] * (end - begin) + _grain(rng, photograph.shape))


def clouds(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """A few colours that run into each other."""
    side = int(rng.integers(2, 7))
    colours = np.stack([_colour(rng, photograph) for _ in range(side * side)])
    mean = colours.mean(0)
    few = mean + rng.uniform(0.1, 1.0) * (colours - mean)
    picture = Image.fromarray(_to_pixels(few.reshape(side, side, 3)))
    smooth = picture.resize(photograph.shape[:2], Image.Resampling.BICUBIC)
    return _to_pixels(np.asarray(smooth) + _grain(rng, photograph.shape))


def noise(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """Noise alone, of some grain and contrast."""
    size = len(photograph)
    grain = int(rng.choice([1, 2, 4, 8]))
    grains = rng.normal(
        _colour(rng, photograph), rng.uniform(20, 90), (size // grain, size // grain, 3)
    )
    return _to_pixels(np.kron(grains, np.ones((grain, grain, 1))))


def noisy(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph under noise."""
    return _to_pixels(photograph + rng.normal(0, rng.uniform(25, 90), photograph.shape))


def blurred(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph out of focus."""
    return np.asarray(
        Image.fromarray(photograph).filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 8)))
    )


def mosaic(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph in squares of one colour each."""
    size, side = len(photograph), int(rng.choice([4, 8, 16]))
    means = photograph.reshape(size // side, side, size // side, side, 3).mean((1, 3))
    return _to_pixels(np.kron(means, np.ones((side, side, 1))))


def shuffled(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph's squares in another order."""
    size, side = len(photograph), int(rng.choice([8, 16]))
    count = size // side
    tiles = (
        photograph.reshape(count, side, count, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    )
    mixed = tiles[rng.permutation(len(tiles))].reshape(count, count, side, side, 3)
    return mixed.swapaxes(1, 2).reshape(size, size, 3)


def drawing(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """A few plain shapes and lines on a plain ground."""
    size = len(photograph)

    def colour() -> tuple[int, ...]:
        return tuple(_colour(rng, photograph).astype(int).tolist())

    picture = Image.new("RGB", (size, size), colour())
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(1, 8)):
        corners = np.sort(rng.integers(-size // 8, size + size // 8, (2, 2)), axis=0)
        fill = colour()
        shape = rng.integers(0, 4)
        if shape == 0:
            pen.rectangle(corners.reshape(-1).tolist(), fill=fill)
        elif shape == 1:
            pen.ellipse(corners.reshape(-1).tolist(), fill=fill)
        elif shape == 2:
            pen.polygon(rng.integers(0, size, 6).tolist(), fill=fill)
        else:
            points = rng.integers(0, size, 2 * int(rng.integers(2, 6))).tolist()
            pen.line(points, fill=fill, width=int(rng.integers(1, 6)))
    return np.asarray(picture)


def compressed(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph as a JPEG of hardly any bytes."""
    buffer = io.BytesIO()
    Image.fromarray(photograph).save(buffer, "JPEG", quality=int(rng.integers(1, 8)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def glaring(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph's colours as far apart as they go."""
    mean = photograph.mean((0, 1))
    return _to_pixels(mean + rng.uniform(3, 8) * (photograph - mean))


def faint(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """The photograph hardly visible."""
    return _to_pixels(_colour(rng, photograph) + rng.uniform(0.02, 0.15) * (photograph - 128.0))


PLAIN: tuple[Corruption, ...] = (flat, gradient, clouds, drawing)
CORRUPTIONS: tuple[Corruption, ...] = (
    *PLAIN, noise, noisy, blurred, mosaic, shuffled, compressed, glaring, faint,
)  # fmt: skip


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
