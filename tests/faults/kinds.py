"""Every kind of file that gradgen reads: good examples, ways to damage them, and their readers."""

import functools
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image, PngImagePlugin

from gradgen import images
from gradgen.code_bounds import load_statistics
from gradgen.files import load_npy, load_npz, npz_bytes
from gradgen.labels import imagenet_labels
from gradgen.models.caffe_layers import Conv, Deconv, Dense
from gradgen.runs.checkpoint import load_states
from gradgen.runs.record import Recipe, read_record
from gradgen.weights.archive import extract_member, is_archive
from gradgen.weights.caffe import caffe_parameters, read_caffemodel
from gradgen.weights.cards import read_card
from gradgen.weights.registry import read_registry
from gradgen.weights.store import load_arrays, weights_dir
from tests import caffe_files
from tests.faults.mutate import mutate, mutate_json, mutate_npy, mutate_npz


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the file that is written, and of the test.
        good: the examples, as whatever ``damage`` takes.
        read: what gradgen does with the file; it gets the path.
        damage: (rng, example) -> bytes.
        whole: example -> bytes, of a good file.
    """

    name: str
    good: Callable[[], list[Any]]
    read: Callable[[Path], Any]
    damage: Callable[[random.Random, Any], bytes] = field(default=mutate)
    whole: Callable[[Any], bytes] = field(default=bytes)


# --- pictures ---------------------------------------------------------------------------------


def _noise(mode, size=(17, 13)):
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), "RGBA")
    if mode == "F":
        return Image.fromarray(rng.random((size[1], size[0]), np.float32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (size[1], size[0]), np.uint16))
    return rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba


def _pictures(form, *variants):
    """Files of one format: (mode, options of Pillow's writer)."""

    def make():
        found = []
        for mode, options in variants:
            buffer = io.BytesIO()
            _noise(mode).save(buffer, form, **options)
            found.append(buffer.getvalue())
        return found

    return Kind(f"picture.{form.lower()}", make, images.decode)


_EXIF = Image.Exif()
_EXIF[274] = 6  # to be turned by 90 degrees
PICTURES = [
    _pictures(
        "PNG", ("RGB", {}), ("P", {"transparency": 3}), ("I;16", {}), ("RGBA", {}), ("1", {})
    ),
    _pictures("JPEG", ("RGB", {"exif": _EXIF}), ("L", {"progressive": True}), ("CMYK", {})),
    _pictures("WEBP", ("RGB", {}), ("RGBA", {"lossless": True})),
    _pictures("GIF", ("P", {}), ("L", {"save_all": True, "append_images": [_noise("L")]})),
    _pictures("BMP", ("RGB", {}), ("P", {}), ("1", {})),
    _pictures("DIB", ("RGB", {}), ("L", {})),
    _pictures(
        "TIFF", ("RGB", {}), ("F", {}), ("I;16", {}), ("RGB", {"compression": "tiff_lzw"}),
        ("RGB", {"compression": "jpeg"}), ("L", {"compression": "tiff_adobe_deflate"}),
        ("1", {"compression": "group4"}), ("RGBA", {"exif": _EXIF}),
    ),
    _pictures("PPM", ("RGB", {}), ("L", {}), ("1", {}), ("I;16", {})),
    _pictures("TGA", ("RGBA", {}), ("RGB", {"compression": "tga_rle"}), ("P", {})),
    _pictures("ICO", ("RGBA", {}), ("RGBA", {"bitmap_format": "bmp"})),
]  # fmt: skip
if "JPEG2000" in images._known_formats():
    PICTURES.append(_pictures("JPEG2000", ("RGB", {}), ("L", {})))
if "AVIF" in images._known_formats():
    PICTURES.append(_pictures("AVIF", ("RGB", {}), ("RGBA", {})))


# --- recipes, cards, statistics ---------------------------------------------------------------

EARLIER = Path(__file__).parents[1] / "data" / "earlier"
RECIPE = images.read_recipe(EARLIER / "beacon-00.png")
RECIPE |= {"bounds": {"sha256": "0" * 64, "lower": "AAAAAA==", "upper": "AACAPw=="}}
RECORD = json.loads((EARLIER / "begun" / "run.json").read_text(encoding="utf-8"))


def _read_recipe(path):
    recipe = Recipe.from_json(images.read_recipe(path), str(path))
    if recipe.bounds is not None:
        recipe.bounds.sides()


def _state():
    with np.load(EARLIER / "begun" / "checkpoint" / "state-0000000.npz") as stored:
        return dict(stored)


def _with_recipe(text):
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"iTXt", b"gradgen\0\0\0\0\0" + text)
    buffer = io.BytesIO()
    _noise("RGB").save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def _json_bytes(value):
    return json.dumps(value).encode()


def _cards():
    folders = [weights_dir() / name for name in ("lite0", "tiny64")]
    cards = [json.loads((folder / "card.json").read_text(encoding="utf-8")) for folder in folders]
    small = {key: cards[1][key] for key in cards[1] if key != "metrics"}
    return [cards[0], {**small, "labels": small["labels"][:3]}]


def _read_card(path):
    read_card(path.parent)


