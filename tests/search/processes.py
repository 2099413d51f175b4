"""Real processes of a search: which there are, which train, and a cluster of several nodes on one machine.

As a program it is a cluster: it starts a head without cores, and nodes as it is told on its input.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

COMMAND = [sys.executable, "-c", "from metabench.cli import main; main()"]

PATIENCE = 300
"""Seconds after which what does not come is given up; a busy machine needs a tenth of it."""


class Process(NamedTuple):
    """A process as /proc shows it."""

    pid: int
    parent: int
    title: str

    @property
    def trains(self) -> bool:
        """Tell whether it is a worker of Ray that is at work."""
        return self.title.startswith(("ray::ImplicitFunc", "ray::attempt", "ray::bundle"))


def of(place: str) -> dict[int, Process]:
    """List the living processes whose environment names a place that nobody else has."""
    by_pid = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if place.encode() not in (folder / "environ").read_bytes():
                continue
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it has ended meanwhile
        if fields[0] != "Z":
            by_pid[int(folder.name)] = Process(int(folder.name), int(fields[1]), title)
    return by_pid


def below(pid: int, processes: dict[int, Process]) -> list[int]:
    """List a process and all that it has started, the last first."""
    pids = [pid]
    for one in pids:
        pids += [other.pid for other in processes.values() if other.parent == one]
    return pids[::-1]


def kill(*pids: int) -> None:
    """Kill processes at once, as a machine that loses its power does."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait for something and return it; what is false in the end is returned too."""
    deadline = time.monotonic() + patience
    while not (outcome := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return outcome


class Nodes:
    """A Ray cluster in a process of its own: a head without cores, and nodes that come and go."""

    def __init__(self, place: Path, **environment: str) -> None:
        """Start the head.

        Args:
            place: for Ray's files; short, for the paths of its sockets.
            environment: of all nodes.
        """
        self.place = place
        self.environment = {
            "RAY_TMPDIR": str(place),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.search.processes"],
            cwd=ROOT,
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started = self._answer()
        self.address: str = started["address"]
        self.gcs: int = started["gcs"]

    def add(self, cpus: int = 1, gpus: int = 0, **environment: str) -> int:
        """Start a node and return its raylet's process."""
        assert self._process.stdin is not None
        request = {"num_cpus": cpus, "num_gpus": gpus, "env_vars": environment}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["raylet"])

    def lose(self, raylet: int) -> None:
        """Let a node vanish, with all that runs on it."""
        running = of(str(self.place))
        kill(raylet, *below(raylet, running))

    def close(self) -> None:
        """End everything."""
        kill(self._process.pid)
        self._process.communicate()
        kill(*of(str(self.place)))

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the cluster's process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """Be a cluster: start a node for each line of the input, and tell of it in a line."""
    from ray.cluster_utils import Cluster

    usual: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 80 << 20}
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing else is told there
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **usual})
    say = {"address": cluster.address, "gcs": _pid(cluster.head_node, "gcs_server")}
    print(json.dumps(say), file=out, flush=True)
    for line in sys.stdin:
        node = cluster.add_node(wait=True, **usual, **json.loads(line))
        print(json.dumps({"raylet": _pid(node, "raylet")}), file=out, flush=True)


def _pid(node: Any, kind: str) -> int:
    return int(node.all_processes[kind][0].process.pid)


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder whose path is short enough for sockets."""
    return tempfile.TemporaryDirectory(prefix="mb", dir="/tmp", ignore_cleanup_errors=True)


if __name__ == "__main__":
    serve()
