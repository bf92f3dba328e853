"""What the subcommands share: consoles, warnings, progress.

Results go to standard output (`out`), everything else to standard error
(`err`), so that `gradgen score --json > scores.json` holds nothing but JSON.
Imports neither JAX nor NumPy: `gradgen --help` loads this module.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console()
err = Console(stderr=True)

PLAIN_INTERVAL = 10.0  # seconds between progress lines when standard error is no terminal
WIDE = 200  # columns of a table that is piped: nothing reads it but a person or grep


def option(*names: str, panel: str, help: str, default: str = "") -> Any:
    """An option that is None where it was not given: its default is told, not set."""
    text = f"{help} (default: {default})" if default else help
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    err.print(f"[yellow]warning:[/] {escape(message)}", highlight=False, soft_wrap=True)


def note(message: str) -> None:
    """Print one line of information on standard error."""
    err.print(escape(message), highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a Rich table on standard output, untruncated when it is piped."""
    if out.is_terminal:
        out.print(table)
    else:
        Console(file=sys.stdout, width=WIDE).print(table)


def quiet_pillow() -> None:
    """Silence Pillow's warnings: `gradgen.images` refuses large and broken pictures by name."""
    import warnings

    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # "Tag data larger than file" and the like


def format_duration(seconds: float) -> str:
    """`3725` -> `1:02:05`; `65` -> `1:05`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class ProgressReporter:
    """Counts work done and shows it; made by `progress`.

    `update` sets the absolute count, `advance` adds to it; `note` is a short
    text shown after the numbers (an acceptance rate, a file name). `total` may
    be set once it is known.
    """

    def __init__(self, description: str, total: int | None, unit: str, start_at: int = 0) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.completed = start_at
        self.note = ""
        self._begun_at = start_at
        self._begun = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        self.update(self.completed + count, note)

    def update(self, completed: int, note: str | None = None) -> None:
        self.completed = completed
        if note is not None:
            self.note = note
        self._show()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    @property
    def rate(self) -> float:
        """Units per second since the beginning (of this process, when resumed)."""
        return (self.completed - self._begun_at) / max(self.elapsed, 1e-9)

    def status(self) -> str:
        """One line: counts, rate, time left, note."""
        counts = f"{self.completed}" if self.total is None else f"{self.completed}/{self.total}"
        parts = [f"{counts} {self.unit}".rstrip()]
        if self.completed > self._begun_at:
            parts.append(f"{self.rate:.1f}/s")
            if self.total is not None and self.completed < self.total:
                left = (self.total - self.completed) / self.rate
                parts.append(f"{format_duration(left)} left")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _show(self) -> None:
        raise NotImplementedError


class _PlainReporter(ProgressReporter):
    """A line on standard error every `PLAIN_INTERVAL` seconds, and one at the end."""

    def __init__(
        self, description: str, total: int | None, unit: str, start_at: int, stream: TextIO
    ) -> None:
        super().__init__(description, total, unit, start_at)
        self._stream = stream
        self._shown = time.monotonic()
        self._shown_at: int | None = None

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown >= PLAIN_INTERVAL:
            self._shown = now
            self.line()

    def line(self) -> None:
        if self.completed == self._shown_at:
            return
        self._shown_at = self.completed
        print(f"{self.description}: {self.status()}", file=self._stream, flush=True)


@contextmanager
def progress(
    description: str, total: int | None = None, unit: str = "", start_at: int = 0
) -> Iterator[ProgressReporter]:
    """Show progress on standard error: a bar on a terminal, plain lines elsewhere.

    total: units of work in all, None where it is unknown. start_at: units that
    were already done before (a resumed run); the rate and the time left count
    only what is done now.
    """
    if not err.is_terminal:
        plain = _PlainReporter(description, total, unit, start_at, sys.stderr)
        try:
            yield plain
        finally:
            plain.line()
        return

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        task = bar.add_task(escape(description), total=total, completed=start_at, status="")

        class BarReporter(ProgressReporter):
            def _show(self) -> None:
                bar.update(
                    task,
                    completed=self.completed,
                    total=self.total,
                    status=escape(self.status()),
                )

        yield BarReporter(description, total, unit, start_at)
