"""Comparing runs: two small real ones, one of them made grey by hand; and the page about them."""

import json
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest
from PIL import Image

from gradgen import run
from gradgen.bundle import load_classifier
from gradgen.cli import app as program
from gradgen.errors import UsageError
from gradgen.evaluation import compare as cmp
from gradgen.evaluation.features import evaluate
from gradgen.evaluation.page import comparison_page
from gradgen.images import from_uint8, save_png

GIVEN = {"classes": ("goldfish", "beacon"), "num_chains": 3, "budget": 12, "seed": 1}


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
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(
            photographs / f"{number}.png"
        )
    seen = []
    found = cmp.compare(
        [runs / "mala", runs / "grey"],
        real=[str(photographs)],
        on_progress=lambda *n: seen.append(n),
    )
    assert seen[-1] == (12, 12)
    return found


def test_equal_pictures_have_no_diversity_no_colour_and_one_effective_picture(measured):
    values = measured[1].values
    for key in ("distance", "judge_distance", "chroma", "saturated"):
        assert values[key].value == pytest.approx(0, abs=1e-3), key
    assert values["vendi"].value == pytest.approx(1, abs=1e-3)
    other = measured[0].values
    assert other["distance"].value > 0.2 and other["chroma"].value > 3
    assert 1 < other["vendi"].value <= 3


def test_figures_are_those_of_the_networks_called_directly(runs, measured):
    found = measured[0]
    log_p = np.load(runs / "mala" / "chains.npz")["log_likelihood"]
    assert found.values["own"].value == pytest.approx(np.exp(log_p).mean(), rel=1e-5)
    judge = load_classifier("lite1")
    images = from_uint8(found.run.images)
    log_p = np.asarray(jax.jit(judge.apply)(judge.params, images))
    indices = [judge.labels.by_synset(s).index for s in found.run.synsets]
    assert len(set(indices)) == 2
    own = log_p[np.arange(6), indices]
    assert found.values["judge"].value == pytest.approx(own.mean(), abs=1e-3)
    top5 = [i in row.argsort()[-5:] for i, row in zip(indices, log_p, strict=True)]
    assert found.values["top5"].value == pytest.approx(np.mean(top5))


def test_intervals_hold_the_figures(measured):
    for one in measured:
        for key in ("score", "own", "judge", "chroma"):
            value = one.values[key]
            assert value.low - 1e-6 <= value.value <= value.high + 1e-6
        assert one.values["kid"].value is not None


def test_batches_of_one_shape_give_every_row_once():
    images = np.random.default_rng(0).integers(0, 256, (35, 8, 8, 3), np.uint8)
    found = evaluate(lambda p, x: x.mean((1, 2)) * p, 2.0, images)
    np.testing.assert_allclose(found, 2 * from_uint8(images).mean((1, 2)), atol=1e-5)


def test_a_class_that_the_judge_does_not_know_is_said(runs, measured):
    found = cmp.load_run(runs / "mala")
    found.record["classes"][0]["synset"] = ""
    notes = []
    verdict = cmp._verdicts(found, load_classifier("lite1"), np.zeros((6, 1000)), notes)
    assert verdict["top1"] is None and "does not know every class" in notes[0]


def test_the_page_needs_nothing_else_and_sorts(measured, tmp_path):
    page = comparison_page(measured)
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert page.count("<img ") == 2 and page.count("data-value=") == 2 * (page.count("<th "))
    path = tmp_path / "compare.html"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here to run the page's script in")
    # press the heading of "chroma" twice: ascending, so the grey run comes first
    press = (
        "<script>const h=[...document.querySelectorAll('th')].find(t=>t.textContent==='chroma');"
        "h.click();h.click();document.title=[...document.querySelectorAll('tbody tr')]"
        ".map(r=>r.cells[0].firstChild.textContent).join()+' '+h.getAttribute('aria-sort')</script>"
    )
    path.write_text(page.replace("</body>", f"{press}</body>"), encoding="utf-8")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "<title>grey,mala ascending</title>" in done.stdout


def test_the_command_prints_a_table_or_json(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert program.main(["compare", str(runs / "mala"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["pictures"] == 6 and told[0]["values"]["chroma"]["value"] > 0
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
