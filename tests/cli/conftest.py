"""What all tests of this folder share: trainings that are over soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metabench import data
from tests.support import small


@pytest.fixture(autouse=True, scope="package")
def hurry() -> Iterator[None]:
    """Look closely at few tasks."""
    with pytest.MonkeyPatch.context() as patch:
        small.hurry(patch)
        yield


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every data set be the small one: six classes of six examples, 16x16."""
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())
