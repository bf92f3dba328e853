"""Tests writing that fails at any point, links that were there before, locks, and false sizes."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gradgen import files
from gradgen.errors import GradgenError, GradgenWarning, UsageError

OLD, NEW = b"old content", b"new content, longer than the old one" * 100
# All that writing asks of the operating system; whatever fails, it fails in one of these.
OPERATIONS = ("open", "write", "fsync", "replace", "mkdir", "close")


class Broken:
    """Makes the n-th of the operations fail, counting from 0."""

    def __init__(self, monkeypatch, number, code):
        self.left, self.names = number, []
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name), code))

    def _wrapped(self, name, real, code):
        def call(*args, **kwargs):
            self.names.append(name)
            self.left -= 1
            if self.left == -1:
                if name == "close":  # it closes all the same
                    real(*args, **kwargs)
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("there", [True, False])
def test_whatever_fails_while_writing_the_file_is_old_or_new_and_nothing_is_left(
    tmp_path, code, there
):
    number, failures = 0, 0
    while True:
        path = tmp_path / str(number) / "file"
        if there:
            path.parent.mkdir()
            path.write_bytes(OLD)
        with pytest.MonkeyPatch.context() as patch:
            broken = Broken(patch, number, code)
            said = None
            try:
                files.write_atomically(path, NEW)
            except OSError as error:
                said = (error.errno, error.filename)
        if broken.left >= 0:  # it got by with fewer operations
            break
        if said is None:  # to make a folder may fail where there is one
            assert path.read_bytes() == NEW
        else:
            failures += 1
            assert said == (code, str(path))
        replaced = "replace" in broken.names[:-1]  # and did not fail itself
        if said is not None:
            expected = NEW if replaced else OLD if there else None
            assert (path.read_bytes() if path.exists() else None) == expected
        assert [p.name for p in path.parent.glob("*")] == (["file"] if path.exists() else [])
        number += 1
    assert path.read_bytes() == NEW
    assert failures >= number - 1 and failures >= 8


def test_the_disk_has_the_content_before_the_name_and_the_name_before_it_returns(
    tmp_path, monkeypatch
):
    seen = Broken(monkeypatch, 10**9, 0)
    files.write_atomically(tmp_path / "file", NEW)
    order = [name for name in seen.names if name in ("write", "fsync", "replace")]
    assert order == ["write", "fsync", "replace", "fsync"]


def test_a_write_that_takes_only_a_part_goes_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    files.write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_full_disk_keeps_what_was_there(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no small disk can be mounted here")
    try:
        files.write_atomically(disk / "file", OLD)
        with pytest.raises(OSError, match="No space left") as caught:
            files.write_atomically(disk / "file", bytes(100_000))
        assert caught.value.filename == str(disk / "file")
        assert [(path.name, path.read_bytes()) for path in disk.iterdir()] == [("file", OLD)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_may_not_be_written_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError) as caught:
        files.write_atomically(tmp_path / "file", NEW)
    assert caught.value.filename == str(tmp_path / "file")


def test_a_folder_that_is_gone_is_not_made_again_where_it_should_be_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_atomically(tmp_path / "run" / "file", NEW, parents=False)
    assert list(tmp_path.iterdir()) == []


def test_a_link_laid_in_advance_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    (tmp_path / "file").symlink_to(victim)
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(victim)  # the name it once wrote to
    files.write_atomically(tmp_path / "file", NEW)
    assert victim.read_bytes() == OLD
    assert (tmp_path / "file").read_bytes() == NEW and not (tmp_path / "file").is_symlink()


def test_a_temporary_name_that_is_taken_is_left_alone(tmp_path, monkeypatch):
    guesses = iter([bytes(8), bytes(8), b"12345678", *[b"87654321"] * 9])
    monkeypatch.setattr(os, "urandom", lambda _: next(guesses))
    laid = tmp_path / f"{files.TEMPORARY_PREFIX}{'00' * 8}{files.TEMPORARY_SUFFIX}"
    laid.symlink_to(tmp_path / "victim")
    files.write_atomically(tmp_path / "file", NEW)
    assert not (tmp_path / "victim").exists() and laid.is_symlink()


def test_files_have_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "file", NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_removing_a_folder_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").touch()
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "link").symlink_to(outside)
    assert files.remove_tree(folder) and not folder.exists()
    folder.symlink_to(outside)
    assert files.remove_tree(folder) and not folder.is_symlink()
    assert not files.remove_tree(folder) and not files.remove_file(folder)
    assert (outside / "thesis.tex").exists()


# --- locks ------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from gradgen.files import locked
with locked(Path(sys.argv[1]), "runs/x"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_other_processes_out_until_its_holder_is_killed(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UsageError, match="^runs/x is being worked on by another process$"),
            files.locked(path, "runs/x"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with files.locked(path, "runs/x"):
            pass


def test_the_other_kind_of_lock_does_the_same(tmp_path):
    with (
        files._locked_on_windows(tmp_path / "lock", "runs/x", wait=False),
        pytest.raises(UsageError, match="another process"),
        files._locked_on_windows(tmp_path / "lock", "runs/x", wait=False),
    ):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_lock_is_a_warning_and_not_a_refusal(tmp_path, monkeypatch, code):
    import fcntl

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = False
    with (
        pytest.warns(GradgenWarning, match="runs/x: this disk cannot lock files"),
        files.locked(tmp_path / "lock", "runs/x"),
    ):
        done = True
    assert done


def test_a_lock_neither_follows_a_link_nor_empties_a_file(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    with files.locked(victim, "it"):
        assert victim.read_bytes() == OLD
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="lock"), files.locked(tmp_path / "lock", "it"):
        pass


# --- reading ----------------------------------------------------------------------------------


def test_json_is_strict_in_both_directions():
    value = {"a": [1.5, float("nan"), {"b": float("inf")}], "β": (True, None, "é", -7)}
    text = files.json_text(value)
    assert files.parse_json(text, "it") == {
        "a": [1.5, None, {"b": None}],
        "β": [True, None, "é", -7],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff{}", "it is not JSON (not UTF-8 at byte 0)"),
        (b'{"a": NaN}', "it is not JSON (NaN is no number of JSON)"),
        (b'{"a": -Infinity}', "it is not JSON (-Infinity is no number of JSON)"),
        (b'{"a": 1e999}', "it is not JSON (a number too large)"),
        (b'{"a": %s}' % (b"9" * 5000), "it is not JSON (a whole number of 5000 digits)"),
        (rb'{"a": ["\ud800"]}', "it is not JSON (half a character: a lone surrogate)"),
        (rb'{"\udfff": 1}', "it is not JSON (half a character: a lone surrogate)"),
        (b"[" * 200_000, "it is not JSON that is read here (nested too deep)"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "it: nested too deep, more than 64 levels"),
        (b"[1, 2]", "it: the JSON in it is not an object"),
        (b"", "it is not JSON (Expecting value: line 1 column 1 (char 0))"),
    ],
)
def test_hostile_json_is_one_clear_error(content, message):
    with pytest.raises(GradgenError) as caught:
        files.parse_json(content, "it")
    assert str(caught.value) == message


def test_only_regular_files_of_a_stated_size_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "%s"}' % (b"x" * 100))
    assert files.read_json(path, limit=200)["a"] == "x" * 100
    with pytest.raises(GradgenError, match=r"a\.json is too large: more than 50 bytes are refused"):
        files.read_json(path, limit=50)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(GradgenError, match="is not a regular file"):
            files.read_json(tmp_path / name)
        with pytest.raises(GradgenError, match="is not a regular file"):
            files.load_npz(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "gone")


def test_arrays_come_back_as_numpy_wrote_them(tmp_path):
    arrays = {
        "f": np.asfortranarray(np.random.default_rng(0).standard_normal((3, 4))),
        "i": np.arange(5),
        "none": np.zeros((0, 7), np.float32),
        "single": np.array(2.5),
        "text": np.array(["a", "longer"]),
        "big-endian": np.arange(4, dtype=">i2"),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = files.load_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    chosen = files.load_npz(tmp_path / "a.npz", ("i",), optional=("text", "gone"))
    assert chosen.keys() == {"i", "text"}
    with pytest.raises(GradgenError, match=r"a\.npz lacks gone"):
        files.load_npz(tmp_path / "a.npz", ("i", "gone"))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, small=np.arange(3), large=np.zeros(30_000_000, np.uint8))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(GradgenError, match="large unpacks to 30000128 bytes"):
            files.load_npz(path, limit=10**6)
        found = files.load_npz(path, ("small",), limit=10**6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found["small"].tolist() == [0, 1, 2]
    assert peak < 2e6


def test_a_header_that_asks_for_more_than_the_file_has_takes_no_memory(tmp_path):
    path = tmp_path / "liar.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000,), }\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("z.npy", content)
    with pytest.raises(GradgenError, match="its header says 7200000000"):
        files.load_npz(path)


def test_arrays_of_python_objects_are_refused_and_run_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "trap.npz", z=np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(GradgenError, match="holds object, neither numbers nor text"):
        files.load_npz(tmp_path / "trap.npz")
    np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(GradgenError, match="holds object, neither numbers nor text"):
        files.load_npy(tmp_path / "trap.npy")
    assert not (tmp_path / "sprung").exists()
