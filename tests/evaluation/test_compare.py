"""Tests the comparison of two small real runs, of which one is made grey by hand, and its page."""

import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from gradgen.cli import app as program
from gradgen.errors import UsageError
from gradgen.evaluation import compare as cmp
from gradgen.evaluation.diagnose import diagnose
from gradgen.evaluation.page import comparison_page
from gradgen.images import from_uint8, save_png
from gradgen.inference.diagnostics import worst_r_hat
from gradgen.networks.load import load_bundle, load_classifier
from gradgen.runs import run
from gradgen.runs.results import Chains
from tests.browser import chromium, complaints, needs_chromium, set_width

GIVEN = {
    "start_candidates": 1,
    "bundle": "tiny64",
    "classes": ("goldfish", "beacon"),
    "num_chains": 5,
    "budget": 24,
    "seed": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A MALA run, and a MAP run whose pictures are then painted one and the same grey."""
    folder = tmp_path_factory.mktemp("runs")
    run.begin({**GIVEN, "method": "mala"}, out=folder / "mala").execute()
    samples = run.begin({**GIVEN, "method": "map"}, out=folder / "grey").execute()
    for name in samples.picture_names():
        save_png(folder / "grey" / name, np.full((64, 64, 3), 128, np.uint8))
    return folder


@pytest.fixture(scope="module")
def measured(runs):
    photographs = runs / "photographs"
    photographs.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(
            photographs / f"{number}.png"
        )
    seen = []
    found = cmp.compare(
        [runs / "mala", runs / "grey"],
        real=[str(photographs)],
        on_progress=lambda *n: seen.append(n),
    )
    assert seen[-1] == (20, 20)
    return found


def test_equal_pictures_have_no_diversity_no_colour_and_one_effective_picture(measured):
    values = measured[1].values
    for key in ("distance", "judge_distance", "chroma", "saturated"):
        assert values[key].value == pytest.approx(0, abs=1e-3), key
    assert values["vendi"].value == pytest.approx(1, abs=1e-3)
    other = measured[0].values
    assert other["distance"].value > 0.2 and other["chroma"].value > 3
    assert 1 < other["vendi"].value <= 5


def test_figures_are_those_of_the_networks_called_directly(runs, measured):
    found = measured[0]
    log_p = np.load(runs / "mala" / "chains.npz")["log_likelihood"]
    assert found.values["own"].value == pytest.approx(np.exp(log_p).mean(), rel=1e-5)
    judge = load_classifier("lite1")
    images = from_uint8(found.run.images)
    log_p = np.asarray(jax.jit(judge.apply)(judge.params, images))
    indices = [judge.labels.by_synset(s).index for s in found.run.synsets]
    assert len(set(indices)) == 2
    own = log_p[np.arange(10), indices]
    assert found.values["judge"].value == pytest.approx(own.mean(), abs=1e-3)
    top5 = [i in row.argsort()[-5:] for i, row in zip(indices, log_p, strict=True)]
    assert found.values["top5"].value == pytest.approx(np.mean(top5))


def test_intervals_hold_the_figures(measured):
    for one in measured:
        for key in ("score", "own", "judge", "chroma"):
            value = one.values[key]
            assert value.low - 1e-6 <= value.value <= value.high + 1e-6
        kid = one.values["kid"]
        assert kid.low < kid.value < kid.high
        assert one.values["coverage"].value is None  # of too few pictures
        assert any("no precision, recall, density, coverage" in note for note in one.notes)


def test_r_hat_is_the_one_that_diagnose_tells(runs, measured):
    record = diagnose(runs / "mala")
    worst = max(found.worst_r_hat for found in record.classes)
    assert measured[0].values["r_hat"].value == pytest.approx(worst)
    of_run = [worst_r_hat(job.diagnostics) for job in measured[0].run.record.classes]
    assert max(of_run) == pytest.approx(worst)
    assert measured[1].values["r_hat"].value is None  # MAP samples nothing


def test_two_pictures_get_no_interval(runs):
    found = cmp.load_run(runs / "mala")
    arrays = {name: values[:2] for name, values in vars(found.chains).items() if name != "traces"}
    chains = Chains(**arrays, traces=found.chains.traces.of(np.arange(2)))
    few = replace(found, images=found.images[:2], chains=chains)
    measured = cmp.measure(few, load_bundle("tiny64"), load_classifier("lite1"))
    assert measured.values["chroma"].value is not None and measured.values["chroma"].low is None
    assert any("no intervals, which take 8 pictures" in note for note in measured.notes)


def test_a_class_that_the_judge_does_not_know_is_said(runs, measured):
    found = cmp.load_run(runs / "mala")
    nameless = tuple(replace(job, synset="") for job in found.record.classes)
    found = replace(found, record=replace(found.record, classes=nameless))
    notes = []
    verdict = cmp._verdicts(found, load_classifier("lite1"), np.zeros((10, 1000)), notes)
    assert verdict["top1"] is None and "does not know every class" in notes[0]


def test_the_page_needs_nothing_else_and_shows_the_runs(measured):
    page = comparison_page(measured)
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert page.count('<article class="run">') == 2 and page.count("data-title=") == 2 * 10
    assert page.count("data-value=") == 2 * (page.count("<th ") - 1)  # all but the runs' names


@needs_chromium
def test_columns_sort_by_mouse_and_keyboard(measured, tmp_path):
    from selenium.webdriver import Keys

    path = tmp_path / "compare.html"
    path.write_text(comparison_page(measured), encoding="utf-8")
    with chromium(tmp_path / "profile") as driver:
        set_width(driver, 2000)  # all columns are in sight
        driver.get(path.as_uri())
        heads = driver.find_elements("css selector", "th")
        (chroma,) = [head for head in heads if head.text.split()[0] == "chroma"]

        def order():
            cells = driver.find_elements("css selector", "tbody td:first-child")
            return [cell.text.split()[0] for cell in cells], chroma.get_attribute("aria-sort")

        chroma.click()
        assert order() == (["mala", "grey"], "descending")
        chroma.send_keys(Keys.ENTER)
        assert order() == (["grey", "mala"], "ascending")
        assert complaints(driver) == []


def test_the_command_prints_a_table_or_json(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.main(["compare", str(runs / "mala"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["pictures"] == 10 and told[0]["values"]["chroma"]["value"] > 0
    assert (tmp_path / "compare.html").read_text().startswith("<!doctype html>")


def test_what_is_no_finished_run_is_one_line(tmp_path, runs):
    with pytest.raises(UsageError, match="is not the folder of a run"):
        cmp.load_run(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(runs / "mala", copy)
    record = json.loads((copy / "run.json").read_text())
    del record["pictures"]
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="--resume"):
        cmp.load_run(copy)
