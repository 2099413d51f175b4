"""What tests of this folder share: data on which a training is over soon."""

from __future__ import annotations

import pytest

from metabench import data
from tests.support import small


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every data set be the small one: six classes of six examples, 16x16."""
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())
