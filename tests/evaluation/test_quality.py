"""Tests ``gradgen evaluate`` and its figures, against cases worked out by hand and SciPy."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from gradgen.cli import app as program
from gradgen.errors import UsageError
from gradgen.evaluation import metrics, quality
from gradgen.networks.load import load_bundle

RNG = np.random.default_rng(0)


def test_auc_is_the_mann_whitney_statistic():
    a, b = RNG.integers(0, 6, 30), RNG.integers(2, 9, 20)
    expected = stats.mannwhitneyu(a, b).statistic / (30 * 20)
    assert metrics.auc(a, b) == pytest.approx(expected)
    assert metrics.auc(np.array([2.0, 3]), np.array([0.0, 1])) == 1


def test_normal_codes_are_white_and_others_are_not():
    normal = RNG.standard_normal((4000, 50))
    found = quality.whiteness(normal)
    # the sampling errors of 4000 codes: |r| about 0.0126, kurtosis sqrt(24 / 4000) = 0.08 a unit
    assert found["mean_absolute_correlation"] < 0.02
    assert abs(found["mean_excess_kurtosis"]) < 0.06
    assert abs(found["norms_outside_95"] - 0.05) < 0.03
    heavy = RNG.standard_t(8, (4000, 50)) * 2
    found = quality.whiteness(heavy)
    expected = stats.kurtosis(heavy, axis=0).mean()
    assert found["mean_excess_kurtosis"] == pytest.approx(expected)
    assert found["norms_outside_95"] > 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise in folders called after two of tiny64's classes."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("n02814860 beacon, lighthouse, beacon light, pharos", "n07749582 lemon"):
        for part in ("train", "val"):
            (folder / part / name).mkdir(parents=True)
            for number in range(4):
                picture = RNG.integers(0, 256, (64, 64, 3), np.uint8)
                Image.fromarray(picture).save(folder / part / name / f"{number}.png")
    return folder


def test_folders_may_be_called_by_a_name_a_synset_id_or_both(tmp_path):
    for name in ("light_house", "n07749582", "n01443537 goldfish", "school bus"):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (64, 64)).save(tmp_path / name / f"{number}.png")
    bundle = load_bundle("tiny64")
    known = quality.load_validation(tmp_path, bundle, lambda *_: None)
    assert {bundle.labels[int(index)].name for index in known.labels} == {
        "lemon", "goldfish", "school bus"
    }  # fmt: skip
    (tmp_path / "light_house").rename(tmp_path / "Lighthouse")
    val = quality.load_validation(tmp_path, bundle, lambda *_: None)
    found = {bundle.labels[int(index)].name for index in val.labels}
    assert found == {"beacon", "lemon", "goldfish", "school bus"}


def test_the_datas_classes_become_the_bundles(data, tmp_path):
    bundle = load_bundle("tiny64")
    val = quality.load_validation(data, bundle, lambda *_: None)
    names = [bundle.labels[int(i)].name for i in np.unique(val.labels)]
    assert sorted(names) == ["beacon", "lemon"] and len(val) == 8
    for name in ("zebra crossing of my own", "another"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "train" / name).mkdir(parents=True)
        for part in ("train", "val"):
            Image.new("RGB", (64, 64)).save(tmp_path / part / name / "0.png")
    with pytest.raises(UsageError, match="no class of the data is one of tiny64"):
        quality.load_validation(tmp_path, bundle, lambda *_: None)


@pytest.mark.slow
def test_the_command_measures_every_part(data, tmp_path, capsys):
    sizes = ["--images", "6", "--num-classes", "2", "--num-chains", "2", "--budget", "5"]
    arguments = [
        "evaluate",
        "tiny64",
        "--data",
        str(data),
        *sizes,
        "--out",
        str(tmp_path / "e.json"),
    ]
    assert program.main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "e.json").read_text())
    figures = told["figures"]
    assert set(figures) == {
        "classifier", "generator", "codes", "fidelity", "posterior", "discriminator"
    }  # fmt: skip
    assert figures["fidelity"]["fid_prior"] is None  # of too few photographs
    assert figures["posterior"]["pictures"] == 4 and figures["classifier"]["images"] == 8
    assert 0 <= figures["discriminator"]["auc"] <= 1
    assert all(
        value is None or np.isfinite(value) for part in figures.values() for value in part.values()
    )
