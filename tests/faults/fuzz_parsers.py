"""Guides atheris in fuzzing the parsers that gradgen has itself. pytest does not run this.

    pip install atheris
    python -m tests.faults.fuzz_parsers caffemodel -max_total_time=600
    python -m tests.faults.fuzz_parsers npy ...
    python -m tests.faults.fuzz_parsers npz ...
    python -m tests.faults.fuzz_parsers recipe ...

An exception that is not the project's own ends the fuzzing, and libFuzzer keeps the input in a file
crash-*. The options of libFuzzer follow the name (-max_total_time in seconds, -rss_limit_mb, a
folder of the user's own inputs).
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gradgen.files", "gradgen.images", "gradgen.weights"]):
    from gradgen.errors import GradgenError
    from gradgen.files import load_npy, load_npz, parse_json
    from gradgen.images import read_recipe
    from tests.faults.kinds import KINDS, read_caffe_network


def _recipe(path):
    """A recipe's text alone, which reaches further than a PNG around it, and a whole PNG."""
    content = path.read_bytes()
    if content.startswith(b"\x89PNG"):
        read_recipe(path)
    else:
        parse_json(content, "its recipe")


TARGETS = {
    "caffemodel": (read_caffe_network, ("network.caffemodel",)),
    "npy": (load_npy, ("array.npy",)),
    "npz": (load_npz, ("chains.npz", "chains-arrays.npz")),
    "recipe": (_recipe, ("recipe.png", "recipe-json.png", "card.json")),
}


def main():
    """Fuzz what the first argument names; the rest is libFuzzer's."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"name one of: {', '.join(TARGETS)}")
    read, kinds = TARGETS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for kind in (kind for kind in KINDS if kind.name in kinds):
            for number, example in enumerate(kind.good()):
                (corpus / f"{kind.name}-{number}").write_bytes(kind.whole(example))
        path = Path(folder, "input")

        def attempt(content):
            path.write_bytes(content)
            with suppress(GradgenError):
                read(path)

        atheris.Setup([*sys.argv, "-rss_limit_mb=2048", "-timeout=10", str(corpus)], attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
