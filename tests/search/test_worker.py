"""A trial in its worker: stopped anywhere, it goes on as if nothing had been."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metabench import data
from metabench.core import MetabenchError, OutOfOrder
from metabench.core.config import NetworkConfig, SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import WORK, Ledger
from metabench.search.ray import worker
from metabench.search.ray.scheduler import FATAL, NOTE, PROBLEM
from metabench.storage import files
from metabench.training import loop
from tests.support import small

NAME = "maml-000"


@pytest.fixture
def tiny(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    """Return a space whose trials report after 8, 16 and 32 tasks of the small data set."""
    monkeypatch.setattr(worker, "prepare", lambda: "cpu")
    monkeypatch.setattr(worker, "splits", lambda task, network, place: small.splits())
    changed = {"tasks": 32, "grace": 8, "reduction_factor": 2, "validation_tasks": 6}
    budget = space.budget.model_copy(update=changed)
    return space.model_copy(update={"budget": budget, "task": small.TASK})


def run(
    folder: Path,
    space: SearchSpace,
    stop_after: int,
    notes: list[str] | None = None,
    problems: list[dict[str, Any]] | None = None,
    **values: Any,
) -> list[dict[str, Any]]:
    """Run the trial until it has told a number of reports, and return what it told."""
    reports: list[dict[str, Any]] = []
    notes = [] if notes is None else notes
    problems = [] if problems is None else problems

    def report(metrics: dict[str, Any]) -> None:
        if {PROBLEM, FATAL} & metrics.keys():
            problems.append(metrics)
            raise SystemExit
        notes.extend([metrics[NOTE]] if NOTE in metrics else [])
        reports.append(json.loads(metrics["report"]))
        if len(reports) == stop_after:
            raise SystemExit  # how Tune stops a function

    sampled = {**spaces.of(space, "maml").published[0], **values}
    hyperparameters = {**spaces.of(space, "maml").resolve(sampled), "task_batch_size": 4}
    config = {"algorithm": "maml", "trial": NAME, "hyperparameters": hyperparameters, "seed": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.tune, "report", report)
        try:
            worker.run_trial(config, str(folder), space.model_dump(mode="json"))
        except SystemExit:
            assert problems or len(reports) == stop_after
    return reports


def numbers(reports: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    keys = ("tasks_seen", "finite", "val_accuracy", "val_ci", "val_loss", "train_accuracy", "train_loss")
    return [tuple(report[key] for key in keys) for report in reports]


def test_a_report_tells_the_score_of_every_task_and_leaves_it_in_the_trials_own_file(
    tmp_path: Path, tiny: SearchSpace
) -> None:
    reports = run(tmp_path, tiny, stop_after=9)
    assert [len(report["val_scores"]) for report in reports] == [tiny.budget.validation_tasks] * 3
    for report in reports:
        assert statistics.fmean(report["val_scores"]) == pytest.approx(report["val_score"], abs=1e-6)
    assert reports == files.read_lines(tmp_path / WORK / NAME / files.REPORTS)
    ledger = Ledger(tmp_path, keep=1)
    assert ledger.task_scores(NAME, 16) == reports[1]["val_scores"]
    assert ledger.task_scores(NAME, 17) == ledger.task_scores("maml-999", 16) == []


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_trial_repeats_its_reports_and_goes_on_bit_for_bit(
    tmp_path: Path, tiny: SearchSpace, stop_after: int
) -> None:
    whole = run(tmp_path / "whole", tiny, stop_after=9)
    assert [report["tasks_seen"] for report in whole] == [8, 16, 32]
    first = run(tmp_path / "stopped", tiny, stop_after)
    again = run(tmp_path / "stopped", tiny, stop_after=9)
    assert again[:stop_after] == first  # the very same, seconds too: nothing was computed again
    assert numbers(again) == numbers(whole)
    events = EventAccumulator(str(tmp_path / "stopped" / files.TENSORBOARD / "maml" / NAME))
    events.Reload()
    for tag in ("accuracy/meta_validation", "loss/meta_train"):
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps))
        assert steps[-1] == 32


def test_a_kill_between_report_and_state_makes_the_report_again(
    tmp_path: Path, tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", tiny, stop_after=9)
    run(tmp_path / "killed", tiny, stop_after=1)
    save_state = loop.save_state

    def kill(folder: Path, state: loop.State) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", kill)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", tiny, stop_after=9)
    work = tmp_path / "killed" / WORK / NAME
    assert [line["tasks_seen"] for line in files.read_lines(work / files.REPORTS)] == [8, 16]
    monkeypatch.setattr(loop, "save_state", save_state)
    assert numbers(run(tmp_path / "killed", tiny, stop_after=9)) == numbers(whole)
    assert [line["tasks_seen"] for line in files.read_lines(work / files.REPORTS)] == [8, 16, 32]


def test_a_trial_that_lost_its_state_starts_anew(tmp_path: Path, tiny: SearchSpace) -> None:
    first = run(tmp_path, tiny, stop_after=2)
    shutil.rmtree(tmp_path / WORK / NAME / files.STATE)
    assert numbers(run(tmp_path, tiny, stop_after=2)) == numbers(first)


def test_a_damaged_state_is_noticed_told_and_trained_again_to_the_same_numbers(
    tmp_path: Path, tiny: SearchSpace
) -> None:
    whole = run(tmp_path / "whole", tiny, stop_after=9)
    run(tmp_path / "damaged", tiny, stop_after=2)
    states = tmp_path / "damaged" / WORK / NAME / files.STATE
    last = states / loop.STATES[0]
    content = bytearray(last.read_bytes())
    content[-5] ^= 16  # a bit of some weight, which nothing but a checksum shows
    last.write_bytes(content)
    notes: list[str] = []
    assert numbers(run(tmp_path / "damaged", tiny, stop_after=9, notes=notes)) == numbers(whole)
    assert len(notes) == 1
    assert notes[0].startswith(f"{last}: is damaged")
    assert notes[0].endswith("trained again from 8 tasks")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OutOfOrder("other data")])
def test_what_is_out_of_order_is_told_as_no_failure_of_the_trial(
    tmp_path: Path, tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(loop, "save_state", fail)
    context = SimpleNamespace(get_node_id=lambda: "node-1")
    monkeypatch.setattr(worker.ray, "get_runtime_context", lambda: context)
    problems: list[dict[str, Any]] = []
    assert run(tmp_path, tiny, stop_after=9, problems=problems) == []
    assert problems == [{"tasks_seen": 0, PROBLEM: str(error), "node": "node-1"}]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"), MetabenchError("no")],
)
def test_what_would_fail_again_anywhere_is_told_with_its_reason(
    tmp_path: Path, tiny: SearchSpace, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train", fail)
    problems: list[dict[str, Any]] = []
    run(tmp_path, tiny, stop_after=9, problems=problems)
    (report,) = problems
    wanted = "no" if isinstance(error, MetabenchError) else "out of memory: "
    assert report[FATAL].startswith(wanted)


def test_a_worker_refuses_data_and_code_that_are_not_those_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = small.splits()
    monkeypatch.setattr(data, "load", lambda task: loaded)
    space = {"task": {"options": {}}}
    right: dict[str, Any] = {
        "data_fingerprint": loaded.fingerprint,
        "code": files.code_hash(),
        "space": space,
    }
    for key, value in {"": "", "data_fingerprint": "f" * 64, "code": "0" * 16}.items():
        place = tmp_path / (key or "right")
        files.write_json(place / files.SEARCH, {**right, key: value})
        if not key:
            assert worker.splits(small.TASK, NetworkConfig(), str(place)) is loaded
            continue
        with pytest.raises(
            OutOfOrder, match=f"not the search's {key}: {right[key][:12]} there, {value[:12]}"
        ):
            worker.splits(small.TASK, NetworkConfig(), str(place))
    with pytest.raises(OutOfOrder, match="is not seen from there"):
        worker.splits(small.TASK, NetworkConfig(), str(tmp_path / "nowhere"))

    def fail(task: object) -> None:
        raise MetabenchError("no such images")

    monkeypatch.setattr(data, "load", fail)
    worker._load.cache_clear()
    with pytest.raises(OutOfOrder, match="no such images"):
        worker.splits(small.TASK, NetworkConfig(), str(tmp_path / "right"))


def test_a_trial_that_diverges_says_so_once_and_ends(tmp_path: Path, tiny: SearchSpace) -> None:
    wide = {"inner_lr": {"low": 0.01, "high": 1e18, "log": True, "default": 0.1}, "outer_optimizer": "sgd"}
    hot = SearchSpace.model_validate(
        {**tiny.model_dump(), "shared": {**wide, "outer_lr": 1e30, "inner_steps": 5}}
    )
    lines = run(tmp_path, hot, stop_after=9, inner_lr=1e18)
    assert [report["finite"] for report in lines] == [False]
    assert lines[0]["val_accuracy"] is None
    assert run(tmp_path, hot, stop_after=9, inner_lr=1e18) == lines  # a restart trains on from no such state
