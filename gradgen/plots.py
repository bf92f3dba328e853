"""Every Matplotlib figure: traces, diagnoses, statistics of codes, studies of the budget.

Figures are made without pyplot, so that nothing depends on a display or on global state.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.files import write_atomically
from gradgen.inference.diagnostics import MIN_POINTS, autocorrelation, running_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradgen.code_bounds import Statistics
    from gradgen.evaluation.compare import Metric
    from gradgen.evaluation.diagnose import ClassDiagnosis
    from gradgen.evaluation.metrics import Value
    from gradgen.inference.traces import Traces

DOTS_PER_INCH = 110

# The panels of the trace figure: (name of the trace, label of the axis, scale of the axis).
TRACE_PANELS = (
    ("log_likelihood", "log p(class | g(z))", "linear"),
    ("acceptance", "acceptance", "linear"),
    ("step_size", "step size", "log"),
)
# A step's acceptance probability jumps between 0 and 1, so that a thousand steps would look like a
# solid block. The panel shows running means over this share of the trace.
SMOOTHED_SHARE = 1 / 40
DIAGNOSIS_PANELS = ("log_density", "log_likelihood", "squared_norm", "projection_0")
MANY_CHAINS = 4  # with more chains, their lines are thin and pale, and the mean is drawn over them


def trace_figure(traces: Mapping[str, Traces], title: str = "", warmup_steps: int = 0) -> Figure:
    """Draw log-likelihood, acceptance and step size over the steps, with a line for each chain.

    Args:
        traces: the traces of each class, by its name, which the legend shows. Classes may have
            different numbers of points. A panel is left out if no class has finite numbers for it,
            as for the acceptance of MAP.
        title: text above the figure.
        warmup_steps: number of steps in the warm-up. A dotted line marks its end, unless it is 0.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels = [
        panel
        for panel in TRACE_PANELS
        if any(_finite(trace, panel[0]) for trace in traces.values())
    ]
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


def _finite(trace: Traces, name: str) -> bool:
    return bool(np.isfinite(getattr(trace, name)).any())


def _frame(axis: Any, traces: Mapping[str, Traces]) -> None:
    """Set the limits of the step size's axis, since a constant has no extent on a log scale."""
    values = np.concatenate([np.ravel(trace.step_size) for trace in traces.values()])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        axis.set_ylim(values.min() / 1.3, values.max() * 1.3)


def _draw(axis: Any, trace: Traces, name: str, colour: Any, class_name: str, several: bool) -> None:
    """Draw the chains of a class in a panel, and their mean if there are many chains."""
    steps, values = trace.step, np.asarray(getattr(trace, name), float)
    if name == "acceptance":
        values = running_mean(values, max(1, round(len(steps) * SMOOTHED_SHARE)))
    if name == "step_size":
        values = np.where(values > 0, values, np.nan)
    # A single point has no line, so a marker keeps a very short run visible.
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


