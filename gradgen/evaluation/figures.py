"""Pictures of the experiments: labelled grids, and curves over the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gradgen.evaluation.compare import RunPictures
from gradgen.images import image_grid, wrap_text
from gradgen.runs.results import GRID_TILE

if TYPE_CHECKING:
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
    """A row for each class, a column for each variant; each shows the same chain."""
    classes = pictures[columns[0].key].record.classes
    tiles = []
    for position in range(len(classes)):
        for column in columns:
            found = pictures[column.key]
            tiles.append(found.images[np.flatnonzero(found.class_position == position)[chain]])
    labels = [job.name for job in classes]
    return titled_grid(np.stack(tiles), labels, [column.title for column in columns])


def figure3_picture(
    variants: Sequence[Variant],
    pictures: Mapping[str, RunPictures],
    picked: Mapping[str, Sequence[int]],
) -> Image.Image:
    """A row for each method: the pictures that were picked."""
    count = min(len(rows) for rows in picked.values())
    tiles = np.concatenate(
        [pictures[variant.key].images[list(picked[variant.key][:count])] for variant in variants]
    )
    scale = max(1, GRID_TILE // tiles.shape[1])
    return image_grid(tiles, count, [variant.title for variant in variants], pad=PAD, scale=scale)
