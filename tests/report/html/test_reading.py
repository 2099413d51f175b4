"""What a report is drawn from agrees with the ledger, and reading it changes nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabench.report.html import reading
from metabench.report.html.pictures import leaderboard, search
from metabench.search.journal.ledger import Ledger
from metabench.storage import files
from tests.report import played
from tests.report.conftest import Written
from tests.support import small


def test_what_was_spent_adds_up_to_the_ledger(large: Written) -> None:
    results, ledger = reading.read([large.folder]), Ledger(large.folder, 0, is_driver=False)
    assert len(results.trials) == 500
    for algorithm in results.labels:
        arrived = [one for one in results.arrivals if one.label == algorithm]
        assert arrived[-1].tasks == sum(trial.tasks_seen for trial in ledger.of(algorithm))
        assert arrived[-1].seconds == pytest.approx(ledger.seconds(algorithm))
        assert all(a.tasks < b.tasks and a.seconds < b.seconds for a, b in itertools.pairwise(arrived))


def test_the_best_so_far_only_rises_and_ends_at_the_best(large: Written) -> None:
    results = reading.read([large.folder])
    for label in results.labels:
        arrived = [one for one in results.arrivals if one.label == label]
        rises = search.improvements(arrived, lambda one: one.tasks)
        scores = [score for _, score in rises]
        assert scores == sorted(set(scores))
        assert scores[-1] == max(one.score for one in arrived if one.score is not None)


def test_reading_changes_no_file(large: Written) -> None:
    before = {path: path.stat().st_mtime_ns for path in large.folder.rglob("*")}
    reading.read([large.folder])
    assert {path: path.stat().st_mtime_ns for path in large.folder.rglob("*")} == before


def test_what_has_several_rows_is_named_by_its_folder_too(tmp_path: Path, quick: None) -> None:
    for name, algorithms in (("first", ("maml_pp",)), ("second", ("maml_pp", "protonet"))):
        played.play(tmp_path / name, played.space(2, algorithms), small.splits())
    results = reading.read([tmp_path / "first", tmp_path / "second"])
    assert results.labels == ("maml_pp · first", "maml_pp · second", "protonet")
    rows = {
        (row["algorithm"], Path(row["folder"]).name): row for row in results.board["rows"] if row["folder"]
    }
    assert results.label(rows["maml_pp", "second"]) == "maml_pp · second"
    assert {tried.label for tried in results.trials} == set(results.labels)


def test_a_journal_of_something_else_is_refused(tmp_path: Path, quick: None) -> None:
    played.play(tmp_path / "search", played.space(1, ("maml_pp",)), small.splits())
    files.append_line(tmp_path / "search" / "journal.jsonl", {"event": "report", "trial": "unknown"})
    with pytest.raises(files.MetabenchError, match=r"line 6 holds .*: report\.report: Field"):
        reading.read([tmp_path / "search"])


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(POINTS, st.sampled_from([1, -1]))
def test_the_front_is_whom_nobody_as_cheap_beats(pairs: list[tuple[int, int]], sign: int) -> None:
    points = [leaderboard.Point({}, float(spent), float(figure)) for spent, figure in pairs]
    kept = leaderboard.front(points, sign)
    for point in points:
        beaten = any(
            other.cost <= point.cost
            and sign * other.figure >= sign * point.figure
            and (other.cost, other.figure) != (point.cost, point.figure)
            for other in points
        )
        assert (point in kept) != beaten
