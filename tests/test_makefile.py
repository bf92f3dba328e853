"""Tests that the Makefile finds a Python that is new enough, or says what is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
TOOLS = ("make", "sh", "touch")

pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="needs make")


@pytest.fixture
def make(tmp_path):
    """Runs make on a copy of the Makefile with nothing on the path but what a test puts there."""
    path = tmp_path / "bin"
    path.mkdir()
    for tool in TOOLS:
        (path / tool).symlink_to(shutil.which(tool))
    shutil.copy(MAKEFILE, tmp_path)

    def add(name, script):
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)

    def run(*arguments):
        return subprocess.run(
            ["make", *arguments],
            cwd=tmp_path,
            env={"PATH": str(path), "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            check=False,
        )

    run.add = add
    run.folder = tmp_path
    return run


OLD = 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac'  # its check exits with 1
NEW = (
    'case "$*" in --version) echo Python 3.13.0;; -c*) exit 0;; '
    "*venv*) echo $0 $* >> made; mkdir -p .venv;; esac"
)


def test_an_old_python_alone_is_a_clear_message(make):
    make.add("python3", OLD)
    result = make(".venv/.python")
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "'python3' is Python 3.9.2" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (make.folder / ".venv").exists()


def test_a_newer_python_beside_an_old_one_is_found(make):
    (make.folder / "bin" / "mkdir").symlink_to(shutil.which("mkdir"))
    make.add("python3", OLD)
    make.add("python3.13", NEW)
    result = make(".venv/.python")
    assert result.returncode == 0, result.stderr
    assert "from python3.13 (Python 3.13.0)" in result.stdout
    assert "python3.13 -m venv" in (make.folder / "made").read_text()


def test_the_python_that_is_asked_for_comes_first(make):
    (make.folder / "bin" / "mkdir").symlink_to(shutil.which("mkdir"))
    make.add("python3", NEW)
    make.add("mine", NEW)
    assert make(".venv/.python", "PYTHON=mine").returncode == 0
    assert "mine -m venv" in (make.folder / "made").read_text()


def test_this_very_python_passes_the_check(make):
    make.add("python3", f'exec "{sys.executable}" "$@"')
    result = make("-n", ".venv/.python")
    assert result.returncode == 0
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    assert check in result.stdout
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
