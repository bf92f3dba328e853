"""Tests that the trace figure shows what it is given."""

import io

import numpy as np
from PIL import Image

from gradgen.plots import png_bytes, trace_figure
from tests.fakes import traces


def trace(chains, points, **overrides):
    rng = np.random.default_rng(0)
    quantities = {
        "log_likelihood": rng.normal(-3, 1, (chains, points)),
        "acceptance": rng.uniform(0, 1, (chains, points)),
        "step_size": np.full((chains, points), 0.1),
    }
    return traces(np.arange(1, points + 1) * 10, **{**quantities, **overrides})


def test_every_chain_is_a_line_and_the_mean_is_over_many_chains():
    data = trace(6, 20)
    axes = trace_figure({"beacon": data}, warmup_steps=50).axes
    assert [axis.get_ylabel() for axis in axes] == [
        "log p(class | g(z))",
        "acceptance",
        "step size",
    ]
    lines = axes[0].get_lines()
    for chain in range(6):
        np.testing.assert_array_equal(lines[chain].get_ydata(), data.log_likelihood[chain])
    np.testing.assert_allclose(lines[6].get_ydata(), data.log_likelihood.mean(0))
    assert lines[7].get_xdata()[0] == 50  # the end of the warm-up


def test_a_panel_without_numbers_is_left_out():
    data = trace(2, 5, acceptance=np.full((2, 5), np.nan))
    labels = [axis.get_ylabel() for axis in trace_figure({"beacon": data}).axes]
    assert labels == ["log p(class | g(z))", "step size"]


def test_several_classes_are_named_in_the_legend():
    figure = trace_figure({f"class {i}": trace(5, 4 + i) for i in range(12)}, "twelve classes")
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [f"class {i}" for i in range(12)]


def test_missing_numbers_do_not_stop_the_mean():
    values = np.array([[1.0, np.nan]] * 5)
    values[0] = [2.0, 3.0]
    figure = trace_figure({"beacon": trace(5, 2, log_likelihood=values)})
    np.testing.assert_allclose(figure.axes[0].get_lines()[5].get_ydata(), [1.2, 3.0])


def test_the_figure_is_a_png_even_for_a_single_point():
    picture = Image.open(io.BytesIO(png_bytes(trace_figure({"beacon": trace(16, 1)}))))
    assert picture.format == "PNG"
    assert picture.width == 880
