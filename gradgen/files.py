"""Files: whole or absent, known by their hash, and read with a limit on what they may hold.

Everything that gradgen writes goes through :func:`replacing`, so that a kill, a full disk or a
power cut leaves the old file or the new one, never half of one. Everything structured that it
reads (JSON, .npz) goes through :func:`read_json`, :func:`parse_json` and :func:`load_npz`, which
look at sizes before they take memory and turn whatever a broken file does into one line.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import shutil
import stat
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gradgen.errors import GradgenError, GradgenWarning, UsageError

if TYPE_CHECKING:
    import numpy as np

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".gradgen-", ".tmp"  # of names that are not yet a file's own
MAX_JSON_BYTES = 64 * 2**20  # the run.json of 2048 chains takes a twentieth of it
MAX_JSON_DEPTH = 64  # brackets inside brackets; ours nest six deep
MAX_JSON_DIGITS = 40  # of a whole number; 64 bits take 20
MAX_NPZ_BYTES = 2**30  # of all arrays that are read from a file, unpacked
_MAX_ARRAY_HEADER = 10_000  # characters, NumPy's own limit

# What an operating system says of a file system that cannot lock: no locks on this NFS mount, not
# supported, not implemented, a read-only disk, a folder that may not be written.
_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO}
    | {errno.EROFS, errno.EACCES, errno.EPERM}
)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_sha256(content: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


# --- writing ----------------------------------------------------------------------------------


def write_atomically(
    path: Path, content: bytes, *, parents: bool = True, durable: bool = True
) -> None:
    """Write a file so that it is whole or absent (see :func:`replacing`)."""
    with replacing(path, parents=parents, durable=durable) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)


@contextmanager
def replacing(path: Path, *, parents: bool = True, durable: bool = True) -> Iterator[Path]:
    """A new empty file beside ``path``, which takes its place when the block ends well.

    The file is made exclusively under a random name, so that neither another process nor a link
    that was laid in advance can be in its place.

    Args:
        path: the file to write.
        parents: make its folder where there is none. A run does not: the folder is there from its
            beginning, and if it is gone, somebody has removed it.
        durable: return only when the disk has it, so that a power cut does not take it back. What
            is written in numbers is made durable together (:func:`make_durable`).

    Raises:
        OSError: with ``path`` as its file name.
    """
    temporary: Path | None = None
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(path.parent)
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        temporary = None
        if durable:
            _flush_folder(path.parent)
    except OSError as error:
        if error.errno is None:  # not the system's: zipfile and gzip use the class too
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def move_into_place(whole: Path, path: Path) -> None:
    """Give a file that took long to write, piece by piece, the name that it has when it is whole.

    Raises:
        OSError: with ``path`` as its file name.
    """
    try:
        _flush(whole)
        os.replace(whole, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def make_durable(paths: Collection[Path]) -> None:
    """Have the disk take files that were written without waiting for it, and their names."""
    for path in paths:
        _flush(path)
    for folder in sorted({path.parent for path in paths}):
        _flush_folder(folder)


def make_folder(path: Path) -> None:
    """Make a folder where there is none, in a folder that is there; the disk has its name."""
    try:
        path.mkdir()
    except FileExistsError:
        return
    _flush_folder(path.parent)


def _new_file(folder: Path) -> Path:
    """An empty file that this process has made, and nobody else."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    while True:
        path = folder / f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"
        try:
            descriptor = os.open(path, flags, 0o666)  # less the umask, like any new file
        except FileExistsError:
            continue
        try:
            os.close(descriptor)
        except OSError:  # a network disk may find only now that it is full
            path.unlink()
            raise
        return path


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)  # Windows flushes only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Have the disk take a folder's names, where the system can (Windows cannot)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(descriptor)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an uncompressed .npz file's bytes."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


# --- removing ---------------------------------------------------------------------------------


def remove_file(path: Path) -> bool:
    """Remove a file, or a link but not what it points to. Returns whether there was any."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def remove_tree(folder: Path) -> bool:
    """Remove a folder with all that it holds, following no link. Returns whether there was any.

    Raises:
        OSError: something in it could not be removed.
    """
    if folder.is_symlink() or folder.is_file():
        return remove_file(folder)
    if not folder.exists():
        return False
    shutil.rmtree(folder)
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; for whoever has the folder's lock.

    Another process that writes into the folder at this moment would lose its file.
    """
    for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        remove_file(path)


def is_leftover(path: Path) -> bool:
    """Whether a name is that of a temporary file: being written, or left by a killed process."""
    return path.name.startswith(TEMPORARY_PREFIX) and path.name.endswith(TEMPORARY_SUFFIX)


