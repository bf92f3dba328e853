"""Replica exchange: chains change their look by way of replicas at smaller likelihood weights.

A chain that has found one of several modes hardly leaves it. With replicas a chain is a ladder. Its
first rung is the chain at β; each next one is a chain at a smaller weight of the likelihood, for
which modes are hills; the last has weight 0, where draws are the prior's own and no chain is
needed. The others are moved side by side by the same kernels. Then neighbours change places with
the probability that leaves the product of their densities invariant (Geyer 1991), and pairs take
turns (the deterministic scheme of Syed et al. 2022). What is on the first rung is a draw of the
target, as without replicas.

A rung's density is prior · (target / prior)^weight. Every rung's state holds log density and
gradient of the target itself, and what a kernel sees is made of these and the prior's when a step
begins. So an exchange moves states and needs no gradient.

The prior gives a draw in every step. Of the draws since the last exchange one is chosen by its
weight, and the rung above takes it with the probability of an independent multiple-try step (Liu,
Liang & Wong 2000). With a single draw that is an exchange with a rung of weight 0.

Exchanges take place when the rungs' trajectories have ended. For this all rungs of a chain take
over the first one's number of leapfrog steps, which no state of theirs decides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.inference.clipping import Bounds, inside
from gradgen.inference.kernel import KernelState, acceptance_probability, select, split_keys
from gradgen.inference.state import ChainState, Replicas
from gradgen.inference.types import Evaluate, Evaluation, Prior

# The keys of a chain's other rungs are the chain's folded with this less the rung's number, and
# their starts come from those keys folded with this. Steps, folded in too, are far below.
FIRST_KEY = 2**32 - 2


class Rungs(NamedTuple):
    """The rungs that move, as a kernel sees them: rows, chain after chain.

    Attributes:
        weight: (rows,), of the likelihood; 1 on the first rungs.
        leaders: (rows,) int32, the row of each one's first rung.
        prior: towards which they are tempered.
    """

    weight: Array
    leaders: Array
    prior: Prior


def weights(num_moving: int, ratio: Array) -> Array:
    """(num_moving,) of the target's likelihood: 1, ratio, ratio² …"""
    return ratio ** jnp.arange(num_moving)


