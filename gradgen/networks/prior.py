"""What codes are like before any evidence: the density log p(z), and draws from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.labels import Label
from gradgen.networks.bounds import Box, clip_bounds

LOG_2PI = 1.8378770664093453
NUM_DRAWS, DRAWS_SEED = 4096, 0  # that the bounds of a prior are measured on


@dataclass(frozen=True)
class Prior:
    """A distribution of codes.

    Attributes:
        log_density: z (n, code) -> (n,); it may be unnormalised, and -inf where no code is.
        draw: (key, code_size) -> z (code,).
    """

    log_density: Callable[[Array], Array]
    draw: Callable[[Array, int], Array]


def _log_normal(z: Array) -> Array:
    return -0.5 * (jnp.sum(z * z, axis=-1) + z.shape[-1] * LOG_2PI)


def _draw_normal(key: Array, code_size: int) -> Array:
    return jax.random.normal(key, (code_size,))


STANDARD_NORMAL = Prior(_log_normal, _draw_normal)


@dataclass(frozen=True, eq=False)
class PriorBounds:
    """Bounds of codes that are known by their prior alone: a table for all classes.

    The box is mean ± sigmas · std of the prior's draws, and no larger than the smallest box that
    holds all the draws, so that a chain stays where the prior has codes; of N(0, I), ± sigmas.
    """

    prior: Prior
    code_size: int

    def knows(self, label: Label) -> bool:
        return False

    def bounds(self, label: Label | None, sigmas: float, scope: str | None = None) -> Box:
        del label, scope
        if self.prior is STANDARD_NORMAL:
            moments = np.zeros(self.code_size), np.ones(self.code_size)
            return Box(*clip_bounds(*moments, sigmas), "all", origin={"source": "prior"})
        draws = _draws(self.prior, self.code_size)
        lower, upper = clip_bounds(draws.mean(0), draws.std(0, ddof=1), sigmas)
        lower, upper = np.maximum(lower, draws.min(0)), np.minimum(upper, draws.max(0))
        return Box(lower, upper, "all", origin={"source": "prior", "count": NUM_DRAWS})


@cache
def _draws(prior: Prior, code_size: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(DRAWS_SEED), NUM_DRAWS)
    return np.asarray(jax.vmap(lambda key: prior.draw(key, code_size))(keys))
