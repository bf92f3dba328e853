"""How real pictures look to a bundle's discriminator: log sigmoid(D(x)), picture by picture."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gradgen import notebook
from gradgen.errors import UsageError
from gradgen.hosts import ALONE, Hosts, gather
from gradgen.images import ImageSource, find_images
from gradgen.networks.catalog import SCORING_BUNDLE
from gradgen.networks.stream import BATCH_SIZE, stream

if TYPE_CHECKING:
    from gradgen.networks.interfaces import Bundle, Network

GIVEN = "(given in Python)"  # the group of pictures that are not files


@dataclass(frozen=True)
class ImageScore:
    """A picture: its path (or "image 3"), its group, its log-probability of being real (nats)."""

    source: str
    group: str
    log_probability: float


@dataclass(frozen=True)
class GroupScore:
    """A folder's pictures: mean log-probability, its standard error s/√n (None for n = 1)."""

    group: str
    count: int
    mean: float
    standard_error: float | None


@dataclass(frozen=True)
class UnreadableImage:
    """A picture that has no score, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Scores:
    """What `score` returns. images: in the order given. groups: in the order first met."""

    images: tuple[ImageScore, ...]
    groups: tuple[GroupScore, ...]
    failures: tuple[UnreadableImage, ...]
    discriminator: str
    discriminator_sha256: str

    @property
    def log_probabilities(self) -> np.ndarray:
        """(n,) float64, in the order of `images`."""
        return np.array([image.log_probability for image in self.images], np.float64)

    @property
    def total(self) -> GroupScore | None:
        """All pictures as a group; None if there are none."""
        return group_score("all", self.log_probabilities) if self.images else None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        record = asdict(self)
        record["total"] = asdict(self.total) if self.total else None
        return record

    def _repr_html_(self) -> str:
        """For Jupyter: a row for each group, and one for each picture that has no score."""
        rows = []
        total = [self.total] if self.total and len(self.groups) > 1 else []
        for group in (*self.groups, *total):
            error = "–" if group.standard_error is None else f"{group.standard_error:.3f}"
            rows.append((group.group, str(group.count), f"{group.mean:.3f}", error))
        shown = notebook.table(("pictures", "number", "mean log p(real)", "standard error"), rows)
        if not self.failures:
            return shown
        failures = [(failure.source, failure.reason) for failure in self.failures]
        return shown + notebook.table(("no score", "why"), failures)

    def to_csv(self) -> str:
        """`source,group,log_probability`, a line for each picture."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["source", "group", "log_probability"])
        writer.writerows([i.source, i.group, repr(i.log_probability)] for i in self.images)
        return text.getvalue()


def score(
    images: Any,
    bundle: Bundle | str | os.PathLike[str] = SCORING_BUNDLE,
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    discriminator: str | None = None,
    batch_statistics: bool = False,
    hosts: Hosts = ALONE,
) -> Scores:
    """Score pictures by a bundle's discriminator.

    images: a picture or a sequence of them; each a path (a folder or a glob pattern stands for
    all that it holds), a Pillow image or an array (H, W, 3), uint8 or floating point in [-1, 1];
    an array (n, H, W, 3) is n pictures. Each is scaled to the discriminator's size.
    bundle: a Bundle or what `load_bundle` takes; ten64's discriminator was trained to turn down
    noise, drawings and spoilt photographs too. on_progress(done, total) after each batch.
    discriminator: another than the bundle's, as `load_bundle` takes it. batch_statistics:
    DCGAN as it was published, normalised by the batch at hand: a picture's score then depends on
    the pictures beside it and on batch_size. hosts: that share the pictures and have stayed
    connected (`gradgen.hosts.connect`); all of them return all scores.

    A file that cannot be read is listed in `.failures`, the rest is scored. Raises UsageError
    when a path does not exist or nothing is given.
    """
    sources, groups = _sources(images)
    if not sources:
        raise UsageError("no images to score")
    network = _discriminator(bundle, discriminator, batch_statistics)
    if on_progress is None and notebook.listens():
        bar = notebook.Bar("scoring", "pictures")
        on_progress = bar.update
    own = hosts.share(len(sources))
    values: list[tuple[int, float]] = []
    failed: list[tuple[int, str]] = []
    names = [_name(source, i) for i, source in enumerate(sources)]
    for chunk in stream(network, sources[own.start : own.stop], batch_size, threads):
        indices = (chunk.indices + own.start).tolist()
        for index, value in zip(indices, chunk.outputs.tolist(), strict=True):
            if math.isfinite(value):
                values.append((index, value))
            else:
                failed.append((index, f"{names[index]}: {network.name} gives it {value}"))
        failed.extend((own.start + f.index, f.message) for f in chunk.failures)
        if on_progress is not None:
            on_progress(chunk.done, len(own))
    # JSON keeps every bit of a float
    parts = [json.loads(part) for part in gather(hosts, json.dumps([values, failed]).encode())]
    scored = [ImageScore(names[i], groups[i], value) for part in parts for i, value in part[0]]
    failures = [UnreadableImage(names[i], reason) for part in parts for i, reason in part[1]]
    return Scores(
        tuple(scored),
        tuple(grouped(scored)),
        tuple(failures),
        network.name,
        network.sha256,
    )


