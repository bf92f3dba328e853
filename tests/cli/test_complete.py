"""The tab key: the program is asked as Typer's own bash script asks it."""

import os
import subprocess
import sys

import pytest

from gradgen.cli.complete import class_words
from gradgen.evidence.expression import last_name
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
        ("sample --class beacon&!great-w", ["beacon&!great-white-shark"]),
        ("classes beacon|(teap", ["beacon|(teapot"]),
        ("sample --class beacon:2", []),
    ],
)
def test_the_tab_key_proposes(words, expected):
    assert proposed(words) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bea", ("", "bea")),
        ("beacon & pi", ("beacon & ", "pi")),
        ("(lemon | !ora", ("(lemon | !", "ora")),
        ("'salt & pep", ("'", "salt & pep")),
        ("geyser | jack-o'-lan", ("geyser | ", "jack-o'-lan")),
        ("'salt & pepper' | le", ("'salt & pepper' | ", "le")),
        ("'salt & pepper'", None),
        ("beacon:", None),
        ("beacon:2 & ", ("beacon:2 & ", "")),
    ],
)
def test_the_last_name_of_an_expression_is_what_is_typed(text, expected):
    assert last_name(text) == expected


def test_each_proposed_word_means_its_own_class():
    labels = imagenet_labels()
    words = list(class_words(labels))
    assert len(set(words)) == len(labels)
    wrong = [word for label, word in zip(labels, words, strict=True) if labels.find(word) != label]
    assert wrong == []
