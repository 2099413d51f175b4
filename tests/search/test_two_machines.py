"""A search over two machines that share nothing but an S3 server: what matters must reach the storage.

The machines are network namespaces of this one, each with an empty disk of its own at the same path.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from metabench.search.journal.ledger import JOURNAL
from metabench.storage import files
from tests.search.test_kill import PATIENCE, SMALL, check_results
from tests.search.test_storage_search import fetch, no_secret
from tests.storage.remote import server

NET = "10.77.31"
PREFIX = "mbench"


def shell(command: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **options}
    )


def cannot() -> str:
    """Say why this machine cannot hold two machines; nothing where it can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "needs ip and unshare"
    made = shell(f"ip netns add {PREFIX}-try && ip netns del {PREFIX}-try && unshare -m true")
    return "" if made.returncode == 0 else f"network namespaces cannot be made: {made.stderr.strip()}"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(cannot()), reason=cannot() or "-")]


@pytest.fixture
def network() -> Iterator[None]:
    """Join two namespaces by a bridge, on which this machine is host 1 and they are hosts 2 and 3."""
    commands = [
        f"ip link add {PREFIX}0 type bridge",
        f"ip addr add {NET}.1/24 dev {PREFIX}0",
        f"ip link set {PREFIX}0 up",
    ]
    for host in (2, 3):
        name = f"{PREFIX}{host}"
        commands += [
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip link set {name} master {PREFIX}0 up",
            f"ip -n {name} addr add {NET}.{host}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        ]
    try:
        for command in commands:
            done = shell(command)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        yield
    finally:
        for host in (2, 3):
            shell(f"ip netns pids {PREFIX}{host} | xargs -r kill -9; ip netns del {PREFIX}{host}")
        shell(f"ip link del {PREFIX}0")


@pytest.fixture
def disk() -> Iterator[Path]:
    """Return a path at which every machine has a disk of its own; short, for the paths of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def on(host: int, disk: Path, command: str) -> str:
    """Return a command that runs on a machine, whose disk is there as long as its processes are."""
    inner = f"mount -t tmpfs tmpfs {disk} && cd {disk} && {command}"
    return f"ip netns exec {PREFIX}{host} unshare -m sh -c '{inner}'"


def test_two_machines_with_nothing_in_common_but_the_storage(
    tmp_path: Path, network: None, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = server.Server(f"{NET}.1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("METABENCH_CACHE", str(disk / "cache"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    s3.start()
    try:
        output = search(tmp_path, disk, s3.url)
        fetch(s3, tmp_path / "bucket")
    finally:
        s3.stop()
    folder = tmp_path / "bucket/searches/it"
    check_results(folder, SMALL["algorithms"])
    assert not any(disk.iterdir())  # neither machine wrote where the other, or this one, could see it
    events = files.read_lines(folder / JOURNAL)
    judged = [(e["trial"], e["report"]["tasks_seen"]) for e in events if e["event"] == "report"]
    assert len(judged) == len(set(judged)) > 0
    no_secret(tmp_path, output)


def search(tmp_path: Path, disk: Path, url: str) -> str:
    """Start a head without cores on one machine and a worker on the other; search from the head."""
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SMALL))
    ray = f"{Path(sys.executable).parent}/ray"
    usual = "--object-store-memory 80000000 --disable-usage-stats"
    head = (
        f"{ray} start --head --port 6379 --node-ip-address {NET}.2 --num-cpus 0 {usual} --temp-dir {disk}/r"
    )
    worker = f"{ray} start --address {NET}.2:6379 --node-ip-address {NET}.3 --num-cpus 2 {usual}"
    code = "from metabench.cli import main; main()"
    command = f'{sys.executable} -c "{code}" search {tmp_path}/space.yaml --name it'
    command += f" --address {NET}.2:6379 --storage {url} --out {disk}/out"
    started = shell(
        on(3, disk, f"sleep 8; {worker} --temp-dir {disk}/r")
        + " & "
        + on(2, disk, f"{head} && sleep 12 && {command}")
    )
    assert started.returncode == 0, started.stdout + started.stderr
    return started.stdout + started.stderr
