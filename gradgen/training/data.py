"""Training photographs in memory: from a folder of class folders, or from .npz shards of JPEGs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from gradgen.errors import GradgenError, UsageError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
HELD_OUT = 20  # without a val folder, every 20th image of each class is held out


@dataclass(frozen=True)
class Dataset:
    """images: (n, size, size, 3) uint8 RGB; labels: (n,) int32; classes: one line a class."""

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
    images = _decode_all([io.BytesIO(blob) for blob in blobs], size, advance)
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
        found = sorted(
            path for path in (root / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        files += found
        labels += [index] * len(found)
    if not files:
        raise UsageError(f"{root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files, np.array(labels, np.int32)


def _decode_all(files: list, size: int, advance: Callable[[int, int], None] | None) -> np.ndarray:
    images = np.empty((len(files), size, size, 3), np.uint8)

    def decode(index: int) -> None:
        try:
            with Image.open(files[index]) as image:
                images[index] = np.asarray(_fit(image.convert("RGB"), size))
        except OSError as error:
            name = files[index] if isinstance(files[index], Path) else f"image {index}"
            raise GradgenError(f"cannot read {name} ({error}); remove it and start again") from None

    with ThreadPoolExecutor(4) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(files)), chunksize=64), 1):
            if advance and (done % 1000 == 0 or done == len(files)):
                advance(done, len(files))
    return images


def _fit(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def batches(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of indices, each epoch in a new order; ``start`` skips that many batches.

    The order of epoch e depends on (seed, e) only, so that a resumed run sees what it would have.
    """
    per_epoch = count // batch_size
    if per_epoch == 0:
        raise UsageError(f"{count} training images are fewer than a batch of {batch_size}")
    epoch, first = divmod(start, per_epoch)
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for index in range(first, per_epoch):
            yield np.sort(order[index * batch_size : (index + 1) * batch_size])
        epoch, first = epoch + 1, 0
