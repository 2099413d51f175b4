"""What all tests of this folder share: trainings that are over soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import small


@pytest.fixture(autouse=True, scope="package")
def hurry() -> Iterator[None]:
    """Look closely at few tasks."""
    with pytest.MonkeyPatch.context() as patch:
        small.hurry(patch)
        yield
