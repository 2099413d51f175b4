"""A program that outlives its driver: it ends what Ray has left running, and removes what Ray wrote.

Ray's agents stay where a driver was killed: they want to tell a server that is gone. Imports nothing of
the package, so that it is there at once and takes little memory.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

MARK = "METABENCH_RAY_SESSION"
"""Variable of all processes of a session: its folder."""


def main(folder: str) -> None:
    """Wait until the driver, which holds the other end of the input, is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    mark = f"{MARK}={folder}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes() + b"\0" or _is_agent(process, folder):
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _is_agent(process: Path, folder: str) -> bool:
    """Tell whether a process that has a title of Ray's in place of its variables writes to a folder."""
    if not (process / "cmdline").read_bytes().startswith(b"ray::"):
        return False
    inside = os.path.realpath(folder) + os.sep
    return any(os.readlink(file).startswith(inside) for file in (process / "fd").iterdir())


if __name__ == "__main__":
    main(sys.argv[1])
