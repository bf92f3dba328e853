"""Densities that are no finite numbers: one line that names network and class, or a warning."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradgen import sample
from gradgen.errors import GradgenError, GradgenWarning
from tests.faults.tiny import make_bundle

FEW = {"budget": 6, "num_chains": 3, "seed": 1}


@pytest.mark.parametrize("method", ["map", "mala", "hmc"])
def test_a_generator_with_a_nan_ends_the_run_and_is_named(method):
    more = {"num_integration_steps": 2} if method == "hmc" else {}
    clip = False if method == "map" else None
    with pytest.raises(GradgenError) as caught:
        sample(make_bundle(generator=np.nan), "green", method, clip=clip, **FEW, **more)
    assert str(caught.value) == (
        "green: the log density of 3 of 3 chains is no finite number, so that they cannot move: "
        "the generator tiny/generator draws pictures with NaN or infinities in them"
    )


def test_a_classifier_with_an_infinity_ends_the_run_and_is_named():
    with pytest.raises(GradgenError, match="blue: .* the classifier tiny gives NaN or infinities"):
        sample(make_bundle(classifier=np.inf), "blue", "mala", **FEW)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_weight_of_the_likelihood_that_is_too_large_is_named():
    with pytest.raises(GradgenError, match=r"tiny give finite numbers.* for β = 1e\+39"):
        sample(make_bundle(), "blue", "mala", likelihood_weight=1e39, **FEW)


def test_some_chains_that_cannot_move_are_enough():
    """A classifier that knows no pictures with more green than red; a start of many candidates is
    one that it knows."""
    bundle = make_bundle()

    def narrow(params, images):
        red, green = images[..., 0].mean((1, 2)), images[..., 1].mean((1, 2))
        logits = bundle.classifier.logits(params, images)
        return jnp.where((green > red)[:, None], jnp.nan, logits - 1.0)

    object.__setattr__(bundle.classifier, "apply", narrow)
    with pytest.raises(GradgenError, match=r"red: the log density of [1-7] of 8 chains"):
        sample(bundle, "red", "mala", **(FEW | {"num_chains": 8, "start_candidates": 1}))
    sample(bundle, "red", "mala", **(FEW | {"num_chains": 8, "step_size": 1e-3}))


def test_proposals_that_mostly_have_no_density_end_the_run():
    """A density that is a number only where pictures are grey, which those at the start are."""
    bundle = make_bundle(generator=0.05)

    def here(params, images):
        lit = jnp.abs(images).max((1, 2, 3)) > 0.3
        return jnp.where(lit[:, None], jnp.nan, jax.nn.log_softmax(params * images.mean((1, 2))))

    object.__setattr__(bundle.classifier, "apply", here)
    given = FEW | {"budget": 60, "num_chains": 2, "step_size": 30.0, "seed": 0}
    with pytest.raises(GradgenError, match=r"red: the density of \d+ of \d+ proposals is not a"):
        sample(bundle, "red", "mala", **given)


def test_map_whose_steps_lead_to_infinity_is_a_warning_that_names_the_class():
    with pytest.warns(GradgenWarning, match="green: chains stay where they are") as found:
        sample(make_bundle(), "green", "map", clip=False, step_size=1e30, **FEW)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(make_bundle(), "green", "map", clip=False, **FEW)
