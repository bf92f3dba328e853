"""`gradgen classes`: the classes that can be asked for, and which classifier knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gradgen.cli import common
from gradgen.cli.complete import complete_bundles, complete_classes
from gradgen.cli.options import AsJson, argument, option

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
        argument(
            help="Words of a name, a synset id, an index; or a composed class, for all in it.",
            default="all classes",
            autocompletion=complete_classes,
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        option(
            help="The networks whose own classes are marked: a name or a folder.",
            default="all that a class may get",
            autocompletion=complete_bundles,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the classes, with their index in each classifier that knows them.

    Without --bundle, a class is drawn by the first bundle in whose column it has an index. A class
    that has none is drawn by tiny64, with lite0 as the classifier.
    """
    from gradgen.evidence.expression import is_composed, names_of, parse
    from gradgen.labels import imagenet_labels
    from gradgen.networks.catalog import DEFAULT_BUNDLE, chosen_from, find_bundle, find_class

    entries = chosen_from() if bundle is None else [find_bundle(bundle)]
    lists = {entry.name: entry.labels for entry in entries} | {CLASSIFIER: imagenet_labels()}
    queries = names_of(parse(query)) if query and is_composed(query) else [query] if query else []
    found: dict[str, list[Label]] = {title: [] for title in lists}
    for name in queries:
        matches = {title: labels.search(name) for title, labels in lists.items()}
        if not any(matches.values()):
            find_class(name, tuple(lists.values()))  # says what is wrong and lists the near names
        for title, labels in matches.items():
            found[title] += labels
    rows = merge(found if queries else lists, lists)
    if as_json:
        records = [
            {"synset": row.synset, "names": row.names, "indices": row.indices} for row in rows
        ]
        common.print_json(records)
        return
    common.print_table(as_table(rows, tuple(lists)))
    if bundle is None:
        order = " before ".join(entry.name for entry in entries)
        common.note(
            f"a class gets the first bundle that knows it, {order}; if none does, {DEFAULT_BUNDLE} "
            f"with {CLASSIFIER}"
        )
    known = ", ".join(f"{sum(title in row.indices for row in rows)} in {title}" for title in lists)
    common.note(f"{common.counted(len(rows), 'class', 'classes')}: {known}")


def merge(found: Mapping[str, Iterable[Label]], lists: dict[str, Labels]) -> list[Row]:
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
