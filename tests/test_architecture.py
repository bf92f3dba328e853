"""Tests the order of the packages by their imports: no package imports a package above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gradgen"

# From the top down. A package imports from lower floors only; packages of a floor know nothing of
# each other. A package is what stands directly in gradgen/: a folder or a module.
FLOORS = (
    ("__main__",),
    ("cli", "tools"),
    ("",),  # gradgen/__init__, the public names
    ("training", "benchmark"),
    ("evaluation",),
    ("scoring", "runs"),
    ("code_bounds", "evidence"),
    ("networks",),
    ("weights", "plots", "datasets"),
    ("inference", "models", "images"),
    ("hosts", "devices"),
    ("files", "labels"),
    ("errors", "runtime", "run_files", "notebook"),
)
HEIGHT = {name: -number for number, floor in enumerate(FLOORS) for name in floor}


def modules() -> dict[str, Path]:
    """{dotted name without "gradgen.": file} of every module; a package stands for its __init__."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """(module of gradgen, line) of each import that runs: lazy ones too, those for types not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it goes"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "gradgen":
                inner = name.removeprefix("gradgen").removeprefix(".")
                while inner not in known:  # a function or a class: the module that holds it
                    inner = inner.rpartition(".")[0]
                yield inner, node.lineno


def package(module: str) -> str:
    """What stands directly in gradgen/ and holds the module."""
    return module.partition(".")[0]


def test_every_package_has_its_floor():
    there = {package(name) for name in modules()}
    assert there == set(HEIGHT), "a new package needs a floor in FLOORS, a removed one none"


def test_imports_go_down_only():
    known = modules()
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {package(name)} must not import gradgen.{imported}"
        for name, path in known.items()
        for imported, line in imports(path, known)
        if package(name) != package(imported) and HEIGHT[package(name)] <= HEIGHT[package(imported)]
    ]
    assert not offenders, "imports that go up or sideways:\n" + "\n".join(offenders)


def test_no_module_needs_itself_by_way_of_others():
    known = modules()
    arrows = {
        name: sorted({other for other, _ in imports(path, known)} - {name})
        for name, path in known.items()
    }
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = " -> ".join((*way[way.index(name) :], name))
            pytest.fail(f"modules that import each other: {circle}")
        if name not in done:
            for other in arrows[name]:
                follow(other, (*way, name))
            done.add(name)

    for name in arrows:
        follow(name, ())


def test_the_map_lists_every_module_and_nothing_else():
    """A line of the map's tables begins with the module's path in backquotes."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(there - set(listed)) == [], "modules that gradgen/README.md does not list"
    assert sorted(set(listed) - there) == [], "gradgen/README.md lists modules that are not there"
    assert len(listed) == len(set(listed)), "a module is listed twice"
