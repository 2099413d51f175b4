"""The run and search folders: their file names, atomic writes, JSON lines, and who may write to them.

Every file is standard JSON: a number that is not finite is written as null, so it is read back as None.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import metabench
from metabench.core import MetabenchError
from metabench.storage import remote
from metabench.storage.remote.mirror import write_atomically

# A run folder: one training run.
CONFIG = "config.json"
REPORTS = "reports.jsonl"
WEIGHTS = "weights.safetensors"
STATE = "state"
TEST = "test.json"
DIAGNOSTICS = "diagnostics.json"

# A search folder: many trials, and the runs that came of them.
SEARCH = "search.json"
SPACE = "space.yaml"
RAY = "ray"
TENSORBOARD = "tb"
TRIALS = "trials.jsonl"
RUNNING = "running.json"
CONFIRM = "confirm"
CHOSEN = "chosen.json"
FINAL = "final"
ERROR = "error.txt"
NEAREST_MEAN = "nearest_mean.json"
ZERO = "zero.json"
META_TEST = "meta_test.json"
EARLIER = "earlier"  # folder of the results that a search had before it was extended
LEADERBOARD = "leaderboard"

LOCK = ".lock"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none of it."""
    write_atomically(path, data)
    remote.upload(path)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as standard JSON."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is missing or broken is a MetabenchError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MetabenchError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise MetabenchError(f"{path}: not JSON: {error}") from error


def append_line(path: Path, value: Any) -> None:
    """Add one JSON line, safe on disk and stored when this returns; a file has one writer at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain(value), allow_nan=False) + "\n"
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.truncate(path.read_bytes().rfind(b"\n") + 1)  # a line torn by a crash would swallow this one
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    remote.upload(path)


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines; a last line without its newline was torn by a crash and is dropped."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise MetabenchError(f"{path}: line {number} is not JSON: {error}") from error
    return values


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write JSON lines atomically, in place of what was there."""
    write_text(path, "".join(json.dumps(plain(value), allow_nan=False) + "\n" for value in values))


def read_trials(search: Path) -> dict[str, dict[str, Any]]:
    """Return the finished trials of a search folder by name; a later line replaces an earlier one."""
    return {line["trial"]: line for line in read_lines(search / TRIALS)}


def plain(value: Any) -> Any:
    """Turn mappings, sequences, arrays and paths into what standard JSON can hold; non-finite is None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's and torch's arrays and scalars, without importing either
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@functools.cache
def code_hash() -> str:
    """Hash the package's source files, whose change may change numbers."""
    digest = hashlib.sha256()
    for path in sorted(Path(metabench.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def environment() -> dict[str, Any]:
    """Describe what a run's numbers may depend on: versions, commit and device, but not the host's name."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "ray", "optuna", "numpy")}
    versions = {"python": platform.python_version(), "metabench": metabench.__version__, **libraries}
    return {"versions": versions, "commit": _commit(), "device": _device()}


def check_writable(folder: Path) -> None:
    """Raise MetabenchError unless files can be made in a folder, which need not exist; leave no trace."""
    existing = folder.absolute()
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        message = f"{folder}: cannot write in {existing}: {error.strerror}; choose another folder"
        raise MetabenchError(message) from error


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it even when the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        held = FileLock(path, blocking=False).acquire()
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        message = f"{folder}: in use by process {holder}; wait for it, stop it, or choose another name"
        raise MetabenchError(message) from None
    with held:
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield


def is_locked(folder: Path) -> bool:
    """Tell whether a process of this machine holds a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True


def _commit() -> str | None:
    # An installed copy may lie inside somebody else's repository, which does not track this file.
    command = (
        f"git ls-files --error-unmatch {Path(__file__).name} >&2"
        " && git describe --always --dirty --abbrev=40 --exclude='*'"
    )
    here, env = Path(__file__).parent, {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, shell=True, cwd=here, env=env, capture_output=True, text=True, timeout=10
        )
        return done.stdout.strip() or None
    return None


def _device() -> str:
    description = f"{_cpu_model()}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")  # asking for GPUs is not worth the seconds of importing torch
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        description += "; " + ", ".join(names)
        from metabench.core import device

        if not device.is_exact():
            description += " with tf32 products"
    return description


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
