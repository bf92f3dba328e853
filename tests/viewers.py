"""A network with lite0's shape of features and none of its size, for tests of the training."""

import jax
from flax import nnx

from gradgen.networks.interfaces import resize
from gradgen.training.critics import LAYERS, SIZE

SIDES = {
    "stage1": 2,
    "stage2": 4,
    "stage3": 8,
    "stage5": 16,
    "stage7": 32,
}  # pixels that a place stands for


class Viewer(nnx.Module):
    """Local means of the picture, mixed at random to as many channels as lite0 has.

    The first three pooled features are the picture's mean red, green and blue.
    """

    def __init__(self):
        self.mixing = nnx.Dict(
            {
                name: nnx.Param(jax.random.normal(jax.random.key(side), (3, LAYERS[name].features)))
                for name, side in SIDES.items()
            }
        )

    def stages(self, images):
        found = {}
        for name, side in SIDES.items():
            count = SIZE // side
            means = images.reshape(len(images), count, side, count, side, 3).mean((2, 4))
            found[name] = means @ self.mixing[name][...]
        mean = images.mean((1, 2))
        return found | {"stage7": found["stage7"].at[..., :3].set(mean[:, None, None])}

    def pool(self, last):
        return last.mean((1, 2))

    def features(self, images):
        return self.pool(self.stages(resize(images, SIZE))["stage7"])
