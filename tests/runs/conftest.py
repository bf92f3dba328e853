"""What the tests of runs share."""

import pytest

from tests.faults.runs import prepare


@pytest.fixture(scope="module")
def tiny():
    """The networks of tests/faults/tiny.py, and a checkpoint after each block."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        yield
