"""What every training has in common: a budget of minutes, schedules, averages, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, serialization
from jax import Array

from gradgen.errors import GradgenError
from gradgen.files import write_atomically
from gradgen.models.layers import BatchNorm

Params = Any
CHECKPOINT_SECONDS = 120.0
REPORT_STEPS = 20


def cosine(progress: Array, warmup: float = 0.03) -> Array:
    """Learning-rate factor: linear to 1 over ``warmup``, then half a cosine to 0 at progress 1."""
    falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((progress - warmup) / (1 - warmup), 0, 1)))
    return jnp.where(progress < warmup, (progress + 1e-3) / (warmup + 1e-3), falling)


def ema_update(average: Params, new: Params, step: Array, decay: float) -> Params:
    """Exponential moving average whose decay grows to ``decay``, so that early steps are forgotten.

    Returns the pytree d * average + (1 - d) * new with d = min(decay, (1 + step) / (10 + step)).
    """
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, average, new)


def to_images(pixels: Array) -> Array:
    """uint8 (…) to float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def flip_at_random(key: Array, images: Array) -> Array:
    """Mirror each image left to right with probability one half."""
    flip = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def crop_at_random(key: Array, images: Array, padding: int) -> Array:
    """Shift each image by up to ``padding`` pixels; what enters is the mirrored border."""
    n, height, width, channels = images.shape
    margin = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, margin, mode="reflect")
    offsets = jax.random.randint(key, (n, 2), 0, 2 * padding + 1)

    def crop(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def use_running_statistics(module: nnx.Module) -> nnx.Module:
    """Switch every batch norm of a module to its running mean and variance, in place."""
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, BatchNorm):
            layer.running = True
    return module


def fit(
    step: Callable[[Any, Any, Array], tuple[Any, dict[str, Array]]],
    state: dict[str, Any],
    make_batches: Callable[[int], Iterator[Any]],
    *,
    minutes: float,
    checkpoint: Path,
    on_report: Callable[[int, float, float, dict[str, float]], None] | None = None,
    on_checkpoint: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run ``step(state, batch, progress)`` until the minutes are used, from a checkpoint if any.

    Args:
        step: jitted; ``progress`` in [0, 1] is the share of the budget used, which drives the
            schedules, so that a budget of any length ends with the schedule's end.
        state: pytree with an integer ``state["step"]``.
        make_batches: takes the number of steps done, gives the batches that follow.
        minutes: of training, over all resumptions.
        checkpoint: file; written every two minutes and at the end.
        on_report: called with (step, progress, steps per second, metrics).
        on_checkpoint: called with the state whenever it has been written, except when interrupted;
            its time is not training's.

    Returns the final state. KeyboardInterrupt writes a checkpoint and is raised again.
    """
    elapsed = 0.0
    if checkpoint.exists():
        state, elapsed = _read_checkpoint(checkpoint, state)
    count = int(state["step"])
    budget = minutes * 60
    feed = make_batches(count)
    saved = last = time.monotonic()

    def keep() -> None:
        _write_checkpoint(checkpoint, state, elapsed)
        if on_checkpoint is not None:
            on_checkpoint(state)

    try:
        while elapsed < budget:
            for _ in range(REPORT_STEPS):
                progress = jnp.float32(elapsed / budget)
                state, metrics = step(state, next(feed), progress)
            count += REPORT_STEPS
            figures = {name: float(value) for name, value in metrics.items()}
            if not all(value == value for value in figures.values()):
                raise GradgenError(
                    f"training diverged at step {count} ({figures}); "
                    f"delete {checkpoint} or lower --learning-rate"
                )
            now = time.monotonic()
            # the first report holds the compilation, which must not eat a short budget
            elapsed += 0.0 if last == saved and count == REPORT_STEPS else now - last
            if on_report:
                on_report(count, min(1.0, elapsed / budget), REPORT_STEPS / (now - last), figures)
            last = now
            if now - saved > CHECKPOINT_SECONDS:
                keep()
                last = saved = time.monotonic()
    except KeyboardInterrupt:
        _write_checkpoint(checkpoint, state, elapsed)
        raise
    keep()
    return state


def seconds_done(checkpoint: Path) -> float:
    """How long the training has run that a checkpoint is of; 0 if there is none.

    Raises:
        GradgenError: the file is no checkpoint.
    """
    if not checkpoint.exists():
        return 0.0
    try:
        return float(serialization.msgpack_restore(checkpoint.read_bytes())["elapsed"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise GradgenError(f"{checkpoint} is not a checkpoint; delete it to start anew") from error


def _write_checkpoint(path: Path, state: dict[str, Any], elapsed: float) -> None:
    write_atomically(path, serialization.to_bytes({"state": state, "elapsed": elapsed}))


def _read_checkpoint(path: Path, state: dict[str, Any]) -> tuple[dict[str, Any], float]:
    try:
        restored = serialization.from_bytes({"state": state, "elapsed": 0.0}, path.read_bytes())
    except (ValueError, KeyError, OSError) as error:
        raise GradgenError(
            f"{path} is not a checkpoint of this training ({error}); delete it to start anew"
        ) from error
    return jax.tree.map(jnp.asarray, restored["state"]), float(restored["elapsed"])
