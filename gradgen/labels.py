"""The classes a classifier knows, and finding one from what a person types.

`imagenet_labels()` and `places_labels()` are the lists that come with gradgen; a bundle that was
trained has its own in its card. A query may be a synset id (n02814860), an index (437), a name
(beacon) or whole words of a name (white shark). What is ambiguous or unknown is an error that lists
the near ones: ImageNet has two classes called "crane" and two called "maillot", and guessing
between a bird and a machine helps nobody.

Words are never matched inside: "alley" is not "valley". A hyphen binds: "man" is not "man-eater".
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

LEAST_LIKENESS = 0.7  # by difflib's measure, of the names that an error proposes
BEGINNING = 0.8  # the likeness of a word that begins with the query, at least
LIKENESS_RANGE = 0.2  # names that are so much less like the query than the best are not proposed
MOST_LETTERS = 1000  # of a query
NEAR_NAMES = 6  # how many near names an error for an unknown class gives
LISTED_CLASSES = 8  # how many classes an error for an ambiguous name lists before "and N more"

Words = tuple[tuple[str, ...], ...]

_SYNSET = re.compile(r"n\d{8}")
_SEE_ALL = "'gradgen classes' lists them all"
_INDEX = re.compile(r"[+-]?\d{1,18}")  # int() refuses thousands of digits


class UnknownClassError(UsageError):
    """No list has the class."""


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

    def same(self, label: Label) -> Label | None:
        """The class that `label`, of another list, is: by its synset id, or else by its first name.

        Two classes that both have a synset id are the same only if those are.
        """
        if label.synset and label.synset in self._synsets:
            return self._synsets[label.synset]
        named = [own for own in _whole_name(self, label.name) if not (own.synset and label.synset)]
        return named[0] if len(named) == 1 else None

    @functools.cached_property
    def _words(self) -> tuple[tuple[Words, ...], ...]:
        return tuple(tuple(_words(name) for name in label.names) for label in self.items)

    @functools.cached_property
    def _plain_names(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(_plain(name) for name in label.names) for label in self.items)

    def find(self, query: str | int) -> Label:
        """The one class that `query` means.

        Tried in this order, and the first that finds anything decides: synset id; index; a whole
        name (case, spaces, underscores and hyphens do not matter; several names with commas
        between them must be all of the class's names); whole words of a name, in their order.
        Where several classes share the whole name, the one whose first name it is wins, if there
        is just one.

        Raises:
            UsageError: nothing found, or several classes; the message lists them or the near ones.
        """
        return find_class(query, (self,))[1]

    def search(self, query: str) -> list[Label]:
        """All the classes that `query` is an index, a synset id or words of.

        Every word of the query must be a word of the class's names, in any order. An empty query is
        every class; a query that nothing matches is an empty list.
        """
        text = query.strip()
        if _INDEX.fullmatch(text):
            return [self.items[int(text)]] if 0 <= int(text) < len(self) else []
        if _SYNSET.fullmatch(text.lower()):
            found = self.by_synset(text.lower())
            return [found] if found else []
        wanted = [(word,) for word in _words(text)]
        return [
            label
            for label, names in zip(self.items, self._words, strict=True)
            if all(any(_holds(name, word) for name in names) for word in wanted)
        ]

    def near(self, query: str) -> list[str]:
        """Names spelled like `query`, the nearest first, as the list spells them."""
        return _nearest(self._likenesses(query))

    def _likenesses(self, query: str) -> dict[str, float]:
        """How like the query names are, each as its likest word is; those that are hardly, not."""
        plain = _plain(query)
        if not plain:
            return {}
        matcher = difflib.SequenceMatcher(b=plain)  # which keeps what it knows of b
        found = {}
        for label, plains in zip(self.items, self._plain_names, strict=True):
            for name, spelled in zip(label.names, plains, strict=True):
                likeness = max(
                    _likeness(matcher, plain, text) for text in (spelled, *spelled.split())
                )
                if likeness >= LEAST_LIKENESS:
                    found[name] = likeness
        return found

    def _where(self, matches: Callable[[tuple[str, ...]], bool]) -> list[Label]:
        pairs = zip(self.items, self._plain_names, strict=True)
        return [label for label, names in pairs if matches(names)]


def find_class(query: str | int, lists: Sequence[Labels]) -> tuple[int, Label]:
    """The one class that `query` means in several lists, and which list it is from.

    A whole name means the same whatever list comes first: "crane" stays ambiguous although a
    small list may have only one of the two, and "bow" is ImageNet's bow, not a smaller list's bow
    tie. Only a plain name of the first list, a folder's of a user's own data, is just what it says.
    Where nothing has the whole name, whole words of names count, and then the earlier list wins.

    Args:
        query: as for `Labels.find`. An index counts in the first list that is long enough.
        lists: at least one list, the preferred one first.

    Returns:
        (position of the list in `lists`, the label in that list).

    Raises:
        UsageError: several classes; the message lists them.
        UnknownClassError: nothing found; the message lists the near names.
    """
    text = str(query).strip()
    titles = " or ".join(labels.title for labels in lists)
    if not text:
        raise UsageError(f"no class given: give a name, a synset id or an index; {_SEE_ALL}")
    if len(text) > MOST_LETTERS:  # a recipe may be anybody's
        raise UsageError(f"no class has a name of {len(text)} letters; {_SEE_ALL}")
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

    named = [[(i, hit) for hit in _whole_name(labels, text)] for i, labels in enumerate(lists)]
    plain = [(i, hit) for i, hit in named[0] if not hit.synset]
    if len(plain) == 1:
        return plain[0]
    hits = _distinct(hit for hits in named for hit in hits)
    first_named = [(i, hit) for i, hit in hits if _plain(hit.name) == _plain(text)]
    if len(first_named) == 1:
        return first_named[0]
    searches = [hits]
    searches += [[(i, hit) for hit in _whole_words(labels, text)] for i, labels in enumerate(lists)]
    for found_here in searches:
        if len(found_here) == 1:
            return found_here[0]
        if found_here:
            raise UsageError(_ambiguous(text, [hit for _, hit in found_here]))

    near = _nearest({k: v for labels in lists for k, v in labels._likenesses(text).items()})
    hint = f"did you mean {', '.join(near)}?" if near else _SEE_ALL
    raise UnknownClassError(f"no class {text!r} in {titles}: {hint}")


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
    """Classes whose first name holds the words, or whose other names end in them.

    Further names are told by what they end in: "tabby cat" is a cat; "sun blocker", a name of
    sunscreen, is no sun.
    """
    wanted = _words(text)
    return [
        label
        for label, (first, *others) in zip(labels.items, labels._words, strict=True)
        if _holds(first, wanted) or any(_ends_in(name, wanted) for name in others)
    ]


def _words(text: str) -> Words:
    """The words of a name, each the parts that its hyphens bind: ("man", "eater"), ("shark",)."""
    words = re.split(r"[\s_/]+", re.sub(r"['’.]", "", text.casefold()))
    return tuple(tuple(word.split("-")) for word in words if word.strip("-"))


def _holds(name: Words, wanted: Words) -> bool:
    """Whether some words of a name, one after another, are the wanted ones."""
    return any(_ends_in(name[:end], wanted) for end in range(1, len(name) + 1))


def _ends_in(name: Words, wanted: Words) -> bool:
    """Whether the last words of a name are the wanted ones.

    A hyphen in `wanted` may stand for a space: "great white shark" ends in "white-shark".
    """
    parts = [part for word in wanted for part in word]
    ends = (name[start:] for start in range(len(name)))
    return any([part for word in end for part in word] == parts for end in ends)


def _likeness(matcher: difflib.SequenceMatcher[str], query: str, text: str) -> float:
    """How like the query a text is, from 0 to 1; at least BEGINNING if it begins with it.

    matcher: of the query, which is its second sequence.
    """
    least = BEGINNING if text.startswith(query) else 0.0
    matcher.set_seq1(text)
    if matcher.real_quick_ratio() < LEAST_LIKENESS or matcher.quick_ratio() < LEAST_LIKENESS:
        return least
    return max(least, matcher.ratio())


def _nearest(likenesses: dict[str, float]) -> list[str]:
    """The names that are most like the query; none that are much less so than the first."""
    least = max(likenesses.values(), default=0.0) - LIKENESS_RANGE
    near = [name for name, likeness in likenesses.items() if likeness >= least]
    return sorted(near, key=lambda name: -likenesses[name])[:NEAR_NAMES]


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
def places_labels() -> Labels:
    """The 205 kinds of places of Places205 (Zhou et al. 2014), in the order of its classifier."""
    return _packaged("places205.txt", "Places205")


def _packaged(file: str, title: str) -> Labels:
    text = importlib.resources.files("gradgen").joinpath("data", file).read_text(encoding="utf-8")
    return Labels.from_lines(text.splitlines(), title)
