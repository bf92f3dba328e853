"""DeepSim generators, which invert a layer of CaffeNet to an image (Dosovitskiy & Brox 2016)."""

from __future__ import annotations

from flax import nnx
from jax import Array

from gradgen.models.caffe_layers import Conv, Deconv, Dense
from gradgen.models.layers import leaky_relu

SLOPE = 0.3  # of the leaky rectifier after every layer but the last
IMAGE_SIZE = 256
# (name, channels, kernel size, stride) of the transposed convolutions, which all have padding 1
UPSAMPLING = (
    ("deconv5", 256, 4, 2),
    ("conv5_1", 512, 3, 1),
    ("deconv4", 256, 4, 2),
    ("conv4_1", 256, 3, 1),
    ("deconv3", 128, 4, 2),
    ("conv3_1", 128, 3, 1),
    ("deconv2", 64, 4, 2),
    ("deconv1", 32, 4, 2),
    ("deconv0", 3, 4, 2),
)
DENSE = ("defc7", "defc6", "defc5")
# (name, channels, padding) of the convolutions that bring the 6 x 6 codes of pool5 to 4 x 4
FROM_POOL5 = (("Rconv6", 512, 1), ("Rconv7", 512, 1), ("Rconv8", 512, 0))


class DeepSim(nnx.Module):
    """Makes images (n, 256, 256, 3) from codes, BGR with the mean subtracted, about -120…120.

    The codes are those of CaffeNet's fc6 or fc7, (n, 4096), or of its pool5, (n, 6, 6, 256). A
    classifier sees the centre of the image.

    A call returns the blobs by name. They are rectified where Caffe rectifies in place, and
    ``defc5`` has the shape (n, 4, 4, 256) of the image that it becomes. ``deconv0`` is the picture.

    Args:
        code: "fc6", "fc7" (the same network) or "pool5".
        rngs: source of the initial weights.
    """

    def __init__(self, code: str = "fc6", *, rngs: nnx.Rngs):
        layers: dict[str, nnx.Module] = {}
        if code == "pool5":
            channels = 256
            for name, features, padding in FROM_POOL5:
                layers[name] = Conv(channels, features, 3, padding=padding, rngs=rngs)
                channels = features
        else:
            channels = 256
            shapes = {"defc5": (channels, 4, 4)}
            for name in DENSE:
                layers[name] = Dense(4096, 4096, output_shape=shapes.get(name), rngs=rngs)
        for name, features, size, stride in UPSAMPLING:
            layers[name] = Deconv(channels, features, size, stride=stride, padding=1, rngs=rngs)
            channels = features
        self.layers = nnx.Dict(layers)
        self.order = tuple(layers)  # Flax sorts the dictionary by name

    def __call__(self, codes: Array) -> dict[str, Array]:
        acts: dict[str, Array] = {}
        hidden = codes
        for name in self.order:
            hidden = self.layers[name](hidden)
            if name != "deconv0":
                hidden = leaky_relu(hidden, SLOPE)
            if name == "defc5":
                hidden = hidden.reshape(-1, 4, 4, 256)
            acts[name] = hidden
        return acts
