"""AlexNet, CaffeNet and Places205-CNN (Krizhevsky et al. 2012 as Caffe has it; Zhou et al. 2014).

They are one network in two forms: CaffeNet and Places205-CNN pool before they normalise, and
AlexNet pools after it.
"""

from __future__ import annotations

import jax
from flax import nnx
from jax import Array

from gradgen.models.caffe_layers import Conv, Dense, local_response_norm, max_pool

INPUT_SIZE = 227


class CaffeNet(nnx.Module):
    """Classifies images (n, 227, 227, 3), BGR with the mean subtracted, about -120…120.

    A call returns Caffe's blobs by name, in the order of the layers. Where Caffe rectifies in place
    (conv1 … fc7), the value is rectified. ``fc8`` (n, num_classes) holds the logits, and ``prob``
    their softmax.

    Args:
        num_classes: 1000 for ImageNet, 205 for Places.
        pool_first: whether blocks 1 and 2 pool before they normalise (CaffeNet, Places205-CNN) or
            after (AlexNet).
        rngs: source of the initial weights.
    """

    def __init__(self, num_classes: int = 1000, *, pool_first: bool = True, rngs: nnx.Rngs):
        self.conv1 = Conv(3, 96, 11, stride=4, rngs=rngs)
        self.conv2 = Conv(96, 256, 5, padding=2, groups=2, rngs=rngs)
        self.conv3 = Conv(256, 384, 3, padding=1, rngs=rngs)
        self.conv4 = Conv(384, 384, 3, padding=1, groups=2, rngs=rngs)
        self.conv5 = Conv(384, 256, 3, padding=1, groups=2, rngs=rngs)
        self.fc6 = Dense(256 * 6 * 6, 4096, input_shape=(256, 6, 6), rngs=rngs)
        self.fc7 = Dense(4096, 4096, rngs=rngs)
        self.fc8 = Dense(4096, num_classes, rngs=rngs)
        self.pool_first = pool_first

    def __call__(self, images: Array) -> dict[str, Array]:
        acts: dict[str, Array] = {}
        hidden = images
        for block, conv in (("1", self.conv1), ("2", self.conv2)):
            hidden = acts[f"conv{block}"] = jax.nn.relu(conv(hidden))
            if self.pool_first:
                acts[f"pool{block}"] = max_pool(hidden, 3, 2)
                hidden = acts[f"norm{block}"] = local_response_norm(acts[f"pool{block}"])
            else:
                acts[f"norm{block}"] = local_response_norm(hidden)
                hidden = acts[f"pool{block}"] = max_pool(acts[f"norm{block}"], 3, 2)
        acts["conv3"] = jax.nn.relu(self.conv3(hidden))
        acts["conv4"] = jax.nn.relu(self.conv4(acts["conv3"]))
        acts["conv5"] = jax.nn.relu(self.conv5(acts["conv4"]))
        acts["pool5"] = max_pool(acts["conv5"], 3, 2)
        acts["fc6"] = jax.nn.relu(self.fc6(acts["pool5"]))
        acts["fc7"] = jax.nn.relu(self.fc7(acts["fc6"]))
        acts["fc8"] = self.fc8(acts["fc7"])
        acts["prob"] = jax.nn.softmax(acts["fc8"])
        return acts
