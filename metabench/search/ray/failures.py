"""What goes wrong beside the trials themselves: nodes that are out of order, and workers that die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune import PlacementGroupFactory

from metabench.core import OutOfOrder
from metabench.search.journal.ledger import Ledger

GOES_ON = "Nothing is lost; once it is mended, the same command goes on"

MAX_FAILURES = 2
"""How often a trial is started again, from its last state, between two of its reports."""

DEATHS = {
    "low on memory": "its worker was killed, as its node ran out of memory",
    "The actor died": "its worker died",
    "The actor is dead": "its worker died",
    "The worker died": "its worker died",
    "is unavailable": "its worker cannot be reached",
}
"""What Ray says of a dead worker, and what is told of it."""

NODE_ID = "ray.io/node-id"
"""Label that Ray gives each node."""


class Avoided:
    """The nodes on which something was out of order: nothing more is started there."""

    def __init__(self, nodes: Callable[[], Sequence[dict[str, Any]]], say: Callable[[str], None]) -> None:
        """Avoid none yet.

        Args:
            nodes: lists those that trials may run on, as `ray.nodes` does.
        """
        self._nodes = nodes
        self._say = say
        self.problems: dict[str, str] = {}  # node id -> what is out of order there

    def add(self, node: str, problem: str) -> None:
        """Avoid a node; raise OutOfOrder where that leaves none."""
        if node in self.problems:
            return
        nodes = self._nodes()
        self.problems[node] = f"node {names(nodes).get(node, node[:8])}: {problem}"
        if all(other["NodeID"] in self.problems for other in nodes):
            told = "\n".join(self.problems[other["NodeID"]] for other in nodes) or problem
            raise OutOfOrder(f"{told}\n{GOES_ON}")
        self._say(f"{self.problems[node]}\nNothing more is started there; it goes on elsewhere")

    def selector(self) -> dict[str, str]:
        """Return what Ray is to require of a node's labels."""
        return {NODE_ID: f"!in({','.join(self.problems)})"} if self.problems else {}

    def request(self, cpus: float, gpus: float) -> PlacementGroupFactory:
        """Return what a trial asks of the cluster."""
        labels = {"bundle_label_selector": [self.selector()]} if self.problems else {}
        return PlacementGroupFactory([{"CPU": cpus, "GPU": gpus}], **labels)


def names(nodes: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return node ids with what people call them: the address, and more of it where two share one."""
    often = Counter(node["NodeManagerAddress"] for node in nodes)
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        if often[node["NodeManagerAddress"]] == 1
        else f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        for node in nodes
    }


class Attempts:
    """Whether a trial whose worker died, or that raised, is tried again: as long as it gets on.

    A long trial may outlive many machines; one that crashes where it crashed before has failed.
    """

    def __init__(self, ledger: Ledger, say: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._say = say
        self._failures: dict[tuple[str, int], int] = {}  # by trial and what it had reported

    def failed(self, name: str, error: str) -> None:
        """Note a failure, and write down that the trial failed for good where it was one too many."""
        trial = self._ledger.trials[name]
        if trial.status is not None or trial.is_waiting:
            return
        key = (name, trial.tasks_seen)
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._failures[key] > MAX_FAILURES:
            self._ledger.fail(name, error)
        else:
            self._say(f"{name} starts again from {_told(trial.tasks_seen)}: {short(error)}")

    def note(self, name: str, text: str) -> None:
        """Tell what a trial found when it was started again."""
        self._say(f"{name}: {text}")


def _told(tasks_seen: int) -> str:
    return f"{tasks_seen} tasks" if tasks_seen else "the beginning"


def short(error: str) -> str:
    """Return one line of an error: what Ray says of a death is a page."""
    for sign, told in DEATHS.items():
        if sign in error:
            return told
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "unknown error"
