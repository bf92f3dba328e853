"""Tests how several hosts divide a run, and runs two real processes on loopback."""

import json
import os
import socket
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gradgen import load_bundle, score
from gradgen.code_bounds import from_images, load_statistics
from gradgen.errors import GradgenError, UsageError
from gradgen.hosts import Hosts, connect
from gradgen.images import decode, find_images
from gradgen.runs import run
from gradgen.runs.record import read_record
from tests.own_networks import WIDE

SHORT = {
    "start_candidates": 1,
    "method": "mala",
    "budget": 20,
    "num_chains": 4,
    "chain_group": 2,
    "block_size": 5,
    "seed": 7,
}


@pytest.fixture(
    scope="module",
    params=[
        (WIDE, "alpha", "beta"),
        pytest.param(("tiny64", "goldfish", "beacon"), marks=pytest.mark.slow),
    ],
    ids=["plane", "tiny64"],
)
def given(request):
    """Settings of a run of two classes."""
    bundle, *classes = request.param
    return SHORT | {"bundle": bundle, "classes": tuple(classes)}


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """A run of one host alone: its folder."""
    begun = run.begin(given, out=tmp_path_factory.mktemp("whole") / "run")
    begun.execute()
    return begun.folder


def assert_same_pictures(folder, other):
    names = read_record(other).pictures
    assert len(names) == 8 and read_record(folder).pictures == names
    for name in names:
        np.testing.assert_array_equal(decode(folder / name), decode(other / name))
    with np.load(folder / "chains.npz") as mine, np.load(other / "chains.npz") as theirs:
        for name in theirs:
            np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


@hypothesis.given(st.integers(0, 1000), st.integers(1, 20))
def test_hosts_share_everything_once_and_evenly(things, hosts):
    shares = [list(Hosts(index, hosts).share(things)) for index in range(hosts)]
    assert [thing for share in shares for thing in share] == list(range(things))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def start(process_id, port, *arguments):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [
            sys.executable, "-m", "gradgen", *arguments, "--distributed", "--coordinator",
            f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", str(process_id),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def two_processes(*arguments):
    """(standard output, standard error) of both."""
    port = free_port()
    processes = [start(index, port, *arguments) for index in range(2)]
    try:
        ended = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:  # those that a busy machine has not let end
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], ended
    assert ended[1][0] == ""  # only the first one has something to say
    return ended


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_make_the_run_of_one(given, whole, tmp_path):
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in given.items() if name != "classes"
    ]
    out = tmp_path / "run"
    classes = [f"--class={name}" for name in given["classes"]]
    ended = two_processes("sample", *classes, f"--out={out}", "--json", *options)
    assert json.loads(ended[0][0])["num_hosts"] == 2  # nothing else on standard output
    assert_same_pictures(out, whole)
    assert not (out / "checkpoint").exists()


def test_what_a_dead_host_leaves_is_finished_by_one_alone(given, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_INTERVAL", 0.0)
    folder, session = tmp_path / "run", 11
    batches = {**given, "chain_batch": 2}  # two batches a host
    first = run.begin(batches, out=folder, hosts=Hosts(0, 2, session))
    second = run.begin(batches, out=folder, hosts=Hosts(1, 2, session))
    steps = []

    def dies(block):
        steps.append(block.step)
        if len(steps) == 6:  # in its second batch
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        second.take_part(on_progress=dies)
    monkeypatch.setattr("gradgen.hosts.SILENCE", 0.2)
    samples = first.execute()
    assert samples.record.status == "interrupted"
    assert samples.record.silent_hosts == (1,)
    resumed = run.resume(folder, {"bundle": given["bundle"]})
    assert sorted(resumed.finished) == [0, 1, 2]
    assert [one.groups for one in resumed.checkpoints] == [(3,)]
    assert resumed.execute().record.finished
    assert_same_pictures(folder, whole)


@pytest.mark.slow
def test_a_run_of_one_host_is_finished_by_two(given, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_INTERVAL", 0.0)
    folder = tmp_path / "run"
    stops = iter([False, False, True])
    # all four groups in one batch, which is then torn apart between the hosts
    run.begin({**given, "chain_batch": 8}, out=folder).execute(stop=lambda: next(stops))
    batches = {"bundle": given["bundle"], "chain_batch": 4}
    hosts = [run.resume(folder, batches, hosts=Hosts(index, 2, 5)) for index in range(2)]
    assert [one.groups for host in hosts for one in host.checkpoints] == [(0, 1), (2, 3)]
    assert hosts[1].take_part()
    assert hosts[0].execute().record.finished
    assert_same_pictures(folder, whole)


def test_a_folder_that_is_not_shared_is_a_clear_error(given, tmp_path, monkeypatch):
    monkeypatch.setattr("gradgen.hosts.SILENCE", 0.1)
    with pytest.raises(GradgenError, match="shared file system"):
        run.begin(given, out=tmp_path / "mine", hosts=Hosts(1, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1", 2, None), "belong together"),
        (("127.0.0.1:1", 2, 2), "process-id 2: must be from 0 to 1"),
        (("nowhere", 2, 0), "HOST:PORT"),
    ],
)
def test_hosts_that_cannot_be_are_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        connect(*arguments)
    assert "\n" not in str(caught.value)


def test_without_a_cluster_distributed_says_what_to_give():
    # a process of its own: JAX meets others only before it has done anything else
    ended = subprocess.run(
        [sys.executable, "-m", "gradgen", "sample", "--class=beacon", "--distributed"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "no cluster found" in ended.stderr and "--coordinator HOST:PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_processes_score_and_measure_what_one_does(given, whole, tmp_path):
    bundle = given["bundle"]
    pictures = sorted(whole.glob("*-0?.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:200])
    ended = two_processes("score", str(whole), "--json", f"--bundle={bundle}")
    one = score([whole], bundle).to_dict()
    assert json.loads(ended[0][0]) == json.loads(json.dumps(one))
    assert len(one["images"]) > 4

    out = tmp_path / "stats.npz"
    images = [f"--images={path}" for path in (whole, broken)]
    two_processes("stats", *images, f"--out={out}", f"--bundle={bundle}")
    alone = from_images(load_bundle(bundle), [*find_images([str(whole)]), broken])
    shared = load_statistics(out)
    assert shared.record["count"] == alone.record["count"] == len(one["images"])
    assert shared.record["unreadable_files"] == alone.record["unreadable_files"]
    # merged in another order: double precision, then rounded to float32
    np.testing.assert_allclose(shared.mean, alone.mean, rtol=2**-23, atol=1e-12)
    np.testing.assert_allclose(shared.std, alone.std, rtol=2**-23, atol=1e-12)
