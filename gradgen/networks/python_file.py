"""Bundles from a user's Python file: ``--bundle FILE.py`` or ``FILE.py:function``.

Running code is asked for by naming the file, and by nothing else: a record or a recipe that names
one is only shown, unless a person gives the same file again (:func:`refuse_recorded`).
"""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gradgen.errors import GradgenError, UsageError
from gradgen.files import bytes_sha256
from gradgen.networks.interfaces import Bundle, CodeFile

FUNCTION = "bundle"  # which is called unless another is named

_SPEC = re.compile(r"(?P<file>.+\.py)(?::(?P<function>[A-Za-z_]\w*))?", re.DOTALL)


def is_python_file(name: str | Path) -> bool:
    """Whether a bundle's name is that of a Python file, with a function or without."""
    return _SPEC.fullmatch(str(name)) is not None


def refuse_recorded(name: str | None, source: str) -> None:
    """Raise UsageError if a record asks for code; a person has to ask for it.

    Args:
        name: of the bundle in the record.
        source: what the message calls the record.
    """
    if name is not None and is_python_file(name):
        raise UsageError(
            f"{source} asks for the code of {name}, which is run only if you name it: look at the "
            f"file, then add `bundle={name}`"
        )


def load_python_bundle(name: str | Path) -> Bundle:
    """Run a Python file and call its function, which returns a bundle.

    Args:
        name: "FILE.py", whose function ``bundle`` is called, or "FILE.py:function".

    Raises:
        UsageError: there is no such file or function, or it returns something else.
        GradgenError: the code fails; the message has the line and the code's own message.
    """
    found = _SPEC.fullmatch(str(name))
    if found is None:
        raise UsageError(f"{name} is no Python file")
    path = Path(found["file"])
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; 'gradgen new-bundle {path}' writes one to begin with"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return _run(path.resolve(), found["function"] or FUNCTION, bytes_sha256(content))


@cache
def _run(path: Path, function: str, sha256: str) -> Bundle:
    """The same object for the same text, so that what is compiled for it serves again."""
    module_name = f"gradgen_bundle_{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickles of the file look it up
    sys.path.insert(0, str(path.parent))
    try:
        _calling(path, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
        make = getattr(module, function, None)
        if not callable(make):
            raise UsageError(
                f"{path} has no function {function!r}; define one that returns a gradgen.Bundle, "
                f"or name another: {path.name}:FUNCTION"
            )
        made = _calling(path, make)
    finally:
        sys.path.remove(str(path.parent))
    if not isinstance(made, Bundle):
        raise UsageError(
            f"{path}: {function}() returns {type(made).__name__}, not a gradgen.Bundle; "
            "gradgen.Bundle.from_functions makes one"
        )
    return replace(made, file=CodeFile(path.name, sha256))


def _calling(path: Path, call: Any) -> Any:
    """The call's result; whatever it raises, as a line that names the line of the file."""
    try:
        return call()
    except Exception as error:
        if isinstance(error, SyntaxError) and error.filename == str(path):
            where = f", line {error.lineno}"
        else:
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == str(path)
            ]
            where = f", line {lines[-1]}" if lines else ""
        kind = "" if isinstance(error, GradgenError) else f"{type(error).__name__}: "
        raise GradgenError(f"{path}{where}: {kind}{error}") from error
