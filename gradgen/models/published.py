"""One table that holds all that is known of each of the paper's networks.

:mod:`gradgen.weights` downloads and converts their weights, and :mod:`gradgen.networks.paper`
makes bundles of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

from gradgen.errors import UsageError
from gradgen.models import caffenet, dcgan, deepsim, googlenet


@dataclass(frozen=True)
class Architecture:
    """How a network is made, and what it takes and gives.

    Attributes:
        make: makes the module. Call it inside ``nnx.eval_shape`` where only the shapes count.
        multiply_adds: multiplications with addition that one picture takes.
        input_size: side in pixels of the pictures that the network takes; 0 for a generator.
        logits: name of the activation that holds a classifier's logits; empty for other networks.
        code_layer: the layer of CaffeNet whose activations are a generator's code; empty for other
            networks.
        code_size: number of units of that code.
        reader: "caffe" (one caffemodel) or "dcgan" (17 .npy files).
        ignored: beginnings of the names of layers that the files hold and the module does not.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    multiply_adds: float = 0.0
    input_size: int = 0
    logits: str = ""
    code_layer: str = ""
    code_size: int = 0
    reader: str = "caffe"
    ignored: tuple[str, ...] = ()

    def abstract(self) -> Any:
        """Make the module with shapes in place of numbers."""
        return nnx.eval_shape(lambda: self.make(nnx.Rngs(0)))


ARCHITECTURES = {
    "deepsim-fc6": Architecture(
        lambda rngs: deepsim.DeepSim("fc6", rngs=rngs), 1.0e9, code_layer="fc6", code_size=4096
    ),
    "deepsim-fc7": Architecture(
        lambda rngs: deepsim.DeepSim("fc7", rngs=rngs), 1.0e9, code_layer="fc7", code_size=4096
    ),
    "deepsim-pool5": Architecture(
        lambda rngs: deepsim.DeepSim("pool5", rngs=rngs),
        1.1e9,
        code_layer="pool5",
        code_size=256 * 6 * 6,
    ),
    "caffenet": Architecture(
        lambda rngs: caffenet.CaffeNet(rngs=rngs), 0.72e9, caffenet.INPUT_SIZE, "fc8"
    ),
    "alexnet": Architecture(
        lambda rngs: caffenet.CaffeNet(pool_first=False, rngs=rngs),
        0.72e9,
        caffenet.INPUT_SIZE,
        "fc8",
    ),
    "googlenet": Architecture(
        lambda rngs: googlenet.GoogLeNet(rngs=rngs),
        1.6e9,
        googlenet.INPUT_SIZE,
        "loss3/classifier",
        ignored=("loss1/", "loss2/"),  # the training file's auxiliary heads
    ),
    "places205": Architecture(
        lambda rngs: caffenet.CaffeNet(205, rngs=rngs), 0.72e9, caffenet.INPUT_SIZE, "fc8"
    ),
    "dcgan": Architecture(
        lambda rngs: dcgan.Discriminator(rngs=rngs), input_size=dcgan.IMAGE_SIZE, reader="dcgan"
    ),
}


def architecture(name: str) -> Architecture:
    """Find a network in the table by its name.

    Raises:
        UsageError: the table has no such network.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise UsageError(f"there is no network {name!r}; known: {known}") from None


def is_generator(name: str) -> bool:
    """Tell whether the network of that name makes pictures from codes."""
    return name in ARCHITECTURES and bool(ARCHITECTURES[name].code_layer)
