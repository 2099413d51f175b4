"""One search of 500 trials and its report, for all tests of reports; and a real browser, where there is "
"one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from metabench import data, report
from metabench.core import Splits
from metabench.report.html.pictures import Picture
from metabench.search.journal.ledger import Ledger
from tests.report import played
from tests.support import small

CANARY = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>"


class Written(NamedTuple):
    """A report with what it was made of."""

    folder: Path
    out: Path
    pictures: list[Picture]
    seconds: float  # of this process, to write it


@contextmanager
def quickly(splits: Splits | None = None) -> Iterator[None]:
    """Let every data set be a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda task, root=None: splits or small.splits())
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """Do so for one test."""
    with quickly():
        yield


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return the report of a finished search of 500 trials over four algorithms."""
    base = tmp_path_factory.mktemp("large")
    space, splits = played.space(), small.splits()
    with quickly():
        folder = played.finish(played.play(base / "five_hundred", space, splits), space, splits)
        begun = time.process_time()
        pictures = report.write([folder], base / "report.html")
        return Written(folder, base / "report.html", pictures, time.process_time() - begun)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a search whose data set, classes, folder and errors are markup."""
    base = tmp_path_factory.mktemp("hostile")
    splits = small.splits()
    named = splits.meta_validation._replace(classes=tuple(f"{i}{CANARY}$x^2$" for i in range(6)))
    splits = splits._replace(meta_validation=named)
    space = played.space(3, ("protonet",))
    task = space.task.model_copy(update={"dataset": CANARY, "split": CANARY})
    space = space.model_copy(update={"task": task})
    with quickly(splits):
        folder = played.play(base / "<b>&'name", space, splits)
        ledger = Ledger(folder, 2)
        ledger.fail(ledger.propose("protonet", {}, {"outer_lr": 0.1}, False, 0).name, CANARY)
        played.finish(folder, space, splits)
        report.write([folder], base / "report.html")
    return base / "report.html"


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return a browser's path, or skip where there is none."""
    path = next((at for name in BROWSERS if (at := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return path
