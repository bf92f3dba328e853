"""gradgen: class-conditional pictures by gradient-based inference.

After Xu, Acuna & Duvenaud, "Generating Class-conditional Images with Gradient-based Inference".
The public functions are loaded on first use, so that ``import gradgen`` is cheap::

    bundle = gradgen.load_bundle("ten64")
    samples = gradgen.sample(bundle, "beacon", method="hmc", num_chains=16, seed=0)
    samples.save("beacon")
    gradgen.score(samples.images)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgen.code_bounds import stats
    from gradgen.errors import GradgenError, UsageError
    from gradgen.evaluation.compare import compare
    from gradgen.evaluation.diagnose import diagnose
    from gradgen.evaluation.quality import evaluate
    from gradgen.evaluation.reproduce import reproduce
    from gradgen.evaluation.view import view
    from gradgen.evidence.expression import Class
    from gradgen.evidence.unit import units
    from gradgen.networks.interfaces import Bundle, Classifier
    from gradgen.networks.load import load_bundle, load_classifier
    from gradgen.networks.torch_module import from_torch
    from gradgen.runs.morph import morph
    from gradgen.runs.results import Samples
    from gradgen.runs.sample import sample
    from gradgen.scoring import Scores, score
    from gradgen.training.pipeline import train
    from gradgen.weights.fetch import fetch
    from gradgen.weights.store import load_weights

_HOMES = {
    "Bundle": "networks.interfaces",
    "Class": "evidence.expression",
    "Classifier": "networks.interfaces",
    "GradgenError": "errors",
    "Samples": "runs.results",
    "Scores": "scoring",
    "UsageError": "errors",
    "compare": "evaluation.compare",
    "diagnose": "evaluation.diagnose",
    "evaluate": "evaluation.quality",
    "fetch": "weights.fetch",
    "from_torch": "networks.torch_module",
    "load_bundle": "networks.load",
    "load_classifier": "networks.load",
    "load_weights": "weights.store",
    "morph": "runs.morph",
    "reproduce": "evaluation.reproduce",
    "sample": "runs.sample",
    "score": "scoring",
    "stats": "code_bounds",
    "train": "training.pipeline",
    "units": "evidence.unit",
    "view": "evaluation.view",
}

__all__ = [
    "Bundle",
    "Class",
    "Classifier",
    "GradgenError",
    "Samples",
    "Scores",
    "UsageError",
    "compare",
    "diagnose",
    "evaluate",
    "fetch",
    "from_torch",
    "load_bundle",
    "load_classifier",
    "load_weights",
    "morph",
    "reproduce",
    "sample",
    "score",
    "stats",
    "train",
    "units",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gradgen' has no attribute {name!r}")
    from gradgen.runtime import configure

    configure()  # before JAX is imported
    return getattr(import_module(f"gradgen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
