"""Tests the three generations of Caffe's files, and the messages about faults in a file."""

import numpy as np
import pytest
from flax import nnx

from gradgen.errors import GradgenError
from gradgen.models.caffe_layers import Conv, Deconv, Dense
from gradgen.weights.caffe import caffe_parameters, read_caffemodel
from gradgen.weights.store import fill_module
from tests import caffe_files

RNG = np.random.default_rng(0)
LAYERS = {
    "conv": (RNG.standard_normal((6, 2, 3, 3), np.float32), RNG.standard_normal(6, np.float32)),
    "up": (RNG.standard_normal((6, 5, 4, 4), np.float32), RNG.standard_normal(5, np.float32)),
    "fc": (RNG.standard_normal((7, 20), np.float32), RNG.standard_normal(7, np.float32)),
}


class Small(nnx.Module):
    def __init__(self, rngs):
        self.conv = Conv(4, 6, 3, groups=2, rngs=rngs)
        self.up = Deconv(6, 5, 4, stride=2, padding=1, rngs=rngs)
        self.fc = Dense(20, 7, input_shape=(5, 2, 2), rngs=rngs)


def written(tmp_path, layers=LAYERS, generation="V2", **how):
    path = tmp_path / "some.caffemodel"
    path.write_bytes(caffe_files.caffemodel(layers, generation, **how))
    return path


@pytest.mark.parametrize("generation", ["V0", "V1", "V2"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("diff", [True, False])
def test_every_kind_of_file_gives_the_same_numbers(tmp_path, generation, packed, legacy, diff):
    path = written(tmp_path, generation=generation, packed=packed, legacy=legacy, diff=diff)
    read = read_caffemodel(path)
    assert [layer.name for layer in read] == list(LAYERS)  # the layer without blobs is left out
    for layer in read:
        for found, expected in zip(layer.blobs, LAYERS[layer.name], strict=True):
            np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    module = nnx.eval_shape(lambda: Small(nnx.Rngs(0)))
    fill_module(module, caffe_parameters(module, read, "some"), "some")
    # the unit (c, h, w) of Caffe's flat image is the unit (h, w, c) of ours
    weights = LAYERS["fc"][0].reshape(7, 5, 2, 2)
    kernel = np.asarray(module.fc.kernel[...]).reshape(2, 2, 5, 7)
    np.testing.assert_array_equal(kernel[1, 0, 3], weights[:, 3, 1, 0])
    np.testing.assert_array_equal(
        module.conv.kernel[...][2, 0, 1, 5], LAYERS["conv"][0][5, 1, 2, 0]
    )
    np.testing.assert_array_equal(module.up.kernel[...][3, 1, 4, 2], LAYERS["up"][0][4, 2, 0, 2])
    np.testing.assert_array_equal(module.up.bias[...], LAYERS["up"][1])


def test_missing_superfluous_and_misshapen_layers_are_all_named(tmp_path):
    layers = {
        "conv": (LAYERS["conv"][0][:, :1], LAYERS["conv"][1]),
        "fc": LAYERS["fc"],
        "fc9": LAYERS["fc"],
        "loss1/fc": LAYERS["fc"],
    }
    read = read_caffemodel(written(tmp_path, layers))
    module = nnx.eval_shape(lambda: Small(nnx.Rngs(0)))
    with pytest.raises(GradgenError) as caught:
        caffe_parameters(module, read, "some.caffemodel", ignored=("loss1/",))
    message = str(caught.value)
    assert message.startswith("some.caffemodel does not fit its network: ")
    assert "missing up" in message and "unexpected fc9" in message
    assert "conv has blobs (6, 1, 3, 3) and (6,), expected (6, 2, 3, 3) and (6,)" in message
    assert "loss1" not in message


def test_a_layer_without_its_bias_is_named(tmp_path):
    layers = {**LAYERS, "up": LAYERS["up"][:1]}
    module = nnx.eval_shape(lambda: Small(nnx.Rngs(0)))
    with pytest.raises(GradgenError, match=r"up has blobs \(6, 5, 4, 4\), expected"):
        caffe_parameters(module, read_caffemodel(written(tmp_path, layers)), "some")


def test_a_truncated_file_is_one_clear_error(tmp_path):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GradgenError, match="cut short"):
        read_caffemodel(path)


def test_a_blob_with_too_few_numbers_is_one_clear_error(tmp_path):
    content = caffe_files.blob(np.zeros(3)).replace(b"\x0a\x01\x03", b"\x0a\x01\x04")
    layer = caffe_files.chunk(1, "fc") + caffe_files.chunk(7, content)
    path = tmp_path / "some.caffemodel"
    path.write_bytes(caffe_files.chunk(100, layer))
    with pytest.raises(GradgenError, match=r"layer fc has a blob of shape \(4,\) with 3 numbers"):
        read_caffemodel(path)


@pytest.mark.parametrize("content", [b"", b'name: "net"\nlayer { }\n', b"\x0a\x03net"])
def test_other_files_are_one_clear_error(tmp_path, content):
    path = tmp_path / "some.caffemodel"
    path.write_bytes(content)
    with pytest.raises(GradgenError, match=str(path)):
        read_caffemodel(path)
    with pytest.raises(GradgenError, match="No such file"):
        read_caffemodel(tmp_path / "missing")
