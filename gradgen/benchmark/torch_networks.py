"""The same generators and classifiers in PyTorch, whose time for a gradient is compared with ours.

The networks are written as a user of PyTorch would write them: NCHW with the channels-last memory
format, PyTorch's own layers, real transposed convolutions, and ``torch.compile`` where it works.
They have our weights, which are rearranged once, so that the gradients can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from jax import Array
from torch import Tensor

from gradgen.benchmark.timing import Loop
from gradgen.errors import GradgenError
from gradgen.models.deepsim import DENSE, SLOPE, UPSAMPLING
from gradgen.models.tiny64 import CLASS_SHARPNESS, Sizes
from gradgen.networks.interfaces import Bundle
from gradgen.runs.target import make_target

LogProbability = Callable[[Tensor], Tensor]  # codes (n, code) -> log p(class | g(z)) (n, classes)
# This is the largest relative difference between the gradients. PyTorch adds the thousands of
# float32 terms of each layer in another order. Some of CaffeNet's gradients agree to 1e-6. In
# others, a unit is so near a rectifier's kink or a pooling's tie that the order decides, and they
# differ by 1e-3. So the median over CHECKED codes counts: a layer that is wrong is wrong for all.
TOLERANCE = 1e-3
CHECKED = 8


def gradient_loops(bundle: Bundle, z: Array, gradients: int) -> dict[str, Loop]:
    """Make PyTorch's loops of gradients of the log density.

    Args:
        bundle: whose networks are built in PyTorch.
        z: (chains, code), the codes at the start of each loop.
        gradients: gradient evaluations in a loop.

    Returns:
        The eager loop and, if ``torch.compile`` works, the compiled loop.

    Raises:
        GradgenError: this module does not know the bundle's networks, or PyTorch's gradient differs
            from ours.
    """
    weight = bundle.card.likelihood_weight or 1.0
    on = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    log_p = _networks(bundle, on)
    start = _tensor(np.asarray(z), on)

    def gradient(log_p: LogProbability, z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        log_density = weight * log_p(z)[:, 0] - 0.5 * (z * z).sum(1)
        return torch.autograd.grad(log_density.sum(), z)[0]

    def loop(log_p: LogProbability) -> Loop:
        def run() -> None:
            z = start
            for _ in range(gradients):
                z = z + 1e-6 * gradient(log_p, z)
            if on == "cuda":
                torch.cuda.synchronize()

        return Loop(run, gradients)

    target = make_target(bundle, likelihood_weight=weight)
    checked = jax.random.normal(jax.random.key(0), (CHECKED, z.shape[1]))
    ours = jax.jit(target.value_and_grad)(target.params, jnp.int32(0), checked).gradient
    theirs = gradient(log_p, _tensor(np.asarray(checked), on)).cpu().numpy()
    error = relative_error(theirs, np.asarray(ours))
    if not error < TOLERANCE:
        raise GradgenError(f"PyTorch's gradient differs from ours by {error:.1e}, relatively")
    loops = {"PyTorch": loop(log_p)}
    compiled = torch.compile(log_p)
    try:
        gradient(compiled, start)
    except Exception:  # torch has no common type for a missing C++ compiler, a new Python …
        return loops
    return loops | {"PyTorch, compiled": loop(compiled)}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the median over codes of |found - expected| / |expected|. Both are (n, code)."""
    gaps = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(np.median(gaps))


def _networks(bundle: Bundle, on: str) -> LogProbability:
    generator = _plain(bundle.generator.params)
    classifier = _plain(bundle.classifier.params)
    if "layers" not in generator:
        draw, judge = tiny64(bundle, on)
        return lambda z: judge(draw(z))
    if "conv1" in classifier and "fc8" in classifier:
        return _caffenet(generator["layers"], classifier, bundle.image_size, on)
    raise GradgenError(f"{bundle.name} is not written down in PyTorch")


def _plain(params: Any) -> dict[str, Any]:
    return jax.tree.map(np.asarray, nnx.to_pure_dict(params))


