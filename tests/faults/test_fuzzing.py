"""Tests that a damaged file of any kind is read or gives a clear error, soon and in little memory.

``make test`` tries 200 files of each kind, and ``make test-all`` 10 000 more. A file that fails is
written into the test's folder. Its number gives the same file again, since the damage depends only
on the kind and the number.
"""

import random
import resource
import signal
import sys
import time
import warnings
from contextlib import contextmanager

import pytest

from gradgen.cli.common import quiet_pillow
from gradgen.errors import GradgenError
from tests.faults.kinds import KINDS

LONGEST = 10  # seconds
MOST_MEMORY = 2**30  # bytes that the process may grow by


class HangError(BaseException):
    """A file kept its reader busy for too long; no `except Exception` catches it."""


@contextmanager
def time_limit():
    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_memory():
    """Bytes that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fault_of(kind, path):
    """What is wrong with how a file is dealt with, or None."""
    begun = time.monotonic()
    try:
        with time_limit():
            kind.read(path)
    except GradgenError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            return f"an error of several lines: {str(error)[:500]!r}"
    except HangError:
        return "a hang"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "a hang" if time.monotonic() - begun > LONGEST else None


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with warnings.catch_warnings():
        quiet_pillow()
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_good_files_are_read(kind, tmp_path):
    for example in kind.good():
        path = tmp_path / kind.name
        path.write_bytes(kind.whole(example))
        if kind.name != "query":  # where "crane" is two classes
            kind.read(path)


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 200), pytest.param(200, 10_000, marks=pytest.mark.slow)],
    ids=["some", "many"],
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damaged_files_are_read_or_are_one_clear_error(kind, first, count, tmp_path):
    examples = kind.good()
    path = tmp_path / kind.name
    faults, before = [], peak_memory()
    for number in range(first, first + count):
        rng = random.Random(f"{kind.name} {number}")
        content = kind.damage(rng, examples[number % len(examples)])
        path.write_bytes(content)
        fault = fault_of(kind, path)
        grown = peak_memory() - before
        if fault is None and grown > MOST_MEMORY:
            fault = f"{grown} bytes of memory"
            before += grown
        if fault is not None:
            path.with_name(f"fault-{number}-{kind.name}").write_bytes(content)
            faults.append(f"{number}: {fault}")
            if len(faults) >= 20:
                break
    assert faults == [], f"the files are in {tmp_path}"
