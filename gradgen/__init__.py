"""gradgen: class-conditional pictures by gradient-based inference.

After Xu, Acuna & Duvenaud, "Generating Class-conditional Images with Gradient-based Inference".
The public functions are loaded on first use, so that ``import gradgen`` is cheap::

    bundle = gradgen.load_bundle("tiny64")
    samples = gradgen.sample(bundle, "beacon", method="hmc", num_chains=16, seed=0)
    samples.save("beacon")
    gradgen.score(samples.images)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgen.bundle import load_bundle, load_classifier
    from gradgen.errors import GradgenError, UsageError
    from gradgen.networks import Bundle, Classifier
    from gradgen.samples import Samples
    from gradgen.sampling import sample
    from gradgen.scoring import score

_HOMES = {
    "Bundle": "networks",
    "Classifier": "networks",
    "load_bundle": "bundle",
    "load_classifier": "bundle",
    "GradgenError": "errors",
    "UsageError": "errors",
    "Samples": "samples",
    "sample": "sampling",
    "score": "scoring",
}

__all__ = [
    "Bundle",
    "Classifier",
    "GradgenError",
    "Samples",
    "UsageError",
    "load_bundle",
    "load_classifier",
    "sample",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gradgen' has no attribute {name!r}")
    from gradgen.runtime import configure

    configure()  # before JAX is imported
    return getattr(import_module(f"gradgen.{_HOMES[name]}"), name)
