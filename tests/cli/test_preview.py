"""Pictures in the terminal: the program in a real pseudo-terminal, which answers or does not."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest

from gradgen.images import save_png
from tests.own_networks import WIDE

HALF_BLOCK = "▀"
# What a program asks a terminal, and what one with sixels answers: its kind, a character's size.
SIXEL_ANSWERS = {b"\x1b[c": b"\x1b[?62;4c", b"\x1b[16t": b"\x1b[6;20;10t"}


def in_terminal(arguments, answers=None, end="", **environment):
    """What the program writes in a terminal of 100 x 40 characters, where it is in front."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    program = shlex.join([sys.executable, "-m", "gradgen", *map(str, arguments)])
    # the first terminal that a new session opens is its own
    script = f"exec <{path} >{path} 2>&1; stty cols 100 rows 40; {program}{end}"
    variables = {"TERM": "xterm-256color", "COLORTERM": "truecolor", **environment}
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        ["sh", "-c", script], start_new_session=True, env={**kept, **variables}
    )
    written, waiting = b"", dict(answers or {})
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            written += os.read(master, 65536)
            for question in [question for question in waiting if question in written]:
                os.write(master, waiting.pop(question))
        elif process.poll() is not None:
            break
    os.close(slave)
    os.close(master)
    assert process.wait(timeout=60) == 0, written.decode(errors="replace")
    return written.decode()


@pytest.fixture
def flag(tmp_path):
    """A picture, red above and blue below, with a recipe that says little."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32], pixels[32:] = (250, 10, 20), (30, 40, 240)
    save_png(tmp_path / "flag.png", pixels, {"format": "gradgen recipe 2"})
    return tmp_path / "flag.png"


def test_a_picture_is_shown_in_blocks_of_its_own_colours(flag):
    lines = [line for line in in_terminal(["show", flag]).splitlines() if HALF_BLOCK in line]
    assert 12 <= len(lines) <= 40 - 12 and max(line.count(HALF_BLOCK) for line in lines) <= 100
    assert "38;2;250;10;20" in lines[0] and "48;2;250;10;20" in lines[0]
    assert "38;2;30;40;240" in lines[-1]


def test_a_terminal_with_sixels_gets_sixels(flag):
    shown = in_terminal(["show", flag], SIXEL_ANSWERS)
    assert HALF_BLOCK not in shown
    assert re.search(r"\x1bP[0-9;]*q", shown)


def test_no_picture_is_shown_where_nobody_looks_or_wants_it(flag):
    for arguments, end, environment in (
        (["show", flag, "--no-preview"], "", {}),
        (["show", flag], " | cat", {}),
        (["show", flag], " </dev/null", {}),
        (["show", flag], "", {"TERM": "dumb", "COLORTERM": ""}),
    ):
        shown = in_terminal(arguments, end=end, **environment)
        assert "gradgen recipe 2" in shown
        assert HALF_BLOCK not in shown and "\x1b[c" not in shown, (arguments, end)


def test_chains_are_seen_while_they_run_and_the_grid_at_the_end(tmp_path):
    arguments = ["sample", "--bundle", WIDE, "--class", "alpha", "-m", "map", "--no-clip"]
    arguments += ["-n", "2", "--budget", "3", "--block-size", "1", "--out", tmp_path / "run"]
    shown = in_terminal(arguments)
    at_work, end = shown[: shown.rindex("3/3")], shown[shown.rindex("3/3") :]
    strips = [line for line in at_work.splitlines() if HALF_BLOCK in line]
    assert strips and {line.count(HALF_BLOCK) for line in strips} == {2 * 16 + 1}
    grid = [line for line in end.splitlines() if line.count(HALF_BLOCK) > 33]
    assert len(grid) >= 10 and "grid " in end
