"""Applies a network to any number of pictures or codes, in batches of a fixed size.

:func:`stream` takes pictures that are not decoded yet, and its memory does not grow with their
number. :func:`apply_in_batches` takes arrays. The network is compiled once. The output for a
picture depends neither on the other pictures of its batch nor on the number of devices.
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

from gradgen.images import ImageError, ImageSource, from_uint8, load_image

if TYPE_CHECKING:
    from flax import nnx

    from gradgen.devices import Layout
    from gradgen.networks.interfaces import Apply, Network, Params

BATCH_SIZE = 32
MAX_THREADS = 8


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read.

    Attributes:
        index: its position among the sources.
        message: the reason.
    """

    index: int
    message: str


@dataclass(frozen=True)
class Chunk:
    """The results of one batch.

    Attributes:
        indices: (n,) positions among the sources, increasing.
        outputs: (n, …) outputs of the network.
        failures: the sources that could not be read since the last batch.
        done: number of sources that have been read or have failed so far.
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
    """Apply a network to every readable picture, in order.

    At most two batches of decoded pictures wait at any time. A last batch that is not full is
    filled up with grey, so that all batches have the same shape, unless the network is not
    ``per_image``.

    Args:
        network: computes (n, …) from images (n, S, S, 3). S is its ``input_size``, to which
            :func:`gradgen.images.load_image` scales and crops the pictures.
        sources: files or other sources of pictures.
        batch_size: pictures at a time on each of this host's devices. A network that is not
            ``per_image`` runs on a single device.
        threads: number of threads that decode. ``None`` means one thread for each core, but at most
            ``MAX_THREADS``.

    Yields:
        The results of each batch.
    """
    run, batch_size = _batch_runner(network.apply, network.params, batch_size, network.per_image)
    size = network.input_size
    images = np.zeros((batch_size, size, size, 3), np.float32)
    indices: list[int] = []
    failures: list[Failure] = []
    done = 0

    def chunk() -> Chunk:
        if not indices:
            return Chunk(np.array([], np.int64), _nothing(), tuple(failures), done)
        outputs = run(images[: len(indices)])
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


def apply_in_batches(
    apply: Apply,
    params: Params,
    inputs: np.ndarray,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Apply a network to many inputs that are in memory.

    The compiled program is kept for later calls with the same ``apply`` and the same shape of a
    batch. So do not give a new closure at each call: :func:`pure_function` makes functions of
    modules that last.

    Args:
        apply: ``apply(params, batch)``. Each row of its output depends on the same row of the batch
            alone.
        params: its parameters, as a pytree.
        inputs: (n, …), codes or pictures. Pictures may be uint8, which is brought to [-1, 1].
        batch_size: rows at a time on each of this host's devices. A last batch that is not full is
            filled up with zeros.
        on_progress: called after each batch with the number of rows that are done.

    Returns:
        The outputs (n, …).
    """
    run, batch_size = _batch_runner(apply, params, batch_size)
    parts = []
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        parts.append(run(from_uint8(part) if part.dtype == np.uint8 else part))
        if on_progress is not None:
            on_progress(start + len(part))
    return np.concatenate(parts) if parts else _nothing()


def pure_function(module: nnx.Module, layer: str | None = None) -> tuple[Apply, Params]:
    """Split a Flax module into a pure function and parameters, for :func:`apply_in_batches`.

    Modules of the same structure share the function, so that they share a compiled program.

    Args:
        module: takes a batch.
        layer: name of the wanted activation, if the module returns a dictionary of them.
    """
    from flax import nnx

    graph, params = nnx.split(module)
    return _function_of(graph, layer), params


@functools.lru_cache(maxsize=16)
def _function_of(graph: nnx.GraphDef[Any], layer: str | None) -> Apply:
    from flax import nnx

    def apply(params: Params, batch: Any) -> Any:
        outputs = nnx.merge(graph, params)(batch)
        return outputs if layer is None else outputs[layer]

    return apply


def _nothing() -> np.ndarray:
    return np.zeros((0,), np.float32)


def _batch_runner(
    apply: Apply, params: Params, batch_size: int, per_image: bool = True
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Make a function that applies the network to a batch or less.

    Args:
        apply: ``apply(params, batch)``.
        params: its parameters.
        batch_size: rows on each device.
        per_image: whether a batch may be filled up with zeros and spread over devices. It may not
            if the network looks at the batch as a whole.

    Returns:
        The function, and the number of rows of a batch on all devices together.
    """
    import jax

    from gradgen.devices import make_layout, place

    # Each device gets a whole batch, so that the bits do not depend on the number of devices.
    devices = jax.local_devices() if per_image else jax.local_devices()[:1]
    layout = make_layout(len(devices), devices=devices)
    compiled = _compiled(apply, layout)
    _, placed = place((), params, layout)
    whole = batch_size * len(devices)

    def run(inputs: np.ndarray) -> np.ndarray:
        batch = inputs
        if per_image and len(inputs) < whole:
            batch = np.zeros((whole, *inputs.shape[1:]), inputs.dtype)
            batch[: len(inputs)] = inputs
        return np.asarray(compiled(place(batch, (), layout)[0], placed))[: len(inputs)]

    return run, whole


@functools.lru_cache(maxsize=8)
def _compiled(apply: Callable[..., Any], layout: Layout) -> Callable[[Any, Any], Any]:
    """Compile ``apply`` with the inputs spread over devices.

    The same arguments give the same object, so that a second call compiles nothing.
    """
    import jax

    from gradgen.devices import spread

    def each(inputs: Any, params: Any) -> Any:
        return apply(params, inputs)

    return jax.jit(lambda inputs, params: spread(each, inputs, params, layout))


def _read_ahead(
    load: Callable[[ImageSource], np.ndarray],
    sources: Iterable[ImageSource],
    ahead: int,
    threads: int | None,
) -> Iterator[np.ndarray | ImageError]:
    """Call ``load`` on each source in threads. At most ``ahead`` results wait, in order."""

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
        finally:  # if the reader stops early, as after Ctrl-C, nobody wants the other pictures
            for future in waiting:
                future.cancel()