def diagnosis_figure(found: ClassDiagnosis, title: str = "") -> Figure:
    """Draw traces (left) and autocorrelations (right) of four quantities, a line for each chain.

    Args:
        found: the diagnosis of a class.
        title: text above the figure.
    """
    from matplotlib.figure import Figure

    names = [name for name in DIAGNOSIS_PANELS if name in found.series]
    figure = Figure(figsize=(11, 2.1 * len(names) + 0.6), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, width_ratios=(2, 1))
    for (left, right), name in zip(axes, names, strict=True):
        draws = found.series[name]
        left.plot(draws.T, linewidth=0.6, alpha=0.7)
        left.set_ylabel(name.replace("_", " "))
        figures = found.figures[name]
        told = [
            f"{label} {figures[key]:{form}}"
            for key, label, form in (("r_hat", "R̂", ".3f"), ("ess_bulk", "ESS", ".0f"))
            if figures[key] is not None
        ]
        left.set_title(", ".join(told), fontsize="small", loc="right")
        if draws.shape[1] >= MIN_POINTS:
            correlation = autocorrelation(draws)
            right.plot(correlation.T, linewidth=0.5, alpha=0.5, color="tab:blue")
            right.plot(correlation.mean(0), color="black", linewidth=1.4)
        right.axhline(0, color="grey", linewidth=0.6)
        right.set_ylim(-0.4, 1.05)
        for axis in (left, right):
            axis.grid(alpha=0.3)
    axes[0, 1].set_title("autocorrelation", fontsize="small")
    axes[-1, 0].set_xlabel(f"point of the trace (of {found.thinning:g} steps)")
    axes[-1, 1].set_xlabel("lag, points")
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def statistics_figure(statistics: Statistics, title: str = "") -> Figure:
    """Draw mean, bounds and standard deviation of every code unit, with the units sorted by mean.

    If the bounds come from a text file, only they are drawn.

    Args:
        statistics: of the codes.
        title: text above the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.5), layout="constrained")
    mean, std = statistics.mean, statistics.std
    order = np.argsort(statistics.upper if mean is None else mean, kind="stable")
    units = np.arange(len(order))
    rows = 1 if std is None else 2
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    axes[0].fill_between(
        units,
        statistics.lower[order],
        statistics.upper[order],
        step="mid",
        alpha=0.25,
        linewidth=0,
        label="between the bounds",
    )
    if mean is not None and std is not None:
        axes[0].plot(units, mean[order], linewidth=1.2, label="mean")
        axes[0].axhline(0.0, color="black", linewidth=0.6, linestyle=":")
        axes[1].plot(units, std[order], ".", markersize=3)
        axes[1].axhline(1.0, color="black", linewidth=0.6, linestyle=":", label="the prior's")
        axes[1].set_ylim(bottom=0.0)
        axes[1].set_ylabel("standard deviation")
        axes[1].legend(loc="best", fontsize="small")
    axes[0].set_ylabel("code")
    axes[0].legend(loc="best", fontsize="small")
    axes[-1].set_xlabel("code unit, sorted by " + ("upper bound" if mean is None else "mean"))
    for axis in axes:
        axis.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    return figure


def budget_figure(
    found: Mapping[tuple[str, bool], Mapping[int, Mapping[str, Value]]],
    metrics: Sequence[Metric],
    title: str = "",
) -> Figure:
    """Draw each metric over the budget in a panel of its own, with 95 % intervals as bands.

    Args:
        found: {(method, whether it is clipped): {budget: {key of a metric: its value}}}.
        metrics: the metrics to draw.
        title: text above the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4 * -(-len(metrics) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(metrics) // 2), 2, squeeze=False).ravel()
    ticks = sorted({budget for by_budget in found.values() for budget in by_budget})
    colours = {"map": "tab:red", "mala": "tab:blue", "hmc": "tab:green"}
    for axis, metric in zip(axes, metrics, strict=False):
        for (method, clip), by_budget in found.items():
            points = [
                (budget, values[metric.key])
                for budget, values in sorted(by_budget.items())
                if values[metric.key].value is not None
            ]
            if not points:
                continue
            budgets = [budget for budget, _ in points]
            style: dict[str, Any] = {"color": colours[method]}
            axis.plot(
                budgets,
                [value.value for _, value in points],
                marker="o",
                markersize=3,
                linestyle="--" if clip else "-",
                label=f"{method.upper()}{', clipped' if clip else ''}",
                **style,
            )
            if all(value.low is not None for _, value in points):
                lows = np.array([value.low for _, value in points], float)
                highs = np.array([value.high for _, value in points], float)
                axis.fill_between(budgets, lows, highs, alpha=0.12, linewidth=0, **style)
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(budget) for budget in ticks])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("gradient evaluations a chain")
        axis.set_ylabel(metric.heading)
        axis.set_title(metric.meaning, fontsize="small")
        axis.grid(alpha=0.3)
    for axis in axes[len(metrics) :]:
        axis.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", loc="outside lower center", ncols=len(labels))
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Draw the figure and return the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file, atomically."""
    write_atomically(Path(path), png_bytes(figure))
