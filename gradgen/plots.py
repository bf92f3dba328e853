"""Figures of a run: what the chains did over their steps.

Figures are made without pyplot, so nothing depends on a display or on global state.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Trace = Mapping[str, np.ndarray]

# Panels of the trace figure: the trace's name, the axis label, its scale.
PANELS = (
    ("log_likelihood", "log p(class | g(z))", "linear"),
    ("acceptance", "acceptance", "linear"),
    ("step_size", "step size", "log"),
)
# A step's acceptance probability jumps between 0 and 1: drawn as it is, a thousand of them are a
# solid block. The panel shows running means over this share of the trace.
SMOOTHED_SHARE = 1 / 40
MANY_CHAINS = 4  # above this a chain's line is thin and pale, and the mean is drawn over it


def trace_figure(traces: Mapping[str, Trace], title: str = "", warmup_steps: int = 0) -> Figure:
    """Draw log-likelihood, acceptance and step size over the steps, one line a chain.

    Args:
        traces: for each class (its name is the legend) the arrays ``step`` (points,) and
            ``log_likelihood``, ``acceptance``, ``step_size``, each (chains, points). A panel that
            no class has finite numbers for is left out (MAP accepts nothing). Classes may have
            different numbers of points.
        title: above the figure.
        warmup_steps: a dotted line marks the end of the warm-up, where there was one.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(_finite(one, panel[0]) for one in traces.values())]
    figure = Figure(figsize=(8.0, 1.2 + 1.9 * max(len(panels), 1)), layout="constrained")
    axes = figure.subplots(max(len(panels), 1), 1, sharex=True, squeeze=False)[:, 0]
    colours = colormaps["tab10" if len(traces) <= 10 else "viridis"]
    several = len(traces) > 1
    for axis, (name, label, scale) in zip(axes, panels, strict=False):
        axis.set_yscale(scale)
        if name == "acceptance":
            axis.set_ylim(-0.03, 1.03)
        if name == "step_size":
            _frame(axis, traces)
        for position, (class_name, trace) in enumerate(traces.items()):
            if not _finite(trace, name):
                continue
            colour = colours(position if len(traces) <= 10 else position / (len(traces) - 1))
            _draw(axis, trace, name, colour, class_name, several)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if warmup_steps > 0:
            axis.axvline(warmup_steps, color="black", linestyle=":", linewidth=1)
    if several and panels:
        axes[0].legend(fontsize="small", ncols=min(len(traces), 5), loc="lower right")
    axes[-1].set_xlabel("step")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means over the ``width`` points up to each one (fewer at the start), of rows (n, points).

    Points that are not finite are left out; where nothing is left, NaN.
    """
    held = np.isfinite(values)
    sums, counts = (
        np.cumsum(np.pad(part, ((0, 0), (width, 0))), axis=1, dtype=float)
        for part in (np.where(held, values, 0.0), held)
    )
    count = counts[:, width:] - counts[:, :-width]
    total = sums[:, width:] - sums[:, :-width]
    return np.where(held & (count > 0), total / np.maximum(count, 1), np.nan)


def _finite(trace: Trace, name: str) -> bool:
    return name in trace and bool(np.isfinite(trace[name]).any())


def _frame(axis: Any, traces: Mapping[str, Trace]) -> None:
    """Limits of the step size's axis: a constant one has no extent of its own on a log scale."""
    values = np.concatenate([np.ravel(one.get("step_size", ())) for one in traces.values()])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        axis.set_ylim(values.min() / 1.3, values.max() * 1.3)


def _draw(axis: Any, trace: Trace, name: str, colour: Any, class_name: str, several: bool) -> None:
    """One class in one panel: its chains, and their mean where they are many."""
    steps, values = trace["step"], np.asarray(trace[name], float)
    if name == "acceptance":
        values = running_mean(values, max(1, round(len(steps) * SMOOTHED_SHARE)))
    if name == "step_size":
        values = np.where(values > 0, values, np.nan)
    # A single point has no line; a marker keeps a very short run visible.
    marker = "." if len(steps) < 3 else ""
    many = len(values) > MANY_CHAINS
    for chain, line in enumerate(values):
        own = {"color": colour} if several or many else {}
        axis.plot(
            steps,
            line,
            marker=marker,
            linewidth=0.6 if many else 1.0,
            alpha=0.35 if many else 0.9,
            label=class_name if several and not many and chain == 0 else None,
            **own,
        )
    if many:
        held = np.isfinite(values)
        mean = np.where(held, values, 0.0).sum(0) / np.maximum(held.sum(0), 1)
        mean[~held.any(0)] = np.nan
        axis.plot(
            steps,
            mean,
            marker=marker,
            linewidth=1.6,
            color=colour if several else "black",
            label=class_name if several else None,
        )
