"""Composed classes as text: ``beacon & !pier``, ``goldfish | lemon``, ``(cat | dog) & pizza:2``.

The grammar, from what binds least to what binds most::

    either  = both ("|" both)*
    both    = term ("&" term)*
    term    = factor (":" number)?             a weight, the power of the likelihood
    factor  = ("!" | "~") factor | "(" either ")" | name

A name is any text without ``& | ! ~ ( ) :`` and may hold spaces, commas and apostrophes; between
double or single quotes it may hold anything, with a backslash before a quote or a backslash. From
Python the same is said by operators: ``Class("beacon") & ~Class("pier")``, ``Class("pizza") ** 2``.

Nothing here knows what the names mean: :mod:`gradgen.evidence.classes` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gradgen.errors import UsageError

OPERATORS = "&|!~():"
MOST_NESTED = 50  # brackets inside brackets; a hostile recipe shall not exhaust Python's stack
MOST_CHARACTERS = 5000

_NUMBER = re.compile(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*")


def last_name(text: str) -> tuple[str, str] | None:
    """Half of an expression as a person types it: what stands before its last name, and that name.

    ``None`` where no name is being typed: after a whole quoted one, or in a weight.
    """
    quote, begun = "", 0
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and not text[begun:at].strip():  # elsewhere it is an apostrophe
            quote, begun = letter, at + 1
        elif letter in OPERATORS:
            begun = at + 1
    name = text[begun:]
    before = text[: len(text) - len(name.lstrip())]
    in_weight = before.rstrip().endswith(":")
    after_quotes = not quote and name[-1:] in ('"', "'")
    return None if in_weight or after_quotes else (before, name.lstrip())


class ExpressionError(UsageError):
    """A text that is no class expression; the message's last line has a caret below the fault."""

    lines = True


class Expression:
    """A class or a composition of classes; ``str`` writes it so that :func:`parse` reads it."""

    def __and__(self, other: Expression | str) -> Expression:
        return Both((*_parts(self, Both), *_parts(_expression(other), Both)))

    def __or__(self, other: Expression | str) -> Expression:
        return Either((*_parts(self, Either), *_parts(_expression(other), Either)))

    def __invert__(self) -> Expression:
        return Not(self)

    def __pow__(self, weight: float) -> Expression:
        return Weighted(self, float(weight))


@dataclass(frozen=True)
class Class(Expression):
    """A class by what a person calls it: name, part of a name, synset id or index."""

    name: str

    def __str__(self) -> str:
        quoted = any(character in OPERATORS + "\\" for character in self.name)
        if quoted or self.name[:1] in "\"'" or self.name != self.name.strip():
            escaped = self.name.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        return self.name


@dataclass(frozen=True)
class Not(Expression):
    """One minus the probability of the part."""

    part: Expression

    def __str__(self) -> str:
        return f"!{_in_brackets(self.part, Class, Not)}"


@dataclass(frozen=True)
class Weighted(Expression):
    """The likelihood of the part to the power ``weight``, a positive number."""

    part: Expression
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UsageError(f"a weight is a positive number, not {self.weight:g}")

    def __str__(self) -> str:
        number = repr(self.weight).removesuffix(".0")
        return f"{_in_brackets(self.part, Class, Not)}:{number}"


@dataclass(frozen=True)
class Both(Expression):
    """The product of the parts' likelihoods."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " & ".join(_in_brackets(part, Class, Not, Weighted) for part in self.parts)


@dataclass(frozen=True)
class Either(Expression):
    """The sum of the parts' probabilities; classes of a classifier exclude each other."""

    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return " | ".join(_in_brackets(part, Class, Not, Weighted, Both) for part in self.parts)


def parse(text: str) -> Expression:
    """Read a class expression.

    Raises:
        ExpressionError: it is none; the message shows where, with a caret below the text.
        UsageError: it is very long.
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"a class expression has at most {MOST_CHARACTERS} characters")
    return _Parser(text).whole()


def is_composed(text: str) -> bool:
    """Whether a text holds anything of the grammar; otherwise it is a plain class's name."""
    return text.strip()[:1] in ("'", '"') or any(character in OPERATORS for character in text)


def names_of(expression: Expression) -> Iterator[str]:
    """The names in an expression, from left to right."""
    if isinstance(expression, Class):
        yield expression.name
    elif isinstance(expression, Not | Weighted):
        yield from names_of(expression.part)
    elif isinstance(expression, Both | Either):
        for part in expression.parts:
            yield from names_of(part)


