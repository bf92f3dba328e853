"""Tests the teacher, a linear classifier on lite0's features.

It never gives a class to a photograph on which it was fitted.
"""

import numpy as np
import pytest

from gradgen.datasets import Dataset
from gradgen.training import teacher


def make_dataset(labels):
    images = np.zeros((len(labels), 64, 64, 3), np.uint8)
    classes = tuple(f"class {index}" for index in range(int(labels.max()) + 1))
    return Dataset(images, labels.astype(np.int32), classes, "made up")


@pytest.fixture(scope="module")
def clouds():
    """Three Gaussian clouds, whose true class probabilities are known."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 6000)
    centres = 0.7 * np.eye(3, 12)
    features = (centres[labels] + rng.normal(size=(6000, 12))).astype(np.float32)
    logits = features @ centres.T - 0.5 * (centres**2).sum(1)
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return features, labels, truth


def test_probabilities_are_those_of_the_clouds(clouds):
    features, labels, truth = clouds
    named = teacher.name_classes(features, make_dataset(labels))
    np.testing.assert_allclose(named.sum(1), 1, atol=1e-5)
    # 39 weights from 3000 examples err by about sqrt(39 / 3000) in a logit, and by a quarter of
    # that at most in a probability
    assert np.abs(named - truth).mean() < (39 / 3000) ** 0.5 / 4
    assert np.mean(named.argmax(1) == labels) > np.mean(truth.argmax(1) == labels) - 0.02


def test_nobody_is_named_by_one_who_was_told_his_label():
    """Labels that features say nothing of are not known, however many weights there are."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(600, 500)).astype(np.float32)
    labels = rng.integers(0, 2, 600)
    named = teacher.name_classes(features, make_dataset(labels))
    right = np.mean(named.argmax(1) == labels)
    assert abs(right - 0.5) < 4 * 0.5 / 600**0.5  # four standard errors of chance


def test_the_teacher_is_asked_once(tmp_path, monkeypatch, clouds):
    features, labels, _ = clouds
    data, path = make_dataset(labels), tmp_path / "checkpoints" / "lite0.safetensors"
    monkeypatch.setattr(teacher, "lite0_features", lambda *_, **__: features)
    first = teacher.ask(None, data, path)
    np.testing.assert_array_equal(first.named, teacher.name_classes(features, data))
    # the classifier for other pictures is fitted to all of them
    right = (np.asarray(first.naming(features)).argmax(1) == labels).mean()
    assert right > (first.named.argmax(1) == labels).mean() - 0.02

    monkeypatch.setattr(teacher, "lite0_features", None)  # asking again would fail
    again = teacher.ask(None, data, path)
    np.testing.assert_array_equal(again.named, first.named)
    np.testing.assert_array_equal(again.naming.kernel, first.naming.kernel)

    monkeypatch.setattr(teacher, "lite0_features", lambda *_, **__: features[:3000])
    fewer = make_dataset(labels[:3000])  # of other data than the file's: asked anew
    assert teacher.ask(None, fewer, path).named.shape == (3000, 3)
