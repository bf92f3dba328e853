"""Tests statistics against NumPy on all numbers together, DGN-AM's files, and a known encoder."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from typer.testing import CliRunner

import gradgen
from gradgen import code_bounds as statistics
from gradgen.cli import app as program
from gradgen.errors import GradgenError, UsageError
from gradgen.labels import Labels, imagenet_labels
from gradgen.networks.bounds import CodeStatistics, WeightedStatistics
from tests import fakes

NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(
    data=arrays(np.float64, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=NUMBERS),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
def test_running_moments_equal_numpys_however_the_codes_are_cut(data, cuts):
    moments = statistics.RunningMoments(data.shape[1])
    for part in np.split(data, sorted(min(cut, len(data)) for cut in cuts)):
        moments.update(part)
    assert moments.count == len(data)
    # float32 results; |x| <= 1e3, so double precision leaves an absolute error near 1e-12 in the
    # variance, which is 1e-6 in a standard deviation of 0.
    np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.std, data.std(0, ddof=1), rtol=1e-6, atol=1e-5)


def test_running_moments_keep_their_digits_far_from_zero():
    # Σx² - n·mean² would lose all of them: 1e8² has no room left for a variance of 1.
    rng = np.random.default_rng(0)
    data = 1e8 + rng.standard_normal((5000, 2))
    moments = statistics.RunningMoments(2)
    for part in np.array_split(data, 70):
        moments.update(part)
    np.testing.assert_allclose(moments.std, data.std(0, ddof=1), rtol=1e-6)


def test_bounds_are_mean_and_sigmas_times_std():
    lower, upper = statistics.clip_bounds(np.array([1.0, -2.0]), np.array([0.5, 2.0]), 3)
    assert lower.tolist() == [-0.5, -8.0]
    assert upper.tolist() == [2.5, 4.0]
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(UsageError, match="sigmas"):
            statistics.clip_bounds(np.zeros(1), np.ones(1), wrong)


@pytest.fixture
def colours(tmp_path):
    """40 flat pictures in a folder, and the codes (40, 3) that the fake encoder gives them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    bytes_ = np.random.default_rng(1).integers(0, 256, (40, 3))
    for i, colour in enumerate(bytes_):
        Image.new("RGB", (8, 8), tuple(int(b) for b in colour)).save(folder / f"{i:02d}.png")
    return folder, bytes_ / 127.5 - 1


