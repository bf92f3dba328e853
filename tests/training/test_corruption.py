"""Pictures that are no photographs."""

import numpy as np
import pytest

from gradgen.training import corruption


@pytest.fixture(scope="module")
def photograph():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 150, 64)[:, None, None] + np.linspace(0, 60, 64)[None, :, None]
    return (ramp + rng.normal(0, 10, (64, 64, 3)).clip(-30, 30) + 20).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("way", corruption.CORRUPTIONS, ids=lambda way: way.__name__)
def test_each_way_gives_another_picture_of_the_same_shape(way, photograph):
    before = photograph.copy()
    spoilt = way(np.random.default_rng(1), photograph)
    assert spoilt.shape == photograph.shape and spoilt.dtype == np.uint8
    assert np.abs(spoilt.astype(int) - photograph).mean() > 2
    np.testing.assert_array_equal(photograph, before)
    np.testing.assert_array_equal(spoilt, way(np.random.default_rng(1), photograph))


def test_all_ways_are_taken(photograph):
    many = np.repeat(photograph[None], 100, axis=0)
    spoilt = corruption.corrupt(np.random.default_rng(2), many)
    assert spoilt.shape == many.shape
    # a few ways leave little to chance
    assert len(np.unique(spoilt.reshape(100, -1), axis=0)) > 60
