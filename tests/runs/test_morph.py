"""Walks between two posteriors: closed forms at every stop, files, and replays to the same bits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gradgen import Bundle, morph
from gradgen.cli.app import main
from gradgen.errors import GradgenError, UsageError
from gradgen.images import from_uint8
from gradgen.runs import morph as walking
from tests.own_networks import integrated, moments, plane, probabilities

SIZE, CODE, CHAINS = 4, 3, 64
BASIS = np.random.default_rng(0).normal(size=(CODE, SIZE * SIZE * 3)).astype(np.float32) * 0.2
GIVEN = {"num_chains": 2, "num_frames": 3, "budget": 60, "noise": 0.3, "seed": 5}
SIGMAS = 4.5  # of some 40 quantities: a wrong alarm has probability 3e-4


@pytest.fixture(scope="module")
def linear():
    """Pictures that are linear in the code."""
    return Bundle.from_functions(
        generator=lambda params, z: (z @ params).reshape(-1, SIZE, SIZE, 3),
        generator_params=jnp.asarray(BASIS), classifier=lambda images: images.mean((1, 2)),
        code_size=CODE, image_size=SIZE, labels=["red", "green", "blue"], name="linear",
    )  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    for seed, name in enumerate(("a.png", "b.png")):
        shown = np.random.default_rng(seed).normal(size=CODE) @ BASIS * 0.9
        pixels = np.clip(np.rint((shown.reshape(SIZE, SIZE, 3) + 1) * 127.5), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return folder / "a.png", folder / "b.png"


def test_every_stop_between_two_photographs_has_the_gaussian_that_is_known(linear, photographs):
    """p(A|z)^(1-t) p(B|z)^t p(z) is N(C W((1-t) a + t b)/s², C) with C = (I + W Wᵀ/s²)^-1."""
    noise = 0.5
    made = morph(*photographs, linear, "hmc", num_chains=CHAINS, num_frames=5, noise=noise,
                 budget=1000, num_integration_steps=3)  # fmt: skip
    weights = BASIS.astype(np.float64)
    ends = [from_uint8(np.asarray(Image.open(file))).astype(np.float64) for file in photographs]
    covariance = np.linalg.inv(np.eye(CODE) + weights @ weights.T / (2 * noise) ** 2)
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(made.shares, [0, 0.25, 0.5, 0.75, 1])
    for share, codes in zip(made.shares, made.codes, strict=True):
        seen = ((1 - share) * ends[0] + share * ends[1]).ravel()
        mean = covariance @ weights @ seen / (2 * noise) ** 2
        gap = np.abs(codes.mean(0) - mean)
        np.testing.assert_array_less(gap, SIGMAS * deviation / np.sqrt(CHAINS))
        # the variance of CHAINS Gaussian draws has the relative error sqrt(2 / CHAINS)
        spread = codes.var(0, ddof=1) / deviation**2
        np.testing.assert_array_less(np.abs(spread - 1), SIGMAS * np.sqrt(2 / CHAINS))
    # the two ends are not the same: the test could tell them apart
    assert np.abs(made.codes[0].mean(0) - made.codes[-1].mean(0)).max() > 4 * deviation.max() / 8
    np.testing.assert_allclose(
        made.images[0, 0], np.clip(np.rint((made.codes[0, 0] @ BASIS + 1) * 127.5), 0, 255)
        .reshape(SIZE, SIZE, 3), atol=1,
    )  # fmt: skip


def test_classes_count_by_their_shares():
    """Against sums over a grid: p(alpha)^(2(1-t)) p(!beta)^(2t) p(z)."""
    made = morph("alpha", "!beta", plane(), num_chains=CHAINS, num_frames=3, budget=600,
                 likelihood_weight=2.0, seed=1)  # fmt: skip

    for share, codes, found in zip(made.shares, made.codes, made.log_likelihoods, strict=True):

        def density(z, share=share):
            p = probabilities(z)
            evidence = p[:, 0] ** (1 - share) * (1 - p[:, 1]) ** share
            return evidence**2 * np.exp(-0.5 * (z**2).sum(1))

        expected, deviation = integrated(density)
        gap = np.abs(moments(codes) - expected)
        np.testing.assert_array_less(gap, SIGMAS * deviation / np.sqrt(CHAINS))
        p = probabilities(codes)
        np.testing.assert_allclose(found, np.log(np.stack([p[:, 0], 1 - p[:, 1]], 1)), atol=2e-5)


@pytest.fixture(scope="module")
def saved(linear, photographs, tmp_path_factory):
    """A morph and its folder; the photograph that it begins at is gone."""
    folder = tmp_path_factory.mktemp("saved")
    photo = folder / "photo.png"
    photo.write_bytes(photographs[0].read_bytes())
    made = morph(str(photo), "red | green", linear, **GIVEN)
    photo.unlink()
    return made, made.save(folder / "morph")


def test_a_morph_replays_to_the_same_bits_without_its_photographs(linear, photographs, saved):
    made, folder = saved
    again = walking.replay(folder, linear)
    np.testing.assert_array_equal(again.codes, made.codes)
    np.testing.assert_array_equal(again.images, made.images)
    assert walking.same_frames(again, folder)
    other = morph(photographs[1], "red | green", linear, **GIVEN)
    assert not walking.same_frames(other, folder)

    with Image.open(folder / "animation.webp") as animation:
        assert animation.n_frames == 3
    assert Image.open(folder / "strip.png").size == (3 * 128 + 8, 2 * 128 + 6)
    values = json.loads((folder / "morph.json").read_text())
    assert values["gradient_evaluations"] <= 60
    assert values["from"]["classes"][0]["name"] == "match photo"

    changed = Bundle.from_functions(
        generator=lambda params, z: (z @ params).reshape(-1, SIZE, SIZE, 3),
        generator_params=jnp.asarray(BASIS * 1.1), classifier=lambda images: images.mean((1, 2)),
        code_size=CODE, image_size=SIZE, labels=["red", "green", "blue"], name="linear",
    )  # fmt: skip
    with pytest.raises(GradgenError, match="other weights"):
        walking.replay(folder, changed)


def test_stops_and_strips_have_both_ends():
    shares, still = walking.stops(8)
    assert len(shares) == 16 and still == 4  # a quarter of the stops at either end
    np.testing.assert_array_equal(shares[:5], 0)
    np.testing.assert_array_equal(shares[-5:], 1)
    assert (np.diff(shares) >= 0).all()
    assert walking.spread_over(24, 9) == [0, 3, 6, 9, 12, 14, 17, 20, 23]
    assert walking.spread_over(2, 9) == [0, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"noise": None}, "needs `noise`"),
        ({"first": "nowhere.png"}, r"nowhere\.png"),
        ({"second": "purple"}, "purple"),
        ({"method": "map"}, "choose one of mala, hmc"),
        ({"num_frames": 1}, "`num_frames` 1"),
        ({"num_chains": 65}, "from 1 to 64"),
        ({"budget": 5}, "too small for 4 frames"),
        ({"preset": "dgn-am"}, "unknown option preset"),
    ],
)
def test_what_makes_no_sense_is_one_line(linear, photographs, change, says):
    given = {"first": photographs[0], "second": "red", "noise": 0.3, "num_frames": 4}
    with pytest.raises(GradgenError, match=says):
        morph(**(given | {"bundle": linear} | change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "gradgen run 2"}, "no record of a morph"),
        ({"num_frames": "many"}, "`num_frames` 'many'"),
        ({"from": None}, "from has the format"),
    ],
)
def test_a_broken_record_is_one_line(linear, saved, tmp_path, change, says):
    values = saved[0].record.to_json() | change
    (tmp_path / "morph.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=says):
        walking.replay(tmp_path, linear)


CODE_FILE = """
from tests.own_networks import plane

def bundle():
    return plane()
"""


def test_the_command_writes_a_folder_and_makes_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(CODE_FILE)
    sized = ["--bundle", "own.py", "-n", "2", "--frames", "3", "--budget", "60"]
    asked = ["morph", "--from", "alpha", "--to", "beta", *sized]
    assert main([*asked, "--out", "first"]) == 0
    shown = capsys.readouterr().out
    assert "first/strip.png" in shown and "log p(alpha)" in shown and "1.00" in shown
    assert main([*asked, "--out", "first"]) == 2  # before anything is computed
    assert "not empty" in capsys.readouterr().err
    again = ["morph", "--again", "first", "--out", "second"]
    assert main(again) == 2  # code runs only where it is named
    assert "--bundle own.py" in capsys.readouterr().err
    assert main([*again, "--bundle", "own.py", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same_bits"] is True
    assert main(["morph", "--from", "alpha", "--bundle", "own.py"]) == 2
    assert main([*again, "--from", "alpha"]) == 2
