"""The command `metabench simulate`: what it prints, for people and programs, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from metabench import stats
from metabench.cli import app
from metabench.core.config import SearchSpace
from metabench.search.replay import curves, outcomes
from metabench.search.replay.scenario import describe
from metabench.search.replay.simulate import play
from tests.search.recorded import curve, many, only_maml, recording, write

SPACE: dict[str, Any] = {
    "task": {"dataset": "glyphs"},
    "budget": {"tasks": 900, "trials": 12, "grace": 100, "validation_tasks": 10, "scheduler": "asha"},
    "shared": {
        "inner_lr": {"low": 0.01, "high": 1.0, "log": True, "default": 0.1},
        "inner_steps": {"low": 1, "high": 5, "default": 1},
    },
    "algorithms": {"maml": {}},
}


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.model_validate(SPACE)


@pytest.fixture
def file(tmp_path: Path, space: SearchSpace) -> Path:
    path = tmp_path / "some.jsonl"
    write(path, space, [curve("maml-000", [0.2, 0.2, 0.2]), *many(11, seed=0)])
    return path


def simulate(*args: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *(str(arg) for arg in args)])


def as_json(*args: object) -> Any:
    result = simulate(*args, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_the_same_seed_tells_the_same_in_another_process(file: Path) -> None:
    arguments = ["simulate", str(file), "--repeats", "3", "--seed", "4", "--workers", "2", "--json"]
    code = "import sys; from metabench.cli import app; app(sys.argv[1:])"
    other = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    simulated = as_json(*arguments[1:-1])
    assert json.loads(other.stdout) == simulated
    assert len({line["seconds"] for line in simulated["replays"]}) > 1  # seeds differ
    alone = as_json(file, "--repeats", 1, "--seed", 5, "--workers", 2)
    assert alone["replays"] == [line for line in simulated["replays"] if line["seed"] == 5]


def test_what_is_told_is_what_the_replays_give(file: Path) -> None:
    simulated = as_json(file, "--reduction-factor", 2, "--repeats", 4, "--sampler", "random")
    recorded = curves.read([file])
    meant = describe(recorded, {"reduction_factor": 2, "sampler": "random"})
    assert simulated["budget"]["rungs"] == meant.rungs == [100, 300, 900]
    assert simulated["budget"]["reduction_factor"] == 2
    (summary,) = simulated["algorithms"]
    replays = [play(recorded, meant, seed) for seed in range(4)]
    assert [line["tasks"] for line in simulated["replays"]] == [one.ledger.tasks("maml") for one in replays]
    interval = stats.mean_interval([one.seconds["maml"] for one in replays])
    assert summary["seconds"] == pytest.approx(interval.mean)
    assert summary["seconds_ci"] == pytest.approx([interval.low, interval.high])


def test_the_best_is_found_when_the_leader_is_as_good_at_full_budget(space: SearchSpace) -> None:
    last = [
        curve("a", [0.3, 0.4, 0.5]),  # 9 seconds
        curve("b", [0.2, 0.7, 0.9]),  # pruned at once
        curve("c", [0.4, 0.5, 0.894]),  # 9 more: within a point of b
        curve("d", [0.5, 0.6, 0.898]),  # 9 more: within half a point
    ]
    made = recording(only_maml(space, trials=4), last)
    one = describe(made, {"sampler": "recorded", "pause": False})
    replay = play(made, one, 0)
    by_margin = {
        within: outcomes.outcome(made, one, replay, "maml", within) for within in (0.005, 0.01, 0.001)
    }
    assert [by_margin[within]["seconds_to_best"] for within in (0.01, 0.005, 0.001)] == [19, 28, None]
    assert [by_margin[within]["tasks_to_best"] for within in (0.01, 0.005, 0.001)] == [1900, 2800, None]
    best = by_margin[0.001]
    assert (best["found"], best["score"], best["best"]) == ("d", 0.898, 0.9)
    assert best["shortfall"] == pytest.approx(0.002)
    assert (best["complete"], best["pruned"], best["full_seconds"]) == (3, 1, 36)
    apart = outcomes.summary([best, {**best, "score": 0.99}], "share")
    assert 0 < apart["score_ci"][0] < 0.5 < apart["score_ci"][1] < 1
    summary = outcomes.summary([best, by_margin[0.005]])
    assert (summary["found_best"], summary["seconds_to_best"], summary["complete"]) == (1, 28, 3)


def test_people_are_told_what_was_moved_played_by_another_and_cut_off(
    tmp_path: Path, space: SearchSpace
) -> None:
    path = tmp_path / "cut.jsonl"
    cut = [one._replace(points=one.points[:2], status=None) for one in many(11, seed=0)]
    write(path, space, [curve("maml-000", [0.2, 0.2, 0.2]), *cut])
    result = simulate(path, "--grace", 150, "--repeats", 2, "--tasks", 800)
    assert result.exit_code == 0
    for part in (
        "maml",
        "trials censored",
        "tasks seen",
        "in so many replays",
        "rungs moved to where scores were recorded: 150 to 100, 450 to 300, 800 to 900",
        "maml: a proposal was played by the nearest recorded setting",
        "trials a replay would have gone on further than they were recorded",
    ):
        assert part in result.stdout, result.stdout
    shorter = simulate(path, "--tasks", 300, "--repeats", 1)
    assert "schedules were recorded falling towards 900 tasks" in shorter.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "13"], "--trials=13: only 12 settings of maml were recorded"),
        (["--workers", "0"], "--workers=0: must be >= 1"),
        (["--tasks", "1000"], "--tasks=1000: must be <= 900"),
        (["--grace", "901"], "grace=901: must be <= tasks=900"),
        (["--validation-tasks", "11"], "--validation-tasks=11: must be <= 10"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["."], ".: holds no search"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = simulate(file, *arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr
