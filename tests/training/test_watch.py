"""Looking at a generator in training, and keeping the best."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from gradgen.datasets import Dataset
from gradgen.errors import GradgenError
from gradgen.models.tiny64 import Generator, GeneratorSizes
from gradgen.training import watch as watching
from gradgen.training.teacher import LinearClassifier
from tests.viewers import Viewer


def make_watch(folder, seconds=0.0):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    val = Dataset(images, np.arange(8, dtype=np.int32) % 2, ("a", "b"), "test")
    kernel = jnp.zeros((320, 2)).at[0, 0].set(1.0)
    return watching.Watch(folder, Viewer(), LinearClassifier(kernel, jnp.zeros(2)), val, 0, seconds)


def generator_of(seed):
    return Generator(4, GeneratorSizes(2), rngs=nnx.Rngs(seed))


def test_the_nearest_to_photographs_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "PICTURES", 40)
    watch = make_watch(tmp_path)
    with pytest.raises(GradgenError, match="no trained generator"):
        watch.load_best(generator_of(0))
    distances = iter([0.5, 0.2, 0.3])
    monkeypatch.setattr(watching, "kernel_distance", lambda *_: next(distances))
    for seed in (1, 2, 3):
        watch(100 * seed, generator_of(seed))
    assert [look["kid"] for look in watch.looks()] == [0.5, 0.2, 0.3]
    assert 0 <= watch.looks()[0]["agreement"] <= 1
    assert watch.looks()[0]["diversity"] > 0
    kept = make_watch(tmp_path).load_best(generator_of(0))  # as a resumed training will find it
    np.testing.assert_array_equal(kept.fc1.kernel[...], generator_of(2).fc1.kernel[...])
    with Image.open(tmp_path / "looks" / "000200.png") as picture:
        assert picture.size == (10 * 66 + 2, 2 * 66 + 2)


def test_diversity_is_not_known_of_single_photographs(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "PICTURES", 1)  # and two photographs, one a class
    watch = make_watch(tmp_path)
    monkeypatch.setattr(watching, "kernel_distance", lambda *_: 0.5)
    watch(1, generator_of(1))
    assert watch.looks()[0]["diversity"] is None


def test_looks_are_some_time_apart_but_the_last_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "PICTURES", 40)
    watch = make_watch(tmp_path, seconds=3600.0)
    watch(1, generator_of(1))
    watch(2, generator_of(1))
    watch(3, generator_of(1), final=True)
    assert [look["step"] for look in watch.looks()] == [1, 3]
