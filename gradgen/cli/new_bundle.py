"""`gradgen new-bundle`: a Python file to begin a bundle of one's own networks with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gradgen.cli import common
from gradgen.cli.options import argument, option


def new_bundle(
    path: Annotated[Path, argument(help="The file to write, such as mine.py.")],
    force: Annotated[bool, option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented Python file for networks of your own; it works as it is.

    'gradgen sample --bundle FILE.py' runs the file and takes the networks that its function
    bundle() returns.
    """
    import importlib.resources

    from gradgen.errors import UsageError
    from gradgen.files import write_atomically

    if path.suffix != ".py":
        raise UsageError(f"{path}: the file's name has to end in .py")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; choose another name, or --force to replace it")
    template = importlib.resources.files("gradgen").joinpath("data", "new-bundle.txt")
    text = template.read_text(encoding="utf-8").replace("FILE.py", str(path))
    write_atomically(path, text.encode())
    common.note(f"{path}; try: gradgen sample --bundle {path} --class red --budget 300")
