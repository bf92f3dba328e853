"""Draws the README's picture: `python -m gradgen.tools.gallery`. Nothing is picked by hand.

Chains 0 to 5 of ten classes at seed 0, the same ten that the choice of the likelihood weight looks
at. A JPEG, since the grid as PNG would be several times larger.
"""

from __future__ import annotations

import io

import gradgen
from gradgen.tools.choose_likelihood_weight import CLASSES
from gradgen.weights.store import weights_dir, write_atomically

NUM_CHAINS, BUDGET, QUALITY = 6, 600, 85


def main() -> None:
    samples = gradgen.sample("tiny64", CLASSES, method="mala", num_chains=NUM_CHAINS, budget=BUDGET)
    buffer = io.BytesIO()
    samples.grid().save(buffer, "JPEG", quality=QUALITY, optimize=True)
    path = weights_dir() / "tiny64" / "gallery.jpg"
    write_atomically(path, buffer.getvalue())
    print(path)


if __name__ == "__main__":
    main()
