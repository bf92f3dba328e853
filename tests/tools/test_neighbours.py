"""Which photographs a picture is nearest to."""

import numpy as np

from gradgen.tools.neighbours import nearest


def test_the_nearest_are_those_of_the_least_angle():
    others = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    distances, indices = nearest(np.array([[2.0, 0.2], [1.0, 1.0]]), others, 2)
    np.testing.assert_array_equal(indices, [[0, 2], [2, 0]])
    np.testing.assert_allclose(distances[1], [0, 1 - np.sqrt(0.5)], atol=1e-12)
    assert 0 < distances[0, 0] < distances[0, 1]
