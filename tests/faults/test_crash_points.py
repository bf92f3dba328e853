"""A run that is killed, or whose disk fails, at any file operation resumes to the same bits.

`make test` tries a point of each kind, `make test-all` all of them; GRADGEN_KILLS says how often
the real command is killed there.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from gradgen.errors import GradgenError
from tests.faults.crash import CHANGES, Crash, KilledError
from tests.faults.runs import CASES, differences, prepare, work

BY_NAME = {case.name: case for case in CASES}
KILLS = int(os.environ.get("GRADGEN_KILLS", "20"))


@pytest.fixture
def tiny(monkeypatch):
    """Prepare runs of a case."""
    return lambda case: prepare(monkeypatch, case.most)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{name of a case: (folder of a run that nothing disturbed, its operations)}."""
    found = {}

    def make(case):
        if case.name not in found:
            folder = tmp_path_factory.mktemp("whole") / "run"
            with pytest.MonkeyPatch.context() as patch:
                crash = Crash(patch, folder)
                work(case, folder)
            found[case.name] = folder, crash.done
        return found[case.name]

    return make


def disturbed(case, folder, number, how=None):
    """Work on a run until its n-th operation fails. Returns whether any did, and the error."""
    with pytest.MonkeyPatch.context() as patch:
        crash = Crash(patch, folder, number, how)
        error = None
        try:
            work(case, folder)
        except (KilledError, GradgenError, OSError) as raised:
            error = raised
    return crash.fired, error


def fault(case, folder, reference, number, how=None):
    """What is wrong with a run that fails at an operation and is resumed, or None."""
    fired, error = disturbed(case, folder, number, how)
    if not fired:
        return "it was not reached"
    if (
        how is not None
        and error is not None
        and ("\n" in str(error) or str(folder) not in str(error))
    ):
        return f"said {error!r}"
    try:
        work(case, folder)
    except Exception as raised:
        return f"is not resumed: {raised!r}"
    return differences(folder, reference) or None


def representative(done):
    """Operations that stand for all: of each change that others see, the first and the last."""
    kinds = {}
    for number, operation in enumerate(done):
        if operation[0] in CHANGES:
            kinds.setdefault(operation, []).append(number)
    return sorted({number for numbers in kinds.values() for number in (numbers[0], numbers[-1])})


def check(case, whole, tmp_path, numbers, how=None):
    reference, done = whole(case)
    faults = {}
    for number in numbers:
        found = fault(case, tmp_path / f"{number}", reference, number, how)
        if found is not None:
            faults[number, done[number]] = found
    assert faults == {}, f"{len(faults)} of {len(numbers)}"


def test_two_runs_that_nothing_disturbs_are_the_same_in_this_comparison(tiny, whole, tmp_path):
    case = BY_NAME["animation"]
    tiny(case)
    work(case, tmp_path / "run")
    assert differences(tmp_path / "run", whole(case)[0]) == []
    assert differences(tmp_path, whole(case)[0]) != []


@pytest.mark.parametrize("name", ["animation", "many chains"])
def test_a_run_killed_at_a_point_of_each_kind_resumes_to_the_same_bits(name, tiny, whole, tmp_path):
    case = BY_NAME[name]
    tiny(case)
    numbers = representative(whole(case)[1])
    check(case, whole, tmp_path, random.Random(name).sample(numbers, 8))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_run_killed_at_any_point_resumes_to_the_same_bits(case, tiny, whole, tmp_path):
    tiny(case)
    check(case, whole, tmp_path, range(len(whole(case)[1])))


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full disk", "broken disk"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_disk_that_fails_at_any_point_costs_nothing(case, code, tiny, whole, tmp_path):
    tiny(case)
    check(case, whole, tmp_path, range(len(whole(case)[1])), code)


def test_a_full_disk_in_the_middle_of_a_run_is_a_line_that_says_how_to_go_on(tiny, whole, tmp_path):
    case = BY_NAME["mala"]
    tiny(case)
    reference, done = whole(case)
    folder = tmp_path / "run"
    number = done.index(("replace", "checkpoint/part-#.npz")) - 1
    error = disturbed(case, folder, number, errno.ENOSPC)[1]
    assert type(error) is GradgenError
    part = folder / "checkpoint" / "part-0000000.npz"
    assert str(error) == (
        f"{part}: No space left on device; what was saved before is whole and nothing is lost. "
        f"Make room, then continue with: gradgen sample --resume {folder}"
    )
    work(case, folder)
    assert differences(folder, reference) == []


@pytest.mark.parametrize(
    "count", [3, pytest.param(100, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_a_run_killed_while_it_is_resumed_resumes_to_the_same_bits(count, tiny, whole, tmp_path):
    rng = random.Random(count)
    for number in range(count):
        case = BY_NAME["two hosts"] if count == 3 else rng.choice(CASES)
        tiny(case)
        reference, done = whole(case)
        folder = tmp_path / f"{number}"
        points = []
        for _ in range(2):  # a run, and what resumes it
            points.append(rng.randrange(len(done)))
            disturbed(case, folder, points[-1])
        work(case, folder)
        assert differences(folder, reference) == [], f"{case.name}: {points}"


# --- real processes ---------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from gradgen import runtime
runtime.configure()
import pytest
from tests.faults.crash import KILL, Crash
from tests.faults.runs import CASES, prepare, work

case = next(case for case in CASES if case.name == sys.argv[1])
with pytest.MonkeyPatch.context() as patch:
    prepare(patch, case.most)
    Crash(patch, Path(sys.argv[2]), int(sys.argv[3]), KILL)
    work(case, Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "name", ["two classes", *(pytest.param(name, marks=pytest.mark.slow) for name in BY_NAME)]
)
def test_a_process_that_is_really_killed_leaves_a_run_that_resumes(name, tiny, whole, tmp_path):
    case = BY_NAME[name]
    tiny(case)
    reference, done = whole(case)
    number = random.Random(name).choice(representative(done)[2:])
    folder = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, name, str(folder), str(number)], timeout=300
    )
    assert ended.returncode == -signal.SIGKILL
    work(case, folder)
    assert differences(folder, reference) == []


@pytest.mark.slow
def test_the_real_command_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    options = ["--class=beacon", "--class=goldfish", "--method=mala", "--budget=60"]
    options += ["--num-chains=2", "--block-size=2", "--animate"]

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "gradgen", "sample", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def seconds_of(process, folder):
        """From the moment that run.json is there to the end."""
        while not (folder / "run.json").exists() and process.poll() is None:
            time.sleep(0.01)
        begun = time.monotonic()
        assert process.wait(timeout=600) == 0, process.stderr.read()
        return time.monotonic() - begun

    reference = tmp_path / "whole"
    longest = seconds_of(start(*options, f"--out={reference}"), reference)
    rng, killed, faults = random.Random(0), 0, {}
    for number in range(10 * KILLS):
        if killed >= KILLS:
            break
        folder = tmp_path / f"{number}"
        process = start(*options, f"--out={folder}")
        while process.poll() is None:
            while not (folder / "run.json").exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.2 * longest))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
            if process.returncode != 0:
                again = ["--resume", str(folder)] if (folder / "run.json").exists() else options
                out = [] if again[0] == "--resume" else [f"--out={folder}"]
                process = start(*again, *out)
                if rng.random() < 0.5:
                    break
        assert process.wait(timeout=600) == 0, process.stderr.read()
        found = differences(folder, reference)
        if found:
            faults[number] = found
    assert faults == {}
    assert killed >= KILLS
