"""Stand-ins for the programs that cluster/slurm.sh calls, told apart by their first argument.

Each writes a JSON line of its call to $FAKE/calls, and does what the script would see of the real one: `srun`
runs tasks that a signal ends with all their processes, `ray start` joins a node and stays; a head listens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FAKE = Path(os.environ["FAKE"])


def note(program: str, event: str, **more: Any) -> None:
    """Write a line down; short lines of several processes do not mix."""
    environment = {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_TMPDIR")}
    line = {"program": program, "event": event, "argv": sys.argv[2:], **environment, **more}
    with (FAKE / "calls").open("a") as file:
        file.write(json.dumps(line) + "\n")


def sleep_until(*names: str) -> str:
    """Sleep until a signal comes and return its name."""
    came: list[str] = []
    for name in names:
        signal.signal(signal.Signals[name], lambda number, _: came.append(signal.Signals(number).name))
    while not came:
        time.sleep(0.02)
    return came[0]


def srun(arguments: list[str]) -> int:
    """Run the tasks of a step, each in a session of its own, and hand SIGTERM to all of each."""
    note("srun", "called")
    command = arguments[arguments.index("bash") :]
    (count,) = (int(word.removeprefix("--ntasks=")) for word in arguments if word.startswith("--ntasks="))
    last, held = os.pipe()  # by every process of a task, so that it closes when the last of them has ended
    tasks = [subprocess.Popen(command, start_new_session=True, pass_fds=[held]) for _ in range(count)]
    os.close(held)
    signal.signal(signal.SIGTERM, lambda *_: [os.killpg(task.pid, signal.SIGTERM) for task in tasks])
    code = max(task.wait() for task in tasks)
    os.read(last, 1)
    return code


def scontrol(arguments: list[str]) -> int:
    """Name the nodes, or take a wish to be queued again."""
    note("scontrol", "called")
    if arguments[0] == "show":
        sys.stdout.write("n1\nn2\nn3\n")
    return int(os.environ.get("FAKE_REQUEUE", "0")) if arguments[0] == "requeue" else 0


def ray(arguments: list[str]) -> int:
    """Start a node that stays until SIGTERM, or count the nodes."""
    note("ray", "called")
    nodes = FAKE / "nodes"
    if arguments[0] == "status":
        # As Ray 2.60 prints it where no autoscaler is configured.
        sys.stdout.write("Active:\n" + "".join(f" 1 node_{name}\n" for name in os.listdir(nodes)))
        return 0
    values = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    head = os.environ.get("FAKE_HEAD", "listens") if "--head" in arguments else "worker"
    if head == "dies":
        return 1
    note("ray", "joined")
    (nodes / str(os.getpid())).touch()
    with socket.socket() as listener:
        if head == "listens":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((values["--node-ip-address"], int(values["--port"])))
            listener.listen()
        sleep_until("SIGTERM")
    note("ray", "ended")
    return 0


def metabench(arguments: list[str]) -> int:
    """Search: end with $FAKE_SEARCH as exit code, or when a signal comes with 75."""
    token = os.environ["RAY_AUTH_TOKEN"].encode()
    lines = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    note("metabench", "called", seen=[str(path) for path, line in lines.items() if token in line])
    sys.stdout.write("the search says something\n")
    sys.stdout.flush()
    code = os.environ.get("FAKE_SEARCH", "0")
    if code.isdigit():
        return int(code)
    (FAKE / "searching").touch()
    name = sleep_until("SIGUSR1", "SIGTERM")
    note("metabench", name)
    time.sleep(0.5)  # the last trial is written
    note("metabench", "ended")
    return 75


if __name__ == "__main__":
    program = {"srun": srun, "scontrol": scontrol, "ray": ray, "metabench": metabench}[sys.argv[1]]
    sys.exit(program(sys.argv[2:]))
