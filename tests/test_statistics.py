"""Statistics against NumPy on all numbers at once, DGN-AM's files, and a closed-form encoder."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from typer.testing import CliRunner

from gradgen import statistics
from gradgen.cli import app as program
from gradgen.errors import GradgenError, UsageError
from gradgen.labels import Labels, imagenet_labels
from gradgen.networks import CodeStatistics
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
    }
    return fakes.bundle(labels=table["labels"], code_statistics=CodeStatistics(**table))


@pytest.fixture
def run(monkeypatch, tmp_path, table_bundle):
    import gradgen.bundle

    monkeypatch.setattr(gradgen.bundle, "load_bundle", lambda name, generator: table_bundle)
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


def test_a_class_without_table_or_images_comes_from_posterior_samples(run, tmp_path, monkeypatch):
    import gradgen.sampling

    codes = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    asked, record = {}, {"method": "mala", "status": "finished"}

    def sample(bundle, class_name, **settings):
        asked.update(settings, class_name=class_name)
        return fakes.SimpleNamespace(codes=codes, record=record)

    monkeypatch.setattr(gradgen.sampling, "sample", sample)
    result = run("--class", "lipstick", "--seed", 5)
    assert result.exit_code == 0, result.output
    assert asked["class_name"] == "n03676483"
    assert asked["seed"] == 5
    assert asked["num_chains"] == 32
    read = statistics.load_statistics(tmp_path / "stats-lipstick.npz")
    assert read.record["source"] == "samples"
    assert read.record["sampling"] == record
    np.testing.assert_allclose(read.std, codes.std(0, ddof=1), rtol=1e-5)


def test_an_interrupted_sampling_writes_no_statistics(run, tmp_path, monkeypatch):
    import gradgen.sampling

    stopped = fakes.SimpleNamespace(codes=np.zeros((32, 3)), record={"status": "interrupted"})
    monkeypatch.setattr(gradgen.sampling, "sample", lambda *_, **__: stopped)
    assert run("--class", "lipstick").exit_code == 130
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
