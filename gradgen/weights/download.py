"""Downloading a file that may be large from a server that may be bad.

A download is written to ``<name>.part``, goes on where it stopped, is compared with its checksum
and only then gets its name. A lock lets several processes ask for the same file at once.

A file without a published checksum is compared with the one that was used before, if any was. Its
SHA-256 is remembered once it has proved itself (:func:`remember`, after its conversion), so that
an error page that a server sends in its place is never taken for the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgen.errors import GradgenError, UsageError
from gradgen.files import (
    bytes_sha256,
    json_text,
    locked,
    move_into_place,
    read_json,
    remove_file,
    write_atomically,
)

ATTEMPTS = 5  # failures in a row without a byte gained
BACKOFF = 1.0  # seconds before the second attempt, doubled before each further one
CONNECT_TIMEOUT, READ_TIMEOUT = 15.0, 60.0  # seconds
LARGEST = 4 * 10**9  # bytes; nothing that we fetch comes near
CHUNK = 1 << 20
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})  # "later, perhaps", says HTTP
SEEN_FILE = "checksums.json"
MAX_NOTE_BYTES = 2**20  # of what is kept beside downloads: checksums, where a part comes from
WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml")  # how an error page begins, whatever its type
OFFLINE_VARIABLE, MIRROR_VARIABLE = "GRADGEN_OFFLINE", "GRADGEN_MIRROR"

OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        url: where it is.
        checksum: (kind, hexadecimal digits): "sha1", "sha256" or "git blob"; or ``None``.
    """

    url: str
    checksum: tuple[str, str] | None = None

    @property
    def file_name(self) -> str:
        """The last part of the URL; a digest of the URL before it keeps equal names apart."""
        name = re.sub(r"[^\w.-]", "_", self.url.partition("?")[0].rstrip("/").rpartition("/")[2])
        return f"{bytes_sha256(self.url.encode())[:8]}-{name}"


class _Again(Exception):
    """This attempt failed; another may succeed."""


