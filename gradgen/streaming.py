"""A network over any number of pictures: decoded in threads, evaluated in batches of one size.

Memory does not grow with the number of pictures, the network is compiled once, and what comes out
for a picture depends neither on which others are with it nor on the number of devices.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.images import ImageError, ImageSource, load_image

if TYPE_CHECKING:
    from gradgen.inference.layout import Layout
    from gradgen.networks import Network

BATCH_SIZE = 32
MAX_THREADS = 8


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read: its position among the sources, and why."""

    index: int
    message: str


@dataclass(frozen=True)
class Chunk:
    """What came out of one batch.

    indices: (n,) positions among the sources, increasing. outputs: (n, …) the network's. failures:
    sources up to here that could not be read. done: sources dealt with so far.
    """

    indices: np.ndarray
    outputs: np.ndarray
    failures: tuple[Failure, ...]
    done: int


def stream(
    network: Network,
    sources: Iterable[ImageSource],
    batch_size: int = BATCH_SIZE,
    threads: int | None = None,
) -> Iterator[Chunk]:
    """Evaluate `network` on every readable picture, in order.

    network: apply(params, images (n, S, S, 3)) -> (n, …), S its `input_size`, to which pictures are
    scaled and cropped (`gradgen.images.load_image`).
    batch_size: on each of this host's devices; a network that looks at the batch as a whole runs on
    one of them. threads: that decode; one a core, up to MAX_THREADS, if None. At most two batches
    of decoded pictures wait at any time. A last batch that is not full is filled up with grey, so
    that all batches have one shape, unless the network looks at the batch as a whole.
    """
    import jax

    from gradgen.inference.layout import make_layout, place

    # a whole batch on each device, so that a picture's bits do not depend on their number
    devices = jax.local_devices() if network.per_image else jax.local_devices()[:1]
    layout = make_layout(len(devices), devices=devices)
    run = _compiled(network.apply, layout)
    _, params = place((), network.params, layout)
    size = network.input_size
    batch_size *= len(devices)
    images = np.zeros((batch_size, size, size, 3), np.float32)
    indices: list[int] = []
    failures: list[Failure] = []
    done = 0

    def chunk() -> Chunk:
        if not indices:
            return Chunk(np.array([], np.int64), _nothing(), tuple(failures), done)
        images[len(indices) :] = 0.0
        batch = images if network.per_image else images[: len(indices)]
        outputs = np.asarray(run(place(batch, (), layout)[0], params))[: len(indices)]
        return Chunk(np.array(indices, np.int64), outputs, tuple(failures), done)

    load = functools.partial(load_image, size=size)
    for index, result in enumerate(_read_ahead(load, sources, 2 * batch_size, threads)):
        done = index + 1
        if isinstance(result, ImageError):
            failures.append(Failure(index, str(result)))
        else:
            images[len(indices)] = result
            indices.append(index)
        if len(indices) == batch_size:
            yield chunk()
            indices, failures = [], []
    if indices or failures:
        yield chunk()


def _nothing() -> np.ndarray:
    return np.zeros((0,), np.float32)


@functools.lru_cache(maxsize=8)
def _compiled(apply: Callable[..., Any], layout: Layout) -> Callable[[Any, Any], Any]:
    """jit(apply) with the pictures spread over devices; the same object for the same arguments, so
    that a second call compiles nothing."""
    import jax

    from gradgen.inference.layout import spread

    def each(images: Any, params: Any) -> Any:
        return apply(params, images)

    return jax.jit(lambda images, params: spread(each, images, params, layout))


def _read_ahead(
    load: Callable[[ImageSource], np.ndarray],
    sources: Iterable[ImageSource],
    ahead: int,
    threads: int | None,
) -> Iterator[np.ndarray | ImageError]:
    """`load` over `sources` in threads, in order, with at most `ahead` results waiting."""

    def attempt(source: ImageSource) -> np.ndarray | ImageError:
        try:
            return load(source)
        except ImageError as error:
            return error

    waiting: deque[Future[np.ndarray | ImageError]] = deque()
    workers = threads or min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(attempt, source))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # Ctrl-C, or a reader that stops early: do not decode what nobody wants
            for future in waiting:
                future.cancel()
