"""Tests DCGAN's discriminator against OpenCV's runner of the same network in Caffe's layers."""

import jax
import numpy as np
import pytest
from flax import nnx

from gradgen.errors import GradgenError, UsageError
from gradgen.models import dcgan
from gradgen.weights.convert import Origin, convert
from gradgen.weights.dcgan import load_discriminator, load_reference, make_reference
from tests import caffe_files

RNG = np.random.default_rng(0)
SHAPES = [(128, 3), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)]
STRIDES = [1, 2, 1, 2, 1, 2]


def npy_arrays():
    """The 17 arrays in their order: w; w2, g2, b2; …; wy."""
    arrays = []
    for number, shape in enumerate(SHAPES, 1):
        arrays.append(RNG.standard_normal((*shape, 3, 3), np.float32) * (2 / shape[1] / 9) ** 0.5)
        if number > 1:
            arrays.append(1 + 0.1 * RNG.standard_normal(shape[0], np.float32))
            arrays.append(0.1 * RNG.standard_normal(shape[0], np.float32))
    arrays.append(0.02 * RNG.standard_normal((8192, 1), np.float32))
    return [array.astype(np.float32) for array in arrays]


def write_npy(folder, arrays):
    files = []
    for number, array in enumerate(arrays, 1):
        files.append(folder / f"30_discrim_params.jl_{number:02d}.npy")
        np.save(files[-1], array, allow_pickle=array.dtype == object)
    return files


@pytest.fixture(scope="module")
def arrays():
    return npy_arrays()


@pytest.fixture(scope="module")
def converted(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dcgan")
    convert("dcgan", write_npy(folder, arrays), folder / "out", Origin())
    return folder / "out"


@pytest.fixture(scope="module")
def photographs():
    """Smooth pictures: noise, blurred, which random weights tell from noise one way or another."""
    noise = RNG.standard_normal((24, 36, 36, 3))
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-2, 3))
    return np.tanh(noise[:, 2:34, 2:34] / 5).astype(np.float32)


def logits_of(network):
    """(images, statistics or None) -> (n,), compiled."""
    graph, params = nnx.split(network)
    run = jax.jit(lambda params, *inputs: nnx.merge(graph, params)(*inputs)["logit"])
    return lambda images, statistics=None: np.asarray(run(params, images, statistics))


def caffe_network(arrays, statistics, flip, batch):
    """The same in Caffe's layers: a true convolution is Caffe's with the kernel turned round."""
    net = caffe_files.Prototxt((batch, 3, 32, 32))
    weights = {}
    rest = list(arrays)
    for number, ((out, _), stride) in enumerate(zip(SHAPES, STRIDES, strict=True), 1):
        kernel = rest.pop(0)
        sizes = f"num_output: {out} kernel_size: 3 stride: {stride} pad: 1 bias_term: false"
        net.add(f"c{number}", "Convolution", f"convolution_param {{ {sizes} }}")
        weights[f"c{number}"] = (kernel[:, :, ::-1, ::-1] if flip else kernel,)
        if number > 1:
            scale, shift = rest.pop(0), rest.pop(0)
            mean, variance = statistics[f"conv{number}"]
            net.add(f"n{number}", "BatchNorm", f"batch_norm_param {{ eps: {dcgan.EPSILON} }}")
            weights[f"n{number}"] = (np.asarray(mean), np.asarray(variance), np.ones(1))
            net.add(f"s{number}", "Scale", "scale_param { bias_term: true }")
            weights[f"s{number}"] = (scale, shift)
        net.relu(f"c{number}", 0.2)
    net.add("y", "InnerProduct", "inner_product_param { num_output: 1 bias_term: false }")
    weights["y"] = (rest.pop(0).T,)
    return net, caffe_files.caffemodel(weights)


@pytest.mark.parametrize("flip", [True, False])
def test_every_layer_is_opencvs_with_the_same_statistics(
    arrays, converted, photographs, flip, tmp_path
):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; it is the oracle here")
    network = load_discriminator(converted, flip)
    statistics = dcgan.reference_statistics(network, photographs, batch_size=7)
    net, content = caffe_network(arrays, statistics, flip, 3)
    (tmp_path / "net.prototxt").write_text("\n".join(net.text))
    (tmp_path / "net.caffemodel").write_bytes(content)
    theirs = cv2.dnn.readNetFromCaffe(
        str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
    )
    pictures = photographs[:3]
    theirs.setInput(pictures.transpose(0, 3, 1, 2))
    names = [f"c{number}/r" for number in range(1, 7)] + ["y"]
    expected = theirs.forward(names)
    found = network(pictures, statistics)
    for name, blob in zip(found, expected, strict=True):
        ours = np.asarray(found[name])
        ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours.reshape(blob.shape)
        assert np.abs(ours - blob).max() < 1e-4 * np.abs(blob).max(), name