def test_statistics_of_images_are_those_of_their_codes_and_skip_the_unreadable(colours):
    folder, codes = colours
    (folder / "07-broken.png").write_bytes(b"nonsense")
    seen = []
    found = statistics.from_images(
        fakes.bundle(),
        sorted(folder.iterdir()),
        sigmas=2,
        batch_size=7,
        on_progress=lambda *numbers: seen.append(numbers),
    )
    np.testing.assert_allclose(found.mean, codes.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std, codes.std(0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(found.upper, codes.mean(0) + 2 * codes.std(0, ddof=1), atol=1e-5)
    np.testing.assert_allclose(found.lower, codes.mean(0) - 2 * codes.std(0, ddof=1), atol=1e-5)
    assert found.record["source"] == "images"
    assert found.record["count"] == 40
    assert found.record["unreadable"] == 1
    assert "07-broken.png" in found.record["unreadable_files"][0]
    assert seen[-1] == (41, 1)


def test_the_record_names_only_so_many_unreadable_files(tmp_path, colours):
    folder, _ = colours
    for i in range(150):
        (folder / f"bad-{i}.png").touch()
    found = statistics.from_images(fakes.bundle(), sorted(folder.iterdir()))
    assert found.record["unreadable"] == 150
    assert len(found.record["unreadable_files"]) == statistics.LISTED_FAILURES


@pytest.mark.parametrize("readable", [0, 1])
def test_fewer_than_two_images_are_a_clear_error(colours, readable):
    folder, _ = colours
    bad = folder / "bad.png"
    bad.write_bytes(b"nonsense")
    sources = [*sorted(folder.glob("0*.png"))[:readable], bad]
    with pytest.raises(GradgenError, match=rf"at least 2 images, and {readable} .*bad\.png"):
        statistics.from_images(fakes.bundle(), sources)


def test_a_file_comes_back_as_it_was_written(tmp_path):
    rng = np.random.default_rng(2)
    mean, std = rng.normal(size=(2, 5)).astype(np.float32)
    lower, upper = statistics.clip_bounds(mean, abs(std))
    written = statistics.Statistics(
        lower, upper, mean, abs(std), {"source": "images", "class": "é"}
    )
    written.save(tmp_path / "deep" / "s.npz")
    read = statistics.load_statistics(tmp_path / "deep" / "s.npz")
    for name in ("lower", "upper", "mean", "std"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.record == {**written.record, "file": str(tmp_path / "deep" / "s.npz")}


def test_dgn_am_text_bounds_are_upper_bounds_above_zero(tmp_path):
    # The published files are whole numbers separated by single spaces, without a line end.
    path = tmp_path / "bound.txt"
    path.write_text("12 15 0 7 ")
    read = statistics.load_statistics(path)
    assert read.upper.tolist() == [12, 15, 0, 7]
    assert read.lower.tolist() == [0, 0, 0, 0]
    assert read.mean is None
    assert read.record["source"] == "text"
    lower, _ = read.bounds(4)
    assert lower.dtype == np.float32
    with pytest.raises(UsageError, match=r"bound.txt: bounds of 4 units, .* code has 192"):
        read.bounds(192)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bounds of shapes"),
        (b"1 2 three", "nor a list of numbers"),
        (b"1 -2 3", "unit 1 has bounds 0 > -2"),
        (b"1 nan", "not finite"),
        (b"\x93\xff\x00", "nor a list of numbers"),
        (b"PK\x03\x04 torn", "is no statistics file"),
    ],
)
def test_files_that_are_no_bounds_are_usage_errors(tmp_path, content, message):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        statistics.load_statistics(path)


def test_other_npz_files_missing_files_and_folders_are_usage_errors(tmp_path):
    np.savez(tmp_path / "chains.npz", lower=np.zeros(3), upper=np.ones(3))
    for path in (tmp_path / "chains.npz", tmp_path / "gone.npz", tmp_path):
        with pytest.raises(UsageError, match=path.name):
            statistics.load_statistics(path)


SAMPLING = {"method": "mala"}


def drawn(codes, finished=True, r_hat=1.02):
    """What `gradgen.sample` returns, as far as statistics look at it."""
    figures = {"log_density": {"r_hat": r_hat}, "projection_0": {"r_hat": 1.0}}
    job = fakes.SimpleNamespace(diagnostics=figures if r_hat else None)
    record = fakes.SimpleNamespace(finished=finished, classes=(job,), to_json=lambda: SAMPLING)
    return fakes.SimpleNamespace(codes=codes, record=record)


# --- from Python ---


def test_the_same_from_python(table_bundle, colours):
    folder, codes = colours
    measured = gradgen.stats(table_bundle, "beacon", images=folder, sigmas=2)
    np.testing.assert_allclose(measured.mean, codes.mean(0), atol=1e-6)
    assert measured.record["count"] == 40 and "beacon" in measured.record["class"]
    assert gradgen.stats(table_bundle, "beacon").upper.tolist() == [3.0, 4.0, 3.5]
    own = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    sampled = gradgen.stats(table_bundle, "lipstick", samples=drawn(own))
    np.testing.assert_allclose(sampled.std, own.std(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_name": "tench"}, "fake has no statistics of tench: measure some on pictures"),
        ({"class_name": "beacon", "sigmas": 0}, "sigmas must be"),
        ({"images": "nowhere"}, "nowhere"),
        ({"images": ".", "samples": object()}, "exclude one another"),
        ({"samples": object()}, "give class_name"),
        ({"generator": "deepsim-fc6"}, "give the bundle by name"),
    ],
)
def test_what_cannot_be_measured_is_said(table_bundle, options, message):
    with pytest.raises(UsageError, match=message):
        gradgen.stats(table_bundle, **options)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"finished": False}, "interrupted"),
        ({"r_hat": 4.6}, r"the chains do not agree \(R̂ 4\.60, above 1\.05\).*`budget`"),
        ({"r_hat": None}, "cannot be told"),
    ],
)
def test_samples_that_say_nothing_of_the_posterior_are_refused(table_bundle, fault, message):
    with pytest.raises(GradgenError, match=message):
        gradgen.stats(table_bundle, "lipstick", samples=drawn(np.zeros((8, 3)), **fault))


