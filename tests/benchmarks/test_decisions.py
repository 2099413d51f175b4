"""The script that times decisions: what it decides is what a search decides."""

from __future__ import annotations

import importlib

import pytest

from tests.benchmarks.test_efficiency import FOLDER


@pytest.mark.parametrize("scheduler", ["asha", "freeze_thaw"])
def test_a_driver_grows_and_decides(monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("decisions")
    driver = script.Driver(scheduler, 20)
    driver.grow(20)
    n_reports = sum(len(trial.reports) for trial in driver.ledger.trials.values())
    assert n_reports == 20 + 7 + 3
    for number in range(6):
        driver.step(number)
    assert sum(len(trial.reports) for trial in driver.ledger.trials.values()) == n_reports + 6
    assert any(event != "proposed" for event, *_ in driver.ledger.history)
    assert all(seconds >= 0 for seconds in script.measure(scheduler, 20, 2))
