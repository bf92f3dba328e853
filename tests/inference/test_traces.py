"""Tests the rows, points, windows and files of traces."""

import numpy as np
import pytest

from gradgen.inference.traces import QUANTITIES, Traces, joined
from tests import fakes


@pytest.fixture
def traces():
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(3, 5)) for name in QUANTITIES if name != "projections"}
    return fakes.traces(np.arange(1, 6) * 4, **given, projections=rng.normal(size=(3, 5, 2)))


def test_rows_of_a_mask_and_of_indices_are_the_same_chains(traces):
    mask = np.array([True, False, True])
    for name in QUANTITIES:
        expected = getattr(traces, name)[[0, 2]]
        np.testing.assert_array_equal(getattr(traces.of(mask), name), expected)
        np.testing.assert_array_equal(getattr(traces.of(np.array([0, 2])), name), expected)
    assert traces.of(mask).step is traces.step


def test_parts_join_to_the_whole(traces):
    whole = joined([traces.of(np.array([0])), traces.of(np.array([1, 2]))])
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(whole, name), getattr(traces, name))


def test_points_between_two_steps(traces):
    kept = traces.between(4, 16)
    assert kept.step.tolist() == [8, 12, 16]
    np.testing.assert_array_equal(kept.projections, traces.projections[:, 1:4])


def test_files_give_back_what_was_written(traces):
    arrays = traces.to_arrays()
    assert set(arrays) == {"trace_step", *(f"trace_{name}" for name in QUANTITIES)}
    again = Traces.from_arrays(arrays)
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(again, name), getattr(traces, name))
    with pytest.raises(KeyError, match="trace_acceptance"):
        Traces.from_arrays({k: v for k, v in arrays.items() if k != "trace_acceptance"})
    with pytest.raises(ValueError, match="step_size"):
        Traces.from_arrays({**arrays, "trace_step_size": arrays["trace_step_size"][:, :3]})


def test_windows_are_entered_where_they_belong():
    traces = Traces.empty(np.arange(1, 5), num_chains=2, num_projections=1)
    block = {name: np.full((3, 2), 7.0) for name in QUANTITIES if name != "projections"}
    traces.write(1, {**block, "projections": np.full((3, 2, 1), 7.0)})  # a chain too many
    expected = [[np.nan, 7, 7, np.nan]] * 2
    np.testing.assert_array_equal(traces.acceptance, expected)
    np.testing.assert_array_equal(traces.projections[:, :, 0], expected)
