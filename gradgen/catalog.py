"""Which bundles there are, and their classes: from names and cards alone, without JAX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gradgen.errors import UsageError
from gradgen.labels import Labels, imagenet_labels, places_labels
from gradgen.weights.store import read_card, weights_dir

# The paper's bundles, each called after its classifier, and that classifier's classes.
ORIGINALS: dict[str, Callable[[], Labels]] = {
    "caffenet": imagenet_labels,
    "alexnet": imagenet_labels,
    "googlenet": imagenet_labels,
    "places205": places_labels,
}


def bundle_labels(name: str | Path) -> tuple[str, Labels]:
    """The name and the classes of a bundle, without loading its networks.

    Raises:
        UsageError: there is no such bundle.
    """
    if name in ORIGINALS:
        return str(name), ORIGINALS[str(name)]()
    card = read_card(find_weights(name))
    title = str(card.get("name", name))
    return title, Labels.from_lines(card.get("labels", ()), title=title)


def find_weights(name: str | Path, kind: str = "bundle") -> Path:
    """The folder of an embedded or trained bundle (or, with kind "classifier", any classifier).

    Raises:
        UsageError: there is none of that name.
    """
    for folder in (weights_dir() / str(name), Path(name)):
        if (folder / "card.json").is_file():
            if kind == "bundle" and read_card(folder).get("kind") != "bundle":
                raise UsageError(f"{name} is no bundle; use it as --classifier {name}")
            return folder.resolve()
    known = sorted(
        card.parent.name
        for card in weights_dir().glob("*/card.json")
        if kind == "classifier" or read_card(card.parent).get("kind") == "bundle"
    )
    raise UsageError(
        f"there is no {kind} {str(name)!r}; embedded: {', '.join(known) or 'none'}; to download: "
        f"{', '.join(ORIGINALS)}; or give a folder that `gradgen train` wrote"
    )
