"""Tests that all forms of cards are read as the same form, and that faults name file and field."""

import copy
import json

import pytest

from gradgen.errors import GradgenError
from gradgen.labels import imagenet_labels
from gradgen.weights.cards import parse_card, read_card, write_card
from gradgen.weights.store import weights_dir

BUNDLE = {
    "name": "mine",
    "kind": "bundle",
    "architecture": {"name": "tiny64", "sizes": {"fc6": 256}},
    "labels": ["n02814860 beacon, lighthouse", "my class"],
    "preprocessing": "RGB",
    "licence": "MIT",
    "files": {"codes.safetensors": "0" * 64},
    "temperature": 0.9,
    "code_size": 8,
    "code_variance_kept": 0.5,
    "recommended": {"likelihood_weight": 4.0, "chosen_by": "hand"},
    "metrics": {"val_top1": 0.5},
}


@pytest.mark.parametrize("name", ["ten64", "tiny64", "lite0", "lite1"])
def test_the_embedded_cards_have_todays_form(name):
    card = read_card(weights_dir() / name)
    assert card.content == json.loads((weights_dir() / name / "card.json").read_text())
    assert set(card.content["architecture"]) >= {"name"} and card.name == name
    assert card.architecture == {"ten64": "tiny64"}.get(name, name)
    assert all(len(sha256) == 64 for sha256 in card.files.values())
    if name in ("lite0", "lite1"):
        assert card.labels == tuple(str(label) for label in imagenet_labels())


def test_a_card_comes_back_with_what_it_is_not_read_for(tmp_path):
    write_card(tmp_path, BUNDLE)
    card = read_card(tmp_path)
    assert (card.architecture, card.sizes) == ("tiny64", {"fc6": 256})
    assert card.labels == ("n02814860 beacon, lighthouse", "my class")
    assert (card.temperature, card.code_size, card.likelihood_weight) == (0.9, 8, 4.0)
    assert card.content == BUNDLE


def test_cards_of_bundles_trained_before_are_read():
    old = {**BUNDLE, "architecture": "tiny64"}
    del old["recommended"]
    card = parse_card(old, "card.json")
    assert card.architecture == "tiny64" and card.sizes == {} and card.likelihood_weight is None
    assert card.content["architecture"] == {"name": "tiny64"}
    sizes = {"encoder": {"fc6": 256}}
    card = parse_card({**old, "sizes": sizes}, "card.json")
    assert card.sizes == sizes and "sizes" not in card.content


def test_the_earlier_forms_of_lite0s_card_are_read():
    card = parse_card(
        {
            "name": "lite0",
            "kind": "classifier",
            "architecture": {"class": "a.b.EfficientNetLite", "variant": "lite0", "paper": "Tan"},
            "labels": "imagenet-1k",
            "temperature": 1.0,
            "preprocessing": {"channels": "RGB", "resize": "to 224 x 224"},
            "files": {"classifier.safetensors": {"sha256": "a" * 64, "dtype": "float16"}},
            "licence": {"spdx": "Apache-2.0", "file": "LICENSE"},
        },
        "card.json",
    )
    assert card.architecture == "lite0" and card.content["architecture"]["paper"] == "Tan"
    assert card.labels[437] == "n02814860 beacon, lighthouse, beacon light, pharos"
    assert card.preprocessing == "RGB; to 224 x 224"
    assert card.files == {"classifier.safetensors": "a" * 64}
    assert card.licence == "Apache-2.0"


def test_a_converted_networks_card_needs_no_classes():
    network = {"name": "x", "kind": "network", "architecture": "caffenet", "licence": "none",
               "files": {}}  # fmt: skip
    assert parse_card(network, "card.json").labels == ()


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("kind", "generator", "kind must be one of bundle, classifier, network"),
        ("architecture", {}, "architecture lacks the field name"),
        ("architecture", {"name": "tiny64", "sizes": 3}, "sizes must be an object, not 3"),
        ("labels", [1], r"labels must be a list of texts, not \[1\]"),
        ("labels", None, "labels must be a list of texts, not null"),
        ("licence", 3, "licence must be a text, not 3"),
        ("files", {"a": 3}, "files must be an object of texts"),
        ("files", {"../a": "0"}, "files names '../a', which is no file name"),
        ("temperature", 0, "temperature must be a positive number, not 0"),
        ("temperature", True, "temperature must be a positive number, not true"),
        (
            "temperature",
            float("nan"),
            "temperature must be a positive number, not NaN|NaN is no number",
        ),
        ("code_size", "8", 'code_size must be a positive number, not "8"'),
        ("recommended", {"likelihood_weight": -1}, "likelihood_weight must be a positive number"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_never_written(tmp_path, field, value, complaint):
    wrong = {**copy.deepcopy(BUNDLE), field: value}
    with pytest.raises(GradgenError, match=rf"card\.json.*{complaint}"):
        write_card(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "card.json").write_text(json.dumps(wrong))
    with pytest.raises(GradgenError, match=complaint):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "field", ["name", "kind", "architecture", "labels", "licence", "files", "temperature",
              "code_size", "code_variance_kept"],
)  # fmt: skip
def test_a_field_that_is_missing_is_named(field):
    wrong = {key: value for key, value in BUNDLE.items() if key != field}
    with pytest.raises(GradgenError, match=rf"^f/card.json lacks the field {field} "):
        parse_card(wrong, "f/card.json")


@pytest.mark.parametrize(
    ("text", "complaint"), [("[]", "no JSON object|not an object"), ("{", "is not JSON")]
)
def test_what_is_no_card_is_one_line(tmp_path, text, complaint):
    with pytest.raises(GradgenError, match="holds no card.json"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(GradgenError, match=complaint):
        read_card(tmp_path)
