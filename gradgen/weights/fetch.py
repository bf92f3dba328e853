"""Fetching networks: download, checksum, the wanted member, conversion, card.

Everything of one network happens under a lock: who asks second waits, and finds it done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgen.errors import GradgenError, UsageError
from gradgen.files import file_sha256, locked, remove_file, remove_leftovers, remove_tree
from gradgen.weights.archive import extract_member, is_archive
from gradgen.weights.cards import read_card
from gradgen.weights.download import (
    SEEN_FILE,
    Source,
    check,
    download,
    drop_unproven,
    remember,
)
from gradgen.weights.registry import WEIGHTS_FILE, Entry, downloads_dir, find_entries

DCGAN = "dcgan"  # needs photographs besides its weights


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


@dataclass(frozen=True)
class Fetched:
    """What :func:`fetch` leaves.

    Attributes:
        folders: of the converted weights, by the networks' names.
        new: the names of those that were not there before.
        reference: what DCGAN's card now says of its normalisation, if photographs were given for it
            (:func:`gradgen.weights.dcgan.make_reference`).
    """

    folders: Mapping[str, Path]
    new: tuple[str, ...]
    reference: Mapping[str, Any] | None = None


def fetch(
    names: str | Sequence[str],
    *,
    only: bool = False,
    files: Sequence[str | os.PathLike[str]] = (),
    reference: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    keep_downloads: bool = False,
    options: Options = Options(),
    on_network: Callable[[Entry, bool], None] | None = None,
    on_failure: Callable[[str], None] | None = None,
    on_picture: Callable[[int, int, str | None], None] | None = None,
) -> Fetched:
    """Download and convert the paper's networks; what is here already is left as it is.

    Args:
        names: of bundles, each of which stands for all the networks that it needs, or of networks.
        only: each name is a network's.
        files: files that you have, instead of the download; then ``names`` is one network.
        reference: photographs (folders, files, glob patterns) that fix DCGAN's normalisation, which
            it needs before it scores.
        keep_downloads: keep the files that were converted.
        options: how to download.
        on_network: called with each network that is there, and whether it was fetched now.
        on_failure: called with why a network could not be fetched; else the error in the end says.
        on_picture: called with the photographs read, their number, and what is wrong with the last
            one of them, if anything.

    Raises:
        UsageError: a name is unknown, or files do not fit it.
        GradgenError: a network cannot be had, or is not what it should be; the others are fetched
            all the same.
    """
    names = [names] if isinstance(names, str) else names
    paths = [Path(file) for file in files]
    found = {e.name: e for name in names for e in find_entries(name, only or bool(paths))}
    if paths and len(found) != 1:
        raise UsageError("files of one's own are of one network; name that one alone")
    if reference and DCGAN not in found:
        raise UsageError("reference photographs are for dcgan; name it, or a bundle that uses it")
    new: list[str] = []
    failures: dict[str, str] = {}
    for entry in found.values():
        try:
            is_new = _fetch_or_take(entry, paths, options)
        except UsageError:
            raise
        except GradgenError as error:
            failures[entry.name] = f"{entry.name}: {error}"
            if on_failure is not None:
                on_failure(failures[entry.name])
            continue
        if is_new:
            new.append(entry.name)
        if on_network is not None:
            on_network(entry, is_new)
    fetched = [entry for entry in found.values() if entry.name not in failures]
    if not keep_downloads:
        discard_downloads(fetched)
    made = None
    if reference and DCGAN not in failures:
        made = _reference(found[DCGAN], reference, on_picture)
    if failures:
        why = ", ".join(failures) if on_failure is not None else "; ".join(failures.values())
        raise GradgenError(f"not fetched: {why}")
    return Fetched({entry.name: entry.folder for entry in fetched}, tuple(new), made)


def _fetch_or_take(entry: Entry, files: Sequence[Path], options: Options) -> bool:
    if files:
        take(entry, files)
        return True
    return not entry.fetched and fetch_network(entry, options)


def _reference(
    entry: Entry,
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    on_picture: Callable[[int, int, str | None], None] | None,
) -> Mapping[str, Any]:
    """Fix DCGAN's normalisation on photographs; those that cannot be read are skipped."""
    import numpy as np

    from gradgen.images import ImageError, evenly_chosen, find_images, load_image
    from gradgen.models.dcgan import IMAGE_SIZE
    from gradgen.weights.dcgan import MOST_REFERENCE_IMAGES, make_reference

    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    chosen = evenly_chosen(find_images(given), MOST_REFERENCE_IMAGES)
    pictures = []
    for done, file in enumerate(chosen, 1):
        fault = None
        try:
            pictures.append(load_image(file, IMAGE_SIZE))
        except ImageError as error:
            fault = str(error)
        if on_picture is not None:
            on_picture(done, len(chosen), fault)
    if len(pictures) < 2:
        raise GradgenError("reference statistics take at least 2 photographs")
    return make_reference(entry.folder, np.stack(pictures))


def fetch_network(entry: Entry, options: Options = Options()) -> bool:
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
        remove_leftovers(entry.folder)
        try:
            _convert(entry, files)
        except GradgenError as error:
            dropped = [drop_unproven(source, downloads_dir()) for source in sources]
            if any(dropped):
                raise GradgenError(
                    f"{error}; the server sent something else than the file, so it was dropped; "
                    "try again later, or another server: --mirror URL"
                ) from error
            raise
        for file, source in zip(files, sources, strict=True):
            remember(file, source, downloads_dir())
        return True


def take(entry: Entry, files: Sequence[Path]) -> None:
    """Like :func:`fetch_network`, from a user's files: the published ones, or the member alone.

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
        remove_leftovers(entry.folder)
        _convert(entry, files)
        for path, source in zip(files, _sources(entry), strict=True):
            if entry.member is None or is_archive(path):
                remember(path, source, folder)


def discard_downloads(entries: Sequence[Entry]) -> None:
    """Remove what was downloaded for entries, once it is converted. The checksums seen stay."""
    for entry in entries:
        for source in _sources(entry):
            remove_file(downloads_dir() / source.file_name)


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
        remove_file(entry.folder / "card.json")  # first: without it nothing counts
        return remove_tree(entry.folder)


def verify(entry: Entry) -> None:
    """Compare a network's files with its card, and with the network.

    Raises:
        GradgenError: they differ.
    """
    from gradgen.models.published import architecture
    from gradgen.weights.store import load_module

    for name, expected in read_card(entry.folder).files.items():
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
        remove_file(member)


def _lock(entry: Entry) -> AbstractContextManager[None]:
    """Whoever asks second waits."""
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    return locked(entry.folder.with_name(f"{entry.name}.lock"), entry.name, wait=True)
