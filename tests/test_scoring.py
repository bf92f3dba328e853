"""Tests scores by a discriminator in closed form: 0.5 * (mean of the picture - 1)."""

import csv
import io
import json
import math
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from gradgen import scoring
from gradgen.cli import app as program
from gradgen.errors import UsageError
from gradgen.images import load_image
from gradgen.networks import stream as streaming
from tests import fakes

# A flat picture of byte b has the mean b / 127.5 - 1; float32 means of 192 equal numbers are off
# by a few units in the last place of 2 at most.
TOLERANCE = 1e-6


def flat(path, byte, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (byte, byte, byte)).save(path)
    return path


def expected(byte):
    return 0.5 * (byte / 127.5 - 2.0)


@pytest.fixture
def folders(tmp_path):
    """Two folders with 5 and 2 pictures, one with a single one; their bytes by path."""
    layout = {"a": [0, 40, 80, 120, 255], "b": [10, 20], "c": [99]}
    return {
        flat(tmp_path / folder / f"{i}.png", byte): byte
        for folder, bytes_ in layout.items()
        for i, byte in enumerate(bytes_)
    }


def test_each_picture_gets_its_closed_form_whatever_the_batch(folders, tmp_path):
    for batch_size in (1, 3, 4, 8, 50):
        scores = scoring.score([tmp_path], fakes.bundle(), batch_size=batch_size)
        assert [image.source for image in scores.images] == [str(path) for path in folders]
        np.testing.assert_allclose(
            scores.log_probabilities, [expected(b) for b in folders.values()], atol=TOLERANCE
        )


def test_groups_are_folders_with_scipys_mean_and_standard_error(folders, tmp_path):
    scores = scoring.score([tmp_path], fakes.bundle())
    assert [g.group for g in scores.groups] == [str(tmp_path / name) for name in "abc"]
    values = [expected(b) for b in folders.values()]
    for group, numbers in zip(scores.groups, (values[:5], values[5:7]), strict=False):
        assert group.count == len(numbers)
        assert group.mean == pytest.approx(np.mean(numbers), abs=TOLERANCE)
        assert group.standard_error == pytest.approx(stats.sem(numbers), abs=TOLERANCE)
    assert scores.groups[2].standard_error is None
    assert scores.total.count == 8
    assert scores.total.standard_error == pytest.approx(stats.sem(values), abs=TOLERANCE)


def test_all_batches_have_one_shape_so_nothing_is_compiled_twice(folders, tmp_path):
    shapes = []

    def apply(params, images):
        shapes.append(images.shape)  # runs when JAX traces, once a shape
        return images.mean(axis=(1, 2, 3))

    bundle = fakes.bundle(discriminator=fakes.network(apply))
    scoring.score([tmp_path], bundle, batch_size=3)
    scoring.score([tmp_path / "b"], bundle, batch_size=3)
    assert shapes == [(3, 8, 8, 3)]


def test_a_picture_scores_the_same_in_any_company(folders, tmp_path):
    together = scoring.score([tmp_path], fakes.bundle(), batch_size=4)
    for image in together.images:
        alone = scoring.score(image.source, fakes.bundle(), batch_size=4)
        assert alone.log_probabilities[0] == image.log_probability


def test_unreadable_files_are_listed_and_the_rest_is_scored(folders, tmp_path):
    for name in ("a/0000-broken.png", "b/zzz.jpg"):
        (tmp_path / name).write_bytes(b"nonsense")
    seen = []
    scores = scoring.score([tmp_path], fakes.bundle(), 2, on_progress=lambda *n: seen.append(n))
    assert [failure.source for failure in scores.failures] == [
        str(tmp_path / "a/0000-broken.png"),
        str(tmp_path / "b/zzz.jpg"),
    ]
    assert "is not a picture" in scores.failures[0].reason
    np.testing.assert_allclose(
        scores.log_probabilities, [expected(b) for b in folders.values()], atol=TOLERANCE
    )
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


def test_nothing_but_unreadable_files_is_no_crash(tmp_path):
    (tmp_path / "x.png").write_bytes(b"nonsense")
    scores = scoring.score([tmp_path], fakes.bundle())
    assert scores.images == () and scores.groups == () and scores.total is None
    assert len(scores.failures) == 1


def test_pillow_images_and_arrays_of_all_kinds_are_scored(tmp_path):
    byte = np.full((8, 8, 3), 51, np.uint8)
    real = np.full((8, 8, 3), 51 / 127.5 - 1, np.float32)
    path = flat(tmp_path / "x.png", 51)
    mixed = [byte, real, jnp.asarray(real), Image.fromarray(byte), path, str(path)]
    scores = scoring.score(mixed, fakes.bundle())
    np.testing.assert_allclose(scores.log_probabilities, [expected(51)] * 5, atol=TOLERANCE)
    assert [i.source for i in scores.images][:2] == ["image 0", "image 1"]
    for one in (byte, Image.fromarray(byte), path):
        assert scoring.score(one, fakes.bundle()).log_probabilities.shape == (1,)
    for several in (np.stack([byte] * 3), jnp.stack([real] * 3)):
        assert scoring.score(several, fakes.bundle()).log_probabilities.shape == (3,)


