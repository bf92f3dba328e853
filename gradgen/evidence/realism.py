"""How real a picture looks to a discriminator, as evidence: its log-odds.

A discriminator that tells photographs from a generator's pictures knows by how much the generator
draws a picture too often: its log-odds d estimate log p(photograph) - log p(g(z)). The density
p(z) exp(d(g(z))) is then that of codes whose pictures look like photographs (Che et al. 2020, "Your
GAN is secretly an energy-based model and you should use discriminator driven latent sampling").
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def log_odds(log_probability: Array) -> Array:
    """log p - log(1 - p) of log p (chains,), for which no p is too near to 0 or to 1.

    A discriminator gives log p = log sigmoid(d), and this is d again: where d is large, log p is
    about -exp(-d), whose digits a float keeps.
    """
    value = log_probability.astype(jnp.promote_types(jnp.float32, log_probability.dtype))
    return value - jnp.log(-jnp.expm1(value))
