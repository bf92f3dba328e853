"""`gradgen show`: the recipe inside a picture, or the record of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gradgen.cli import common

LONG = 68  # characters of a value beyond which a person sees only its beginning


def show(
    path: Annotated[Path, typer.Argument(help="A picture of gradgen sample, or a run's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole record as JSON.")] = False,
) -> None:
    """Print how a picture was made, or what a run's folder holds."""
    from gradgen.images import read_recipe
    from gradgen.samples import read_record

    record = read_record(path) if path.is_dir() or path.name == "run.json" else read_recipe(path)
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    common.print_table(as_table(record, str(path)))
    if not path.is_dir() and path.name != "run.json":
        common.note(f"make it again: gradgen sample --recipe {path}")


def as_table(record: Mapping[str, Any], title: str) -> Any:
    """A Rich table of a record: one row for each value, groups under their own heading."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), show_header=False, box=None, title_justify="left")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(record):
        table.add_row(escape(name), escape(value))
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
