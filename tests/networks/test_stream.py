"""Tests networks over batches of arrays against the same function of all rows at the same time."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.images import from_uint8
from gradgen.networks.stream import apply_in_batches, pure_function

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 8, 35])
def test_batches_of_one_shape_give_every_row_once(count):
    images = RNG.integers(0, 256, (count, 8, 8, 3), np.uint8)
    shapes, done = set(), []

    def apply(params, batch):
        shapes.add(batch.shape)
        return batch.mean((1, 2)) * params

    found = apply_in_batches(apply, 2.0, images, batch_size=8, on_progress=done.append)
    np.testing.assert_allclose(found, 2 * from_uint8(images).mean((1, 2)), atol=1e-5)
    assert len(shapes) == 1, "what is traced anew is compiled anew"
    assert done[-1] == count and len(done) == -(-count // 8)


def test_codes_are_taken_as_they_are_and_none_give_nothing():
    codes = RNG.normal(size=(5, 3)).astype(np.float32)

    def apply(params, batch):
        return batch @ params

    kernel = RNG.normal(size=(3, 2)).astype(np.float32)
    found = apply_in_batches(apply, kernel, codes, batch_size=4)
    np.testing.assert_allclose(found, codes @ kernel, rtol=1e-5)
    assert len(apply_in_batches(apply, kernel, codes[:0])) == 0


class Layers(nnx.Module):
    """Counts how often it is traced."""

    traces = 0

    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, batch):
        Layers.traces += 1
        inner = self.inner(batch)
        return {"inner": inner, "outer": jnp.tanh(inner)}


def test_modules_of_one_structure_share_a_compiled_function_but_not_their_parameters():
    inputs = RNG.normal(size=(6, 3)).astype(np.float32)
    found = []
    for seed in (0, 1):
        module = Layers(nnx.Rngs(seed))
        apply, params = pure_function(module, "outer")
        found.append(apply_in_batches(apply, params, inputs, batch_size=4))
        kernel, bias = np.asarray(module.inner.kernel[...]), np.asarray(module.inner.bias[...])
        np.testing.assert_allclose(found[-1], np.tanh(inputs @ kernel + bias), rtol=1e-5)
    assert not np.allclose(*found)
    assert Layers.traces == 1