def _discriminator(
    bundle: Bundle | str | os.PathLike[str], name: str | None, batch_statistics: bool
) -> Network:
    if isinstance(bundle, str | os.PathLike):
        from gradgen.networks.load import load_bundle

        bundle = load_bundle(
            bundle if isinstance(bundle, str) else Path(bundle), discriminator=name
        )
    elif name is not None:
        raise UsageError("a bundle that is loaded has its discriminator; give the bundle by name")
    if not batch_statistics:
        return bundle.discriminator
    from gradgen.networks.paper import DISCRIMINATOR, load_dcgan

    if bundle.parts.discriminator is not load_dcgan:
        raise UsageError(f"batch-statistics is for {DISCRIMINATOR} alone; add discriminator dcgan")
    return load_dcgan(batch_statistics=True)


def group_score(group: str, log_probabilities: np.ndarray) -> GroupScore:
    """Mean and standard error (sample standard deviation / √n) of (n,) log-probabilities, n > 0."""
    count = len(log_probabilities)
    error = None
    if count > 1:
        error = float(np.std(log_probabilities, ddof=1)) / math.sqrt(count)
    return GroupScore(group, count, float(np.mean(log_probabilities)), error)


def grouped(scores: Iterable[ImageScore]) -> Iterator[GroupScore]:
    """A GroupScore for each group, in the order in which they first come."""
    values: dict[str, list[float]] = {}
    for image in scores:
        values.setdefault(image.group, []).append(image.log_probability)
    for group, numbers in values.items():
        yield group_score(group, np.array(numbers, np.float64))


def _sources(images: Any) -> tuple[list[ImageSource], list[str]]:
    """Everything that `score` accepts -> single pictures, each once, and the group of each."""
    if getattr(images, "ndim", 0) == 4:
        images = list(np.asarray(images))
    elif _is_path(images) or _is_picture(images):
        images = [images]
    sources: list[ImageSource] = []
    groups: list[str] = []
    seen: set[Path] = set()
    for item in images:
        if _is_path(item):
            found = [path for path in find_images([item]) if path not in seen]
            seen.update(found)
            sources.extend(found)
            groups.extend(str(path.parent) for path in found)
        elif _is_picture(item):
            sources.append(item if isinstance(item, Image.Image) else np.asarray(item))
            groups.append(GIVEN)
        else:
            kind = type(item).__name__
            raise UsageError(f"an image is a path, a Pillow image or an array, not {kind}")
    return sources, groups


def _is_path(item: object) -> bool:
    return isinstance(item, str | os.PathLike)


def _is_picture(item: object) -> bool:
    """A Pillow image, or an array of NumPy, of JAX or of anything like them."""
    return isinstance(item, Image.Image) or hasattr(item, "__array__")


def _name(source: ImageSource, index: int) -> str:
    return str(source) if isinstance(source, str | Path) else f"image {index}"
