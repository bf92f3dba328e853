"""Weights and cards that are wrong in a way that would show only in the results, or not at all."""

import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from gradgen.errors import GradgenError
from gradgen.weights.cards import read_card, write_card
from gradgen.weights.store import load_arrays, load_module, weights_dir


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_number_that_is_not_finite_is_named_with_its_file_and_parameter(tmp_path, value, dtype):
    kernel = np.ones((3, 4), dtype)
    kernel[1, 2] = value
    save_file({"kernel": kernel, "bias": np.zeros(4, dtype)}, tmp_path / "net.safetensors")
    module = nnx.eval_shape(lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(
        GradgenError, match=r"net\.safetensors: 1 of the 12 numbers of kernel are not finite"
    ):
        load_module(tmp_path / "net.safetensors", module)


def test_types_that_numpy_lacks_are_one_clear_error(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(GradgenError, match=r"a\.safetensors is not a readable safetensors file"):
        load_arrays(path)


def test_a_card_that_is_not_strict_json_is_one_clear_error(tmp_path):
    path = tmp_path / "card.json"
    for content, message in [
        ('{"name": "é"}'.encode("latin-1"), r"card\.json is not JSON \(not UTF-8 at byte 10\)"),
        (b'{"temperature": NaN}', r"card\.json is not JSON \(NaN is no number of JSON\)"),
        (b"[" * 100_000, r"card\.json is not JSON that is read here \(nested too deep\)"),
    ]:
        path.write_bytes(content)
        with pytest.raises(GradgenError, match=message):
            read_card(tmp_path)


def test_a_card_is_written_as_json_that_everybody_reads(tmp_path):
    card = json.loads((weights_dir() / "tiny64" / "card.json").read_text(encoding="utf-8"))
    write_card(tmp_path, card | {"metrics": {"loss": float("nan"), "who": "é"}})
    written = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert written["metrics"] == {"loss": None, "who": "é"}
