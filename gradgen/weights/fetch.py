"""Fetching a network: download, checksum, the wanted member, conversion, card.

Everything of one network happens under a lock: who asks second waits, and finds it done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradgen.errors import GradgenError, UsageError
from gradgen.weights.archive import extract_member, is_archive
from gradgen.weights.download import SEEN_FILE, Source, check, download
from gradgen.weights.registry import WEIGHTS_FILE, Entry, downloads_dir
from gradgen.weights.store import file_sha256, read_card

if TYPE_CHECKING:
    from filelock import BaseFileLock


@dataclass(frozen=True)
class Options:
    """How to download (:func:`gradgen.weights.download.download`).

    Attributes:
        mirror: server that has the files under their names.
        offline: never use the network.
        on_file: called with a file's name before its first byte.
        on_progress: called with the bytes of that file that are there, and its size if known.
    """

    mirror: str | None = None
    offline: bool | None = None
    on_file: Callable[[str], None] | None = None
    on_progress: Callable[[int, int | None], None] | None = None


def fetch(entry: Entry, options: Options = Options()) -> bool:
    """Download and convert a network, unless it is there. Returns whether anything was done.

    Raises:
        GradgenError: it cannot be had, or is not what it should be.
    """
    with _lock(entry):
        if entry.fetched:
            return False
        sources = _sources(entry)
        files = []
        for source in sources:
            if options.on_file:
                options.on_file(source.url.rpartition("/")[2])
            files.append(
                download(
                    source,
                    downloads_dir(),
                    mirror=options.mirror,
                    offline=options.offline,
                    on_progress=options.on_progress,
                )
            )
        _convert(entry, files)
        return True


def take(entry: Entry, files: Sequence[Path]) -> None:
    """Like :func:`fetch`, from files that the user has: the published ones, or the member alone.

    A published file is compared with its checksum. The member of an archive has none.

    Raises:
        GradgenError: a file is broken, or not the published one.
        UsageError: the number of files is another.
    """
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file")
    if len(files) != len(entry.urls):
        raise UsageError(f"{entry.name} comes as {len(entry.urls)} files, {len(files)} are given")
    folder = downloads_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(entry):
        for path, source in zip(files, _sources(entry), strict=True):
            if entry.member is None or is_archive(path):
                try:
                    check(path, source, folder)
                except GradgenError as error:
                    raise GradgenError(f"{path}: {error}") from error
        _convert(entry, files)


def discard_downloads(entries: Sequence[Entry]) -> None:
    """Remove what was downloaded for entries, once it is converted. The checksums seen stay."""
    for entry in entries:
        for source in _sources(entry):
            (downloads_dir() / source.file_name).unlink(missing_ok=True)


def downloads() -> list[Path]:
    """Whole and partial downloads that are kept."""
    folder = downloads_dir()
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix != ".lock" and path.name != SEEN_FILE
    )


def remove(entry: Entry) -> bool:
    """Remove a network's converted weights. Returns whether there were any."""
    if not entry.folder.is_dir():
        return False
    with _lock(entry):
        (entry.folder / "card.json").unlink(missing_ok=True)  # first: without it nothing counts
        found = sorted(entry.folder.iterdir())
        for path in found:
            path.unlink()
        entry.folder.rmdir()
        return bool(found)


def verify(entry: Entry) -> None:
    """Compare a network's files with its card, and with the network.

    Raises:
        GradgenError: they differ.
    """
    from gradgen.weights.networks import architecture
    from gradgen.weights.store import load_module

    for name, expected in read_card(entry.folder).get("files", {}).items():
        path = entry.folder / name
        if not path.is_file():
            raise GradgenError(f"{path} is missing; {_again(entry)}")
        if file_sha256(path) != expected:
            raise GradgenError(f"{path} has changed since it was converted; {_again(entry)}")
    load_module(entry.folder / WEIGHTS_FILE, architecture(entry.network).abstract())


def _again(entry: Entry) -> str:
    return f"'gradgen weights remove {entry.name}' and fetch it again"


def _sources(entry: Entry) -> list[Source]:
    return [Source(url, entry.checksum(position)) for position, url in enumerate(entry.urls)]


def _convert(entry: Entry, files: Sequence[Path]) -> None:
    from gradgen.weights.convert import Origin, convert

    hashes = tuple(file_sha256(path) for path in files)
    origin = Origin(entry.title, entry.urls, entry.member, entry.licence, hashes)
    if entry.member is None or not is_archive(files[0]):
        convert(entry.network, files, entry.folder, origin)
        return
    member = downloads_dir() / f"{entry.name}-{Path(entry.member).name}"
    try:
        extract_member(files[0], entry.member, member)
        convert(entry.network, [member], entry.folder, origin)
    finally:
        member.unlink(missing_ok=True)


def _lock(entry: Entry) -> BaseFileLock:
    from filelock import FileLock

    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(entry.folder.with_name(f"{entry.name}.lock"))
