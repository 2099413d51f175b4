"""A cluster that grows on demand: its first node is asked for, and trials are planned for those to come."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
import yaml

from metabench.core import MetabenchError
from metabench.search.ray import cluster
from tests.search.test_kill import PATIENCE, SPACE

HEAD = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"
"""Number and kind of the node that Ray's autoscaler for tests takes for the head."""


class Asked(list[float]):
    """What was asked of the autoscaler."""

    def __call__(self, num_cpus: float) -> None:
        self.append(num_cpus)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(cluster, "request_resources", asked)
    return asked


def test_nothing_is_asked_for_where_a_node_is_there(asked: Asked) -> None:
    with cluster.wait_for_first_node(lambda: [{}]):
        pass
    assert asked == []


def test_a_first_node_is_asked_for_until_it_is_there_and_in_use_and_no_longer(asked: Asked) -> None:
    coming: Iterator[list[dict[str, Any]]] = iter([[], [], [], [{}]])
    with cluster.wait_for_first_node(lambda: next(coming), poll=0):
        assert asked == [1], "an idle node might go before it is used"
    assert asked == [1, 0]
    assert next(coming, None) is None, "it looked until the node was there"


def test_a_node_that_never_comes_is_a_clear_error_and_no_longer_asked_for(asked: Asked) -> None:
    never = cluster.wait_for_first_node(list, timeout=0, poll=0)
    with pytest.raises(MetabenchError, match=r"workers: .* none came within 0 s; see `ray status`"), never:
        pass
    assert asked == [1, 0]


def node(cpus: float, gpus: float = 0) -> dict[str, Any]:
    return {"Resources": {"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {})}


@pytest.mark.parametrize(
    ("nodes", "workers", "slots"),
    [
        ([node(2), node(3)], None, 5),
        ([node(2)], 4, 8),
        ([node(2)] * 3, 2, 6),  # more are there already
        ([node(1), node(8, 1)], None, 4),  # four trials share a GPU
        ([node(8, 1)], 8, 32),
        ([node(64), node(8, 1)], 8, 32),  # a node with a GPU counts for more than one of many cores
    ],
)
def test_room_is_that_of_the_nodes_to_come(
    nodes: list[dict[str, Any]], workers: int | None, slots: int
) -> None:
    assert cluster.allocate(cluster.expected_resources(nodes, workers)).slots == slots


def test_an_empty_cluster_that_does_not_grow_is_told_how_it_could() -> None:
    with pytest.raises(MetabenchError, match="say by `workers`"):
        cluster.allocate(cluster.expected_resources([], None))


class Growing(NamedTuple):
    """A cluster of a head without cores, whose autoscaler starts real nodes on this machine."""

    address: str
    environment: dict[str, str]

    def nodes(self) -> int:
        """Count the nodes for trials."""
        printed = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", self.address],
            env=self.environment,
            capture_output=True,
            text=True,
        ).stdout
        return sum(int(line.split()[0]) for line in printed.splitlines() if line.endswith(" cpu"))


@pytest.fixture
def growing(ray_folder: None, tmp_path: Path) -> Iterator[Growing]:
    """Start a head that may have two workers of one core; their provider comes with Ray, for tests."""
    address = f"{ray.util.get_node_ip_address()}:{20000 + os.getpid() % 6000}"
    kinds = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    nothing = {f"{kind}_commands": [] for kind in kinds}
    provider = {"type": "external", "gcs_address": address, "launch_multiple": True}
    provider["module"] = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    config = {
        "cluster_name": "growing",
        "provider": provider,
        "max_workers": 2,
        "idle_timeout_minutes": 0.5,
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **nothing,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
    }
    (tmp_path / "autoscaler.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    of_the_head = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": HEAD_TYPE,
    }
    options = [
        f"--port={address.split(':')[1]}",
        f"--ray-client-server-port={26000 + os.getpid() % 6000}",
        "--num-cpus=0",
        "--include-dashboard=false",
        f"--autoscaling-config={tmp_path}/autoscaler.yaml",
    ]
    log = (tmp_path / "head.log").open("w")
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options],
        env=environment | of_the_head,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Growing(address, environment)
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            log.close()


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition and say whether it came."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


@pytest.mark.slow
def test_a_search_starts_on_no_node_at_all_grows_to_two_and_leaves_none(
    growing: Growing, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    status_file = tmp_path / "status"
    assert until(lambda: "Node status" in status(growing, status_file)), status_file.read_text()
    assert growing.nodes() == 0
    command = ["search", "space.yaml", "--out", ".", "--name", "it", "--address", growing.address]
    search = subprocess.Popen(
        [sys.executable, "-c", "from metabench.cli import main; main()", *command, "--workers", "2"],
        cwd=tmp_path,
        env=growing.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        grown = until(lambda: growing.nodes() == 2 or search.poll() is not None)
        _, errors = search.communicate(timeout=PATIENCE)
    finally:
        search.kill()
    assert search.returncode == 0, errors
    assert grown, errors
    assert (tmp_path / "it" / "leaderboard.json").exists()
    assert until(lambda: growing.nodes() == 0), "idle nodes stay"


def status(growing: Growing, status_file: Path) -> str:
    """Ask a cluster how it is, which fails until it is up."""
    with status_file.open("w") as file:
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", growing.address],
            env=growing.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return status_file.read_text()
