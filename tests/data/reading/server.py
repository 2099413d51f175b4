"""A web server on this machine that serves a folder, with ranges, and fails in the ways that servers fail."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Behaviour:
    """What the server does; tests change it while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.has_ranges = True
        self.codes: list[int] = []  # answered first, one a request
        self.cuts: list[int] = []  # bytes after which the connection breaks, one a request
        self.silence = 0.0  # seconds before each piece of an answer
        self.piece = 1 << 20  # bytes of a piece
        self.has_length = True
        self.change: Callable[[str, bytes], bytes] = lambda path, content: content
        self.seen: list[tuple[str, str | None]] = []  # path and range of each request
        self.connections: set[tuple[str, int]] = set()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Answers GET for files under the behaviour's folder."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for the client's acknowledgement
    behaviour: Behaviour

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Serve a file or a part of it, or fail as told."""
        behaviour = self.behaviour
        with behaviour.lock:
            behaviour.seen.append((unquote(self.path), self.headers.get("Range")))
            behaviour.connections.add(self.client_address)
            code = behaviour.codes.pop(0) if behaviour.codes else None
            cut = behaviour.cuts.pop(0) if behaviour.cuts else None
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        file = behaviour.folder / unquote(self.path).lstrip("/")
        if code or not file.is_file():
            self.send_error(code or 404)
            return
        content = behaviour.change(file.name, file.read_bytes())
        self._send(content, self.headers.get("Range") if behaviour.has_ranges else None, cut)

    def _send(self, content: bytes, span: str | None, cut: int | None) -> None:
        start, stop = 0, len(content)
        if span:
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", span)
            assert match, span
            start = int(match[1])
            stop = min(stop, int(match[2]) + 1) if match[2] else stop
        if start >= stop:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        if self.behaviour.has_length:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        body = content[start:stop] if cut is None else content[start : min(stop, start + cut)]
        with contextlib.suppress(ConnectionError):
            for first in range(0, len(body), self.behaviour.piece):
                if self.behaviour.silence:
                    time.sleep(self.behaviour.silence)
                self.wfile.write(body[first : first + self.behaviour.piece])
            self.wfile.flush()
        if cut is not None or not self.behaviour.has_length:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """One thread a connection; many connections may wait."""

    request_queue_size = 64
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve a folder on a free port of 127.0.0.1; give its address, and what to change."""
    behaviour = Behaviour(folder)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"behaviour": behaviour}))
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
