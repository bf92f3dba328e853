"""Tests shapes and cost of the embedded networks, and that images do not affect each other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.errors import GradgenError
from gradgen.files import file_sha256
from gradgen.models import tiny64
from gradgen.networks.load import load_bundle
from gradgen.weights.cards import read_card
from gradgen.weights.store import weights_dir


def multiply_adds(function, *arguments):
    """Of all convolutions and matrix products in a function's jaxpr."""
    total = 0

    def walk(jaxpr):
        nonlocal total
        for equation in jaxpr.eqns:
            out = equation.outvars[0].aval
            if equation.primitive.name == "conv_general_dilated":
                total += out.size * np.prod(equation.invars[1].aval.shape[:3])
            elif equation.primitive.name == "dot_general":
                ((contracted, _), _) = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                depth = np.prod([shape[axis] for axis in contracted])
                total += out.size * depth if depth > 1 else 0  # depth 1 is a broadcast bias
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    walk(inner)

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return int(total)


def test_the_classifier_costs_at_most_sixty_million_multiply_adds():
    encoder = tiny64.Encoder(200, rngs=nnx.Rngs(0))
    cost = multiply_adds(lambda x: encoder(x)["fc8"], jnp.zeros((1, 64, 64, 3)))
    assert 55e6 < cost <= 60e6


def test_activations_come_by_name_and_stop_at_the_depth_asked_for():
    encoder = tiny64.Encoder(10, rngs=nnx.Rngs(0))
    images = jnp.zeros((2, 64, 64, 3))
    activations = jax.eval_shape(encoder, images)
    shapes = {name: value.shape for name, value in activations.items()}
    assert shapes == {
        "conv1": (2, 32, 32, 32), "conv2": (2, 16, 16, 64), "conv3": (2, 8, 8, 128),
        "conv4": (2, 4, 4, 256), "fc6": (2, 512), "fc7": (2, 512), "fc8": (2, 10),
    }  # fmt: skip
    assert "fc7" not in jax.eval_shape(lambda x: encoder(x, depth=6), images)


def test_a_blurred_picture_has_no_dots_and_a_flat_one_stays():
    dots = jnp.asarray((-1.0) ** np.add.outer(np.arange(8), np.arange(8)))[None, :, :, None]
    stripes = jnp.broadcast_to(dots[:, :1], dots.shape)
    for pattern in (dots, stripes, stripes.swapaxes(1, 2)):
        np.testing.assert_allclose(tiny64.binomial_blur(pattern)[:, 1:-1, 1:-1], 0, atol=1e-6)
    np.testing.assert_allclose(tiny64.binomial_blur(jnp.full((1, 8, 8, 2), 0.3)), 0.3, atol=1e-6)


def test_a_generator_that_is_told_classes_reads_which_unit_is_largest():
    sizes = tiny64.GeneratorSizes(num_classes=3, finest=16, blurred=True)
    generator = tiny64.Generator(8, sizes, rngs=nnx.Rngs(0))
    assert generator.fc1.kernel.shape == (11, 512)
    generator.fc1.kernel[:8] = 0.0  # all that is left is the class
    codes = np.array(jax.random.normal(jax.random.key(0), (6, 8)))
    codes[:, :3] = 5.0 * np.eye(3)[[0, 1, 2, 0, 1, 2]]
    images = generator(codes)
    assert images.shape == (6, 64, 64, 3)
    np.testing.assert_allclose(images[:3], images[3:], atol=1e-5)
    assert np.abs(images[0] - images[1]).max() > 1e-3


def test_sizes_come_back_from_a_card():
    sizes = tiny64.Sizes(
        tiny64.EncoderSizes(192, 256, 128),
        tiny64.GeneratorSizes(10, 16, True),
        tiny64.DiscriminatorSizes(64),
    )
    assert tiny64.Sizes.of_card(json.loads(json.dumps(sizes.for_card()))) == sizes
    assert tiny64.Sizes.of_card({}) == tiny64.TINY64
    with pytest.raises(GradgenError, match="no known form"):
        tiny64.Sizes.of_card({"encoder": {"fc9": 3}})


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("tiny64")


@pytest.mark.parametrize("part", ["classifier", "encoder", "discriminator", "generator"])
def test_an_output_does_not_depend_on_the_rest_of_the_batch(bundle, part):
    network = getattr(bundle, part)
    shape = (4, bundle.code_size) if part == "generator" else (4, 64, 64, 3)
    inputs = jax.random.normal(jax.random.key(0), shape)
    if part != "generator":
        inputs = jnp.tanh(inputs)
    apply = jax.jit(network.apply)
    together = apply(network.params, inputs)
    other = apply(network.params, inputs.at[1:].set(0.3))
    # a dependence through batch statistics would show in the first digits
    np.testing.assert_allclose(together[0], other[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "count", "most"), [("tiny64", 5, 25e6), ("ten64", 4, 12e6)])
def test_the_embedded_files_are_what_the_card_says_and_small(name, count, most):
    folder = weights_dir() / name
    files = read_card(folder).files
    assert len(files) == len(list(folder.glob("*.safetensors"))) == count
    assert sum((folder / file).stat().st_size for file in files) <= most
    assert {file: file_sha256(folder / file) for file in files} == files


def test_what_a_part_of_the_prior_shows_is_what_it_is_called():
    """ten64's classifier agrees with the units that decide on a class."""
    bundle = load_bundle("ten64")
    codes = jax.random.normal(jax.random.key(0), (64, bundle.code_size))
    images = bundle.generator.apply(bundle.generator.params, codes)
    named = bundle.classifier.apply(bundle.classifier.params, images).argmax(-1)
    agreed = (named == tiny64.class_of_codes(codes, len(bundle.labels))).mean()
    assert agreed > 0.7  # of 1000, more than 0.8 do


def test_classifier_gives_probabilities_of_images_of_any_size(bundle):
    images = jnp.tanh(jax.random.normal(jax.random.key(0), (2, 96, 128, 3)))
    log_p = jax.jit(bundle.classifier.apply)(bundle.classifier.params, images)
    assert log_p.shape == (2, 200)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-5)
