"""Tests every help page in narrow and wide terminals, and options that take a glob's files."""

import inspect
import re
from itertools import pairwise

import pytest
import typer
from rich.cells import cell_len

from gradgen.cli import app as program
from gradgen.cli.help import with_repeated_options

BOX = "│╭╮╰╯─"
WIDTHS = (60, 80, 200)


def pages(command, path=()):
    """(path of words, Typer's command) of a command and of all below it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from pages(below, (*path, name))


PAGES = dict(pages(typer.main.get_command(program.app)))


def shown_help(path, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert program.main([*path, "--help"]) == 0
    return capsys.readouterr().out


def flowing(text):
    """Text without boxes and line ends; a name beside its help stays before it."""
    return " ".join("".join(" " if c in BOX else c for c in text).split())


def declared_default(param):
    """The default that was declared; None where there is nothing to tell."""
    if isinstance(param.show_default, str):
        return param.show_default
    if param.secondary_opts:
        return param.opts[0] if param.default else param.secondary_opts[0]
    if param.default is None or getattr(param, "is_flag", False):
        return None
    return f"{param.default:g}" if isinstance(param.default, float) else str(param.default)


def test_the_tree_of_commands_is_walked():
    assert {path[0] for path in PAGES if path} >= {"sample", "train", "reproduce", "weights"}
    assert ("weights", "convert") in PAGES and ("reproduce", "table2") in PAGES


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: "-".join(path) or "gradgen")
def test_a_help_page_shows_each_option_whole_with_its_default(path, width, capsys, monkeypatch):
    text = shown_help(path, width, capsys, monkeypatch)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    words = set(re.split(r"[\s,│]+", text))
    whole = flowing(text)
    for param in PAGES[path].params:
        if param.param_type_name == "option":
            assert words >= {*param.opts, *param.secondary_opts}
        help = " ".join((param.help or "").split())
        assert help, f"{param.name} has no help"
        default = declared_default(param)
        if param.required:
            assert f"{help} [required]" in whole
        elif default is not None:
            assert f"{help} [default: {default}]" in whole
        else:
            assert getattr(param, "is_flag", False), f"{param.name} does not tell its default"
            assert help in whole


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: "-".join(path) or "gradgen")
def test_a_help_pages_sentences_break_only_where_a_line_is_full(path, width, capsys, monkeypatch):
    text = shown_help(path, width, capsys, monkeypatch)
    description = text.split("╭", 1)[0].split("\n\n", 1)[1]
    shown = [paragraph.splitlines() for paragraph in description.strip().split("\n\n")]
    source = re.split(r"\n\s*\n", inspect.cleandoc(PAGES[path].help))
    assert [flowing("\n".join(lines)) for lines in shown] == [
        " ".join(paragraph.split()) for paragraph in source
    ]
    for lines in shown:
        for line, following in pairwise(lines):
            assert len(line.rstrip()) + 1 + len(following.split()[0]) > width, line


@pytest.mark.parametrize("path", [(), ("weights",), ("reproduce",)])
def test_a_bare_group_shows_its_help(path, capsys, monkeypatch):
    expected = shown_help(path, 80, capsys, monkeypatch)
    assert program.main(list(path)) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == expected.strip()
    assert shown.err == ""


# --- words of a glob --------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c d.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "run").mkdir()


@pytest.mark.parametrize(
    ("command", "typed", "parsed"),
    [
        # a command without arguments: all words up to the next option
        (
            ("stats",),
            ["--images", "a.jpg", "b.jpg", "gone.jpg", "--sigmas", "2"],
            ["--images", "a.jpg", "--images", "b.jpg", "--images", "gone.jpg", "--sigmas", "2"],
        ),
        (("stats",), ["--images=a.jpg", "b.jpg"], ["--images=a.jpg", "--images", "b.jpg"]),
        # a command that takes arguments: words that are files
        (
            ("compare",),
            ["run", "--real", "a.jpg", "c d.jpg", "run", "--seed", "3"],
            ["run", "--real", "a.jpg", "--real", "c d.jpg", "run", "--seed", "3"],
        ),
        (("compare",), ["--real", "run", "run"], ["--real", "run", "run"]),
        (
            ("compare",),
            ["--real", "a.jpg", "--", "b.jpg"],
            ["--real", "a.jpg", "--", "b.jpg"],
        ),
        (
            ("weights", "fetch"),
            ["dcgan", "--reference", "a.jpg", "b.jpg", "--offline"],
            ["dcgan", "--reference", "a.jpg", "--reference", "b.jpg", "--offline"],
        ),
        # other options take one word
        (("sample",), ["--class", "a.jpg", "b.jpg"], ["--class", "a.jpg", "b.jpg"]),
    ],
)
def test_an_option_takes_the_words_that_a_shell_makes_of_a_glob(pictures, command, typed, parsed):
    assert with_repeated_options(PAGES[command].params, typed) == parsed
