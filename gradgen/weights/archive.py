"""One member out of a zip or tar, and nothing else of it."""

from __future__ import annotations

import bz2
import errno
import gzip
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gradgen.errors import GradgenError
from gradgen.files import replacing

LARGEST_MEMBER = 10**9  # bytes; the largest that we take are 244 MB
LARGEST_TAR = 4 * 10**9  # bytes to unpack on the way to the member
CHUNK = 1 << 20
# Not LZMA (nor xz, of a tar): a member's head may ask for gigabytes before a byte is unpacked.
ZIP_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


# What zipfile, tarfile and the decompressors raise on bytes that somebody else chose.
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError,
    ValueError, OverflowError, KeyError, IndexError, TypeError, struct.error, MemoryError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar (plain, gzip or bzip2), by its content."""
    return zipfile.is_zipfile(path) or _tar_compression(path) is not None


def _tar_compression(path: Path) -> str | None:
    """How a tar is packed, as :func:`tarfile.open` calls it, or ``None`` for no tar."""
    openers: dict[str, Any] = {"": open, "gz": gzip.open, "bz2": bz2.open}
    for name, opener in openers.items():
        try:
            with opener(path, "rb") as file:
                tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
            return name
        except (OSError, *_BROKEN):
            continue
    return None


def extract_member(archive: Path, member: str, target: Path) -> None:
    """Write the archive's file whose path ends in ``member`` to ``target``, atomically.

    Names inside the archive never become paths, so it does not matter what they try.

    Raises:
        GradgenError: there is no such member or more than one, it is not a file, it is
            unreasonably large, or the archive is broken.
        OSError: the target cannot be written.
    """
    try:
        with replacing(target) as temporary:
            if zipfile.is_zipfile(archive):
                _from_zip(archive, member, temporary)
            elif (compression := _tar_compression(archive)) is not None:
                _from_tar(archive, compression, member, temporary)
            else:
                raise GradgenError(f"{archive} is neither a zip nor a tar file")
    except GradgenError:
        raise
    except OSError as error:
        # a full disk: the archive is not to blame; but for places in it that cannot be
        if error.errno not in (None, errno.EINVAL):
            raise
        raise GradgenError(f"{archive} is broken: {error}") from error  # gzip's, zipfile's own
    except _BROKEN as error:
        raise GradgenError(f"{archive} is broken: {error}") from error


def _from_zip(archive: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        found = [info for info in file.infolist() if _is(info.filename, member)]
        if len(found) != 1:
            raise _not_one(archive, member, len(found), file.namelist())
        _check_size(archive, member, found[0].file_size)
        if found[0].compress_type not in ZIP_COMPRESSIONS:
            raise GradgenError(f"{archive}: {member} is packed in a way that is not read")
        with file.open(found[0]) as inside:
            _copy(inside, target, archive, member)


def _from_tar(archive: Path, compression: str, member: str, target: Path) -> None:
    names: list[str] = []
    with tarfile.open(archive, f"r|{compression}") as file:  # type: ignore[call-overload]
        for info in file:
            if info.offset_data + info.size > LARGEST_TAR:
                raise GradgenError(f"{archive} unpacks to more than {LARGEST_TAR // 10**9} GB")
            if not _is(info.name, member):
                names.append(info.name)
                continue
            inside = file.extractfile(info) if info.isfile() else None
            if inside is None:
                raise GradgenError(f"{archive}: {info.name} is not a file")
            _check_size(archive, member, info.size)
            _copy(inside, target, archive, member)
            return
    raise _not_one(archive, member, 0, names)


def _is(name: str, member: str) -> bool:
    """Whether a path ends in the parts of ``member``; one with .. in it never does."""
    parts, wanted = PurePosixPath(name).parts, PurePosixPath(member).parts
    return not name.endswith("/") and ".." not in parts and parts[-len(wanted) :] == wanted


def _check_size(archive: Path, member: str, size: int) -> None:
    if size > LARGEST_MEMBER:
        raise GradgenError(f"{archive}: {member} unpacks to {size} bytes, more than is expected")


def _copy(inside: IO[bytes], target: Path, archive: Path, member: str) -> None:
    written = 0
    with target.open("wb") as out:
        while block := inside.read(CHUNK):
            written += len(block)
            _check_size(archive, member, written)
            out.write(block)


def _not_one(archive: Path, member: str, count: int, names: list[str]) -> GradgenError:
    listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return GradgenError(f"{archive} holds {count or 'no'} files {member}; it has: {listed}")
