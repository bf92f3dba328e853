"""What a target gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax import Array


class Evaluation(NamedTuple):
    """A target at the positions of all chains, from one forward and one backward pass.

    Attributes:
        log_density: (chains,), unnormalised.
        gradient: (chains, code), of the log density.
        log_likelihood: (chains,), for the trace; a target without one repeats the log density.
        features: (chains, k), for the trace: what else says whether chains agree. ``None`` where
            the target has no such thing.
        whole: of a tempered target (:mod:`gradgen.inference.replicas`) the evaluation of the target
            itself; ``None`` of any other.
    """

    log_density: Array
    gradient: Array
    log_likelihood: Array
    features: Array | None = None
    whole: Evaluation | None = None


class Prior(Protocol):
    """What a target is without its likelihood; replicas of chains are tempered towards it."""

    @property
    def log_density(self) -> Callable[[Array], Array]:
        """From z (chains, code) to (chains,); it may be unnormalised."""

    @property
    def draw(self) -> Callable[[Array, int], Array]:
        """From a key and the code's size to z (code,)."""


Evaluate = Callable[[Array], Evaluation]  # z (chains, code) -> Evaluation
ValueAndGrad = Callable[[Any, Array], Evaluation]  # the same with the parameters in front


def merged(params: Any, chain_params: dict[str, Any] | None) -> Any:
    """The parameters that all chains share, and by their names those that differ from chain to
    chain."""
    return params if chain_params is None else {**params, **chain_params}
