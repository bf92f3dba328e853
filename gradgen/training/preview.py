"""A picture of what a freshly trained bundle can do."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.datasets import Dataset
from gradgen.images import image_grid, to_uint8
from gradgen.networks.load import load_bundle
from gradgen.training.loop import to_images

COLUMNS = 12


def save_preview(folder: Path, val: Dataset, seed: int = 0) -> Path:
    """Write ``preview.png``: validation photographs, their reconstructions, and g(N(0, I))."""
    bundle = load_bundle(folder)
    chosen = np.random.default_rng(seed).choice(len(val), min(COLUMNS, len(val)), replace=False)
    real = to_images(jnp.asarray(val.images[chosen]))
    codes = bundle.encoder.apply(bundle.encoder.params, real)
    noise = jax.random.normal(jax.random.key(seed), (2 * COLUMNS, bundle.code_size))
    rows = [
        val.images[chosen],
        to_uint8(np.asarray(bundle.generator.apply(bundle.generator.params, codes))),
        to_uint8(np.asarray(bundle.generator.apply(bundle.generator.params, noise))),
    ]
    grid = image_grid(np.concatenate(rows), COLUMNS)
    path = folder / "preview.png"
    temporary = folder / ".preview.tmp.png"
    grid.save(temporary, optimize=True)
    temporary.replace(path)
    return path
