"""Tests which texts of composed classes are read or refused, and that writing inverts reading."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradgen.errors import UsageError
from gradgen.evidence.expression import (
    Both,
    Class,
    Either,
    Not,
    Weighted,
    is_composed,
    names_of,
    parse,
    slug_of,
)

a, b, c = Class("a"), Class("b"), Class("c")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a", a),
        (" school bus ", Class("school bus")),
        ("potter's wheel & bow, tie", Both((Class("potter's wheel"), Class("bow, tie")))),
        ("a | b & c", Either((a, Both((b, c))))),
        ("(a | b) & c", Both((Either((a, b)), c))),
        ("a & b & c", Both((a, b, c))),
        ("a & !b", Both((a, Not(b)))),
        ("a&~b", Both((a, Not(b)))),
        ("!!a", Not(Not(a))),
        ("!a:2", Weighted(Not(a), 2)),
        ("!(a:2)", Not(Weighted(a, 2))),
        ("a:2 & b : .5", Both((Weighted(a, 2), Weighted(b, 0.5)))),
        ("(a & b):1e-1", Weighted(Both((a, b)), 0.1)),
        ("\"salt & pepper\" | 'it''s' | b".replace("''", "\\'"), Either(
            (Class("salt & pepper"), Class("it's"), b)
        )),
    ],
)  # fmt: skip
def test_an_expression_means_what_the_grammar_says(text, meaning):
    assert parse(text) == meaning


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("a &", 3, "missing at the end"),
        ("", 0, "missing at the end"),
        ("a & | b", 4, "missing before '|'"),
        ("& a", 0, "missing before '&'"),
        ("a & (b | c", 4, "never closed"),
        ("a) & b", 1, "no bracket is open"),
        ("a (b)", 2, "operator"),
        ("a !b", 2, "operator"),
        ("(a) b", 4, "operator"),
        ("'a", 0, "never closed"),
        ("b & \"a'", 4, "never closed"),
        ("'a' b", 4, "operator"),
        ("'' & b", 0, "empty"),
        ("a:x", 2, "weight"),
        ("a:", 2, "weight"),
        ("a:0 & b", 2, "positive"),
        ("a:-1", 2, "weight"),
        ("a:2 b", 4, "operator"),
        ("a:1e999", 2, "positive"),
        ("()", 1, "missing before ')'"),
        ("!" * 60 + "a", 51, "nested"),
    ],
)
def test_what_does_not_parse_is_an_error_with_a_caret_at_the_fault(text, at, says):
    with pytest.raises(UsageError) as caught:
        parse(text)
    first, shown, caret = str(caught.value).split("\n")
    assert says in first
    assert shown == f"  {text}"
    assert caret == "  " + " " * at + "^"


expressions = st.recursive(
    st.builds(Class, st.text(min_size=1).filter(lambda text: text.strip())),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(Weighted, inner, st.floats(1e-300, 1e300)),
        st.builds(lambda x, y: x & y, inner, inner),
        st.builds(lambda x, y: x | y, inner, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_an_expression_written_is_read_as_the_same(expression):
    assert parse(str(expression)) == expression


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab &|!()'\":2\\", max_size=30))
def test_any_text_is_an_expression_or_one_clear_error(text):
    names, message = [], ""
    try:
        names = list(names_of(parse(text)))
    except UsageError as error:
        message = str(error)
    assert bool(names) != message.endswith("^")
    assert all(name.strip() for name in names)


def test_python_operators_say_the_same_as_the_text():
    assert Class("a") & ~Class("b") == parse("a & !b")
    assert (a | "b") ** 2 & c == parse("(a | b):2 & c")


def test_plain_names_need_no_grammar():
    for name in ("beacon", "potter's wheel", "bow tie, bow-tie", "n02814860", "12"):
        assert not is_composed(name)


def test_a_slug_reads_like_the_expression():
    assert slug_of(parse("beacon & !(school bus | pier):2")) == (
        "beacon-and-not-school-bus-or-pier-x2"
    )
