"""The script that times decisions: what it decides is what a search decides."""

from __future__ import annotations

import importlib

import pytest

from tests.benchmarks.test_efficiency import FOLDER


@pytest.mark.parametrize("scheduler", ["asha", "freeze_thaw"])
def test_a_driver_grows_and_decides(monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("decisions")
    driver = script.Driver(20)
    assert len(driver.ledger.trials) == 20
    driver.change(scheduler=scheduler, trials=80)

    def n_reports() -> int:
        return sum(len(trial.reports) for trial in driver.ledger.trials.values())

    before = n_reports()
    for _ in range(6):
        driver.step()
    assert n_reports() == before + 6
    assert {trial.state for trial in driver.ledger.trials.values()} >= {"waiting", "running"}
    assert len(script.measure(scheduler, 20, 2)) == 2
