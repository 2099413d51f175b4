"""That a search within a time keeps to it, and goes on with what it chose."""

from __future__ import annotations

import heapq
import random
import time
from pathlib import Path

import pytest
from PIL import Image

from metabench.core import MetabenchError, Splits
from metabench.core.config import NetworkConfig, SearchSpace, TaskConfig, n_variants
from metabench.data.sets import folder
from metabench.nets import at_hand
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import CONTINUE, Ledger
from metabench.search.journal.rule import decide
from metabench.search.propose.searcher import FINISHED, FairSearcher
from metabench.search.space import automatic
from metabench.search.space.automatic import Pace, Time, Timing
from metabench.search.stages import automatic as stage
from tests.search.played import make_report
from tests.search.space.test_automatic import PACES
from tests.support import backbone, small

STARTED = 30.0
"""Seconds until the first trial."""


def space_of(seconds: float, slots: int) -> SearchSpace:
    time_ = Time(seconds, 20.0, slots)
    space = automatic.choose(TaskConfig(dataset="glyphs"), NetworkConfig(), time_, PACES)
    return space.model_copy(update={"budget": space.budget.model_copy(update={"sampler": "random"})})


def play(
    place: Path, space: SearchSpace, slots: int, slowness: float, clock: list[float], seconds: float
) -> Ledger:
    """Run a search's trials on a clock, each task so many times as long as was measured."""
    ledger = Ledger(place, keep=2)
    timing = Timing(seconds, {name: PACES[name][:2] for name in space.algorithms}, begun=0.0)
    deadline = stage.deadline(space, ledger, slots, timing)
    searcher = FairSearcher(space, ledger, 0, has_room=deadline.has_room)
    rng, running, number = random.Random(0), [], 0

    def go_on(trial_id: str, name: str) -> None:
        trial = ledger.trials[name]
        rung = next(rung for rung in searcher.rungs if rung > trial.tasks_seen)
        pace = PACES[trial.algorithm]
        validated = space.budget.validation_tasks * pace.evaluation
        beginning = 0.0 if trial.reports else automatic.JOB
        took = slowness * ((rung - trial.tasks_seen) * pace.training + validated + beginning)
        heapq.heappush(running, (clock[0] + took, trial_id, name, rung, trial.seconds + took))

    while True:
        while len(running) < slots and isinstance(proposed := searcher.suggest(f"id-{number}"), dict):
            go_on(f"id-{number}", proposed["trial"])
            number += 1
        if not running:
            assert searcher.suggest("last") == FINISHED
            searcher.finish()
            return ledger
        clock[0], trial_id, name, rung, spent = heapq.heappop(running)
        report = make_report(rung, rng.random(), spent)
        if decide(ledger, space.budget, name, report, deadline.has_room) == CONTINUE:
            go_on(trial_id, name)
        else:
            searcher.hand_back(trial_id)


@pytest.mark.parametrize("slowness", [0.6, 1.0, 1.5])
@pytest.mark.parametrize(("seconds", "slots"), [(180, 2), (600, 2), (1800, 2), (900, 8)])
def test_a_search_keeps_to_its_time_whatever_speed_the_machine_turns_out_to_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowness: float, seconds: float, slots: int
) -> None:
    space = space_of(seconds, slots)
    clock = [STARTED]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    ledger = play(tmp_path, space, slots, slowness, clock, seconds)
    tried = [ledger.candidates(name) for name in space.algorithms]
    assert all(tried)
    variants = [1 if best.is_default else n_variants(space.budget) for best, *_ in tried]
    runs = zip(space.algorithms, variants, strict=True)
    after = [automatic.after(space.budget, PACES[name], n * space.budget.seeds) for name, n in runs]
    total = clock[0] + automatic.ENDING + slowness * sum(after) / slots
    assert 0.8 * seconds <= total <= 1.2 * seconds


def test_what_trials_took_before_a_stop_counts(tmp_path: Path) -> None:
    space = space_of(600, 2)
    ledger = Ledger(tmp_path, keep=2)
    searcher = FairSearcher(space, ledger, 0)
    config = searcher.suggest("id")
    assert isinstance(config, dict)
    decide(ledger, space.budget, config["trial"], make_report(searcher.rungs[0], 0.5, 100.0))
    assert stage.deadline(space, ledger, 2, Timing(600, PACES, 1000.0)).timing.begun == 950.0


def pictures(place: Path, n_classes: int, size: tuple[int, int] = (40, 50), mode: str = "L") -> Path:
    """Write a folder of classes of four pictures."""
    rng = random.Random(0)
    for number in range(n_classes):
        (place / f"class{number}").mkdir(parents=True)
        for k in range(4):
            image = Image.new(mode, size, rng.choice(["red", "blue"]) if mode == "RGB" else 7 * number + k)
            image.save(place / f"class{number}" / f"{k}.png")
    return place


