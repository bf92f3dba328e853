"""Where chains begin: at one of many draws from the prior, chosen by its likelihood.

From far away the likelihood of a class is flat: a chain that begins there may never find the class.
Sampling importance resampling (Rubin 1987) begins close to the posterior without a gradient: of N
draws z_j from the prior, each with the likelihood L_j, one is taken with the probability
L_j / Σ L_k. As N grows, its distribution becomes the posterior.

The choice is made by Gumbel's trick: the largest of log L_j + G_j, G_j independent with a standard
Gumbel distribution, is at j with just this probability. So candidates come and go one after
another, and only the best so far is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.devices import Layout, first, make_layout, padded, place, spread
from gradgen.inference.clipping import Bounds
from gradgen.inference.types import merged

Draw = Callable[[Array, int], Array]  # (key, code_size) -> z (code,)
LogLikelihood = Callable[[Any, Array], Array]  # (params, z (chains, code)) -> (chains,)


def choose_starts(
    keys: Array,
    draw: Draw,
    code_size: int,
    log_likelihood: LogLikelihood,
    params: Any,
    num_candidates: int,
    bounds: Bounds | None = None,
    *,
    chain_params: dict[str, Any] | None = None,
    group_size: int | None = None,
    devices: Sequence[Any] | None = None,
    at_once: int | None = None,
) -> Array:
    """A start for each chain: (chains, code).

    Args:
        keys: (chains,) typed PRNG keys; a chain's start comes from its key alone.
        draw: from the prior; pure.
        code_size: of the prior's codes.
        log_likelihood: pure; what is not finite counts as impossible, and if no candidate is
            possible the first one is taken. The same function object again means no new
            compilation.
        params: pytree that log_likelihood takes.
        num_candidates: draws for each chain; a forward pass each.
        bounds: (lower, upper), each (chains, code), that candidates are moved into.
        chain_params, group_size, devices: see :func:`gradgen.inference.chain.run_chains`.
        at_once: candidates between two moments at which Ctrl-C is answered; ``None``: all of them.
    """
    layout = make_layout(len(keys), group_size, devices)
    filled = -(-len(keys) // layout.multiple) * layout.multiple
    own = padded((jax.random.key_data(keys), chain_params, bounds), filled)
    # of a strong type from the start, or the second piece would be compiled anew
    best = jnp.full(filled, -jnp.inf, jnp.float32), jnp.zeros((filled, code_size))
    (best, own), params = place((best, own), params, layout)
    piece = at_once or num_candidates
    for begin in range(0, num_candidates, piece):
        span = jnp.int32(begin), jnp.int32(min(begin + piece, num_candidates))
        best = _look_at((best, own), (params, span), draw, log_likelihood, layout)
        jax.block_until_ready(best)
    codes: Array = first(best[1], len(keys))
    return codes


@partial(jax.jit, static_argnames=("draw", "log_likelihood", "layout"))
def _look_at(
    per_chain: Any, shared: Any, draw: Draw, log_likelihood: LogLikelihood, layout: Layout
) -> tuple[Array, Array]:
    """The best score and candidate of each chain, after some candidates more.

    Args:
        per_chain: the best score and candidate so far; keys, parameters and bounds.
        shared: parameters; numbers of the first candidate and of the one after the last.
    """

    def group(per_chain: Any, shared: Any) -> tuple[Array, Array]:
        best, (key_data, chain_params, bounds) = per_chain
        params, (begin, end) = shared
        keys = jax.random.wrap_key_data(key_data)

        def look(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            own = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)))(keys)
            codes = jax.vmap(lambda key: draw(key, best[1].shape[1]))(own[:, 0])
            codes = codes.astype(best[1].dtype)
            if bounds is not None:
                codes = jnp.clip(codes, bounds[0], bounds[1])
            found = log_likelihood(merged(params, chain_params), codes).astype(best[0].dtype)
            score = found + jax.vmap(jax.random.gumbel)(own[:, 1])
            score = jnp.where(jnp.isfinite(found), score, -jnp.inf)
            better = (score > best[0]) | (number == 0)
            return jnp.where(better, score, best[0]), jnp.where(better[:, None], codes, best[1])

        return jax.lax.fori_loop(begin, end, look, best)

    return spread(group, per_chain, shared, layout)
