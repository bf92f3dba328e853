"""Tests ``gradgen classes``, which lists the classes and the classifiers that know them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradgen.cli import app as program
from gradgen.weights.cards import write_card

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path):
    """A bundle's card with two of ImageNet's classes, out of order, and one of its own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    labels = ["n03126707 crane", "my [red] teapot, kettle", "n02814860 beacon, lighthouse"]
    write_card(
        folder,
        {
            "name": "mine",
            "kind": "bundle",
            "architecture": {"name": "tiny64"},
            "labels": labels,
            "licence": "MIT",
            "files": {},
            "temperature": 1.0,
            "code_size": 8,
            "code_variance_kept": 0.9,
        },
    )
    return folder


def as_json(capsys, *arguments):
    code = program.main(["classes", "--json", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_a_query_lists_each_class_with_its_index_in_every_classifier_that_knows_it(capsys, bundle):
    assert as_json(capsys, "crane", "--bundle", bundle) == [
        {"synset": "n02012849", "names": ["crane"], "indices": {"lite0": 134}},
        {"synset": "n03126707", "names": ["crane"], "indices": {"mine": 0, "lite0": 517}},
    ]


def test_a_composed_class_lists_all_that_it_names(capsys, bundle):
    rows = as_json(capsys, "lipstick & !(crane | 2)", "--bundle", bundle)
    assert [row["names"][0] for row in rows] == [
        "great white shark", "crane", "beacon", "crane", "lipstick",
    ]  # fmt: skip
    assert program.main(["classes", "crane & lipstik"]) == 2
    assert "lipstick" in capsys.readouterr().err


def test_a_class_of_the_bundle_alone_is_listed_last_and_without_a_synset(capsys, bundle):
    rows = as_json(capsys, "--bundle", bundle)
    assert len(rows) == 1001
    assert [row["indices"]["lite0"] for row in rows[:1000]] == list(range(1000))
    assert rows[1000] == {
        "synset": "",
        "names": ["my [red] teapot", "kettle"],
        "indices": {"mine": 1},
    }


def test_an_index_means_a_class_in_each_classifier(capsys, bundle):
    rows = as_json(capsys, "2", "--bundle", bundle)
    assert [row["names"][0] for row in rows] == ["great white shark", "beacon"]


def test_the_table_shows_names_with_brackets_as_they_are_and_counts_on_stderr(capsys, bundle):
    assert program.main(["classes", "teapot", "--bundle", str(bundle)]) == 0
    captured = capsys.readouterr()
    assert "my [red] teapot, kettle" in captured.out
    assert "2 classes: 1 in mine, 1 in lite0" in captured.err
    header, *rows = captured.out.splitlines()
    assert header.split() == ["mine", "lite0", "synset", "names"]
    assert [row.split()[:3] for row in rows] == [["–", "849", "n04398044"], ["1", "–", "–"]]


def test_a_class_that_nobody_knows_is_one_line_with_the_near_names(capsys, bundle):
    assert program.main(["classes", "lipstik", "--bundle", str(bundle)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "lipstick" in captured.err


@pytest.mark.parametrize(
    ("name", "message"),
    [("nonesuch", "there is no bundle 'nonesuch'"), ("lite0", "lite0 is no bundle")],
)
def test_a_bundle_that_is_not_there_is_one_line(capsys, name, message):
    assert program.main(["classes", "--bundle", name]) == 2
    assert message in capsys.readouterr().err


def test_the_embedded_bundle_knows_tiny_imagenet_s_classes(capsys):
    rows = as_json(capsys)
    assert sum("tiny64" in row["indices"] for row in rows) == 200
    assert sum("lite0" in row["indices"] for row in rows) == 1000


def test_listing_classes_does_not_load_jax():
    code = (
        "import sys; from gradgen.cli.app import main; code = main(['classes', 'beacon']); "
        "sys.exit(code or 'jax' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "n02814860" in result.stdout
