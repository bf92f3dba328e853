"""Pictures in and out: decoding whatever a user has, grids, recipes inside PNG files.

Inside the program a picture is float32 (H, W, 3), RGB in [-1, 1]. Files become that through
`load_image`; `to_uint8` goes back. Neither JAX nor a network is needed here.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from gradgen.errors import GradgenError, UsageError
from gradgen.files import json_text, parse_json, write_atomically
from gradgen.run_files import DIAGNOSIS, EXTRA_PICTURES, RECORD_FILE

T = TypeVar("T")
ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".jp2", ".j2k", ".avif"}
)
# Pictures of these kinds are not decoded; people have them in their folders and should be told.
UNREADABLE_SUFFIXES = frozenset(
    {".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".raw", ".dng", ".cr2", ".cr3", ".nef"}
    | {".arw", ".orf", ".raf", ".rw2"}
)
# Formats that Pillow decodes by itself. EPS is left out on purpose: it would start Ghostscript
# on a file that may come from anywhere.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO")
OPTIONAL_FORMATS = ("JPEG2000", "AVIF")  # not compiled into every Pillow
# What is decoded takes less than a gigabyte: a picture has at most so many pixels (Pillow's own
# line), half as many in formats whose decoders hold it several times over; a file so many bytes.
MAX_PIXELS = 89_478_485
GREEDY_FORMATS = frozenset({"JPEG2000", "AVIF", "WEBP"})
MAX_FILE_BYTES = 512 * 2**20
STRIP_ROWS = 256  # rows that are converted at a time where a conversion needs more memory
RECIPE_KEY = "gradgen"
MAX_RECIPE_BYTES = 2**20  # the bounds of 4096 units take 44 kB


class ImageError(GradgenError):
    """A file that is no picture, or a broken or an unreasonably large one."""


# --- decoding ---------------------------------------------------------------------------------


def decode(source: ImageSource | bytes, name: str = "the image") -> Image.Image:
    """Decode a picture to 8-bit RGB, upright, transparency laid on white; the first frame only.

    source: a path, the bytes of a file, a Pillow image, or an array: uint8 (H, W), (H, W, 1|3|4),
    or floating point of those shapes in [-1, 1]. name: what errors call a picture that is no path.

    Greyscale, palette, CMYK (without colour management) and 16-bit pictures are converted, EXIF
    rotation is applied. Raises ImageError, which names the file, for anything else: not a
    picture, truncated, more than MAX_PIXELS pixels or MAX_FILE_BYTES bytes.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _rgb(_upright(source, in_place=False), name)
    if isinstance(source, bytes):
        return _decode_file(io.BytesIO(source), name, bool(source))
    path = Path(source)
    if not path.is_file():  # a pipe or a device would block for ever
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "is missing"
        raise ImageError(f"{path} {what}")
    _check_bytes(path)
    return _decode_file(path, str(path), path.stat().st_size > 0)


def _decode_file(file: Path | io.BytesIO, name: str, holds_bytes: bool) -> Image.Image:
    try:
        with Image.open(file, formats=_known_formats()) as image:
            _check_size(image, name)
            image.load()
            _check_size(image, name)  # an icon may hold a larger picture than it says
            return _rgb(_upright(image, in_place=True), name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(name, "")) from error
    except Image.UnidentifiedImageError as error:
        reason = "is not a picture that can be read" if holds_bytes else "is empty"
        raise ImageError(f"{name} {reason}") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read (permission denied)") from error
    except Exception as error:
        # Decoders fed with broken bytes raise nearly everything: OSError, SyntaxError,
        # struct.error, IndexError, zlib.error, ValueError, MemoryError …
        raise ImageError(f"{name} is broken: {_reason(error)}") from error


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


def _too_large(name: str, size: str, most: int = MAX_PIXELS) -> str:
    return (
        f"{name} is too large{size}: more than {most // 10**6} million pixels are refused "
        "(it may be a decompression bomb); scale it down first"
    )


