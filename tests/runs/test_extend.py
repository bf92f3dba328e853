"""A finished run is made longer or gets more chains, to the bits of a run begun so."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from gradgen.cli.app import main
from gradgen.errors import UsageError
from gradgen.inference.traces import QUANTITIES
from gradgen.runs import run
from gradgen.runs.record import read_record, write_record
from tests import fakes
from tests.runs import test_run
from tests.runs.test_run import arrays, assert_same_results, stop_after

pytestmark = pytest.mark.usefixtures("tiny")
# windows of 3 steps, the last one of 2; then windows of 6
GIVEN = {**test_run.GIVEN, "start_candidates": 1, "trace_length": 7}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run.begin(GIVEN, out=folder).execute()
    return folder


@pytest.fixture
def short(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def begun(folder, **changes):
    run.begin({**GIVEN, **changes}, out=folder).execute()
    return folder


def assert_same_but_for_rounding_of_means(folder, other):
    """Windows that were joined have their means of acceptance and step size added otherwise."""
    mine, theirs = arrays(folder), arrays(other)
    for name, values in mine.items():
        if name in ("trace_acceptance", "trace_step_size"):
            np.testing.assert_allclose(values, theirs[name], rtol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)


def test_an_extended_run_has_the_bits_of_one_begun_with_both_budgets(short, tmp_path):
    longer = run.resume(short, {"budget": 40})
    assert longer.plan.settings.warmup_budget == 20
    assert longer.gradients == (84, 164)
    steps = []
    longer.execute(on_progress=lambda block: steps.append(block.step))
    assert min(steps) > 20
    other = begun(tmp_path / "other", budget=40, warmup_budget=20)
    assert_same_but_for_rounding_of_means(short, other)
    record = read_record(short)
    assert record.finished and record.warmup_steps == read_record(other).warmup_steps == 5
    (words,) = record.extended
    assert "budget from 20 to 40; the warm-up stays that of 20" in words
    # its pictures' recipes know of it, and it can be extended again
    picture = short / "blue-01.png"
    again = run.from_recipe(picture, {}, out=tmp_path / "again").execute()
    assert run.same_pixels(picture, again.images[0])[0]
    assert run.resume(short, {"budget": 60}).plan.settings.warmup_budget == 20


@pytest.mark.parametrize(("method", "step_size"), [("mala", 0.02), ("hmc", 0.1)])
def test_without_a_warm_up_it_has_the_bits_of_one_begun_with_the_larger_budget(
    method, step_size, tmp_path
):
    fixed = {"method": method, "step_size": step_size, "trace_length": 1000}
    fixed["classes"] = ("blue",)
    longer = begun(tmp_path / "short", **fixed)
    run.resume(longer, {"budget": 40}).execute()
    assert_same_results(longer, begun(tmp_path / "long", budget=40, **fixed))


def test_chains_that_are_added_leave_the_others_as_they_are(short, tmp_path):
    before = arrays(short)
    run.resume(short, {"num_chains": 4}).execute()
    after = arrays(short)
    old = after["chain"] < 2
    for name, values in before.items():
        if name != "trace_step":
            np.testing.assert_array_equal(after[name][old], values, err_msg=name)
    assert_same_results(short, begun(tmp_path / "other", num_chains=4, chain_group=2))


def test_an_extension_that_is_interrupted_is_resumed(short, tmp_path):
    run.resume(short, {"budget": 40}).execute(stop=stop_after(2))
    assert read_record(short).status == "interrupted"
    with pytest.raises(UsageError, match="`budget`: 80, not 40"):
        run.resume(short, {"budget": 80})
    run.resume(short, {}).execute()
    other = begun(tmp_path / "other", budget=40, warmup_budget=20)
    assert_same_but_for_rounding_of_means(short, other)
    assert read_record(short).extended


def test_pictures_are_named_anew_where_their_numbers_get_another_digit(tmp_path):
    given = {"classes": ("blue",), "method": "map", "num_chains": 1, "budget": 1}
    folder = begun(tmp_path / "run", **given)
    assert (folder / "blue-00.png").is_file()
    run.resume(folder, {"num_chains": 101}).execute()
    names = read_record(folder).pictures
    assert len(names) == 101 and "blue-100.png" in names
    assert sorted(path.name for path in folder.glob("blue*.png")) == sorted(names)


def test_what_cannot_be_extended_is_said_plainly(short, tmp_path, capsys):
    def refused(folder, words, **given):
        with pytest.raises(UsageError, match=words):
            run.resume(folder, given)
        assert read_record(folder).finished

    refused(short, "`budget` 10 is less than the 20", budget=10)
    record = read_record(short)
    write_record(short, replace(record, settings=replace(record.settings, num_chains=3)))
    refused(short, "groups of 3; add whole groups: `num_chains=6`", num_chains=4)
    write_record(short, record)
    refused(short, "more than 2048 chains", num_chains=4000)
    refused(short, "`seed`: 8, not 7", budget=40, seed=8)
    shutil.rmtree(short / "states")
    assert main(["sample", "--resume", str(short), "--budget", "40"]) == 2
    assert "finished by an earlier version" in capsys.readouterr().err
    preset = {"classes": ("blue",), "method": "map", "preset": "dgn-am", "num_chains": 1}
    preset["start_candidates"] = None
    refused(begun(tmp_path / "preset", **preset), "`preset=dgn-am` end with", budget=40)


def test_the_command_extends_a_run(short, capsys):
    assert main(["sample", "--resume", str(short), "--budget", "30"]) == 0
    shown = capsys.readouterr()
    assert "extended: budget from 20 to 30; the warm-up stays" in shown.err
    assert "31 gradient evaluations a chain" in shown.out


def test_points_of_longer_windows_are_made_of_the_shorter_ones():
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(2, 4)) for name in QUANTITIES if name != "projections"}
    traces = fakes.traces([3, 6, 9, 11], **given, projections=rng.normal(size=(2, 4, 1)))
    longer = traces.on_points(np.array([6, 12, 18, 20]))
    np.testing.assert_array_equal(longer.log_density[:, 0], traces.log_density[:, 1])
    np.testing.assert_allclose(longer.acceptance[:, 0], traces.acceptance[:, :2].mean(1))
    for name in QUANTITIES:
        assert np.isnan(getattr(longer, name)[:, 1:]).all(), name
    # windows that share no borders: the last old point before each new one
    other = traces.on_points(np.array([4, 8, 12]))
    np.testing.assert_array_equal(other.squared_norm[:, :2], traces.squared_norm[:, :2])
