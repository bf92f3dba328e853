"""Tests how the converter folds batch norms and changes layouts, without PyTorch."""

from __future__ import annotations

import numpy as np

from gradgen.tools.convert_lite import BATCH_NORM_EPSILON, block_indices, convert, fold


def state_of(rng, shapes):
    """A PyTorch state dictionary of noise: convolutions by name, norms by "<name>.norm"."""
    state = {}
    for (convolution, norm), shape in shapes.items():
        state[f"{convolution}.weight"] = rng.normal(size=shape).astype(np.float32)
        for part in ("weight", "bias", "running_mean"):
            state[f"{norm}.{part}"] = rng.normal(size=shape[0]).astype(np.float32)
        state[f"{norm}.running_var"] = rng.uniform(0.1, 2, shape[0]).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.asarray(7)
    return state


def test_a_folded_convolution_is_the_convolution_and_then_its_batch_norm():
    rng = np.random.default_rng(0)
    state = state_of(rng, {("conv", "bn"): (5, 3, 2, 2)})
    kernel, bias = fold(state, "conv", "bn")
    patch = rng.normal(size=(3, 2, 2))
    plain = np.einsum("oikl,ikl->o", state["conv.weight"], patch)
    deviation = np.sqrt(state["bn.running_var"] + BATCH_NORM_EPSILON)
    normalised = (plain - state["bn.running_mean"]) / deviation
    expected = state["bn.weight"] * normalised + state["bn.bias"]
    folded = np.einsum("oikl,ikl->o", kernel, patch) + bias
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-5)


def test_kernels_come_out_channels_last_under_the_flax_module_s_names():
    rng = np.random.default_rng(1)
    state = state_of(
        rng,
        {
            ("_conv_stem", "_bn0"): (8, 3, 3, 3),
            ("_blocks.0._depthwise_conv", "_blocks.0._bn1"): (8, 1, 3, 3),
            ("_blocks.0._project_conv", "_blocks.0._bn2"): (4, 8, 1, 1),
            ("_blocks.10._expand_conv", "_blocks.10._bn0"): (24, 4, 1, 1),
            ("_blocks.10._depthwise_conv", "_blocks.10._bn1"): (24, 1, 5, 5),
            ("_blocks.10._project_conv", "_blocks.10._bn2"): (6, 24, 1, 1),
            ("_conv_head", "_bn1"): (10, 6, 1, 1),
        },
    )
    state |= {"_fc.weight": rng.normal(size=(7, 10)), "_fc.bias": rng.normal(size=7)}
    assert block_indices(state) == [0, 10]
    arrays = convert(state)
    assert {name: array.shape for name, array in arrays.items() if name.endswith("kernel")} == {
        "stem.kernel": (3, 3, 3, 8),
        "blocks.0.depthwise.kernel": (3, 3, 8),
        "blocks.0.project.kernel": (8, 4),
        "blocks.10.expand.kernel": (4, 24),
        "blocks.10.depthwise.kernel": (5, 5, 24),
        "blocks.10.project.kernel": (24, 6),
        "head.kernel": (6, 10),
        "classifier.kernel": (10, 7),
    }
    assert all(array.dtype == np.float32 for array in arrays.values())
    # one element of each layout, by hand
    factor = state["_bn0.weight"] / np.sqrt(state["_bn0.running_var"] + BATCH_NORM_EPSILON)
    np.testing.assert_allclose(
        arrays["stem.kernel"][0, 2, 1, 5], state["_conv_stem.weight"][5, 1, 0, 2] * factor[5], 1e-6
    )
    norm = "_blocks.10._bn1"
    factor = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    np.testing.assert_allclose(
        arrays["blocks.10.depthwise.kernel"][1, 3, 20],
        state["_blocks.10._depthwise_conv.weight"][20, 0, 1, 3] * factor[20],
        1e-6,
    )
