"""Inference on any log density of a vector: MAP, MALA, HMC, and the driver of their chains.

Nothing here knows images, files or classifiers. A target is a function from positions
(chains, code) to an :class:`~gradgen.inference.types.Evaluation`.

Names are loaded on first use: settings, traces and their diagnostics need no JAX, and a command
that only reads them does not start it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgen.inference.chain import (
        BlockProgress,
        ChainResult,
        init_chains,
        run_chains,
    )
    from gradgen.inference.settings import SamplerSettings
    from gradgen.inference.state import ChainState, state_from_arrays, state_to_arrays
    from gradgen.inference.timeline import timeline_of
    from gradgen.inference.traces import Traces
    from gradgen.inference.types import Evaluation

__all__ = [
    "BlockProgress",
    "ChainResult",
    "ChainState",
    "Evaluation",
    "SamplerSettings",
    "Traces",
    "init_chains",
    "run_chains",
    "state_from_arrays",
    "state_to_arrays",
    "timeline_of",
]

_ELSEWHERE = {
    "ChainState": "state",
    "Evaluation": "types",
    "SamplerSettings": "settings",
    "Traces": "traces",
    "state_from_arrays": "state",
    "state_to_arrays": "state",
    "timeline_of": "timeline",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gradgen.inference' has no attribute {name!r}")
    home = _ELSEWHERE.get(name, "chain")
    return getattr(import_module(f"gradgen.inference.{home}"), name)
