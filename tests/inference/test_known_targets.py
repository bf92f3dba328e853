"""Tests chains on targets whose distribution is known in closed form.

Each test looks at the last draws of many independent chains that started in different places. So
the draws are independent, and the error rates of the tests hold exactly, without thinning that may
be too short. Step sizes are so large that without a right accept step the bias would be many times
what the tests can detect. A test fails by chance with probability ALPHA per statistic. The file
looks at less than 100 statistics, so a wrong alarm anywhere has probability below 1 %. Seeds are
fixed.
"""

import jax
import numpy as np
import pytest
from scipy import stats

from gradgen.inference import Evaluation
from gradgen.networks.prior import STANDARD_NORMAL
from tests import targets

ALPHA = 1e-4
NUM_CHAINS = 4000
METHODS = {
    "mala": {"method": "mala", "budget": 300, "step_size": 0.5},
    "annealed mala": {
        "method": "mala",
        "budget": 600,
        "step_size": 0.4,
        "step_decay": 0.1,
        "noise_scale": 0.8,
        "noise_decay": 0.05,
    },
    # without jitter, a length at which no direction of the Gaussian just changes its sign
    "hmc": {"method": "hmc", "budget": 200, "step_size": 0.8, "num_integration_steps": 2},
    "jittered hmc": {
        "method": "hmc",
        "budget": 160,
        "step_size": 1.0,
        "num_integration_steps": 4,
        "step_jitter": 0.4,
        "step_decay": 0.03,
    },
    "trajectories": {"method": "hmc", "budget": 160, "step_size": 0.9, "trajectory_length": 2.0},
}


def assert_standard_normal(draws):
    """draws (n, d): Kolmogorov-Smirnov for each unit; mean and covariance by their chi-squares."""
    draws = np.asarray(draws, np.float64)
    n, d = draws.shape
    p_values = [stats.kstest(draws[:, unit], "norm").pvalue for unit in range(d)]
    # n |mean|^2 is chi-square with d degrees of freedom, exactly
    p_values.append(stats.chi2.sf(n * np.sum(draws.mean(0) ** 2), d))
    # sqrt(n) (S - I) has independent entries of variance 2 on and 1 off the diagonal for large n
    gap = draws.T @ draws / n - np.eye(d)
    off_diagonal = gap[np.triu_indices(d, 1)]
    statistic = n * (np.sum(np.diag(gap) ** 2) / 2 + np.sum(off_diagonal**2))
    p_values.append(stats.chi2.sf(statistic, d * (d + 1) / 2))
    assert min(p_values) > ALPHA, p_values


@pytest.mark.parametrize("name", METHODS)
def test_gaussian_with_covariance(name):
    result = targets.run(targets.gaussian, 3, NUM_CHAINS, **METHODS[name])
    assert 0.3 < result.acceptance_rate.mean() < 0.95  # the accept step has something to correct
    root = np.linalg.cholesky(targets.COVARIANCE)
    gap = np.asarray(result.state.position, np.float64) - targets.MEAN
    assert_standard_normal(np.linalg.solve(root, gap.T).T)


@pytest.mark.parametrize(
    ("width", "given"),
    [
        (2.0, {"method": "hmc", "step_size": 0.035, "budget": 1100}),
        (1.0, {"method": "hmc", "step_size": 0.04, "num_integration_steps": 8, "budget": 480}),
        (1.0, {"method": "mala", "step_size": 0.0012, "budget": 300}),
        (1.0, {"method": "hmc", "step_size": 0.035, "budget": 900, "replicas": 3}),
    ],
    ids=["trajectories", "hmc", "mala", "replicas"],
)
def test_a_gaussian_of_condition_number_1000(width, given):
    """Eight directions with variances from 0.001 to 1, turned at random. A trajectory takes some
    fifty steps; after twenty of them nothing is left of a start twice as wide. The others are too
    slow for that: they start at draws from the target, and have to stay such draws. What a wrong
    accept step does shows in the narrow directions, where they move by their whole width."""
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(8, 8)))[0]
    root = rotation * np.sqrt(np.logspace(-3, 0, 8))
    precision = np.linalg.inv(root @ root.T)

    def value_and_grad(params, z):
        pull = z @ jax.numpy.asarray(precision, np.float32)
        log_density = -0.5 * jax.numpy.sum(pull * z, axis=-1)
        return Evaluation(log_density, -pull, log_density)

    normal = np.random.default_rng(5).normal(size=(NUM_CHAINS, 8))
    result = targets.run(
        value_and_grad, 8, NUM_CHAINS, z0=width * normal @ root.T, prior=STANDARD_NORMAL,
        trace_length=20, block_size=1100, **given,
    )  # fmt: skip
    assert 0.3 < result.acceptance_rate.mean() < 0.95
    draws = np.asarray(result.state.position, np.float64)
    end = np.linalg.solve(root, draws.T).T
    assert_standard_normal(end)
    # the squared distance of independent draws is 2 a unit; the start twice as wide is farther off
    assert np.mean((end[:, 0] - normal[:, 0]) ** 2) > 1.5


@pytest.mark.parametrize("name", METHODS)
def test_banana(name):
    """Draws from the target stay draws from the target, however slowly the chains mix in its arms
    (where MALA's gradients explode and a chain that starts there may wait for long)."""
    normal = np.random.default_rng(8).normal(size=(NUM_CHAINS, 2))
    z0 = targets.banana_from_normal(normal)
    given = METHODS[name] | {"step_size": METHODS[name]["step_size"] * 0.6}
    result = targets.run(targets.banana, 2, NUM_CHAINS, z0=z0, **given)
    assert 0.3 < result.acceptance_rate.mean() < 0.97
    end = targets.banana_to_normal(np.asarray(result.state.position))
    assert_standard_normal(end)
    # and they have moved: the squared distance of independent draws is 2 a unit
    assert np.mean((end[:, 0] - normal[:, 0]) ** 2) > 1


