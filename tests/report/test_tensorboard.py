"""TensorBoard in a real browser, over the folder of a search of 500 trials: each tab shows its part."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metabench.core import Report
from metabench.core.objectives import OBJECTIVES
from metabench.search.journal.ledger import Ledger, Trial
from metabench.search.progress import watch as dashboard
from metabench.search.progress.watch import Watch
from metabench.storage import files
from metabench.storage.tensorboard import Events
from metabench.training.run import write_report
from tests.report import played
from tests.report.conftest import Written
from tests.report.html.test_browser import browser  # noqa: F401

SHOTS = os.environ.get("METABENCH_SHOTS", "")
"""A folder for pictures of what was seen."""

PATIENCE = 40
"""Seconds for a tab; a quiet machine takes some two."""


def write_trial(root: Path, trial: Trial) -> None:
    """Write what a worker writes of a trial."""
    events = Events(root / trial.algorithm / trial.name)
    events.hparams_run({"algorithm": trial.algorithm, **trial.hyperparameters}, trial.name)
    for line in trial.reports:
        values = {name: math.nan if line.get(name) is None else line[name] for name in Report._fields}
        write_report(events, Report(**values), OBJECTIVES["classification"])
    events.end(str(trial.status))
    events.close()


@pytest.fixture(scope="module")
def address(large: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a folder of 500 trials, and wait until all of them are known."""
    folder = tmp_path_factory.mktemp("tensorboard") / "search"
    shutil.copytree(large.folder, folder)
    ledger = Ledger(folder, 2)
    root = folder / files.TENSORBOARD
    with Watch(folder, played.space(), quiet=True).showing(ledger):
        pass
    for trial in ledger.trials.values():
        write_trial(root, trial)
    for board in folder.glob(f"{files.FINAL}/*/{files.TENSORBOARD}"):
        shutil.copytree(board, root / "_final" / board.parent.name)
    dashboard.write_leaderboard(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    options = [
        "--logdir",
        str(root),
        "--host",
        "127.0.0.1",
        "--port",
        url.rpartition(":")[2],
        "--load_fast=false",
    ]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tensorboard.main", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(url, len(ledger.trials))
        yield url
    finally:
        server.kill()
        server.wait()


def wait_for(url: str, n_runs: int) -> None:
    """Wait until the server has read all runs."""
    deadline = time.monotonic() + PATIENCE
    listed = ""
    while listed.count('"') // 2 < n_runs:
        assert time.monotonic() < deadline, f"after {PATIENCE} s TensorBoard knows {listed[:200]}"
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(f"{url}/data/runs") as answer:
                listed = answer.read().decode()
        except OSError:
            continue


def tab(browser: Any, url: str, name: str, *shown: str, runs: str = "") -> Any:  # noqa: F811
    """Open a tab, and wait for texts or elements that it must show; it may not complain of anything.

    Args:
        runs: a pattern of those that are chosen; of more than forty, TensorBoard by itself chooses none.
    """
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{url}/#{name}" + (f"&regexInput={runs}" if runs else ""))
    for what in shown:
        page.locator(what).first.wait_for(state="visible", timeout=PATIENCE * 1000)
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")
    assert said == []
    return page


def test_hyperparameters_of_all_trials_stand_in_one_table(browser: Any, address: str) -> None:  # noqa: F811
    page = tab(browser, address, "hparams", "text=alpha_maml-000")
    matching = page.locator("text=Number of matching session groups").first.inner_text()
    assert int(matching.rpartition(":")[2]) >= 500
    heads = page.locator("[role=columnheader], vaadin-grid-cell-content").all_inner_texts()
    headings = " ".join(heads)
    for column in ("algorithm", "multi_step_fraction", "alpha_lr", "accuracy/meta_validation"):
        assert column in headings
    page.close()


def test_charts_are_laid_out_with_bands(browser: Any, address: str) -> None:  # noqa: F811
    titles = ("text=accuracy with its interval", "text=best so far")
    page = tab(browser, address, "custom_scalars", *titles, runs="_search%7C_final")
    page.locator("text=/Matches \\([1-9]/").nth(1).wait_for(timeout=PATIENCE * 1000)
    assert page.locator("text=/Matches \\([1-9]/").count() >= 4  # of a chart, by how many runs have its tags
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/custom_scalars.png")
    page.close()


def test_episodes_are_shown_with_predictions(browser: Any, address: str) -> None:  # noqa: F811
    page = tab(browser, address, "images", "text=episode/1", "img[src*='individualImage']", runs="_final")
    widths = "(images) => images.map((image) => image.naturalWidth)"
    images = page.locator("img[src*='individualImage']")
    deadline = time.monotonic() + PATIENCE
    while not all(images.evaluate_all(widths)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert min(images.evaluate_all(widths)) > 200
    page.close()


def test_texts_are_tables_that_fit(browser: Any, address: str) -> None:  # noqa: F811
    page = tab(
        browser,
        address,
        "text",
        "text=run card",
        "td >> text=tasks of a full run",
        runs="leaderboard%7C%5C.$",
    )
    headings = page.locator("th", has_text="Algorithm").first
    assert headings.evaluate("(cell) => cell.clientHeight") < 60  # a line or two: no word is broken
    page.close()


def test_learned_rates_are_histograms(browser: Any, address: str) -> None:  # noqa: F811
    page = tab(browser, address, "histograms", "text=lr/inner_rates", runs="_final")
    page.close()


@pytest.mark.parametrize(
    ("name", "shown", "runs"),
    [
        ("scalars", "text=spent", "_search"),
        ("distributions", "text=lr/inner_rates", "_final"),
        ("timeseries", "text=Settings", ""),
    ],
)
def test_the_other_tabs_show_what_they_are_for(
    browser: Any,  # noqa: F811
    address: str,
    name: str,
    shown: str,
    runs: str,
) -> None:
    tab(browser, address, name, shown, runs=runs).close()
