"""Tests what the paper's bundles show to Caffe's networks, and what they make of their pictures.

GoogLeNet and the pool5 generator are used, because they are small. They have their full size and
random weights, and OpenCV runs the same files.
"""

import numpy as np
import pytest

from gradgen.errors import GradgenError, UsageError
from gradgen.networks import paper
from gradgen.networks.bounds import PublishedBounds
from gradgen.networks.load import load_bundle
from gradgen.runs.plan import prepare
from gradgen.runs.sample import sample
from gradgen.runs.settings import make_settings
from gradgen.scoring import score
from gradgen.weights.convert import Origin, convert
from gradgen.weights.dcgan import make_reference
from gradgen.weights.registry import store_dir
from tests import caffe_files
from tests.models.test_dcgan import npy_arrays, write_npy

RNG = np.random.default_rng(0)
CACHED = (
    paper.load_paper_bundle,
    paper.load_paper_classifier,
    paper.load_generator,
    paper.load_encoder,
    paper.load_dcgan,
)


def forget():
    for function in CACHED:
        function.cache_clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache folder with GoogLeNet, the pool5 generator and DCGAN; their files beside it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADGEN_HOME", str(folder))
        forget()
        for name, net in (
            ("googlenet", caffe_files.googlenet()),
            ("deepsim-pool5", caffe_files.deepsim("pool5")),
        ):
            file = folder / f"{name}.caffemodel"
            file.write_bytes(caffe_files.caffemodel(net.random_weights(), "V2"))
            convert(name, [file], store_dir() / name, Origin())
        convert("dcgan", write_npy(folder, npy_arrays()), store_dir() / "dcgan", Origin())
        yield folder
    forget()


@pytest.fixture(scope="module")
def bundle(home):
    return load_bundle("googlenet", generator="deepsim-pool5")


def opencv(folder, name, net):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; it is the oracle here")
    (folder / f"{name}.prototxt").write_text("\n".join(net.text))
    return cv2.dnn.readNetFromCaffe(
        str(folder / f"{name}.prototxt"), str(folder / f"{name}.caffemodel")
    )


def test_the_classifier_sees_bgr_less_the_mean_pixel(home, bundle):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; it is the oracle here")
    rgb = RNG.integers(0, 256, (224, 224, 3), np.uint8)
    network = opencv(home, "googlenet", caffe_files.googlenet())
    bgr = rgb[..., ::-1]
    network.setInput(
        cv2.dnn.blobFromImage(bgr.astype(np.float32), 1.0, (224, 224), (104, 117, 123))
    )
    theirs = network.forward("prob")[0]
    images = rgb[None].astype(np.float32) / 127.5 - 1
    ours = np.exp(bundle.classifier.apply(bundle.classifier.params, images))[0]
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-6)


def test_a_picture_is_the_centre_of_the_generators_with_the_mean_added_back(home, bundle):
    codes = np.abs(RNG.standard_normal((2, 256, 6, 6), np.float32)) * 5
    network = opencv(home, "deepsim-pool5", caffe_files.deepsim("pool5", batch=2))
    network.setInput(codes)
    whole = network.forward("deconv0")  # (2, 3, 256, 256), BGR
    centre = whole[:, :, 16:240, 16:240] + np.array([104.0, 117.0, 123.0]).reshape(3, 1, 1)
    expected = centre[:, ::-1].transpose(0, 2, 3, 1) / 127.5 - 1
    found = bundle.generator.apply(bundle.generator.params, codes.reshape(2, -1))
    assert found.shape == (2, 224, 224, 3) and bundle.image_size == 224
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_centre_of_256_pixels_begins_where_dgn_am_has_it():
    images = np.arange(256.0)[None, :, None, None] * np.ones((1, 256, 256, 3))
    assert paper.centre(images, 227)[0, 0, 0, 0] == 14
    assert paper.centre(images, 224)[0, 0, 0, 0] == 16


def test_there_and_back_again():
    images = RNG.uniform(-1, 1, (2, 5, 5, 3)).astype(np.float32)
    caffe = paper.to_caffe(images)
    np.testing.assert_allclose(paper.from_caffe(caffe), images, atol=1e-6)
    white_red = np.asarray(paper.to_caffe(np.array([[[[1.0, -1.0, -1.0]]]])))[0, 0, 0]
    np.testing.assert_allclose(white_red, [-104.0, -117.0, 255 - 123.0])


