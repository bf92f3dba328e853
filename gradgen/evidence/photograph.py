"""A photograph as evidence: its pixels are the generator's, plus Gaussian noise.

With a mask only some pixels are known (inpainting). With a reduction by a whole number each pixel
of the photograph is the mean of a square of the generator's pixels (super-resolution).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from gradgen.errors import UsageError
from gradgen.images import decode, from_uint8, resize_square

MASKED = 128  # of 256: a mask's pixels that are this bright, or brighter, hide the photograph


@dataclass(frozen=True, eq=False)
class Photograph:
    """What is known of the picture.

    Attributes:
        pixels: uint8 (side, side, 3).
        known: bool (side, side), the pixels that count.
        noise: standard deviation of each colour of a pixel, where black is 0 and white is 1.
        reduction: side of the generator's pictures, divided by the side of this.
    """

    pixels: np.ndarray
    known: np.ndarray
    noise: float
    reduction: int = 1

    @property
    def params(self) -> dict[str, Array]:
        """What :func:`log_likelihood` takes."""
        return {
            "pixels": jnp.asarray(from_uint8(self.pixels)),
            "known": jnp.asarray(self.known, jnp.float32)[..., None],
            "noise": jnp.float32(self.noise),
        }


def log_likelihood(params: dict[str, Array], reduction: int, images: Array) -> Array:
    """Log density of the known pixels (n,), given the generator's pictures.

    Args:
        params: of a :class:`Photograph`.
        reduction: likewise; it decides the compiled program.
        images: (n, S, S, 3) in [-1, 1].
    """
    if reduction > 1:
        n, height, width, channels = images.shape
        squares = (n, height // reduction, reduction, width // reduction, reduction, channels)
        images = images.reshape(squares).mean(axis=(2, 4))
    noise = params["noise"]
    gap = params["known"] * (images - params["pixels"]) / (2.0 * noise)  # 2 from black to white
    count = 3.0 * params["known"].sum()
    constant = count * (jnp.log(noise) + 0.5 * math.log(2 * math.pi))
    return -0.5 * jnp.sum(gap**2, axis=(1, 2, 3)) - constant


def load_photograph(
    file: str | Path, mask: str | Path | None, noise: float, reduction: int, image_size: int
) -> Photograph:
    """Read a photograph, and cut and scale it to the generator's square.

    Args:
        mask: a picture of the same size as the photograph, white where that is not known.
        noise, reduction: see :class:`Photograph`.
        image_size: side of the generator's pictures.

    Raises:
        UsageError: the mask has another size or hides everything, or the reduction does not divide
            the side.
        GradgenError: a file cannot be read.
    """
    if image_size % reduction:
        raise UsageError(
            f"`downscaled` {reduction} does not divide the {image_size} pixels of the generator's "
            "pictures"
        )
    side = image_size // reduction
    photograph = decode(Path(file))
    known = np.ones((side, side), bool)
    if mask is not None:
        hidden = decode(Path(mask))
        if hidden.size != photograph.size:
            raise UsageError(
                f"{mask} has {_size(hidden)} pixels and {file} has {_size(photograph)}: a mask "
                "belongs to its photograph, pixel by pixel"
            )
        known = np.asarray(resize_square(hidden, side).convert("L")) < MASKED
    pixels = np.asarray(resize_square(photograph, side))
    return _checked(Photograph(pixels, known, noise, reduction), image_size, str(mask or file))


def to_png(photograph: Photograph) -> bytes:
    """Pixels and mask as a PNG file: the mask is its transparency."""
    alpha = np.where(photograph.known, 255, 0).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([photograph.pixels, alpha])).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def from_png(
    content: bytes, noise: float, reduction: int, image_size: int, source: str
) -> Photograph:
    """The inverse of :func:`to_png`, for pictures of that size.

    Raises:
        UsageError: it is no such file, or is of another size; ``source`` is what the message calls
            it.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if max(image.size) > image_size:
                raise ValueError(f"it has {_size(image)} pixels")
            values = np.asarray(image)
        if values.dtype != np.uint8 or values.ndim != 3 or values.shape[-1] != 4:
            raise ValueError("it has no colours with transparency")
    except Exception as error:  # Pillow raises nearly anything on broken bytes
        raise UsageError(f"{source} holds a broken photograph ({error})") from None
    found = Photograph(values[..., :3].copy(), values[..., 3] >= MASKED, noise, reduction)
    return _checked(found, image_size, source)


def _checked(photograph: Photograph, image_size: int, source: str) -> Photograph:
    side, rest = divmod(image_size, photograph.reduction)
    if rest or photograph.known.shape != (side, side):
        raise UsageError(
            f"{source}: a photograph of {photograph.known.shape[1]} x {photograph.known.shape[0]} "
            f"pixels, downscaled {photograph.reduction} times, does not fit pictures of "
            f"{image_size} x {image_size}"
        )
    if not photograph.known.any():
        raise UsageError(f"{source} hides every pixel: it is white where nothing is known")
    return photograph


def _size(image: Any) -> str:
    return f"{image.width} x {image.height}"
