"""Which bundles there are, and their classes: from names and cards alone, without JAX.

A bundle comes with gradgen (:func:`embedded_folders`), is a folder that ``gradgen train`` wrote, or
is of the paper's networks (:data:`PAPER_BUNDLES`), whose weights are downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradgen import labels
from gradgen.errors import GradgenError, UsageError
from gradgen.labels import Label, Labels, UnknownClassError, imagenet_labels, places_labels
from gradgen.weights.cards import CARD_FILE, read_card
from gradgen.weights.registry import find_entries
from gradgen.weights.store import weights_dir


@dataclass(frozen=True)
class PaperBundle:
    """Which of the paper's networks make a bundle; :mod:`gradgen.models.published` describes them.

    Attributes:
        classifier, generator, encoder, discriminator: names of networks.
        labels: gives the classifier's classes.
    """

    classifier: str
    labels: Callable[[], Labels]
    generator: str = "deepsim-fc6"
    encoder: str = "caffenet"
    discriminator: str = "dcgan"


# Each is called after its classifier.
PAPER_BUNDLES = {
    "caffenet": PaperBundle("caffenet", imagenet_labels),
    "alexnet": PaperBundle("alexnet", imagenet_labels),
    "googlenet": PaperBundle("googlenet", imagenet_labels),
    "places205": PaperBundle("places205", places_labels),
}

# The bundles that a class is looked for in if nobody names a bundle, the best first. The last one
# is taken where none has the class.
CHOSEN_FROM = ("ten64", "tiny64")
DEFAULT_BUNDLE = CHOSEN_FROM[-1]
# Whose discriminator scores pictures: it has learned to turn down plain colours, noise and drawings
# too (gradgen.training.corruption). Photographs of classes that it has never seen score above a
# plain colour in 98 % of cases; by tiny64's, which knows its generator's pictures alone, in 6 %.
SCORING_BUNDLE = "ten64"


@dataclass(frozen=True)
class Choice:
    """A bundle that was chosen for some classes.

    Attributes:
        name: of the bundle.
        reason: why it was chosen, as a clause.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class BundleEntry:
    """A bundle that exists, before any of its networks is loaded.

    Attributes:
        name: its own, also where it was found by its folder.
        labels: the classes of its classifier.
        folder: of its networks; ``None`` for one of the paper's.
    """

    name: str
    labels: Labels
    folder: Path | None


def find_bundle(name: str | Path) -> BundleEntry:
    """The bundle of that name, or in that folder.

    Raises:
        UsageError: there is none.
        GradgenError: its card is broken.
    """
    if str(name).endswith(".py") or ".py:" in str(name):
        from gradgen.networks.python_file import load_python_bundle

        bundle = load_python_bundle(name)
        return BundleEntry(bundle.name, bundle.labels, None)
    if name in PAPER_BUNDLES:
        return BundleEntry(str(name), PAPER_BUNDLES[str(name)].labels(), None)
    folder = find_weights(name)
    card = read_card(folder)
    return BundleEntry(card.name, Labels.from_lines(card.labels, title=card.name), folder)


def choose_bundle(classes: Sequence[str | int], generator: str | None = None) -> Choice:
    """The bundle that some classes get if nobody names a bundle: the first that has them all.

    What a query means does not depend on the choice. Only :data:`DEFAULT_BUNDLE` and ImageNet say
    what it means, and another bundle has it if it means the same there. So an index always counts
    among the default bundle's classes.

    Args:
        classes: names, words of names, synset ids or indices; none of them is composed.
        generator: another bundle's, if it is asked for. The default bundle takes it.
    """
    if generator is not None:
        return Choice(DEFAULT_BUNDLE, f"its classifier judges what the generator {generator} draws")
    if not classes:
        return Choice(DEFAULT_BUNDLE, "no class is asked for")
    default = find_bundle(DEFAULT_BUNDLE)
    lacking: list[str] = []
    for entry in chosen_from():
        unknown = [query for query in classes if not _has(entry, query, default)]
        if not unknown:
            known = ", ".join(map(str, classes))
            return Choice(entry.name, lacking[0] if lacking else f"it knows {known}")
        lacking.append(f"{entry.name} does not know {unknown[0]}")
    return Choice(DEFAULT_BUNDLE, ", and ".join(lacking))


