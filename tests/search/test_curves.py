"""Files of curves and folders of searches, read as one thing; and what is no such thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabench.core import MetabenchError
from metabench.core.config import SearchSpace, TaskConfig
from metabench.core.metrics import ERROR
from metabench.core.objectives import OBJECTIVES
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, PRUNED, WORK, Ledger
from metabench.search.journal.rule import decide
from metabench.search.replay import curves
from metabench.search.replay.curves import Point, pack, unpack
from metabench.search.replay.scenario import describe
from metabench.storage import files
from tests.search.played import make_error_report, make_report
from tests.search.recorded import N_TASKS, curve, many, only_maml, recording, write


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n)))))
def test_counts_of_right_answers_come_back_as_they_were(drawn: tuple[int, list[int]]) -> None:
    n_queries, counts = drawn
    scores = [count / n_queries for count in counts]
    packed = pack(scores, n_queries)
    assert unpack(packed, n_queries) == pytest.approx(scores, abs=1e-6)
    if n_queries < len(curves.ALPHABET):
        assert len(packed) == len(counts)
        assert unpack(packed, n_queries) == scores


def test_errors_are_kept_as_numbers() -> None:
    assert unpack(pack([0.25, 3.5], None), None) == [0.25, 3.5]


def test_what_is_written_is_read(tmp_path: Path, space: SearchSpace) -> None:
    space = only_maml(space)
    diverged = curve("maml-001", [0.3, None], DIVERGED)
    written = [curve("maml-000", [0.3, 0.4, 0.5]), diverged, curve("maml-002", [0.2, 0.7], None)]
    write(tmp_path / "some.jsonl", space, written)
    read = curves.read([tmp_path / "some.jsonl"])
    assert (read.space, read.points, read.n_tasks) == (space, (100, 300, 900), N_TASKS)
    for reread, one in zip(read.curves["maml"], written, strict=True):
        assert reread[:2] + reread[3:] == one[:2] + one[3:]
        for point, meant in zip(reread.points, one.points, strict=True):
            assert point[:3] == meant[:3]
            assert point.score == (None if meant.score is None else pytest.approx(meant.score))
            assert len(point.per_task) == (0 if meant.score is None else N_TASKS)


def test_a_folder_of_a_search_is_read_with_all_its_endings(tmp_path: Path, space: SearchSpace) -> None:
    space = only_maml(space)
    files.write_json(
        tmp_path / files.SEARCH,
        {"protocol": 1, "space": space.model_dump(mode="json"), "data_fingerprint": "0"},
    )
    with pytest.raises(MetabenchError, match="no trial has reported yet"):
        curves.read([tmp_path])
    ledger = Ledger(tmp_path, keep=2)
    for _ in range(4):
        ledger.propose("maml", {"inner_lr": 0.1, "inner_steps": 1}, {}, False, 0)
    for name, tasks_seen, score in [
        ("maml-000", 100, 0.5),
        ("maml-001", 100, 0.4),
        ("maml-000", 204, None),
        ("maml-003", 100, 0.6),
        ("maml-003", 300, 0.6),
        ("maml-003", 900, 0.6),
    ]:
        decide(ledger, space.budget, name, make_report(tasks_seen, score, tasks_seen / 100))
    ledger.fail("maml-002", "broken")
    read = curves.read([tmp_path])
    assert [one.status for one in read.curves["maml"]] == [DIVERGED, PRUNED, FAILED, COMPLETE]
    assert read.curves["maml"][0].points == (Point(100, 1, 0, 0.5), Point(204, 2.04, 0, None))
    assert (read.is_per_task, read.n_tasks, read.points) == (False, 10, (100, 300, 900))
    assert describe(read, {}).space.budget.trials == 4  # of nine planned, four were tried
    with pytest.raises(MetabenchError, match=r"validation_tasks=5: the scores of single tasks were not kept"):
        describe(read, {"validation_tasks": 5})


def test_scores_of_single_tasks_come_from_the_trials_own_files(tmp_path: Path, space: SearchSpace) -> None:
    space = only_maml(space, validation_tasks=2, borderline_tasks=4)
    earlier = {"maml": [{"trial": "x", "sampled": {}, "scores": {"900": 0.5}}]}
    record = {
        "protocol": 1,
        "space": space.model_dump(mode="json"),
        "data_fingerprint": "0",
        "known": earlier,
    }
    files.write_json(tmp_path / files.SEARCH, record)
    ledger = Ledger(tmp_path, keep=2)
    name = ledger.propose("maml", {"inner_lr": 0.1, "inner_steps": 1}, {}, False, 0).name
    looked = {"borderline_score": 0.4, "borderline_seconds": 7.0}
    reports = [
        {**make_report(100, 0.3, 1.0 + 7, [0.2, 0.4, 0.5, 0.5]), **looked},
        make_report(300, 0.5, 3.0 + 7, [0.4, 0.6]),
    ]
    files.write_lines(tmp_path / WORK / name / files.REPORTS, reports)
    for report in reports:
        decide(ledger, space.budget, name, report)
    read = curves.read([tmp_path])
    assert read.curves["maml"][0].points == (
        Point(100, 1, 0, 0.3, (0.2, 0.4)),
        Point(300, 3, 0, 0.5, (0.4, 0.6)),
    )
    assert (read.is_per_task, read.earlier) == (True, earlier)
    described = describe(read, {})
    assert described.notes == ("no second look at 4 tasks: not every trial's were recorded",)
    assert described.space.budget.borderline_tasks is None
    with pytest.raises(MetabenchError, match=r"borderline_tasks=4: must be <= 2, those recorded"):
        describe(read, {"borderline_tasks": 4})


def test_rungs_that_a_space_lists_give_way_to_a_grace(space: SearchSpace) -> None:
    made = recording(only_maml(space, trials=3, rungs=[300, 900]), many(3, seed=0))
    assert describe(made, {}).rungs == [300, 900]
    assert describe(made, {"grace": 100}).rungs == [100, 300, 900]
    assert describe(made, {"scheduler": "top_k"}).rungs == [100, 900]


def test_of_errors_the_lowest_is_the_best(tmp_path: Path, space: SearchSpace) -> None:
    space = only_maml(space).model_copy(update={"task": TaskConfig(dataset="sinusoid", way=1, shot=5)})
    files.write_json(
        tmp_path / files.SEARCH,
        {"protocol": 1, "space": space.model_dump(mode="json"), "data_fingerprint": "0"},
    )
    ledger = Ledger(tmp_path, 2, OBJECTIVES["regression"])
    ledger.propose("maml", {"inner_lr": 0.1, "inner_steps": 1}, {}, False, 0)
    decide(ledger, space.budget, "maml-000", make_error_report(900, 0.25))
    folder = curves.read([tmp_path])
    write(tmp_path / "errors.jsonl", space, [curve("maml-000", [0.5, 0.3, 0.2])], kind="regression")
    file = curves.read([tmp_path / "errors.jsonl"])
    assert folder.objective.metric == file.objective.metric == ERROR
    assert [point.score for point in folder.curves["maml"][0].points] == [-0.25]
    assert [point.score for point in file.curves["maml"][0].points] == pytest.approx([-0.5, -0.3, -0.2])


def test_algorithms_of_several_files_are_played_together(tmp_path: Path, space: SearchSpace) -> None:
    maml = only_maml(space)
    fomaml = space.model_copy(update={"algorithms": {"fomaml": {}}})
    first, second, third = (tmp_path / f"{name}.jsonl" for name in "abc")
    write(first, maml, many(3, seed=0))
    write(second, fomaml, many(2, seed=1), algorithm="fomaml")
    write(third, maml, many(2, seed=2))
    read = curves.read([first, second, third])
    assert list(read.space.algorithms) == ["maml", "fomaml"]
    names = [one.name for one in read.curves["maml"]]
    assert names == ["maml-000", "maml-001", "maml-002", f"{third}/maml-000", f"{third}/maml-001"]
    write(second, fomaml, many(2, seed=1), algorithm="fomaml", data_fingerprint="1")
    with pytest.raises(MetabenchError, match=r"b.jsonl: differs from .*a.jsonl in fingerprint"):
        curves.read([first, second])
    with pytest.raises(MetabenchError, match="given twice"):
        curves.read([first, second, first])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curves": 2}, "has format 2; this version reads 1"),
        ({"kind": "poetry"}, "is no file of curves"),
        ({"space": {"budget": {}}}, r"is no file of curves \(.*task"),
        ({"queries": 0}, "is no file of curves .*queries are not told"),
        ({"validation_tasks": 9}, "setting 0 has scores of 10 tasks"),
    ],
)
def test_a_file_that_is_broken_is_one_message(
    tmp_path: Path, space: SearchSpace, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "some.jsonl"
    write(path, only_maml(space), many(2, seed=0))
    header, *lines = files.read_lines(path)
    files.write_lines(path, [header | change, *lines])
    with pytest.raises(MetabenchError, match=message):
        curves.read([path])


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", "poem\n", '{"curves": 1}\n'])
def test_what_is_no_file_of_curves_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(text)
    with pytest.raises(MetabenchError, match=r"some.jsonl: (is no file of curves|line 1 is not JSON)"):
        curves.read([path])


def test_rungs_move_to_where_scores_were_recorded(space: SearchSpace) -> None:
    made = recording(only_maml(space, trials=3), many(3, seed=0), (100, 250, 300, 500, 900))
    moved = describe(made, {"reduction_factor": 2})  # 100, 200, 400, 800 and 900
    assert moved.rungs == [100, 250, 500, 900]
    assert moved.moved == ((200, 250), (400, 500), (800, 900))
    assert describe(made, {"grace": 1, "reduction_factor": 900}).rungs == [100, 900]
    shorter = describe(made, {"tasks": 310})
    assert shorter.rungs == [100, 300]  # the grace keeps its share: 34, 102
    assert shorter.space.budget.tasks == 300  # where a trial is complete


def test_everything_wrong_with_a_plan_comes_in_one_message(space: SearchSpace) -> None:
    made = recording(only_maml(space), many(3, seed=0))._replace(is_per_task=True)
    changes = {"trials": 4, "tasks": 901, "validation_tasks": 11}
    with pytest.raises(MetabenchError) as caught:
        describe(made, changes, 0)
    lines = str(caught.value).splitlines()
    settings = ["workers=0", "trials=4", "tasks=901", "validation_tasks=11"]
    assert [line.partition(":")[0] for line in lines] == settings
    with pytest.raises(MetabenchError, match=r"reduction.factor=1"):
        describe(made, {"reduction_factor": 1})
