"""The classes a classifier knows, and finding one from what a person types.

`imagenet_labels()` and `tiny_imagenet_labels()` are the two lists that come with gradgen. A query
may be a synset id (n02814860), an index (437), a name (beacon) or part of one (lighth). What is
ambiguous or unknown is an error that lists the near ones: ImageNet has two classes called "crane"
and two called "maillot", and guessing between a bird and a machine helps nobody.
"""

from __future__ import annotations

import difflib
import functools
import importlib.resources
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from gradgen.errors import UsageError

NEAR_NAMES = 6  # how many near names an error for an unknown class gives
LISTED_CLASSES = 8  # how many classes an error for an ambiguous name lists before "and N more"

_SYNSET = re.compile(r"n\d{8}")
_SEE_ALL = "'gradgen classes' lists them all"
_INDEX = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Label:
    """One class.

    Attributes:
        index: position in the classifier's output, from 0.
        synset: WordNet id such as "n02814860"; empty for classes that have none.
        names: the class's names, the usual one first.
    """

    index: int
    synset: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The class's first name."""
        return self.names[0]

    @property
    def slug(self) -> str:
        """The first name as part of a file name: lower case letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.casefold()).strip("-") or f"class-{self.index}"

    def __str__(self) -> str:
        return " ".join(part for part in (self.synset, ", ".join(self.names)) if part)


@dataclass(frozen=True)
class Labels(Sequence[Label]):
    """The classes of one classifier, in the order of its outputs. Immutable and hashable.

    Attributes:
        items: the labels; `items[i].index == i`.
        title: what error messages call the list, for example "ImageNet".
    """

    items: tuple[Label, ...]
    title: str = field(default="this list", compare=False)

    @classmethod
    def from_lines(cls, lines: Iterable[str], title: str = "this list") -> Labels:
        """Labels from lines such as "n02814860 beacon, lighthouse"; blank lines are skipped.

        A space or a tab may follow the synset id. A line that does not start with one is all
        names, so folder names do as well.
        """
        items: list[Label] = []
        for line in lines:
            if not line.strip():
                continue
            first, _, rest = line.strip().replace("\t", " ", 1).partition(" ")
            synset = first if _SYNSET.fullmatch(first) else ""
            text = rest if synset else line
            names = tuple(name.strip() for name in text.split(",") if name.strip())
            items.append(Label(len(items), synset, names or (synset or line.strip(),)))
        return cls(tuple(items), title)

    def to_lines(self) -> list[str]:
        """The inverse of `from_lines`."""
        return [str(label) for label in self.items]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Label: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Label, ...]: ...
    def __getitem__(self, index: int | slice) -> Label | tuple[Label, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[Label]:
        return iter(self.items)

    def by_synset(self, synset: str) -> Label | None:
        """The class with that synset id, or None."""
        return self._synsets.get(synset)

    @functools.cached_property
    def _synsets(self) -> dict[str, Label]:
        return {label.synset: label for label in self.items if label.synset}

    @functools.cached_property
    def _plain_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(_plain(name) for name in label.names) for label in self.items)

    def find(self, query: str | int) -> Label:
        """The one class that `query` means.

        Tried in this order, and the first that finds anything decides: synset id; index; a whole
        name (case, spaces, underscores and hyphens do not matter; several names with commas
        between them must be all of the class's names); whole words of a name; any part of a name.
        Where several classes share the whole name, the one whose first name it is wins, if there
        is just one.

        Raises:
            UsageError: nothing found, or several classes; the message lists them or the near ones.
        """
        return find_class(query, (self,))[1]

    def search(self, query: str) -> list[Label]:
        """All the classes that `query` is an index, a synset id or a part of.

        Every word of the query must be in the class's names, in any order. An empty query is every
        class; a query that nothing matches is an empty list.
        """
        text = query.strip()
        if _INDEX.fullmatch(text):
            return [self.items[int(text)]] if 0 <= int(text) < len(self) else []
        if _SYNSET.fullmatch(text.lower()):
            found = self.by_synset(text.lower())
            return [found] if found else []
        words = _plain(text).split()
        return [
            label
            for label, names in zip(self.items, self._plain_names, strict=True)
            if all(word in ", ".join(names) for word in words)
        ]

    def near(self, query: str) -> list[str]:
        """Names spelled like `query`, the nearest first, as the list spells them."""
        spelled = {
            plain: name
            for label, plains in zip(self.items, self._plain_names, strict=True)
            for plain, name in zip(plains, label.names, strict=True)
        }
        close = difflib.get_close_matches(_plain(query), spelled, n=NEAR_NAMES, cutoff=0.6)
        return [spelled[plain] for plain in close]

    def _where(self, matches: Callable[[tuple[str, ...]], bool]) -> list[Label]:
        pairs = zip(self.items, self._plain_names, strict=True)
        return [label for label, names in pairs if matches(names)]


def find_class(query: str | int, lists: Sequence[Labels]) -> tuple[int, Label]:
    """The one class that `query` means in several lists, and which list it is from.

    A whole name means the same whatever list comes first: "crane" stays ambiguous although a
    small list may have only one of the two, and "bow" is ImageNet's bow, not a smaller list's bow
    tie. Only where nothing has the whole name do parts count, and then the earlier list wins.

    Args:
        query: as for `Labels.find`. An index counts in the first list that is long enough.
        lists: at least one list, the preferred one first.

    Returns:
        (position of the list in `lists`, the label in that list).

    Raises:
        UsageError: nothing found, or several classes; the message lists them or the near ones.
    """
    text = str(query).strip()
    titles = " or ".join(labels.title for labels in lists)
    if not text:
        raise UsageError(f"no class given: give a name, a synset id or an index; {_SEE_ALL}")
    if _INDEX.fullmatch(text):
        for position, labels in enumerate(lists):
            if 0 <= int(text) < len(labels):
                return position, labels[int(text)]
        longest = max(len(labels) for labels in lists)
        raise UsageError(f"class index {text} is outside 0…{longest - 1} ({titles}); {_SEE_ALL}")
    if _SYNSET.fullmatch(text.lower()):
        for position, labels in enumerate(lists):
            found = labels.by_synset(text.lower())
            if found:
                return position, found
        raise UsageError(f"synset {text} is not among the classes of {titles}; {_SEE_ALL}")

    hits = _distinct((i, hit) for i, one in enumerate(lists) for hit in _whole_name(one, text))
    first_named = [(i, hit) for i, hit in hits if _plain(hit.name) == _plain(text)]
    if len(first_named) == 1:
        return first_named[0]
    searches = [hits]
    searches += [[(i, hit) for hit in _whole_words(one, text)] for i, one in enumerate(lists)]
    searches += [[(i, hit) for hit in _part_of_name(one, text)] for i, one in enumerate(lists)]
    for found_here in searches:
        if len(found_here) == 1:
            return found_here[0]
        if found_here:
            raise UsageError(_ambiguous(text, [hit for _, hit in found_here]))

    near = list(dict.fromkeys(name for labels in lists for name in labels.near(text)))[:NEAR_NAMES]
    hint = f"did you mean {', '.join(near)}?" if near else _SEE_ALL
    raise UsageError(f"no class {text!r} in {titles}: {hint}")


def _distinct(hits: Iterable[tuple[int, Label]]) -> list[tuple[int, Label]]:
    """The earliest hit of each class; lists may share classes, known by synset id or names."""
    kept: dict[str | tuple[str, ...], tuple[int, Label]] = {}
    for position, label in hits:
        kept.setdefault(label.synset or label.names, (position, label))
    return list(kept.values())


def _whole_name(labels: Labels, text: str) -> list[Label]:
    if "," in text:  # all the names, as `gradgen classes` prints them: tells the maillots apart
        wanted = tuple(_plain(part) for part in text.split(",") if part.strip())
        return labels._where(lambda names: names == wanted)
    plain = _plain(text)
    return labels._where(lambda names: plain in names)


def _whole_words(labels: Labels, text: str) -> list[Label]:
    wanted = f" {_plain(text)} "
    return labels._where(lambda names: any(wanted in f" {name} " for name in names))


def _part_of_name(labels: Labels, text: str) -> list[Label]:
    plain = _plain(text)
    return labels._where(lambda names: any(plain in name for name in names)) if plain else []


def _ambiguous(text: str, hits: Sequence[Label]) -> str:
    listed = "; ".join(
        f"{label.synset or label.index} {', '.join(label.names[:2])}"
        for label in hits[:LISTED_CLASSES]
    )
    more = f"; and {len(hits) - LISTED_CLASSES} more" if len(hits) > LISTED_CLASSES else ""
    handle = "synset id" if hits[0].synset else "index"
    return f"{text!r} means {len(hits)} classes, give the {handle} of one: {listed}{more}"


def _plain(name: str) -> str:
    """Lower case, underscores and hyphens as spaces, no apostrophes and full stops."""
    spaced = re.sub(r"[\s_\-]+", " ", name.casefold())
    return re.sub(r"['’.]", "", spaced).strip()


@functools.cache
def imagenet_labels() -> Labels:
    """The 1000 classes of ImageNet (ILSVRC-2012), in the order of their synset ids."""
    return _packaged("imagenet-1k-synsets.txt", "ImageNet")


@functools.cache
def tiny_imagenet_labels() -> Labels:
    """The 200 classes of Tiny ImageNet, each one of ImageNet's, in the order of their ids."""
    return _packaged("tiny-imagenet-synsets.txt", "Tiny ImageNet")


@functools.cache
def places_labels() -> Labels:
    """The 205 kinds of places of Places205 (Zhou et al. 2014), in the order of its classifier."""
    return _packaged("places205.txt", "Places205")


def _packaged(file: str, title: str) -> Labels:
    text = importlib.resources.files("gradgen").joinpath("data", file).read_text(encoding="utf-8")
    return Labels.from_lines(text.splitlines(), title)
