"""What is removed from a run's folder, by whom, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gradgen import files
from gradgen.errors import GradgenError, UsageError
from gradgen.runs import run
from gradgen.runs.folder import clear_run
from gradgen.runs.record import read_record, write_record
from tests.faults.runs import SMALL, prepare

GIVEN = SMALL | {"classes": ("red", "blue"), "method": "mala"}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    prepare(monkeypatch)


def stop_after(count):
    left = iter([False] * (count - 1))
    return lambda: next(left, True)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_live_run_is_not_replaced(tmp_path):
    folder = tmp_path / "run"
    begun = run.begin(GIVEN, out=folder)
    refused = []

    def meanwhile(_):
        if not refused:
            before = names(folder), names(folder / "checkpoint")
            with pytest.raises(UsageError) as caught:
                run.begin(GIVEN, out=folder, force=True)
            refused.append(str(caught.value))
            assert (names(folder), names(folder / "checkpoint")) == before

    assert begun.execute(on_progress=meanwhile).record.finished
    assert refused == [f"{folder} is being worked on by another process"]


def test_a_live_host_of_a_run_keeps_it_from_being_replaced(tmp_path):
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    (folder / "checkpoint").mkdir()
    with (
        files.locked(folder / "checkpoint" / "lock-1", "it"),
        pytest.raises(UsageError, match="another process"),
    ):
        clear_run(folder)
    clear_run(folder)
    assert names(folder) == set()


def test_what_another_process_has_finished_is_not_done_again(tmp_path):
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    first, second = run.resume(folder, {}), run.resume(folder, {})
    assert first.execute().record.finished
    with pytest.raises(UsageError, match="another process has finished .*run in the meantime"):
        second.execute()
    assert read_record(folder).finished


def test_a_tampered_record_makes_force_remove_nothing_of_others(tmp_path):
    folder = tmp_path / "run"
    run.begin(GIVEN, out=folder).execute()
    others = ["thesis.tex", "holiday.png", "red-1.png", "red-99.png", "diagnosis-of-my-cat.png"]
    others += ["pictures/holiday.png", "pictures/0000/mine.png", "checkpoint/notes.txt"]
    others += ["chains/mine.npz"]
    for name in others:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    record = read_record(folder)
    write_record(folder, replace(record, pictures=tuple(others), picture_folder="pictures"))
    clear_run(folder)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == set(others)


def test_pictures_of_a_run_that_was_killed_before_it_listed_them_are_replaced(tmp_path):
    folder = tmp_path / "run"
    run.begin(GIVEN, out=folder).execute()
    stored = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(stored | {"pictures": None}))
    (folder / ".gradgen-0123456789abcdef.tmp").touch()
    clear_run(folder)
    assert names(folder) == set()


def test_a_link_in_a_runs_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    (outside / "0000").mkdir(parents=True)
    for name in ("part-0000000.npz", "0000/red-00.png"):
        (outside / name).touch()
    folder = tmp_path / "run"
    run.begin(GIVEN, out=folder).execute()
    for name in ("checkpoint", "chains", "pictures"):
        (folder / name).symlink_to(outside)
    clear_run(folder)
    assert {path.name for path in outside.rglob("*.*")} == {"part-0000000.npz", "red-00.png"}


def test_a_temporary_file_of_a_killed_process_does_not_stand_in_the_way(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".gradgen-0123456789abcdef.tmp").touch()
    run.begin(GIVEN, out=folder).execute()
    assert not any(files.is_leftover(path) for path in folder.iterdir())


def test_a_folder_that_is_removed_during_the_run_is_an_error_and_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    begun = run.begin(GIVEN, out=folder)

    def remove(_):
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(GradgenError, match=f"^{folder} is gone: it was removed or renamed"):
        begun.execute(on_progress=remove)
    assert not folder.exists()


def test_a_checkpoint_that_is_not_the_runs_is_one_clear_error(tmp_path):
    folder = tmp_path / "run"
    run.begin(GIVEN, out=folder).execute(stop=stop_after(1))
    state = folder / "checkpoint" / "state-0000000.npz"
    good = files.load_npz(state)

    def refused(**changes):
        state.write_bytes(files.npz_bytes(good | changes))
        with pytest.raises(GradgenError, match=r"state-0000000\.npz is a broken checkpoint") as c:
            run.resume(folder, {})
        assert "\n" not in str(c.value)
        return str(c.value)

    assert "not the run's" in refused(groups=np.array([4]))
    assert "not the run's" in refused(groups=np.array([-1]))
    assert "no groups" in refused(groups=np.array([0.5]))
    assert "no groups" in refused(groups=np.zeros(0, int))
    assert "(2, 4)" in refused(state_position=np.zeros((2, 5), np.float32))
    assert "different numbers" in refused(state_gradient=np.zeros((3, 4), np.float32))
    assert "no numbers" in refused(state_log_density=np.array(["a", "b"]))
    assert "negative" in refused(state_step=np.int32(-1))
    del good["state_position"]
    assert "position" in refused()
    state.write_bytes(b"")
    with pytest.raises(GradgenError, match="is a broken checkpoint"):
        run.resume(folder, {})


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    folder = tmp_path / "run"
    run.begin(GIVEN, out=folder).execute(stop=stop_after(1))
    state = folder / "checkpoint" / "state-0000000.npz"
    bomb = np.zeros((2, 10_000_000), np.uint8)
    np.savez_compressed(state, **files.load_npz(state), bomb=bomb)
    with pytest.raises(GradgenError, match="bomb unpacks to 20000128 bytes"):
        run.resume(folder, {})


def test_a_slow_disk_gets_its_checkpoints_less_often(monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_INTERVAL", 1.0)
    assert run.interval_after(0.001) == 1.0
    assert run.interval_after(0.5) == 50.0


def test_an_animated_run_says_so_in_its_record(tmp_path):
    assert run.begin(GIVEN, out=tmp_path / "still").record.animate is None
    folder = run.begin(GIVEN, out=tmp_path / "run", animate=True).folder
    assert read_record(folder).animate is True
    run.resume(folder, {}).execute()  # killed before its first frame
    assert (folder / "animation.webp").is_file()
    assert read_record(folder).animate is True


def test_the_record_of_a_run_that_resumes_is_the_one_of_whoever_works_on_it(tmp_path):
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    begun = run.resume(folder, {})
    before = (folder / "run.json").read_bytes()
    with pytest.raises(RuntimeError, match="stop"):
        begun.execute(on_progress=lambda _: (_ for _ in ()).throw(RuntimeError("stop")))
    assert read_record(folder).status == "running"
    assert json.loads(before)["created"] == read_record(folder).created


def test_a_process_that_holds_a_run_and_is_killed_lets_it_go(tmp_path):
    folder = run.begin(GIVEN, out=tmp_path / "run").folder
    (folder / "checkpoint").mkdir()
    code = (
        "import sys, time; from pathlib import Path; from gradgen.files import locked\n"
        "with locked(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"
    )
    lock = folder / "checkpoint" / "lock-0"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another process"):
            run.begin(GIVEN, out=folder, force=True)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    run.begin(GIVEN, out=folder, force=True)
