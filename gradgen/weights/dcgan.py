"""DCGAN's discriminator on disk: its .npy files, the sense of its kernels, its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradgen.errors import GradgenError, UsageError
from gradgen.files import file_sha256, load_npy
from gradgen.models import dcgan
from gradgen.weights.cards import read_card, write_card
from gradgen.weights.registry import REFERENCE_FILE, WEIGHTS_FILE
from gradgen.weights.store import (
    check_finite,
    fill_module,
    load_arrays,
    misfit,
    save_arrays,
)

NPY_HEADER = 4096  # bytes that the head of an .npy file may take
MOST_REFERENCE_IMAGES = 512  # half a megabyte each while their statistics are taken
MOST_NOISE_IMAGES = 256


# --- conversion -------------------------------------------------------------------------------


def dcgan_parameters(module: dcgan.Discriminator, files: Sequence[Path]) -> dict[str, np.ndarray]:
    """The discriminator's parameters from its .npy files: w; w2, g2, b2; …; w6, g6, b6; wy.

    Kernels stay as they are in the files, (out, in, k, k) turned into (k, k, in, out) but not
    flipped: Theano convolves by flipping, and whoever loads them does so.
    """
    order = [("conv1", "kernel")]
    for name in dcgan.layer_names()[1:]:
        order += [(name, "kernel"), (name, "scale"), (name, "shift")]
    if len(files) != len(order) + 1:
        raise UsageError(f"DCGAN's discriminator is {len(order) + 1} .npy files, not {len(files)}")
    found: dict[str, np.ndarray] = {}
    faults: list[str] = []
    for file, (layer, part) in zip(files[:-1], order, strict=True):
        ours = tuple(getattr(module.layers[layer], part).shape)
        theirs = (ours[3], ours[2], *ours[:2]) if part == "kernel" else ours
        array = _read_npy(file, theirs, faults)
        if array is not None:
            found[f"layers.{layer}.{part}"] = (
                array.transpose(2, 3, 1, 0) if part == "kernel" else array
            )
    size = module.output.shape[0]
    array = _read_npy(files[-1], (size, 1), faults)
    if array is not None:  # C x H x W to H x W x C
        found["output"] = array.reshape(-1, 4, 4).transpose(1, 2, 0).ravel()
    if faults:
        raise misfit("DCGAN's discriminator", faults)
    check_finite(found, f"DCGAN's discriminator in {files[0].parent}")
    return found


def _read_npy(path: Path, shape: tuple[int, ...], faults: list[str]) -> np.ndarray | None:
    """The array, or None and a line more in ``faults``; no pickled object is ever loaded."""
    try:
        if path.stat().st_size > 8 * int(np.prod(shape)) + NPY_HEADER:
            faults.append(f"{path.name} is larger than an array {shape}")
            return None
        array = load_npy(path)
    except (OSError, GradgenError) as error:
        faults.append(f"{path.name} is no array ({error})")
        return None
    if array.dtype.kind != "f" or array.shape != shape:
        faults.append(f"{path.name} is {array.dtype} {array.shape}, expected numbers {shape}")
        return None
    return array.astype(np.float32)


# --- loading ----------------------------------------------------------------------------------


def load_discriminator(folder: Path, flip: bool) -> dcgan.Discriminator:
    """The network; flip: turn the kernels round, which Theano does when it convolves."""
    arrays = load_arrays(folder / WEIGHTS_FILE)
    if flip:
        arrays = {
            name: array[::-1, ::-1] if name.endswith(".kernel") else array
            for name, array in arrays.items()
        }
    module = nnx.eval_shape(lambda: dcgan.Discriminator(rngs=nnx.Rngs(0)))
    fill_module(module, arrays, str(folder / WEIGHTS_FILE))
    return module


def load_reference(folder: Path) -> dcgan.Statistics:
    """The statistics that :func:`make_reference` wrote.

    Raises:
        GradgenError: there are none, or they are broken.
    """
    path = folder / REFERENCE_FILE
    if not path.is_file():
        raise GradgenError(
            f"{folder.name} has no reference statistics, without which a score would depend on the "
            "other pictures: 'gradgen weights fetch dcgan --reference DIR', DIR with some hundred "
            "photographs (or --batch-statistics, the original's behaviour)"
        )
    arrays = load_arrays(path)
    try:
        return {
            name: (jnp.asarray(arrays[f"{name}.mean"]), jnp.asarray(arrays[f"{name}.variance"]))
            for name in dcgan.layer_names()[1:]
        }
    except KeyError as missing:
        raise GradgenError(f"{path} lacks {missing}; make it again") from None


# --- reference statistics ---------------------------------------------------------------------


def noise_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Pictures of independent uniform pixels, (count, size, size, 3) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def make_reference(folder: Path, images: np.ndarray) -> dict[str, Any]:
    """Fix DCGAN's normalisation on photographs, and find which way round its kernels are.

    Both ways are tried, as they are in the files and flipped (Theano's default); the one by which
    the photographs look more real than uniform noise, by the larger margin, is kept.

    Args:
        folder: of the converted weights; ``reference.safetensors`` is written into it.
        images: (n, 32, 32, 3) in [-1, 1].

    Returns what the card now says of it: ``flip_kernels``, ``images`` and, for both ways, the mean
    log-probability of being real of the photographs and of noise.
    """
    noise = noise_images(min(len(images), MOST_NOISE_IMAGES), dcgan.IMAGE_SIZE)
    trials: dict[bool, dict[str, float]] = {}
    statistics: dict[bool, dcgan.Statistics] = {}
    for flip in (True, False):
        network = load_discriminator(folder, flip)
        statistics[flip] = dcgan.reference_statistics(network, images)
        trials[flip] = {
            what: _mean_log_probability(network, statistics[flip], pictures)
            for what, pictures in (("photographs", images), ("noise", noise))
        }
    margins = {flip: trial["photographs"] - trial["noise"] for flip, trial in trials.items()}
    best = max(margins, key=lambda flip: margins[flip])
    arrays = {
        f"{layer}.{name}": np.asarray(values)
        for layer, pair in statistics[best].items()
        for name, values in zip(("mean", "variance"), pair, strict=True)
    }
    save_arrays(folder / REFERENCE_FILE, arrays, half=False)
    reference = {
        "flip_kernels": best,
        "images": len(images),
        "log_probability": {
            "flipped" if flip else "as stored": trial for flip, trial in trials.items()
        },
    }
    card = read_card(folder)
    files = {**card.files, REFERENCE_FILE: file_sha256(folder / REFERENCE_FILE)}
    write_card(folder, {**card.content, "reference": reference, "files": files})
    return reference


def _mean_log_probability(
    network: dcgan.Discriminator, statistics: dcgan.Statistics, images: np.ndarray
) -> float:
    graph, params = nnx.split(network)

    @jax.jit
    def run(params: Any, images: jax.Array) -> jax.Array:
        return jax.nn.log_sigmoid(nnx.merge(graph, params)(images, statistics)["logit"])

    parts = [
        run(params, jnp.asarray(images[start : start + 64])) for start in range(0, len(images), 64)
    ]
    return float(np.concatenate([np.asarray(part) for part in parts]).mean())
