"""A web server on loopback that can be as bad as real servers are, and the files that it has."""

import itertools
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves ``files`` {name: bytes}; ``faults`` {name: a list of faults, one a request}.

    A fault is an HTTP status, ("break", n) to stop after n bytes, ("short", n) to promise n bytes
    less than there are, ("long", n) to promise n more, ("slow", seconds) to wait before the second
    half, ("redirect", name), ("html",), ("no range",) to send all when asked for a part,
    ("wrong range",), ("page", bytes) to send something else as if it were the file, ("end", n) and
    ("total", n) to say n more in the end and in the total of a Content-Range, ("packed",) to claim
    a compression, ("no length",) to end by hanging up, ("chunks",) to send pieces, ("broken
    chunks",) to hang up between them, ("nothing",) to hang up at once, ("garbage",) to answer in no
    known language, or ("endless",). Once the list is empty all goes well. ``asked`` counts the
    requests by name, ``ranges`` lists the Range headers.
    """

    def __init__(self):
        self.files, self.faults = {}, {}
        self.asked, self.ranges = Counter(), []
        self.etags = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        poll = {"poll_interval": 0.02}  # seconds: how long close() may take
        threading.Thread(target=self.http.serve_forever, kwargs=poll, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request):
        name = request.path.lstrip("/")
        self.asked[name] += 1
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        waiting = self.faults.get(name) or [None]
        fault = waiting.pop(0)
        kind = fault[0] if isinstance(fault, tuple) else fault
        if isinstance(kind, int):
            request.send_error(kind)
            return
        if kind in ("nothing", "garbage"):
            request.close_connection = True
            if kind == "garbage":
                request.wfile.write(b"\x00\xffnot HTTP at all\r\n\r\n" * 3)
            return
        if kind == "redirect":
            request.send_response(302)
            request.send_header("Location", f"/{fault[1]}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if name not in self.files:
            request.send_error(404)
            return
        content = self.files[name]
        etag = self.etags.get(name)
        first = 0
        if wanted and kind != "no range" and request.headers.get("If-Range", etag) == etag:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            if first >= len(content):
                request.send_error(416)
                return
        said = first + 1 if kind == "wrong range" else first
        body = content[first:]
        if kind == "page":
            body, first = fault[1], 0
        request.send_response(206 if first else 200)
        if first:
            end = len(content) - 1 + (fault[1] if kind == "end" else 0)
            total = len(content) + (fault[1] if kind == "total" else 0)
            request.send_header("Content-Range", f"bytes {said}-{end}/{total}")
        if kind == "packed":
            request.send_header("Content-Encoding", "gzip")
        if etag:
            request.send_header("ETag", etag)
        request.send_header("Content-Type", "text/html" if kind == "html" else "application/x")
        if kind in ("no length", "chunks", "broken chunks", "endless"):
            self._answer_without_length(request, kind, body)
            return
        promised = len(body)
        if kind in ("long", "short"):
            promised += fault[1] if kind == "long" else -fault[1]
        request.send_header("Content-Length", str(promised))
        request.end_headers()
        if kind == "break":
            body = body[: fault[1]]
        half = len(body) // 2
        try:
            request.wfile.write(body[:half])
            if kind == "slow":
                request.wfile.flush()
                time.sleep(fault[1])
            request.wfile.write(body[half:])
        except OSError:  # the client has hung up
            pass
        if kind in ("break", "long", "short"):
            request.close_connection = True

    def _answer_without_length(self, request, kind, body):
        chunked = kind != "no length"
        if chunked:
            request.send_header("Transfer-Encoding", "chunked")
        request.close_connection = True
        request.end_headers()
        pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
        if kind == "broken chunks":
            pieces = pieces[:2]
        elif kind == "endless":
            pieces = itertools.repeat(bytes(65536))
        try:
            for piece in pieces:
                request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if kind == "chunks":
                request.wfile.write(b"0\r\n\r\n")
        except OSError:  # the client has hung up
            pass
