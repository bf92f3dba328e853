"""Realism as evidence, against closed forms, numerical integration and exact draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gradgen import compare, load_bundle, sample
from gradgen.cli.app import main
from gradgen.errors import GradgenError, UsageError
from gradgen.evidence.classes import compose
from gradgen.evidence.expression import Class
from gradgen.evidence.photograph import Photograph
from gradgen.evidence.realism import log_odds
from gradgen.evidence.unit import WantedUnit, find_unit
from gradgen.runs.settings import make_settings
from gradgen.runs.target import make_target
from tests.own_networks import SIDE, integrated, moments, plane, probabilities

CHAINS = 500
SIGMAS = 4.5  # as in tests/networks/test_own.py
SLOPE = np.array([0.8, -0.5])


def log_real(params, images):
    """A discriminator whose log-odds are linear in the code: SLOPE @ z - 1."""
    code = images.mean(axis=(1, 2))[:, :2] / 0.1
    return jax.nn.log_sigmoid(code @ params - 1.0)


@pytest.fixture(scope="module")
def bundle():
    return plane(
        discriminator=log_real,
        discriminator_params=jnp.asarray(SLOPE, jnp.float32),
        layers=lambda params, images: {"squares": images**2},
    )


def test_log_odds_are_the_logit_however_sure_the_discriminator():
    value = jnp.float32([-80.0, -20.0, -1.0, 0.0, 1.0, 20.0, 80.0])
    again = jax.vmap(jax.value_and_grad(lambda d: log_odds(jax.nn.log_sigmoid(d))))
    odds, slope = jax.jit(again)(value)
    # a unit in the last place of log p, which near zero is -log 2, is 6e-8
    np.testing.assert_allclose(odds, value, rtol=1e-6, atol=5e-7)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-5)


@pytest.mark.parametrize(("method", "budget"), [("hmc", 240), ("mala", 300)])
def test_without_a_class_the_posterior_is_a_shifted_normal(bundle, method, budget):
    """p(z) exp(γ w'z) is N(γ w, I)."""
    more = {"num_integration_steps": 5} if method == "hmc" else {}
    drawn = sample(bundle, "alpha", method, likelihood_weight=0.0, realism=1.5, clip=False,
                   num_chains=CHAINS, chain_group=CHAINS, budget=budget, step_size=0.3,
                   **more)  # fmt: skip
    gap = np.abs(drawn.codes.mean(0) - 1.5 * SLOPE)
    np.testing.assert_array_less(gap, SIGMAS / np.sqrt(CHAINS))
    # of a normal's covariance: variance 2 / n on the diagonal, 1 / n beside it
    spread = np.sqrt((np.eye(2) + 1) / CHAINS)
    np.testing.assert_array_less(np.abs(np.cov(drawn.codes.T) - np.eye(2)), SIGMAS * spread)


def test_it_goes_with_a_class_and_the_density_is_the_targets(bundle):
    drawn = sample(bundle, "beta", "hmc", likelihood_weight=2.0, realism=0.7, clip=False,
                   num_chains=CHAINS, chain_group=CHAINS, budget=240, step_size=0.3,
                   num_integration_steps=5)  # fmt: skip

    def density(z):
        return probabilities(z)[:, 1] ** 2 * np.exp(0.7 * z @ SLOPE - 0.5 * (z**2).sum(1))

    expected, deviation = integrated(density)
    gap = np.abs(moments(drawn.codes) - expected)
    np.testing.assert_array_less(gap, SIGMAS * deviation / np.sqrt(CHAINS))
    z = drawn.codes.astype(np.float64)
    log_p = np.log(probabilities(z)[:, 1])
    whole = 2 * log_p + 0.7 * (z @ SLOPE - 1) + stats.norm.logpdf(z).sum(1)
    np.testing.assert_allclose(drawn.log_density, whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(drawn.traces.log_density[:, -1], whole, rtol=1e-4, atol=1e-4)
    # what is reported of the class is of the class alone
    np.testing.assert_allclose(drawn.log_likelihood, log_p, rtol=1e-4, atol=1e-4)


def test_map_climbs_to_the_mode(bundle):
    drawn = sample(bundle, "alpha", "map", likelihood_weight=0.0, realism=2.0, num_chains=1,
                   budget=200, step_size=0.2, clip=False)  # fmt: skip
    np.testing.assert_allclose(drawn.codes[0], 2 * SLOPE, atol=1e-4)


@pytest.mark.parametrize("kind", ["class", "composed", "photograph", "unit"])
def test_it_is_added_to_whatever_else_is_asked_for(bundle, kind):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    asked, more = jnp.int32(1), {}
    if kind == "composed":
        made = compose(Class("0") & ~Class("2"), int, 3)
        asked, more = made.asked, {"form": made.form}
        asked = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 3), asked)
    elif kind == "photograph":
        pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
        more = {"seen": Photograph(pixels, np.ones((SIDE, SIDE), bool), 0.1, 1)}
    elif kind == "unit":
        unit = find_unit("squares:0", bundle.classifier)
        more = {"wanted": WantedUnit(unit, 0.1, 0.1)}
    plain, real = (make_target(bundle, realism_weight=weight, **more) for weight in (0.0, 1.7))
    before, after = (jax.jit(one.value_and_grad)(one.params, asked, z) for one in (plain, real))
    np.testing.assert_allclose(
        after.log_density - before.log_density, 1.7 * (z @ SLOPE - 1), rtol=1e-4, atol=1e-4
    )
    gain = np.tile(1.7 * SLOPE, (3, 1))
    np.testing.assert_allclose(after.gradient - before.gradient, gain, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(after.log_likelihood, before.log_likelihood, rtol=1e-6)


def test_a_coarse_gradient_has_it_too(bundle):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    plain, real = (make_target(bundle, realism_weight=weight) for weight in (0.0, 1.7))
    less, coarse = (
        jax.jit(partial(one.mixed_value_and_grad, "bfloat16"))(one.params, 1, z)
        for one in (plain, real)
    )
    gain = 1.7 * (z @ SLOPE - 1)
    np.testing.assert_allclose(coarse.log_density - less.log_density, gain, rtol=1e-4, atol=1e-4)
    # of 8 bits of each of the few numbers on the way
    np.testing.assert_allclose(
        coarse.gradient - less.gradient, np.tile(1.7 * SLOPE, (3, 1)), rtol=0.05
    )


def test_without_realism_the_program_is_the_same_and_no_discriminator_is_looked_for(bundle):
    z = jnp.zeros((2, 2))
    programs = []
    for own in (bundle, plane(layers=lambda params, images: {"squares": images**2})):
        target = make_target(own, realism_weight=0.0)
        assert set(target.params) == {"generator", "classifier", "likelihood_weight"}
        programs.append(str(jax.make_jaxpr(target.value_and_grad)(target.params, 1, z)))
    assert programs[0] == programs[1] and "log1p" not in programs[0]


def test_the_record_and_the_recipe_hold_it_and_nothing_of_it_without(bundle):
    some = {"num_chains": 1, "budget": 2, "step_size": 0.1, "num_integration_steps": 1}
    drawn = sample(bundle, "beta", realism=0.5, **some)
    record, recipe = drawn.record.to_json(), drawn.recipe(0).to_json()
    assert record["settings"]["realism"] == recipe["settings"]["realism"] == 0.5
    of_critic = {"name": "plane/discriminator", "sha256": bundle.discriminator.sha256}
    assert record["bundle"]["discriminator"] == recipe["weights"]["discriminator"] == of_critic
    plain = sample(bundle, "beta", **some)
    for written in (plain.record.to_json(), plain.recipe(0).to_json()):
        assert "realism" not in str(written) and "discriminator" not in str(written)


def test_what_makes_no_sense_is_one_line(bundle):
    with pytest.raises(UsageError, match="plane has no discriminator; add `discriminator`"):
        sample(plane(), "beta", realism=1.0, num_chains=1, budget=2)
    with pytest.raises(UsageError, match="`realism` -1.0: must be a number of at least 0"):
        sample(bundle, "beta", realism=-1.0)
    with pytest.raises(UsageError, match="climbs a logit, not a density"):
        make_settings({"classes": "beta", "preset": "dgn-am", "realism": 1.0})
    sure = plane(discriminator=lambda images: jnp.zeros(len(images)))
    with pytest.raises(GradgenError, match="a certainty, whose log-odds are infinite"):
        sample(sure, "beta", realism=1.0, num_chains=1, budget=2)


@pytest.mark.slow
def test_a_run_says_so_replays_and_is_not_judged_by_itself(tmp_path, capsys):
    folder = tmp_path / "run"
    given = ["--class", "pizza", "--method", "mala", "--num-chains", "2", "--budget", "8"]
    assert main(["sample", *given, "--realism", "0.5", "--out", str(folder)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "γ = 0.5 by ten64/discriminator, whose score" in said
    picture = str(folder / "pizza-01.png")
    again = ["sample", "--recipe", picture, "--check", "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert main(["score", str(folder / "pizza-00.png"), picture]) == 0
    assert "no independent verdict" in " ".join(capsys.readouterr().err.split())
    assert "no independent verdict" in compare([folder])[0].notes[0]


@pytest.mark.slow
def test_chains_on_the_real_networks_end_at_exact_draws():
    """Exact draws by rejection: z ~ N(0, I) is kept with probability p^β exp(γ (d - D)), where no
    d is above D. Computed by NumPy from the networks' outputs, it shares no code with the target.
    """
    bundle, (beta, gamma) = load_bundle("tiny64"), (0.3, 1.0)
    index = bundle.labels.find("goldfish").index

    @jax.jit
    def networks(generator, classifier, critic, z):
        images = bundle.generator.apply(generator, z)
        log_p = bundle.classifier.apply(classifier, images)[:, index]
        return log_p, bundle.discriminator.apply(critic, images)

    params = (bundle.generator.params, bundle.classifier.params, bundle.discriminator.params)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(8192, bundle.code_size)).astype(np.float32)
    found = [networks(*params, jnp.asarray(part)) for part in z.reshape(16, 512, -1)]
    log_p, log_r = (np.concatenate(parts).astype(np.float64) for parts in zip(*found, strict=True))
    weight = beta * log_p + gamma * special.logit(np.exp(log_r))
    # the largest of all is no bound of what other draws would give, but of these it is one
    draws = z[np.log(rng.random(len(z))) < weight - weight.max()]
    assert len(draws) > 100

    drawn = sample(
        bundle, "goldfish", "hmc", num_chains=128, chain_group=128, budget=240, seed=4,
        likelihood_weight=beta, realism=gamma, step_size=0.2, num_integration_steps=8, clip=False,
    )  # fmt: skip
    assert 0.3 < drawn.record.classes[0].acceptance < 0.99
    # along the direction in which exact draws differ most from the prior, and along others
    shift = draws.mean(0)
    directions = np.stack([shift, *np.random.default_rng(1).normal(size=(3, len(shift)))])
    for mine, exact in zip(
        (np.square(drawn.codes).sum(1), *(drawn.codes @ directions.T).T),
        (np.square(draws).sum(1), *(draws @ directions.T).T),
        strict=True,
    ):
        assert stats.ks_2samp(mine, exact).pvalue > 1e-4  # of each of five: 0.05 % in all