def _statistics_arrays():
    mean = np.linspace(-1, 1, 5, dtype=np.float32)
    std = np.ones(5, np.float32)
    record = np.array(json.dumps({"format": "gradgen statistics 1", "source": "images"}))
    return {"lower": mean - std, "upper": mean + std, "mean": mean, "std": std, "record": record}


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _in_parts(arrays):
    return {name: _npy(array) for name, array in arrays.items()}


def _zipped(parts):
    return npz_bytes({name: np.load(io.BytesIO(part)) for name, part in parts.items()})


def _chains():
    rng = np.random.default_rng(0)
    return {
        "z": rng.standard_normal((2, 3, 4), np.float32),
        "step": np.arange(3),
        "accepted": rng.random((2, 3)) > 0.5,
        "name": np.array(["a", "bc"]),
    }


# --- weights ----------------------------------------------------------------------------------


class Small(nnx.Module):
    """A network of one layer of each kind."""

    def __init__(self, rngs):
        self.conv = Conv(4, 6, 3, groups=2, rngs=rngs)
        self.up = Deconv(6, 5, 4, stride=2, padding=1, rngs=rngs)
        self.fc = Dense(20, 7, input_shape=(5, 2, 2), rngs=rngs)


@functools.cache
def _small():
    return nnx.eval_shape(lambda: Small(nnx.Rngs(0)))


def _caffemodels():
    layers = {
        "conv": (np.ones((6, 2, 3, 3)), np.ones(6)),
        "up": (np.ones((6, 5, 4, 4)), np.ones(5)),
        "fc": (np.ones((7, 20)), np.ones(7)),
    }
    return [
        caffe_files.caffemodel(layers, generation, packed=packed, legacy=legacy)
        for generation in ("V0", "V1", "V2")
        for packed in (True, False)
        for legacy in (True, False)
    ]


def read_caffe_network(path):
    """The whole way from a caffemodel to the parameters of a small network."""
    found = caffe_parameters(_small(), read_caffemodel(path), "some")
    assert found["fc.kernel"].shape == (20, 7) and found["up.kernel"].dtype == np.float32
    assert all(np.isfinite(array).all() for array in found.values())


def _safetensors():
    from safetensors.numpy import save

    arrays = {"a.kernel": np.ones((3, 4), np.float16), "a.bias": np.zeros(4, np.float32)}
    return [save(arrays), save({"n": np.arange(3), "s": np.ones((), np.float32)})]


MEMBER = "fc6/generator.caffemodel"


def _zips():
    found = []
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", how) as file:
            file.writestr("release/README", b"hello")
            file.writestr(f"release/{MEMBER}", b"some weights " * 50)
        found.append(buffer.getvalue())
    return found


def _tars():
    found = []
    for mode in ("w", "w:gz", "w:bz2"):
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode=mode, format=form) as file:
                for name, content in (("é" * 40, b"x"), (f"release/{MEMBER}", b"weights " * 90)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
            found.append(buffer.getvalue())
    return found


def _extract(path):
    is_archive(path)
    extract_member(path, MEMBER, path.with_suffix(".out"))


def _ask_labels(path):
    query = path.read_bytes().decode("utf-8", "replace")
    imagenet_labels().search(query)
    imagenet_labels().find(query)


KINDS = [
    *PICTURES,
    Kind("recipe.png", lambda: [_with_recipe(_json_bytes(RECIPE))], _read_recipe),
    Kind(
        "recipe-json.png",
        lambda: [RECIPE],
        _read_recipe,
        lambda rng, recipe: _with_recipe(mutate_json(rng, recipe)),
        lambda recipe: _with_recipe(_json_bytes(recipe)),
    ),
    Kind("run.json", lambda: [RECORD], read_record, mutate_json, _json_bytes),
    Kind("state-0000000.npz", lambda: [npz_bytes(_state())], lambda path: load_states(path.parent)),
    Kind(
        "state-1.npz",
        lambda: [_in_parts(_state())],
        lambda path: load_states(path.parent),
        mutate_npz,
        _zipped,
    ),
    Kind("card.json", _cards, _read_card, mutate_json, _json_bytes),
    Kind("statistics.npz", lambda: [npz_bytes(_statistics_arrays())], load_statistics),
    Kind(
        "statistics-arrays.npz",
        lambda: [_in_parts(_statistics_arrays())],
        load_statistics,
        mutate_npz,
        _zipped,
    ),
    Kind("bounds.txt", lambda: [b"0.5, 1.5\n2 3.25e1"], load_statistics),
    Kind("chains.npz", lambda: [npz_bytes(_chains())], load_npz),
    Kind("chains-arrays.npz", lambda: [_in_parts(_chains())], load_npz, mutate_npz, _zipped),
    Kind("array.npy", lambda: [_npy(np.ones((3, 4), np.float32))], load_npy, mutate_npy),
    Kind("weights.safetensors", _safetensors, load_arrays),
    Kind("network.caffemodel", _caffemodels, read_caffe_network),
    Kind("archive.zip", _zips, _extract),
    Kind("archive.tar", _tars, _extract),
    Kind(
        "registry.toml",
        lambda: [(weights_dir() / "registry.toml").read_bytes()],
        read_registry,
    ),
    Kind("query", lambda: [b"beacon", b"437", b"n02814860", b"crane"], _ask_labels),
]
