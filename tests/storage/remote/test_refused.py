"""A store that will not serve: said at once where waiting cannot help, and after seconds where it might."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metabench.core import MetabenchError
from metabench.storage import remote
from metabench.storage.records import open_place
from metabench.storage.remote import lease, mirror

SLOWEST = 10.0
"""Seconds within which a refusal is said, on a busy machine."""


class Refuse(http.server.BaseHTTPRequestHandler):
    """Answers everything with one error."""

    protocol_version = "HTTP/1.1"
    status, code = 403, "AccessDenied"

    def answer(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>{self.code}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, *what: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Refuse]]:
    """Run a store that refuses, and return how; credentials are there."""

    class Handler(Refuse):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        alone(monkeypatch, tmp_path, f"http://127.0.0.1:{served.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        yield Handler
        served.shutdown()


def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str) -> None:
    """Leave nothing of AWS but an address, where no role of a machine is asked for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))


def messages(tmp_path: Path) -> list[str]:
    """Return what reading and driving a search say, each soon enough."""
    said = []
    for contact in (
        lambda: open_place("s3://bucket/y"),
        lambda: lease.hold(remote.Mirror(tmp_path / "copy", "s3://bucket/y")).__enter__(),
    ):
        begun = time.monotonic()
        with pytest.raises(MetabenchError) as caught:
            contact()
        assert time.monotonic() - begun < SLOWEST
        said.append(str(caught.value))
    return said


def test_denied_access_is_said_at_once(refusing: type[Refuse], tmp_path: Path) -> None:
    for said in messages(tmp_path):
        assert "access is denied; check the credentials" in said


def test_a_bucket_that_is_not_there_is_said_at_once(refusing: type[Refuse], tmp_path: Path) -> None:
    refusing.status, refusing.code = 404, "NoSuchBucket"
    for said in messages(tmp_path):
        assert "there is no such bucket; make it first" in said


def test_missing_credentials_are_said_at_once(
    refusing: type[Refuse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for said in messages(tmp_path):
        assert "there are no credentials" in said
        assert "set AWS_ACCESS_KEY_ID" in said


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_who_does_not_answer_is_waited_for_a_while_and_that_is_said(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mirror, "CONTACT_SECONDS", 3.0)
    monkeypatch.setattr(mirror, "SAID_AFTER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if kind == "nobody":
            listener.close()
        alone(monkeypatch, tmp_path, f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        begun = time.monotonic()
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(MetabenchError, match=r"has not answered for .*AWS_ENDPOINT_URL"),
        ):
            open_place("s3://bucket/y")
        assert time.monotonic() - begun < SLOWEST
    assert [record.getMessage() for record in caplog.records if "metabench" in record.name] == [
        "s3://bucket/y/: waiting for the storage"
    ]
