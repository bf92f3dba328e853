"""Tests that an unfinished run and a picture's recipe of an earlier version still work.

Commit 5a4dad3 wrote the files in tests/data/earlier.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradgen.images import decode, read_recipe
from gradgen.runs import run
from gradgen.runs.plan import device
from gradgen.runs.record import DeviceRecord

EARLIER = Path(__file__).parents[1] / "data" / "earlier"
# On another processor, or with another number of threads, the last bits of a code differ, and a
# few pixels by a level or two of 256.
FEW_LEVELS = 3


def assert_same_picture(image, picture):
    recorded = DeviceRecord(**read_recipe(picture)["device"])
    gap = np.abs(image.astype(int) - np.asarray(decode(picture)).astype(int))
    assert gap.max() <= FEW_LEVELS and (gap > 0).mean() < 0.05
    if replace(recorded, threads=recorded.cores) == device():
        assert gap.max() == 0


def test_a_run_that_an_earlier_version_began_is_finished(tmp_path):
    folder = tmp_path / "begun"
    shutil.copytree(EARLIER / "begun", folder)
    begun = run.resume(folder, {})
    assert begun.gradients[0] > 1  # it goes on, and does not begin anew
    samples = begun.execute()
    assert samples.record.finished and samples.record.classes[0].steps == (80, 80)
    for chain in (0, 1):
        assert_same_picture(samples.images[chain], EARLIER / f"lemon-0{chain}.png")


@pytest.mark.filterwarnings("ignore")
def test_a_picture_of_an_earlier_version_is_made_again(tmp_path):
    picture = EARLIER / "beacon-00.png"
    samples = run.from_recipe(picture, {}, out=tmp_path / "again").execute()
    assert_same_picture(samples.images[0], picture)
