"""EfficientNet-Lite: the ImageNet classifiers that go with any generator.

This is the Lite variant of EfficientNet (Tan & Le 2019) by its authors. It has no
squeeze-and-excitation, ReLU6 in place of swish, and a stem and a head of fixed width. All stages
but the first and the last grow with the variant.

The networks here are for inference only. The batch norms are folded into the convolutions when the
weights are converted (:mod:`gradgen.tools.convert_lite`), so that no image depends on its
neighbours. Arrays are channels-last (NHWC), and padding is that of TensorFlow's "SAME".
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

NUM_CLASSES = 1000
# The network's input is (pixel - MEAN) / STDDEV for pixels in 0…255, alike for R, G and B. The
# numbers are from efficientnet_lite_builder.py of the TensorFlow original.
MEAN_PIXEL = 127.0
STDDEV_PIXEL = 128.0

STEM_FEATURES = 32
HEAD_FEATURES = 1280
EXPANSION = 6  # of every stage but the first, which does not expand


class Stage(NamedTuple):
    """A sequence of inverted bottlenecks, of which the first has the stride and the new width."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    features: int


LITE0_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, EXPANSION, 24),
    Stage(2, 5, 2, EXPANSION, 40),
    Stage(3, 3, 2, EXPANSION, 80),
    Stage(3, 5, 1, EXPANSION, 112),
    Stage(4, 5, 2, EXPANSION, 192),
    Stage(1, 3, 1, EXPANSION, 320),
)


class Variant(NamedTuple):
    """A size of the network.

    Attributes:
        depth: factor on the repeats of all stages but the first and the last; the product is
            rounded up.
        input_size: side in pixels of the pictures that it was trained on.
    """

    depth: float
    input_size: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the network of this size."""
        first, *between, last = LITE0_STAGES
        deeper = [
            stage._replace(repeats=math.ceil(self.depth * stage.repeats)) for stage in between
        ]
        return (first, *deeper, last)


# The factors and sizes are the original's (efficientnet_lite_builder.py), where the width grows too
# from lite2 on.
VARIANTS = {"lite0": Variant(1.0, 224), "lite1": Variant(1.1, 240)}


def _same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int, int]:
    """Return output size, padding before and padding after, by TensorFlow's rule "SAME".

    If the padding is odd, the side after gets the additional pixel.
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel_size - size, 0)
    return out, total // 2, total - total // 2


def _windows(padded: Array, kernel_size: int, stride: int, out: tuple[int, int]) -> list[Array]:
    """Return k*k arrays (n, *out, c): for each kernel element, the pixels that it multiplies."""
    n, _, _, features = padded.shape
    ends = [(size - 1) * stride + 1 for size in out]
    return [
        lax.slice(
            padded,
            (0, i, j, 0),
            (n, i + ends[0], j + ends[1], features),
            (1, stride, stride, 1),
        )
        for i in range(kernel_size)
        for j in range(kernel_size)
    ]


def _pad_same(images: Array, kernel_size: int, stride: int) -> tuple[Array, tuple[int, int]]:
    rows, top, bottom = _same_padding(images.shape[1], kernel_size, stride)
    columns, left, right = _same_padding(images.shape[2], kernel_size, stride)
    padded = jnp.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)))
    return padded, (rows, columns)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(images: Array, kernel: Array, stride: int) -> Array:
    """Apply a depthwise convolution with "SAME" padding, as a sum of k*k shifted products.

    XLA fuses the sum into one pass over memory. Its own grouped convolution takes 10 to 60 times
    as long on a CPU, forwards and backwards. The gradient is the same sum with the flipped kernel,
    over the cotangent with stride - 1 zeros between its pixels. The gradient that JAX would derive
    from the slices adds up k*k padded arrays, which is 2 to 4 times slower for 5 x 5.

    Args:
        images: (n, H, W, c).
        kernel: (k, k, c), with k odd.
        stride: pixels from one window to the next.

    Returns:
        (n, ceil(H/stride), ceil(W/stride), c).
    """
    size = kernel.shape[0]
    padded, out = _pad_same(images, size, stride)
    return _weighted_sum(_windows(padded, size, stride, out), kernel)


def _weighted_sum(windows: list[Array], kernel: Array) -> Array:
    weights = kernel.reshape(len(windows), kernel.shape[-1])
    total = windows[0] * weights[0]
    for window, weight in zip(windows[1:], weights[1:], strict=True):
        total = total + window * weight
    return total


def _depthwise_forward(
    images: Array, kernel: Array, stride: int
) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(images, kernel, stride), (images, kernel)


