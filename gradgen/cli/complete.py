"""What the shell's tab key proposes: classes, bundles, networks, the choices of a setting.

A shell asks for each press of the key, so that nothing here imports JAX.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from gradgen.errors import GradgenError

if TYPE_CHECKING:
    from gradgen.inference.settings import Setting
    from gradgen.labels import Labels

Proposals = list[str]
_PLAIN = re.compile(r"[\w -]+")  # names that a hyphen instead of each space leaves readable


def complete_classes(context: typer.Context, incomplete: str) -> Proposals:
    """Classes of ImageNet and of the bundle that the line names.

    Names are written with hyphens, so that they are one word of the line. A class whose name is
    another's too, or has an apostrophe, is proposed by its synset id. Inside a composed class the
    last name is completed: ``beacon & pi``.
    """
    from gradgen.evidence.expression import last_name
    from gradgen.labels import imagenet_labels
    from gradgen.networks.catalog import find_bundle

    lists: list[Labels] = [imagenet_labels()]
    bundle = context.params.get("bundle")
    with suppress(GradgenError):  # it is not there, or half typed
        lists += [find_bundle(bundle).labels] if bundle else []
    typed = last_name(incomplete)
    if typed is None:
        return []
    before, name = typed
    words = _beginning((word for labels in lists for word in class_words(labels)), name)
    return [before + word for word in words]


def class_words(labels: Labels) -> Iterable[str]:
    """A word for each class that means it and no other."""
    slugs = Counter(label.slug for label in labels)
    for label in labels:
        plain = _PLAIN.fullmatch(label.name) and slugs[label.slug] == 1
        yield label.slug if plain else label.synset or str(label.index)


def complete_bundles(incomplete: str) -> Proposals:
    """Bundles by name, and folders that hold one."""
    from pathlib import Path

    from gradgen.networks.catalog import bundles
    from gradgen.weights.cards import CARD_FILE

    names = [entry.name for entry in bundles()]
    try:
        folders = [card.parent.name for card in Path.cwd().glob(f"*/{CARD_FILE}")]
    except OSError:
        folders = []
    return _beginning([*names, *folders], incomplete)


def complete_classifiers(incomplete: str) -> Proposals:
    """Classifiers that come with gradgen, and those of bundles."""
    return _beginning(["lite0", "lite1", *complete_bundles("")], incomplete)


def completion_of(known: Setting) -> Callable[..., Proposals] | None:
    """How a setting's value is completed; ``None`` where there is nothing to propose."""
    by_name: dict[str, Callable[..., Proposals]] = {
        "classes": complete_classes,
        "bundle": complete_bundles,
        "generator": complete_bundles,
        "classifier": complete_classifiers,
    }
    if known.name in by_name:
        return by_name[known.name]
    choices = [*known.choices, *known.aliases]
    if not choices:
        return None
    return lambda incomplete: _beginning(choices, incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> Proposals:
    return sorted({word for word in words if word.startswith(incomplete)})
