"""Photographs as evidence: closed forms, coverage, and runs that replay without the files."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gradgen import Bundle, sample
from gradgen.errors import GradgenError, UsageError
from gradgen.images import from_uint8
from gradgen.runs import run
from gradgen.runs.record import read_record
from tests.own_networks import SIDE, integrated, moments, plane, probabilities

SIZE, CODE = 8, 3
BASIS = np.random.default_rng(0).normal(size=(CODE, SIZE * SIZE * 3)).astype(np.float32) * 0.1
CHAINS = 500
SIGMAS = 4.5  # of 9 quantities each in a few tests: a wrong alarm has probability 2e-4


@pytest.fixture(scope="module")
def linear():
    """Pictures that are linear in the code."""
    return Bundle.from_functions(
        generator=lambda params, z: (z @ params).reshape(-1, SIZE, SIZE, 3),
        generator_params=jnp.asarray(BASIS),
        classifier=lambda images: images.mean((1, 2)),
        encoder=lambda images: images.reshape(len(images), -1) @ BASIS.T,
        code_size=CODE, image_size=SIZE, labels=["red", "green", "blue"], name="linear",
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photograph, and a mask that hides its left half."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(3)
    shown = np.clip((np.array([0.8, -1.2, 0.4]) @ BASIS).reshape(SIZE, SIZE, 3), -1, 1)
    pixels = np.clip(np.rint((shown + 1) * 127.5 + rng.normal(size=shown.shape) * 10), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "photo.png")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def closed_form(pixels, weights, noise):
    """Mean and covariance of N(0, I) given ``weights @ z`` and pixels with noise."""
    precision = np.eye(CODE) + weights @ weights.T / (2 * noise) ** 2
    covariance = np.linalg.inv(precision)
    return covariance @ weights @ pixels / (2 * noise) ** 2, covariance


def assert_gaussian(codes, mean, covariance):
    error = np.sqrt(np.diag(covariance) / len(codes))
    np.testing.assert_array_less(np.abs(codes.mean(0) - mean), SIGMAS * error)
    # of a sample covariance of Gaussian draws: (c_ii c_jj + c_ij²) / n
    scale = np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2
    gap = np.abs(np.cov(codes.T) - covariance)
    np.testing.assert_array_less(gap, SIGMAS * np.sqrt(scale / len(codes)))


def test_a_matched_photograph_gives_the_gaussian_posterior(linear, files):
    pixels = from_uint8(np.asarray(Image.open(files / "photo.png"))).astype(np.float64)
    given = {"num_chains": CHAINS, "chain_group": CHAINS, "clip": False, "noise": 0.4,
             "start_candidates": 1}  # fmt: skip
    # three steps of 0.3 turn by 1.8 where the posterior's frequency is 2; five would turn it back
    whole = sample(linear, [], "hmc", match=str(files / "photo.png"), budget=300,
                   step_size=0.3, num_integration_steps=3, **given)  # fmt: skip
    weights = BASIS.astype(np.float64)
    assert_gaussian(whole.codes, *closed_form(pixels.ravel(), weights, 0.4))

    half = sample(linear, [], "mala", match=str(files / "photo.png"), budget=300, step_size=0.1,
                  mask=str(files / "mask.png"), **given)  # fmt: skip
    right = weights.reshape(CODE, SIZE, SIZE, 3)[:, :, SIZE // 2 :].reshape(CODE, -1)
    assert_gaussian(half.codes, *closed_form(pixels[:, SIZE // 2 :].ravel(), right, 0.4))


def test_chains_start_at_draws_of_the_posterior_given_many_candidates(linear, files):
    """The step is too small to lead anywhere."""
    pixels = from_uint8(np.asarray(Image.open(files / "photo.png"))).astype(np.float64)
    drawn = sample(linear, [], "mala", match=str(files / "photo.png"), noise=0.4, budget=1,
                   step_size=1e-12, num_chains=CHAINS, chain_group=CHAINS, clip=False,
                   start_candidates=300)  # fmt: skip
    assert_gaussian(drawn.codes, *closed_form(pixels.ravel(), BASIS.astype(np.float64), 0.4))


def test_a_smaller_photograph_is_matched_by_means_of_squares(linear, files, tmp_path):
    small = np.random.default_rng(5).integers(90, 160, (2, 2, 3), np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    drawn = sample(linear, [], "hmc", match=str(tmp_path / "small.png"), noise=0.1, downscaled=4,
                   num_chains=CHAINS, chain_group=CHAINS, budget=300, step_size=0.3,
                   num_integration_steps=5, clip=False, start_candidates=1)  # fmt: skip
    squares = BASIS.astype(np.float64).reshape(CODE, 2, 4, 2, 4, 3).mean((2, 4)).reshape(CODE, -1)
    assert_gaussian(drawn.codes, *closed_form(from_uint8(small).ravel(), squares, 0.1))


def test_a_photograph_and_a_class_are_both_evidence(tmp_path):
    bundle = plane()
    Image.new("RGB", (SIDE, SIDE), (140, 110, 128)).save(tmp_path / "photo.png")
    drawn = sample(bundle, "alpha & !beta", "mala", match=str(tmp_path / "photo.png"), noise=0.3,
                   num_chains=CHAINS, chain_group=CHAINS, budget=200, step_size=0.3,
                   likelihood_weight=2.0, clip=False, start_candidates=1)  # fmt: skip
    seen = from_uint8(np.array([140, 110], np.uint8)).astype(np.float64)

    def density(z):
        p = probabilities(z)
        gap = ((0.1 * z - seen) ** 2).sum(1) * SIDE**2 / (2 * 0.3) ** 2
        return (p[:, 0] * (1 - p[:, 1])) ** 2 * np.exp(-0.5 * (gap + (z**2).sum(1)))

    expected, deviation = integrated(density)
    error = deviation / np.sqrt(CHAINS)
    np.testing.assert_array_less(np.abs(moments(drawn.codes) - expected), SIGMAS * error)


@pytest.mark.slow
def test_intervals_of_hidden_pixels_cover_what_the_generator_drew(tmp_path):
    """Simulation-based: pictures of a generator without a closed form, a quarter hidden.

    Of 60 pictures, 90 % intervals cover 77 to 99 %: three standard deviations of a binomial. The
    share of draws that are smaller than the truth is uniform, so its mean is 0.5 ± 0.037.
    """
    rng = np.random.default_rng(1)
    basis = jnp.asarray(rng.normal(size=(4, SIZE * SIZE * 3)) * 0.1, jnp.float32)

    def generate(params, z):  # far enough from black and white for all the noise
        return 0.5 * jnp.tanh((z @ params).reshape(-1, SIZE, SIZE, 3))

    bundle = Bundle.from_functions(
        generator=generate, generator_params=basis, classifier=lambda images: images.mean((1, 2)),
        code_size=4, image_size=SIZE, labels=["red", "green", "blue"],
    )  # fmt: skip
    hidden = np.zeros((SIZE, SIZE), np.uint8)
    hidden[: SIZE // 2, : SIZE // 2] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    noise, covered, ranks = 0.08, [], []
    for number in range(60):
        z = rng.normal(size=(1, 4)).astype(np.float32)
        truth = np.asarray(generate(basis, jnp.asarray(z)))[0]
        seen = np.rint((truth + 2 * noise * rng.normal(size=truth.shape) + 1) * 127.5)
        Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
        drawn = sample(bundle, [], "hmc", match=str(tmp_path / "photo.png"), noise=noise,
                       mask=str(tmp_path / "mask.png"), num_chains=200, chain_group=200,
                       budget=200, step_size=0.15, num_integration_steps=3, seed=number,
                       clip=False, start_candidates=1)  # fmt: skip
        images = np.asarray(generate(basis, jnp.asarray(drawn.codes)))
        inside = images[:, : SIZE // 2, : SIZE // 2, 0].mean((1, 2))
        low, high = np.quantile(inside, [0.05, 0.95])
        covered.append(low <= truth[: SIZE // 2, : SIZE // 2, 0].mean() <= high)
        ranks.append((np.square(drawn.codes).sum(1) < np.square(z).sum()).mean())
    assert 0.77 <= np.mean(covered) <= 0.99
    assert 0.39 < np.mean(ranks) < 0.61


GIVEN = {"method": "mala", "num_chains": 3, "budget": 40, "block_size": 10, "noise": 0.3}

CODE_FILE = """
import jax.numpy as jnp
import gradgen

