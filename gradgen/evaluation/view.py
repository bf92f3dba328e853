"""Runs as a page of HTML that needs nothing else: pictures, the chains' way, traces, words.

The page loads nothing from anywhere, and its content security policy allows only the style and the
script that are inside it. Whatever comes from a record or a file is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation.diagnose import diagnose
from gradgen.images import read_recipe
from gradgen.inference.traces import Traces
from gradgen.run_files import ANIMATION_FILE, CHAINS_FILE
from gradgen.runs.record import RUNNING, ClassRecord, RunRecord, read_record
from gradgen.runs.results import Samples, read_chains

MOST_PICTURES = 64  # of a run, shared by its classes
MOST_TRACES = 8  # classes whose traces are drawn
MOST_POINTS, MOST_LINES = 250, 16  # of a trace on the page
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FRAME_SIDE, FRAME_QUALITY = 480, 70  # pixels of a frame's longer side
TRACED = (
    ("log_likelihood", "log p(class)"),
    ("squared_norm", "‖z‖²"),
    ("acceptance", "acceptance"),
)
PLOT_WIDTH, PLOT_HEIGHT = 600, 100  # of a plot, in units of its own: it is stretched
Words = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Picture:
    """A chain's picture on the page.

    Attributes:
        class_position, chain: whose it is.
        png: the file's bytes, the recipe inside.
        recipe: as JSON's types; empty where the file has none.
    """

    class_position: int
    chain: int
    png: bytes
    recipe: dict[str, Any]


@dataclass(frozen=True, eq=False)
class RunView:
    """What the page shows of a run.

    Attributes:
        folder: of the run.
        record: of it; of a run that goes on, with what is known so far.
        pictures: at most MOST_PICTURES.
        traces: of the chains, or ``None`` where there are none yet.
        class_position: (chains,) of the traces.
        steps: that the chains have done, on the average.
        frames: pictures of the chains' way, as JPEG.
    """

    folder: Path
    record: RunRecord
    pictures: tuple[Picture, ...]
    traces: Traces | None
    class_position: np.ndarray
    steps: float
    frames: tuple[bytes, ...] = ()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def view(folders: Sequence[str | os.PathLike[str]], words: Words = str) -> str:
    """Runs side by side as a page of HTML.

    Args:
        folders: of runs, finished, interrupted or on their way.
        words: changes advice, in which arguments of :func:`gradgen.sample` stand in backquotes.

    Raises:
        UsageError: a folder is none of a run.
        GradgenError: a file is broken.
    """
    return page([read_view(Path(folder)) for folder in folders], words=words)


# --- reading ----------------------------------------------------------------------------------


def read_view(folder: Path) -> RunView:
    """What a run's folder has to show; see :func:`view`."""
    record = read_record(folder)
    each = max(1, MOST_PICTURES // len(record.classes))
    places = [
        (position, chain, index < each)
        for position, job in enumerate(record.classes)
        for index, chain in enumerate(job.chains)
    ]
    pictures = [
        _picture(folder / name, position, chain)
        for name, (position, chain, wanted) in zip(record.pictures or (), places, strict=False)
        if wanted and _is_inside(name)
    ]
    traces, position = None, np.zeros(0, int)
    if (folder / CHAINS_FILE).is_file():
        chains = read_chains(folder)
        traces, position = chains.traces, chains.class_position
    done = [step for job in record.classes for step in job.steps]
    return RunView(
        folder,
        record,
        tuple(picture for picture in pictures if picture is not None),
        traces,
        position,
        float(np.mean(done)) if done else 0.0,
        _frames(folder / ANIMATION_FILE),
    )


def view_of(folder: Path, record: RunRecord, samples: Samples) -> RunView:
    """What samples that are in memory have to show: those of a run that goes on."""
    each = max(1, MOST_PICTURES // len(record.classes))
    pictures = []
    for index in np.flatnonzero(samples.chain < each):
        buffer = io.BytesIO()
        Image.fromarray(samples.images[index]).save(buffer, "PNG")
        pictures.append(
            Picture(
                int(samples.class_position[index]),
                int(samples.chain[index]),
                buffer.getvalue(),
                samples.recipe(int(index)).to_json(),
            )
        )
    steps = [step for job in samples.record.classes for step in job.steps]
    own = samples.record
    return RunView(
        folder,
        # the record on the disk says what the run is, the samples' how far it is
        RunRecord(**{**vars(own), "status": record.status, "created": record.created}),
        tuple(pictures),
        samples.traces,
        samples.class_position,
        float(np.mean(steps)) if steps else 0.0,
    )


def _is_inside(name: str) -> bool:
    """A record that was tampered with shall not put other files onto the page."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _picture(file: Path, position: int, chain: int) -> Picture | None:
    try:
        content = file.read_bytes()
        if not content.startswith(PNG_SIGNATURE):
            return None
        recipe = read_recipe(file)
    except UsageError:  # saved anew by another program
        recipe = {}
    except (GradgenError, OSError):  # broken, or removed
        return None
    return Picture(position, chain, content, recipe)


def _frames(file: Path) -> tuple[bytes, ...]:
    if not file.is_file():
        return ()
    frames = []
    with Image.open(file, formats=["WEBP"]) as animation:
        for frame in ImageSequence.Iterator(animation):
            small = frame.convert("RGB")
            small.thumbnail((FRAME_SIDE, FRAME_SIDE))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=FRAME_QUALITY)
            frames.append(buffer.getvalue())
    return tuple(frames)


# --- the page ---------------------------------------------------------------------------------


def page(
    runs: Sequence[RunView],
    title: str | None = None,
    comparison: str = "",
    words: Words = str,
    state: str = "",
) -> str:
    """The page, as HTML.

    Args:
        runs: to show side by side.
        title: of the page; ``None``: the runs' names.
        comparison: HTML that comes before the runs.
        words: see :func:`view`.
        state: of a page that asks a server for a newer one.
    """
    style, script = (
        Path(__file__).with_name(f"view.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    title = title or ", ".join(run.name for run in runs)
    articles = "".join(_run(run, words) for run in runs)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(style, script, bool(state))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>gradgen: {escape(title)}</title><style>{style}</style></head>
<body{f' data-state="{escape(state)}"' if state else ""}>
<main><h1>{escape(title)}</h1>{comparison}
<div class="runs">{articles}</div></main>
<dialog aria-labelledby="picture-title"><h2 id="picture-title"></h2>
<img class="large" alt="" src="data:,">
<div class="bar"><button type="button" data-move="-1">← Previous</button>
<button type="button" data-move="1">Next →</button>
<button type="button" data-close>Close</button></div>
<dl class="numbers"></dl>
<details><summary>Recipe</summary><pre tabindex="0"></pre></details></dialog>
<script>{script}</script></body></html>
"""


def policy(style: str, script: str, live: bool) -> str:
    """The content security policy: this style, this script, pictures that are inside the page."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    rules = [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest(style)}'",
        f"script-src 'sha256-{digest(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        rules.append("connect-src 'self'")
    return "; ".join(rules)


def _run(run: RunView, words: Words) -> str:
    parts = [
        f'<article class="run"><h2>{escape(run.name)}</h2>',
        f"<p>{escape(describe_run(run.record))}</p>",
        _progress(run),
        *(_class(run, position, job) for position, job in enumerate(run.record.classes)),
        _way(run),
        _traces(run),
        f"<h3>Are the chains of use?</h3>{_diagnosis(run, words)}",
        "<details><summary>Record</summary>"
        f'<pre tabindex="0">{escape(_json(run.record.to_json()))}</pre></details>',
        f'<p class="soft">{escape(str(run.folder))}</p></article>',
    ]
    return "".join(parts)


def describe_run(record: RunRecord) -> str:
    """A line: method, budget, chains, β, clipping."""
    settings = record.settings
    chains = f"{settings.num_chains} chain{'' if settings.num_chains == 1 else 's'}"
    several = f" of each of {len(record.classes)} classes" if len(record.classes) > 1 else ""
    beta = settings.likelihood_weight
    parts = [
        settings.preset or settings.method,
        f"{settings.budget} gradients",
        f"{chains}{several}",
        *([] if beta is None else [f"β = {beta:g}"]),
        *([f"γ = {settings.realism:g}"] if settings.realism else []),
        f"clip {settings.clip_mode}",
        f"seed {settings.seed}",
        record.bundle.name,
    ]
    return ", ".join(parts)


def _progress(run: RunView) -> str:
    record = run.record
    total = record.total_steps or record.settings.num_steps
    counted = f"{run.steps:.0f} of {total} steps"
    if record.finished:
        took = f", {record.wall_time_s:.0f} s" if record.wall_time_s else ""
        return f'<p class="soft">finished: {counted}{took}</p>'
    bar = f'<progress max="{total}" value="{run.steps:.0f}" aria-label="{counted}"></progress>'
    return f'<p class="soft">{escape(record.status)}: {counted}</p>{bar}'


def _class(run: RunView, position: int, job: ClassRecord) -> str:
    own = [picture for picture in run.pictures if picture.class_position == position]
    facts = [
        f"{name} {value:{form}}"
        for name, value, form in (
            ("mean log p", job.log_likelihood, ".2f"),
            ("acceptance", job.acceptance, ".2f"),
            ("‖z‖²", job.squared_norm, ".0f"),
        )
        if value is not None
    ]
    more = f"the first {len(own)} of {job.num_chains} pictures" if job.num_chains > len(own) else ""
    facts += [more] if more and own else []
    items = "".join(f"<li>{_button(picture, job)}</li>" for picture in own)
    pictures = f'<ul class="pictures">{items}</ul>' if own else "<p>No pictures yet.</p>"
    return f"<h3>{escape(job.name)} <small>{escape(', '.join(facts))}</small></h3>{pictures}"


def _button(picture: Picture, job: ClassRecord) -> str:
    result = picture.recipe.get("result")
    result = result if isinstance(result, dict) else {}
    numbers = [
        (name, f"{result[key]:.4g}")
        for name, key in (
            ("log p(class)", "log_likelihood"),
            ("log density", "log_density"),
            ("‖z‖²", "squared_norm"),
            ("acceptance", "acceptance"),
            ("step size", "step_size"),
        )
        if isinstance(result.get(key), int | float)
    ]
    numbers.append(("steps", str(picture.recipe.get("steps", "unknown"))))
    title = f"{job.name}, chain {picture.chain}"
    told = f": {numbers[0][0]} {numbers[0][1]}" if len(numbers) > 1 else ""
    return (
        f'<button type="button" data-title="{escape(title)}" '
        f'data-numbers="{escape(json.dumps(numbers, ensure_ascii=False))}" '
        f'data-recipe="{escape(_json(picture.recipe))}">'
        f'<img alt="{escape(title + told)}" src="{_data("png", picture.png)}"></button>'
    )


def _way(run: RunView) -> str:
    last = len(run.frames) - 1
    if last < 1:
        return ""
    images = "".join(
        f'<img alt="The chains, picture {number + 1} of {last + 1} of their way" '
        f'src="{_data("jpeg", frame)}"{"" if number == last else " hidden"}>'
        for number, frame in enumerate(run.frames)
    )
    return (
        '<h3>The chains\' way</h3><div class="way"><div class="slide">'
        '<button type="button" class="plain" data-play>Play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="The chains\' way">'
        f"<output>{last + 1} of {last + 1}</output></div>{images}</div>"
    )


def _traces(run: RunView) -> str:
    if run.traces is None:
        return ""
    parts = ["<h3>Traces</h3>"]
    for position, job in enumerate(run.record.classes[:MOST_TRACES]):
        own = run.traces.of(np.flatnonzero(run.class_position == position)[:MOST_LINES])
        if not own.num_chains:
            continue
        plots = [
            _plot(
                f"{job.name}: {label}", own.step, getattr(own, name), run.record.warmup_steps or 0
            )
            for name, label in TRACED
        ]
        parts += plots
    left_out = len(run.record.classes) - MOST_TRACES
    if left_out > 0:
        parts.append(f'<p class="soft">Traces of {left_out} more classes are in trace.png.</p>')
    return "".join(parts)


def _plot(label: str, step: np.ndarray, values: np.ndarray, warmup: int) -> str:
    """An SVG of a quantity of some chains (chains, points) over their steps."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return ""
    low, high = float(known.min()), float(known.max())
    span = high - low or 1.0
    last = float(step[-1])
    chosen = np.unique(np.linspace(0, len(step) - 1, min(len(step), MOST_POINTS)).astype(int))
    x = PLOT_WIDTH * step[chosen] / last
    lines = []
    for chain, row in enumerate(values[:, chosen]):
        y = 2 + (PLOT_HEIGHT - 4) * (high - row.astype(float)) / span
        there = np.isfinite(y)
        points = " L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[there], y[there], strict=True))
        if points:
            lines.append(f'<path class="c{chain % 8}" d="M{points}"/>')
    shade = (
        f'<rect class="warmup" x="0" y="0" width="{PLOT_WIDTH * warmup / last:.1f}" '
        f'height="{PLOT_HEIGHT}"><title>warm-up</title></rect>'
        if warmup
        else ""
    )
    limits = f"{low:.4g} … {high:.4g}"
    return (
        f'<figure class="plot"><figcaption><span>{escape(label)}</span><span>{limits}</span>'
        f'</figcaption><svg class="trace" viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="{escape(label)}, {limits}">'
        f"{shade}{''.join(lines)}</svg>"
        f"<p><span>0</span><span>{last:.0f} steps</span></p></figure>"
    )


def _diagnosis(run: RunView, words: Words) -> str:
    """What ``gradgen diagnose`` says, in words."""
    if run.record.status == RUNNING:
        return "<p>The chains are on their way; diagnostics come at their end.</p>"
    if run.record.settings.method == "map":
        return (
            "<p>MAP climbs to a maximum and samples nothing: there is nothing to diagnose. Look at "
            "whether log p(class) has stopped rising.</p>"
        )
    try:
        found = diagnose(run.folder)
    except GradgenError as error:
        return f"<p>{escape(str(error))}</p>"
    parts = []
    for each in found.classes:
        worst = "" if each.worst_r_hat is None else f" (largest R̂ {each.worst_r_hat:.3f})"
        verdict = {True: "agree", False: "do not agree", None: "cannot be compared"}[each.agree]
        parts.append(f"<p>{escape(f'{each.name}: the chains {verdict}{worst}.')}</p>")
        if each.advice:
            items = "".join(f"<li>{_with_options(words(line))}</li>" for line in each.advice)
            parts.append(f"<ul>{items}</ul>")
    return "".join(parts)


def _with_options(text: str) -> str:
    """Escaped; options of the command line are not broken at their hyphens."""
    return re.sub(r"--[a-z][a-z-]*", lambda found: f"<code>{found[0]}</code>", escape(text))


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False)


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