def renamed(expression: Expression, name_of: Callable[[str], str]) -> Expression:
    """The same expression with other names."""
    if isinstance(expression, Class):
        return Class(name_of(expression.name))
    if isinstance(expression, Not):
        return Not(renamed(expression.part, name_of))
    if isinstance(expression, Weighted):
        return Weighted(renamed(expression.part, name_of), expression.weight)
    assert isinstance(expression, Both | Either)
    return type(expression)(tuple(renamed(part, name_of) for part in expression.parts))


def slug_of(expression: Expression) -> str:
    """An expression as part of a file name: ``beacon-and-not-pier``."""
    words = str(expression).casefold().replace("'", "").replace("’", "")
    for sign, word in (("&", " and "), ("|", " or "), ("!", " not "), (":", " x")):
        words = words.replace(sign, word)
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")
    return slug[:80].rstrip("-") or "composed"


def _expression(value: Expression | str) -> Expression:
    return value if isinstance(value, Expression) else Class(value)


def _parts(expression: Expression, kind: type[Both] | type[Either]) -> tuple[Expression, ...]:
    """The parts of an expression of that kind, itself otherwise: ``a & b & c`` has three."""
    return expression.parts if isinstance(expression, kind) else (expression,)


def _in_brackets(part: Expression, *without: type) -> str:
    return str(part) if isinstance(part, without) else f"({part})"


class _Parser:
    """A recursive descent over a text; ``at`` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def whole(self) -> Expression:
        found = self.either()
        if self.peek() == ")":
            raise self.fault("no bracket is open here")
        if self.at < len(self.text):
            raise self.fault("an operator (& or |) is missing here")
        return found

    def either(self) -> Expression:
        found = self.both()
        while self.take("|"):
            found = found | self.both()
        return found

    def both(self) -> Expression:
        found = self.term()
        while self.take("&"):
            found = found & self.term()
        return found

    def term(self) -> Expression:
        part = self.factor()
        if not self.take(":"):
            return part
        begun = self.at
        number = _NUMBER.match(self.text, self.at)
        if number is None:
            raise self.fault("a weight, a positive number, must follow the colon")
        self.at = number.end()
        if self.peek() and self.peek() not in "&|)":
            raise self.fault("an operator (& or |) is missing after the weight")
        weight = float(number[1])
        if not (math.isfinite(weight) and weight > 0):
            self.at = begun
            raise self.fault("a weight is a positive number")
        return Weighted(part, weight)

    def factor(self) -> Expression:
        if self.take("!") or self.take("~"):
            return Not(self.nested(self.factor))
        opened = self.at
        if self.take("("):
            inside = self.nested(self.either)
            if not self.take(")"):
                if self.at < len(self.text):
                    raise self.fault("an operator (& or |) is missing here")
                self.at = opened + len(self.text[opened:]) - len(self.text[opened:].lstrip())
                raise self.fault("this bracket is never closed")
            return inside
        return Class(self.name())

    def nested(self, rule: Callable[[], Expression]) -> Expression:
        self.depth += 1
        if self.depth > MOST_NESTED:
            raise self.fault(f"brackets are nested more than {MOST_NESTED} deep")
        found = rule()
        self.depth -= 1
        return found

    def name(self) -> str:
        following = self.peek()
        if following == "":
            raise self.fault("a class is missing at the end")
        if following in OPERATORS:
            raise self.fault(f"a class is missing before {following!r}")
        if following in "\"'":
            return self.quoted(following)
        begun = self.at
        while self.at < len(self.text) and self.text[self.at] not in OPERATORS:
            self.at += 1
        return self.text[begun : self.at].strip()

    def quoted(self, quote: str) -> str:
        opened = self.at
        self.at += 1
        letters = []
        while self.at < len(self.text) and self.text[self.at] != quote:
            if self.text[self.at] == "\\" and self.at + 1 < len(self.text):
                self.at += 1
            letters.append(self.text[self.at])
            self.at += 1
        if self.at == len(self.text):
            self.at = opened
            raise self.fault("this quotation mark is never closed")
        self.at += 1
        if self.peek() and self.peek() not in OPERATORS:
            raise self.fault("an operator (& or |) is missing after the quoted name")
        if not "".join(letters).strip():
            self.at = opened
            raise self.fault("this name is empty")
        return "".join(letters)

    def peek(self) -> str:
        """The next character that is no space; ``""`` at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.at += 1
        return True

    def fault(self, what: str) -> ExpressionError:
        shown = "".join(" " if letter.isspace() else letter for letter in self.text)
        return ExpressionError(f"class expression: {what}\n  {shown}\n  {' ' * self.at}^")
