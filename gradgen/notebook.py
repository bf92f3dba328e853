"""In Jupyter: whether a notebook listens, its progress bar, and pictures for its cells."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Sequence
from html import escape
from typing import Any

INTERVAL = 0.25  # seconds between two drawings of the bar


def listens() -> bool:
    """Whether this is the kernel of a notebook, which can show HTML."""
    ipython = sys.modules.get("IPython")  # never imported for this: then there is no notebook
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Bar:
    """A progress bar in the output of the cell that runs."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = title, unit
        self._handle: Any = None
        self._shown = 0.0

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show how much is done; drawn a few times a second only, and at the end."""
        now = time.monotonic()
        if done < total and now - self._shown < INTERVAL:
            return
        self._shown = now
        from IPython.display import HTML, display

        counts = f"{self.title}: {done} of {total} {self.unit}{', ' if note else ''}{note}"
        shown = HTML(f'<progress max="{total}" value="{done}"></progress> {escape(counts)}')
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)


def picture(png: bytes, alt: str) -> str:
    """An ``<img>`` that holds a PNG file."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A ``<table>`` of texts."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
