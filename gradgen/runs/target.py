"""The density that is sampled: log p(evidence | g(z)) weighted by beta, plus log p(z).

A class is evidence: Xu, Acuna & Duvenaud's posterior p(z | class) is the one with beta = 1 and the
prior N(0, I). Another beta makes the power posterior p(class | g(z))^beta p(z), whose pictures are
more plainly of the class. :mod:`gradgen.evidence` holds what else can be asked for. That a picture
is to look real adds gamma times a discriminator's log-odds to any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradgen.evidence import photograph, realism, unit
from gradgen.evidence.classes import Form, single_class
from gradgen.evidence.photograph import Photograph
from gradgen.evidence.unit import Unit, WantedUnit
from gradgen.inference.types import Evaluation
from gradgen.networks.interfaces import Apply, Bundle, Classifier
from gradgen.networks.prior import STANDARD_NORMAL

# Fixed random directions in the space of the classifier's log-probabilities. Chains that draw
# different kinds of pictures differ there, although their log densities may be alike.
NUM_FEATURES, FEATURES_SEED = 2, 2025

Asked = Any  # a class's index, or what gradgen.evidence.classes.Form.log_likelihood takes


@dataclass(frozen=True, eq=False)
class Target:
    """Target density of a bundle's generator and a classifier, for batches of chains.

    Attributes:
        params: pytree with everything that the functions need; a jit argument.
        form: of a composed class; ``None`` for a plain one.
        reduction: of a photograph (:class:`gradgen.evidence.photograph.Photograph`); 0 without.
        unit: of the classifier that is to be high, or ``None``.
        realistic: whether pictures are to look real.
    """

    params: dict[str, Any]
    _generate: Apply
    _classify: Apply
    _logits: Apply
    _log_prior: Callable[[Array], Array] = STANDARD_NORMAL.log_density
    form: Form | None = None
    reduction: int = 0
    unit: Unit | None = None
    realistic: bool = False
    _layers: Callable[[Any, Array], dict[str, Array]] | None = None
    _discriminate: Callable[[Any, Array], Array] | None = None

    def log_density(self, params: dict[str, Any], asked: Asked, z: Array) -> tuple[Array, Array]:
        """Unnormalised log density and log-likelihood of codes.

        Args:
            params: ``self.params``.
            asked: of a plain class its index, int32, a scalar or one a chain (chains,); of a
                composed one what :meth:`gradgen.evidence.classes.Form.log_likelihood` takes.
            z: (chains, code) float32.

        Returns (log_density (chains,), log_likelihood (chains,)): beta * log p(class | g(z)) +
        log p(z), a normal's with its constant, and log p(class | g(z)) alone. The
        likelihoods of a photograph and of a unit are added to both; their weight is their noise.
        Realism, gamma * d(g(z)), is added to the density alone.
        """
        return self._densities(params, asked, z)[:2]

    def _densities(
        self, params: dict[str, Any], asked: Asked, z: Array
    ) -> tuple[Array, Array, Array]:
        """As :meth:`log_density`, with the features (chains, NUM_FEATURES) for the trace."""
        images = self._generate(params["generator"], z)
        log_p = self._classify(params["classifier"], images)
        features = log_p @ _feature_vectors(log_p.shape[-1])
        weighted, log_likelihood = self.likelihoods(params, asked, images, log_p)
        return weighted + self._log_prior(z), log_likelihood, features

    def likelihoods(
        self, params: dict[str, Any], asked: Asked, images: Array, log_p: Array
    ) -> tuple[Array, Array]:
        """Log-likelihood (chains,) of all the evidence, as the density takes it and unweighted.

        Args:
            params, asked: as for :meth:`log_density`.
            images: the generator's, (chains, S, S, 3).
            log_p: the classifier's log-probabilities of them, (chains, classes).
        """
        plain = self._evidence(log_p, asked)
        weighted = params["likelihood_weight"] * plain
        if self.reduction or self.unit is not None:
            more = self._more(params, params["classifier"], images)
            weighted, plain = weighted + more, plain + more
        if self.realistic:
            weighted = weighted + self._realism(params, params["discriminator"], images)
        return weighted, plain

    def weighted_log_likelihood(self, params: dict[str, Any], asked: Asked, z: Array) -> Array:
        """(chains,) the log density without the prior's: beta * log p(class | g(z)), and what a
        photograph, a unit and realism add (arguments as for :meth:`log_density`)."""
        images = self._generate(params["generator"], z)
        log_p = self._classify(params["classifier"], images)
        return self.likelihoods(params, asked, images, log_p)[0]

    def value_and_grad(self, params: dict[str, Any], asked: Asked, z: Array) -> Evaluation:
        """Log density, its gradient (chains, code) and the log-likelihood: one forward and one
        backward pass for all chains (arguments as for :meth:`log_density`)."""

        def total(z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            found = self._densities(params, asked, z)
            return found[0].sum(), found

        (_, found), gradient = jax.value_and_grad(total, has_aux=True)(z)
        log_density, log_likelihood, features = found
        return Evaluation(log_density, gradient, log_likelihood, features)

    def mixed_value_and_grad(
        self, precision: str, params: dict[str, Any], asked: Asked, z: Array
    ) -> Evaluation:
        """Like :meth:`value_and_grad`, but the gradient alone comes from a pass in ``precision``.

        The density is that of float32, and so is the accept step: HMC and MALA stay exact, since
        leapfrog is reversible and keeps volumes with any gradient that is a function of the
        position, and MALA's proposal density uses the same gradient in both directions. What a
        coarse gradient costs is acceptance. With a number of leapfrog steps, HMC looks at the
        density of a trajectory's end only, and the compiler drops it from the steps between.
        Chains with trajectories of a length end them at different steps, so that each step takes
        the density's float32 forward pass too.
        """
        dtype = jnp.dtype(precision)
        has_more = self.reduction or self.unit is not None
        coarse = {
            name: jax.tree.map(lambda leaf: leaf.astype(dtype), params[name])
            for name in ("generator", "classifier", "discriminator")
            if name in params
        }

        def total(z: Array) -> Array:
            images = self._generate(coarse["generator"], z.astype(dtype))
            log_p = self._classify(coarse["classifier"], images).astype(jnp.float32)
            return self._evidence(log_p, asked).sum()

        def unweighted(z: Array) -> Array:
            images = self._generate(coarse["generator"], z.astype(dtype))
            added = jnp.float32(0.0)
            if has_more:
                added += self._more(params, coarse["classifier"], images).sum()
            if self.realistic:
                added += self._realism(params, coarse["discriminator"], images).sum()
            return added

        log_density, log_likelihood, features = self._densities(params, asked, z)
        of_prior = jax.grad(lambda z: self._log_prior(z).sum())(z)
        gradient = params["likelihood_weight"] * jax.grad(total)(z) + of_prior
        if has_more or self.realistic:
            gradient = gradient + jax.grad(unweighted)(z)
        return Evaluation(log_density, gradient, log_likelihood, features)

    def dgn_am_value_and_grad(self, params: dict[str, Any], asked: Asked, z: Array) -> Evaluation:
        """Like :meth:`value_and_grad`, with DGN-AM's direction in the gradient's place.

        Nguyen et al. 2016, published code: the gradient of the class's logit with respect to the
        image, divided by its mean absolute value, carried back to the code and divided again.
        """
        images, pull_back = jax.vjp(lambda z: self._generate(params["generator"], z), z)

        def total(images: Array) -> Array:
            if self.unit is not None:
                return self._activation(params["classifier"], images).sum()
            return single_class(self._logits(params["classifier"], images), asked).sum()

        (code_gradient,) = pull_back(_by_mean_size(jax.grad(total)(images)))
        log_density, log_likelihood, features = self._densities(params, asked, z)
        return Evaluation(log_density, _by_mean_size(code_gradient), log_likelihood, features)

    def _activation(self, classifier: Any, images: Array) -> Array:
        assert self.unit is not None and self._layers is not None
        return self.unit.activation(self._layers(classifier, images))

    def _more(self, params: dict[str, Any], classifier: Any, images: Array) -> Array:
        """Log-likelihood (chains,) of photograph and unit; ``classifier``: its parameters."""
        total = jnp.zeros(len(images), jnp.float32)
        if self.reduction:
            seen = params["photograph"]
            pixels = images.astype(jnp.promote_types(jnp.float32, images.dtype))
            total = total + photograph.log_likelihood(seen, self.reduction, pixels)
        if self.unit is not None:
            activation = self._activation(classifier, images)
            activation = activation.astype(jnp.promote_types(jnp.float32, activation.dtype))
            total = total + unit.log_likelihood(params["unit"], activation)
        return total

    def _realism(self, params: dict[str, Any], discriminator: Any, images: Array) -> Array:
        """gamma * d(image) (chains,); ``discriminator``: its parameters."""
        assert self._discriminate is not None
        return params["realism"] * realism.log_odds(self._discriminate(discriminator, images))

    @property
    def _evidence(self) -> Callable[[Array, Asked], Array]:
        """From the classifier's log-probabilities to the log-likelihood (chains,)."""
        return single_class if self.form is None else self.form.log_likelihood


