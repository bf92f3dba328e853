"""The density that is sampled: log p(class | g(z)) weighted by beta, plus log N(z; 0, I).

Xu, Acuna & Duvenaud's posterior p(z | class) is the one with beta = 1. Another beta makes the
power posterior p(class | g(z))^beta p(z), whose pictures are more plainly of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.inference.types import Evaluation
from gradgen.networks import Apply, Bundle, Classifier

LOG_2PI = 1.8378770664093453


@dataclass(frozen=True, eq=False)
class Target:
    """Target density of a bundle's generator and a classifier, for batches of chains.

    Attributes:
        params: pytree with everything that the functions need; a jit argument.
    """

    params: dict[str, Any]
    _generate: Apply
    _classify: Apply
    _logits: Apply

    def log_density(
        self, params: dict[str, Any], class_index: Array, z: Array
    ) -> tuple[Array, Array]:
        """Unnormalised log density and log-likelihood of codes.

        Args:
            params: ``self.params``.
            class_index: int32, a scalar or one a chain (chains,).
            z: (chains, code) float32.

        Returns (log_density (chains,), log_likelihood (chains,)): beta * log p(class | g(z)) +
        log N(z; 0, I), with the normal's constant, and log p(class | g(z)) alone.
        """
        log_p = self._classify(params["classifier"], self._generate(params["generator"], z))
        log_likelihood = _pick(log_p, class_index)
        log_prior = -0.5 * (jnp.sum(z * z, axis=-1) + z.shape[-1] * LOG_2PI)
        return params["likelihood_weight"] * log_likelihood + log_prior, log_likelihood

    def value_and_grad(self, params: dict[str, Any], class_index: Array, z: Array) -> Evaluation:
        """Log density, its gradient (chains, code) and the log-likelihood: one forward and one
        backward pass for all chains (arguments as for :meth:`log_density`)."""

        def total(z: Array) -> tuple[Array, tuple[Array, Array]]:
            log_density, log_likelihood = self.log_density(params, class_index, z)
            return log_density.sum(), (log_density, log_likelihood)

        (_, (log_density, log_likelihood)), gradient = jax.value_and_grad(total, has_aux=True)(z)
        return Evaluation(log_density, gradient, log_likelihood)

    def mixed_value_and_grad(
        self, precision: str, params: dict[str, Any], class_index: Array, z: Array
    ) -> Evaluation:
        """Like :meth:`value_and_grad`, but the gradient alone comes from a pass in ``precision``.

        The density is that of float32, and so is the accept step: HMC and MALA stay exact, since
        leapfrog is reversible and keeps volumes with any gradient that is a function of the
        position, and MALA's proposal density uses the same gradient in both directions. What a
        coarse gradient costs is acceptance. HMC looks at the density of a trajectory's end only;
        the compiler drops it from the steps between.
        """
        dtype = jnp.dtype(precision)
        coarse = {
            name: jax.tree.map(lambda leaf: leaf.astype(dtype), params[name])
            for name in ("generator", "classifier")
        }

        def total(z: Array) -> Array:
            images = self._generate(coarse["generator"], z.astype(dtype))
            log_p = self._classify(coarse["classifier"], images).astype(jnp.float32)
            return _pick(log_p, class_index).sum()

        log_density, log_likelihood = self.log_density(params, class_index, z)
        gradient = params["likelihood_weight"] * jax.grad(total)(z) - z
        return Evaluation(log_density, gradient, log_likelihood)

    def dgn_am_value_and_grad(
        self, params: dict[str, Any], class_index: Array, z: Array
    ) -> Evaluation:
        """Like :meth:`value_and_grad`, with DGN-AM's direction in the gradient's place.

        Nguyen et al. 2016, published code: the gradient of the class's logit with respect to the
        image, divided by its mean absolute value, carried back to the code and divided again.
        """
        images, pull_back = jax.vjp(lambda z: self._generate(params["generator"], z), z)

        def total(images: Array) -> Array:
            return _pick(self._logits(params["classifier"], images), class_index).sum()

        (code_gradient,) = pull_back(_by_mean_size(jax.grad(total)(images)))
        log_density, log_likelihood = self.log_density(params, class_index, z)
        return Evaluation(log_density, _by_mean_size(code_gradient), log_likelihood)


def _pick(values: Array, class_index: Array) -> Array:
    index = jnp.broadcast_to(class_index, values.shape[:1])
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]


def _by_mean_size(gradient: Array) -> Array:
    axes = tuple(range(1, gradient.ndim))
    size = jnp.mean(jnp.abs(gradient), axis=axes, keepdims=True)
    return gradient / jnp.maximum(size, jnp.finfo(gradient.dtype).tiny)


def make_target(
    bundle: Bundle, classifier: Classifier | None = None, likelihood_weight: float = 1.0
) -> Target:
    """The target of a bundle's generator and a classifier (the bundle's own by default)."""
    classifier = classifier or bundle.classifier
    shared = _functions(bundle, classifier)
    return Target(
        params={
            "generator": bundle.generator.params,
            "classifier": classifier.params,
            "likelihood_weight": jnp.float32(likelihood_weight),
        },
        _generate=shared[0],
        _classify=shared[1],
        _logits=shared[2],
    )


@cache
def _functions(bundle: Bundle, classifier: Classifier) -> tuple[Apply, Apply, Apply]:
    return bundle.generator.apply, classifier.apply, classifier.logits
