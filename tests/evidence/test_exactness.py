"""Composed classes on the real networks against exact draws from their posterior.

Rejection sampling is exact: z ~ N(0, I) is kept with probability L(z) / M, where the likelihood L
of the composition is never above M. It is computed here from the classifier's log-probabilities by
NumPy, and shares no code with the target.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradgen import load_bundle, sample

pytestmark = pytest.mark.slow

NUM_EXACT, NUM_CHAINS = 200, 128
ALPHA = 1e-4  # of each of 3 x 5 comparisons: a wrong alarm has probability 0.15 %


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("tiny64")


def exact_draws(bundle, likelihood, most, classes):
    """(NUM_EXACT, code) draws from the posterior.

    likelihood: of probabilities (n, len(classes)) -> (n,), at most ``most``.
    """
    index = [bundle.labels.find(name).index for name in classes]
    networks = jax.jit(lambda generator, classifier, z: bundle.classifier.apply(
        classifier, bundle.generator.apply(generator, z))[:, jnp.array(index)])  # fmt: skip
    rng, kept = np.random.default_rng(0), []
    while sum(map(len, kept)) < NUM_EXACT:
        z = rng.normal(size=(512, bundle.code_size)).astype(np.float32)
        log_p = networks(bundle.generator.params, bundle.classifier.params, jnp.asarray(z))
        value = likelihood(np.exp(np.asarray(log_p, np.float64)))
        assert value.max() <= most
        kept.append(z[rng.random(len(z)) < value / most])
    return np.concatenate(kept)[:NUM_EXACT]


@pytest.mark.parametrize(
    ("asked", "classes", "likelihood", "most"),
    [
        ("goldfish | lemon", ["goldfish", "lemon"], lambda p: p.sum(1), 1.0),
        ("lemon & !orange", ["lemon", "orange"], lambda p: p[:, 0] * (1 - p[:, 1]), 1.0),
        ("seashore & lakeside", ["seashore", "lakeside"], lambda p: p.prod(1), 0.25),
    ],
)
def test_composed_classes_are_sampled_exactly(bundle, asked, classes, likelihood, most):
    draws = exact_draws(bundle, likelihood, most, classes)
    samples = sample(
        bundle, asked, "hmc", num_chains=NUM_CHAINS, chain_group=NUM_CHAINS, budget=240, seed=9,
        likelihood_weight=1.0, step_size=0.2, num_integration_steps=8, clip=False,
        start_candidates=1,  # the chains have to find the posterior themselves
    )  # fmt: skip
    assert 0.3 < samples.record.classes[0].acceptance < 0.99
    directions = np.stack(
        [bundle.code_statistics.class_mean[bundle.labels.find(name).index] for name in classes]
        + list(np.random.default_rng(0).normal(size=(2, bundle.code_size)))
    )
    for found, expected in zip(
        (np.square(samples.codes).sum(1), *(samples.codes @ directions.T).T),
        (np.square(draws).sum(1), *(draws @ directions.T).T),
        strict=True,
    ):
        assert stats.ks_2samp(found, expected).pvalue > ALPHA
