"""Tests ``gradgen sample`` and ``gradgen show`` as a user meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gradgen.cli.app import main
from gradgen.cli.sample import STOPPING, stopped_by_interrupt
from gradgen.cli.show import rows
from gradgen.images import decode, read_recipe, save_png
from gradgen.runs import run
from gradgen.runs.plan import cpu_threads
from tests.own_networks import WIDE


def read_record(folder):
    return json.loads((folder / "run.json").read_text())


SMALL = ["--method", "mala", "--budget", "20", "--num-chains", "2", "--block-size", "5"]
SMALL += ["--bundle", "tiny64", "--start-candidates", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("made") / "run"
    assert main(["sample", "--class", "beacon", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_sample_says_beta_and_prints_table_and_paths(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--class", "n02814860", *SMALL, "--seed", "5"]) == 0
    shown = capsys.readouterr()
    weight = read_record(next((tmp_path / "runs").iterdir()))["settings"]["likelihood_weight"]
    assert f"β = {weight:g} (recommended by tiny64)" in shown.err
    assert "; bundle tiny64; " in shown.err
    assert "step 20/20" in shown.err
    folder = next((tmp_path / "runs").iterdir())
    assert folder.name.endswith("-beacon-mala-5")
    assert f"run   runs/{folder.name}" in shown.out
    assert f"grid  runs/{folder.name}/grid.png" in shown.out
    assert (tmp_path / "runs" / folder.name / "grid.png").exists()
    for heading in ("acceptance", "log p(class)", "‖z‖²", "R̂", "ESS"):
        assert heading in shown.out


def test_json_is_all_that_stdout_holds(made, capsys, tmp_path):
    picture = made / "beacon-01.png"
    arguments = ["sample", "--recipe", str(picture), "--out", str(tmp_path / "again"), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["same_pixels"] is True
    assert result["run"] == str(tmp_path / "again")
    assert result["pictures"] == ["beacon-01.png"]
    assert result["classes"][0]["name"] == "beacon"


def test_check_fails_where_pixels_differ_and_conditions_are_named(made, tmp_path, capsys):
    recipe = read_recipe(made / "beacon-01.png")
    assert recipe["device"]["threads"] == cpu_threads()
    recipe["device"]["threads"] += 1
    altered = tmp_path / "altered.png"
    pixels = np.array(decode(made / "beacon-01.png"))
    pixels[0, 0] ^= 1
    save_png(altered, pixels, recipe)
    arguments = ["sample", "--recipe", str(altered), "--out", str(tmp_path / "again")]
    assert main([*arguments, "--check"]) == 1
    shown = capsys.readouterr()
    assert f"threads {cpu_threads() + 1}, here {cpu_threads()}" in shown.err
    assert "not the same pixels" in shown.err and "1 of 4096 pixels" in shown.err


def test_show_prints_the_recipe_and_a_runs_record(made, capsys):
    assert main(["show", str(made / "beacon-00.png")]) == 0
    shown = capsys.readouterr()
    assert "settings.budget" in shown.out
    assert "gradgen sample --recipe" in shown.err
    assert main(["show", "--json", str(made / "beacon-00.png")]) == 0
    assert json.loads(capsys.readouterr().out)["chain"] == 0
    assert main(["show", "--json", str(made)]) == 0
    assert json.loads(capsys.readouterr().out) == read_record(made)
    assert main(["show", str(made)]) == 0
    assert "wall_time_s" in capsys.readouterr().out


def test_show_flattens_a_record_without_its_gaps():
    record = {"a": {"b": 1.0, "c": None}, "d": [{"e": "x" * 99}, {"e": [1, 2]}]}
    assert list(rows(record)) == [("a.b", "1"), ("d[0].e", "x" * 67 + "…"), ("d[1].e", "1, 2")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no class given"),
        (["--class", "beakon"], "beacon"),
        (["--class", "crane"], "n02012849"),
        (["--class", "beacon", "--budget", "0"], "--budget 0: must be a whole number"),
        (["--class", "beacon", "--budget", "many"], "--budget"),
        (["--class", "beacon", "--budget", "1" + 18 * "0"], "a whole number from 1 to 2147483647"),
        (["--class", "beacon", "-L", "10", "--budget", "5"], "leapfrog"),
        (["--class", "beacon", "--step-size", "nan"], "--step-size nan"),
        (["--class", "beacon", "--step-size", "tiny"], "--step-size 'tiny'"),
        (["--class", "beacon", "--method", "gibbs"], "map, mala, hmc"),
        (
            ["--class", "beacon", "--no-clip", "--clip-sigmas", "2"],
            "--clip-sigmas contradicts --no-clip",
        ),
        (
            ["--class", "beacon", "-m", "mala", "-L", "5"],
            "--num-integration-steps does nothing for mala",
        ),
        (["--class", "beacon", "--noise-decay", "0.5"], "--noise-decay does nothing for hmc"),
        (
            ["--class", "beacon", "-m", "map", "--target-acceptance", "0.7"],
            "belongs to mala and hmc",
        ),
        (
            ["--class", "beacon", "-m", "hmc", "--preset", "dgn-am"],
            "--preset dgn-am is a form of map",
        ),
        (["--class", "beacon", "--stats", "f.npz", "--clip-scope", "all"], "drop it or --stats"),
        (["--class", "beacon", "--stats", "missing.npz"], "missing.npz"),
        (["--class", "beacon", "--bundle", "missing"], "no bundle 'missing'"),
        (["--resume", "missing"], "not the folder of a run"),
        (["--resume", "a", "--recipe", "b"], "exclude each other"),
        (["--resume", "a", "--out", "b"], "drop --out"),
        (["--recipe", "missing.png"], "missing.png"),
        (["--class", "beacon", "--check"], "--check compares with the picture of --recipe"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    arguments, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", *arguments]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_resume_tells_of_a_finished_run_and_refuses_other_options(made, capsys):
    assert main(["sample", "--resume", str(made)]) == 0
    shown = capsys.readouterr()
    assert "is finished" in shown.err
    assert f"grid  {made / 'grid.png'}" in shown.out
    assert main(["sample", "--resume", str(made), "--seed", "9"]) == 2
    assert "--seed: 9, not 0" in capsys.readouterr().err


@pytest.mark.parametrize("number", STOPPING)
def test_a_request_to_stop_is_heard_and_the_second_one_stops_at_once(number, capsys):
    # under nohup, SIGHUP would be ignored from the start
    before = signal.signal(number, signal.default_int_handler)
    try:
        with stopped_by_interrupt() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert "finishing the block of steps" in capsys.readouterr().err


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_interrupt() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in STOPPING[1:])],
)
def test_ctrl_c_leaves_pictures_and_a_run_that_resumes_to_the_same_bits(number, tmp_path):
    given = {"classes": ("beacon",), "method": "mala", "budget": 150, "num_chains": 2}
    given |= {"block_size": 5, "step_size": 0.05, "bundle": "tiny64"}
    options = [f"--{name.replace('_', '-')}={v}" for name, v in given.items() if name != "classes"]
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "gradgen", "sample", "--class=beacon", f"--out={folder}"]
    # A shell that runs the tests in the background has them ignore Ctrl-C, which children inherit.
    before = signal.signal(number, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    signal.signal(number, before)
    try:
        deadline = time.monotonic() + 120
        state = folder / "checkpoint" / "state-0000000.npz"
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "gradgen sample --resume" in err
    assert "Traceback" not in err
    assert "interrupted" in out
    record = read_record(folder)
    assert record["status"] == "interrupted"
    assert 0 < record["classes"][0]["steps"][0] < 150
    assert (folder / "grid.png").exists()

    assert main(["sample", "--resume", str(folder)]) == 0
    undisturbed = run.begin(given, out=tmp_path / "undisturbed").execute()
    with np.load(folder / "chains.npz") as resumed:
        for name, values in undisturbed.arrays().items():
            np.testing.assert_array_equal(resumed[name], values, err_msg=name)


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_can_be_resumed(tmp_path):
    terminal, its_side = os.openpty()
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "gradgen", "sample", "--class=beacon", f"--out={folder}"]
    with subprocess.Popen(
        [*command, *SMALL, "--budget=2000"],
        stdout=its_side,
        stderr=its_side,
        start_new_session=True,
    ) as process:
        os.close(its_side)
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.close(terminal)  # what is printed from now on is an error
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=120) == 130
    assert read_record(folder)["status"] == "interrupted"
    assert (folder / "grid.png").exists()


def test_low_precision_gradients_are_recorded_and_change_the_chains(made, tmp_path):
    folder = tmp_path / "coarse"
    arguments = ["sample", "--class", "beacon", *SMALL, "--gradient-precision", "bf16"]
    assert main([*arguments, "--out", str(folder)]) == 0
    coarse, fine = read_record(folder), read_record(made)
    assert coarse["settings"]["gradient_precision"] == "bfloat16"
    assert fine["settings"]["gradient_precision"] == "float32"
    with np.load(folder / "chains.npz") as mine, np.load(made / "chains.npz") as theirs:
        assert mine["codes"].shape == theirs["codes"].shape
        assert (mine["codes"] != theirs["codes"]).any()


def test_an_unknown_precision_is_refused(capsys):
    assert main(["sample", "--class", "beacon", "--gradient-precision", "float8"]) == 2
    assert "float32, bfloat16" in capsys.readouterr().err


def test_a_single_chain_is_told_of_in_the_singular(capsys, tmp_path):
    arguments = ["sample", "--bundle", WIDE, "--class", "alpha", "-m", "mala", "--budget", "1"]
    arguments += ["-n", "1", "--step-size", "0.02"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "; 1 chain; " in shown.err
    assert "budget 1 gradient evaluation;" in shown.err
    assert "2 gradient evaluations a chain" in shown.out
