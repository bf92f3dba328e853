"""Tests how files are recognised and what their card says, on small networks with equal layers."""

import json

import numpy as np
import pytest
from flax import nnx

from gradgen.errors import GradgenError, UsageError
from gradgen.models.caffe_layers import Dense
from gradgen.models.published import Architecture
from gradgen.weights import convert as cv
from gradgen.weights.store import load_arrays
from tests import caffe_files


class Small(nnx.Module):
    def __init__(self, size, rngs):
        self.fc6 = Dense(size, 3, rngs=rngs)


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    known = {
        "caffenet": Architecture(lambda rngs: Small(4, rngs)),
        "alexnet": Architecture(lambda rngs: Small(4, rngs)),
        "deepsim-fc6": Architecture(lambda rngs: Small(7, rngs)),
        "deepsim-fc7": Architecture(lambda rngs: Small(7, rngs)),
        "places205": Architecture(lambda rngs: Small(5, rngs)),
    }
    for name, network in known.items():
        monkeypatch.setitem(cv.ARCHITECTURES, name, network)
    for name in set(cv.ARCHITECTURES) - set(known):
        monkeypatch.delitem(cv.ARCHITECTURES, name)


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = np.arange(3 * size, dtype=np.float32).reshape(3, size)
    path.write_bytes(caffe_files.caffemodel({"fc6": (weights, np.zeros(3))}))
    return path


@pytest.mark.parametrize(
    ("name", "size", "network"),
    [
        ("x/anything.caffemodel", 5, "places205"),
        ("x/bvlc_reference_caffenet.caffemodel", 4, "caffenet"),
        ("x/bvlc_alexnet.caffemodel", 4, "alexnet"),
        ("fc6/generator.caffemodel", 7, "deepsim-fc6"),
        ("fc7/generator.caffemodel", 7, "deepsim-fc7"),
    ],
)
def test_a_file_is_known_by_its_layers_and_where_they_do_not_tell_by_its_name(
    tmp_path, name, size, network
):
    assert cv.detect([write(tmp_path / name, size)]) == network


def test_what_may_be_two_networks_is_asked_for(tmp_path):
    with pytest.raises(UsageError, match=r"may be caffenet or alexnet.*say --network"):
        cv.detect([write(tmp_path / "x" / "net.caffemodel", 4)])
    with pytest.raises(GradgenError, match="fits none of the networks"):
        cv.detect([write(tmp_path / "x" / "net.caffemodel", 9)])
    with pytest.raises(UsageError, match="one network at a time"):
        cv.detect([tmp_path / "a.caffemodel", tmp_path / "b.npy"])


def test_the_card_says_where_weights_come_from_and_the_file_holds_them(tmp_path):
    file = write(tmp_path / "net.caffemodel", 5)
    origin = cv.Origin("Places", ("http://x/y.tar.gz",), "y", "ask them")
    folder = cv.convert("places205", [file], tmp_path / "out", origin)
    card = json.loads((folder / "card.json").read_text())
    assert card["architecture"] == {"name": "places205"} and card["licence"] == "ask them"
    assert card["source"]["urls"] == ["http://x/y.tar.gz"] and card["source"]["member"] == "y"
    assert card["converted"].startswith("20") and len(card["source"]["sha256"][0]) == 64
    kernel = load_arrays(folder / "weights.safetensors")["fc6.kernel"]
    np.testing.assert_array_equal(kernel, np.arange(15).reshape(3, 5).T)


def test_a_file_that_does_not_fit_leaves_what_was_there(tmp_path):
    good = write(tmp_path / "good.caffemodel", 5)
    folder = cv.convert("places205", [good], tmp_path / "out", cv.Origin())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(GradgenError, match=r"fc6 has blobs \(3, 6\)"):
        cv.convert("places205", [write(tmp_path / "bad", 6)], folder, cv.Origin())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
