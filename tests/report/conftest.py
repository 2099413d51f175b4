"""One search of 500 trials and its report, for all tests of reports; and a real browser, where there is "
"one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from metabench import data, diagnostics, report
from metabench.report.picture import Picture
from tests import small
from tests.report import played


class Written(NamedTuple):
    """A report with what it was made of."""

    folder: Path
    out: Path
    pictures: list[Picture]
    seconds: float  # of this process, to write it


@pytest.fixture(scope="session")
def quick() -> Iterator[None]:
    """Let every data set be the small one, follow few tasks, and do without a disk that keeps its word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda task, root=None: small.splits())
        patch.setattr(diagnostics, "TASKS", 6)
        patch.setattr(diagnostics, "FOLLOWED", 3)
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, quick: None) -> Written:
    """Return the report of a finished search of 500 trials over four algorithms."""
    base = tmp_path_factory.mktemp("large")
    space, splits = played.space(), small.splits()
    folder = played.finish(played.play(base / "five_hundred", space, splits), space, splits)
    begun = time.process_time()
    pictures = report.write([folder], base / "report.html")
    return Written(folder, base / "report.html", pictures, time.process_time() - begun)


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return a browser's path, or skip where there is none."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return path
