"""`gradgen train` from a folder of class folders to a bundle that works."""

import json

import numpy as np
import pytest
from PIL import Image

from gradgen.bundle import load_bundle
from gradgen.cli.app import main


def make_photographs(folder, count=48):
    """Two classes that anyone can tell apart: bright and dark noise."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 60)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(rng.normal(level, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")


@pytest.mark.slow
def test_training_writes_a_bundle_that_tells_its_classes_apart(tmp_path):
    make_photographs(tmp_path / "data")
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "mine"),
                 "--minutes", "1", "--batch-size", "16", "--code-size", "8"]  # fmt: skip
    assert main(arguments) == 0
    bundle = load_bundle(tmp_path / "mine")
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["metrics"]["val_top1"] == 1.0
    assert card["code_size"] == bundle.code_size == 8
    assert [label.name for label in bundle.classifier.labels] == ["bright", "dark"]
    z = np.zeros((2, 8), np.float32)
    images = bundle.generator.apply(bundle.generator.params, z)
    assert images.shape == (2, 64, 64, 3)
    assert (tmp_path / "mine" / "preview.png").is_file()

    steps = card["training"]["generator"]["steps"]
    assert main(arguments) == 0  # the budget is used up: the same weights again
    again = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert again["training"]["generator"]["steps"] == steps
    assert again["files"] == card["files"]


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--minutes", "0", "--minutes must be positive"),
        ("--stage", "x", "--stage must be one of"),
        ("--code-size", "1000", "--code-size must be between"),
        ("--precision", "float8", "--precision must be one of"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, capsys, option, value, complaint):
    code = main(["train", str(tmp_path), "--out", str(tmp_path / "x"), option, value])
    assert code == 2
    assert complaint in capsys.readouterr().err
