"""Tests the order in which a training sees its photographs."""

import numpy as np
import pytest

from gradgen.errors import UsageError
from gradgen.training.data import batches


def test_batches_cover_each_epoch_once_and_resume_in_the_middle():
    feed = batches(10, 3, seed=1)
    first = [next(feed) for _ in range(7)]
    assert len(set(np.concatenate(first[:3]).tolist())) == 9
    assert not np.array_equal(first[0], first[3])
    later = batches(10, 3, seed=1, start=5)
    np.testing.assert_array_equal(next(later), first[5])
    np.testing.assert_array_equal(next(later), first[6])


def test_fewer_images_than_a_batch_is_one_clear_error():
    with pytest.raises(UsageError, match="fewer than a batch"):
        next(batches(3, 4, seed=0))
