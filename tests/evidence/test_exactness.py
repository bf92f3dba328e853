"""Composed classes on the real networks against exact draws from their posterior.

Rejection sampling is exact: z ~ N(0, I) is kept with probability L(z) / M, where the likelihood L
of the composition is never above M. It is computed here from the classifier's log-probabilities by
NumPy, and shares no code with the target.
"""

import jax
import numpy as np
import pytest
from scipy import stats

from gradgen import load_bundle, sample

pytestmark = pytest.mark.slow

# Of 16384 draws each composition keeps between 100 and 400: the classes are such as the generator
# often draws, and the pair is one that it mixes up.
NUM_DRAWS, BATCH, NUM_CHAINS = 16384, 512, 64
ALPHA = 1e-4  # of each of 3 x 6 comparisons at most: a wrong alarm has probability 0.18 %


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("tiny64")


@pytest.fixture(scope="module")
def prior(bundle):
    """Draws (NUM_DRAWS, code) from the prior, and the probabilities of all classes there."""
    networks = jax.jit(
        lambda generator, classifier, z: bundle.classifier.apply(
            classifier, bundle.generator.apply(generator, z)
        )
    )
    z = np.random.default_rng(0).normal(size=(NUM_DRAWS, bundle.code_size)).astype(np.float32)
    log_p = [
        np.asarray(networks(bundle.generator.params, bundle.classifier.params, part), np.float64)
        for part in z.reshape(-1, BATCH, bundle.code_size)
    ]
    return z, np.exp(np.concatenate(log_p))


@pytest.mark.parametrize(
    ("asked", "classes", "likelihood", "most"),
    [
        ("cannon | birdhouse", ["cannon", "birdhouse"], lambda p: p.sum(1), 1.0),
        ("cannon & !tractor", ["cannon", "tractor"], lambda p: p[:, 0] * (1 - p[:, 1]), 1.0),
        (
            "tailed frog:0.5 & bullfrog:0.5", ["tailed frog", "bullfrog"],
            lambda p: np.sqrt(p.prod(1)), 0.5,
        ),
    ],
)  # fmt: skip
def test_composed_classes_are_sampled_exactly(bundle, prior, asked, classes, likelihood, most):
    z, p = prior
    indices = [bundle.labels.find(name).index for name in classes]
    value = likelihood(p[:, indices])
    assert value.max() <= most
    kept = np.random.default_rng(1).random(len(z)) < value / most
    draws = z[kept]
    assert len(draws) >= 100
    samples = sample(
        bundle, asked, "hmc", num_chains=NUM_CHAINS, chain_group=NUM_CHAINS, budget=240, seed=9,
        likelihood_weight=1.0, step_size=0.2, num_integration_steps=8, clip=False,
        start_candidates=1,  # the chains have to find the posterior themselves
    )  # fmt: skip
    assert 0.3 < samples.record.classes[0].acceptance < 0.99
    directions = np.stack(
        [bundle.code_statistics.class_mean[index] for index in indices]
        + list(np.random.default_rng(0).normal(size=(2, bundle.code_size)))
    )
    log_value = np.log(value)
    for found, expected in zip(
        (
            samples.log_likelihood,
            np.square(samples.codes).sum(1),
            *(samples.codes @ directions.T).T,
        ),
        (log_value[kept], np.square(draws).sum(1), *(draws @ directions.T).T),
        strict=True,
    ):
        assert stats.ks_2samp(found, expected).pvalue > ALPHA
    # the prior's draws, on the other hand, are told apart by their likelihood
    assert stats.ks_2samp(samples.log_likelihood, log_value).pvalue < ALPHA
