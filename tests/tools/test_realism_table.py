"""The table of what a discriminator makes of all kinds of pictures."""

import numpy as np
import pytest

from gradgen.tools import realism_table


def test_the_table_has_means_their_errors_and_how_often_photographs_are_above():
    kinds = [("photographs", np.array([-0.1, -0.3])), ("noise", np.array([-0.2, -3.0]))]
    lines = realism_table.table(kinds)
    assert lines[2] == "| photographs | 2 | -0.20 ± 0.10 |  |"
    # of four pairs three have the photograph above
    assert lines[3] == "| noise | 2 | -1.60 ± 1.40 | 0.750 |"


@pytest.mark.parametrize("make", realism_table.UNKNOWN, ids=lambda make: make.__name__)
def test_drawings_of_unknown_kinds_have_two_colours_and_what_lies_between(make):
    picture = make(np.random.default_rng(0), 64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    flat = picture.reshape(-1, 3).astype(float)
    # colours on a line have a covariance of rank one, but for rounding to whole numbers
    deviations = np.linalg.svd(flat - flat.mean(0), compute_uv=False) / np.sqrt(len(flat))
    assert deviations[0] > 10 and deviations[1] < 0.6


def test_flat_fields_are_flat_and_of_all_colours():
    fields = realism_table.flat_fields(8)
    assert fields.shape == (125, 8, 8, 3)
    assert (fields == fields[:, :1, :1]).all()
    assert len(np.unique(fields[:, 0, 0], axis=0)) == 125
