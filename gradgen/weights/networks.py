"""The networks whose weights are converted: how each is made, and what its file may leave over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

from gradgen.errors import UsageError
from gradgen.models import caffenet, dcgan, deepsim, googlenet


@dataclass(frozen=True)
class Architecture:
    """How a network is made.

    Attributes:
        make: its module; take it through ``nnx.eval_shape`` where only the shapes count.
        reader: "caffe" (one caffemodel) or "dcgan" (17 .npy files).
        ignored: beginnings of the names of layers that its files hold and the module does not.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    reader: str = "caffe"
    ignored: tuple[str, ...] = ()

    def abstract(self) -> Any:
        """The module with shapes in place of numbers."""
        return nnx.eval_shape(lambda: self.make(nnx.Rngs(0)))


ARCHITECTURES = {
    "deepsim-fc6": Architecture(lambda rngs: deepsim.DeepSim("fc6", rngs=rngs)),
    "deepsim-fc7": Architecture(lambda rngs: deepsim.DeepSim("fc7", rngs=rngs)),
    "deepsim-pool5": Architecture(lambda rngs: deepsim.DeepSim("pool5", rngs=rngs)),
    "caffenet": Architecture(lambda rngs: caffenet.CaffeNet(rngs=rngs)),
    "alexnet": Architecture(lambda rngs: caffenet.CaffeNet(pool_first=False, rngs=rngs)),
    "googlenet": Architecture(
        lambda rngs: googlenet.GoogLeNet(rngs=rngs),
        ignored=("loss1/", "loss2/"),  # the training file's auxiliary heads
    ),
    "places205": Architecture(lambda rngs: caffenet.CaffeNet(205, rngs=rngs)),
    "dcgan": Architecture(lambda rngs: dcgan.Discriminator(rngs=rngs), reader="dcgan"),
}


def architecture(name: str) -> Architecture:
    """Raises UsageError for a name that is unknown."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise UsageError(f"there is no network {name!r}; known: {known}") from None
