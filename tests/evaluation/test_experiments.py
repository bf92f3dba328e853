"""Tests the paper's figures and tables, on scores in a known order and in small real cases."""

import json

import numpy as np
import pytest
from PIL import Image

import gradgen
from gradgen.cli import app as program
from gradgen.cli.reproduce import parse_budgets
from gradgen.errors import UsageError
from gradgen.evaluation import experiments as ex
from gradgen.evaluation import reproduce as experiments_of
from gradgen.evaluation.compare import load_run
from gradgen.evaluation.figures import LINE, titled_grid
from gradgen.evaluation.reproduce import checked_budgets
from gradgen.labels import imagenet_labels, places_labels
from gradgen.networks.catalog import find_bundle
from gradgen.runs.record import read_record
from tests.fakes import traces

TITLES = {key: key for key in ex.PAPER_TABLE2}


def synthetic(order, gap, classes=10, pictures=8, seed=0):
    """Scores of each method, ``gap`` apart in this order (best first), with classes that differ."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(classes), pictures)
    hard = 3 * rng.standard_normal(classes)[cluster]  # more than the methods differ: paired out
    scores = {
        key: -place * gap + hard + 0.3 * rng.standard_normal(len(cluster))
        for place, key in enumerate(order)
    }
    return scores, cluster


PAPER_ORDER = ("mala-clip", "map-clip", "hmc", "mala")


def test_the_papers_order_is_seen_to_hold():
    table = ex.make_table2(*synthetic(PAPER_ORDER, 1.0), TITLES, "D")
    assert table.holds is True and table.order == PAPER_ORDER
    assert [pair.holds for pair in table.pairs] == [True] * 3
    for pair in table.pairs:
        # 80 pictures of noise 0.3 on either side: 0.3 sqrt(2 / 80) = 0.05
        assert pair.difference == pytest.approx(1.0, abs=0.2)
        assert 0.02 < pair.standard_error < 0.1  # the classes' own differences are gone
    # but a method's own mean knows the classes only to 3 / sqrt(10)
    assert all(0.5 < row.standard_error < 1.5 for row in table.rows)


def test_another_order_is_said_to_be_another():
    table = ex.make_table2(*synthetic(PAPER_ORDER[::-1], 1.0), TITLES, "D")
    assert table.holds is False and table.order == PAPER_ORDER[::-1]
    assert [pair.holds for pair in table.pairs] == [False] * 3


def test_what_cannot_be_told_is_left_open():
    table = ex.make_table2(*synthetic(PAPER_ORDER, 0.0, classes=6, pictures=2), TITLES, "D")
    assert None in [pair.holds for pair in table.pairs] and table.holds is not True
    # differences of 1 and 2 in two classes: three standard errors, of which 12.7 would be needed
    scores = {key: np.array([1.0, 2.0]) * -place for place, key in enumerate(PAPER_ORDER)}
    two = ex.make_table2(scores, np.array([0, 1]), TITLES, "D")
    assert [pair.difference / pair.standard_error for pair in two.pairs] == pytest.approx([3] * 3)
    assert [pair.holds for pair in two.pairs] == [None] * 3 and two.num_classes == 2
    one = ex.make_table2(*synthetic(PAPER_ORDER, 5.0, classes=1), TITLES, "D")
    assert one.holds is None and one.rows[0].standard_error is None


def test_the_papers_numbers_are_those_of_its_table_2():
    assert ex.PAPER_TABLE2 == {"map-clip": -6.0, "mala-clip": -5.53, "mala": -9.79, "hmc": -7.96}


def test_the_steps_needed_are_those_of_the_rise():
    steps = np.arange(1, 401)
    rise = -6 * np.exp(-steps / 20)
    noise = 0.05 * np.random.default_rng(0).standard_normal((8, 400))
    found = ex.steps_needed(traces(steps, log_likelihood=rise + noise))
    # one standard deviation of the smoothed mean is about 0.05 / sqrt(8 · 20): 6 exp(-t / 20) gets
    # there at t = 146, plus half of the window of 20
    assert 100 < found < 180


def test_default_classes_are_known_to_their_bundles():
    for name in ex.default_classes("tiny64", 10):
        assert find_bundle("tiny64").labels.find(name)
    own = find_bundle(ex.BUNDLE).labels
    found = {own.find(name).synset for name in ex.default_classes(ex.BUNDLE, 10)}
    assert ex.BUNDLE == "ten64" and found == {label.synset for label in own}
    for name in ex.default_classes("caffenet", 5):
        assert imagenet_labels().find(name)
    for name in ex.default_classes("places205", 5):
        assert places_labels().find(name)
    assert ex.default_budget("caffenet") == 6000 and ex.default_budget("tiny64") == 1000


def test_headings_stand_over_their_columns():
    tiles = np.zeros((4, 128, 128, 3), np.uint8)
    grid = titled_grid(tiles, ["one", "two"], ["left", "a heading of several words that wraps"])
    pixels = np.asarray(grid)
    assert pixels.shape[0] > 2 * (128 + 2) + 2 * LINE  # the long heading takes two lines
    top = pixels[: pixels.shape[0] - 262]
    left, right = top[:, -260:-132], top[:, -130:-2]
    assert (left < 100).any() and (right < 100).any()


@pytest.mark.parametrize("text", ["", "a", "50,x"])
def test_budgets_that_are_no_numbers_are_refused(text):
    with pytest.raises(UsageError, match="budgets"):
        parse_budgets(text)


def test_budgets_are_put_in_order_and_have_a_least_one():
    assert checked_budgets(parse_budgets("100,50,100")) == (50, 100)
    with pytest.raises(UsageError, match="at least 10"):
        checked_budgets([5, 50])


@pytest.mark.parametrize(
    ("experiment", "arguments", "message"),
    [
        ("figure4", {}, "must be one of figure2, figure3, table2, budget"),
        ("figure2", {"count": 3}, "`count` is for figure3, not for figure2"),
        ("figure3", {"num_chains": 1}, "`num_chains` of 2 or more"),
        ("figure3", {"classes": ["beacon", "lemon"]}, "a single class"),
        ("figure3", {"as_paper": True}, "`as_paper` is for figure2 and table2, not for figure3"),
        ("budget", {"budgets": [1, 2]}, "at least 10"),
    ],
)
def test_an_experiment_that_makes_no_sense_is_refused(tmp_path, experiment, arguments, message):
    with pytest.raises(UsageError, match=message):
        gradgen.reproduce(experiment, out=tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def not_run(monkeypatch):
    """What each experiment would run, in place of running it."""
    made = []

    def note(experiment, budget, *more):
        made.append((experiment, budget, *more))
        return {"budget": budget}

    for name in ("_figure2", "_figure3", "_table2", "_budget"):
        monkeypatch.setattr(experiments_of, name, note)
    return made


def test_each_experiment_has_a_folder_of_its_own(tmp_path, monkeypatch, not_run):
    monkeypatch.chdir(tmp_path)
    asked = [
        ("table2", {}), ("table2", {"budget": 60}), ("table2", {"seed": 1}), ("figure3", {}),
        ("table2", {"budget": 60}), ("budget", {"budgets": [10, 20]}), ("budget", {}),
        ("table2", {"as_paper": True}), ("table2", {}),
    ]  # fmt: skip
    for name, arguments in asked:
        gradgen.reproduce(name, **arguments)
    folders = [str(experiment.folder) for experiment, *_ in not_run]
    assert folders == [
        "reproduce/table2", "reproduce/table2-2", "reproduce/table2-3", "reproduce/figure3",
        "reproduce/table2-2", "reproduce/budget", "reproduce/budget-2", "reproduce/table2-4",
        "reproduce/table2",
    ]  # fmt: skip
    results = {path: json.loads((tmp_path / path / "result.json").read_text()) for path in folders}
    assert results["reproduce/table2"] == {"budget": 1000}
    assert results["reproduce/table2-2"] == {"budget": 60}


def test_a_folder_with_another_experiment_is_refused(tmp_path, not_run):
    gradgen.reproduce("table2", out=tmp_path, budget=60)
    gradgen.reproduce("table2", out=tmp_path, budget=60)  # goes on
    with pytest.raises(UsageError, match=r"other arguments \(`budget`: 70, not 60\)"):
        gradgen.reproduce("table2", out=tmp_path, budget=70)
    (tmp_path / "experiment.json").unlink()
    with pytest.raises(UsageError, match="the result of another experiment"):
        gradgen.reproduce("figure3", out=tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == {"budget": 60}


def test_the_papers_schedules_are_taken_beside_the_defaults(tmp_path, monkeypatch, not_run):
    gradgen.reproduce("table2", out=tmp_path / "paper", as_paper=True)
    gradgen.reproduce("table2", out=tmp_path / "ours")
    (paper, budget, _), (ours, our_budget, _) = not_run
    assert (budget, paper.likelihood_weight) == (6000, 1.0)
    assert (our_budget, ours.likelihood_weight) == (1000, None)
    mala, climb, hmc = (ex.variant_of(method, False, 100) for method in ("mala", "map", "hmc"))
    assert ex.settings_for(paper, mala).noise_decay == 0.55
    assert ex.settings_for(paper, mala).step_decay == ex.settings_for(paper, climb).step_decay > 0
    for experiment, variant in ((paper, hmc), (ours, mala), (ours, climb)):
        assert ex.settings_for(experiment, variant).step_decay == 0
        assert ex.settings_for(experiment, variant).noise_decay == 0
    # MAP has as many gradients as the others, except as in the paper
    ran = []

    def run_variants(experiment, variants):
        ran.append({variant.key for variant in variants})
        raise KeyboardInterrupt

    monkeypatch.setattr(ex, "run_variants", run_variants)
    for experiment in (paper, ours):
        with pytest.raises(KeyboardInterrupt):
            ex.table2(experiment, 1000, (0,))
    assert "map-200-clip" in ran[0] and "map-1000-clip" in ran[1]


@pytest.fixture(scope="module")
def two_columns(tmp_path_factory):
    """A small experiment: MAP and MALA of one class."""
    folder = tmp_path_factory.mktemp("experiment")
    seen = []
    experiment = ex.Experiment(
        folder, ("beacon",), num_chains=2, seed=3, on_progress=lambda *now: seen.append(now)
    )
    variants = [ex.variant_of("map", True, 12), ex.variant_of("mala", False, 20)]
    return experiment, variants, ex.run_variants(experiment, variants), seen


def test_progress_counts_all_variants_as_one(two_columns):
    _, _, _, seen = two_columns
    assert seen[-1][1:] == (68, 68)  # two chains: 12 + 20 gradients and each chain's first
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_columns_start_from_the_same_codes(two_columns):
    experiment, variants, _, _ = two_columns
    for one in variants:
        record = read_record(experiment.folder / one.key)
        assert record.settings.seed == 3
    # a chain's start depends on (seed, class, chain) alone; after one step MAP has moved by alpha
    begin = ex.run_variants(
        ex.Experiment(experiment.folder / "again", ("beacon",), num_chains=2, seed=3), variants[:1]
    )
    np.testing.assert_array_equal(
        begin[variants[0].key].images, load_run(experiment.folder / variants[0].key).images
    )


def test_what_is_finished_is_not_run_again(two_columns):
    experiment, variants, pictures, _ = two_columns
    before = (experiment.folder / variants[0].key / "run.json").stat().st_mtime_ns
    again = ex.run_variants(experiment, variants)
    assert (experiment.folder / variants[0].key / "run.json").stat().st_mtime_ns == before
    for one in variants:
        np.testing.assert_array_equal(again[one.key].images, pictures[one.key].images)


def test_what_was_stopped_goes_on_to_the_same_pictures(two_columns, tmp_path):
    _, variants, pictures, _ = two_columns
    stopped = ex.Experiment(tmp_path, ("beacon",), num_chains=2, seed=3, stop=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        ex.run_variants(stopped, variants)
    for _ in range(20):  # every call gets one block further
        try:
            found = ex.run_variants(stopped, variants)
            break
        except KeyboardInterrupt:
            continue
    for one in variants:
        np.testing.assert_array_equal(found[one.key].images, pictures[one.key].images)


def test_another_experiments_folder_is_refused(two_columns):
    experiment, variants, _, _ = two_columns
    other = ex.Experiment(experiment.folder, ("beacon",), num_chains=2, seed=4)
    with pytest.raises(UsageError, match=r"`seed`: 4, not 3.*choose another `out`"):
        ex.run_variants(other, variants)


def test_a_variant_can_stop_early_on_its_way(two_columns):
    experiment, variants, pictures, _ = two_columns
    whole = variants[1]
    short = ex.Variant("short", "short", whole.options, whole.clip, stop_at=7)
    found = ex.run_variants(experiment, [short])["short"]
    assert found.record.classes[0].steps == (7, 7)
    assert (found.images != pictures[whole.key].images).any()


@pytest.mark.slow
def test_figure2_as_a_command(tmp_path, capsys):
    out = tmp_path / "figure2"
    arguments = ["figure2", "-c", "beacon", "-c", "lemon", "-b", "40", "--out", str(out), "--json"]
    assert program.main(["reproduce", *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [column["title"] for column in told["columns"]][:4] == [
        "MAP 200, clipped", "MAP 200", "MAP 40, clipped", "MAP 40"
    ]  # fmt: skip
    with Image.open(told["picture"]) as picture:
        assert picture.width > 7 * 128 and picture.height > 2 * 128


@pytest.mark.slow
def test_table2_as_a_command(tmp_path, capsys):
    out = tmp_path / "table2"
    arguments = ["-c", "beacon", "-c", "lemon", "-b", "60", "--num-chains", "2", "--seeds", "2"]
    assert program.main(["reproduce", "table2", *arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "paper, Table 2" in printed and "-9.79" in printed and "the paper's order" in printed
    told = json.loads((out / "result.json").read_text())
    assert [row["pictures"] for row in told["rows"]] == [8] * 4
    assert {row["key"] for row in told["rows"]} == set(told["order"])


@pytest.mark.slow
def test_figure3_and_the_budget_study_as_commands(tmp_path, capsys):
    out = tmp_path / "figure3"
    arguments = ["-c", "lemon", "-b", "40", "--num-chains", "6", "--count", "3", "--out", str(out)]
    assert program.main(["reproduce", "figure3", *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [len(row["picked"]) for row in rows] == [3, 3, 3]
    out = tmp_path / "budget"
    arguments = ["-c", "lemon", "--budgets", "10,20", "--num-chains", "2", "--out", str(out)]
    assert program.main(["reproduce", "budget", *arguments, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 3 * 2 * 2 and (out / "budget.png").is_file()