# --- locks ------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock for this process alone; the system lets go when the process ends, however.

    Args:
        path: of the lock file, which stays when the lock is released: to remove it would let two
            processes lock two files of one name.
        what: is being worked on, for the message.
        wait: for the other process to end, rather than fail.

    Where the file system knows no locks (some network disks, a read-only one) the block runs all
    the same, after a :class:`GradgenWarning`.

    Raises:
        UsageError: another process has it.
    """
    if os.name == "nt":
        with _locked_on_windows(path, what, wait):
            yield
        return
    import fcntl

    descriptor = -1
    try:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise _held(what) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OSError(error.errno, error.strerror, str(path)) from error
            _warn_unlocked(what, str(error.strerror))
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def _locked_on_windows(path: Path, what: str, wait: bool) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise _held(what) from None
    except (OSError, NotImplementedError) as error:
        _warn_unlocked(what, str(error))
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _held(what: str) -> UsageError:
    return UsageError(f"{what} is being worked on by another process")


def _warn_unlocked(what: str, reason: str) -> None:
    warnings.warn(
        f"{what}: this disk cannot lock files ({reason}); see to it that no other process works "
        "on it at the same time",
        GradgenWarning,
        stacklevel=4,
    )


# --- reading ----------------------------------------------------------------------------------


def read_limited(path: Path, limit: int) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: there is none.
        GradgenError: it has more than ``limit`` bytes, is a folder, a pipe or a device, or cannot
            be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
            raise GradgenError(f"{path} is not a regular file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise GradgenError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > limit:
        raise GradgenError(f"{path} is too large: more than {_size(limit)} are refused")
    return content


def read_json(path: Path, kind: type = dict, limit: int = MAX_JSON_BYTES) -> Any:
    """What a JSON file holds (see :func:`parse_json`).

    Raises:
        FileNotFoundError: there is no such file.
        GradgenError: it cannot be read, is larger than ``limit`` bytes, or is not strict JSON.
    """
    return parse_json(read_limited(path, limit), str(path), kind)


def parse_json(content: bytes | str, source: str, kind: type = dict) -> Any:
    """Strict JSON: UTF-8, finite numbers, no deep nesting, no halves of characters.

    Args:
        content: the text.
        source: what messages call it.
        kind: the type that the whole has to be: dict or list.

    Raises:
        GradgenError: it is anything else; one line says what.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, parse_constant=_no_constant, parse_int=_whole, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise GradgenError(f"{source} is not JSON (not UTF-8 at byte {error.start})") from error
    except RecursionError:
        raise GradgenError(f"{source} is not JSON that is read here (nested too deep)") from None
    except ValueError as error:
        raise GradgenError(f"{source} is not JSON ({error})") from error
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list" if kind is list else kind.__name__
        raise GradgenError(f"{source}: the JSON in it is not {wanted}")
    _check_json(value, source)
    return value


def json_text(value: Any, *, indent: int | None = None, ascii: bool = False) -> str:
    """Strict JSON of a value; numbers that JSON cannot hold become null.

    Args:
        value: what to write.
        indent: spaces for each level; ``None``: all on one line.
        ascii: write letters beyond ASCII as escapes of JSON, rather than as they are.
    """
    return json.dumps(finite_json(value), indent=indent, ensure_ascii=ascii, allow_nan=False)


def finite_json(value: Any) -> Any:
    """The value with None in place of NaN and infinities, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(part) for part in value]
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_JSON_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number too large")
    return number


def _check_json(value: Any, source: str) -> None:
    """Refuse deep nesting, on which others would recurse, and halves of characters."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item):
                raise GradgenError(f"{source} is not JSON (half a character: a lone surrogate)")
        elif isinstance(item, dict | list):
            if depth > MAX_JSON_DEPTH:
                raise GradgenError(f"{source}: nested too deep, more than {MAX_JSON_DEPTH} levels")
            parts = [*item.keys(), *item.values()] if isinstance(item, dict) else item
            waiting.extend((part, depth + 1) for part in parts)


def load_npz(
    source: Path | bytes,
    wanted: Collection[str] | None = None,
    *,
    optional: Collection[str] = (),
    limit: int = MAX_NPZ_BYTES,
    name: str = "",
) -> dict[str, np.ndarray]:
    """Arrays of an .npz file; nothing is unpacked before its size is known.

    Args:
        source: the file, or its bytes.
        wanted: names of the arrays to read; all have to be there. ``None``: all that the file has.
        optional: names to read as well where they are there.
        limit: bytes that these arrays may take together.
        name: what messages call the file; the path where there is none.

    Raises:
        FileNotFoundError: there is no such file.
        GradgenError: it is no .npz file or is broken, an array is missing, holds Python objects
            (which would run code) or is not of numbers or text, or they are too large.
    """
    name = name or (str(source) if isinstance(source, Path) else "the file")
    opened = io.BytesIO(source) if isinstance(source, bytes) else _opened_regular(source, name)
    try:
        with opened, zipfile.ZipFile(opened) as file:
            return _arrays(file, name, wanted, optional, limit)
    except GradgenError:
        raise
    except OSError as error:
        raise GradgenError(f"{name}: {error.strerror or error}") from error
    except _BROKEN as error:
        raise GradgenError(f"{name} is broken: {_reason(error)}") from error


