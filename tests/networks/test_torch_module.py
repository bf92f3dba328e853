"""PyTorch modules as networks: their own values and gradients, and chains step for step."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradgen import Bundle, from_torch, sample
from gradgen.errors import GradgenError, UsageError
from gradgen.networks import torch_module

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed (pip install 'gradgen[torch]')"
)
nn = torch.nn

LABELS = ["one", "two", "three"]


class Generator(nn.Module):
    """DCGAN's kind of layers: codes (n, 10, 1, 1) -> pictures (n, 3, 16, 16)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(10, 12, 4, 1, 0, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.layers(z)


class VisionTransformer(nn.Module):
    """A small one of PyTorch's own layers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.places = nn.Parameter(0.1 * torch.randn(1, 16, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.encoder(tokens).mean(1))


@pytest.fixture(scope="module")
def modules():
    torch.manual_seed(0)
    generator, classifier = Generator(), VisionTransformer()
    generator(torch.randn(64, 10, 1, 1))  # moves the batch norms' means away from 0
    return generator, classifier


@pytest.fixture(scope="module")
def bundle(modules):
    generator, classifier = modules
    return Bundle.from_functions(
        generator=from_torch(generator, input_shape=(10, 1, 1), way="called"),
        classifier=from_torch(classifier, way="called"),
        code_size=10, image_size=16, labels=LABELS, name="torches",
    )  # fmt: skip


def test_values_and_gradients_are_pytorchs_own(modules, bundle):
    generator, classifier = modules
    z = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)

    def log_p(z):
        images = bundle.generator.apply(None, z)
        return bundle.classifier.apply(None, images)[:, 1].sum(), images

    (value, images), gradient = jax.jit(jax.value_and_grad(log_p, has_aux=True))(z)
    own = torch.from_numpy(z).requires_grad_()
    pictures = generator(own.reshape(5, 10, 1, 1))
    expected = torch.log_softmax(classifier(pictures), 1)[:, 1].sum()
    expected.backward()
    np.testing.assert_allclose(images, pictures.detach().permute(0, 2, 3, 1), atol=1e-6)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, own.grad, rtol=1e-4, atol=1e-6)


def test_a_graph_that_is_gone_is_computed_again(modules, monkeypatch):
    function = from_torch(modules[1], way="called")
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 16, 3)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: function(x)[:, 0].sum()))
    kept = np.asarray(gradient(images))
    monkeypatch.setattr(torch_module, "MOST_GRAPHS", 0)
    np.testing.assert_array_equal(np.asarray(gradient(images)), kept)
    assert np.abs(kept).max() > 0


def test_chains_take_the_steps_of_the_same_network_in_jax():
    torch.manual_seed(1)
    drawing, judging = nn.Linear(4, 6 * 6 * 3), nn.Sequential(nn.Flatten(), nn.Linear(108, 3))

    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = drawing

        def forward(self, z):
            return torch.tanh(self.linear(z)).reshape(-1, 3, 6, 6)

    def arrays(linear):
        return tuple(jnp.asarray(p.detach().numpy()) for p in (linear.weight, linear.bias))

    def generate(params, z):
        flat = jnp.tanh(z @ params[0].T + params[1])
        return flat.reshape(-1, 3, 6, 6).transpose(0, 2, 3, 1)

    def classify(params, images):
        return images.transpose(0, 3, 1, 2).reshape(len(images), -1) @ params[0].T + params[1]

    shape = {"code_size": 4, "image_size": 6, "labels": LABELS}
    ours = Bundle.from_functions(
        generator=generate, classifier=classify, generator_params=arrays(drawing),
        classifier_params=arrays(judging[1]), **shape,
    )  # fmt: skip
    theirs = Bundle.from_functions(
        generator=from_torch(Drawing(), way="called"),
        classifier=from_torch(judging, way="called"), **shape,
    )  # fmt: skip
    for method in ("mala", "hmc"):
        given = {"method": method, "num_chains": 3, "budget": 40, "seed": 2}
        mine, foreign = sample(ours, "two", **given), sample(theirs, "two", **given)
        np.testing.assert_allclose(foreign.codes, mine.codes, atol=2e-4)
        np.testing.assert_allclose(
            foreign.traces.log_density, mine.traces.log_density, rtol=1e-4, atol=1e-4
        )


def test_a_transformer_is_sampled_and_the_same_seed_gives_the_same_bits(bundle):
    given = {"method": "mala", "num_chains": 4, "budget": 30, "chain_group": 2, "seed": 1}
    first, second = (sample(bundle, "three & !one", **given) for _ in range(2))
    np.testing.assert_array_equal(first.codes, second.codes)
    assert np.isfinite(first.log_density).all()
    assert first.record.classes[0].acceptance > 0.1


def test_other_weights_have_another_hash(modules, bundle):
    torch.manual_seed(3)
    other = from_torch(VisionTransformer()).weights_sha256
    assert bundle.classifier.sha256 == from_torch(modules[1]).weights_sha256 != other


def test_what_a_module_raises_is_shown_with_its_own_message(modules):
    shape = {"code_size": 10, "image_size": 16, "labels": LABELS}
    with pytest.raises(GradgenError, match=r"Generator fails for an input of shape \(1, 10\).*10"):
        Bundle.from_functions(
            generator=from_torch(modules[0]), classifier=from_torch(modules[1]), **shape
        )
    tupled = from_torch(modules[1], output=lambda found: (found,))
    with pytest.raises(GradgenError, match="tuple, not a tensor; `output`"):
        tupled(jnp.zeros((1, 16, 16, 3)))


def test_a_module_that_fails_while_chains_run_is_one_line(bundle):
    calls = []

    class Tired(nn.Module):
        def forward(self, images):
            calls.append(len(images))
            if len(images) > 1:
                raise ValueError("enough of it")
            return images.mean((2, 3))

    tired = Bundle.from_functions(
        generator=from_torch(Generator(), input_shape=(10, 1, 1), way="called"),
        classifier=from_torch(Tired(), way="called"),
        code_size=10, image_size=16, labels=LABELS, name="tired",
    )  # fmt: skip
    with pytest.raises(GradgenError, match="tired: a network's own code failed: .*enough of it"):
        sample(tired, "two", "mala", num_chains=2, budget=3)
    assert max(calls) == 2


def test_only_modules_are_taken_and_missing_pytorch_is_named(monkeypatch):
    with pytest.raises(UsageError, match=r"takes a torch.nn.Module, not function"):
        from_torch(lambda x: x)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"gradgen\[torch\]"):
        from_torch(None)


def test_without_torchax_modules_are_called_back_and_the_record_says_so(modules, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchax", None)
    plain = from_torch(modules[1])
    assert plain.params is None and plain.way == f"called back in PyTorch {torch.__version__}"
    with pytest.raises(GradgenError, match="VisionTransformer cannot be translated: .*torchax"):
        from_torch(modules[1], way="translated")
    with pytest.raises(UsageError, match="`way` 'flown'"):
        from_torch(modules[1], way="flown")


@pytest.fixture(scope="module")
def torchax():
    return pytest.importorskip("torchax", reason="torchax is not installed")


def test_a_translation_is_the_module_in_values_and_gradients(modules, torchax):
    generator, classifier = modules
    both = {
        way: Bundle.from_functions(
            generator=from_torch(generator, input_shape=(10, 1, 1), way=way),
            classifier=from_torch(classifier, way=way),
            code_size=10, image_size=16, labels=LABELS, name="torches",
        )
        for way in ("called", "translated")
    }  # fmt: skip
    ours, theirs = both["translated"], both["called"]
    assert ours.classifier.way.startswith(f"translated by torchax {torchax.__version__}")
    assert ours.generator.sha256 == theirs.generator.sha256
    assert len(jax.tree.leaves(ours.generator.params)) > 5  # arguments, no constants
    given = {"method": "mala", "num_chains": 3, "budget": 30, "seed": 2}
    mine, foreign = sample(ours, "two", **given), sample(theirs, "two", **given)
    np.testing.assert_allclose(mine.codes, foreign.codes, atol=5e-4)
    record = mine.record.to_json()
    assert "torchax" in record["classes"][0]["classifier"]["way"]
    assert "torchax" in record["bundle"]["generator"]["way"]
    assert mine.recipe(0).to_json()["weights"]["generator"] == record["bundle"]["generator"]


def test_what_cannot_be_translated_rightly_is_called_back(modules, torchax, monkeypatch):
    class Leaving(nn.Module):
        def forward(self, images):
            if float(images.detach().numpy().mean()) > 5:  # no tracer has a value
                return images.mean((2, 3)) * 0
            return images.mean((2, 3))

    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)
    function = from_torch(Leaving())
    np.testing.assert_allclose(jax.jit(function)(images), images.mean((1, 2)), atol=1e-6)
    assert function.way.startswith("called back")
    with pytest.raises(GradgenError, match="Leaving cannot be translated"):
        from_torch(Leaving(), way="translated")(images)

    honest = torch_module._translation

    def wrong(runner):
        numbers, call = honest(runner)
        return numbers, lambda params, x: 1.1 * call(params, x)

    monkeypatch.setattr(torch_module, "_translation", wrong)
    function = from_torch(modules[1])
    small = jnp.zeros((1, 16, 16, 3))
    expected = from_torch(modules[1], way="called")(small)
    np.testing.assert_array_equal(function(small), expected)
    assert function.way.startswith("called back")