@dataclass(frozen=True, eq=False)
class PathTarget:
    """The geometric path between two targets of the same networks and prior.

    Its density at t is p_0^(1 - t) p_1^t, normalised: at t = 0 that of the first target, at t = 1
    that of the second, and between them both kinds of evidence count by their shares.
    """

    first: Target
    second: Target

    def value_and_grad(self, params: dict[str, Any], z: Array) -> Evaluation:
        """Log density at t, and its gradient.

        Args:
            params: ``share``, t; ``first`` and ``second``, each with ``asked`` and the target's
                parameters, but for the networks', which are in ``networks``.
            z: (chains, code) float32.

        Returns the evaluation; its features (chains, 2) are the two log-likelihoods, unweighted.
        """
        networks, share = params["networks"], params["share"]

        def total(z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            images = self.first._generate(networks["generator"], z)
            log_p = self.first._classify(networks["classifier"], images)
            (first, plain_first), (second, plain_second) = (
                target.likelihoods(own["target"] | networks, own["asked"], images, log_p)
                for target, own in (
                    (self.first, params["first"]),
                    (self.second, params["second"]),
                )
            )
            density = (1 - share) * first + share * second + self.first._log_prior(z)
            mixed = (1 - share) * plain_first + share * plain_second
            return density.sum(), (density, mixed, jnp.stack([plain_first, plain_second], -1))

        (_, found), gradient = jax.value_and_grad(total, has_aux=True)(z)
        density, mixed, both = found
        return Evaluation(density, gradient, mixed, both)


def _feature_vectors(num_classes: int) -> Array:
    """(num_classes, NUM_FEATURES) unit vectors, the same for every run."""
    vectors = jax.random.normal(jax.random.key(FEATURES_SEED), (num_classes, NUM_FEATURES))
    return vectors / jnp.linalg.norm(vectors, axis=0)


def _by_mean_size(gradient: Array) -> Array:
    axes = tuple(range(1, gradient.ndim))
    size = jnp.mean(jnp.abs(gradient), axis=axes, keepdims=True)
    return gradient / jnp.maximum(size, jnp.finfo(gradient.dtype).tiny)


def make_target(
    bundle: Bundle,
    classifier: Classifier | None = None,
    likelihood_weight: float = 1.0,
    form: Form | None = None,
    seen: Photograph | None = None,
    wanted: WantedUnit | None = None,
    realism_weight: float = 0.0,
) -> Target:
    """The target of a bundle's generator and a classifier (the bundle's own by default).

    Args:
        likelihood_weight: β.
        form: of a composed class; ``None`` for a plain one.
        seen: a photograph that the pictures are to match, or ``None``.
        wanted: a unit of the classifier that is to be high, or ``None``.
        realism_weight: γ; 0 leaves the discriminator out, and needs none.

    Raises:
        UsageError: γ is not 0, and the bundle has no discriminator.
    """
    classifier = classifier or bundle.classifier
    critic = bundle.discriminator if realism_weight else None
    return Target(
        params={
            "generator": bundle.generator.params,
            "classifier": classifier.params,
            "likelihood_weight": jnp.float32(likelihood_weight),
            **({} if seen is None else {"photograph": seen.params}),
            **({} if wanted is None else {"unit": wanted.params}),
            **(
                {}
                if critic is None
                else {"discriminator": critic.params, "realism": jnp.float32(realism_weight)}
            ),
        },
        _generate=bundle.generator.apply,
        _classify=classifier.apply,
        _logits=classifier.logits,
        _log_prior=bundle.prior.log_density,
        form=form,
        reduction=0 if seen is None else seen.reduction,
        unit=None if wanted is None else wanted.unit,
        realistic=critic is not None,
        _layers=classifier.layers,
        _discriminate=None if critic is None else critic.apply,
    )