@pytest.mark.parametrize("wrong", [[], [3.5], [None], np.zeros((2, 8, 8, 5), np.uint8)])
def test_what_is_no_picture_is_a_usage_error(wrong):
    with pytest.raises(UsageError):
        scoring.score(wrong, fakes.bundle())


def test_decoding_never_runs_far_ahead_of_the_network():
    started, lock, most = [], threading.Lock(), 0

    def load(source):
        with lock:
            started.append(source)
        return np.zeros(())

    for i, _ in enumerate(streaming._read_ahead(load, range(200), 6, threads=4)):
        most = max(most, len(started) - i)
    assert len(started) == 200
    assert most <= 6


def test_csv_and_dictionary_hold_the_same_numbers(folders, tmp_path):
    scores = scoring.score([tmp_path], fakes.bundle())
    rows = list(csv.DictReader(io.StringIO(scores.to_csv())))
    assert [float(row["log_probability"]) for row in rows] == scores.log_probabilities.tolist()
    record = json.loads(json.dumps(scores.to_dict()))
    assert [i["log_probability"] for i in record["images"]] == scores.log_probabilities.tolist()
    assert record["discriminator_sha256"] == "d" * 64


# --- the command ---


@pytest.fixture
def run(monkeypatch):
    import gradgen.networks.load

    monkeypatch.setattr(
        gradgen.networks.load, "load_bundle", lambda name, discriminator: fakes.bundle()
    )

    def run(*arguments):
        return CliRunner().invoke(program.app, ["score", *map(str, arguments)])

    return run


def test_the_command_prints_a_row_for_each_picture_and_each_folder(folders, tmp_path, run):
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    for text in (str(tmp_path / "a" / "4.png"), "0.0000", f"{expected(99):.4f}"):
        assert text in result.stdout


def test_standard_output_holds_json_or_csv_and_nothing_else(folders, tmp_path, run):
    record = json.loads(run(tmp_path, "--json").stdout)
    assert [g["count"] for g in record["groups"]] == [5, 2, 1]
    rows = list(csv.reader(io.StringIO(run(tmp_path, "--csv").stdout)))
    assert len(rows) == 9
    assert all(math.isfinite(float(row[2])) for row in rows[1:])


def test_a_bad_picture_is_named_and_makes_the_exit_code_1(folders, tmp_path, run):
    (tmp_path / "a" / "bad.png").write_bytes(b"nonsense")
    result = run(tmp_path, "--json")
    assert result.exit_code == 1
    assert "bad.png" in result.stderr
    assert len(json.loads(result.stdout)["images"]) == 8


# --- the embedded discriminator ---


@pytest.fixture(scope="module")
def tiny64():
    from gradgen.networks.load import load_bundle

    return load_bundle("tiny64")


def smooth_pictures(number):
    """Random pictures that are not noise: 4 x 4 colours, scaled up; (n, 100, 80, 3) uint8."""
    colours = np.random.default_rng(0).integers(0, 256, (number, 4, 4, 3), np.uint8)
    return [Image.fromarray(c).resize((80, 100), Image.Resampling.BICUBIC) for c in colours]


def test_the_embedded_discriminator_scores_a_picture_the_same_in_any_company(tiny64):
    pictures = smooth_pictures(11)
    forward = scoring.score(pictures, tiny64, batch_size=4).log_probabilities
    backward = scoring.score(pictures[::-1], tiny64, batch_size=4).log_probabilities[::-1]
    alone = scoring.score(pictures[10], tiny64, batch_size=4).log_probabilities[0]
    # Bit for bit on one CPU; another place in the batch may mean another order of float32 sums
    # elsewhere, so a few hundred units in the last place are allowed.
    np.testing.assert_allclose(forward, backward, rtol=3e-5, atol=1e-6)
    np.testing.assert_allclose(alone, forward[10], rtol=3e-5, atol=1e-6)
    assert np.ptp(forward) > 1e-3, "pictures that differ have scores that differ"
    assert (forward < 0).all(), "log-probabilities"


def test_the_embedded_score_does_not_depend_on_how_the_picture_is_stored(tiny64, tmp_path):
    picture = smooth_pictures(1)[0]
    for name in ("x.png", "x.bmp", "x.tiff"):
        picture.save(tmp_path / name)
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    values = scoring.score([tmp_path], tiny64, batch_size=4).log_probabilities
    np.testing.assert_allclose(values, values[0], rtol=3e-5, atol=1e-6)
    pixels = load_image(picture, tiny64.image_size)
    direct = tiny64.discriminator.apply(tiny64.discriminator.params, jnp.asarray(pixels)[None])
    assert values[0] == pytest.approx(float(direct[0]), rel=3e-5, abs=1e-6)