@pytest.mark.parametrize("name", METHODS)
def test_truncated_gaussian(name):
    """Clip mode "reject" samples the target cut off at the box, for which SciPy has the answer."""
    lower, upper = np.array([-0.4, 0.2, -2.0]), np.array([1.0, 3.0, 0.1])
    # half the step and four times the steps: most of what leaves the box is rejected
    given = METHODS[name] | {
        "budget": 4 * METHODS[name]["budget"],
        "step_size": METHODS[name]["step_size"] / 2,
        "clip_mode": "reject",
    }
    if "trajectory_length" in given:  # longer trajectories hardly ever end in so small a box
        given["trajectory_length"] = 0.4
    result = targets.run(targets.independent, 3, NUM_CHAINS, (lower, upper), **given)
    draws = np.asarray(result.state.position, np.float64)
    assert (draws >= lower - 1e-6).all() and (draws <= upper + 1e-6).all()
    for unit, scale in enumerate(targets.SCALES):
        exact = stats.truncnorm(lower[unit] / scale, upper[unit] / scale, scale=scale)
        p_value = stats.kstest(draws[:, unit], exact.cdf).pvalue
        assert p_value > ALPHA, (unit, p_value)


def test_projecting_onto_the_box_is_not_the_truncated_target():
    """The paper's heuristic: the same test as above sees that it samples something else."""
    lower, upper = np.array([-0.4, 0.2, -2.0]), np.array([1.0, 3.0, 0.1])
    result = targets.run(
        targets.independent, 3, NUM_CHAINS, (lower, upper), clip_mode="project", **METHODS["mala"]
    )
    draws = np.asarray(result.state.position, np.float64)
    assert (draws >= lower - 1e-6).all() and (draws <= upper + 1e-6).all()
    scale = targets.SCALES[0]
    exact = stats.truncnorm(lower[0] / scale, upper[0] / scale, scale=scale)
    assert stats.kstest(draws[:, 0], exact.cdf).pvalue < ALPHA
    assert np.mean(np.isclose(draws[:, 0], upper[0])) > 0.01  # a pile on the wall


@pytest.mark.parametrize("name", ["mala", "jittered hmc"])
def test_a_coarse_gradient_does_not_change_what_is_sampled(name):
    """The gradient may be any function of the position, such as one in low precision: the accept
    step, with the exact density, sees to the rest. Here it has 4 bits and is 30 % short."""

    def coarse(params, z):
        exact = targets.gaussian(params, z)
        rounded = jax.lax.reduce_precision(0.7 * exact.gradient, exponent_bits=8, mantissa_bits=3)
        return exact._replace(gradient=rounded)

    result = targets.run(coarse, 3, NUM_CHAINS, **METHODS[name])
    fine = targets.run(targets.gaussian, 3, NUM_CHAINS, **METHODS[name])
    assert result.acceptance_rate.mean() < fine.acceptance_rate.mean()  # what it costs
    root = np.linalg.cholesky(targets.COVARIANCE)
    gap = np.asarray(result.state.position, np.float64) - targets.MEAN
    assert_standard_normal(np.linalg.solve(root, gap.T).T)


@pytest.mark.parametrize("method", ["mala", "hmc"])
def test_steps_after_a_warm_up_sample_the_target(method):
    given = METHODS[method] | {"step_size": None, "budget": 800}
    result = targets.run(targets.gaussian, 3, NUM_CHAINS, **given)
    root = np.linalg.cholesky(targets.COVARIANCE)
    gap = np.asarray(result.state.position, np.float64) - targets.MEAN
    assert_standard_normal(np.linalg.solve(root, gap.T).T)


@pytest.mark.parametrize("method", ["mala", "hmc"])
def test_a_region_without_a_density_is_never_entered(method):
    """NaN (a network's overflow, say) is a rejection; what is sampled is the rest of the target."""

    def log_density(z):
        import jax.numpy as jnp

        return jnp.where(z[0] > 0.5, jnp.nan, -0.5 * jnp.sum(z**2))

    z0 = np.random.default_rng(3).normal(size=(NUM_CHAINS, 2)) * 0.1
    result = targets.run(targets.batched(log_density), 2, NUM_CHAINS, z0=z0, **METHODS[method])
    draws = np.asarray(result.state.position, np.float64)
    assert np.isfinite(np.asarray(result.state.log_density)).all()
    assert stats.kstest(draws[:, 0], stats.truncnorm(-np.inf, 0.5).cdf).pvalue > ALPHA
    assert stats.kstest(draws[:, 1], "norm").pvalue > ALPHA


def test_thinned_draws_of_one_long_chain():
    """What a user does: one chain, its trace. Thinned until neighbours are independent for all
    that n = 1000 could tell: at lag 20 this chain's autocorrelation is below 0.001."""
    result = targets.run(
        targets.gaussian,
        3,
        1,
        method="hmc",
        step_size=0.9,
        num_integration_steps=2,
        step_jitter=0.5,
        budget=2 * 20 * 1050,
        trace_length=1050,
    )
    # the last points; the chain started three standard deviations away
    projections = result.traces.projections[0, 50:]
    from gradgen.inference.chain import projection_vectors

    vectors = np.asarray(projection_vectors(4, 3), np.float64)
    for index in range(4):
        vector = vectors[:, index]
        scale = np.sqrt(vector @ targets.COVARIANCE @ vector)
        exact = stats.norm(vector @ targets.MEAN, scale)
        p_value = stats.kstest(projections[:, index], exact.cdf).pvalue
        assert p_value > ALPHA, (index, p_value)
