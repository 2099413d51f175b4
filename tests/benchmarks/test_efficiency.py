"""The script that compares ways of searching on recorded curves, on curves that can be followed by hand."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metabench.core.config import SearchSpace
from metabench.core.metrics import METRICS
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
        if line.startswith("| ") and not line.startswith(("| search", "| share", "| points"))
    ]
    tables = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    assert len(rows) == 3 * 8
    assert all([row[0] for row in table] == [row[0] for row in tables[0]] for table in tables)
    assert tables[0][7][0] == "| random, full budget"
    assert (
        tables[0][7][1] == "4 of 4"
    )  # all are trained to the end, and validated on the very tasks that count
    assert tables[0][7][5] == "1.00 [1.00, 1.00]"
    assert 0 < float(tables[1][7][1].split()[0]) <= 1  # random has its regret after 8 runs by then
    assert len(tables[2][7][1].split(", ")) == 5


def test_at_equal_spend_a_search_has_what_it_named_by_then(script: ModuleType) -> None:
    one, other = Incumbent("a", 1, 10, 10.0), Incumbent("b", 2, 20, 20.0)
    searches = {
        script.PAUSING: script.Search([one], 10, 12.0),
        "longer": script.Search([one, other], 99, 99.0),
    }
    deck = script.Deck(searches, {"a": 0.5, "b": 0.75}, 10.0)
    spent = script.equal_spend([deck], METRICS["accuracy"])
    # After one run of 10 seconds both name a; after two, the longer search b, but pausing has ended after 12.
    assert spent == {script.PAUSING: [25.0] * 5, "longer": [25.0, 0.0, 0.0, 0.0, 25.0]}


def test_several_workers_have_a_table_of_accelerator_time_and_of_time(
    script: ModuleType, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.jsonl"
    write(path, space, many(11, seed=0))
    monkeypatch.setattr(sys, "argv", ["efficiency.py", str(path), "--decks", "2", "--workers", "1", "4"])
    options = script.options_of(argparse.ArgumentParser())
    assert script.RECORDED
    changes = {
        name: getattr(options, name) for name in ("trials", "grace", "reduction_factor", "validation_tasks")
    }
    recording = script.curves.read([path])
    random = script.regrets(list(script.decks(recording, changes, 1, 2)))[script.RANDOM]
    *_, last = script.workers_table(recording, changes, options, random).splitlines()
    workers, title, accelerator, wall = last.strip("| ").split(" | ")
    assert (workers, title) == ("4", script.RANDOM)
    assert float(wall) < float(accelerator) <= 1


def test_regret_is_on_tasks_that_no_search_sees(script: ModuleType) -> None:
    last = Point(9, 1.0, 0.1, 0.5, (0.0, 0.2, 0.9, 0.7))
    seen = Curve("a", {}, (last,), "complete")
    decks = importlib.import_module("decks")
    assert decks.unseen_scores([seen], 2) == pytest.approx({"a": 0.8})
    assert decks.unseen_scores([seen._replace(points=(last._replace(per_task=()),))], 2) == {"a": 0.5}


def test_of_a_setting_that_was_trained_twice_one_is_searched_and_the_mean_is_true(
    script: ModuleType, space: SearchSpace, tmp_path: Path
) -> None:
    path = tmp_path / "some.jsonl"
    write(path, space, many(8, seed=0))
    once = script.curves.read([path])
    (recorded,) = once.curves.values()
    higher = [tuple(point._replace(per_task=(0.9,) * 10) for point in one.points) for one in recorded]
    twice = [one._replace(again=(points,)) for one, points in zip(recorded, higher, strict=True)]
    some, deck = script.cut(once._replace(curves={"maml": tuple(twice)}), 0, 5)
    searched = [one.points[-1].per_task == (0.9,) * 10 for one in some.curves["maml"]]
    assert {*searched} == {True, False}
    means = {one.name: (one.points[-1].score + 0.9) / 2 for one in recorded}
    assert deck.true == pytest.approx({name: means[name] for name in deck.true})


def test_small_searches_of_both_rules_are_compared(
    script: ModuleType,
    space: SearchSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "some.jsonl"
    write(path, space, many(11, seed=0))
    small = importlib.import_module("small_searches")
    words = ["--decks", "3", "--trials", "3", "--runs", "2", "--validation-tasks", "5"]
    monkeypatch.setattr(sys, "argv", ["small_searches.py", str(path), *words])
    assert small.main() == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if "[" in line]
    assert [row[0] for row in rows] == ["3 trials", "2 full runs"]
    for _, asha, freeze_thaw, lost, spent in rows:
        assert float(lost.split()[0]) == pytest.approx(float(freeze_thaw) - float(asha), abs=0.011)
        assert all(float(one) <= 3 for one in spent.split(", "))