# --- the command ---


@pytest.fixture
def table_bundle():
    """Two classes of ImageNet in the table: beacon and goldfish."""
    lines = [str(imagenet_labels().find(name)) for name in ("n02814860", "n01443537")]
    table = {
        "class_mean": np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], np.float32),
        "class_std": np.array([[1.0, 1.0, 0.5], [2.0, 2.0, 2.0]], np.float32),
        "mean": np.zeros(3, np.float32),
        "std": np.ones(3, np.float32),
        "labels": Labels.from_lines(lines),
        "source": "fake",
    }
    photographs = WeightedStatistics(
        class_mean=np.array([[3.0, 2.0, 1.0], [9.0, 9.0, 9.0]], np.float32),
        class_std=np.ones((2, 3), np.float32),
        effective=np.array([15.0, 100.0], np.float32),
        expected=np.array([4.0, 60.0], np.float32),
        mean=np.array([1.0, 0.0, 1.0], np.float32),
        std=np.ones(3, np.float32),
        labels=Labels.from_lines([str(imagenet_labels().find("lipstick")), lines[0]]),
        source="fake",
    )
    return fakes.bundle(
        labels=table["labels"],
        code_statistics=CodeStatistics(**table),
        photographs=photographs,
    )


@pytest.fixture
def run(monkeypatch, tmp_path, table_bundle):
    import gradgen.networks.load

    monkeypatch.setattr(gradgen.networks.load, "load_bundle", lambda name, generator: table_bundle)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return CliRunner().invoke(program.app, ["stats", *map(str, arguments)])

    return run


def test_a_class_of_the_bundle_comes_from_its_table(run, tmp_path):
    result = run("--class", "beacon", "--sigmas", 2)
    assert result.exit_code == 0, result.output
    read = statistics.load_statistics(tmp_path / "stats-beacon.npz")
    assert read.record["source"] == "bundle"
    assert "beacon" in read.record["class"]
    assert read.upper.tolist() == [2.0, 3.0, 3.0]
    with Image.open(tmp_path / "stats-beacon.png") as plot:
        assert plot.size[0] > 500


def test_no_class_at_all_is_the_whole_data_set(run, tmp_path):
    record = json.loads(run("--json", "--no-plot").stdout)
    assert record["source"] == "bundle"
    assert record["class"] is None
    read = statistics.load_statistics(tmp_path / record["file"])
    assert read.upper.tolist() == [3.0, 3.0, 3.0]
    assert not list(tmp_path.glob("*.png"))


def test_images_take_precedence_over_the_table_and_bad_ones_are_named(run, tmp_path, colours):
    folder, codes = colours
    (folder / "broken.png").write_bytes(b"nonsense")
    result = run("--class", "beacon", "--images", folder, "--out", tmp_path / "mine.npz")
    assert result.exit_code == 0, result.output
    assert "broken.png" in result.stderr
    read = statistics.load_statistics(tmp_path / "mine.npz")
    assert read.record["source"] == "images"
    np.testing.assert_allclose(read.mean, codes.mean(0), atol=1e-6)


def test_a_class_of_imagenet_comes_from_weighted_photographs_with_their_number(run, tmp_path):
    result = run("--class", "lipstick", "--sigmas", 1, "--no-plot")
    assert result.exit_code == 0, result.output
    assert "worth only 15.0 of this class" in result.stderr and "by 50%" in result.stderr
    assert "effective photographs: 15" in result.stdout
    assert "expected photographs: 4" in result.stdout
    read = statistics.load_statistics(tmp_path / "stats-lipstick.npz")
    assert read.record["source"] == "photographs" and "lipstick" in read.record["class"]
    assert read.record["effective_photographs"] == 15
    np.testing.assert_allclose(read.mean, [2, 1, 1])
    own = run("--class", "beacon", "--no-plot", "--json")  # by its label, although both have it
    assert json.loads(own.stdout)["source"] == "bundle" and "worth only" not in own.stderr