# What zipfile and NumPy raise on bytes that somebody else chose; found by tests/faults.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, EOFError, SyntaxError, ValueError,
    TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError,
    RuntimeError, NotImplementedError,
)  # fmt: skip


def _reason(error: BaseException) -> str:
    """The first line of an error, shortened: NumPy quotes whole headers."""
    text = (str(error).splitlines() or [""])[0]
    return (text if len(text) <= 200 else f"{text[:199]}…") or type(error).__name__


def _opened_regular(path: Path, name: str) -> IO[bytes]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise GradgenError(f"{name} is not a regular file")
        return path.open("rb")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise GradgenError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _arrays(
    file: zipfile.ZipFile,
    name: str,
    wanted: Collection[str] | None,
    optional: Collection[str],
    limit: int,
) -> dict[str, np.ndarray]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        if info.filename in members:
            raise GradgenError(f"{name} is broken: it holds {info.filename} twice")
        members[info.filename] = info
    if wanted is None:
        chosen = [member.removesuffix(".npy") for member in members if member.endswith(".npy")]
    else:
        missing = [array for array in wanted if f"{array}.npy" not in members]
        if missing:
            raise GradgenError(f"{name} lacks {', '.join(missing[:8])}")
        chosen = [*wanted, *(array for array in optional if f"{array}.npy" in members)]
    found: dict[str, np.ndarray] = {}
    for array in chosen:
        info = members[f"{array}.npy"]
        if info.file_size > limit:
            raise GradgenError(
                f"{name}: {array} unpacks to {info.file_size} bytes, more than are expected"
            )
        limit -= info.file_size
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise GradgenError(f"{name}: {array} is packed in a way that is not read")
        with file.open(info) as member:
            found[array] = _read_npy(member, info.file_size, f"{name}: {array}")
    return found


def load_npy(path: Path, limit: int = MAX_NPZ_BYTES) -> np.ndarray:
    """The array of an .npy file of ``limit`` bytes at most.

    Raises:
        FileNotFoundError: there is no such file.
        GradgenError: as :func:`load_npz`.
    """
    with _opened_regular(path, str(path)) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise GradgenError(f"{path} is too large: {size} bytes, expected {limit} at most")
        try:
            return _read_npy(file, size, str(path))
        except GradgenError:
            raise
        except OSError as error:
            raise GradgenError(f"{path}: {error.strerror or error}") from error
        except _BROKEN as error:
            raise GradgenError(f"{path} is no array: {_reason(error)}") from error


def _read_npy(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """The array of an open .npy file of ``size`` bytes; its header is checked before the rest.

    Raises:
        GradgenError: it holds Python objects, or its size is another than its header says.
        Others of ``_BROKEN``: the header makes no sense.
    """
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file, _MAX_ARRAY_HEADER)
    elif version == (2, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file, _MAX_ARRAY_HEADER)
    else:
        raise GradgenError(f"{name} has the format {version}, which is not read")
    if dtype.kind not in "biufcUS" or dtype.hasobject:
        raise GradgenError(f"{name} holds {dtype}, neither numbers nor text")
    if any(side < 0 for side in shape):
        raise GradgenError(f"{name} has the impossible shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if expected > size:  # before memory is taken
        raise GradgenError(f"{name} has {size} bytes, its header says {expected}")
    if expected == 0:
        array = np.zeros(shape, dtype)
    else:
        array = np.empty(math.prod(shape), dtype)
        _fill(array.view(np.uint8).data, file, name)
        if dtype.kind == "U" and _code_points(array).max() > sys.maxunicode:
            raise GradgenError(f"{name} holds text of letters that do not exist")
        array = array.reshape(shape, order="F" if by_columns else "C")
    if file.read(1):
        raise GradgenError(f"{name} has more bytes than its header says")
    return array


def _code_points(texts: np.ndarray) -> np.ndarray:
    """The numbers of the letters of an array of texts (n,)."""
    import numpy as np

    return texts.view(np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder))


def _fill(memory: memoryview, file: IO[bytes], name: str) -> None:
    """Read until the memory is full; a zip's member comes in pieces."""
    while memory:
        block = file.read(min(len(memory), 2**20))
        if not block:
            raise GradgenError(f"{name} ends early, {len(memory)} bytes before its header says")
        memory[: len(block)] = block
        memory = memory[len(block) :]


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count} bytes"