def bundle():
    basis = jnp.sin(jnp.arange(3 * 192.0)).reshape(3, 192) * 0.2
    return gradgen.Bundle.from_functions(
        generator=lambda z: (z @ basis).reshape(-1, 8, 8, 3),
        classifier=lambda images: images.mean((1, 2)),
        encoder=lambda images: images.reshape(len(images), -1) @ basis.T,
        code_size=3, image_size=8, labels=["red", "green", "blue"], name="linear")
"""


@pytest.fixture
def given(files, tmp_path):
    (tmp_path / "own.py").write_text(CODE_FILE)
    for name in ("photo.png", "mask.png"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    shown, mask = str(tmp_path / "photo.png"), str(tmp_path / "mask.png")
    names = {"match": shown, "mask": mask, "start": shown}
    return GIVEN | names | {"bundle": str(tmp_path / "own.py")}


def test_a_run_needs_its_photographs_no_more_once_it_has_begun(given, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_INTERVAL", 0.0)
    whole = run.begin(given | {"classes": ("green",)}, out=tmp_path / "whole").execute()
    begun = run.begin(given | {"classes": ("green",)}, out=tmp_path / "begun")
    answers = iter([False, True])
    begun.execute(stop=lambda: next(answers, True))
    for name in ("photo.png", "mask.png"):
        (tmp_path / name).unlink()
    named = {"bundle": given["bundle"]}
    resumed = run.resume(tmp_path / "begun", named).execute()
    np.testing.assert_array_equal(resumed.codes, whole.codes)
    picture = tmp_path / "whole" / "green-02.png"
    again = run.from_recipe(picture, named, out=tmp_path / "again").execute()
    np.testing.assert_array_equal(again.images[0], whole.images[2])
    with pytest.raises(GradgenError, match=r"photo\.png"):
        run.begin(given, out=tmp_path / "new")


def test_no_class_need_be_asked_for(given, tmp_path):
    folder = tmp_path / "run"
    run.begin(given, out=folder).execute()
    record = read_record(folder)
    assert record.classes[0].name == "match photo" and record.settings.classes == ()
    assert (folder / "match-photo-00.png").is_file()
    named = {"bundle": given["bundle"]}
    again = run.from_recipe(folder / "match-photo-01.png", named, out=tmp_path / "again")
    assert run.same_pixels(folder / "match-photo-01.png", again.execute().images[0])[0]


def test_chain_0_starts_at_the_photographs_code_and_the_others_near_it(linear, files):
    pixels = from_uint8(np.asarray(Image.open(files / "photo.png")))
    code = pixels.ravel() @ BASIS.T
    drawn = sample(linear, "red", "map", start=str(files / "photo.png"), num_chains=4, budget=1,
                   step_size=1e-9, clip=False)  # fmt: skip
    np.testing.assert_allclose(drawn.codes[0], code, atol=1e-4)
    from_start = np.linalg.norm(drawn.codes - code, axis=1)
    assert (from_start[1:] > 0.01).all()
    assert (from_start[1:] < 0.25 * (np.linalg.norm(code) + 6)).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"noise": None}, "`match` needs `noise`"),
        ({"match": None, "classes": "red"}, "`noise` is of a photograph"),
        ({"downscaled": 3}, "does not divide the 8 pixels"),
        ({"match": "nowhere.png"}, r"nowhere\.png"),
        ({"start": "nowhere.png"}, r"nowhere\.png"),
        ({"start": "nowhere.png", "start_candidates": 8}, "both say where chains start"),
        ({"mask": "white"}, "hides every pixel"),
        ({"mask": "other size"}, "a mask belongs to its photograph"),
        ({"preset": "dgn-am", "method": "map"}, "drop `match`"),
    ],
)
def test_photographs_that_make_no_sense_are_one_line(given, tmp_path, change, says):
    if change.get("mask"):
        side = 8 if change["mask"] == "white" else 9
        Image.new("L", (side, side), 255).save(tmp_path / "bad.png")
        change = {"mask": str(tmp_path / "bad.png")}
    options = {name: value for name, value in (given | change).items() if value is not None}
    if "preset" in options:
        del options["num_chains"], options["budget"]
    with pytest.raises(GradgenError, match=says):
        run.begin(options, out=tmp_path / "run")


def test_a_record_whose_photograph_was_tampered_with_is_one_line(given, tmp_path):
    folder = tmp_path / "run"
    begun = run.begin(given, out=folder)
    text = (folder / "run.json").read_text()
    held = begun.record.evidence.photograph
    for other in ("no base64!", "aGVsbG8=", held[: len(held) // 2 // 4 * 4]):
        (folder / "run.json").write_text(text.replace(held, other))
        with pytest.raises(UsageError, match="the record holds"):
            run.resume(folder, {"bundle": given["bundle"]})
