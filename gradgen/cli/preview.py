"""Pictures in the terminal: the chains' while they run, a run's grid, a file's.

Kitty and sixel where the terminal has them, blocks of two pixels a character elsewhere, by the
library textual-image. It asks the terminal what it can when it is imported, so that this is done
only where :func:`can_show` says that somebody is there to look.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgen.cli import common
from gradgen.cli.options import option

if TYPE_CHECKING:
    import numpy as np

    from gradgen.runs.run import Run
    from gradgen.runs.sample import SampleProgress

TILE, GAP = 16, 1  # columns of a chain's picture in the strip, and between two of them
INTERVAL = 2.0  # seconds between two strips: decoding costs as much as a part of a gradient
WIDEST, LEAST_ROWS = 100, 12  # columns of a picture; rows that it may take in a low terminal


def preview_option(panel: str | None = None) -> Any:
    """``--preview/--no-preview``, under a heading of the help."""
    return option(
        "--preview/--no-preview",
        panel=panel,
        help="Show pictures in the terminal; never where output is piped.",
    )


def can_show() -> bool:
    """Whether a person looks at a terminal that has colours.

    textual-image reads the terminal's answers from standard input, which must be this terminal
    too, with this program in the foreground: another would be stopped for it.
    """
    streams = (sys.stdin, sys.stdout, sys.stderr)
    try:
        if not all(stream is not None and stream.isatty() for stream in streams):
            return False
        if 0 in os.get_terminal_size(sys.stdout.fileno()):  # a terminal of a script, of no size
            return False
        if os.name == "posix" and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():
            return False
    except (OSError, ValueError):
        return False
    return common.out.is_terminal and common.out.color_system is not None


def show_file(path: Path) -> None:
    """A picture on standard output, no wider and no higher than the terminal."""
    from gradgen.images import decode

    picture = decode(path)
    width, height = picture.size
    rows = max(LEAST_ROWS, common.out.height - LEAST_ROWS)
    # a character is about twice as high as it is wide
    columns = max(1, min(common.out.width, WIDEST, 2 * rows * width // height))
    common.out.print(_library().Image(picture, width=columns, height="auto"))


def strip_of(begun: Run) -> Callable[[SampleProgress], Any]:
    """For the progress bar: a function of a block that gives the chains' pictures in a row.

    The function gives ``None`` where the last pictures are too young to be drawn anew.
    """
    from gradgen.runs.sample import draw

    library = _library()
    columns = common.err.width
    count = max(1, (columns + GAP) // (TILE + GAP))
    drawn = -INTERVAL

    def strip(block: SampleProgress) -> Any:
        nonlocal drawn
        if time.monotonic() - drawn < INTERVAL:
            return None
        codes = block.state.position[:count]
        size = begun.plan.groups[block.groups[0]].size
        # a group's size, as at the end of the run: compiled only once
        image = row_of(draw(begun.plan.bundle, _numpy(codes), size))
        width = min(columns, len(codes) * (TILE + GAP) - GAP)
        shown = library.HalfcellImage(image, width=width, height=TILE // 2)
        drawn = time.monotonic()
        # the bar is drawn ten times a second, the pictures only now
        from rich.segment import Segments

        return Segments(list(common.err.render(shown)))

    return strip


def row_of(images: np.ndarray) -> Any:
    """Pictures (n, S, S, 3) uint8 side by side on black, as a Pillow image."""
    import numpy as np
    from PIL import Image

    side = images.shape[1]
    gap = np.zeros((side, max(1, side * GAP // TILE), 3), np.uint8)
    parts: Iterable[np.ndarray] = (part for image in images for part in (gap, image))
    return Image.fromarray(np.concatenate(list(parts)[1:], axis=1))


def _numpy(values: Any) -> np.ndarray:
    import numpy as np

    return np.asarray(values)


def _library() -> Any:
    # where a terminal does not answer, the library logs a traceback and goes on by a guess
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    from textual_image import renderable

    return renderable
