"""What goes wrong beside the trials themselves: nodes that are out of order, and workers that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from metabench.core import OutOfOrder

GOES_ON = "Nothing is lost. Fix it and run the same command again."

MAX_FAILURES = 2
"""How often a trial is started again, from its last state, between two of its reports."""

DEATHS = {
    "low on memory": "its worker was killed, as its node ran out of memory",
    "The actor died": "its worker died",
    "The actor is dead": "its worker died",
    "The worker died": "its worker died",
    "is unavailable": "its worker cannot be reached",
}
"""What Ray says of a dead worker, and how people read it."""

NODE_ID = "ray.io/node-id"
"""Label that Ray gives each node."""


class ExcludedNodes:
    """The nodes on which something was out of order: nothing more is started there."""

    def __init__(self, nodes: Callable[[], Sequence[dict[str, Any]]], say: Callable[[str], None]) -> None:
        self._nodes = nodes  # lists those that trials may run on, as `ray.nodes` does
        self._say = say
        self.problems: dict[str, str] = {}  # node id -> what is out of order there

    def add(self, node: str, problem: str) -> None:
        """Exclude a node; raise OutOfOrder where that leaves none."""
        if node in self.problems:
            return
        nodes = self._nodes()
        self.problems[node] = f"node {node_names(nodes).get(node, node[:8])}: {problem}"
        if all(other["NodeID"] in self.problems for other in nodes):
            problems = "\n".join(self.problems[other["NodeID"]] for other in nodes) or problem
            raise OutOfOrder(f"{problems}\n{GOES_ON}")
        self._say(f"{self.problems[node]}\nNothing more is started there; it goes on elsewhere")

    def selector(self) -> dict[str, str]:
        """Return what Ray is to require of a node's labels."""
        return {NODE_ID: f"!in({','.join(self.problems)})"} if self.problems else {}


def node_names(nodes: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return node ids with what people call them: the address, and more of it where two share one."""
    addresses = Counter(node["NodeManagerAddress"] for node in nodes)
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        if addresses[node["NodeManagerAddress"]] == 1
        else f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        for node in nodes
    }


class RetryPolicy:
    """Whether what failed is tried again: as long as it gets on.

    A long trial may outlive many machines; one that crashes where it crashed before has failed.
    """

    def __init__(self) -> None:
        self._failures: Counter[tuple[str, int]] = Counter()

    def is_allowed(self, name: str, progress: int) -> bool:
        """Count a failure, and tell whether to try again what has got so far."""
        self._failures[name, progress] += 1
        return self._failures[name, progress] <= MAX_FAILURES


def in_one_line(error: str) -> str:
    """Return one line of an error: what Ray says of a death is a page."""
    for sign, meaning in DEATHS.items():
        if sign in error:
            return meaning
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "unknown error"
