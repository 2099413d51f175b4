"""Where a search runs in the campaign of faults, and the faults that can be done to it there."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metabench.core.signals import TRY_AGAIN
from metabench.search.journal.ledger import WORK
from metabench.storage import files
from tests.search import processes
from tests.search.processes import COMMAND, ROOT
from tests.storage.remote.proxy import Proxy
from tests.storage.remote.server import BUCKET, Server

NAME = "it"

LEAVES = 180.0
"""Seconds within which a driver that cannot go on must have ended; Ray looks for a lost head for 60."""

DISK = 64
"""Megabytes of the small disk."""

LEAK = 8
"""Megabytes by which a trial may still grow, in the group of processes that is short of memory."""

GROUPS = Path("/sys/fs/cgroup/memory")


class Broken(Exception):
    """A law of the campaign does not hold."""


class Scene:
    """A search's folder, command and surroundings; here a disk of its own and Ray on this machine."""

    kinds = ("worker", "raylet", "head", "driver", "SIGTERM", "SIGUSR1", "disk", "flip", "cut_state", "leak")

    def __init__(self, place: Path, space: Path, seed: int, draw: random.Random) -> None:
        self.place = place  # short, and in the environment of every process of the scene
        self.out = place / "out"
        self.out.mkdir()
        self.trace = place / "trace.jsonl"
        self.draw = draw
        self.arguments = ["search", str(space), "--name", NAME, "--seed", str(seed)]
        self.driver: subprocess.Popen[str] | None = None
        self.environment = {
            "RAY_TMPDIR": str(place),
            "METABENCH_TRACE": str(self.trace),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self.starts = 0

    def __enter__(self) -> Scene:
        self.has_disk = os.geteuid() == 0 and not _shell(f"mount -t tmpfs -o size={DISK}m tmpfs {self.out}")
        return self

    def __exit__(self, *error: Any) -> None:
        processes.kill(*processes.of(str(self.place)))
        if self.has_disk:
            _shell(f"umount -l {self.out}")

    @property
    def folder(self) -> Path:
        """Return the search folder."""
        return self.out / NAME

    def command(self) -> list[str]:
        """Return the command, the same each time."""
        return [*COMMAND, *self.arguments, "--out", str(self.out)]

    def start(self) -> None:
        """Start the driver."""
        self.starts += 1
        self.driver = subprocess.Popen(
            self.command(),
            cwd=self.place,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=(self.place / f"told-{self.starts}").open("w"),
            text=True,
        )

    def told(self) -> str:
        """Return what the driver told people since its last start."""
        return (self.place / f"told-{self.starts}").read_text(errors="replace")

    def wait(self, patience: float) -> int:
        """Wait for the driver's end and return its exit code."""
        assert self.driver is not None
        try:
            return self.driver.wait(patience)
        except subprocess.TimeoutExpired:
            raise Broken(f"the driver still runs after {patience:.0f} s: {self.told()[-500:]}") from None

    @property
    def runs(self) -> bool:
        """Tell whether the driver runs."""
        return self.driver is not None and self.driver.poll() is None

    def workers(self) -> list[int]:
        """List the workers that train."""
        return sorted(one.pid for one in processes.of(str(self.place)).values() if one.trains)

    def states(self) -> list[Path]:
        """List the last states of trials, those that changed last first."""
        paths = self.folder.glob(f"{WORK}/*/{files.STATE}/state.safetensors")
        return sorted(paths, key=lambda path: -path.stat().st_mtime_ns)

    def objects(self) -> dict[str, bytes]:
        """Return the files that must only grow."""
        names = [path.relative_to(self.folder) for path in self.folder.glob("*.jsonl")]
        return {str(name): (self.folder / name).read_bytes() for name in names}

    def reports(self) -> dict[str, Any]:
        """Return of each trial's reports what changes when they are written again."""
        paths = self.folder.glob(f"{WORK}/*/{files.REPORTS}")
        return {path.parent.name: path.stat().st_mtime_ns for path in paths}

    # Faults: each returns whether it was done; those that end the driver wait for that.

    def do(self, kind: str) -> bool:
        """Do a fault of a kind."""
        done: bool = getattr(self, f"do_{kind}")()
        return done

    def can(self, kind: str) -> bool:
        """Tell whether a fault can be done now."""
        if kind in ("worker", "leak", "node"):
            return self.runs and bool(self.workers())
        if kind in ("flip", "cut_state"):
            return self.runs and bool(self.states())
        return self.runs

    def do_worker(self) -> bool:
        """Kill a worker."""
        workers = self.workers()
        if workers:
            processes.kill(self.draw.choice(workers))
        return bool(workers)

    def do_raylet(self) -> bool:
        """Kill the process through which Ray runs workers on a node."""
        return self._kill_one("raylet/raylet") and self._must_end()

    def do_head(self) -> bool:
        """Kill the process that knows of the whole cluster."""
        return self._kill_one("gcs/gcs_server") and self._must_end()

    def _kill_one(self, title: str) -> bool:
        pids = [one.pid for one in processes.of(str(self.place)).values() if title in one.title[:300]]
        if pids and self.driver is not None:
            children = processes.below(self.driver.pid, processes.of(str(self.place)))
            processes.kill(*(pid for pid in pids if pid in children))
            return any(pid in children for pid in pids)
        return False

    def _must_end(self) -> bool:
        code = self.wait(LEAVES)
        if code == 0 and files.read_json(self.folder / files.META_TEST)["finished"] is None:
            raise Broken("the driver ended well although its cluster was lost")
        return True

    def do_driver(self) -> bool:
        """Kill the driver."""
        if not self.runs:
            return False
        assert self.driver is not None
        processes.kill(self.driver.pid)
        self.wait(10)
        return True

    def do_SIGTERM(self) -> bool:
        """Ask the driver to stop."""
        return self._ask(signal.SIGTERM)

    def do_SIGUSR1(self) -> bool:
        """Ask the driver to stop, as Slurm does."""
        return self._ask(signal.SIGUSR1)

    def _ask(self, number: int) -> bool:
        if not self.runs:
            return False
        assert self.driver is not None
        # Before Python has come as far as our first line, nothing can listen.
        if not processes.until(lambda: not self.runs or "it" in self.told(), 60) or not self.runs:
            return False
        self.driver.send_signal(number)
        code = self.wait(60)
        if code not in (0, TRY_AGAIN) or (code and "The same command continues" not in self.told()):
            raise Broken(f"{signal.Signals(number).name}: exit code {code}: {self.told()[-500:]}")
        return True

    def do_disk(self) -> bool:
        """Fill the disk until the driver gives up, or for half a minute, and make room again."""
        if not self.has_disk:
            return False
        with _filled(self.out):
            processes.until(lambda: not self.runs, 30)
        code = self.driver.poll() if self.driver else None
        if code not in (None, 0, 2) or (code == 2 and "No space left" not in self.told()):
            raise Broken(f"full disk: exit code {code}: {self.told()[-500:]}")
        return True

    def do_flip(self) -> bool:
        """Stop the driver and flip some bits of the last state."""
        return self.do_driver() and self._damage(_flip)

    def do_cut_state(self) -> bool:
        """Stop the driver and cut off the last state."""
        return self.do_driver() and self._damage(_cut)

    def _damage(self, how: Callable[[bytes, random.Random], bytes]) -> bool:
        processes.until(lambda: not self.workers(), 30)  # whoever still writes would mend it
        states = self.states()
        if states:
            states[0].write_bytes(how(states[0].read_bytes(), self.draw))
        return bool(states)

    def do_leak(self) -> bool:
        """Let a worker run into a limit on its memory, at which the system kills it."""
        workers = self.workers()
        if not workers or not GROUPS.is_dir() or os.geteuid() != 0:
            return False
        pid = self.draw.choice(workers)
        group = GROUPS / f"metabench-faults-{pid}"
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text(str(LEAK << 20))
            (group / "cgroup.procs").write_text(str(pid))
            processes.until(lambda: not Path(f"/proc/{pid}").exists(), 60)
            killed = re.search(r"oom_kill (\d+)", (group / "memory.oom_control").read_text())
            return killed is not None and int(killed[1]) > 0
        except OSError:
            return False  # it had ended before
        finally:
            with contextlib.suppress(OSError):
                (GROUPS / "cgroup.procs").write_text(str(pid))
            with contextlib.suppress(OSError):
                group.rmdir()


class ManyNodes(Scene):
    """Several nodes on this machine, of which some vanish while others join."""

    kinds = ("worker", "node", "node", "raylet", "head", "driver", "SIGTERM", "SIGUSR1", "flip", "leak")

    def __enter__(self) -> ManyNodes:
        self.has_disk = False
        self._begin()
        return self

    def _begin(self) -> None:
        self.rays = getattr(self, "rays", 0) + 1
        files = self.place / f"r{self.rays}"
        files.mkdir()
        self.nodes = processes.Nodes(files, **{**self.environment, "RAY_TMPDIR": str(files)})
        self.raylets = [self.nodes.add(), self.nodes.add()]
        self.environment |= self.nodes.environment

    def __exit__(self, *error: Any) -> None:
        self.nodes.close()
        super().__exit__(*error)

    def command(self) -> list[str]:
        """Return the command, the same each time but for the address of a cluster made anew."""
        return [*super().command(), "--address", self.nodes.address]

    def start(self) -> None:
        """Start the driver."""
        while len(self.raylets) < 2:
            self.raylets.append(self.nodes.add())
        super().start()

    def do_node(self) -> bool:
        """Let a node vanish, and another join after a while."""
        self.nodes.lose(self.raylets.pop(self.draw.randrange(len(self.raylets))))
        time.sleep(self.draw.uniform(0, 5))
        self.raylets.append(self.nodes.add())
        return True

    def do_raylet(self) -> bool:
        """Kill the process through which Ray runs workers on a node, and start another node."""
        processes.kill(self.raylets.pop(self.draw.randrange(len(self.raylets))))
        self.raylets.append(self.nodes.add())
        return True

    def do_head(self) -> bool:
        """Kill the process that knows of the whole cluster, and start another cluster."""
        processes.kill(self.nodes.gcs)
        self._must_end()
        self.nodes.close()
        self._begin()
        return True


class Stored(Scene):
    """A search in object storage, behind a network that can be out of order."""

    kinds = (
        *("refuse", "stall", "cut", "refuse", "stall", "cut"),
        *("worker", "driver", "SIGTERM", "flip", "cut_state"),
    )

    def __enter__(self) -> Stored:
        self.has_disk = False
        self.server = Server()
        self.server.start()
        self.proxy = Proxy(self.server.port)
        self.environment |= self.server.environment
        self.environment |= {"AWS_ENDPOINT_URL": self.proxy.url, "METABENCH_CACHE": str(self.place / "cache")}
        self.arguments += ["--storage", self.server.url]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.proxy.close()
        self.server.stop()

    def states(self) -> list[Path]:
        """List the last states of trials, by what the store calls them; those stored last first."""
        pattern = re.compile(rf"searches/{NAME}/{WORK}/[^/]+/{files.STATE}/state\.safetensors")
        listed = self.server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
        items = [item for item in listed if pattern.fullmatch(item["Key"])]
        return [Path(item["Key"]) for item in sorted(items, key=lambda item: item["LastModified"])[::-1]]

    def objects(self) -> dict[str, bytes]:
        """Return the files that must only grow, put together from their parts."""
        contents: dict[str, bytes] = {}
        for key, content in sorted(self.server.objects().items()):
            match = re.fullmatch(rf"searches/{NAME}/(\w+\.jsonl)(\.\d+)?", key)
            if match:
                contents[match[1]] = contents.get(match[1], b"") + content
        return contents

    def reports(self) -> dict[str, Any]:
        """Return of each trial's reports what changes when they are written again."""
        listed = self.server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
        names = {Path(item["Key"]): item["LastModified"] for item in listed}
        return {path.parent.name: when for path, when in names.items() if path.name == files.REPORTS}

    def fetch(self) -> Path:
        """Write what is stored into a folder, and return it."""
        place = self.place / "bucket"
        for name, content in self.server.objects().items():
            files.write_bytes(place / name, content)
        return place / "searches" / NAME

    def _damage(self, how: Callable[[bytes, random.Random], bytes]) -> bool:
        processes.until(lambda: not self.workers(), 30)
        states, client = self.states(), self.server.client()
        if states:
            where = {"Bucket": BUCKET, "Key": str(states[0])}
            whole = client.get_object(**where)["Body"].read()
            client.put_object(**where, Body=how(whole, self.draw))
        return bool(states)

    def _disorder(self, mode: Any) -> bool:
        self.proxy.be(mode)
        time.sleep(self.draw.uniform(3, 12))
        self.proxy.be("pass")
        return True

    def do_refuse(self) -> bool:
        """Let nobody reach the storage for some seconds."""
        return self._disorder("refuse")

    def do_stall(self) -> bool:
        """Let the storage answer nobody for some seconds."""
        return self._disorder("stall")

    def do_cut(self) -> bool:
        """Cut off every answer of the storage for some seconds."""
        return self._disorder("cut")


def _shell(command: str) -> int:
    return subprocess.run(command, shell=True, capture_output=True).returncode


def _flip(content: bytes, draw: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(3):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


@contextlib.contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Keep a disk full."""
    path = disk / f"filler-{secrets.token_hex(4)}"
    try:
        with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        yield
    finally:
        path.unlink()
