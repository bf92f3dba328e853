"""`gradgen train` from a folder of class folders to a bundle that works."""

import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from gradgen.bundle import load_bundle
from gradgen.cli.app import main
from gradgen.models.tiny64 import FC6_SIZE, Discriminator, Encoder, Generator
from gradgen.training.data import load_datasets
from gradgen.training.export import export_bundle
from gradgen.training.whitening import Whitening, code_statistics


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


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Photographs of two classes and a bundle of untrained networks for them."""
    folder = tmp_path_factory.mktemp("untrained")
    make_photographs(folder / "data", count=24)
    rng = np.random.default_rng(0)
    train, _ = load_datasets(folder / "data", 64)
    kernel = rng.normal(size=(FC6_SIZE, 8)).astype(np.float32)
    export_bundle(
        folder / "bundle",
        "untrained",
        encoder=Encoder(2, rngs=nnx.Rngs(0)),
        generator=Generator(8, rngs=nnx.Rngs(1)),
        discriminator=Discriminator(rngs=nnx.Rngs(2)),
        whitening=Whitening(np.zeros(FC6_SIZE, np.float32), kernel, 0.5),
        statistics=code_statistics(rng.normal(size=(len(train), 8)).astype(np.float32), train),
        train=train,
        temperature=1.25,
        metrics={"val_top1": 0.5},
        training={"command": "none"},
        licence="MIT",
        recommended={"likelihood_weight": 2.0},
    )
    return folder


@pytest.mark.parametrize("extra", [["--no-lite0"], pytest.param([], marks=pytest.mark.slow)])
def test_a_generator_is_trained_under_a_classifier_that_is_kept(untrained, tmp_path, extra):
    arguments = ["train", str(untrained / "data"), "--from", str(untrained / "bundle"),
                 "--stage", "generator", "--out", str(tmp_path / "mine"), "--minutes", "0.001",
                 "--batch-size", "16", "--likelihood-weight", "4", *extra]  # fmt: skip
    assert main(arguments) == 0
    before, after = (
        json.loads((folder / "card.json").read_text())
        for folder in (untrained / "bundle", tmp_path / "mine")
    )
    changed = {name for name in after["files"] if after["files"][name] != before["files"][name]}
    assert changed == {"generator.safetensors", "discriminator.safetensors"}
    assert after["temperature"] == 1.25
    assert after["metrics"]["val_top1"] == 0.5 and after["metrics"]["discriminator_auc"] > 0
    assert after["training"]["from"]["files"] == before["files"]
    assert after["training"]["generator"]["minutes"] == 0.001
    assert after["training"]["generator"]["lite0"] == (not extra)
    assert "classifier" not in after["training"]
    assert after["recommended"] == {"likelihood_weight": 4.0}


def test_a_classifier_of_other_classes_cannot_be_kept(untrained, tmp_path, capsys):
    arguments = ["train", str(untrained / "data"), "--from", "tiny64", "--stage", "generator",
                 "--out", str(tmp_path / "mine")]  # fmt: skip
    assert main(arguments) == 2
    assert "tiny64's 200 classes are not the 2 of the data" in capsys.readouterr().err


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
