"""In a real Jupyter kernel: what a cell shows."""

import base64
import io
import re

from PIL import Image

from gradgen import notebook
from gradgen.scoring import GroupScore, ImageScore, Scores, UnreadableImage
from tests.own_networks import WIDE

CELL = f"""
import gradgen
samples = gradgen.sample(
    {WIDE!r}, "alpha", "map", num_chains=2, budget=4, block_size=1, clip=False
)
samples
"""


def shown_by(cell):
    """The (kind, HTML) of everything that a cell shows in a kernel of its own."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=180)
    found = []

    def take(message):
        kind, content = message["msg_type"], message["content"]
        assert kind != "error", content
        if "text/html" in content.get("data", {}):
            found.append((kind, content["data"]["text/html"]))

    try:
        client.execute_interactive(cell, timeout=300, output_hook=take)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return found


def test_a_cell_shows_samples_as_a_grid_and_progress_as_a_bar():
    shown = shown_by(CELL)
    bars = [html for kind, html in shown if "<progress" in html]
    assert shown[0] == ("display_data", bars[0])
    assert 'value="10"' in bars[-1] and "alpha: 10 of 10 gradients, log p" in bars[-1]
    kind, html = shown[-1]
    assert kind == "execute_result"
    (data,) = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    with Image.open(io.BytesIO(base64.b64decode(data))) as grid:
        assert grid.width > 2 * 128
    assert "<td>alpha</td><td>2</td>" in html


def test_scores_show_groups_and_what_could_not_be_read():
    scores = Scores(
        (ImageScore("a.png", "<b>", -0.5),),
        (GroupScore("<b>", 1, -0.5, None),),
        (UnreadableImage("c&d.png", "broken"),),
        "it",
        "0" * 64,
    )
    html = scores._repr_html_()
    assert "<td>&lt;b&gt;</td><td>1</td><td>-0.500</td><td>–</td>" in html
    assert "<td>c&amp;d.png</td><td>broken</td>" in html


def test_no_notebook_listens_here():
    assert not notebook.listens()