def _reason(error: Exception) -> str:
    """The first line of a decoder's complaint."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _check_bytes(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ImageError(
            f"{path} is too large: {size} bytes, and more than {MAX_FILE_BYTES} are refused"
        )


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    most = MAX_PIXELS // 2 if image.format in GREEDY_FORMATS else MAX_PIXELS
    if width * height > most:
        raise ImageError(_too_large(name, f" ({width} x {height})", most))
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width} x {height})")


def _upright(image: Image.Image, in_place: bool) -> Image.Image:
    """Turned as its EXIF data say; in place, which holds it in memory once rather than twice."""
    try:
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are there; only the note about their rotation is unreadable
        return image


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """Any Pillow mode -> RGB."""
    _check_size(image, name)
    if image.mode.startswith("I") or image.mode == "F":
        return _by_strips(image, _grey_converter(image, name))
    if image.has_transparency_data:
        return _by_strips(image, _on_white)
    return image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert some rows at a time: what a conversion holds besides is then small."""
    width, height = image.size
    made = Image.new("RGB", image.size)
    for top in range(0, height, STRIP_ROWS):
        strip = image.crop((0, top, width, min(top + STRIP_ROWS, height)))
        made.paste(convert(strip), (0, top))
    return made


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied: Pillow only converts it back to LA
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _grey_converter(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB of greyscale of 16 bits or more, some rows at a time.

    Integers are 16-bit samples (what PNG, PPM and TIFF hold), so 65535 is white. Floating-point
    TIFFs have no convention: 0…1 if nothing exceeds 1, else 0…255; anything else is refused.
    """
    width, height = image.size
    extremes = []
    for top in range(0, height, STRIP_ROWS):
        rows = np.asarray(image.crop((0, top, width, min(top + STRIP_ROWS, height))))
        extremes += [rows.min(), rows.max()]
    whole = np.asarray(extremes).dtype.kind in "iu"
    low, high = float(np.min(extremes)), float(np.max(extremes))
    if whole and (low < 0 or high > 65535):
        raise ImageError(f"{name} has values {low:g}…{high:g}: only 8 and 16 bits are read")
    if not whole and not (low >= 0 and high <= 255):  # also true for NaN
        raise ImageError(f"{name} has values {low:g}…{high:g}: expected 0…1 or 0…255")

    def convert(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip)
        if whole:
            grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        else:
            grey = np.rint(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")

    return convert


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


def find_images(
    paths: Sequence[str | os.PathLike[str]], unreadable: list[Path] | None = None
) -> list[Path]:
    """The image files that are meant by files, folders (with all below) and glob patterns.

    A file that is named is taken whatever its ending; in folders only the usual endings of
    pictures count, hidden files do not, nor do the grid and trace plots of a run's folder. Each
    file comes once, in the order named; inside a folder, sorted. Raises UsageError, naming what
    was given, when something does not exist or holds no picture.

    Files in folders that are pictures of a kind that cannot be read, such as HEIC, are appended to
    ``unreadable``.
    """
    skipped: list[Path] = []
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
        before, skipped_before = len(found), len(skipped)
        named_again = False
        for match in matches:
            for file in _walk(match, skipped) if match.is_dir() else (match,):
                named_again = named_again or file in found
                found[file] = None
        if len(found) == before and not named_again:
            endings = "png, jpg, webp, gif, bmp, tiff, …"
            count = len(skipped) - skipped_before
            others = f"; {count} of kinds that cannot be read, such as HEIC" if count else ""
            raise UsageError(f"{given} holds no pictures (looked for {endings}{others})")
    if unreadable is not None:
        unreadable.extend(dict.fromkeys(skipped))
    return list(found)


def _walk(folder: Path, unreadable: list[Path]) -> Iterator[Path]:
    """Pictures in a folder and below it, sorted; follows links to folders, but never in circles.

    Those of a kind that cannot be read are appended to ``unreadable`` instead.
    """
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
        skipped = EXTRA_PICTURES if RECORD_FILE in files else frozenset[str]()
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
            extra = name in skipped or (skipped and name.startswith(DIAGNOSIS))
            if name.startswith(".") or extra:
                continue
            if suffix in SUFFIXES:
                yield Path(root, name)
            elif suffix in UNREADABLE_SUFFIXES:
                unreadable.append(Path(root, name))


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
    """Write :func:`png_with_recipe`'s bytes atomically."""
    write_atomically(Path(path), png_with_recipe(image, recipe))


def png_with_recipe(image: Any, recipe: dict[str, Any] | None = None) -> bytes:
    """A picture as PNG, its recipe as JSON in an iTXt chunk named "gradgen".

    image: a Pillow image, or (H, W, 3) uint8 or floating point in [-1, 1].
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(to_uint8(image))
    chunks = PngImagePlugin.PngInfo()
    if recipe is not None:
        chunks.add_itxt(RECIPE_KEY, json_text(recipe))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe that `save_png` wrote: a JSON object, not yet looked at any further.

    Raises UsageError when the file carries none, or carries something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    _check_bytes(path)
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
        raise ImageError(f"{path} is broken: {_reason(error)}") from error
    if RECIPE_KEY not in text:
        raise UsageError(none)
    recipe = str(text[RECIPE_KEY])
    if len(recipe) > MAX_RECIPE_BYTES:
        raise UsageError(f"{path}: its recipe is longer than {MAX_RECIPE_BYTES} letters")
    try:
        return parse_json(recipe, f"{path}: its recipe")
    except GradgenError as error:
        raise UsageError(str(error)) from error