def _depthwise_backward(
    stride: int, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    images, kernel = saved
    size = kernel.shape[0]

    def dilation(length: int) -> tuple[int, int, int]:
        out, before, _ = _same_padding(length, size, stride)
        low = size - 1 - before
        return low, length + size - 1 - low - ((out - 1) * stride + 1), stride - 1

    dilated = lax.pad(
        cotangent,
        jnp.zeros((), cotangent.dtype),
        ((0, 0, 0), dilation(images.shape[1]), dilation(images.shape[2]), (0, 0, 0)),
    )
    windows = _windows(dilated, size, 1, (images.shape[1], images.shape[2]))
    image_gradient = _weighted_sum(windows, kernel[::-1, ::-1])

    padded, out = _pad_same(images, size, stride)
    products = [jnp.sum(w * cotangent, (0, 1, 2)) for w in _windows(padded, size, stride, out)]
    return image_gradient, jnp.stack(products).reshape(kernel.shape)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _kernel(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """Draw weights with He's initialisation, so that the network works before weights are loaded.

    Only the shapes matter for the conversion.
    """
    return nnx.Param(jax.random.normal(rngs.params(), shape) * (2.0 / fan_in) ** 0.5)


class Stem(nnx.Module):
    """A 3 x 3 convolution of stride 2: (n, H, W, 3) -> (n, H/2, W/2, features)."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.kernel = _kernel(rngs, (3, 3, 3, features), 27)
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, images: Array) -> Array:
        # This is a matrix product over the 27 numbers under the kernel. Three input channels are
        # too few for a convolution to be fast, least of all in the backward pass.
        padded, out = _pad_same(images, 3, 2)
        patches = jnp.concatenate(_windows(padded, 3, 2, out), axis=-1)
        return patches @ self.kernel[...].reshape(27, -1) + self.bias[...]


class Pointwise(nnx.Module):
    """A 1 x 1 convolution or a dense layer: (..., features_in) -> (..., features_out)."""

    def __init__(self, features_in: int, features_out: int, rngs: nnx.Rngs):
        self.kernel = _kernel(rngs, (features_in, features_out), features_in)
        self.bias = nnx.Param(jnp.zeros(features_out))

    def __call__(self, inputs: Array) -> Array:
        return inputs @ self.kernel[...] + self.bias[...]


class Depthwise(nnx.Module):
    """A k x k filter for each channel: (n, H, W, c) -> (n, H/stride, W/stride, c)."""

    def __init__(self, features: int, kernel_size: int, stride: int, rngs: nnx.Rngs):
        self.stride = stride
        self.kernel = _kernel(rngs, (kernel_size, kernel_size, features), kernel_size**2)
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, inputs: Array) -> Array:
        return depthwise(inputs, self.kernel[...], self.stride) + self.bias[...]


class InvertedBottleneck(nnx.Module):
    """Widens, filters each channel and narrows again (Sandler et al. 2018).

    The input is added to the result if both have the same shape.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        kernel_size: int,
        stride: int,
        expansion: int,
        rngs: nnx.Rngs,
    ):
        wide = features_in * expansion
        self.expand = nnx.data(Pointwise(features_in, wide, rngs) if expansion > 1 else None)
        self.depthwise = Depthwise(wide, kernel_size, stride, rngs)
        self.project = Pointwise(wide, features_out, rngs)
        self.is_residual = stride == 1 and features_in == features_out

    def __call__(self, inputs: Array) -> Array:
        hidden = inputs if self.expand is None else jax.nn.relu6(self.expand(inputs))
        outputs = self.project(jax.nn.relu6(self.depthwise(hidden)))
        return outputs + inputs if self.is_residual else outputs


class EfficientNetLite(nnx.Module):
    """EfficientNet-Lite without batch norms, which are folded into the convolutions.

    Args:
        variant: "lite0" (4.6 M parameters, 385 M multiply-adds) or "lite1" (5.4 M, 600 M).
        num_classes: number of logits.
        rngs: source of the initial weights.
    """

    def __init__(self, variant: str = "lite0", num_classes: int = NUM_CLASSES, *, rngs: nnx.Rngs):
        self.stage_list = VARIANTS[variant].stages
        self.input_size = VARIANTS[variant].input_size
        self.stem = Stem(STEM_FEATURES, rngs)
        blocks = []
        features = STEM_FEATURES
        for stage in self.stage_list:
            for position in range(stage.repeats):
                blocks.append(
                    InvertedBottleneck(
                        features,
                        stage.features,
                        kernel_size=stage.kernel_size,
                        stride=stage.stride if position == 0 else 1,
                        expansion=stage.expansion,
                        rngs=rngs,
                    )
                )
                features = stage.features
        self.blocks = nnx.List(blocks)
        self.head = Pointwise(features, HEAD_FEATURES, rngs)
        self.classifier = Pointwise(HEAD_FEATURES, num_classes, rngs)

    def stages(self, images: Array) -> dict[str, Array]:
        """Return the activations at the end of each of the seven stages.

        Args:
            images: (n, H, W, 3) in [-1, 1].

        Returns:
            {"stage1": (n, H/2, W/2, 16), …, "stage7": (n, H/32, W/32, 320)}.
        """
        pixels = (images + 1.0) * 127.5
        hidden = jax.nn.relu6(self.stem((pixels - MEAN_PIXEL) / STDDEV_PIXEL))
        blocks = iter(self.blocks)
        ends = {}
        for number, stage in enumerate(self.stage_list, 1):
            for block in itertools.islice(blocks, stage.repeats):
                hidden = block(hidden)
            ends[f"stage{number}"] = hidden
        return ends

    def features(self, images: Array) -> Array:
        """Return the pooled last activations (n, 1280) of images (n, H, W, 3) in [-1, 1]."""
        return self.pool(self.stages(images)[f"stage{len(self.stage_list)}"])

    def pool(self, last: Array) -> Array:
        """Apply the head to the end of the last stage: (n, H/32, W/32, 320) -> (n, 1280)."""
        return jnp.mean(jax.nn.relu6(self.head(last)), axis=(1, 2))

    def __call__(self, images: Array) -> Array:
        """Compute the class logits, before any temperature.

        Args:
            images: (n, H, W, 3) RGB in [-1, 1]. Other sizes than the variant's own are possible,
                but the network is less accurate on them.

        Returns:
            (n, num_classes).
        """
        return self.classifier(self.features(images))