def chosen_from() -> list[BundleEntry]:
    """The bundles that :func:`choose_bundle` chooses from, the best first."""
    return [
        find_bundle(name) for name in CHOSEN_FROM if (weights_dir() / name / CARD_FILE).is_file()
    ]


def _has(entry: BundleEntry, query: str | int, default: BundleEntry) -> bool:
    """Whether a query means a class of this bundle, the same as it means by default."""
    try:
        _, meant = labels.find_class(query, (default.labels, imagenet_labels()))
        position, found = labels.find_class(query, (entry.labels, imagenet_labels()))
    except UsageError:  # whoever looks for the class in the chosen bundle says what is wrong
        return False
    return position == 0 and entry.labels.same(meant) == found


def find_class(query: str | int, lists: Sequence[Labels]) -> tuple[int, Label]:
    """Like :func:`gradgen.labels.find_class`, but knows of the bundles that have the class.

    Raises:
        UsageError: several classes, or nothing found; the message lists them or the near names, and
            says which other bundle has the class and how to fetch it.
    """
    try:
        return labels.find_class(query, lists)
    except UnknownClassError as error:
        elsewhere = _bundle_with(query, lists)
        if elsewhere is None:
            raise
        raise UsageError(f"{error} {elsewhere}") from None


def _bundle_with(query: str | int, lists: Sequence[Labels]) -> str | None:
    """Which bundle has a class that is in none of these lists, and how to get it."""
    for entry in bundles():
        if entry.labels in lists:
            continue
        try:
            label = entry.labels.find(query)
        except UsageError:
            continue
        here = entry.folder is not None or _is_fetched(entry.name)
        fetch = "" if here else f"fetch it by 'gradgen weights fetch {entry.name}', and "
        return f"The bundle {entry.name} has {label.name}: {fetch}give `bundle={entry.name}`"
    return None


def _is_fetched(name: str) -> bool:
    """Whether all that one of the paper's bundles needs is here."""
    try:
        return all(entry.fetched for entry in find_entries(name))
    except GradgenError:  # a registry of one's own need not have them all
        return False


def bundles() -> list[BundleEntry]:
    """The bundles that are known by name: the embedded ones, and the paper's."""
    embedded = [folder for folder in embedded_folders() if read_card(folder).kind == "bundle"]
    return [*map(find_bundle, embedded), *map(find_bundle, PAPER_BUNDLES)]


def find_weights(name: str | Path, kind: str = "bundle") -> Path:
    """The folder of an embedded or trained bundle (or, with kind "classifier", any classifier).

    Raises:
        UsageError: there is none of that name.
        GradgenError: its card is broken.
    """
    for folder in (weights_dir() / str(name), Path(name)):
        if (folder / CARD_FILE).is_file():
            if kind == "bundle" and read_card(folder).kind != "bundle":
                raise UsageError(f"{name} is no bundle; use it as --classifier {name}")
            return folder.resolve()
    known = sorted(
        folder.name
        for folder in embedded_folders()
        if kind == "classifier" or read_card(folder).kind == "bundle"
    )
    raise UsageError(
        f"there is no {kind} {str(name)!r}; embedded: {', '.join(known) or 'none'}; to download: "
        f"{', '.join(PAPER_BUNDLES)}; or give a folder that `gradgen train` wrote"
    )


def embedded_folders() -> list[Path]:
    """The folders of the weights that come with gradgen."""
    return sorted(path.parent for path in weights_dir().glob(f"*/{CARD_FILE}"))
