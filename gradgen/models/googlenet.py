"""GoogLeNet as Caffe's model zoo has it (Szegedy et al. 2015; BVLC GoogLeNet)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gradgen.models.caffe_layers import Conv, Dense, local_response_norm, max_pool

INPUT_SIZE = 224
# Output channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and the pool projection of each block.
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_AFTER = {"3b": "pool3/3x3_s2", "4e": "pool4/3x3_s2"}


class GoogLeNet(nnx.Module):
    """Classifies images (n, 224, 224, 3), BGR with the mean subtracted, about -120…120.

    A call returns Caffe's blobs by name. The values of convolutions are rectified, since Caffe
    rectifies them in place. ``loss3/classifier`` (n, num_classes) holds the logits, and ``prob``
    their softmax. The auxiliary heads of the training file are left out.

    Args:
        num_classes: number of logits.
        rngs: source of the initial weights.
    """

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs):
        layers: dict[str, nnx.Module] = {
            "conv1/7x7_s2": Conv(3, 64, 7, stride=2, padding=3, rngs=rngs),
            "conv2/3x3_reduce": Conv(64, 64, 1, rngs=rngs),
            "conv2/3x3": Conv(64, 192, 3, padding=1, rngs=rngs),
        }
        channels = 192
        for block, (width1, reduce3, width3, reduce5, width5, pool) in BLOCKS.items():
            name = f"inception_{block}"
            layers |= {
                f"{name}/1x1": Conv(channels, width1, 1, rngs=rngs),
                f"{name}/3x3_reduce": Conv(channels, reduce3, 1, rngs=rngs),
                f"{name}/3x3": Conv(reduce3, width3, 3, padding=1, rngs=rngs),
                f"{name}/5x5_reduce": Conv(channels, reduce5, 1, rngs=rngs),
                f"{name}/5x5": Conv(reduce5, width5, 5, padding=2, rngs=rngs),
                f"{name}/pool_proj": Conv(channels, pool, 1, rngs=rngs),
            }
            channels = width1 + width3 + width5 + pool
        layers["loss3/classifier"] = Dense(channels, num_classes, rngs=rngs)
        self.layers = nnx.Dict(layers)

    def __call__(self, images: Array) -> dict[str, Array]:
        acts: dict[str, Array] = {}

        def conv(name: str, inputs: Array) -> Array:
            acts[name] = jax.nn.relu(self.layers[name](inputs))
            return acts[name]

        acts["pool1/3x3_s2"] = max_pool(conv("conv1/7x7_s2", images), 3, 2)
        acts["pool1/norm1"] = local_response_norm(acts["pool1/3x3_s2"])
        hidden = conv("conv2/3x3", conv("conv2/3x3_reduce", acts["pool1/norm1"]))
        acts["conv2/norm2"] = local_response_norm(hidden)
        hidden = acts["pool2/3x3_s2"] = max_pool(acts["conv2/norm2"], 3, 2)
        for block in BLOCKS:
            name = f"inception_{block}"
            acts[f"{name}/pool"] = max_pool(hidden, 3, 1, padding=1)
            branches = (
                conv(f"{name}/1x1", hidden),
                conv(f"{name}/3x3", conv(f"{name}/3x3_reduce", hidden)),
                conv(f"{name}/5x5", conv(f"{name}/5x5_reduce", hidden)),
                conv(f"{name}/pool_proj", acts[f"{name}/pool"]),
            )
            hidden = acts[f"{name}/output"] = jnp.concatenate(branches, axis=-1)
            if block in POOL_AFTER:
                hidden = acts[POOL_AFTER[block]] = max_pool(hidden, 3, 2)
        acts["pool5/7x7_s1"] = hidden.mean((1, 2), keepdims=True)  # the window is all of 7 x 7
        acts["loss3/classifier"] = self.layers["loss3/classifier"](acts["pool5/7x7_s1"])
        acts["prob"] = jax.nn.softmax(acts["loss3/classifier"])
        return acts
