"""Tests ``gradgen train``, from a folder of class folders to a bundle that works."""

import json

import numpy as np
import pytest
from PIL import Image

from gradgen.cli.app import main
from gradgen.datasets import load_datasets, only_classes
from gradgen.networks.load import load_bundle
from gradgen.training import loop, pipeline, watch
from tests.viewers import Viewer


def make_photographs(folder, count=48):
    """Two classes that anyone can tell apart: bright and dark noise."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 60)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(rng.normal(level, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Photographs of two classes, and a small network in place of lite0."""
    make_photographs(tmp_path / "data", count=24)
    monkeypatch.setattr(pipeline, "load_lite_module", lambda folder: Viewer())
    monkeypatch.setattr(pipeline, "DRAWN", 32)
    monkeypatch.setattr(watch, "PICTURES", 40)
    monkeypatch.setattr(loop, "REPORT_STEPS", 2)
    return tmp_path


@pytest.mark.slow  # compiles the steps of all three trainings twice
def test_training_writes_a_bundle_and_goes_on_from_it(small):
    mine, other = small / "mine", small / "other"
    arguments = ["train", str(small / "data"), "--minutes", "0.01", "--batch-size", "8",
                 "--code-size", "6"]  # fmt: skip
    assert main([*arguments, "--out", str(mine), "--licence", "CC0-1.0"]) == 0
    bundle = load_bundle(mine)
    card = json.loads((mine / "card.json").read_text())
    assert card["code_size"] == bundle.code_size == 6
    assert card["architecture"]["sizes"]["generator"] == {
        "num_classes": 2,
        "finest": 16,
        "blurred": True,
    }
    assert card["licence"] == "CC0-1.0"
    assert card["recommended"] == {"likelihood_weight": 1.0}
    assert [label.name for label in bundle.classifier.labels] == ["bright", "dark"]
    assert bundle.generator.apply(bundle.generator.params, np.zeros((2, 6))).shape[1:] == (
        64,
        64,
        3,
    )
    images = np.zeros((2, 64, 64, 3), np.float32)
    assert bundle.encoder.apply(bundle.encoder.params, images).shape == (2, 6)
    assert np.isfinite(bundle.discriminator.apply(bundle.discriminator.params, images)).all()
    assert (mine / "preview.png").is_file()
    assert set(card["training"]) >= {"generator", "classifier", "discriminator", "command"}

    assert main([*arguments, "--out", str(mine), "--licence", "CC0-1.0"]) == 0  # used up
    assert json.loads((mine / "card.json").read_text())["files"] == card["files"]

    again = [*arguments, "--out", str(other), "--from", str(mine), "--stage"]
    assert main([*again, "others"]) == 1  # there is no generator yet
    assert main([*again, "generator"]) == 0
    assert not (other / "card.json").exists()
    assert main([*again, "others"]) == 0
    began = json.loads((other / "card.json").read_text())["training"]["from"]
    assert began["files"] == card["files"]


def test_only_some_classes_are_trained_on(small, capsys):
    make_photographs(small / "more", count=24)
    (small / "more" / "bright").rename(small / "more" / "n01443537 goldfish")
    (small / "more" / "dark").rename(small / "more" / "n02814860 beacon, lighthouse")
    (small / "data" / "dark").rename(small / "more" / "dark")
    train, val = load_datasets(small / "more", 64)
    part = only_classes(train, ["beacon", " n01443537"])
    assert part.classes == ("n02814860 beacon, lighthouse", "n01443537 goldfish")
    beacons = train.images[train.labels == train.classes.index(part.classes[0])]
    np.testing.assert_array_equal(part.images[part.labels == 0], beacons)
    assert len(part) == 46 and len(only_classes(val, ["dark", "beacon"])) == 2
    arguments = ["train", str(small / "more"), "--out", str(small / "x"), "--classes"]
    assert main([*arguments, "beacon"]) == 2
    assert "at least two classes are needed" in capsys.readouterr().err
    assert main([*arguments, "beacon,zebra"]) == 2
    assert "zebra" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--minutes", "0", "--minutes must be positive"),
        ("--stage", "x", "--stage must be one of"),
        ("--batch-size", "2", "--batch-size must be at least"),
        ("--code-size", "1000", "--code-size must be between"),
        ("--precision", "float8", "--precision must be one of"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, capsys, option, value, complaint):
    code = main(["train", str(tmp_path), "--out", str(tmp_path / "x"), option, value])
    assert code == 2
    assert complaint in capsys.readouterr().err
