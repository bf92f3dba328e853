"""Tests long chains on the real posterior against exact draws from it.

Rejection sampling is exact: z ~ N(0, I) is kept with probability p(class | g(z)), which is at
most 1. The kept draws are an independent sample of p(z | class) that shares no code with the
kernels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gradgen.inference import SamplerSettings, run_chains
from gradgen.networks.load import load_bundle
from gradgen.runs.target import make_target

pytestmark = pytest.mark.slow

NUM_EXACT = 300
NUM_CHAINS = 256
# Two classes x two methods x six statistics: a wrong alarm in one run of all of them has
# probability 24 x ALPHA = 0.24 %.
ALPHA = 1e-4


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("tiny64")


def exact_draws(bundle, class_index, count):
    """(count, code) draws from p(z | class) by rejection from the prior."""
    target = make_target(bundle)
    log_likelihood = jax.jit(lambda params, z: target.log_density(params, class_index, z)[1])
    rng = np.random.default_rng(class_index)
    kept = []
    while sum(map(len, kept)) < count:
        z = rng.normal(size=(1024, bundle.code_size)).astype(np.float32)
        probability = np.exp(log_likelihood(target.params, jnp.asarray(z)))
        kept.append(z[rng.random(1024) < probability])
    return np.concatenate(kept)[:count]


def statistics_of(bundle, class_index, z):
    """Six numbers a draw: log-likelihood, the norm, and four projections of the code.

    The first projection is on the class's mean code, where posterior and prior differ most.
    """
    target = make_target(bundle)
    log_likelihood = jax.jit(target.log_density)(target.params, class_index, jnp.asarray(z))[1]
    mean = bundle.code_statistics.class_mean[class_index]
    random = np.random.default_rng(0).normal(size=(3, bundle.code_size))
    directions = np.stack([mean, *random])
    return {
        "log_likelihood": np.asarray(log_likelihood),
        "squared_norm": np.sum(np.square(z, dtype=np.float64), axis=1),
        **{f"projection_{i}": z @ direction for i, direction in enumerate(directions)},
    }


@pytest.fixture(scope="module", params=["beacon", "goldfish"])
def exact(request, bundle):
    class_index = bundle.classifier.labels.find(request.param).index
    return class_index, exact_draws(bundle, class_index, NUM_EXACT)


@pytest.mark.parametrize("method", ["mala", "hmc"])
def test_chain_ends_are_draws_from_the_exact_posterior(bundle, exact, method):
    """The ends of independent chains are independent of each other, so that the
    Kolmogorov-Smirnov test's error rate is what it says."""
    class_index, draws = exact
    target = make_target(bundle)

    def value_and_grad(params, z):
        return target.value_and_grad(params, class_index, z)

    settings = SamplerSettings(
        method=method,
        budget=240,
        step_size=0.12 if method == "mala" else 0.2,
    )
    key = jax.random.fold_in(jax.random.key(7), class_index)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(NUM_CHAINS))
    z0 = jax.random.normal(jax.random.fold_in(key, 10**6), (NUM_CHAINS, bundle.code_size))
    result = run_chains(keys, z0, value_and_grad, target.params, settings)
    assert 0.3 < result.acceptance_rate.mean() < 0.99

    found = statistics_of(bundle, class_index, np.asarray(result.state.position))
    expected = statistics_of(bundle, class_index, draws)
    p_values = {name: stats.ks_2samp(found[name], expected[name]).pvalue for name in expected}
    assert min(p_values.values()) > ALPHA, p_values


def test_the_comparison_tells_the_posterior_from_the_prior(bundle, exact):
    """What the test above could not see would prove nothing."""
    class_index, draws = exact
    prior = np.random.default_rng(5).normal(size=(NUM_CHAINS, bundle.code_size))
    found = statistics_of(bundle, class_index, prior.astype(np.float32))
    expected = statistics_of(bundle, class_index, draws)
    for name in ("log_likelihood", "projection_0"):
        assert stats.ks_2samp(found[name], expected[name]).pvalue < ALPHA
