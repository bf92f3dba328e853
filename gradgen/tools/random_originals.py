"""Writes random weights for the paper's networks, to time them without their real weights.

    GRADGEN_HOME=/tmp/random python -m gradgen.tools.random_originals deepsim-fc6 caffenet
    GRADGEN_HOME=/tmp/random gradgen bench --bundle caffenet

The pictures are noise, but time and memory are those of the real networks.
"""

from __future__ import annotations

import argparse

from gradgen import runtime

runtime.configure()

from flax import nnx  # noqa: E402

from gradgen.files import file_sha256  # noqa: E402
from gradgen.models.published import ARCHITECTURES, architecture  # noqa: E402
from gradgen.weights.cards import write_card  # noqa: E402
from gradgen.weights.registry import WEIGHTS_FILE, store_dir  # noqa: E402
from gradgen.weights.store import save_module  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", choices=sorted(ARCHITECTURES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.networks:
        folder = store_dir() / name
        if (folder / "card.json").exists():
            raise SystemExit(f"{folder} holds weights already; set GRADGEN_HOME to another folder")
        path = folder / WEIGHTS_FILE
        save_module(path, architecture(name).make(nnx.Rngs(options.seed)), half=False)
        card = {
            "name": name,
            "kind": "network",
            "architecture": {"name": name},
            "title": f"random weights in the shapes of {name}: for timing only",
            "licence": "none needed",
            "converter": f"gradgen.tools.random_originals, seed {options.seed}",
            "files": {WEIGHTS_FILE: file_sha256(path)},
        }
        write_card(folder, card)
        print(folder)


if __name__ == "__main__":
    main()
