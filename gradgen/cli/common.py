"""What the subcommands share: consoles, warnings, progress.

Results go to standard output (`out`), everything else to standard error
(`err`), so that `gradgen score --json > scores.json` holds nothing but JSON.
Imports neither JAX nor NumPy: `gradgen --help` loads this module.

Names of files, recipes and records come from anywhere, and a terminal obeys
escape sequences: all that is printed goes through `printable`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

# What a terminal may obey rather than show: control characters of both sets, marks that change
# the direction of writing, unusual ends of lines; and halves of characters, which no file can take.
_OBEYED = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE = re.compile(f"[{_OBEYED}]")
_UNSAFE_IN_LINES = re.compile(f"(?!\n)[{_OBEYED}]")


def printable(text: str, *, lines: bool = False) -> str:
    """The text with what a terminal would obey written as escapes: `\\x1b`, `\\u202e`.

    lines: ends of lines stay as they are.
    """
    pattern = _UNSAFE_IN_LINES if lines else _UNSAFE
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class SafeConsole(Console):
    """A console that prints no control characters but its own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, lines=True), segment.style)


out = SafeConsole()
err = SafeConsole(stderr=True)

PLAIN_INTERVAL = 10.0  # seconds between progress lines when standard error is no terminal
WIDE = 200  # columns of a table that is piped: nothing reads it but a person or grep


def warn(message: str) -> None:
    """Print one warning line on standard error."""
    text = escape(printable(message))
    err.print(f"[yellow]warning:[/] {text}", highlight=False, soft_wrap=True)


def note(message: str) -> None:
    """Print one line of information on standard error."""
    err.print(escape(printable(message)), highlight=False, soft_wrap=True)


def say(text: object) -> None:
    """Print one line of the result on standard output, unbroken.

    A path that is piped stays exactly as it is, for whoever reads it; on a terminal it is
    `printable`.
    """
    line = str(text)
    sys.stdout.write((printable(line) if sys.stdout.isatty() else line) + "\n")


def print_json(value: Any) -> None:
    """Print strict JSON on standard output; numbers that it cannot hold become null."""
    from gradgen.files import json_text

    text = json_text(value, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_text(value, indent=2, ascii=True)
    print(_UNSAFE_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def prepare_streams() -> None:
    """Have a character that the terminal or file cannot take written as an escape.

    Under PYTHONIOENCODING=ascii or a Windows code page a result would else be lost to a Greek
    letter.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # not a text file of Python's; or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def print_table(table: Table) -> None:
    """Print a Rich table on standard output, untruncated when it is piped."""
    if out.is_terminal:
        out.print(table)
    else:
        SafeConsole(file=sys.stdout, width=WIDE).print(table)


def quiet_pillow() -> None:
    """Silence Pillow's warnings: `gradgen.images` refuses large and broken pictures by name."""
    import warnings

    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # "Tag data larger than file" and the like
    _quiet_libtiff()


def _quiet_libtiff() -> None:
    """Take away libtiff's own printing on standard error; Pillow reports what matters of it."""
    import ctypes

    from PIL import _imaging

    with suppress(OSError, AttributeError):  # not a part of this Pillow, or hidden in it
        library = ctypes.CDLL(_imaging.__file__)
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 chain`, `2 chains`; the plural is the noun with an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def find_pictures(paths: Sequence[str]) -> list[Path]:
    """:func:`gradgen.images.find_images`, with a line on files of kinds that cannot be read."""
    from gradgen.images import find_images

    unreadable: list[Path] = []
    found = find_images(paths, unreadable)
    if unreadable:
        kinds = ", ".join(sorted({path.suffix.lower().removeprefix(".") for path in unreadable}))
        warn(
            f"left out {counted(len(unreadable), 'file')} of a kind that cannot be read ({kinds}); "
            "convert to JPEG or PNG"
        )
    return found


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

    def show_below(self, renderable: Any) -> None:
        """Show something under the bar, or nothing any more (``None``); only on a terminal."""

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
        line = printable(f"{self.description}: {self.status()}")
        print(line, file=self._stream, flush=True)


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
    below: Any = None

    class Bar(Progress):
        def get_renderables(self) -> Iterator[Any]:
            yield from super().get_renderables()
            if below is not None:
                yield below

    with Bar(*columns, console=err, transient=False) as bar:
        task = bar.add_task(escape(description), total=total, completed=start_at, status="")

        class BarReporter(ProgressReporter):
            def _show(self) -> None:
                bar.update(
                    task,
                    completed=self.completed,
                    total=self.total,
                    status=escape(self.status()),
                )

            def show_below(self, renderable: Any) -> None:
                nonlocal below
                below = renderable

        try:
            yield BarReporter(description, total, unit, start_at)
        finally:
            below = None
