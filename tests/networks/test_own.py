"""Bundles of a user's own functions: the posterior against numerical integration, clear errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gradgen import Bundle, Class, sample, score, stats
from gradgen.errors import GradgenError, UsageError
from tests.own_networks import KERNEL, SIDE, classify, integrated, moments, plane, probabilities

CHAINS = 600
# 5 quantities of 6 posteriors: a wrong alarm has probability 30 * 2 * Φ(-4.5) = 2e-4.
SIGMAS = 4.5
LONG = {"num_chains": CHAINS, "chain_group": CHAINS, "seed": 5, "num_integration_steps": 4}


@pytest.fixture(scope="module")
def bundle():
    return plane()


def draws(bundle, asked, method, **more):
    step_size = 0.5 if method == "mala" else 0.4
    # the chains have to find the posterior themselves
    given = {**LONG, "budget": 200, "step_size": step_size, "start_candidates": 1, **more}
    if method == "mala":
        del given["num_integration_steps"]
    samples = sample(bundle, asked, method, clip=False, **given)
    assert 0.3 < samples.record.classes[0].acceptance < 0.999
    return samples


def assert_same_moments(codes, weight, **grid):
    expected, deviation = integrated(weight, **grid)
    error = deviation / np.sqrt(len(codes))
    np.testing.assert_array_less(np.abs(moments(codes) - expected), SIGMAS * error)


def normal(z):
    return np.exp(-0.5 * (z**2).sum(1))


@pytest.mark.parametrize(
    ("asked", "method", "likelihood"),
    [
        ("alpha", "hmc", lambda p: p[:, 0]),
        ("beta & !alpha", "mala", lambda p: p[:, 1] * (1 - p[:, 0])),
        ((~(Class("alpha") & "beta")) ** 3, "hmc", lambda p: (1 - p[:, 0] * p[:, 1]) ** 3),
        ("alpha:2 | beta & ray", "mala", lambda p: p[:, 0] ** 2 + p[:, 1] * p[:, 2]),
    ],
)
def test_samples_have_the_moments_of_numerical_integration(bundle, asked, method, likelihood):
    codes = draws(bundle, asked, method).codes
    assert_same_moments(codes, lambda z: likelihood(probabilities(z)) * normal(z))


def test_the_comparison_tells_a_class_from_another(bundle):
    codes = draws(bundle, "alpha", "hmc").codes
    with pytest.raises(AssertionError):
        assert_same_moments(codes, lambda z: probabilities(z)[:, 1] * normal(z))


def inside_cube(z):
    return jnp.where(jnp.all(jnp.abs(z) <= 1.5, axis=-1), 0.0, -jnp.inf)


def test_a_uniform_prior_on_a_square_is_never_left():
    own = plane(
        log_prior=inside_cube,
        sample_prior=lambda key: jax.random.uniform(key, (2,), minval=-1.5, maxval=1.5),
    )
    samples = draws(own, "alpha", "mala", step_size=0.3, likelihood_weight=2.0)
    assert np.abs(samples.codes).max() <= 1.5
    assert_same_moments(samples.codes, lambda z: probabilities(z)[:, 0] ** 2, reach=1.5, points=801)
    # MAP climbs to the corner of the square and stays in it
    best = sample(own, "alpha", "map", num_chains=2, budget=300, step_size=0.05)
    assert np.abs(best.codes).max() <= 1.5
    assert best.codes[:, 0].min() > 1.45


def test_a_truncated_normal_prior_is_sampled_exactly():
    own = plane(
        log_prior=lambda z: inside_cube(z) - 0.5 * jnp.sum(z * z, axis=-1),
        sample_prior=lambda key: jax.random.truncated_normal(key, -1.5, 1.5, (2,)),
    )
    codes = draws(own, "beta", "hmc").codes
    assert_same_moments(codes, lambda z: probabilities(z)[:, 1] * normal(z), reach=1.5, points=801)


def test_pictures_come_out_in_the_range_that_black_and_white_have(bundle):
    """The same networks in numbers from 0 to 255, and in grey."""
    plain = sample(bundle, "alpha", "map", num_chains=2, budget=5)
    scaled = plane(
        generator=lambda z: (jnp.broadcast_to(
            jnp.concatenate([z * 0.1, jnp.zeros((len(z), 1))], 1)[:, None, None],
            (len(z), SIDE, SIDE, 3)) + 1) * 127.5,
        classifier=lambda images: classify(KERNEL, images / 127.5 - 1),
        generator_params=None, classifier_params=None, value_range=(0, 255),
    )  # fmt: skip
    other = sample(scaled, "alpha", "map", num_chains=2, budget=5)
    np.testing.assert_allclose(plain.codes, other.codes, atol=1e-4)
    assert np.abs(plain.images.astype(int) - other.images).max() <= 1
    grey = plane(
        generator=lambda z: jnp.broadcast_to(z[:, 0, None, None, None], (len(z), SIDE, SIDE, 1)),
        classifier=lambda images: jnp.concatenate([images.mean((1, 2)), -images.mean((1, 2))], 1),
        generator_params=None, classifier_params=None, labels=["white", "black"],
        value_range=(0, 1),
    )  # fmt: skip
    drawn = sample(grey, "white", "map", num_chains=1, budget=60, likelihood_weight=9.0)
    assert drawn.images.shape == (1, SIDE, SIDE, 3)
    assert len(np.unique(drawn.images)) == 1 and drawn.images.min() > 127


def test_score_and_stats_take_the_networks_that_are_there(bundle, tmp_path):
    own = plane(
        encoder=lambda images: images.mean((1, 2))[:, :2] * 10,
        discriminator=lambda images: -jnp.abs(images).mean((1, 2, 3)),
    )
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    colours = pictures / 127.5 - 1
    found = score(list(pictures), own)
    np.testing.assert_allclose(
        [picture.log_probability for picture in found.images],
        -np.abs(colours).mean((1, 2, 3)), rtol=1e-5,
    )  # fmt: skip
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    measured = stats(own, images=tmp_path)
    np.testing.assert_allclose(measured.mean, colours.mean((1, 2))[:, :2].mean(0) * 10, atol=1e-5)
    by_samples = stats(
        bundle, "alpha", samples=sample(bundle, "alpha", "mala", num_chains=16, budget=400)
    )
    by_samples.save(tmp_path / "stats.npz")
    assert by_samples.record["encoder_sha256"] is None
    for call in (lambda: score(list(pictures), bundle), lambda: stats(bundle, images=tmp_path)):
        with pytest.raises(UsageError, match="plane has no"):
            call()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"code_size": 3}, "generator"),
        ({"image_size": 5}, r"\(1, 4, 4, 3\) where \(1, 5, 5, 3\)"),
        ({"labels": ["a", "b"]}, r"classifier gives .* a logit for each label"),
        ({"labels": "ab"}, "list of names"),
        ({"labels": ["a", " ", "c"]}, "empty name"),
        ({"value_range": (1, -1)}, "value_range"),
        ({"encoder": lambda images: images}, "a code for each picture"),
        ({"discriminator": lambda images: 1 / 0}, "ZeroDivisionError: division by zero"),
        ({"log_prior": lambda z: z[:, 0]}, "belong together"),
        ({"log_prior": lambda z: z, "sample_prior": lambda key: jnp.zeros(2)}, "a number for"),
        ({"log_prior": lambda z: z[:, 0], "sample_prior": lambda key: jnp.zeros(3)}, "single code"),
    ],
)
def test_functions_that_do_not_fit_are_one_clear_error(given, says):
    with pytest.raises(GradgenError, match=says):
        plane(**given)


def test_other_weights_have_another_hash_and_the_same_ones_the_same():
    def with_scale(scale):
        return plane(generator_params={"scale": jnp.float32(scale)}).generator.sha256

    assert with_scale(0.1) == with_scale(0.1) != with_scale(0.2)

    def closed_over(kernel):
        made = plane(classifier=lambda images: classify(kernel, images), classifier_params=None)
        return made.classifier.sha256

    assert closed_over(KERNEL) == closed_over(KERNEL.copy()) != closed_over(2 * KERNEL)


def test_bundle_from_functions_says_what_is_missing():
    with pytest.raises(TypeError, match="labels"):
        Bundle.from_functions(generator=None, classifier=None, code_size=1, image_size=1)
