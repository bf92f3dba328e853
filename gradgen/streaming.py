"""A network over any number of pictures: decoded in threads, evaluated in batches of one size.

Memory does not grow with the number of pictures, the network is compiled once, and what comes out
for a picture does not depend on which others are with it.
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
    threads: that decode; one a core, up to MAX_THREADS, if None. At most two batches of decoded
    pictures wait at any time. A last batch that is not full is filled up with grey, so that all
    batches have one shape, unless the network looks at the batch as a whole.
    """
    evaluate = functools.partial(_compiled(network.apply), network.params)
    size = network.input_size
    images = np.zeros((batch_size, size, size, 3), np.float32)
    indices: list[int] = []
    failures: list[Failure] = []
    done = 0

    def chunk() -> Chunk:
        if not indices:
            return Chunk(np.array([], np.int64), _nothing(), tuple(failures), done)
        images[len(indices) :] = 0.0
        batch = images if network.per_image else images[: len(indices)]
        outputs = np.asarray(evaluate(batch))[: len(indices)]
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
def _compiled(apply: Callable[..., Any]) -> Callable[..., Any]:
    """jit(apply), the same object for the same function, so that a second call compiles nothing."""
    import jax

    return jax.jit(apply)


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
