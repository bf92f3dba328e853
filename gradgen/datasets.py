"""Labelled photographs in memory: from a folder of class folders, or from .npz shards of JPEGs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.images import SUFFIXES, ImageError, decode, resize_square
from gradgen.labels import Labels

HELD_OUT = 20  # without a val folder, every 20th image of each class is held out
THREADS = 4  # that decode


@dataclass(frozen=True)
class Dataset:
    """Photographs and their classes.

    Attributes:
        images: (n, size, size, 3) uint8 RGB.
        labels: (n,) int32, indices into ``classes``.
        classes: a line for each class: its synset id, if it has one, and its names.
        source: the name of the folder that they come from.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.labels)


def load_datasets(
    folder: Path, size: int, advance: Callable[[int, int], None] | None = None
) -> tuple[Dataset, Dataset]:
    """Read training and validation images at ``size`` x ``size``.

    Args:
        folder: either class folders of images (optionally inside ``train/`` and ``val/``), or
            ``train-*.npz`` and ``val.npz`` with ``jpeg``, ``offset``, ``label`` and a
            ``classes.txt`` ("synset<TAB>names" a line).
        size: side in pixels; other images are resized and centre-cropped.
        advance: called with (done, total) now and then.

    Raises:
        UsageError: the folder is neither.
        GradgenError: an image cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give one with a folder of images per class")
    if list(folder.glob("train-*.npz")):
        return _load_shards(folder, size, advance)
    return _load_folders(folder, size, advance)


def only_classes(data: Dataset, queries: Sequence[str]) -> Dataset:
    """The images of some classes alone, labelled by the order of the queries.

    Args:
        data: photographs of more classes.
        queries: names or synset ids.

    Raises:
        UsageError: a query is none of the classes, or several, or fewer than two are left.
    """
    labels = Labels.from_lines(data.classes, title="the data")
    chosen = list(dict.fromkeys(labels.find(query.strip()).index for query in queries))
    if len(chosen) < 2:
        raise UsageError(f"at least two classes are needed, not {len(chosen)}")
    place = np.full(len(data.classes), -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    kept = place[data.labels] >= 0
    classes = tuple(data.classes[index] for index in chosen)
    return Dataset(data.images[kept], place[data.labels[kept]], classes, data.source)


def load_held_out(
    folder: Path, size: int, advance: Callable[[int, int], None] | None = None
) -> Dataset:
    """The validation images alone; see :func:`load_datasets`."""
    if (folder / "val.npz").is_file():
        return _load_shard(folder, "val.npz", size, advance)
    return load_datasets(folder, size, advance)[1]


def _load_shards(
    folder: Path, size: int, advance: Callable[[int, int], None] | None
) -> tuple[Dataset, Dataset]:
    train, val = (_load_shard(folder, p, size, advance) for p in ("train-*.npz", "val.npz"))
    return train, val


def _load_shard(
    folder: Path, pattern: str, size: int, advance: Callable[[int, int], None] | None
) -> Dataset:
    lines = (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
    classes = tuple(line.replace("\t", " ", 1) for line in lines if line.strip())
    blobs: list[bytes] = []
    labels = []
    for path in sorted(folder.glob(pattern)):
        with np.load(path) as shard:
            data, offset = shard["jpeg"].tobytes(), shard["offset"]
            blobs += [data[a:b] for a, b in pairwise(offset)]
            labels.append(shard["label"].astype(np.int32))
    if not blobs:
        raise UsageError(f"{folder} holds no {pattern}")
    images = _decode_all(blobs, size, advance)
    return Dataset(images, np.concatenate(labels), classes, folder.name)


def _load_folders(
    folder: Path, size: int, advance: Callable[[int, int], None] | None
) -> tuple[Dataset, Dataset]:
    train_root = folder / "train" if (folder / "train").is_dir() else folder
    val_root = folder / "val" if train_root != folder else None
    classes = tuple(sorted(path.name for path in train_root.iterdir() if path.is_dir()))
    if len(classes) < 2:
        raise UsageError(
            f"{train_root} holds {len(classes)} class folders, at least 2 are needed: "
            "one folder of images per class"
        )
    train_files, train_labels = _list_images(train_root, classes)
    if val_root is not None and val_root.is_dir():
        val_files, val_labels = _list_images(val_root, classes)
    else:
        held = np.zeros(len(train_files), bool)
        for index in range(len(classes)):
            held[np.flatnonzero(train_labels == index)[HELD_OUT - 1 :: HELD_OUT]] = True
        if not held.any():
            held[::HELD_OUT] = True
        val_files = [f for f, h in zip(train_files, held, strict=True) if h]
        train_files = [f for f, h in zip(train_files, held, strict=True) if not h]
        val_labels, train_labels = train_labels[held], train_labels[~held]
    return tuple(  # type: ignore[return-value]
        Dataset(_decode_all(files, size, advance), labels, classes, folder.name)
        for files, labels in ((train_files, train_labels), (val_files, val_labels))
    )


def _list_images(root: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    files: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        files += found
        labels += [index] * len(found)
    if not files:
        raise UsageError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))})")
    return files, np.array(labels, np.int32)


def _decode_all(
    sources: Sequence[Path | bytes], size: int, advance: Callable[[int, int], None] | None
) -> np.ndarray:
    """Pictures (n, size, size, 3) uint8 of files or of their contents, decoded in threads."""
    images = np.empty((len(sources), size, size, 3), np.uint8)

    def read(index: int) -> None:
        try:
            picture = decode(sources[index], name=f"image {index}")
        except ImageError as error:
            raise GradgenError(f"{error}; remove it and start again") from None
        images[index] = np.asarray(resize_square(picture, size))

    with ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(read, range(len(sources)), chunksize=64), 1):
            if advance and (done % 1000 == 0 or done == len(sources)):
                advance(done, len(sources))
    return images
