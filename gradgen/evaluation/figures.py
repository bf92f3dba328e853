"""Pictures of the experiments: labelled grids, and curves over the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gradgen.evaluation.compare import METRICS, RunPictures, Value
from gradgen.images import image_grid, wrap_text
from gradgen.samples import GRID_TILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradgen.evaluation.experiments import Variant

PAD = 2
LINE = 18  # pixels of a line of a heading


def titled_grid(
    images: np.ndarray, row_labels: Sequence[str], column_labels: Sequence[str]
) -> Image.Image:
    """A grid (rows · columns pictures, row-major) with headings over its columns."""
    scale = max(1, GRID_TILE // images.shape[1])
    columns = len(column_labels)
    grid = image_grid(images, columns, row_labels, pad=PAD, scale=scale)
    width = images.shape[2] * scale
    font = ImageFont.load_default(size=14)
    wrapped = [wrap_text(label, font, width) for label in column_labels]
    height = LINE * max(map(len, wrapped)) + 6
    whole = Image.new("RGB", (grid.width, grid.height + height), (255, 255, 255))
    whole.paste(grid, (0, height))
    draw = ImageDraw.Draw(whole)
    left = grid.width - columns * (width + PAD)
    for column, lines in enumerate(wrapped):
        middle = left + column * (width + PAD) + width / 2
        draw.multiline_text(
            (middle, height - 4), "\n".join(lines), (0, 0, 0), font, "md", align="center"
        )
    return whole


def figure2_picture(
    columns: Sequence[Variant], pictures: Mapping[str, RunPictures], chain: int = 0
) -> Image.Image:
    """One row a class, one column a variant; each shows the same chain."""
    classes = pictures[columns[0].key].record["classes"]
    tiles = []
    for position in range(len(classes)):
        for column in columns:
            found = pictures[column.key]
            tiles.append(found.images[np.flatnonzero(found.class_position == position)[chain]])
    labels = [job["name"] for job in classes]
    return titled_grid(np.stack(tiles), labels, [column.title for column in columns])


def figure3_picture(
    variants: Sequence[Variant],
    pictures: Mapping[str, RunPictures],
    picked: Mapping[str, Sequence[int]],
) -> Image.Image:
    """One row a method: the pictures that were picked."""
    count = min(len(rows) for rows in picked.values())
    tiles = np.concatenate(
        [pictures[one.key].images[list(picked[one.key][:count])] for one in variants]
    )
    scale = max(1, GRID_TILE // tiles.shape[1])
    return image_grid(tiles, count, [one.title for one in variants], pad=PAD, scale=scale)


def budget_figure(
    found: Mapping[tuple[str, bool], Mapping[int, Mapping[str, Value]]], title: str = ""
) -> Figure:
    """A panel for each metric: its value over the budget, 95 % intervals as bands."""
    from matplotlib.figure import Figure

    first = next(iter(next(iter(found.values())).values()))
    shown = [metric for metric in METRICS if metric.key in first]
    figure = Figure(figsize=(11, 3.4 * -(-len(shown) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).ravel()
    ticks = sorted({budget for by_budget in found.values() for budget in by_budget})
    colours = {"map": "tab:red", "mala": "tab:blue", "hmc": "tab:green"}
    for axis, metric in zip(axes, shown, strict=False):
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
    for axis in axes[len(shown) :]:
        axis.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="small", loc="outside lower center", ncols=len(labels))
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure
