"""Ray on this machine alone: it listens to no other, asks nobody, and leaves no file of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir

from metabench.core import OutOfOrder, signals
from metabench.search.ray import guardian
from metabench.search.ray.failures import GOES_ON

OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a local cluster; only configurations and results pass through it."""

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}

PREFIX = "mb-ray-"
"""Of the folder of Ray's session; short, as are the longest paths of sockets."""

LONGEST = 24
"""Most letters of the path of a folder in which the session has room for its sockets."""

ATTEMPTS = 3
"""To start Ray, which gives its processes half a minute: on a busy machine that is not enough every time."""

LEAVING_SECONDS = 10
"""For which a process that was asked to stop may still tidy up without Ray."""

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its name for listening to other machines
    "RAY_enable_metrics_collection": "0",
    # Processes for trials import what these need while the driver goes on, and not once they are asked.
    "RAY_preload_python_modules": "metabench.search.ray.worker",
}


@contextlib.contextmanager
def started(cpus: int | None) -> Iterator[None]:
    """Start Ray on this machine, and remove in the end what it wrote."""
    # Ray lets in only who knows its token, and would leave a new one in the user's home for good.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with private_folder() as folder:
        ended = threading.Event()
        try:
            _init(folder, cpus)
            _watch_servers(ended)
            yield
        finally:
            ended.set()
            ray.shutdown()


def _watch_servers(ended: threading.Event) -> None:
    """End this process in our way where one of Ray's servers dies: Ray would end it without a word.

    What was written down is safe, and nothing else is of use without them.
    """

    def wait(pid: int) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        if signals.received() is not None:
            ended.wait(LEAVING_SECONDS)  # the signal was meant for all; it has an answer of its own
        if not ended.is_set():
            with contextlib.suppress(OSError):
                os.write(2, f"\nmetabench: Ray is lost on this machine. {GOES_ON}\n".encode())
            os._exit(signals.TRY_AGAIN)

    node = ray._private.worker._global_node
    if hasattr(os, "waitid") and node is not None:
        for kind in ("raylet", "gcs_server"):
            for server in node.all_processes.get(kind, ()):
                threading.Thread(target=wait, args=(server.process.pid,), daemon=True).start()


def _init(folder: Path, cpus: int | None) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _without_servers():
                # "local" even where RAY_ADDRESS or another cluster on this machine would be found.
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    object_store_memory=OBJECT_STORE,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder),
                    **QUIET,
                )
            return
        except Exception as error:  # a plain one, where one of its processes dies or is slow
            ray.shutdown()
            if "timed out" not in str(error) or attempt == ATTEMPTS:
                raise OutOfOrder(f"Ray does not start on this machine: {error}\n{GOES_ON}") from error


@contextlib.contextmanager
def _without_servers() -> Iterator[None]:
    """Start neither the process that asks clouds where it runs, nor the one that would ask for machines.

    A Ray that keeps them elsewhere starts them, which costs seconds and those questions, and no more.
    """
    from ray._private import node, ray_constants

    def start_nothing(self: Any, **options: Any) -> None:
        self._webui_url = ""

    replaced = [
        (node.Node, "start_api_server", start_nothing),
        (node.Node, "start_monitor", lambda self: None),
        (ray_constants, "ENABLE_RAY_CLUSTER", False),  # read from the environment before it was set here
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced if hasattr(owner, name)]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for Ray's session that nobody else can enter; it goes when this process does.

    Ray opens its own folder to everybody, so that it lies within another.
    """
    usual = Path(get_default_system_temp_dir()).absolute()
    place = usual if len(str(usual)) <= LONGEST else Path("/tmp")
    try:
        place.mkdir(parents=True, exist_ok=True)
        outer = tempfile.mkdtemp(prefix=PREFIX, dir=place)
    except OSError as error:
        raise OutOfOrder(f"Ray does not start on this machine: {error}\n{GOES_ON}") from error
    command = [sys.executable, "-I", "-S", guardian.__file__, outer]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True),
        _environment(**ENVIRONMENT, **{guardian.MARK: outer}),
    ):
        yield Path(outer) / "r"


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
