"""A disk that fails, or a process that dies, at the n-th file operation within a folder."""

import os
import re
import signal
from pathlib import Path

NAMES = ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "close")
CHANGES = ("replace", "mkdir", "unlink", "rmdir")  # what another process can see
KILL = "kill -9"


class KilledError(BaseException):
    """The process is dead: nothing that stands behind an `except` or a `finally` is done any more.

    No `except Exception` catches it, and every later operation raises it again.
    """


class Crash:
    """Counts the operations within a folder; the n-th one fails.

    Args:
        patch: pytest's monkeypatch.
        folder: whose files are meant, and all below.
        number: of the operation, from 0; ``None``: none fails.
        how: an errno, which the operation raises, once; ``None``: the process is dead from then on;
            KILL: it kills itself.
    """

    def __init__(self, patch, folder, number=None, how=None):
        self.folder, self.number, self.how = str(folder), number, how
        self.done, self.fired = [], False
        self._open = {}
        for name in NAMES:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, real):
        def call(*args, **kwargs):
            path = self._path(name, args)
            if path is None:
                return real(*args, **kwargs)
            if name == "close":  # a dead process holds no file and no lock
                self._open.pop(args[0], None)
                real(*args, **kwargs)
                self._count(name, path)
                return None
            self._count(name, path)
            found = real(*args, **kwargs)
            if name == "open":
                self._open[found] = path
            return found

        return call

    def _path(self, name, args):
        """The file that an operation is about, if it is within the folder."""
        if name in ("write", "fsync", "close"):
            return self._open.get(args[0])
        path = os.fspath(args[1] if name == "replace" else args[0])
        inside = isinstance(path, str) and (path + "/").startswith(self.folder + "/")
        return path if inside else None

    def _count(self, name, path):
        if self.fired and self.how is None:
            raise KilledError
        kind = re.sub(r"\d+", "#", re.sub(r"-[0-9a-f]{16}", "", os.path.relpath(path, self.folder)))
        self.done.append((name, kind))
        if len(self.done) - 1 == self.number:
            self.fired = True
            if self.how is None:
                raise KilledError
            if self.how == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.how, os.strerror(self.how), path)


def files_below(folder):
    """{path relative to the folder: file} of all files and empty folders."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in Path(folder).rglob("*")
        if path.is_file() or not any(path.iterdir())
    }
