"""Tests that no escape sequence from outside is printed, and that every letter can be printed."""

import json
import os
import re
import subprocess
import sys

import jax.numpy as jnp
import pytest
from PIL import Image

from gradgen import images, scoring
from gradgen.cli import app as program
from gradgen.cli import common
from gradgen.errors import GradgenError
from tests import fakes

# Clears the screen, sets the title, an 8-bit CSI, turns the direction of writing, rings.
HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\u202ee\x7f"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / f"{HOSTILE}.png"
    recipe = {"class": HOSTILE, HOSTILE: [HOSTILE, 1.5], "greek": "β"}
    images.save_png(path, Image.new("RGB", (8, 8)), recipe)
    return path


def test_a_hostile_recipe_and_name_are_shown_as_escapes(picture, capsys):
    assert program.main(["show", str(picture)]) == 0
    said = capsys.readouterr()
    assert not OBEYED.search(said.out + said.err)
    assert r"\x1b[2J" in said.out and r"\u202e" in said.out
    assert program.main(["show", str(picture), "--json"]) == 0
    said = capsys.readouterr()
    assert not OBEYED.search(said.out)
    assert json.loads(said.out)["class"] == HOSTILE  # escapes of JSON: nothing is lost


def test_a_terminal_gets_no_escape_sequence_but_colours(picture):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gradgen", "show", str(picture)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs) as child:
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 65536):
                said += block
        except OSError:  # Linux: the other side is closed
            pass
        os.close(ours)
        assert child.wait() == 0
    text = COLOUR.sub("", said.decode())
    assert "greek" in text and not OBEYED.search(text.replace("\r\n", "\n"))


def test_hostile_names_in_errors_warnings_and_notes_are_escapes(tmp_path, capsys):
    assert program.main(["score", str(tmp_path / HOSTILE)]) == 2
    common.warn(HOSTILE)
    common.note(HOSTILE + "[bold]")
    said = capsys.readouterr().err
    assert not OBEYED.search(said) and said.count("\n") == 3
    assert "[bold]" in said


def test_names_in_tables_of_scores_are_escapes(tmp_path, capsys):
    from gradgen.cli.score import _show

    path = tmp_path / HOSTILE / f"{HOSTILE}.png"
    path.parent.mkdir()
    Image.new("RGB", (8, 8)).save(path)
    _show(scoring.score([path], fakes.bundle()), True)
    said = capsys.readouterr().out
    assert not OBEYED.search(said) and r"\x9b31m" in said


def test_a_picture_without_a_finite_score_is_listed_and_the_json_is_strict(tmp_path, capsys):
    for name, byte in (("black", 0), ("white", 255)):
        Image.new("RGB", (8, 8), (byte,) * 3).save(tmp_path / f"{name}.png")

    def apply(params, pictures):
        return jnp.log(pictures.mean(axis=(1, 2, 3)))  # NaN for black, 0 for white

    scores = scoring.score([tmp_path], fakes.bundle(discriminator=fakes.network(apply)))
    assert [image.source for image in scores.images] == [str(tmp_path / "white.png")]
    assert [failure.source for failure in scores.failures] == [str(tmp_path / "black.png")]
    assert "fake gives it nan" in scores.failures[0].reason
    common.print_json(scores.to_dict() | {"besides": float("nan")})

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["besides"] is None and found["total"]["count"] == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp850"])
def test_no_result_is_lost_to_a_letter_that_cannot_be_printed(tmp_path, encoding):
    path = tmp_path / "β – ∞.png"
    images.save_png(path, Image.new("RGB", (8, 8)), {"name": "β ‖z‖² R̂ 愛"})
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "gradgen", "show", str(path), *options]
        environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "200"}
        result = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert result.returncode == 0, result.stderr
        assert rb"\u611b" in result.stdout
        if options:
            assert json.loads(result.stdout.decode(encoding))["name"] == "β ‖z‖² R̂ 愛"


def test_a_path_that_is_piped_stays_as_it_is(capsys):
    common.say(HOSTILE)
    assert capsys.readouterr().out == f"{HOSTILE}\n"


def test_a_full_disk_is_one_line_with_the_path_and_how_to_go_on(monkeypatch, capsys):
    def fail():
        raise OSError(28, "No space left on device", "runs/x/chains.npz")

    monkeypatch.setattr(program.app, "registered_commands", [])
    program.app.command("boom")(fail)
    assert program.main(["boom"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No space left on device: runs/x/chains.npz; nothing is lost")
    assert "--resume" in said and said.count("\n") == 1


def test_libtiff_keeps_its_complaints_to_itself(tmp_path):
    path = tmp_path / "cut.tif"
    Image.effect_noise((64, 64), 50).save(path, compression="tiff_lzw")
    path.write_bytes(path.read_bytes()[:200] + b"\xff" * 900 + path.read_bytes()[1100:])
    code = (
        "import sys; from gradgen.cli.common import quiet_pillow; from gradgen import images\n"
        "if sys.argv[2] == 'quiet': quiet_pillow()\n"
        "try: images.decode(sys.argv[1])\n"
        "except images.ImageError as error: print(error)\n"
    )
    said = {
        how: subprocess.run(
            [sys.executable, "-c", code, str(path), how], capture_output=True, text=True, check=True
        ).stderr
        for how in ("loud", "quiet")
    }
    assert said["loud"], "this file does not make libtiff talk"
    assert said["quiet"] == ""


def test_a_warning_of_our_own_is_one_line(monkeypatch, capsys):
    import warnings

    from gradgen.errors import GradgenWarning

    def tell():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("mind the gap", GradgenWarning, stacklevel=1)
        raise GradgenError("over")

    monkeypatch.setattr(program.app, "registered_commands", [])
    program.app.command("boom")(tell)
    program.main(["boom"])
    assert "error: over" in capsys.readouterr().err