def test_a_folder_is_looked_at(tmp_path: Path) -> None:
    def survey(place: Path) -> folder.Survey:
        return folder.survey(None, folder.Options(path=str(place)))

    assert survey(pictures(tmp_path / "grey", 8)) == folder.Survey(8, 40, 1)
    assert survey(pictures(tmp_path / "colour", 7, (300, 200), "RGB")) == folder.Survey(7, 200, 3)
    pictures(tmp_path / "split/train", 3)
    pictures(tmp_path / "split/val", 2)
    assert survey(tmp_path / "split") == folder.Survey(None, 40, 1)


def test_a_folder_of_two_classes_gets_rows_of_a_backbone_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    described = backbone.network(backbone.weights(tmp_path / "weights.safetensors"))
    for name in ("LEAST", "MOST"):  # seconds of measuring a learner
        monkeypatch.setattr(stage, name, 0.05)
    monkeypatch.setattr(at_hand, "backbone", lambda: NetworkConfig.model_validate(described))
    place = backbone.photographs(tmp_path / "photographs", n_classes=2, n_pictures=14)
    asked = {"dataset": "folder", "options": {"path": str(place)}}
    space, timing, lines = stage.choose(asked, 1800, time.monotonic(), 1)
    assert space.task.options["split_by"] == "pictures"
    assert {*space.algorithms} >= {"protonet", *automatic.ON_FEATURES}
    assert {*timing.paces} == {*space.algorithms}
    assert len(lines) == 5
    assert "2 classes, each with" in lines[0]
    assert "tests.support.backbone:make, frozen" in lines[2]
    assert space.network_of("logistic.backbone").freeze == "all"


def test_a_folder_that_cannot_be_looked_at_says_which_to_give(tmp_path: Path) -> None:
    place = pictures(tmp_path / "above/classes", 8)
    (tmp_path / "damaged.zip").write_bytes(b"PK nonsense")
    (tmp_path / "empty/class0").mkdir(parents=True)
    messages = {
        tmp_path / "above": f"give path='{place}'",
        place / "class0": f"give the folder above it, path='{place}'",
        tmp_path / "damaged.zip": "damaged.zip .* is truncated or damaged",
        tmp_path / "empty": "holds no image; give the folder that holds the folders of classes",
    }
    for path, message in messages.items():
        with pytest.raises(MetabenchError, match=message):
            folder.survey(None, folder.Options(path=str(path)))


def test_speeds_and_long_times_are_written_plainly() -> None:
    slow = {name: Pace(4.0, 1.0, 4.0) for name in automatic.LEARNERS}
    long = Time(1000 * 3600.0, 20, 2)
    space = automatic.choose(small.TASK, NetworkConfig(width=4), long, slow)
    lines = "\n".join(automatic.describe(space, "", long, slow, [*slow]))
    assert "0.25 tasks a second" in lines
    assert "time: 60,000 min" in lines


def recorded(place: Path, splits: Splits) -> tuple[SearchSpace, Timing]:
    space = automatic.choose(small.TASK, NetworkConfig(width=4), Time(600, 20, 2), PACES)
    timing = Timing(600.0, {name: PACES[name][:2] for name in space.algorithms}, 0.0)
    create_or_resume(place, space, splits, seed=0, timing=timing.record)
    return space, timing


def test_the_same_command_goes_on_with_the_space_that_was_chosen(tmp_path: Path) -> None:
    space, timing = recorded(tmp_path / "mine", small.splits())
    asked = {"dataset": "small", "options": {}}
    again = stage.recorded(tmp_path / "mine", None, asked, 600.0, begun=7.0)
    assert again is not None
    assert again[0] == space
    assert again[1].record == timing.record
    assert again[1].begun == 7.0
    assert stage.recorded(tmp_path / "other", None, asked, 600.0, 7.0) is None


@pytest.mark.parametrize(
    ("asked", "seconds", "message"), [({"way": 4}, 600.0, "another way"), ({}, 300.0, "another time")]
)
def test_another_command_is_refused_and_not_taken_for_it(
    tmp_path: Path, asked: dict[str, object], seconds: float, message: str
) -> None:
    recorded(tmp_path, small.splits())
    with pytest.raises(MetabenchError, match=message):
        stage.recorded(tmp_path, None, {"dataset": "small", "options": {}, **asked}, seconds, 0.0)


def test_a_search_that_no_time_chose_is_refused(tmp_path: Path) -> None:
    create_or_resume(tmp_path, space_of(600, 2), small.splits(), seed=0)
    with pytest.raises(MetabenchError, match="`time` did not choose"):
        stage.recorded(tmp_path, None, {"dataset": "glyphs"}, 600.0, 0.0)
