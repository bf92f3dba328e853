"""Tests that one device and several give the same bits.

The devices are forced host devices, in processes of their own.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from gradgen import runtime
from gradgen.images import decode
from gradgen.runs import run
from gradgen.runs.record import read_record
from tests.faults.runs import prepare
from tests.own_networks import WIDE

PROGRAM = """
import sys
from gradgen.runtime import configure
configure()
import jax, numpy as np
import gradgen
assert jax.local_device_count() == int(sys.argv[1]), jax.devices()
bundle, statistics, *classes = sys.argv[3:]
found = gradgen.sample(
    bundle, classes, "hmc", 7, 1, budget=20, num_integration_steps=4,
    chain_group=2, clip_mode="reject", statistics=statistics or None, start_candidates=4,
)
scores = gradgen.score(found.images, bundle, batch_size=4)
np.savez(
    sys.argv[2], codes=found.codes, images=found.images, scores=scores.log_probabilities,
    **found.traces.to_arrays(),
)
"""


def sampled(devices, path, *given):
    """The arrays of a run of a bundle (its name, a file of bounds, classes) on so many devices.

    XLA's thread pool has at least as many threads as there are devices, and the last bits of a
    product depend on the number of threads: NPROC sets it to one for all.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    flags += f" {runtime.CPU_FLAGS.get('0.10', '')}"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(devices), str(path), *given],
        env={**os.environ, "NPROC": "8", "XLA_FLAGS": flags.strip()},
        check=True,
        timeout=200,
    )
    with np.load(path) as stored:
        return dict(stored)


@pytest.mark.parametrize(
    "given",
    [
        (WIDE, "bounds.txt", "alpha", "beta"),
        pytest.param(("tiny64", "", "goldfish", "beacon"), marks=pytest.mark.slow),
    ],
    ids=lambda given: given[2],
)
def test_one_and_eight_devices_give_the_same_bits(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("bounds.txt", [3.0, 3.0])  # upper ones; the lower ones are 0
    # 8 groups: one a device; or eight on one
    one, eight = (sampled(count, tmp_path / f"{count}.npz", *given) for count in (1, 8))
    assert one.keys() == eight.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, eight[name], err_msg=name)
    assert len(np.unique(one["codes"], axis=0)) == 14


@pytest.fixture
def many(monkeypatch):
    """Runs of more than three chains count as too large for the memory."""
    prepare(monkeypatch, most=3)


GIVEN = {
    "start_candidates": 1,
    "classes": ("red", "blue"),
    "bundle": "tiny",
    "method": "mala",
    "budget": 20,
    "num_chains": 5,
    "chain_group": 2,
    "block_size": 5,
}


def test_a_streamed_run_writes_what_a_small_one_does(many, tmp_path, monkeypatch):
    stops = iter([False] * 9 + [True])
    begun = run.begin(GIVEN, out=tmp_path / "run")
    assert begun.streamed
    partial = begun.execute(stop=lambda: next(stops))
    assert partial.record.status == "interrupted"
    samples = run.resume(tmp_path / "run", {}).execute()
    record = read_record(tmp_path / "run")
    assert record.finished and samples.record.finished
    monkeypatch.setattr(run, "STREAMED", 1000)
    small = run.begin(GIVEN, out=tmp_path / "small").execute()
    paths = sorted((tmp_path / "run" / "pictures").rglob("*.png"))
    assert len(paths) == 10
    assert {path.parent.name for path in paths} == {"0000", "0001", "0002"}
    for path in paths:
        np.testing.assert_array_equal(decode(path), decode(tmp_path / "small" / path.name))
    # what is kept are the first chains of each class; the means are over all
    assert samples.chain.tolist() == [0, 1, 0, 1]
    assert record.pictures == tuple(
        f"pictures/0000/{name}-0{chain}.png" for name in ("red", "blue") for chain in (0, 1)
    )
    np.testing.assert_array_equal(samples.images, small.images[[0, 1, 5, 6]])
    for mine, theirs in zip(record.classes, small.record.classes, strict=True):
        assert mine.num_chains == theirs.num_chains == 5
        for name in ("log_likelihood", "acceptance", "squared_norm", "step_size"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=1e-6)
    parts = sorted((tmp_path / "run" / "chains").glob("*.npz"))
    codes = np.concatenate([np.load(part)["codes"] for part in parts])
    filled = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]  # without those that filled a group up
    np.testing.assert_array_equal(codes[filled], small.codes)


@pytest.mark.slow
def test_a_streamed_picture_is_made_again_from_its_recipe(many, tmp_path):
    run.begin({**GIVEN, "classes": ("blue",)}, out=tmp_path / "run").execute()
    picture = tmp_path / "run" / "pictures" / "0001" / "blue-03.png"
    samples = run.from_recipe(picture, {}, out=tmp_path / "again").execute()
    assert run.same_pixels(picture, samples.images[0])[0]
    run.begin({**GIVEN, "num_chains": 1}, out=tmp_path / "run", force=True).execute()
    assert not (tmp_path / "run" / "pictures").exists()
