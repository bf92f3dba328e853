"""Runs on a page that stays up to date while they go on, for this machine's own browser alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgen.errors import GradgenError, UsageError
from gradgen.evaluation.view import RunView, Words, page, read_view, view_of
from gradgen.files import bytes_sha256
from gradgen.networks.python_file import refuse_recorded
from gradgen.run_files import CHECKPOINT, RECORD_FILE
from gradgen.runs.record import RUNNING, RunRecord, read_record

if TYPE_CHECKING:
    from gradgen.runs.plan import Plan
    from gradgen.runs.settings import SampleSettings

LOOPBACK = "127.0.0.1"  # no other machine can ask


def server_of(folders: Sequence[Path], port: int = 0, words: Words = str) -> ThreadingHTTPServer:
    """A server of the page of some runs, on the loopback address; its caller starts and stops it.

    Args:
        folders: of runs.
        port: 0 means any that is free.
        words: see :func:`gradgen.evaluation.view.view`.

    Raises:
        UsageError: the port is taken, or a folder is none of a run.
    """
    for folder in folders:
        read_record(folder)
    lock = threading.Lock()  # a page takes seconds; several tabs share it
    made: dict[str, str] = {}

    def current() -> str:
        state = state_of(folders)
        with lock:
            if state not in made:
                runs = [live_view(folder) for folder in folders]
                made.clear()
                made[state] = page(runs, words=words, state=state)
            return made[state]

    handler = _handler(current, lambda: state_of(folders))
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), handler)
    except OSError as error:
        raise UsageError(f"port {port} of {LOOPBACK}: {error.strerror}; choose another") from error
    server.daemon_threads = True
    return server


def state_of(folders: Sequence[Path]) -> str:
    """Another text whenever a run has gone on: a digest of its files' times."""
    times = []
    for folder in folders:
        for file in (folder / RECORD_FILE, *sorted((folder / CHECKPOINT).glob("*.npz"))):
            try:
                times.append(f"{file} {file.stat().st_mtime_ns}")
            except FileNotFoundError:  # replaced or removed at this very moment
                times.append(f"{file} -")
    return bytes_sha256("\n".join(times).encode())[:16]


def live_view(folder: Path) -> RunView:
    """What a run has to show; of a run that goes on, its chains' pictures of the moment."""
    record = read_record(folder)
    if record.status == RUNNING:
        try:
            found = _going_on(folder, record)
        except GradgenError:  # a file was removed while it was read; the next look finds another
            found = None
        if found is not None:
            return found
    return read_view(folder)


def _going_on(folder: Path, record: RunRecord) -> RunView | None:
    from gradgen.runs.checkpoint import load_states, part_files, read_parts
    from gradgen.runs.plan import describe
    from gradgen.runs.results import collect
    from gradgen.runs.sample import run_batches

    refuse_recorded(record.settings.bundle, str(folder))
    work = folder / CHECKPOINT
    states, seconds = load_states(work)
    parts = list(read_parts(part_files(work)))
    ended = {int(index) for part in parts for index in part.groups}
    plan = _plan(record.settings, record.only_chain)
    for state in states:
        if not ended & set(state.groups):
            # a run that ends where these chains stand: their pictures, and not a step more
            here = replace(plan, stop_at=int(state.state.step))
            parts += run_batches(here, state.groups, (state,))
    if not parts:
        return None
    return view_of(folder, record, collect(plan, describe(plan), parts, seconds))


@cache
def _plan(settings: SampleSettings, only_chain: int | None) -> Plan:
    """The run's plan, loaded once. Clipping needs files and does not matter to what is shown."""
    from gradgen.runs.plan import prepare

    free = replace(settings, clip_mode="none", clip_sigmas=None, clip_scope=None, statistics=None)
    return prepare(free, only_chain=only_chain)


def _handler(current: Callable[[], str], state: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "gradgen", ""

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing: a browser asks every other second."""

        def do_GET(self) -> None:
            assert isinstance(self.server, ThreadingHTTPServer)
            port = self.server.server_port
            # another site's name that was made to point here must not read the page
            if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
                self.send_error(403)
                return
            texts = {"/": (current, "text/html"), "/state": (state, "text/plain")}
            if self.path not in texts:
                self.send_error(404)
                return
            make, kind = texts[self.path]
            try:
                content = make().encode()
            except GradgenError as error:
                self.send_error(500, explain=str(error))
                return
            self.send_response(200)
            headers = {
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(content)),
                "Content-Security-Policy": "frame-ancestors 'none'",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    return Handler
