"""Exact draws of the posterior by rejection."""

import numpy as np

from gradgen.tools.exact_draws import accept, weights_with_realism


def test_draws_are_accepted_with_their_probability():
    rng = np.random.default_rng(0)
    p = np.tile([[0.9, 0.1], [0.2, 0.8]], (4000, 1))
    for weight in (1.0, 3.0):
        rows, classes = accept(weight * np.log(p), 10**6, rng)
        for index in (0, 1):
            for kind in (0, 1):
                count = (rows[classes == index] % 2 == kind).sum()
                chance = p[kind, index] ** weight
                assert abs(count - 4000 * chance) < 5 * np.sqrt(4000 * chance * (1 - chance))
    rows, classes = accept(np.log(p), 7, rng)
    np.testing.assert_array_equal(np.bincount(classes), [7, 7])


def test_realism_draws_in_proportion_to_the_odds():
    rng = np.random.default_rng(1)
    p = np.tile([[0.9, 0.1], [0.2, 0.8]], (4000, 1))
    odds = np.tile([0.0, -1.5], 4000)
    for gamma in (0.5, 1.0):
        rows, classes = accept(weights_with_realism(np.log(p), odds, gamma), 10**6, rng)
        for index in (0, 1):
            counts = [(rows[classes == index] % 2 == kind).sum() for kind in (0, 1)]
            share = p[0, index] / (p[0, index] + p[1, index] * np.exp(-1.5 * gamma))
            total = sum(counts)
            assert total > 1000
            assert abs(counts[0] - total * share) < 5 * np.sqrt(total * share * (1 - share))