def test_reference_statistics_are_those_of_the_whole_set_as_one_batch(converted, photographs):
    network = load_discriminator(converted, True)
    statistics = dcgan.reference_statistics(network, photographs, batch_size=5)
    logits = logits_of(network)
    whole, fixed = logits(photographs), logits(photographs, statistics)
    np.testing.assert_allclose(whole, fixed, atol=1e-4 * float(np.abs(whole).max()))


def test_with_fixed_statistics_a_verdict_does_not_depend_on_the_neighbours(converted, photographs):
    network = load_discriminator(converted, True)
    statistics = dcgan.reference_statistics(network, photographs)
    logits = logits_of(network)
    together = logits(photographs[:4], statistics)
    alone = logits(photographs[2:3], statistics)
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-4, atol=1e-5)
    others = logits(photographs[2:9])  # the original's way: it does depend
    assert abs(logits(photographs[:4])[2] - others[0]) > 1e-3


def test_the_reference_keeps_the_way_round_that_prefers_photographs(converted, photographs):
    made = make_reference(converted, photographs)
    trials = made["log_probability"]
    margin = {way: t["photographs"] - t["noise"] for way, t in trials.items()}
    kept = "flipped" if made["flip_kernels"] else "as stored"
    assert margin[kept] == max(margin.values())
    assert made["images"] == 24
    network = load_discriminator(converted, made["flip_kernels"])
    logits = logits_of(network)(photographs, load_reference(converted))
    log_p = float(jax.nn.log_sigmoid(logits).mean())
    assert log_p == pytest.approx(trials[kept]["photographs"], abs=1e-4)


def test_the_output_layer_reads_the_flat_image_as_channels_rows_columns(arrays, converted):
    network = load_discriminator(converted, False)
    weights = np.asarray(network.output[...]).reshape(4, 4, 512)
    np.testing.assert_array_equal(weights[1, 3, 7], arrays[-1].reshape(512, 4, 4)[7, 1, 3])
    np.testing.assert_array_equal(
        network.layers["conv4"].kernel[...][0, 2, 5, 9], arrays[7][9, 5, 0, 2]
    )


@pytest.mark.parametrize(
    ("number", "array", "message"),
    [
        (2, np.zeros((128, 128, 3)), r"jl_02\.npy is float64 \(128, 128, 3\), expected numbers"),
        (3, np.zeros(128, int), r"jl_03\.npy is int64"),
        (4, np.array([object()] * 128), r"jl_04\.npy is no array"),
        (5, np.zeros((256, 128, 3, 40), np.float32), r"jl_05\.npy is larger than an array"),
    ],
)
def test_wrong_arrays_are_named_and_nothing_is_unpickled(tmp_path, arrays, number, array, message):
    wrong = [*arrays]
    wrong[number - 1] = array
    with pytest.raises(GradgenError, match=message):
        convert("dcgan", write_npy(tmp_path, wrong), tmp_path / "out", Origin())
    assert not (tmp_path / "out").exists()


def test_a_missing_array_is_a_clear_error(tmp_path, arrays):
    with pytest.raises(UsageError, match=r"17 \.npy files, not 16"):
        convert("dcgan", write_npy(tmp_path, arrays[:-1]), tmp_path / "out", Origin())


def test_broken_headers_are_a_clear_error(tmp_path, arrays):
    files = write_npy(tmp_path, arrays)
    for content in (b"", b"\x93NUMPY", b"PK\x03\x04", files[0].read_bytes()[:200]):
        files[0].write_bytes(content)
        with pytest.raises(GradgenError, match=r"jl_01\.npy is no array"):
            convert("dcgan", files, tmp_path / "out", Origin())


def test_the_module_is_made_without_a_file_too():
    module = dcgan.Discriminator(rngs=nnx.Rngs(0))
    assert logits_of(module)(np.zeros((2, 32, 32, 3), np.float32)).shape == (2,)
