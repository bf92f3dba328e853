"""Pictures that are no photographs."""

import numpy as np
import pytest

from gradgen.training import corruption

WAYS, PLAIN = corruption.CORRUPTIONS, corruption.PLAIN


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


def test_no_way_is_left_out_and_plain_pictures_come_twice(photograph, monkeypatch):
    taken = []

    def note(way):
        def noted(rng, one):
            taken.append(way.__name__)
            return way(rng, one)

        return noted

    for name in ("CORRUPTIONS", "PLAIN"):
        monkeypatch.setattr(corruption, name, tuple(map(note, getattr(corruption, name))))
    corruption.corrupt(np.random.default_rng(2), np.repeat(photograph[None], 16, axis=0))
    assert sorted(taken) == sorted(way.__name__ for way in (*WAYS, *PLAIN))


def test_fewer_photographs_than_ways_are_all_spoilt(photograph):
    three = np.repeat(photograph[None], 3, axis=0)
    spoilt = corruption.corrupt(np.random.default_rng(3), three)
    assert spoilt.shape == three.shape
    assert (spoilt != three).any((1, 2, 3)).all()
