"""One S3 server for the tests of storage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage import server


@pytest.fixture(scope="package")
def s3() -> Iterator[server.Server]:
    """Give a running server, whose address and credentials stand in the environment."""
    with server.running() as found:
        yield found


@pytest.fixture
def url(s3: server.Server, request: pytest.FixtureRequest) -> str:
    """Return an address of its own for a test."""
    return f"{s3.url}/{request.node.name.replace('[', '-').replace(']', '')}"