def test_chains_that_do_not_agree_write_no_statistics(run, tmp_path, monkeypatch):
    import gradgen.runs.sample

    apart = drawn(np.zeros((32, 3)), r_hat=4.6)
    monkeypatch.setattr(gradgen.runs.sample, "sample", lambda *_, **__: apart)
    assert program.main(["stats", "--class", "lipstick", "--from-samples"]) == 1
    assert not list(tmp_path.glob("*.npz"))


def test_posterior_samples_are_taken_where_they_are_asked_for(run, tmp_path, monkeypatch):
    import gradgen.runs.sample

    codes = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    asked = {}

    def sample(bundle, class_name, **settings):
        asked.update(settings, class_name=class_name)
        return drawn(codes)

    monkeypatch.setattr(gradgen.runs.sample, "sample", sample)
    result = run("--class", "lipstick", "--from-samples", "--seed", 5)
    assert result.exit_code == 0, result.output
    assert asked["class_name"] == "n03676483"
    assert asked["seed"] == 5
    assert asked["num_chains"] == 32
    read = statistics.load_statistics(tmp_path / "stats-lipstick.npz")
    assert read.record["source"] == "samples"
    assert read.record["sampling"] == SAMPLING
    np.testing.assert_allclose(read.std, codes.std(0, ddof=1), rtol=1e-5)


def test_an_interrupted_sampling_writes_no_statistics(run, tmp_path, monkeypatch):
    import gradgen.runs.sample

    stopped = drawn(np.zeros((32, 3)), finished=False)
    monkeypatch.setattr(gradgen.runs.sample, "sample", lambda *_, **__: stopped)
    assert run("--class", "lipstick", "--samples").exit_code == 130
    assert not list(tmp_path.glob("*.npz"))


def test_a_text_file_of_bounds_is_shown(run, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "fc6.txt").write_text(" ".join(["4"] * 4096))
    result = run("--file", folder / "fc6.txt")
    assert result.exit_code == 0, result.output
    assert "4096" in result.stdout
    assert (tmp_path / "fc6.png").is_file(), "the plot is in the current folder"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--class", "nosuchclass"],
        ["--samples"],
        ["--from-samples", "--class", "beacon", "--method", "map"],
        ["--file", "x.txt", "--class", "beacon"],
        ["--images", "nowhere"],
        ["--class", "beacon", "--sigmas", "-1"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, arguments, capsys):
    assert program.main(["stats", *arguments]) == 2
    complaint = capsys.readouterr().err.strip()
    assert complaint.startswith("error:")
    assert "\n" not in complaint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": np.array([0, np.nan, 0], np.float32)}, "mean has numbers that are not finite"),
        ({"std": np.array([1, np.inf, 1], np.float32)}, "std has numbers that are not finite"),
        ({"std": np.array([1, -1, 1], np.float32)}, "unit 1 has the standard deviation -1"),
        ({"mean": np.zeros(4, np.float32)}, r"mean is float32 \(4,\), the bounds are \(3,\)"),
        ({"std": np.ones((3, 1), np.float32)}, r"std is float32 \(3, 1\), the bounds are"),
        ({"std": np.ones(3, complex)}, "std is complex128"),
        ({"lower": np.zeros(3, bool)}, "bounds of the types bool and float32"),
        ({"record": np.array("[1]")}, "the JSON in it is not an object"),
        ({"record": np.array(["{}", "{}"])}, "is no statistics file"),
        ({"lower": np.array([object()] * 3)}, "holds object, neither numbers nor text"),
    ],
)
def test_statistics_that_would_make_codes_nan_are_refused(tmp_path, changed, message):
    zeros = np.zeros(3, np.float32)
    good = {"lower": zeros - 1, "upper": zeros + 1, "mean": zeros, "std": zeros + 1}
    good["record"] = np.array('{"format": "gradgen statistics 1"}')
    np.savez(tmp_path / "s.npz", **good)
    assert statistics.load_statistics(tmp_path / "s.npz").std.tolist() == [1, 1, 1]
    np.savez(tmp_path / "s.npz", allow_pickle=True, **(good | changed))
    with pytest.raises(UsageError, match=message):
        statistics.load_statistics(tmp_path / "s.npz")
