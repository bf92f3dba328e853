"""Critics on the features of a frozen network, for the generator's training only.

Sauer et al. 2021 ("Projected GANs converge faster"): a discriminator that looks at the features of
a trained network learns in a fraction of the steps that one on pixels takes. Here the network is
lite0, which has seen all of ImageNet at a larger size. Each critic's verdict depends on the class
too (projection discriminator: Miyato & Koyama 2018): is this a photograph, and one of this class?

What is too fine for those features, dots and specks, is for the critic of textures. It looks at
what the binomial filter takes away from a picture and gives a verdict on every place (Isola et al.
2017, "PatchGAN"). A single verdict on whole pictures was close to chance while the eye saw specks
everywhere, and so were verdicts on places as long as colours were left in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from gradgen.models.layers import Affine, leaky_relu, space_to_depth
from gradgen.models.tiny64 import binomial_blur

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


SIZE = 96  # side of the pictures that lite0 is shown: a third of the time that 128 takes
LAYERS = {  # all end at 6 x 6 places or fewer: a convolution at 12 x 12 would cost as much as lite0
    "stage1": Layer(16, 3, 96),
    "stage2": Layer(24, 2, 96),
    "stage3": Layer(40, 1, 96),
    "stage5": Layer(112, 0, 128),
    "stage7": Layer(320, 0, 192),
}


TEXTURE = "texture"  # of the pictures, among the features


class Critic(nnx.Module):
    """Logits (n, places) of one layer's standardised features (n, H, W, c), positive for real."""

    def __init__(self, layer: Layer, num_classes: int, *, rngs: nnx.Rngs):
        features = layer.features
        self.folds: nnx.List[Affine] = nnx.List([])
        for _ in range(layer.halvings - 1):
            self.folds.append(Affine(4 * features, 2 * features, 1, rngs=rngs))
            features *= 2
        features *= 4 if layer.halvings else 1
        self.halvings = layer.halvings
        self.first = Affine(features, layer.width, 1, rngs=rngs)
        self.conv = Affine(layer.width, layer.width, 3, rngs=rngs)
        # both begin at zero: undecided, whatever the class
        self.verdict = Affine(layer.width, 1, 1, scale=0.0, rngs=rngs)
        self.told = Affine(num_classes, layer.width, 0, scale=0.0, rngs=rngs)

    def __call__(self, features: Array, classes: Array) -> Array:
        for fold in self.folds:
            features = leaky_relu(fold(space_to_depth(features)), SLOPE)
        if self.halvings:
            features = space_to_depth(features)
        hidden = leaky_relu(self.first(features), SLOPE)
        hidden = leaky_relu(hidden + self.conv(hidden), SLOPE)
        places = hidden.reshape(hidden.shape[0], -1, hidden.shape[-1]).astype(jnp.float32)
        agreement = jnp.einsum("npc,nc->np", places, self.told(classes)) / places.shape[-1] ** 0.5
        return self.verdict(places)[..., 0] + agreement


class TextureCritic(nnx.Module):
    """Logits (n, 256) of standardised textures (n, 64, 64, 3): of every place of 16 x 16 pixels."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = Affine(12, 32, 3, rngs=rngs)
        self.down2 = Affine(128, 64, 1, rngs=rngs)
        self.conv2 = Affine(64, 64, 3, rngs=rngs)
        self.verdict = Affine(64, 1, 1, scale=0.0, rngs=rngs)

    def __call__(self, texture: Array) -> Array:
        hidden = leaky_relu(self.conv1(space_to_depth(texture)), SLOPE)
        hidden = leaky_relu(self.down2(space_to_depth(hidden)), SLOPE)
        hidden = leaky_relu(hidden + self.conv2(hidden), SLOPE)
        return self.verdict(hidden).astype(jnp.float32).reshape(len(texture), -1)


class Critics(nnx.Module):
    """A critic for each layer, and the critic of textures."""

    def __init__(self, layers: dict[str, Layer], num_classes: int, *, rngs: nnx.Rngs):
        self.critics = nnx.Dict(
            {name: Critic(layer, num_classes, rngs=rngs) for name, layer in layers.items()}
        )
        self.texture = TextureCritic(rngs=rngs)

    def __call__(self, features: dict[str, Array], classes: Array) -> dict[str, Array]:
        """The logits of each critic, by the name of what it looks at.

        Args:
            features: standardised, by layer; and the pictures' as ``TEXTURE``.
            classes: (n, num_classes), one-hot.
        """
        verdicts = {name: critic(features[name], classes) for name, critic in self.critics.items()}
        return verdicts | {TEXTURE: self.texture(features[TEXTURE])}


def texture_of(images: Array) -> Array:
    """What is finer than about three pixels in images (n, H, W, 3)."""
    return images - binomial_blur(binomial_blur(images))


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