def _convolution(layer: dict[str, Any], on: str) -> tuple[Tensor, Tensor]:
    """Make weight (out, in, k, k) and bias. The kernel of a pointwise layer is (in, out)."""
    kernel = layer["kernel"]
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))).to(on)
    return weight.contiguous(memory_format=torch.channels_last), _tensor(layer["bias"], on)


def _dense(layer: dict[str, Any], on: str) -> tuple[Tensor, Tensor]:
    return _tensor(layer["kernel"].T, on), _tensor(layer["bias"], on)


def _tensor(array: np.ndarray, on: str) -> Tensor:
    return torch.from_numpy(np.array(array, order="C")).to(on)


# --- tiny64 -----------------------------------------------------------------------------------


def _shuffle_order(channels: int, factor: int = 2) -> np.ndarray:
    """Return, for each channel in PyTorch's order of a shuffled pixel, its place in our order.

    PyTorch's order is (channel, row, column), and ours is (row, column, channel).
    """
    ours = np.arange(channels * factor**2).reshape(factor, factor, channels)
    return ours.transpose(2, 0, 1).reshape(-1)


def _reads_shuffled(layer: dict[str, Any]) -> dict[str, Any]:
    order = _shuffle_order(layer["kernel"].shape[-2] // 4)
    return {**layer, "kernel": layer["kernel"][..., order, :]}


def _writes_shuffled(layer: dict[str, Any]) -> dict[str, Any]:
    order = _shuffle_order(layer["kernel"].shape[-1] // 4)
    return {"kernel": layer["kernel"][..., order], "bias": layer["bias"][order]}


def tiny64(bundle: Bundle, on: str = "cpu") -> tuple[LogProbability, LogProbability]:
    """The embedded networks: codes -> pictures, and pictures -> log p(class), both NCHW."""
    generator, encoder = _plain(bundle.generator.params), _plain(bundle.classifier.params)
    temperature = bundle.classifier.card.temperature
    sizes = Sizes.of_card(bundle.card.sizes).generator
    g_dense = {name: _dense(generator[name], on) for name in ("fc1", "fc2")}
    g_up = {
        name: _convolution(_writes_shuffled(generator[name]), on)
        for name in ("up4", "up5", "up6", "conv6")
    }
    g_same = {name: _convolution(generator[name], on) for name in ("conv3", "conv7")}
    g_residual = {name: _residual(generator[name], on) for name in ("conv4", "conv5")}
    c_down = {
        name: _convolution(_reads_shuffled(encoder[name]), on)
        for name in ("conv1", "down2", "down3", "down4")
    }
    c_residual = {name: _residual(encoder[name], on) for name in ("conv2", "conv3")}
    c_conv4 = _convolution(encoder["conv4"], on)
    c_dense = {name: _dense(encoder[name], on) for name in ("fc6", "fc7", "fc8")}

    def leaky(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2)

    def same(x: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
        return F.conv2d(x, *layer, padding=layer[0].shape[-1] // 2)

    def generate(z: Tensor) -> Tensor:
        if sizes.num_classes:
            told = F.softmax(CLASS_SHARPNESS * z[:, : sizes.num_classes], dim=1)
            z = torch.cat([z, told], 1)
        hidden = leaky(F.linear(z, *g_dense["fc1"]))
        hidden = leaky(F.linear(hidden, *g_dense["fc2"])).reshape(-1, 4, 4, 256)
        hidden = hidden.permute(0, 3, 1, 2)  # the memory stays channels-last
        hidden = leaky(hidden + same(hidden, g_same["conv3"]))
        for up, block in (("up4", "conv4"), ("up5", "conv5")):
            hidden = leaky(F.pixel_shuffle(same(hidden, g_up[up]), 2))
            first, second = g_residual[block]
            hidden = leaky(hidden + same(leaky(same(hidden, first)), second))
        for up in ("up6", "conv6"):
            hidden = leaky(F.pixel_shuffle(same(hidden, g_up[up]), 2))
        picture = same(hidden, g_same["conv7"])
        return torch.tanh(_blurred(picture) if sizes.blurred else picture)

    def judge(images: Tensor) -> Tensor:
        hidden = F.relu(same(F.pixel_unshuffle(images, 2), c_down["conv1"]))
        for down, block in (("down2", "conv2"), ("down3", "conv3")):
            hidden = F.relu(same(F.pixel_unshuffle(hidden, 2), c_down[down]))
            first, second = c_residual[block]
            hidden = F.relu(hidden + same(F.relu(same(hidden, first)), second))
        hidden = F.relu(same(F.pixel_unshuffle(hidden, 2), c_down["down4"]))
        hidden = F.relu(hidden + same(hidden, c_conv4))
        flat = hidden.permute(0, 2, 3, 1).reshape(len(images), -1)
        flat = F.relu(F.linear(flat, *c_dense["fc6"]))
        flat = F.relu(F.linear(flat, *c_dense["fc7"]))
        return F.log_softmax(F.linear(flat, *c_dense["fc8"]) / temperature, dim=1)

    return generate, judge


def _blurred(images: Tensor) -> Tensor:
    """[1, 2, 1] x [1, 2, 1] / 16 over (n, c, H, W), the border repeated."""
    line = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernel = (line[:, None] * line).expand(images.shape[1], 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel, groups=images.shape[1])


def _residual(block: dict[str, Any], on: str) -> tuple[Any, Any]:
    return _convolution(block["conv1"], on), _convolution(block["conv2"], on)


# --- DeepSim and CaffeNet ---------------------------------------------------------------------


def _transposed(layer: dict[str, Any], on: str) -> tuple[Tensor, Tensor]:
    """Make weight (in, out, k, k) and bias of a transposed convolution.

    Our kernel belongs to a plain convolution, so it is flipped.
    """
    kernel = layer["kernel"][::-1, ::-1].transpose(2, 3, 0, 1)
    weight = torch.from_numpy(np.ascontiguousarray(kernel)).to(on)
    return weight.contiguous(memory_format=torch.channels_last), _tensor(layer["bias"], on)


def _caffenet(
    generator: dict[str, Any], classifier: dict[str, Any], size: int, on: str
) -> LogProbability:
    g_dense = [_dense(generator[name], on) for name in DENSE]
    g_up = [(_transposed(generator[name], on), stride) for name, _, _, stride in UPSAMPLING]
    conv = {f"conv{i}": _convolution(classifier[f"conv{i}"], on) for i in range(1, 6)}
    fc = [_dense(classifier[f"fc{i}"], on) for i in (6, 7, 8)]

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def norm(x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, 1e-4, 0.75, 1.0)

    def log_p(z: Tensor) -> Tensor:
        hidden = z
        for layer in g_dense:
            hidden = F.leaky_relu(F.linear(hidden, *layer), SLOPE)
        hidden = hidden.reshape(-1, 4, 4, 256).permute(0, 3, 1, 2)
        for number, (weights, stride) in enumerate(g_up, 1):
            hidden = F.conv_transpose2d(hidden, *weights, stride=stride, padding=1)
            if number < len(g_up):
                hidden = F.leaky_relu(hidden, SLOPE)
        margin = (hidden.shape[-1] - size) // 2
        hidden = hidden[..., margin : margin + size, margin : margin + size]
        hidden = norm(pool(F.relu(F.conv2d(hidden, *conv["conv1"], stride=4))))
        hidden = norm(pool(F.relu(F.conv2d(hidden, *conv["conv2"], padding=2, groups=2))))
        hidden = F.relu(F.conv2d(hidden, *conv["conv3"], padding=1))
        hidden = F.relu(F.conv2d(hidden, *conv["conv4"], padding=1, groups=2))
        hidden = pool(F.relu(F.conv2d(hidden, *conv["conv5"], padding=1, groups=2)))
        flat = hidden.permute(0, 2, 3, 1).reshape(len(z), -1)
        flat = F.relu(F.linear(flat, *fc[0]))
        flat = F.relu(F.linear(flat, *fc[1]))
        return F.log_softmax(F.linear(flat, *fc[2]), dim=1)

    return log_p
