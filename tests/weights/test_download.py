"""Tests downloads from a server on loopback that breaks off, lies, changes files or is slow."""

import hashlib
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

from gradgen.errors import GradgenError, UsageError
from gradgen.weights import download as downloading
from gradgen.weights.download import Source, digest, download, drop_unproven, remember
from tests.web_server import Server

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA1 = ("sha1", hashlib.sha1(CONTENT).hexdigest())
QUICK = {"attempts": 3, "backoff": 0.01, "timeout": 5.0}


@pytest.fixture
def server():
    made = Server()
    made.files["net.bin"] = CONTENT
    made.etags["net.bin"] = '"one"'
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("GRADGEN_OFFLINE", "GRADGEN_MIRROR"):
        monkeypatch.delenv(name, raising=False)


def get(server, folder, checksum=SHA1, name="net.bin", **options):
    return download(Source(f"{server.url}/{name}", checksum), folder, **{**QUICK, **options})


def left_over(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix not in (".lock", ".json"))


@pytest.mark.parametrize(
    "checksum",
    [
        SHA1,
        ("sha256", hashlib.sha256(CONTENT).hexdigest()),
        ("git blob", hashlib.sha1(b"blob 300000\0" + CONTENT).hexdigest()),
        None,
    ],
)
def test_a_file_arrives_whole_is_checked_and_asked_for_once(server, tmp_path, checksum):
    seen = []
    path = get(server, tmp_path, checksum, on_progress=lambda *n: seen.append(n))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (300_000, 300_000)
    assert get(server, tmp_path, checksum) == path
    assert server.asked["net.bin"] == 1
    assert left_over(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([("break", 100_000)], 2),
        ([("break", 100_000), ("break", 100_000)], 3),
        ([("long", 5000)], 2),
        ([500, 503, ("break", 7)], 4),
        ([429], 2),
        ([("break", 100_000), ("no range",)], 2),
        ([("break", 100_000), ("wrong range",)], 3),
        ([("break", 100_000), 416], 3),
        ([("break", 50_000)] * 5, 6),  # more failures than attempts, but each brings it further
        ([("page", b"")], 2),
        ([("nothing",), ("garbage",)], 3),
        ([("break", 100_000), ("end", -9)], 3),
        ([("break", 100_000), ("total", 9)], 3),
        ([("break", 100_000), ("page", b"")], 3),
        ([("chunks",)], 1),
        ([("no length",)], 1),
        ([("broken chunks",)], 2),
    ],
)
@pytest.mark.parametrize("checksum", [SHA1, None])
def test_a_download_that_fails_goes_on(server, tmp_path, faults, requests, checksum):
    server.faults["net.bin"] = list(faults)
    assert get(server, tmp_path, checksum).read_bytes() == CONTENT
    if checksum is not None:  # without, it begins anew where in doubt
        assert server.asked["net.bin"] == requests


def test_a_download_goes_on_where_it_stopped_also_in_another_session(server, tmp_path):
    server.faults["net.bin"] = [("break", 100_000), 500, 500, 500]
    with pytest.raises(GradgenError, match=r"answers 500 .*100000 bytes are kept"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, *["bytes=100000-"] * 4]


def test_a_file_that_changed_meanwhile_is_not_joined_to_its_old_beginning(server, tmp_path):
    server.faults["net.bin"] = [("break", 100_000), 500, 500, 500]
    with pytest.raises(GradgenError):
        get(server, tmp_path, None)
    changed = bytes(reversed(CONTENT))
    server.files["net.bin"], server.etags["net.bin"] = changed, '"two"'
    assert get(server, tmp_path, None).read_bytes() == changed


def test_a_stale_beginning_that_the_server_cannot_tell_is_found_by_the_checksum(server, tmp_path):
    server.files["net.bin"], server.etags["net.bin"] = bytes(reversed(CONTENT)), None
    server.faults["net.bin"] = [("break", 100_000), 500, 500, 500]
    with pytest.raises(GradgenError):
        get(server, tmp_path)
    server.files["net.bin"] = CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT  # after a second, whole, transfer
    assert server.ranges[-2:] == ["bytes=100000-", None]


@pytest.mark.parametrize("fault", [("short", 1000), None])
def test_what_is_not_the_published_file_is_refused_and_nothing_is_kept(server, tmp_path, fault):
    server.faults["net.bin"] = [fault]
    wanted = SHA1 if fault else ("sha1", "0" * 40)
    with pytest.raises(GradgenError, match="not the published one"):
        get(server, tmp_path, wanted)
    assert left_over(tmp_path) == []


