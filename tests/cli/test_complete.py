"""The tab key: the program is asked as Typer's own bash script asks it."""

import os
import subprocess
import sys

import pytest

from gradgen.cli.complete import class_words
from gradgen.labels import imagenet_labels


def proposed(words):
    """What the program proposes for a line that ends in the last word."""
    code = (
        "import sys; from gradgen.cli.app import main; main([]); "
        "sys.stderr.write(' '.join({'jax', 'flax', 'matplotlib'} & set(sys.modules)))"
    )
    line = f"gradgen {words}"
    count = len(line.split(" ")) - 1
    asked = {"_GRADGEN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(count)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sample --method m", ["mala", "map"]),
        ("sample --preset d", ["dgn-am"]),
        ("sample --class great-w", ["great-white-shark"]),
        ("sample --class alle", []),
        ("sample --bundle places205 --class alle", ["alley"]),
        ("sample --bundle ti", ["tiny64"]),
        ("sample --classifier lite", ["lite0", "lite1"]),
        ("score --bundle places", ["places205"]),
        ("vie", ["view"]),
    ],
)
def test_the_tab_key_proposes(words, expected):
    assert proposed(words) == expected


def test_each_proposed_word_means_its_own_class():
    labels = imagenet_labels()
    words = list(class_words(labels))
    assert len(set(words)) == len(labels)
    wrong = [word for label, word in zip(labels, words, strict=True) if labels.find(word) != label]
    assert wrong == []
