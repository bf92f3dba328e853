"""Hidden units as evidence, against a closed form, numerical integration and a plain reading."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from gradgen import load_bundle, sample, units
from gradgen.cli.app import main
from gradgen.errors import GradgenError, UsageError
from gradgen.evidence.unit import activations, find_unit, wanted
from gradgen.runs.settings import make_settings
from gradgen.runs.target import make_target
from tests.own_networks import KERNEL, SIDE, integrated, moments, plane, probabilities

CHAINS = 500
SIGMAS = 4.5  # as in tests/networks/test_own.py


def layers(params, images):
    """A dense layer of the two numbers, and a layer with places: the picture's squares."""
    code = images.mean(axis=(1, 2))[:, :2] / 0.1
    return {"dense": code @ params, "squares": images**2, "dead": jnp.zeros((len(images), 1))}


@pytest.fixture(scope="module")
def bundle():
    return plane(layers=layers)


def test_a_dense_unit_gives_the_gaussian_posterior(bundle):
    """Linear in the code, so that mean and covariance are known."""
    drawn = sample(bundle, [], "hmc", unit="dense:2", unit_value=1.5, unit_noise=0.5, clip=False,
                   num_chains=CHAINS, chain_group=CHAINS, budget=240, step_size=0.2,
                   num_integration_steps=3, start_candidates=1)  # fmt: skip
    row = KERNEL[:, 2].astype(np.float64)
    covariance = np.linalg.inv(np.eye(2) + np.outer(row, row) / 0.25)
    mean = covariance @ row * 1.5 / 0.25
    error = np.sqrt(np.diag(covariance) / CHAINS)
    np.testing.assert_array_less(np.abs(drawn.codes.mean(0) - mean), SIGMAS * error)
    spread = np.sqrt((np.outer(*[np.diag(covariance)] * 2) + covariance**2) / CHAINS)
    np.testing.assert_array_less(np.abs(np.cov(drawn.codes.T) - covariance), SIGMAS * spread)


def test_a_channel_counts_by_its_mean_and_goes_with_a_class(bundle):
    drawn = sample(bundle, "beta", "mala", unit="squares:0", unit_value=0.03, unit_noise=0.01,
                   num_chains=CHAINS, chain_group=CHAINS, budget=300, step_size=0.1,
                   clip=False, start_candidates=1)  # fmt: skip

    def density(z):
        activation = (0.1 * z[:, 0]) ** 2
        likelihood = probabilities(z)[:, 1] * stats.norm.pdf(activation, 0.03, 0.01)
        return likelihood * np.exp(-0.5 * (z**2).sum(1))

    expected, deviation = integrated(density)
    error = deviation / np.sqrt(CHAINS)
    # the two signs of the first number are two modes: only what does not depend on it is compared
    gap = np.abs(moments(drawn.codes) - expected)[2:4]
    np.testing.assert_array_less(gap, SIGMAS * error[2:4])


def test_numbers_that_are_not_given_are_those_of_the_prior(bundle):
    found = wanted(find_unit("dense:1", bundle.classifier), bundle, bundle.classifier, None, None)
    deviation = np.linalg.norm(KERNEL[:, 1])  # of a linear function of N(0, I)
    # of the 99 % quantile of 512 draws: sqrt(0.01 * 0.99 / 512) / density there = 0.17
    assert abs(found.value / deviation - stats.norm.ppf(0.99)) < 4 * 0.17
    assert abs(found.noise / (deviation / 4) - 1) < 4 / np.sqrt(2 * 512)
    plan_settings = sample(
        bundle, [], "map", unit="dense:1", num_chains=1, budget=2
    ).record.settings
    assert (plan_settings.unit_value, plan_settings.unit_noise) == (found.value, found.noise)


