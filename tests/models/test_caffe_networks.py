"""Tests the paper's networks against OpenCV's own reader and runner of Caffe's files.

Every named layer is compared, for one image (noise of a photograph's scale) and for three (with
photographs, if there are any). The weights are random and of the scale of trained weights. The
files are written byte by byte.
"""

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradgen.images import decode, resize_square
from gradgen.models.caffenet import CaffeNet
from gradgen.models.deepsim import DeepSim
from gradgen.models.googlenet import GoogLeNet
from gradgen.networks.paper import from_caffe, to_caffe
from gradgen.weights.caffe import caffe_parameters, read_caffemodel
from gradgen.weights.store import fill_module
from tests import caffe_files

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; it is the oracle here")

# Relative to the layer's largest value. float32 sums of up to 9216 products (fc6) have a relative
# error of about sqrt(9216) * 6e-8 = 6e-6; the layers pass theirs on.
TOLERANCE = 1e-4
PHOTOGRAPHS = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet-samples"


def largest_errors(expected, found):
    """{layer: largest difference over largest value}, NCHW against NHWC."""
    errors = {}
    for name, theirs in expected.items():
        ours = np.asarray(found[name])
        if ours.ndim == 4:
            ours = ours.transpose(0, 3, 1, 2)
        assert ours.size == theirs.size, (name, ours.shape, theirs.shape)
        errors[name] = np.abs(ours.reshape(theirs.shape) - theirs).max() / np.abs(theirs).max()
    return errors


def run_opencv(tmp_path, net, content, inputs, names):
    """{our name: blob} of OpenCV's network; <name>/r is the rectified <name>."""
    (tmp_path / "net.prototxt").write_text("\n".join(net.text))
    (tmp_path / "net.caffemodel").write_bytes(content)
    network = cv2.dnn.readNetFromCaffe(
        str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
    )
    network.enableFusion(False)  # else branches are written into their concatenation only
    network.setInput(inputs)
    known = set(network.getLayerNames())
    wanted = [f"{name}/r" if f"{name}/r" in known else name for name in names]
    assert set(wanted) <= known
    return dict(zip(names, network.forward(wanted), strict=True))


def inputs_of(shape, rng):
    """Codes; or pictures, BGR less a mean: noise, and behind the first one photographs."""
    if shape[1:2] != (3,) or len(shape) != 4:
        return 10 * rng.standard_normal(shape, np.float32)
    pictures = 60 * rng.standard_normal(shape, np.float32)
    photographs = sorted(PHOTOGRAPHS.glob("*.jpg"))  # without them, noise it stays
    for picture, path in zip(pictures[1:], photographs, strict=False):
        rgb = np.asarray(resize_square(decode(path), shape[-1]), np.float32)
        picture[:] = (rgb[..., ::-1] - (104, 117, 123)).transpose(2, 0, 1)
    return pictures


NETWORKS = {
    "googlenet": (caffe_files.googlenet, {}, lambda rngs: GoogLeNet(rngs=rngs), "V1"),
    "caffenet": (caffe_files.caffenet, {}, lambda rngs: CaffeNet(rngs=rngs), "V1"),
    "alexnet": (
        caffe_files.caffenet,
        {"pool_first": False},
        lambda rngs: CaffeNet(pool_first=False, rngs=rngs),
        "V1",
    ),
    "deepsim fc6": (caffe_files.deepsim, {}, lambda rngs: DeepSim(rngs=rngs), "V2"),
    "deepsim pool5": (
        caffe_files.deepsim,
        {"code": "pool5"},
        lambda rngs: DeepSim("pool5", rngs=rngs),
        "V2",
    ),
}


SLOW = ("alexnet", "deepsim fc6")  # as caffenet but for the order of two layers; as pool5


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETWORKS],
)
def test_every_layer_is_opencvs(tmp_path, name):
    describe, how, make, generation = NETWORKS[name]
    weights = describe(**how).random_weights()
    content = caffe_files.caffemodel(weights, generation, legacy=generation == "V1")
    del weights
    path = tmp_path / "weights.caffemodel"
    path.write_bytes(content)
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    fill_module(module, caffe_parameters(module, read_caffemodel(path), name), name)
    graph, params = nnx.split(module)
    run = jax.jit(lambda params, inputs: nnx.merge(graph, params)(inputs))
    for batch in (1, 3):
        net = describe(**how, batch=batch)
        shape = (batch, 4096) if name == "deepsim fc6" else None
        if shape is None:
            side, channels = {"googlenet": (224, 3), "deepsim pool5": (6, 256)}.get(name, (227, 3))
            shape = (batch, channels, side, side)
        inputs = inputs_of(shape, np.random.default_rng(batch))
        ours = inputs.transpose(0, 2, 3, 1) if inputs.ndim == 4 else inputs
        found = run(params, ours)
        expected = run_opencv(tmp_path, net, content, inputs, list(found))
        errors = largest_errors(expected, found)
        assert max(errors.values()) < TOLERANCE, errors
        assert len(errors) == len(found) >= 12
    gc.collect()


@pytest.mark.slow
def test_gradients_of_classifier_after_generator_are_those_of_finite_differences():
    """In float64, along two random directions, whose slopes are of the size of the gradient's norm.

    A log-probability of about -100 is rounded by 1e-14, some sixty layers make that 1e-13 at most,
    or 1e-5 after the division by the step of 1e-8. Rectifiers that switch within the step (there
    are millions) add an error in proportion to it: 1e-3 of the slope was seen at 1e-5.
    """
    with jax.enable_x64(True):
        parts = [
            nnx.split(make(nnx.Rngs(0)))
            for make in (
                lambda rngs: DeepSim("pool5", rngs=rngs),
                lambda rngs: GoogLeNet(rngs=rngs),
            )
        ]
        graphs = [graph for graph, _ in parts]
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), [p for _, p in parts])

        @jax.jit
        def log_p(code):
            generator, classifier = (
                nnx.merge(graph, own) for graph, own in zip(graphs, params, strict=True)
            )
            picture = generator(code[None])["deconv0"][:, 16:240, 16:240]
            return jax.nn.log_softmax(classifier(picture)["loss3/classifier"])[0, 7]

        rng = np.random.default_rng(0)
        code = jnp.asarray(10 * rng.standard_normal((6, 6, 256)))
        gradient = jax.jit(jax.grad(log_p))(code)
        assert gradient.dtype == jnp.float64
        for _ in range(2):
            direction = rng.standard_normal(code.shape)
            difference = (log_p(code + 1e-8 * direction) - log_p(code - 1e-8 * direction)) / 2e-8
            slope = jnp.sum(gradient * direction)
            assert abs(difference - slope) < 1e-4 * jnp.linalg.norm(gradient.ravel())


@pytest.mark.parametrize(
    ("make", "shape"),
    [(DeepSim, (2, 4096)), (CaffeNet, (2, 227, 227, 3)), (GoogLeNet, (2, 224, 224, 3))],
)
def test_bfloat16_stays_bfloat16(make, shape):
    """--gradient-precision bf16: what is float32 on the way would break off or gain nothing."""
    graph, params = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    coarse = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), params)
    inputs = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    found = jax.eval_shape(lambda params, x: nnx.merge(graph, params)(x), coarse, inputs)
    assert {one.dtype for one in found.values()} == {jnp.dtype(jnp.bfloat16)}


def test_preprocessing_keeps_the_type():
    images = jnp.ones((1, 2, 2, 3), jnp.bfloat16)
    assert to_caffe(images).dtype == from_caffe(images).dtype == jnp.bfloat16
