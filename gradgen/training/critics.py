"""Critics on the features of frozen networks, for the generator's training only.

Sauer et al. 2021 ("Projected GANs converge faster"): a discriminator that looks at the features of
a trained network learns in a fraction of the steps that one on pixels takes. Here the network is
the encoder, whose features the feature loss computes anyway, and, when wanted, lite0, which has
seen all of ImageNet at a larger size. Each critic's verdict depends on the code too (projection
discriminator: Miyato & Koyama 2018): is this a picture, and one of this code?
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from gradgen.models.layers import Affine, leaky_relu, space_to_depth

SLOPE = 0.2


class Layer(NamedTuple):
    """A layer of a network that a critic looks at.

    Attributes:
        features: its channels.
        halvings: how often its pictures are folded to half their side first, to save time.
        width: channels of the critic.
    """

    features: int
    halvings: int
    width: int


ENCODER_LAYERS = {
    "conv1": Layer(32, 2, 96),
    "conv2": Layer(64, 1, 96),
    "conv3": Layer(128, 0, 96),
    "conv4": Layer(256, 0, 192),
}
# with lite0 at LITE0_SIZE, its features stand for the encoder's coarser ones
LITE0_SIZE = 128
LITE0_LAYERS = {
    "conv1": ENCODER_LAYERS["conv1"],
    "conv2": ENCODER_LAYERS["conv2"],
    "stage2": Layer(24, 2, 96),
    "stage3": Layer(40, 1, 96),
    "stage5": Layer(112, 0, 96),
    "stage7": Layer(320, 0, 192),
}


class Critic(nnx.Module):
    """Logits (n, places) of one layer's standardised features (n, H, W, c), positive for real."""

    def __init__(self, layer: Layer, code_size: int, *, rngs: nnx.Rngs):
        features = layer.features
        self.folds = nnx.List([])
        for _ in range(layer.halvings - 1):
            self.folds.append(Affine(4 * features, 2 * features, 1, rngs=rngs))
            features *= 2
        features *= 4 if layer.halvings else 1
        self.halvings = layer.halvings
        self.first = Affine(features, layer.width, 1, rngs=rngs)
        self.conv = Affine(layer.width, layer.width, 3, rngs=rngs)
        # both begin at zero: undecided, whatever the code
        self.verdict = Affine(layer.width, 1, 1, scale=0.0, rngs=rngs)
        self.code = Affine(code_size, layer.width, 0, scale=0.0, rngs=rngs)

    def __call__(self, features: Array, codes: Array) -> Array:
        for fold in self.folds:
            features = leaky_relu(fold(space_to_depth(features)), SLOPE)
        if self.halvings:
            features = space_to_depth(features)
        hidden = leaky_relu(self.first(features), SLOPE)
        hidden = leaky_relu(hidden + self.conv(hidden), SLOPE)
        places = hidden.reshape(hidden.shape[0], -1, hidden.shape[-1])
        agreement = jnp.einsum("npc,nc->np", places, self.code(codes)) / places.shape[-1] ** 0.5
        return self.verdict(places)[..., 0] + agreement


class Critics(nnx.Module):
    """One critic a layer."""

    def __init__(self, layers: dict[str, Layer], code_size: int, *, rngs: nnx.Rngs):
        self.critics = nnx.Dict(
            {name: Critic(layer, code_size, rngs=rngs) for name, layer in layers.items()}
        )

    def __call__(self, features: dict[str, Array], codes: Array) -> list[Array]:
        """features: standardised; codes: (n, code_size). Returns each critic's logits."""
        return [critic(features[name], codes) for name, critic in self.critics.items()]


class Scale(NamedTuple):
    """Mean and standard deviation of the channels of each layer."""

    mean: dict[str, Array]
    std: dict[str, Array]


def fit_scale(examples: dict[str, Array], layers: Iterable[str]) -> Scale:
    """The scale of the layers' features of some real images."""
    axes = (0, 1, 2)
    return Scale(
        {name: examples[name].mean(axes) for name in layers},
        # a unit that no example wakes must not grow without bound
        {name: examples[name].std(axes) + 1e-3 for name in layers},
    )


def standardise(features: dict[str, Array], scale: Scale) -> dict[str, Array]:
    """What the critics look at: each channel with mean 0 and deviation 1 on real images."""
    return {
        name: (features[name].astype(jnp.float32) - mean) / scale.std[name]
        for name, mean in scale.mean.items()
    }
