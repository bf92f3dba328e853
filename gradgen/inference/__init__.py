"""Inference on any log density of a vector: MAP, MALA, HMC, and the driver of their chains.

Nothing here knows images, files or classifiers. A target is a function from positions
(chains, code) to an :class:`~gradgen.inference.types.Evaluation`.
"""

from gradgen.inference.chain import (
    BlockProgress,
    ChainResult,
    ChainState,
    init_chains,
    plan_steps,
    run_chains,
    state_from_arrays,
    state_to_arrays,
)
from gradgen.inference.types import Evaluation, SamplerSettings

__all__ = [
    "BlockProgress",
    "ChainResult",
    "ChainState",
    "Evaluation",
    "SamplerSettings",
    "init_chains",
    "plan_steps",
    "run_chains",
    "state_from_arrays",
    "state_to_arrays",
]
