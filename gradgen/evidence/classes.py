"""The likelihood of composed classes, from a classifier's log-probabilities.

A class is an answer of the classifier to "what is this?". The classes of a classifier exclude each
other, so *either* of several has the sum of their probabilities, and *not* has the rest: both are
sets of classes. *Both* is the product of two likelihoods, as if two people who do not hear each
other looked at the same picture. A weight is a power of a likelihood.

Everything is computed as a pair (log p, log(1 - p)), so that neither is ever the logarithm of a
difference: for a set both are sums of probabilities, *not* swaps them, and of *both* the second is
log(1 - p q) = log((1 - p) + p (1 - q)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.errors import UsageError
from gradgen.evidence.expression import Both, Class, Either, Expression, Not, Weighted

# Below exp(-16) = 1.1e-7, float32's epsilon, 1 - (1 - q)^w is w q to all digits that there are.
TINY_LOG = -16.0

# (log p (chains,), log(1 - p) (chains,)); the second is None where p is a sum that may exceed 1.
Pair = tuple[Array, Array | None]


@dataclass(frozen=True)
class Form:
    """What a compiled program knows of a composition: its shape, without classes and weights.

    Compositions of the same form are sampled by the same program; which classes and weights each
    chain is about are arguments of it, which :meth:`log_likelihood` describes.

    Attributes:
        kind: "set", "not", "both", "either" or "power"; "nothing" where no class is asked for.
        parts: of the kinds that have some.
        slot: which of the sets, or of the weights, this is; for "set" and "power".
    """

    kind: str
    parts: tuple[Form, ...] = ()
    slot: int = 0

    def log_likelihood(self, log_p: Array, asked: Mapping[str, Array]) -> Array:
        """Log-likelihood (chains,) of the composition.

        Args:
            log_p: (chains, classes), the classifier's log-probabilities.
            asked: ``members``, bool (sets, classes), and, if there are powers, ``weights``
                (powers,); or with the chains in front where they differ from chain to chain.
        """
        if self.kind == "nothing":
            return jnp.zeros(log_p.shape[:1], log_p.dtype)
        return _pair(self, log_p, asked)[0]


@dataclass(frozen=True, eq=False)
class Composition:
    """A composed class of a classifier.

    Attributes:
        form: its shape.
        members: bool (sets, classes), the classes of each set.
        weights: float32 (powers,).
    """

    form: Form
    members: np.ndarray
    weights: np.ndarray

    @property
    def asked(self) -> dict[str, np.ndarray]:
        """What :meth:`Form.log_likelihood` takes for a chain."""
        found = {"members": self.members, "weights": self.weights}
        return {name: values for name, values in found.items() if len(values)}


NO_CLASS = Composition(Form("nothing"), np.zeros((0, 0), bool), np.zeros(0, np.float32))


def single_class(log_p: Array, class_index: Array) -> Array:
    """Log-likelihood (chains,) of a plain class.

    Args:
        log_p: (chains, classes), the classifier's log-probabilities.
        class_index: int32, a scalar or one a chain (chains,).
    """
    index = jnp.broadcast_to(class_index, log_p.shape[:1])
    return jnp.take_along_axis(log_p, index[:, None], axis=-1)[:, 0]


def compose(
    expression: Expression, index_of: Callable[[str], int], num_classes: int
) -> Composition:
    """Make a composition of an expression.

    Args:
        expression: to be understood.
        index_of: from a name in it to the class's position in the classifier's output.
        num_classes: of the classifier.

    Raises:
        UsageError: it says nothing (``a | !a``) or nothing can fulfil it, or it holds a *not* of
            what is no probability.
    """
    sets: list[frozenset[int]] = []
    weights: list[float] = []

    def form_of(part: Any) -> Form:
        if isinstance(part, frozenset):
            sets.append(part)
            return Form("set", slot=len(sets) - 1)
        if isinstance(part, Weighted):
            inner = form_of(part.part)
            weights.append(part.weight)
            return Form("power", (inner,), len(weights) - 1)
        if isinstance(part, Not):
            return Form("not", (form_of(part.part),))
        kind = "both" if isinstance(part, Both) else "either"
        return Form(kind, tuple(form_of(inner) for inner in part.parts))

    form = form_of(_with_sets(expression, index_of, num_classes))
    members = np.zeros((len(sets), num_classes), bool)
    for row, inside in zip(members, sets, strict=True):
        row[sorted(inside)] = True
    return Composition(form, members, np.array(weights, np.float32))


def _with_sets(part: Expression, index_of: Callable[[str], int], num_classes: int) -> Any:
    """The expression with everything that is a set of classes as a ``frozenset`` of indices."""

    def set_of(members: frozenset[int], source: Expression) -> frozenset[int]:
        if not members or len(members) == num_classes:
            says = "is true of no picture" if not members else "is true of every picture"
            raise UsageError(f"'{source}' {says}, so there is nothing to look for")
        return members

    def inner(part: Expression) -> Any:
        if isinstance(part, Class):
            return frozenset([index_of(part.name)])
        if isinstance(part, Weighted):
            return Weighted(inner(part.part), part.weight)
        if isinstance(part, Both):
            return Both(tuple(inner(each) for each in part.parts))
        if isinstance(part, Either):
            found = [inner(each) for each in part.parts]
            united = [each for each in found if isinstance(each, frozenset)]
            others = [each for each in found if not isinstance(each, frozenset)]
            if united:
                others.insert(0, set_of(frozenset().union(*united), part))
            return others[0] if len(others) == 1 else Either(tuple(others))
        assert isinstance(part, Not)
        inside = inner(part.part)
        if isinstance(inside, frozenset):
            return set_of(frozenset(range(num_classes)) - inside, part)
        if _may_exceed_one(inside):
            raise UsageError(
                f"'{part}': the sum inside may exceed one, so it has no opposite; negate its parts "
                "instead: !(a & b | c) is !(a & b) & !c"
            )
        return inside.part if isinstance(inside, Not) else Not(inside)

    return inner(part)


def _may_exceed_one(part: Any) -> bool:
    """Whether a sum of what does not exclude each other is anywhere in it."""
    if isinstance(part, Either):
        return True
    if isinstance(part, Both):
        return any(_may_exceed_one(each) for each in part.parts)
    return isinstance(part, Not | Weighted) and _may_exceed_one(part.part)


def _pair(form: Form, log_p: Array, asked: Mapping[str, Array]) -> Pair:
    if form.kind == "set":
        members = asked["members"][..., form.slot, :]
        return _log_sum(log_p, members), _log_sum(log_p, ~members)
    pairs = [_pair(part, log_p, asked) for part in form.parts]
    if form.kind == "not":
        ((inside, outside),) = pairs
        assert outside is not None
        return outside, inside
    if form.kind == "power":
        ((inside, outside),) = pairs
        return _power(inside, outside, asked["weights"][..., form.slot])
    whole, rest = pairs[0]
    for inside, outside in pairs[1:]:
        if form.kind == "either":
            whole, rest = jnp.logaddexp(whole, inside), None
        else:
            if rest is not None and outside is not None:
                rest = jnp.logaddexp(rest, whole + outside)  # (1 - p) + p (1 - q)
            else:
                rest = None
            whole = whole + inside
    return whole, rest


def _log_sum(log_p: Array, members: Array) -> Array:
    """Log of the sum of some classes' probabilities (chains,)."""
    return jax.nn.logsumexp(log_p, axis=-1, where=jnp.broadcast_to(members, log_p.shape))


def _power(inside: Array, outside: Array | None, weight: Array) -> Pair:
    """p^w, and 1 - p^w where 1 - p is known."""
    if outside is None:
        return weight * inside, None
    # near p = 1 all digits are in 1 - p, near p = 0 in p
    near = outside < -1.0
    log_p = jnp.where(near, jnp.log1p(-jnp.exp(jnp.where(near, outside, -1.0))), inside)
    raised = weight * log_p
    tiny = outside < TINY_LOG
    # whatever a branch that is not taken gives, its gradient must be finite too
    safe = jnp.where(tiny, -1.0, raised)
    small = safe < -0.6931472  # -log 2: from here on the other formula has more digits
    by_log1p = jnp.log1p(-jnp.exp(jnp.where(small, safe, -1.0)))
    by_expm1 = jnp.log(-jnp.expm1(jnp.where(small, -1.0, safe)))
    rest = jnp.where(tiny, jnp.log(weight) + outside, jnp.where(small, by_log1p, by_expm1))
    return raised, rest
