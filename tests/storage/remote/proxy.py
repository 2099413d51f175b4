"""A network between clients and a server that can be out of order: it refuses, stalls or cuts off."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

Mode = Literal["pass", "refuse", "stall", "cut"]

CHUNK = 4096

CUT_AFTER = 600
"""Bytes of an answer that still pass before the connection is cut: some of its head, or of its body."""


class Proxy:
    """Pass everything on to a server's port, as long as nothing else is asked for."""

    def __init__(self, port: int) -> None:
        self.mode: Mode = "pass"
        self.passed = 0
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Return the address for clients."""
        return f"http://127.0.0.1:{self.port}"

    def be(self, mode: Mode) -> None:
        """Behave so from now on, towards open connections too."""
        self.mode = mode
        if mode == "refuse":
            for end in list(self._open):
                _close(end)

    def close(self) -> None:
        """Accept nothing any more."""
        self.be("refuse")
        _close(self._listener)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.mode == "refuse":
                    _close(client)
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self._server))
                except OSError:
                    _close(client)
                    continue
                self._open |= {client, server}
                for source, target, is_answer in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=(source, target, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        """Pass bytes on in one direction until either end closes."""
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                while self.mode == "stall":
                    time.sleep(0.02)
                if self.mode == "cut" and is_answer:
                    target.sendall(data[:CUT_AFTER])
                    break
                target.sendall(data)
                self.passed += len(data)
        for end in (source, target):
            self._open.discard(end)
            _close(end)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