@pytest.mark.slow  # half a minute of compilation each
@pytest.mark.parametrize(("method", "budget"), [("mala", 3), ("map", 2), ("hmc", 2)])
def test_every_method_runs_on_it(bundle, method, budget, tmp_path):
    samples = sample(
        bundle, "lipstick", method, 2, budget=budget, num_integration_steps=2, clip=False
    )
    assert samples.images.shape == (2, 224, 224, 3) and samples.images.dtype == np.uint8
    assert np.isfinite(samples.log_likelihood).all()
    assert samples.record.classes[0].classifier.name == "googlenet"
    assert samples.record.bundle.generator.name == "deepsim-pool5"
    samples.save(tmp_path / method)


def test_classes_are_those_of_the_bundles_classifier():
    places = paper.load_paper_bundle("places205")
    assert places.labels.find("alley").index == 2
    assert places.labels.find("cathedral/outdoor").name == "cathedral/outdoor"
    imagenet = paper.load_paper_bundle("caffenet").labels
    units = {"mask": 643, "library": 624, "leaf beetle": 304, "lipstick": 629, "beacon": 437}
    assert {name: imagenet.find(name).index for name in units} == units


def settings(**options):
    return make_settings({"classes": "lipstick", "method": "map", **options})


def test_dgn_ams_bounds_are_the_default_box(bundle):
    published = paper.dgn_am_bounds()
    assert isinstance(published, PublishedBounds) and set(published.upper) == {1.0, 2.0, 3.0}
    fc6 = load_bundle("googlenet")  # its generator's weights are not here, and not needed yet
    lower, upper = prepare(settings(), fc6).jobs[0].bounds
    assert not lower.any() and upper.shape == (4096,)
    np.testing.assert_array_equal(upper[:5], [12, 11, 13, 13, 12])  # the file's first numbers
    _, narrow = prepare(settings(clip_sigmas=1.0), fc6).jobs[0].bounds
    np.testing.assert_array_equal(narrow[:5], [4, 4, 5, 5, 5])
    with pytest.raises(UsageError, match="are for 1, 2, 3 standard deviations, not 2.5"):
        prepare(settings(clip_sigmas=2.5), fc6)
    with pytest.raises(UsageError, match="one set of bounds for all classes"):
        prepare(settings(clip_scope="class"), fc6)
    with pytest.raises(UsageError, match="no bounds come with the codes of deepsim-pool5"):
        prepare(settings(), bundle)


def test_dgn_am_begins_with_the_published_step_sizes(bundle):
    fc6 = load_bundle("googlenet")
    assert prepare(settings(preset="dgn-am"), fc6).settings.step_size == 2.0
    assert prepare(settings(preset="dgn-am", step_size=3.0), fc6).settings.step_size == 3.0
    assert prepare(settings(), fc6).settings.step_size is None
    small = load_bundle("tiny64")
    assert prepare(settings(preset="dgn-am", classes="lemon"), small).settings.step_size is None


def test_parts_that_are_missing_say_how_to_get_them(home):
    fc6 = load_bundle("googlenet")
    with pytest.raises(
        GradgenError, match=r"deepsim-fc6 \(224 MB, out of an archive; licence: non"
    ):
        _ = fc6.generator
    with pytest.raises(GradgenError, match="'gradgen weights fetch caffenet'"):
        _ = fc6.encoder


def test_dcgan_scores_each_picture_by_itself_once_it_has_a_reference(home, tmp_path):
    pictures = RNG.integers(0, 256, (9, 32, 32, 3), np.uint8)
    with pytest.raises(GradgenError, match="no reference statistics"):
        score(pictures, "tiny64", discriminator="dcgan")
    batchwise = score(
        pictures, "tiny64", batch_size=4, discriminator="dcgan", batch_statistics=True
    )
    moved = score(
        pictures[1:], "tiny64", batch_size=4, discriminator="dcgan", batch_statistics=True
    )
    assert not np.allclose(batchwise.log_probabilities[1:], moved.log_probabilities, atol=1e-3)
    with pytest.raises(UsageError, match="batch-statistics is for dcgan alone"):
        score(pictures, "tiny64", batch_statistics=True)

    make_reference(store_dir() / "dcgan", pictures.astype(np.float32) / 127.5 - 1)
    forget()
    whole = score(pictures, "googlenet", batch_size=4)
    assert whole.discriminator == "dcgan"
    alone = score(pictures[5], "googlenet", batch_size=1)
    np.testing.assert_allclose(whole.log_probabilities[5], alone.log_probabilities, rtol=1e-4)


def test_another_bundles_discriminator_can_score(home):
    pictures = RNG.integers(0, 256, (2, 64, 64, 3), np.uint8)
    taken = score(pictures, "googlenet", discriminator="tiny64")
    np.testing.assert_array_equal(
        taken.log_probabilities, score(pictures, "tiny64").log_probabilities
    )
