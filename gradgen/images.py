"""Pictures in and out: decoding whatever a user has, grids, recipes inside PNG files.

Inside the program a picture is float32 (H, W, 3), RGB in [-1, 1]. Files become that through
`load_image`; `to_uint8` goes back. Neither JAX nor a network is needed here.
"""

from __future__ import annotations

import glob
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from gradgen.errors import GradgenError, UsageError
from gradgen.weights.store import write_atomically

T = TypeVar("T")
ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".avif"}
)
# Formats that Pillow decodes by itself. EPS is left out on purpose: it would start Ghostscript
# on a file that may come from anywhere.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO")
OPTIONAL_FORMATS = ("JPEG2000", "AVIF")  # not compiled into every Pillow
MAX_PIXELS = 89_478_485  # Pillow's own line: 256 MiB of RGB; a larger header is taken for a bomb
RECIPE_KEY = "gradgen"
# Pictures that a run's folder holds beside its samples (gradgen.run): never meant by the folder.
RUN_RECORD, ANIMATION_FILE, DIAGNOSIS = "run.json", "animation.webp", "diagnosis"
RUN_EXTRAS = frozenset({"grid.png", "trace.png", ANIMATION_FILE})


class ImageError(GradgenError):
    """A file that is no picture, or a broken or an unreasonably large one."""


# --- decoding ---------------------------------------------------------------------------------


def decode(source: ImageSource) -> Image.Image:
    """Decode a picture to 8-bit RGB, upright, transparency laid on white; the first frame only.

    source: a path, a Pillow image, or an array: uint8 (H, W), (H, W, 1|3|4), or floating point
    of those shapes in [-1, 1].

    Greyscale, palette, CMYK (without colour management) and 16-bit pictures are converted, EXIF
    rotation is applied. Raises ImageError, which names the file, for anything else: not a
    picture, truncated, more than MAX_PIXELS pixels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _rgb(source, "the image")
    path = Path(source)
    if not path.is_file():  # a pipe or a device would block for ever
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "is missing"
        raise ImageError(f"{path} {what}")
    try:
        with Image.open(path, formats=_known_formats()) as image:
            _check_size(image, str(path))
            image.load()
            return _rgb(image, str(path))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(str(path), "")) from error
    except Image.UnidentifiedImageError as error:
        size = path.stat().st_size
        reason = "is empty" if size == 0 else "is not a picture that can be read"
        raise ImageError(f"{path} {reason}") from error
    except PermissionError as error:
        raise ImageError(f"{path} may not be read (permission denied)") from error
    except Exception as error:
        # Decoders fed with broken bytes raise nearly everything: OSError, SyntaxError,
        # struct.error, IndexError, zlib.error, ValueError, MemoryError …
        raise ImageError(f"{path} is broken: {error or type(error).__name__}") from error


def load_image(source: ImageSource, size: int) -> np.ndarray:
    """Decode a picture and bring it to (size, size, 3) float32 RGB in [-1, 1]."""
    return from_uint8(np.asarray(resize_square(decode(source), size)))


def resize_square(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size`, cut out the centre square; antialiased bicubic.

    Only the square is computed, so a strip of 10000 x 10 pixels costs no more than its centre.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if (width, height) == (size, size):
        return image
    return image.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )


def to_uint8(images: Any) -> np.ndarray:
    """[-1, 1] floating point, any shape -> uint8: round(clip((x + 1) * 127.5, 0, 255))."""
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array
    return np.rint(np.clip((array.astype(np.float32) + 1.0) * 127.5, 0.0, 255.0)).astype(np.uint8)


def from_uint8(images: np.ndarray) -> np.ndarray:
    """uint8, any shape -> float32 in [-1, 1]; `to_uint8` is its exact inverse."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def _known_formats() -> list[str]:
    Image.init()
    return [*FORMATS, *(name for name in OPTIONAL_FORMATS if name in Image.OPEN)]