def test_pictures_of_ones_own_give_the_numbers_too(bundle, tmp_path, capsys):
    rng = np.random.default_rng(7)
    z = rng.normal(size=(40, 2))
    files = []
    for number, (red, green) in enumerate(0.1 * z):  # as the generator of tests/own_networks.py
        pixel = np.clip(np.rint((np.array([red, green, 0]) + 1) * 127.5), 0, 255).astype(np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(np.broadcast_to(pixel, (SIDE, SIDE, 3)).copy()).save(files[-1])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = []
    found = activations(bundle, "dense", [*files, tmp_path / "broken.png"], on_progress=done.append)
    # a colour is rounded by at most 1/255, and the unit adds both, times 10 KERNEL
    near = 10 / 255 * np.abs(KERNEL).sum(0).max()
    np.testing.assert_allclose(found.values, z @ KERNEL, atol=near)
    assert done[-1] == 41 and "broken.png" in found.unreadable[0]
    high = found.wanted(1)
    seen = (z @ KERNEL)[:, 1]
    assert abs(high.value - np.quantile(seen, 0.99)) < near
    assert abs(high.noise - seen.std() / 4) < near
    with pytest.raises(UsageError, match="no layer 'depth'"):
        activations(bundle, "depth", files)
    with pytest.raises(GradgenError, match="1 of 1 pictures"):
        activations(bundle, "dense", files[:1])
    assert main(["stats", "--units", "fc7:3", "--images", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 40 and told["units"][0]["unit"] == "fc7:3"
    assert main(["stats", "--units", "fc7:3"]) == 2


def test_the_published_rule_climbs_a_unit(bundle):
    before = sample(bundle, [], preset="dgn-am", unit="dense:0", num_chains=2, budget=1, clip=False)
    after = sample(bundle, [], preset="dgn-am", unit="dense:0", num_chains=2, budget=30, clip=False)
    assert ((after.codes @ KERNEL)[:, 0] > (before.codes @ KERNEL)[:, 0] + 1).all()


def test_tiny64s_gradient_of_a_unit_agrees_with_central_differences_in_float64():
    tiny = load_bundle("tiny64")
    assert units(tiny)["conv4"] == (4, 4, 256) and units("tiny64")["fc7"] == (512,)
    with jax.enable_x64(True):
        unit = find_unit("conv4:17", tiny.classifier)
        target = make_target(tiny, wanted=wanted(unit, tiny, tiny.classifier, 1.0, 0.3))
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), target.params)
        z = jax.random.normal(jax.random.key(1), (2, tiny.code_size), jnp.float64)
        direction = jnp.asarray(np.random.default_rng(0).normal(size=z.shape))
        gradient = jax.jit(target.value_and_grad)(params, 3, z).gradient
        density = jax.jit(target.log_density)
        h = 1e-8  # as in tests/runs/test_target.py

        def along(t):
            return density(params, 3, z + t * direction)[0]

        difference = (along(h) - along(-h)) / (2 * h)
        np.testing.assert_allclose(jnp.sum(gradient * direction, 1), difference, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"unit": "dense"}, "write layer:number"),
        ({"unit": "depth:0"}, "its layers: dead, dense, squares"),
        ({"unit": "dense:3"}, "has the units 0…2, no 3"),
        ({"unit": "dead:0"}, "is 0 on all of 512 pictures"),
        ({"unit": "dense:0", "classifier": "lite0"}, "does not show its layers"),
    ],
)
def test_units_that_make_no_sense_are_one_line(bundle, given, says):
    with pytest.raises(UsageError, match=says):
        sample(bundle, [], num_chains=1, budget=10, **given)


@pytest.mark.parametrize(
    "given", [{"unit_value": 1.0}, {"unit_noise": 1.0}, {"unit": "a:1", "preset": "dgn-am"}]
)
def test_settings_of_units_that_do_not_go_together_are_refused(given):
    with pytest.raises(UsageError, match="unit"):
        make_settings({"classes": "beacon", **given})


def test_the_command_lists_the_layers(capsys):
    assert main(["units", "tiny64", "--json"]) == 0
    assert '"fc8"' in capsys.readouterr().out