def download(
    source: Source,
    folder: Path,
    *,
    mirror: str | None = None,
    offline: bool | None = None,
    on_progress: OnProgress | None = None,
    attempts: int = ATTEMPTS,
    backoff: float = BACKOFF,
    timeout: float = READ_TIMEOUT,
) -> Path:
    """The file in ``folder``, downloaded unless it is there.

    Args:
        source: what to download.
        folder: for the file, for ``.part`` files and for the checksums seen so far.
        mirror: take ``<mirror>/<last part of the URL>`` instead; the checksum stays the source's.
            None: what GRADGEN_MIRROR says.
        offline: never use the network. None: what GRADGEN_OFFLINE says.
        on_progress: called with the bytes that are there and the total, None where unknown.
        attempts: failures in a row without progress before giving up.
        backoff: seconds before the second attempt, doubled each time.
        timeout: seconds without a byte that count as a failure.

    Raises:
        GradgenError: it cannot be had, or is not what it should be; one line says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.file_name
    with locked(folder / f"{target.name}.lock", str(target), wait=True):
        if target.is_file():
            check(target, source, folder)
            return target
        if is_offline(offline):
            raise GradgenError(
                f"{source.url} is not here, and the network is not to be used (offline); fetch it "
                "elsewhere and give the file: gradgen weights fetch NAME --file FILE"
            )
        part = target.with_name(f"{target.name}.part")
        url = _mirrored(source.url, mirror)
        for again in (True, False):
            resumed = _transfer(url, part, source, on_progress, attempts, backoff, timeout)
            try:
                check(part, source, folder)
                break
            except GradgenError:
                _discard(part)
                if not (again and resumed):  # pieces of two versions: once more from the start
                    raise
        remove_file(_meta_of(part))
        move_into_place(part, target)
    return target


def is_offline(offline: bool | None = None) -> bool:
    """Whether the network is not to be used: as said, or as GRADGEN_OFFLINE says."""
    if offline is not None:
        return offline
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "no", "false")


def _mirrored(url: str, mirror: str | None) -> str:
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return url
    if not mirror.startswith(("http://", "https://")):
        raise UsageError(f"mirror {mirror!r}: must begin with http:// or https://")
    return f"{mirror.rstrip('/')}/{url.rpartition('/')[2]}"


# --- checksums --------------------------------------------------------------------------------


def digest(path: Path, kind: str) -> str:
    """Hexadecimal digest of a file: "sha1", "sha256" or "git blob" (SHA-1 after git's header)."""
    made = hashlib.new("sha1" if kind == "git blob" else kind)
    if kind == "git blob":
        made.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            made.update(block)
    return made.hexdigest()


def check(path: Path, source: Source, folder: Path) -> None:
    """Compare a file with its published checksum, or with the one that was used at first.

    Raises:
        GradgenError: they differ.
    """
    if source.checksum is not None:
        kind, wanted = source.checksum
        found = digest(path, kind)
        if found != wanted:
            raise GradgenError(
                f"{source.url}: the file is not the published one ({kind} {found}, expected "
                f"{wanted}); it was changed or damaged, and is not used"
            )
        return
    before = _read_note(folder / SEEN_FILE).get(source.url)
    if before is not None and before != (found := digest(path, "sha256")):
        raise GradgenError(
            f"{source.url}: the file differs from the one used at first (sha256 {found}, then "
            f"{before}); nothing is published to compare with, so it is not used; if its "
            f"authors changed it, take its line out of {folder / SEEN_FILE}"
        )


def remember(path: Path, source: Source, folder: Path) -> None:
    """Keep the SHA-256 of a file that has proved itself, if no checksum of it is published."""
    if source.checksum is not None:
        return
    seen_path = folder / SEEN_FILE
    with locked(folder / f"{SEEN_FILE}.lock", str(seen_path), wait=True):
        seen = _read_note(seen_path)
        if source.url not in seen:
            seen[source.url] = digest(path, "sha256")
            write_atomically(seen_path, json_text(seen, indent=1).encode())


def drop_unproven(source: Source, folder: Path) -> bool:
    """Remove a download that turned out to be of no use, if nothing says that it is the file.

    Returns whether it was removed: the next attempt then downloads it anew.
    """
    if source.checksum is not None or source.url in _read_note(folder / SEEN_FILE):
        return False
    return remove_file(folder / source.file_name)


def _read_note(path: Path) -> dict[str, Any]:
    """What was noted beside the downloads; nothing where it is missing or broken."""
    try:
        return read_json(path, limit=MAX_NOTE_BYTES)
    except (FileNotFoundError, GradgenError):
        return {}


# --- transfer ---------------------------------------------------------------------------------


def _transfer(
    url: str,
    part: Path,
    source: Source,
    on_progress: OnProgress | None,
    attempts: int,
    backoff: float,
    timeout: float,
) -> bool:
    """Bring ``part`` to completion. Returns whether it is made of several answers."""
    import httpx

    failures, most, resumed = 0, _size(part), False
    limits = httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
    headers = {"Accept-Encoding": "identity", "User-Agent": "gradgen"}  # ranges of the file itself
    with httpx.Client(timeout=limits, follow_redirects=True, headers=headers) as client:
        while True:
            resumed = resumed or _size(part) > 0
            try:
                _request(client, url, part, source, on_progress)
                return resumed
            except httpx.InvalidURL as error:
                raise GradgenError(f"{url}: {error}") from error
            except (_Again, httpx.TransportError, httpx.TooManyRedirects) as error:
                reason = str(error) or type(error).__name__
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= attempts:
                kept = f"; {most} bytes are kept, asking again goes on from there" if most else ""
                raise GradgenError(f"{url}: {reason} ({attempts} attempts{kept})")
            time.sleep(backoff * 2 ** max(0, failures - 1))


def _request(
    client: Any, url: str, part: Path, source: Source, on_progress: OnProgress | None
) -> None:
    """One request, from where ``part`` ends if the server can; raises _Again or GradgenError."""
    have, meta = _size(part), _read_note(_meta_of(part))
    validator = meta.get("validator")
    validator = validator if isinstance(validator, str) else None
    headers = {}
    # without a validator or a checksum, a changed file would be joined to an old beginning
    if have and meta.get("url") == url and (validator or source.checksum):
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    with client.stream("GET", url, headers=headers) as response:
        status = response.status_code
        if status == 416 and have:  # nothing beyond what is here, says the server
            end = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("content-range", ""))
            if source.checksum or (end and int(end[1]) == have):
                return
            _discard(part)
            raise _Again("the server has no such range, and does not say how long the file is")
        if status in RETRIED:
            raise _Again(f"the server answers {status} {response.reason_phrase}")
        if status not in (200, 206):
            raise GradgenError(
                f"{url}: the server answers {status} {response.reason_phrase}; another server: "
                "--mirror URL; a file that you have: --file FILE"
            )
        if response.headers.get("content-type", "").startswith("text/html"):
            raise _web_page(url)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise GradgenError(f"{url}: the server sends the file packed, which was not asked for")
        length = response.headers.get("content-length", "")
        coming = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None
        if status == 206:
            total = _whole_length(response.headers.get("content-range", ""), have, coming, meta)
            if total is None:
                _discard(part)
                raise _Again("the server sends another range than it was asked for")
        else:
            have, total = 0, coming
            if coming == 0:
                raise _Again("the server sends an empty file")
        _check_room(url, part, total, have)
        kept = {"url": url, "validator": _validator(response.headers), "total": total}
        try:
            write_atomically(_meta_of(part), json_text(kept).encode(), durable=False)
            with part.open("ab" if have else "wb") as file:
                for block in response.iter_raw():
                    if have == 0 and block[:64].lstrip().lower().startswith(WEB_PAGE):
                        _discard(part)
                        raise _web_page(url)
                    have += len(block)
                    if have > LARGEST:
                        raise GradgenError(f"{url}: more than {LARGEST // 10**9} GB; given up")
                    file.write(block)
                    if on_progress:
                        on_progress(have, total)
        except OSError as error:
            raise GradgenError(
                f"{part}: {error.strerror}; make room and ask again: it goes on from there"
            ) from error
    if have == 0:
        _discard(part)
        raise _Again("the server sends an empty file")
    if total is not None and have != total:
        raise _Again(f"the server broke off after {have} of {total} bytes")


