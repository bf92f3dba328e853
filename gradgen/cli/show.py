"""`gradgen show`: the recipe inside a picture, or the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from gradgen.cli import common
from gradgen.cli.options import argument, option
from gradgen.cli.preview import can_show, preview_option, show_file

LONG = 68  # characters of a value beyond which a person sees only its beginning


def show(
    path: Annotated[Path, argument(help="A picture of gradgen sample, or a run's folder.")],
    as_json: Annotated[bool, option("--json", help="The whole record as JSON.")] = False,
    preview: Annotated[bool, preview_option()] = True,
) -> None:
    """Print how a picture was made, or what a run's folder holds.

    In a terminal the picture, or the run's grid, is shown too.
    """
    from gradgen.images import read_recipe
    from gradgen.run_files import GRID_FILE, RECORD_FILE
    from gradgen.runs.record import read_record

    is_run = path.is_dir() or path.name == RECORD_FILE
    record = read_record(path).to_json() if is_run else read_recipe(path)
    if as_json:
        common.print_json(record)
        return
    picture = path if not is_run else (path if path.is_dir() else path.parent) / GRID_FILE
    if preview and can_show() and picture.is_file():
        show_file(picture)
    common.print_table(as_table(record, str(path)))
    if not is_run:
        common.note(f"make it again: gradgen sample --recipe {path}")


def as_table(record: Mapping[str, Any], title: str) -> Any:
    """A Rich table of a record: a row for each value, groups under their own heading."""
    from rich.markup import escape
    from rich.table import Table

    title = escape(common.printable(title))
    table = Table(title=title, show_header=False, box=None, title_justify="left")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(record):
        table.add_row(escape(common.printable(name)), escape(common.printable(value)))
    return table


def rows(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The record's values under their dotted names; what was left to choose is not shown."""
    for name, value in record.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from rows(value, f"{path}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for position, item in enumerate(value):
                yield from rows(item, f"{path}[{position}].")
        elif value is not None:
            yield path, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list):
        text = ", ".join(map(_shown, value))
    else:
        text = str(value)
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"
