"""The list of weights that can be downloaded (weights/registry.toml), and where they are kept."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradgen.errors import GradgenError, UsageError
from gradgen.runtime import cache_dir
from gradgen.weights.store import weights_dir

# This environment variable names another list, for example a list of files on the user's server.
REGISTRY_VARIABLE = "GRADGEN_REGISTRY"
WEIGHTS_FILE, REFERENCE_FILE = "weights.safetensors", "reference.safetensors"


@dataclass(frozen=True)
class Entry:
    """A network that can be downloaded. The head of the registry's file explains the fields."""

    name: str
    title: str
    network: str
    urls: tuple[str, ...]
    megabytes: float
    licence: str
    bundles: tuple[str, ...] = ()
    member: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    git_blobs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder where its converted weights are, or would be."""
        return store_dir() / self.name

    @property
    def fetched(self) -> bool:
        """Whether its converted weights are in :attr:`folder`."""
        return (self.folder / "card.json").is_file()

    def checksum(self, position: int) -> tuple[str, str] | None:
        """Return the published checksum of the file at ``urls[position]``.

        Returns:
            (kind, hexadecimal digits), or ``None`` if no checksum is published.
        """
        if self.git_blobs:
            return "git blob", self.git_blobs[position]
        if self.sha256:
            return "sha256", self.sha256
        return ("sha1", self.sha1) if self.sha1 else None


def store_dir() -> Path:
    """Return the folder of converted weights.

    It is ``$GRADGEN_HOME/cache/weights``, or ``weights`` in gradgen's folder of the user's cache.
    """
    return cache_dir() / "weights"


def downloads_dir() -> Path:
    """Return the folder of the files that are being downloaded."""
    return cache_dir() / "downloads"


def read_registry(path: Path | None = None) -> dict[str, Entry]:
    """Read all entries of the registry, by name.

    Args:
        path: file of the registry. ``None`` means the file that ``GRADGEN_REGISTRY`` names, or
            without that the list that comes with gradgen.

    Raises:
        GradgenError: the file is missing or makes no sense.
    """
    path = path or Path(os.environ.get(REGISTRY_VARIABLE) or weights_dir() / "registry.toml")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GradgenError(f"{path}: no such registry of weights") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GradgenError(f"{path} is no registry: {error}") from error
    return {name: _entry(path, name, table) for name, table in tables.items()}


def _entry(path: Path, name: str, table: Any) -> Entry:
    if not isinstance(table, dict):
        raise GradgenError(f"{path}: {name} is outside any table")
    unknown = set(table) - {field.name for field in fields(Entry)}
    if unknown:
        raise GradgenError(f"{path}: {name} has unknown fields {', '.join(sorted(unknown))}")
    lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    try:
        entry = Entry(name=name, **{**table, **lists})
    except TypeError as error:
        raise GradgenError(f"{path}: {name}: {str(error).partition('__() ')[2]}") from error
    if not entry.urls or (entry.git_blobs and len(entry.git_blobs) != len(entry.urls)):
        raise GradgenError(f"{path}: {name} needs at least one URL, and as many git_blobs or none")
    return entry


def find_entries(name: str, only: bool = False) -> list[Entry]:
    """Find the networks that a name stands for: those of a bundle, or a single network.

    Args:
        name: name of a bundle or of a network. Some names are both, and then mean the bundle.
        only: whether the name means only the network of that name.

    Raises:
        UsageError: no bundle and no network has this name.
    """
    registry = read_registry()
    if not only:
        of_bundle = [entry for entry in registry.values() if name in entry.bundles]
        if of_bundle:
            return of_bundle
    if name in registry:
        return [registry[name]]
    bundles = sorted({bundle for entry in registry.values() for bundle in entry.bundles})
    raise UsageError(
        f"there are no weights {name!r} to fetch; bundles: {', '.join(bundles)}; "
        f"networks: {', '.join(registry)}"
    )


def require(name: str) -> Path:
    """Return the folder of a network's converted weights.

    Raises:
        GradgenError: the weights are not there. The message says how to get them, and tells their
            size and licence.
    """
    folder = store_dir() / name
    if (folder / "card.json").is_file():
        return folder
    entry = read_registry().get(name)
    if entry is None:
        raise GradgenError(f"the weights of {name} are not in {store_dir()}")
    size = f"{entry.megabytes:g} MB{', out of an archive' if entry.member else ''}"
    if name in entry.bundles:
        how = "gets them and what else the bundle of that name needs (--only: them alone)"
    elif entry.bundles:
        how = f"gets them; all that a bundle needs: the same with {' or '.join(entry.bundles)}"
    else:
        how = "gets them"
    raise GradgenError(
        f"the weights of {name} ({size}; licence: {entry.licence}) are not here; 'gradgen weights "
        f"fetch {name}' {how}"
    )