def _whole_length(
    content_range: str, have: int, coming: int | None, meta: dict[str, Any]
) -> int | None:
    """The whole file's length by a Content-Range, or ``None`` where it contradicts anything.

    It is held against the range that was asked for (from ``have`` to the end), the length of what
    is coming, and the whole length that the server told before.
    """
    found = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", content_range.strip())
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    total = last + 1 if found[3] == "*" else int(found[3])
    told = meta.get("total")
    fits = (
        first == have
        and last + 1 == total
        and coming in (None, last + 1 - first)
        and told in (None, total)
    )
    return total if fits else None


def _web_page(url: str) -> GradgenError:
    return GradgenError(f"{url}: the server sends a web page instead of the file")


def _validator(headers: Any) -> str | None:
    """What tells whether the file is still the same: a strong ETag or the date."""
    tag = headers.get("etag")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("last-modified")


def _check_room(url: str, part: Path, total: int | None, have: int) -> None:
    if total is None:
        return
    if total > LARGEST:
        raise GradgenError(f"{url}: {total} bytes are more than anything that is expected")
    free = shutil.disk_usage(part.parent).free
    if total - have > free:
        raise GradgenError(
            f"{part.parent}: {(total - have) / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB are "
            "free; make room, or set GRADGEN_HOME to a folder on another disk"
        )


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _meta_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    remove_file(part)
    remove_file(_meta_of(part))