def test_without_a_published_checksum_the_first_one_that_proved_itself_counts(server, tmp_path):
    source = Source(f"{server.url}/net.bin")
    server.faults["net.bin"] = [("page", b"the disk of the server is on fire")]
    bad = get(server, tmp_path, None)
    assert drop_unproven(source, tmp_path) and not bad.exists()
    good = get(server, tmp_path, None)  # nothing was remembered of the bad one
    assert good.read_bytes() == CONTENT
    remember(good, source, tmp_path)
    assert not drop_unproven(source, tmp_path)
    good.unlink()
    server.files["net.bin"] = CONTENT[::-1]
    with pytest.raises(GradgenError, match=r"differs from the one used at first.*checksums\.json"):
        get(server, tmp_path, None)
    assert left_over(tmp_path) == []
    server.files["net.bin"] = CONTENT
    assert get(server, tmp_path, None).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [SHA1, None])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("page", b""), "empty file"),
        (("nothing",), "attempts"),
        (("garbage",), "attempts"),
        (("packed",), "packed"),
        (("page", b"\n <!DOCTYPE html><title>Sorry</title>"), "web page"),
        (("page", b"<?xml version='1.0'?><Error>NoSuchKey</Error>"), "web page"),
        (("endless",), "more than"),
    ],
)
def test_a_server_that_never_sends_the_file_leaves_nothing_that_counts(
    server, tmp_path, fault, message, checksum, monkeypatch
):
    monkeypatch.setattr(downloading, "LARGEST", 10**6)
    server.faults["net.bin"] = [fault] * 20
    with pytest.raises(GradgenError, match=message):
        get(server, tmp_path, checksum)
    assert [name for name in left_over(tmp_path) if not name.endswith(".part")] == []
    server.faults["net.bin"] = []
    assert get(server, tmp_path, checksum).read_bytes() == CONTENT


def test_notes_beside_the_downloads_that_are_broken_are_as_if_there_were_none(server, tmp_path):
    source = Source(f"{server.url}/net.bin")
    (tmp_path / "checksums.json").write_bytes(b"\xff" * 100)
    server.faults["net.bin"] = [("break", 100_000), 500, 500, 500]
    with pytest.raises(GradgenError):
        get(server, tmp_path)
    (tmp_path / f"{source.file_name}.part.json").write_text(
        '{"url": 7, "validator": [], "total": {'
    )
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "message"),
    [(404, "404"), (403, "403"), (410, "410"), (("html",), "web page"), (451, "451")],
)
def test_what_will_not_get_better_is_asked_for_once(server, tmp_path, fault, message):
    server.faults["net.bin"] = [fault]
    with pytest.raises(GradgenError, match=message):
        get(server, tmp_path)
    assert server.asked["net.bin"] == 1
    assert left_over(tmp_path) == []


def test_redirects_are_followed_and_circles_are_left(server, tmp_path):
    server.files["moved.bin"] = CONTENT
    server.faults["net.bin"] = [("redirect", "moved.bin")]
    assert get(server, tmp_path).read_bytes() == CONTENT
    server.faults["circle"] = [("redirect", "circle")] * 1000
    with pytest.raises(GradgenError, match=r"(?i)redirects"):
        get(server, tmp_path, name="circle", attempts=1)


def test_a_server_that_falls_silent_is_asked_again(server, tmp_path):
    server.faults["net.bin"] = [("slow", 3.0)]
    assert get(server, tmp_path, timeout=0.5).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=150000-"]


def test_no_server_at_all_is_one_clear_line(server, tmp_path):
    server.close()
    with pytest.raises(GradgenError, match=r"net\.bin: .*refused.*\(3 attempts\)"):
        get(server, tmp_path)


def test_two_that_ask_at_once_share_one_download(server, tmp_path):
    server.faults["net.bin"] = [("slow", 0.3)]
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(get(server, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert server.asked["net.bin"] == 1


def test_offline_uses_what_is_there_and_nothing_else(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADGEN_OFFLINE", "1")
    with pytest.raises(GradgenError, match="offline"):
        get(server, tmp_path)
    path = get(server, tmp_path, offline=False)
    assert get(server, tmp_path) == path
    assert server.asked["net.bin"] == 1


def test_a_mirror_has_the_file_under_its_name(server, tmp_path):
    source = Source("http://no-such-host.invalid/far/away/net.bin", SHA1)
    path = download(source, tmp_path, mirror=f"{server.url}/", **QUICK)
    assert path.read_bytes() == CONTENT
    with pytest.raises(UsageError, match="must begin with http"):
        download(Source("http://a.invalid/b", SHA1), tmp_path, mirror="ftp://mirror", **QUICK)


def test_equal_names_from_different_places_do_not_collide(server, tmp_path):
    server.files["other/net.bin"] = b"another"
    assert get(server, tmp_path) != get(server, tmp_path, None, name="other/net.bin")


# A limit on the size of files stands in for a full disk: both make the write fail halfway.
FULL = """
import resource, signal, sys
from pathlib import Path
from gradgen.errors import GradgenError
from gradgen.weights.download import Source, download
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    download(Source(sys.argv[1]), Path(sys.argv[2]), attempts=2, backoff=0.01)
except GradgenError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits on file sizes here")
def test_a_full_disk_is_one_clear_line_and_the_download_goes_on_later(server, tmp_path):
    command = [sys.executable, "-c", FULL, f"{server.url}/net.bin", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "make room and ask again" in said and said.count("\n") == 1
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1].startswith("bytes=")


def test_git_blob_ids_are_those_of_git(tmp_path):
    # printf 'hello\n' | git hash-object --stdin
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert digest(tmp_path / "hello", "git blob") == "ce013625030ba8dba906f756967f9e9ca394464a"
