"""How commands declare their options, and how those that name settings are made of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from typing import Annotated, Any, get_type_hints

import typer

from gradgen.cli.complete import completion_of
from gradgen.inference.settings import Setting, settings_of

MANY = "..."  # at the end of a metavar: the option takes all words that follow, as of a shell glob


def option(
    *names: str,
    help: str,
    default: str = "",
    panel: str | None = None,
    least: float | None = None,
    metavar: str | None = None,
    **details: Any,
) -> Any:
    """An option of a command.

    Args:
        names: its flags; without any, they follow from the parameter's name.
        help: one sentence or more.
        default: what the help says of the default, where the parameter's value does not say it.
        panel: the heading that it stands under in the help.
        least: the smallest number that it may be.
        metavar: what the help calls its value; one that ends in ``...`` takes several words.
        details: further arguments of ``typer.Option``.
    """
    return typer.Option(
        *names,
        help=_with_least(help, least),
        rich_help_panel=panel,
        show_default=default or True,
        min=least,
        metavar=metavar,
        **details,
    )


def argument(*, help: str, metavar: str | None = None, default: str = "", **details: Any) -> Any:
    """An argument of a command; as :func:`option`."""
    return typer.Argument(help=help, metavar=metavar, show_default=default or True, **details)


def _with_least(help: str, least: float | None) -> str:
    return help if least is None else f"{help.removesuffix('.')}; at least {least:g}."


AsJson = Annotated[bool, option("--json", help="JSON on standard output.")]
Threads = Annotated[
    int | None, option(help="Threads that decode.", least=1, default="one a core, up to 8")
]


# --- settings as options ----------------------------------------------------------------------


def takes_settings(
    kind: type, panels: Iterable[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each setting of a dataclass.

    The command's first parameter gets the settings that were given, ``{name: value}``; what was
    not given is not in it.

    Args:
        kind: the dataclass (:mod:`gradgen.inference.settings`).
        panels: the order of the help's headings; options without one come last.
    """
    order = list(panels)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        ]
        parameters = [*own, *map(_parameter, settings_of(kind).values())]
        parameters.sort(key=lambda parameter: _place(parameter, order))

        @wraps(function)
        def command(**values: Any) -> Any:
            rest = {parameter.name: values.pop(parameter.name) for parameter in own}
            known = settings_of(kind)
            given = {
                name: _value(known[name], value)
                for name, value in values.items()
                if value is not None and value != []
            }
            return function(given, **rest)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate


def _parameter(known: Setting) -> inspect.Parameter:
    """A command's parameter for a setting; None where it was not given."""
    kind: Any = str if known.aliases else known.kind  # an alias need not be a number
    kind = list[str] if known.kind is tuple else kind
    default = known.default_text
    if not default and isinstance(known.default, int | float | str):
        default = f"{known.default:g}" if isinstance(known.default, float) else str(known.default)
    declared = option(
        *known.flags,
        help=known.help,
        default=default,
        panel=known.panel,
        autocompletion=completion_of(known),
    )
    return inspect.Parameter(
        known.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )


def _place(parameter: inspect.Parameter, panels: list[str]) -> int:
    (declared,) = parameter.annotation.__metadata__
    panel = declared.rich_help_panel
    return panels.index(panel) if panel in panels else len(panels)


def _value(known: Setting, value: Any) -> Any:
    """What the command line gave, as Python gives it; what is no number stays for the check."""
    if known.kind is tuple:
        return tuple(value)
    if known.kind is str or not isinstance(value, str) or value in known.aliases:
        return value
    try:
        return known.kind(value)
    except ValueError:
        return value


# --- messages ---------------------------------------------------------------------------------

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\s]+))?`")


def as_options(message: str) -> str:
    """A message in which the library names arguments, with the command's options instead.

    The library writes ```num_chains```, ```clip_mode=none``` and ```clip=False```; the command
    says ``--num-chains``, ``--clip-mode none`` and ``--no-clip``.
    """

    def replace(found: re.Match[str]) -> str:
        name, value = found.groups()
        flag = _flags().get(name, f"--{name.replace('_', '-')}")
        if value in ("True", "False"):
            return flag if value == "True" else f"--no-{flag.removeprefix('--')}"
        return flag if value is None else f"{flag} {value}"

    return _ARGUMENT.sub(replace, message)


@cache
def _flags() -> Mapping[str, str]:
    """The long flags of settings that are not simply their names."""
    from gradgen.runs.settings import SampleSettings

    return {
        name: next(flag for flag in known.flags if flag.startswith("--"))
        for name, known in settings_of(SampleSettings).items()
    }
