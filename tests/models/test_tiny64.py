"""The embedded networks: shapes, cost, independence of neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.bundle import load_bundle
from gradgen.models import tiny64


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


def test_dropout_drops_half_and_keeps_the_mean():
    units = jnp.full((100, 400), 3.0)
    dropped = np.asarray(tiny64._drop_half(units, jax.random.key(0), 6))
    assert set(np.unique(dropped)) == {0.0, 6.0}
    # 40000 fair coins: five standard deviations
    assert abs((dropped == 0).sum() - 20_000) < 5 * 100
    np.testing.assert_array_equal(tiny64._drop_half(units, None, 6), units)


def test_dropout_reaches_the_logits_but_no_code():
    encoder = tiny64.Encoder(10, rngs=nnx.Rngs(0))
    images = jnp.tanh(jax.random.normal(jax.random.key(1), (2, 64, 64, 3)))
    plain, first, second = (
        encoder(images, dropout_key=key) for key in (None, jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(first["fc6"], plain["fc6"])
    assert np.abs(first["fc8"] - plain["fc8"]).max() > 0.1
    assert np.abs(first["fc8"] - second["fc8"]).max() > 0.1


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


def test_the_embedded_files_are_what_the_card_says_and_small(bundle):
    from gradgen.weights.store import file_sha256, weights_dir

    folder = weights_dir() / "tiny64"
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) == 4
    assert sum(sizes) <= 25e6
    assert {name: file_sha256(folder / name) for name in bundle.card["files"]} == bundle.card[
        "files"
    ]


def test_classifier_gives_probabilities_of_images_of_any_size(bundle):
    images = jnp.tanh(jax.random.normal(jax.random.key(0), (2, 96, 128, 3)))
    log_p = jax.jit(bundle.classifier.apply)(bundle.classifier.params, images)
    assert log_p.shape == (2, 200)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-5)
