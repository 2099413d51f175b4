"""The script that compares ways of searching on recorded curves, on curves that can be followed by hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metabench.core.config import SearchSpace
from metabench.search.replay.curves import Curve, Point
from metabench.search.replay.simulate import Incumbent
from tests.cli.test_simulations import SPACE
from tests.search.recorded import curve, many, only_maml, write

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("efficiency")


@pytest.fixture
def space() -> SearchSpace:
    return only_maml(SearchSpace.model_validate(SPACE), trials=4, reduction_factor=2)


def test_until_a_good_setting_leads(script: ModuleType) -> None:
    search = script.Search(
        [Incumbent("a", 5, 50, 5), Incumbent("b", 9, 90, 9), Incumbent("a", 12, 120, 12)], 200, 20
    )
    assert script.until_found(search, {"b", "c"}) == (9, 90)
    assert script.until_found(search, {"c"}) is None
    true = {"a": 0.5, "b": 0.75}
    assert [script.shortfall(search, seconds, true, 1.0) for seconds in (5, 9, 11, 20)] == [
        0.5,
        0.25,
        0.25,
        0.5,
    ]


def test_the_tables_have_every_way_and_an_equal_way_has_ratio_one(
    script: ModuleType,
    space: SearchSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "some.jsonl"
    write(path, space, [curve("maml-000", [0.2, 0.2, 0.2]), *many(11, seed=0)])
    monkeypatch.setattr(sys, "argv", ["efficiency.py", str(path), "--repeats", "4", "--decks", "2"])
    assert script.main() == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [
        line.split(" | ")
        for line in lines
        if line.startswith("| ") and not line.startswith(("| search", "| share"))
    ]
    tables = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    assert len(rows) == 3 * 8
    assert all([row[0] for row in table] == [row[0] for row in tables[0]] for table in tables)
    assert tables[0][7][0] == "| random, full budget"
    assert (
        tables[0][7][1] == "4 of 4"
    )  # all are trained to the end, and validated on the very tasks that count
    assert tables[0][7][5] == "1.00 [1.00, 1.00]"
    assert 0 < float(tables[2][7][1].split()[0]) <= 1  # random has its regret after 8 runs by then


def test_regret_is_on_tasks_that_no_search_sees(script: ModuleType) -> None:
    last = Point(9, 1.0, 0.1, 0.5, (0.0, 0.2, 0.9, 0.7))
    seen = Curve("a", {}, (last,), "complete")
    assert script.unseen_scores([seen], 2) == pytest.approx({"a": 0.8})
    assert script.unseen_scores([seen._replace(points=(last._replace(per_task=()),))], 2) == {"a": 0.5}
