"""Training the generator at N(0, I), under a small network's eyes instead of lite0's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.datasets import Dataset
from gradgen.models.tiny64 import Generator, GeneratorSizes, class_of_codes
from gradgen.training import adversarial, loop
from tests.viewers import Viewer

CODE_SIZE, NUM_CLASSES = 4, 2


@pytest.fixture(scope="module")
def photographs():
    """Bright ones and dark ones."""
    rng = np.random.default_rng(0)
    labels = np.arange(24, dtype=np.int32) % 2
    levels = np.array([210, 50])[labels]
    pixels = rng.normal(levels[:, None, None, None], 15, (24, 64, 64, 3))
    images = np.clip(pixels, 0, 255).astype(np.uint8)
    return Dataset(images, labels, ("bright", "dark"), "test")


def train(photographs, checkpoint, **callbacks):
    generator = Generator(CODE_SIZE, GeneratorSizes(NUM_CLASSES), rngs=nnx.Rngs(0))
    settings = adversarial.GeneratorSettings(
        minutes=60.0, batch_size=4, class_weight=3.0, learning_rate=2e-3
    )
    return adversarial.train_generator(
        photographs, Viewer(), generator, settings, checkpoint, **callbacks
    )


class StopAfter:
    """Interrupts a training at a step; keeps the reports."""

    def __init__(self, step):
        self.step, self.reports = step, []

    def __call__(self, step, progress, rate, figures):
        self.reports.append(figures)
        if step == self.step:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_critics_learn_and_a_resumed_training_comes_to_the_same_state(
    photographs, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "REPORT_STEPS", 4)
    # the share of the time that is used up sets the rate: here it does not depend on the clock
    monkeypatch.setattr(adversarial, "cosine", lambda progress: 1.0)
    whole = StopAfter(24)
    with pytest.raises(KeyboardInterrupt):
        train(photographs, tmp_path / "whole", on_report=whole)
    for last in (8, 24):
        with pytest.raises(KeyboardInterrupt):
            train(photographs, tmp_path / "parts", on_report=StopAfter(last))
    assert (tmp_path / "whole").stat().st_size == (tmp_path / "parts").stat().st_size
    first, second = (
        jax.tree.leaves(loop.serialization.msgpack_restore((tmp_path / name).read_bytes())["state"])
        for name in ("whole", "parts")
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.isfinite(value) for report in whole.reports for value in report.values())
    # critics who know nothing lose 2 log 2; these soon tell photographs from a new generator's
    for name in ("critics", "texture"):
        assert whole.reports[-1][name] < 2 * np.log(2) - 0.1


def test_spread_is_the_mean_cosine_distance_within_classes():
    """Two classes: three rows, of which two are alike and the third is at right angles; two rows
    that point away from each other."""
    features = jnp.array([[1.0, 0], [2, 0], [0, 3], [1, 1], [-1, -1]])
    labels = jax.nn.one_hot(jnp.array([0, 0, 0, 1, 1]), 2)
    # pairs of the first class: 0, 1, 1; of the second: 2
    assert adversarial._spread(features, labels) == pytest.approx((0 + 1 + 1 + 2) / 4, abs=1e-5)
    alone = jax.nn.one_hot(jnp.arange(5), 5)
    assert adversarial._spread(features, alone) == 0


def test_each_class_owns_the_same_share_of_the_prior():
    codes = jax.random.normal(jax.random.key(0), (4000, 12))
    classes = np.asarray(class_of_codes(codes, 10))
    counts = np.bincount(classes, minlength=10)
    assert np.abs(counts - 400).max() < 4.5 * np.sqrt(400 * 0.9)  # 4.5 standard deviations
    scaled = class_of_codes(3.0 * codes, 10)  # a cone
    np.testing.assert_array_equal(classes, scaled)
    np.testing.assert_array_equal(class_of_codes(jnp.eye(12)[:10], 10), np.arange(10))
