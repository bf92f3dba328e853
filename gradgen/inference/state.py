"""The state of chains: everything that their next step depends on, and its form in files."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.inference import adaptation, trajectories


class ChainState(NamedTuple):
    """Everything that the next step depends on; arrays only.

    Attributes:
        step: int32 scalar, steps done.
        key_data: (chains, ...) uint32, the chains' keys.
        position, gradient: (chains, code). log_density, log_likelihood: (chains,).
        adaptation: of the warm-up's step size.
        first_step_size: (chains,), alpha at the schedule's t = 0.
        accepted: (chains,), sum of acceptance probabilities since the warm-up's end.
        faults: (chains, 2) int32, divergent and NaN proposals since the warm-up's end.
        window_sums: (chains, 2), sums of acceptance probability and step size since the trace's
            window began. They are kept here, so that a block may end within a window.
        trajectory: on its way, for HMC with trajectories of a length.
        features: (chains, k), of targets that have some.
        replicas: of chains that have some; all of the above is of the replica at β.
    """

    step: Array
    key_data: Array
    position: Array
    log_density: Array
    gradient: Array
    log_likelihood: Array
    adaptation: adaptation.DualAveraging
    first_step_size: Array
    accepted: Array
    faults: Array
    window_sums: Array
    trajectory: trajectories.Trajectory | None = None
    features: Array | None = None
    replicas: Replicas | None = None


class Replicas(NamedTuple):
    """The other replicas of chains (:mod:`gradgen.inference.replicas`), and what they exchanged.

    A chain's replicas are the rungs of a ladder; the first is the chain itself. Rungs that move are
    all but the last. The counts are of the time since the warm-up.

    Attributes:
        others: (chains, rungs - 1, ...), the other rungs' states. As on the first, log density and
            gradient are those of the target itself. The last rung's is the draw from the prior that
            is to be offered to the rung above it.
        log_held, log_rest: (chains,), logarithms of that draw's weight, and of the sum of weights
            of the other draws since the last exchange.
        exchanges: (chains,) int32, from the beginning on.
        offered: (chains, moving rungs) int32, exchanges that were tried, of each rung with the
            one below it.
        accepted: (chains, moving rungs), sum of their acceptance probabilities.
        fresh: (chains, moving rungs) int32, 1 where what stands on a rung has come from the prior
            and has not been on the first one since.
        arrivals: (chains,) int32, how often such a one has come to the first rung.
    """

    others: ChainState
    log_held: Array
    log_rest: Array
    exchanges: Array
    offered: Array
    accepted: Array
    fresh: Array
    arrivals: Array


# The parts of a state that are made of arrays themselves.
_NESTED = {"adaptation": adaptation.DualAveraging, "trajectory": trajectories.Trajectory}
_REPLICAS, _OTHERS = "replicas_", "others_"  # before the names of theirs


def state_to_arrays(state: ChainState) -> dict[str, np.ndarray]:
    """A checkpoint's arrays under flat names."""
    flat = {
        name: value
        for name, value in state._asdict().items()
        if name not in (*_NESTED, "replicas") and value is not None
    }
    for name in _NESTED:
        inner = getattr(state, name)
        if inner is not None:
            flat |= {f"{name}_{field}": value for field, value in inner._asdict().items()}
    if state.replicas is not None:
        own = state.replicas._asdict()
        others = state_to_arrays(own.pop("others"))
        own |= {f"{_OTHERS}{name}": value for name, value in others.items()}
        flat |= {f"{_REPLICAS}{name}": value for name, value in own.items()}
    return {name: np.asarray(value) for name, value in flat.items()}


def state_from_arrays(arrays: dict[str, np.ndarray]) -> ChainState:
    """The state that :func:`state_to_arrays` took apart.

    Raises:
        KeyError: an array is missing.
    """
    rest: dict[str, Any] = {
        name: jnp.asarray(arrays[name] if name in arrays else _of_earlier_version(name, arrays))
        for name in ChainState._fields
        if name not in (*_NESTED, "replicas") and (name != "features" or name in arrays)
    }
    nested: dict[str, Any] = {
        name: kind(
            **{field: jnp.asarray(arrays[f"{name}_{field}"]) for field in kind._fields}  # type: ignore[attr-defined]
        )
        for name, kind in _NESTED.items()
        if any(key.startswith(f"{name}_") for key in arrays)
    }
    own = _below(_REPLICAS, arrays)
    if own:
        others = state_from_arrays(_below(_OTHERS, own))
        fields = [name for name in Replicas._fields if name != "others"]
        rest["replicas"] = Replicas(others, **{name: jnp.asarray(own[name]) for name in fields})
    return ChainState(**nested, **rest)


def _below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that beginning."""
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def _of_earlier_version(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What earlier versions did not keep in their states; they counted no faults."""
    num_chains = len(arrays["position"])
    if name == "window_sums":  # they ended their blocks with their windows
        return np.zeros((num_chains, 2), np.float32)
    if name == "faults":
        return np.zeros((num_chains, 2), np.int32)
    return arrays[name]
