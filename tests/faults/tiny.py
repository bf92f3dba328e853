"""A bundle of a few numbers in closed form, so that hundreds of runs take seconds."""

import jax
import jax.numpy as jnp
import numpy as np

from gradgen.labels import Label, Labels
from gradgen.networks.bounds import CodeStatistics
from gradgen.networks.interfaces import Bundle, Classifier, Network, Parts
from gradgen.weights.cards import Card

CODE, SIDE = 4, 8
LABELS = Labels((Label(0, "", ("red",)), Label(1, "", ("green",)), Label(2, "", ("blue",))))


def _generate(params, z):
    """Pictures of one colour each, a little darker to the right."""
    shade = jnp.linspace(1.0, 0.5, SIDE)[None, None, :, None]
    return jnp.tanh(z @ params)[:, None, None, :] * shade * jnp.ones((1, SIDE, 1, 1))


def _logits(params, images):
    return params * images.mean(axis=(1, 2))


def _classify(params, images):
    return jax.nn.log_softmax(_logits(params, images))


# What N(0, I) gives: every class's codes are alike.
STATISTICS = CodeStatistics(
    np.zeros((len(LABELS), CODE), np.float32), np.ones((len(LABELS), CODE), np.float32),
    np.zeros(CODE, np.float32), np.ones(CODE, np.float32), LABELS, "tiny",
)  # fmt: skip


def make_bundle(generator=1.0, classifier=5.0, code_statistics=STATISTICS):
    """generator, classifier: what their weights are multiplied with."""
    colours = np.random.default_rng(0).standard_normal((CODE, 3)).astype(np.float32)
    card = Card("tiny", "bundle", likelihood_weight=1.0)
    made_generator = Network(
        "tiny/generator", _generate, jnp.asarray(colours * generator), "a" * 64
    )
    made_classifier = Classifier(
        name="tiny", apply=_classify, params=jnp.float32(classifier), sha256="b" * 64,
        input_size=SIDE, logits=_logits, labels=LABELS, card=card,
    )  # fmt: skip

    def absent():
        raise AssertionError("a run needs no such network")

    return Bundle(
        name="tiny", code_size=CODE, image_size=SIDE, labels=LABELS,
        code_statistics=code_statistics, code_floor=None, multiply_adds=1e6, card=card,
        parts=Parts(lambda: made_generator, lambda: made_classifier, absent, absent),
    )  # fmt: skip
