"""Commands whose help reads well in every terminal, and whose options take what globs expand to.

Typer's own help breaks option names in narrow terminals and sentences at the line ends of the
source, and takes ``[default: …]`` in a help text for markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from gradgen.cli.options import MANY

TWO_COLUMNS = 76  # columns of a terminal in which the help stands beside the option's name
INDENT = 4


class App(typer.Typer):
    """A Typer application whose groups and commands are those of this module."""

    def __init__(self, name: str, help: str, **details: Any) -> None:
        super().__init__(name=name, help=help, cls=Group, **details)

    def command(self, name: str | None = None, **details: Any) -> Any:
        return super().command(name, **{"cls": Command, **details})


class Command(TyperCommand):
    """A command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        print_help(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_repeated_options(self.get_params(ctx), args))


class Group(TyperGroup):
    """A command that only holds others; by itself it shows its help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        print_help(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print_help(self, ctx)
            ctx.exit()
        return super().parse_args(ctx, args)


# --- words of a glob --------------------------------------------------------------------------


def with_repeated_options(params: Iterable[Any], args: list[str]) -> list[str]:
    """Arguments in which an option stands before each of its words.

    A shell makes ``--images a.jpg b.jpg`` of ``--images *.jpg``; the parser wants ``--images a.jpg
    --images b.jpg``. Only options whose metavar ends in ``...`` take more words than the first:
    all up to the next option, or, in a command that takes arguments too, those that are files.
    """
    params = list(params)
    many = {
        flag
        for param in params
        if param.param_type_name == "option" and (param.metavar or "").endswith(MANY)
        for flag in param.opts
    }
    only_files = any(param.param_type_name == "argument" for param in params)
    result: list[str] = []
    current = None  # the option that further words belong to
    waiting = False  # whether its first word is still to come
    for position, word in enumerate(args):
        if word == "--":
            return [*result, *args[position:]]
        flag, joined, _ = word.partition("=")
        if flag in many:
            current, waiting = flag, not joined
        elif waiting:
            waiting = False
        elif word.startswith("-") and word != "-":
            current = None
        elif current is not None:
            if only_files and not Path(word).is_file():
                current = None
            else:
                result.append(current)
        result.append(word)
    return result


# --- the page ---------------------------------------------------------------------------------


def print_help(command: Any, ctx: Any) -> None:
    """Print a command's help on standard output."""
    console = Console(highlight=False)
    params = [param for param in command.get_params(ctx) if not getattr(param, "hidden", False)]
    console.print(Text(f"Usage: {' '.join(_usage(command, ctx, params))}"))
    for paragraph in paragraphs(command.help or ""):
        console.print()
        console.print(Text(paragraph))
    names = [_names(param, ctx) for param in params]
    beside = console.width >= TWO_COLUMNS
    width = max(text.cell_len for text in names)
    panels: dict[str, list[tuple[Text, Text]]] = {}
    for param, text in zip(params, names, strict=True):
        panels.setdefault(_panel(param), []).append((text, _help(param)))
    for title, rows in panels.items():
        _print_panel(console, title, rows, width if beside else None)
    if isinstance(command, TyperGroup):
        rows = []
        for name in command.list_commands(ctx):
            help = paragraphs(command.commands[name].help or "")
            rows.append((Text(name, style="bold cyan"), Text(help[0] if help else "")))
        widest = max(name.cell_len for name, _ in rows)
        _print_panel(console, "Commands", rows, widest if beside else None)


def paragraphs(text: str) -> list[str]:
    """A docstring's paragraphs, each without the line ends that the source needs."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def _print_panel(
    console: Console, title: str, rows: list[tuple[Text, Text]], width: int | None
) -> None:
    """width: columns of the names, with the help beside them; None: with the help below."""
    content: RenderableType
    table = Table.grid(padding=(0, 2, 0, 0))
    if width is None:
        table.add_column(overflow="fold")
        for name, help in rows:
            table.add_row(name)
            table.add_row(Padding(help, (0, 0, 0, INDENT)))
    else:
        table.add_column(no_wrap=True, width=width)
        table.add_column(overflow="fold", ratio=1)
        for name, help in rows:
            table.add_row(name, help)
    content = table
    console.print()
    console.print(Panel(content, title=title, title_align="left", border_style="dim"))


def _usage(command: Any, ctx: Any, params: list[Any]) -> Iterable[str]:
    yield ctx.command_path
    yield "[OPTIONS]"
    for param in params:
        if param.param_type_name == "argument":
            name = _argument_name(param)
            yield name if param.required else f"[{name}]"
    if isinstance(command, TyperGroup):
        yield "COMMAND [ARGS]..."


def _argument_name(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.nargs == 1 or name.endswith(MANY) else f"{name}{MANY}"


def _panel(param: Any) -> str:
    own = getattr(param, "rich_help_panel", None)
    return own or ("Arguments" if param.param_type_name == "argument" else "Options")


def _names(param: Any, ctx: Any) -> Text:
    if param.param_type_name == "argument":
        return Text(_argument_name(param), style="bold cyan")
    flags = sorted(param.opts, key=lambda flag: not flag.startswith("--"))
    text = Text(", ".join(flags), style="bold cyan")
    if param.secondary_opts:
        text.append(f" / {', '.join(param.secondary_opts)}")
    if not is_flag(param):
        text.append(f" {_kind(param, ctx)}", style="not bold yellow")
    return text


def is_flag(param: Any) -> bool:
    """Whether an option takes no value."""
    return bool(getattr(param, "is_flag", False))


def _kind(param: Any, ctx: Any) -> str:
    """What an option's value is: ``<int>``, or the metavar that it was declared with."""
    if param.metavar:
        return param.metavar
    display = getattr(param, "display_type", None)  # Typer before 0.29 asks Click
    kind = display(ctx) if display is not None else f"<{param.make_metavar(ctx).lower()}>"
    return re.sub(r"list\[(.*)\]", r"\1", kind).replace(" range", "").lower()


def _help(param: Any) -> Text:
    text = Text(" ".join((param.help or "").split()))
    default = default_of(param)
    if param.required:
        text.append(" [required]", style="dim red")
    elif default:
        text.append(f" [default: {default}]", style="dim")
    return text


def default_of(param: Any) -> str:
    """What the help says of a parameter's default; nothing of a flag that is off."""
    if isinstance(getattr(param, "show_default", None), str):
        return param.show_default
    if is_flag(param):
        if not param.secondary_opts:
            return ""
        return (param.opts if param.default else param.secondary_opts)[0]
    if isinstance(param.default, float):
        return f"{param.default:g}"
    return "" if param.default is None else str(param.default)