def _too_large(name: str, size: str) -> str:
    return (
        f"{name} is too large{size}: more than {MAX_PIXELS // 10**6} million pixels are refused "
        "(it may be a decompression bomb); scale it down first"
    )


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(name, f" ({width} x {height})"))
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height})")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are there; only the note about their rotation is unreadable
        return image


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Any Pillow mode -> upright RGB."""
    _check_size(image, name)
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_grey(np.asarray(image), name)).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # premultiplied: Pillow only converts it back to LA
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(values: np.ndarray, name: str) -> np.ndarray:
    """Greyscale of 16 bits or more, (H, W) -> uint8.

    Integers are 16-bit samples (what PNG, PPM and TIFF hold), so 65535 is white. Floating-point
    TIFFs have no convention: 0…1 if nothing exceeds 1, else 0…255; anything else is refused.
    """
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu":
        if low < 0 or high > 65535:
            raise ImageError(f"{name} has values {low:g}…{high:g}: only 8 and 16 bits are read")
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise ImageError(f"{name} has values {low:g}…{high:g}: expected 0…1 or 0…255")
    return np.rint(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise UsageError(f"an image array has shape (H, W) or (H, W, 1|3|4), not {array.shape}")
    if array.dtype.kind == "f":
        # NaN fails both comparisons
        if array.size and not (array.min() >= -1.001 and array.max() <= 1.001):
            raise UsageError("a floating-point image holds values in [-1, 1]; use uint8 for 0…255")
        array = to_uint8(array)
    elif array.dtype != np.uint8:
        raise UsageError(f"an image array is uint8 or floating point, not {array.dtype}")
    if array.size == 0:
        raise UsageError(f"an image array has no pixels: {array.shape}")
    return _rgb(Image.fromarray(np.ascontiguousarray(array)), "the image array")


# --- finding ----------------------------------------------------------------------------------


def evenly_chosen(items: Sequence[T], most: int) -> list[T]:
    """All items, or ``most`` of them spread evenly over the sequence; the first is among them."""
    step = max(1.0, len(items) / most)
    return [items[int(i * step)] for i in range(min(len(items), most))]


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The image files that are meant by files, folders (with all below) and glob patterns.

    A file that is named is taken whatever its ending; in folders only the usual endings of
    pictures count, hidden files do not, nor do the grid and trace plots of a run's folder. Each
    file comes once, in the order named; inside a folder, sorted. Raises UsageError, naming what
    was given, when something does not exist or holds no picture.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given).expanduser()
        if path.exists() or path.is_symlink():
            matches = [path]
        elif glob.has_magic(str(given)):
            matches = [Path(m) for m in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
            if not matches:
                raise UsageError(f"no file matches {given}")
        else:
            raise UsageError(f"{given}: no such file or folder")
        before = len(found)
        named_again = False
        for match in matches:
            for file in _walk(match) if match.is_dir() else (match,):
                named_again = named_again or file in found
                found[file] = None
        if len(found) == before and not named_again:
            endings = "png, jpg, webp, gif, bmp, tiff, …"
            raise UsageError(f"{given} holds no pictures (looked for {endings})")
    return list(found)


def _walk(folder: Path) -> Iterator[Path]:
    """Pictures in a folder and below it, sorted; follows links to folders, but never in circles."""
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped = RUN_EXTRAS if RUN_RECORD in files else frozenset[str]()
        for name in sorted(files):
            is_picture = os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
            extra = name in skipped or (skipped and name.startswith(DIAGNOSIS))
            if is_picture and not name.startswith(".") and not extra:
                yield Path(root, name)


# --- grids ------------------------------------------------------------------------------------

LABEL_COLUMN = 160  # widest left margin for labels, pixels; longer ones are wrapped


def image_grid(
    images: Any,
    columns: int,
    row_labels: Sequence[str] | None = None,
    pad: int = 2,
    scale: int = 1,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Lay pictures out in rows on white, each row with an optional label at its left.

    images: (n, H, W, 3), uint8 or floating point in [-1, 1]; row-major. columns: pictures a row.
    row_labels: one for each of the ceil(n / columns) rows. pad: pixels between pictures and
    around them. scale: whole-number enlargement of tiny pictures, with `resample` (NEAREST shows
    the pixels as they are). Raises ValueError for empty input or a wrong number of labels.
    """
    array = to_uint8(images)
    if array.ndim != 4 or array.shape[-1] != 3 or len(array) == 0:
        raise ValueError(f"a grid takes images (n, H, W, 3) with n > 0, not {array.shape}")
    if columns < 1 or scale < 1 or pad < 0:
        raise ValueError(f"a grid of {columns} columns, scale {scale}, pad {pad} is impossible")
    rows = -(-len(array) // columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} labels for {rows} rows")
    height, width = array.shape[1] * scale, array.shape[2] * scale
    font = ImageFont.load_default(size=max(12, min(20, height // 5)))
    wrapped = [wrap_text(label, font, LABEL_COLUMN) for label in row_labels or ()]
    margin = max((_text_width(line, font) for label in wrapped for line in label), default=0)
    left = margin + 2 * max(pad, 4) if margin else pad
    grid = Image.new(
        "RGB", (left + columns * (width + pad), pad + rows * (height + pad)), (255, 255, 255)
    )
    for i, pixels in enumerate(array):
        row, column = divmod(i, columns)
        tile = Image.fromarray(pixels)
        if scale > 1:
            tile = tile.resize((width, height), resample)
        grid.paste(tile, (left + column * (width + pad), pad + row * (height + pad)))
    draw = ImageDraw.Draw(grid)
    for row, lines in enumerate(wrapped):
        middle = pad + row * (height + pad) + height / 2
        draw.multiline_text(
            (left - max(pad, 4), middle), "\n".join(lines), (0, 0, 0), font, "rm", align="right"
        )
    return grid


def _text_width(text: str, font: Any) -> int:
    return int(np.ceil(font.getlength(text)))


def wrap_text(text: str, font: Any, width: int) -> list[str]:
    """Break a label at spaces into lines no wider than `width` where its words allow it."""
    lines: list[str] = []
    for word in text.split():
        if lines and _text_width(f"{lines[-1]} {word}", font) <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines


# --- recipes ----------------------------------------------------------------------------------


def save_png(
    path: str | os.PathLike[str], image: Any, recipe: dict[str, Any] | None = None
) -> None:
    """Write a PNG atomically, its recipe as JSON in an iTXt chunk named "gradgen".

    image: a Pillow image, or (H, W, 3) uint8 or floating point in [-1, 1].
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(to_uint8(image))
    chunks = PngImagePlugin.PngInfo()
    if recipe is not None:
        chunks.add_itxt(RECIPE_KEY, json.dumps(recipe, ensure_ascii=False, allow_nan=False))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks)
    write_atomically(Path(path), buffer.getvalue())


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe that `save_png` wrote. Raises UsageError when the file carries none."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    none = f"{path} carries no recipe: it was not made by 'gradgen sample', or was saved anew since"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            _check_size(image, str(path))
            image.load()  # the chunk may stand behind the pixels
            text = dict(getattr(image, "text", {}))
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UsageError(none) from error
    except Exception as error:
        raise ImageError(f"{path} is broken: {error or type(error).__name__}") from error
    try:
        recipe = json.loads(text[RECIPE_KEY])
    except KeyError as error:
        raise UsageError(none) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: its recipe is not JSON ({error})") from error
    if not isinstance(recipe, dict):
        raise UsageError(f"{path}: its recipe is not a JSON object")
    return recipe