def rungs_of(num_chains: int, num_moving: int, ratio: Array, prior: Prior) -> Rungs:
    """The moving rungs of so many chains."""
    leaders = num_moving * (jnp.arange(num_chains * num_moving) // num_moving)
    return Rungs(jnp.tile(weights(num_moving, ratio), num_chains), leaders, prior)


def first_rows(chain_keys: Array, z0: Array, num_moving: int, prior: Prior) -> tuple[Array, Array]:
    """Keys (chains · rungs,) and positions (chains · rungs, code) of all rungs at the start.

    The first rungs start at z0 (chains, code), the others, the last included, at draws from the
    prior.
    """
    numbers = jnp.uint32(FIRST_KEY) - jnp.arange(1, num_moving + 1, dtype=jnp.uint32)
    below = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(chain_keys, numbers)
    keys = jnp.concatenate([chain_keys[:, None], below], axis=1)
    start = jax.vmap(jax.random.fold_in, (0, None))(below.reshape(-1), jnp.uint32(FIRST_KEY))
    drawn = _draws(start, z0.shape[1], prior)
    codes = jnp.concatenate([z0[:, None], drawn.reshape(len(z0), num_moving, -1)], axis=1)
    return keys.reshape(-1), codes.reshape(-1, z0.shape[1])


def init(rows: ChainState, num_moving: int) -> ChainState:
    """Chains at their start, of all rungs' states in :func:`first_rows`' order."""
    grouped = _by_chain(rows, num_moving + 1)
    chains = _rung(grouped, 0)
    num_chains = len(chains.position)
    nowhere = jnp.full(num_chains, -jnp.inf, jnp.float32)  # as after a step
    count = jnp.zeros(num_chains, jnp.int32)
    counts = jnp.zeros((num_chains, num_moving), jnp.int32)
    return chains._replace(
        replicas=Replicas(
            others=_from(grouped, 1),
            log_held=nowhere,
            log_rest=nowhere,
            exchanges=count,
            offered=counts,
            accepted=jnp.zeros((num_chains, num_moving), jnp.float32),
            fresh=counts,
            arrivals=count,
        )
    )


def rows_of(state: ChainState) -> ChainState:
    """The rungs that move as chains of their own (rows, ...), chain after chain."""
    assert state.replicas is not None

    def join(first: Array, others: Array) -> Array:
        if first.ndim == 0:
            return first
        joined = jnp.concatenate([first[:, None], others[:, :-1]], axis=1)
        return joined.reshape(-1, *first.shape[1:])

    return jax.tree.map(join, state._replace(replicas=None), state.replicas.others)


def chains_of(rows: ChainState, state: ChainState) -> ChainState:
    """The chains whose moving rungs are these rows; all else is as in ``state``."""
    assert state.replicas is not None
    grouped = _by_chain(rows, state.replicas.fresh.shape[1])

    def join(moving: Array, others: Array) -> Array:
        if moving.ndim == 0:
            return moving
        return jnp.concatenate([moving[:, 1:], others[:, -1:]], axis=1)

    others = jax.tree.map(join, grouped, state.replicas.others)
    return _rung(grouped, 0)._replace(replicas=state.replicas._replace(others=others))


def tempered(position: Array, whole: Evaluation, weight: Array, prior: Prior) -> Evaluation:
    """A rung's own density and gradient, of those of the target itself.

    Args:
        position: (rows, code).
        whole: of the target there.
        weight: (rows,); where it is 1 the target itself comes out, bit by bit.
        prior: towards which the rungs are tempered.
    """

    def total(z: Array) -> tuple[Array, Array]:
        values = prior.log_density(z)
        return values.sum(), values

    (_, log_prior), of_prior = jax.value_and_grad(total, has_aux=True)(position)
    density = log_prior + weight * (whole.log_density - log_prior)
    gradient = of_prior + weight[:, None] * (whole.gradient - of_prior)
    itself = weight == 1
    return Evaluation(
        jnp.where(itself, whole.log_density, density),
        jnp.where(itself[:, None], whole.gradient, gradient),
        whole.log_likelihood,
        whole.features,
        whole,
    )


def exchange(
    state: ChainState,
    evaluate: Evaluate,
    weight: Array,
    prior: Prior,
    bounds: Bounds | None,
    clip_mode: str,
    ended: Array,
    counted: Array,
) -> ChainState:
    """A draw from the prior; and of chains whose rungs' moves have ended, all that change places.

    Args:
        state: of the chains, after a step of their moving rungs.
        evaluate: the target itself, for a code a chain; one gradient evaluation.
        weight: (moving rungs,), see :func:`weights`.
        prior: that is drawn from.
        bounds, clip_mode: see :mod:`gradgen.inference.clipping`.
        ended: (chains,), whether the moves of a chain's rungs have ended.
        counted: whether the warm-up is over.
    """
    assert state.replicas is not None
    replicas, num_moving = state.replicas, len(weight)
    last = _rung(replicas.others, -1)
    keys = jax.vmap(jax.random.fold_in, (0, None))(
        jax.random.wrap_key_data(last.key_data), state.step
    )
    draw_keys, chance_keys = split_keys(keys)
    drawn = _draws(draw_keys, state.position.shape[1], prior)
    draw = KernelState(drawn, evaluate(drawn))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (num_moving + 1,)))(chance_keys)
    held, log_held, log_rest = _hold(
        uniform[:, -1],
        (_place(last), replicas.log_held, replicas.log_rest),
        draw,
        jnp.where(inside(drawn, bounds, clip_mode), weight[-1] * _evidence(draw, prior), -jnp.inf),
    )

    rows = _place(rows_of(state))
    grouped = _by_chain(rows, num_moving)
    evidence = _evidence(rows, prior).reshape(-1, num_moving)
    fresh = replicas.fresh
    # the prior's draw, for what stands on the lowest rung that moves
    offered = jnp.logaddexp(log_held, log_rest) - jnp.logaddexp(
        log_rest, weight[-1] * evidence[:, -1]
    )
    p_draw = acceptance_probability(offered)
    taken = ended & (uniform[:, -2] < p_draw)
    new = select(taken, held, _rung(grouped, -1))
    grouped = jax.tree.map(lambda all, one: all.at[:, -1].set(one), grouped, new)
    evidence = evidence.at[:, -1].set(jnp.where(taken, _evidence(held, prior), evidence[:, -1]))
    fresh = fresh.at[:, -1].set(jnp.where(taken, 1, fresh[:, -1]))
    # every other pair of neighbours, and the rest the next time
    log_ratio = (weight[:-1] - weight[1:]) * (evidence[:, 1:] - evidence[:, :-1])
    p_pairs = acceptance_probability(log_ratio)
    turn = jnp.arange(num_moving - 1) % 2 == (replicas.exchanges % 2)[:, None]
    swapped = (ended[:, None] & turn & (uniform[:, :-2] < p_pairs)).astype(jnp.int32)
    none = jnp.zeros((len(swapped), 1), jnp.int32)
    source = jnp.arange(num_moving) + jnp.concatenate([swapped, none], axis=1)
    source = source - jnp.concatenate([none, swapped], axis=1)
    grouped, fresh = jax.tree.map(
        lambda all: jax.vmap(lambda one, at: one[at])(all, source), (grouped, fresh)
    )

    tried = jnp.concatenate([turn, jnp.ones_like(none, bool)], axis=1) & ended[:, None] & counted
    probability = jnp.concatenate([p_pairs, p_draw[:, None]], axis=1)
    moved = _put(rows_of(state), jax.tree.map(lambda all: all.reshape(-1, *all.shape[2:]), grouped))
    others = jax.tree.map(
        lambda all, one: one if one.ndim == 0 else all.at[:, -1].set(one),
        replicas.others,
        _put(last, held),
    )
    replicas = replicas._replace(
        others=others,
        log_held=jnp.where(ended, -jnp.inf, log_held),
        log_rest=jnp.where(ended, -jnp.inf, log_rest),
        exchanges=replicas.exchanges + ended,
        offered=replicas.offered + tried,
        accepted=replicas.accepted + jnp.where(tried, probability, 0.0),
        fresh=fresh.at[:, 0].set(0),
        arrivals=replicas.arrivals + jnp.where(counted, fresh[:, 0], 0),
    )
    return chains_of(moved, state._replace(replicas=replicas))


