"""The `gradgen` program: registers the subcommands, turns errors into one line.

Nothing here, nor at the top of a subcommand's module, imports JAX or
Matplotlib: `gradgen --help` answers in well under half a second.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.markup import escape

from gradgen.cli.bench import bench
from gradgen.cli.classes import classes
from gradgen.cli.common import err, prepare_streams, printable, warn
from gradgen.cli.compare import compare
from gradgen.cli.diagnose import diagnose
from gradgen.cli.evaluate import evaluate
from gradgen.cli.help import App
from gradgen.cli.morph import morph
from gradgen.cli.new_bundle import new_bundle
from gradgen.cli.options import as_options, option
from gradgen.cli.reproduce import reproduce
from gradgen.cli.sample import sample
from gradgen.cli.score import score
from gradgen.cli.show import show
from gradgen.cli.stats import stats
from gradgen.cli.train import train
from gradgen.cli.units import units
from gradgen.cli.view import view
from gradgen.cli.weights import weights

DEBUG_VARIABLE = "GRADGEN_DEBUG"
COMMANDS: tuple[Callable[..., int | None], ...] = (
    sample,
    morph,
    show,
    view,
    classes,
    stats,
    score,
    diagnose,
    compare,
    train,
    evaluate,
    bench,
    new_bundle,
    units,
)
INTERRUPTED = 130  # 128 + SIGINT, what a shell expects of a program ended by Ctrl-C

app = App(
    name="gradgen",
    help="Pictures that a classifier believes in, drawn by MAP, MALA or HMC in a generator's code.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"gradgen {version('gradgen')}")
        raise typer.Exit


@app.callback()
def _global_options(
    debug: Annotated[
        bool, option("--debug", help="Show a traceback when something fails.")
    ] = False,
    version: Annotated[
        bool,
        option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


for _command in COMMANDS:
    app.command()(_command)
app.add_typer(reproduce)
app.add_typer(weights)


def _take_debug(arguments: Sequence[str]) -> list[str]:
    """Let `--debug` stand anywhere before a bare `--`, not only before the subcommand."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" in arguments[:end]:
        os.environ[DEBUG_VARIABLE] = "1"
    return [item for i, item in enumerate(arguments) if item != "--debug" or i >= end]


def _fail(message: str, code: int, lines: bool = False) -> int:
    text = escape(printable(message, lines=lines))
    err.print(f"[bold red]error:[/] {text}", highlight=False, soft_wrap=True)
    return code


def _usage_failure(error: Any) -> int:
    """Show one of Typer's complaints about the arguments as one line."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "gradgen"
    return _fail(f"{message} (see: {path} --help)", error.exit_code)


def _os_failure(error: OSError) -> str:
    """What the operating system says, of which file, and what a person can do about it."""
    text = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text += (
            "; nothing is lost: what was written before is whole. Make room and ask again; a run "
            "goes on with 'gradgen sample --resume FOLDER'"
        )
    return text


@contextmanager
def _own_warnings_shown() -> Iterator[None]:
    """Print our own warnings as one line, like all others; Python's as before."""
    from gradgen.errors import GradgenWarning

    before = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any) -> None:
        if issubclass(category, GradgenWarning):
            warn(str(message))
        else:
            before(message, category, *where)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C."""
    from gradgen.errors import GradgenError

    rest = _take_debug(list(sys.argv[1:] if arguments is None else arguments))
    prepare_streams()
    try:
        # Outside its standalone mode Typer returns the code of typer.Exit and
        # raises its own complaints, which we print like every other error.
        with _own_warnings_shown():
            code = app(args=rest, prog_name="gradgen", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort:
        return _fail("interrupted", 1)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _usage_failure(error)
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if isinstance(error, GradgenError):
            return _fail(as_options(str(error)), error.exit_code, error.lines)
        if isinstance(error, OSError):
            return _fail(_os_failure(error), 1)
        if isinstance(error, MemoryError):
            return _fail("out of memory; --chain-batch or --batch-size make it need less", 1)
        return _fail(f"{type(error).__name__}: {error} (this is a bug; --debug shows where)", 1)
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
