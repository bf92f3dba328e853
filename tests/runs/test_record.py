"""Tests that records and recipes are read back as written, and that faults are named."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradgen.errors import UsageError
from gradgen.images import read_recipe
from gradgen.inference.settings import settings_of
from gradgen.runs.record import (
    BoundsRecord,
    DeviceRecord,
    Recipe,
    RunRecord,
    other_conditions,
    read_record,
    write_record,
)
from gradgen.runs.settings import SampleSettings

EARLIER = Path(__file__).parents[1] / "data" / "earlier"


@pytest.fixture
def stored():
    return json.loads((EARLIER / "begun" / "run.json").read_text())


def without_newer_settings(written, stored):
    """The record without settings that its version did not know; they say what it did."""
    newer = set(written["settings"]) - set(stored["settings"])
    for name in newer - {"start_candidates"}:
        assert written["settings"][name] == settings_of(SampleSettings)[name].default, name
    assert written["settings"]["start_candidates"] == 1  # chains began at draws from the prior
    own = {name: value for name, value in written["settings"].items() if name not in newer}
    return {**written, "settings": own}


def test_a_record_of_an_earlier_version_is_written_again_as_it_was(stored, tmp_path):
    record = read_record(EARLIER / "begun")
    assert without_newer_settings(record.to_json(), stored) == stored
    assert list(record.to_json()) == list(stored)
    write_record(tmp_path, record)
    written = json.loads((tmp_path / "run.json").read_text())
    assert without_newer_settings(written, stored) == stored


def test_a_recipe_of_an_earlier_version_is_written_again_as_it_was():
    stored = read_recipe(EARLIER / "beacon-00.png")
    again = Recipe.from_json(stored, "it").to_json()
    assert without_newer_settings(again, stored) == stored


def broken(values, path, value):
    changed = copy.deepcopy(values)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "gradgen run 9", "has the format 'gradgen run 9', expected 'gradgen run 2'"),
        (("format",), None, "has the format None"),
        (("classes", 0, "steps", 1), "x", r"classes\.0\.steps\.1: Input should be a valid integer"),
        (("classes", 0, "classifier"), None, r"classes\.0\.classifier: "),
        (("classes", 0, "diagnostics"), [1], r"classes\.0\.diagnostics: "),
        (("bundle", "generator"), "tiny64", r"bundle\.generator: "),
        (("pictures",), {"a": 1}, "pictures: "),
        (("settings",), 7, "holds no settings"),
        (("settings", "temperature_ladder"), 3, "temperature_ladder"),
        (("settings", "budget"), "many", "budget"),
        (("device",), [], "device: "),
    ],
)
def test_what_is_wrong_in_a_record_is_named(stored, path, value, message):
    with pytest.raises(UsageError, match=message) as caught:
        RunRecord.from_json(broken(stored, path, value), "run.json")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("run.json")


@pytest.mark.parametrize("values", [None, [], "text", 3, {}])
def test_what_is_no_record_at_all_is_one_clear_error(values):
    with pytest.raises(UsageError, match="expected 'gradgen run 2'"):
        RunRecord.from_json(values, "it")


def test_bounds_come_back_to_the_last_bit():
    bounds = tuple(np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32))
    whole = BoundsRecord.of(bounds, whole=True)
    for mine, theirs in zip(whole.sides(), bounds, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    short = BoundsRecord.of(bounds, whole=False)
    assert short.sides() is None and short.sha256 == whole.sha256


@pytest.mark.parametrize("text", ["?", "AAA=", "AACAfwAAgH8="])  # the last is infinite
def test_bounds_that_are_no_numbers_are_refused(text):
    with pytest.raises(UsageError, match="bounds"):
        BoundsRecord("0" * 64, text, text).sides()


def test_conditions_that_bits_depend_on_are_told_apart_by_name():
    here = DeviceRecord("cpu", "Xeon", cores=8, threads=2)
    known = {"jax": "0.10", "jaxlib": "0.10", "python": "3.11"}
    assert other_conditions((here, known), (here, {**known, "python": "3.13"})) == []
    fewer = replace(here, cores=4, threads=1)
    changed = {**known, "jaxlib": "0.11"}
    assert other_conditions((fewer, changed), (here, known)) == [
        "threads 1, here 2",
        "jaxlib 0.11, here 0.10",
    ]
    # records of earlier versions know the cores alone
    earlier = DeviceRecord("cpu", "Xeon", cores=8)
    assert other_conditions((earlier, known), (here, known)) == []
    (words,) = other_conditions((replace(earlier, cores=4), known), (here, known))
    assert words == "cores 4, here 8"
    gpu = DeviceRecord("gpu", "H200")
    assert other_conditions((gpu, known), (here, known))[0] == "device gpu, here cpu"


def test_a_device_without_threads_is_written_as_it_was():
    plain = RunRecord.from_json(json.loads((EARLIER / "begun" / "run.json").read_text()), "it")
    assert "threads" not in plain.to_json()["device"]
    told = replace(plain, device=replace(plain.device, threads=3))
    assert RunRecord.from_json(told.to_json(), "it").device.threads == 3
