"""What follows from a node that is out of order, and from a worker that dies."""

from __future__ import annotations

import pytest

from metabench.core import OutOfOrder
from metabench.search.ray.cluster import Cluster
from metabench.search.ray.failures import NODE_ID, ExcludedNodes, in_one_line


def node(name: str, address: str = "10.0.0.1") -> dict[str, object]:
    return {"NodeID": name * 8, "NodeManagerAddress": address}


def test_a_node_out_of_order_is_told_once_and_excluded_until_none_is_left() -> None:
    messages: list[str] = []
    nodes = [node("a"), node("b"), node("c", "10.0.0.2")]
    excluded = ExcludedNodes(lambda: nodes, messages.append)
    assert Cluster(1, 1, 0.5, excluded).request().bundles == [{"CPU": 1, "GPU": 0.5}]
    assert excluded.selector() == {}
    for _ in range(2):
        excluded.add("a" * 8, "other data")
    assert messages == [
        "node 10.0.0.1 (aaaaaaaa): other data\nNothing more is started there; it goes on elsewhere"
    ]
    excluded.add("c" * 8, "disk full")
    assert "node 10.0.0.2: disk full" in messages[1]
    assert excluded.selector() == {NODE_ID: f"!in({'a' * 8},{'c' * 8})"}
    assert Cluster(1, 1, 0, excluded).request() != Cluster(1, 1, 0).request()
    nodes.append(node("d", "10.0.0.3"))  # one that joined
    excluded.add("b" * 8, "disk full")
    with pytest.raises(OutOfOrder, match=r"10.0.0.1 \(aaaaaaaa\): other data\n(.*\n){3}.*the same command"):
        excluded.add("d" * 8, "disk full")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("x\nValueError: no\n\n", "ValueError: no"),
        ("The worker died unexpectedly while executing this task.", "its worker died"),
        ("Task was killed due to the node running low on memory.\n...", "its worker was killed"),
        ("", "unknown error"),
    ],
)
def test_an_error_is_told_in_a_line(error: str, message: str) -> None:
    assert in_one_line(error).startswith(message)
    assert "\n" not in in_one_line(error)
