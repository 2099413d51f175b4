"""What follows from a node that is out of order, and from a worker that dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabench.core import OutOfOrder
from metabench.search.journal.ledger import CONTINUE, FAILED, WAIT, Ledger
from metabench.search.ray.failures import MAX_FAILURES, NODE_ID, Attempts, Avoided, short
from tests.search.played import make_report


def node(name: str, address: str = "10.0.0.1") -> dict[str, object]:
    return {"NodeID": name * 8, "NodeManagerAddress": address}


def test_a_node_out_of_order_is_told_once_and_avoided_until_none_is_left() -> None:
    told: list[str] = []
    nodes = [node("a"), node("b"), node("c", "10.0.0.2")]
    avoided = Avoided(lambda: nodes, told.append)
    assert avoided.request(1, 0.5).bundles == [{"CPU": 1, "GPU": 0.5}]
    assert avoided.selector() == {}
    for _ in range(2):
        avoided.add("a" * 8, "other data")
    assert told == [
        "node 10.0.0.1 (aaaaaaaa): other data\nNothing more is started there; it goes on elsewhere"
    ]
    avoided.add("c" * 8, "disk full")
    assert "node 10.0.0.2: disk full" in told[1]
    assert avoided.selector() == {NODE_ID: f"!in({'a' * 8},{'c' * 8})"}
    assert avoided.request(1, 0) != Avoided(lambda: nodes, told.append).request(1, 0)
    nodes.append(node("d", "10.0.0.3"))  # one that joined
    avoided.add("b" * 8, "disk full")
    with pytest.raises(OutOfOrder, match=r"10.0.0.1 \(aaaaaaaa\): other data\n(.*\n){3}.*the same command"):
        avoided.add("d" * 8, "disk full")


def test_a_trial_that_gets_on_is_tried_again_for_ever_and_one_that_does_not_fails(tmp_path: Path) -> None:
    ledger, told = Ledger(tmp_path, keep=1), list[str]()
    name = ledger.propose("maml", {}, {}, True, 0).name
    attempts = Attempts(ledger, told.append)
    for rung in (0, 100, 300, 900, 2700):
        if rung:
            ledger.record(name, make_report(rung, 0.5), CONTINUE, {})
        for _ in range(MAX_FAILURES):
            attempts.failed(name, "The actor died unexpectedly\na page of advice")
    assert ledger.trials[name].status is None
    assert len(told) == 5 * MAX_FAILURES
    assert told[0] == f"{name} starts again from the beginning: its worker died"
    assert told[-1] == f"{name} starts again from 2700 tasks: its worker died"
    attempts.failed(name, "Traceback\nValueError: broken")
    assert ledger.trials[name].status == FAILED
    assert ledger.trials[name].error == "Traceback\nValueError: broken"
    attempts.failed(name, "and again")
    assert ledger.trials[name].error == "Traceback\nValueError: broken"


def test_a_trial_that_waits_for_the_others_has_not_failed(tmp_path: Path) -> None:
    ledger, told = Ledger(tmp_path, keep=1), list[str]()
    name = ledger.propose("maml", {}, {}, True, 0).name
    ledger.record(name, make_report(100, 0.5), WAIT, {})
    attempts = Attempts(ledger, told.append)
    for _ in range(MAX_FAILURES + 1):
        attempts.failed(name, "ended")
    assert (ledger.trials[name].status, told) == (None, [])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("x\nValueError: no\n\n", "ValueError: no"),
        ("The worker died unexpectedly while executing this task.", "its worker died"),
        ("Task was killed due to the node running low on memory.\n...", "its worker was killed"),
        ("", "unknown error"),
    ],
)
def test_an_error_is_told_in_a_line(error: str, told: str) -> None:
    assert short(error).startswith(told)
    assert "\n" not in short(error)
