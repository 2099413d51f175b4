"""One S3 server for the tests of storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metabench.storage import remote
from tests.storage.remote import server


@pytest.fixture(scope="package")
def s3() -> Iterator[server.Server]:
    """Give a running server, whose address and credentials stand in the environment."""
    with server.running() as running:
        yield running


@pytest.fixture
def url(s3: server.Server, request: pytest.FixtureRequest) -> str:
    """Return an address of its own for a test."""
    return f"{s3.url}/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def here(tmp_path: Path, url: str) -> Iterator[Path]:
    """Attach a folder to an address."""
    folder = tmp_path / "here"
    remote.attach(folder, url)
    yield folder
    remote.detach(folder)
