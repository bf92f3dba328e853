"""Draws a bundle's gallery: `python -m gradgen.tools.gallery`. Nothing is picked by hand.

Chains 0 to 5 of ten classes at seed 0, the same ten that the choice of the likelihood weight looks
at, at the defaults but for a smaller budget. A JPEG, since the grid as PNG would be several times
larger.
"""

from __future__ import annotations

import argparse
import io

import gradgen
from gradgen.evaluation.experiments import EMBEDDED_CLASSES
from gradgen.files import write_atomically
from gradgen.weights.store import weights_dir

NUM_CHAINS, BUDGET, QUALITY = 6, 600, 85


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="tiny64")
    bundle = parser.parse_args().bundle
    samples = gradgen.sample(bundle, EMBEDDED_CLASSES, num_chains=NUM_CHAINS, budget=BUDGET)
    buffer = io.BytesIO()
    samples.grid().save(buffer, "JPEG", quality=QUALITY, optimize=True)
    path = weights_dir() / bundle / "gallery.jpg"
    write_atomically(path, buffer.getvalue())
    print(path)


if __name__ == "__main__":
    main()
