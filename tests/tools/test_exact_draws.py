"""Exact draws of the posterior by rejection."""

import numpy as np

from gradgen.tools.exact_draws import accept


def test_draws_are_accepted_with_their_probability():
    rng = np.random.default_rng(0)
    p = np.tile([[0.9, 0.1], [0.2, 0.8]], (4000, 1))
    for weight in (1.0, 3.0):
        rows, classes = accept(np.log(p), weight, 10**6, rng)
        for index in (0, 1):
            for kind in (0, 1):
                count = (rows[classes == index] % 2 == kind).sum()
                chance = p[kind, index] ** weight
                assert abs(count - 4000 * chance) < 5 * np.sqrt(4000 * chance * (1 - chance))
    rows, classes = accept(np.log(p), 1.0, 7, rng)
    np.testing.assert_array_equal(np.bincount(classes), [7, 7])
