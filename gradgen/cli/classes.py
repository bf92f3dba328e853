"""`gradgen classes`: the classes that can be asked for, and which classifier knows them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgen.cli import common

if TYPE_CHECKING:
    from gradgen.labels import Label, Labels

CLASSIFIER = "lite0"  # knows all of ImageNet; goes with every generator


@dataclass(frozen=True)
class Row:
    """A class and its index in each classifier that knows it."""

    synset: str
    names: tuple[str, ...]
    indices: dict[str, int]


def classes(
    query: Annotated[
        str | None,
        typer.Argument(help="A name or parts of one, a synset id, an index. All classes without."),
    ] = None,
    bundle: Annotated[
        str, typer.Option(help="The networks whose own classes are marked: a name or a folder.")
    ] = "tiny64",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """List the classes, with their index in each classifier that knows them."""
    from gradgen.catalog import bundle_labels
    from gradgen.labels import find_class, imagenet_labels

    name, own = bundle_labels(bundle)
    lists = {name: own, CLASSIFIER: imagenet_labels()}
    rows = merge(
        {title: labels.search(query) if query else labels for title, labels in lists.items()},
        lists,
    )
    if not rows and query:
        find_class(query, tuple(lists.values()))  # says what is wrong and lists the near names
    if as_json:
        records = [
            {"synset": row.synset, "names": row.names, "indices": row.indices} for row in rows
        ]
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    common.print_table(as_table(rows, tuple(lists)))
    known = ", ".join(f"{sum(title in row.indices for row in rows)} in {title}" for title in lists)
    common.note(f"{len(rows)} {'class' if len(rows) == 1 else 'classes'}: {known}")


def merge(found: dict[str, Iterable[Label]], lists: dict[str, Labels]) -> list[Row]:
    """One row for each class in `found`, with its index in every one of `lists` that has it.

    Classes are the same if their synset ids are, or, without one, their names. ImageNet's classes
    come first, in its order.
    """

    def key(label: Label) -> Any:
        return label.synset or label.names

    indices = {title: {key(one): one.index for one in labels} for title, labels in lists.items()}
    rows = {
        key(label): Row(
            label.synset,
            label.names,
            {
                title: by_key[key(label)]
                for title, by_key in indices.items()
                if key(label) in by_key
            },
        )
        for labels in found.values()
        for label in labels
    }
    unlisted = len(lists[CLASSIFIER])
    return sorted(rows.values(), key=lambda row: row.indices.get(CLASSIFIER, unlisted))


def as_table(rows: Iterable[Row], titles: tuple[str, ...]) -> Any:
    """A Rich table: the index in each classifier (a dash: not known there), synset id, names."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(escape(title), justify="right", style="cyan", no_wrap=True)
    table.add_column("synset", no_wrap=True)
    table.add_column("names", overflow="fold")
    for row in rows:
        table.add_row(
            *(str(row.indices.get(title, "–")) for title in titles),
            row.synset or "–",
            escape(", ".join(row.names)),
        )
    return table
