"""Tests the likelihood of composed classes against plain sums and products in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradgen.errors import UsageError
from gradgen.evidence.classes import compose
from gradgen.evidence.expression import Both, Class, Either, Not, parse

NUM_CLASSES = 6


def composed(text):
    return compose(parse(text), int, NUM_CLASSES)


def log_likelihood(text, log_p):
    found = composed(text)
    asked = {"members": jnp.asarray(found.members), "weights": jnp.asarray(found.weights)}
    return found.form.log_likelihood(log_p, asked)


P = np.array([0.02, 0.03, 0.05, 0.1, 0.3, 0.5])


@pytest.mark.parametrize(
    ("text", "likelihood"),
    [
        ("0 & 1", P[0] * P[1]),
        ("4 & 4", P[4] ** 2),
        ("0 | 3", P[0] + P[3]),
        ("0 | 0", P[0]),  # a class named twice is still the same class
        ("0 | !5", 1 - P[5]),
        ("!5", 1 - P[5]),
        ("!(4 | 5)", 1 - P[4] - P[5]),
        ("3 & !5", P[3] * (1 - P[5])),
        ("!(4 & 5)", 1 - P[4] * P[5]),
        ("!(2 & 3 & 4)", 1 - P[2] * P[3] * P[4]),
        ("!(!4 & !5)", 1 - (1 - P[4]) * (1 - P[5])),
        ("!!(0 & 1)", P[0] * P[1]),
        ("0:2 & 5:0.5", P[0] ** 2 * P[5] ** 0.5),
        ("!(5:3)", 1 - P[5] ** 3),
        ("!(5:.1)", 1 - P[5] ** 0.1),
        ("!5:3", (1 - P[5]) ** 3),
        ("0 & 1 | 2", P[0] * P[1] + P[2]),
        ("(0 | 1) & (2 | 3)", (P[0] + P[1]) * (P[2] + P[3])),
        ("!((0 | 1):2 & 5)", 1 - (P[0] + P[1]) ** 2 * P[5]),
    ],
)
def test_a_composition_is_the_sum_and_product_of_probabilities(text, likelihood):
    log_p = jnp.log(jnp.asarray(P, jnp.float32))[None]
    np.testing.assert_allclose(
        log_likelihood(text, log_p)[0], np.log(likelihood), rtol=2e-6, atol=1e-7
    )


def sets_of_classes(depth=3):
    """Expressions of classes, either and not alone, with the set of classes that each means."""
    leaf = st.integers(0, NUM_CLASSES - 1).map(lambda i: (Class(str(i)), {i}))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            inner.map(lambda x: (Not(x[0]), set(range(NUM_CLASSES)) - x[1])),
            st.tuples(inner, inner).map(lambda t: (Either((t[0][0], t[1][0])), t[0][1] | t[1][1])),
        ),
        max_leaves=6,
    )


@settings(max_examples=200, deadline=None)
@given(sets_of_classes(), sets_of_classes())
def test_either_and_not_are_sets_and_both_is_their_product(first, second):
    (left, some), (right, others) = first, second
    try:
        found = compose(Both((left, right)), int, NUM_CLASSES)
    except UsageError:  # a set inside is empty, or holds all classes
        return
    expected = np.log(P[sorted(some)].sum()) + np.log(P[sorted(others)].sum())
    asked = jax.tree.map(jnp.asarray, found.asked)
    log_p = jnp.log(jnp.asarray(P, jnp.float32))[None]
    np.testing.assert_allclose(
        found.form.log_likelihood(log_p, asked)[0], expected, rtol=1e-5, atol=1e-6
    )


TEXTS = ["0 & 1", "0 | 1", "!0", "0 & !1", "!(0 & 1)", "!(!0 & !1)", "!(0:3)", "!(0:.3)",
         "0:2 & 1:.5", "0 & 1 | 2", "!(0:2 & !1:.5)"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 90.0])
def test_values_and_gradients_are_finite_and_right_however_sure_the_classifier_is(text, scale):
    """In float32, logits of ±scale, against double precision's own sums and differences."""
    logits = scale * np.array(
        [[1, -1, 0, 0.3, -0.5, 0.1], [-1, 1, 0.2, 0, 0, 0], [1, 1, 1, -1, 0, 0]]
    )

    def total(x):
        return log_likelihood(text, jax.nn.log_softmax(x)).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(logits, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    with jax.enable_x64(True):
        fine, slope = jax.value_and_grad(total)(jnp.asarray(logits, jnp.float64))
        np.testing.assert_allclose(value, fine, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_gradients_agree_with_central_differences_in_float64(text):
    with jax.enable_x64(True):
        logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, NUM_CLASSES)) * 2)
        direction = jnp.asarray(np.random.default_rng(1).normal(size=logits.shape))

        def value(x):
            return log_likelihood(text, jax.nn.log_softmax(x)).sum()

        slope = jnp.sum(jax.grad(value)(logits) * direction)
        h = 1e-6
        difference = (value(logits + h * direction) - value(logits - h * direction)) / (2 * h)
        np.testing.assert_allclose(slope, difference, rtol=1e-7, atol=1e-9)


def test_a_probability_near_one_keeps_its_digits():
    """log(1 - p q) for p and q next to 1: nothing but the other classes' probabilities counts."""
    logits = jnp.array([[0.0, 0, 40, 0, 0, 0]], jnp.float32)
    log_p = jax.nn.log_softmax(logits)
    # 1 - (1 - q)(1 - r) = q + r - qr with q = r = exp(-40)
    np.testing.assert_allclose(log_likelihood("!(!0 & !1)", log_p)[0], np.log(2) - 40, rtol=1e-6)
    np.testing.assert_allclose(log_likelihood("!2", log_p)[0], np.log(5) - 40, rtol=1e-6)
    np.testing.assert_allclose(log_likelihood("!(2:7)", log_p)[0], np.log(7 * 5) - 40, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 | !0", "true of every picture"),
        ("!(0 | !0)", "true of every picture"),
        ("!(0|1|2|3|4|5)", "true of every picture"),
        ("!(0 & 1 | 2)", "negate its parts"),
    ],
)
def test_what_says_nothing_is_refused(text, says):
    with pytest.raises(UsageError, match=says):
        composed(text)