def _hold(
    uniform: Array, before: tuple[KernelState, Array, Array], draw: KernelState, log_weight: Array
) -> tuple[KernelState, Array, Array]:
    """One draw more: of all since the last exchange one is held, with probability by its weight.

    Args:
        uniform: (chains,), random.
        before: the draw that is held, the logarithms of its weight and of the others' sum.
        draw, log_weight: the new one; a weight that is no number counts as none.

    Returns what is held now, in the form of ``before``.
    """
    held, log_held, log_rest = before
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    total = jnp.logaddexp(log_held, log_rest)
    taken = jnp.log(uniform) < log_weight - jnp.logaddexp(total, log_weight)
    return (
        select(taken, draw, held),
        jnp.where(taken, log_weight, log_held),
        jnp.where(taken, total, jnp.logaddexp(log_rest, log_weight)),
    )


def _evidence(place: KernelState, prior: Prior) -> Array:
    """log target less log prior."""
    return place.evaluation.log_density - prior.log_density(place.position)


def _draws(keys: Array, code_size: int, prior: Prior) -> Array:
    """(keys, code) draws from the prior, each from its key."""
    return jax.vmap(lambda key: prior.draw(key, code_size))(keys)


def _place(state: ChainState) -> KernelState:
    """What of a state changes places."""
    return KernelState(
        state.position,
        Evaluation(state.log_density, state.gradient, state.log_likelihood, state.features),
    )


def _put(state: ChainState, place: KernelState) -> ChainState:
    """The inverse of :func:`_place`."""
    found = place.evaluation
    return state._replace(
        position=place.position,
        log_density=found.log_density,
        gradient=found.gradient,
        log_likelihood=found.log_likelihood,
        features=found.features,
    )


def _by_chain(rows: Any, num_rungs: int) -> Any:
    """(rows, ...) as (chains, rungs, ...); scalars stay what they are."""
    return jax.tree.map(
        lambda leaf: leaf if leaf.ndim == 0 else leaf.reshape(-1, num_rungs, *leaf.shape[1:]), rows
    )


def _rung(grouped: Any, number: int) -> Any:
    """One rung (chains, ...) of (chains, rungs, ...)."""
    return jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[:, number], grouped)


def _from(grouped: Any, number: int) -> Any:
    """The rungs from a number on."""
    return jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[:, number:], grouped)
