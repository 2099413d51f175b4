"""The run and search folders: their file names, atomic writes, JSON lines, and who may write to them.

Every file is standard JSON: a number that is not finite is written as null, so it is read back as None.
"""

from __future__ import annotations

import contextlib
import fcntl
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

import metabench
from metabench.core import MetabenchError
from metabench.storage import remote

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
LEADERBOARD = "leaderboard"

LOCK = ".lock"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide results from a colleague
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)
    remote.put(path)


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
        file.truncate(_end_of_last_line(file))  # a line torn by a crash would swallow this one
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    remote.put(path)


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
    found = hashlib.sha256()
    for path in sorted(Path(metabench.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def environment() -> dict[str, Any]:
    """Describe what a run's numbers may depend on: versions, commit and device, but not the host's name."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "metabench": metabench.__version__,
    }
    for package in ("torch", "ray", "optuna", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"versions": versions, "commit": _commit(), "device": _device()}


def check_writable(folder: Path, option: str = "--out") -> None:
    """Raise MetabenchError unless files can be made in a folder, which need not exist; leave no trace.

    Args:
        option: by which another folder can be given.
    """
    existing = folder.absolute()
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        message = f"{folder}: cannot write in {existing}: {error.strerror}; choose another with {option}"
        raise MetabenchError(message) from error


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it even when the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            message = f"{folder}: in use by process {holder}; wait for it, stop it, or choose another --name"
            raise MetabenchError(message) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield  # closing the file releases the lock; the file stays, since removing it would race


def is_locked(folder: Path) -> bool:
    """Tell whether a process of this machine holds a folder."""
    if not (folder / LOCK).exists():
        return False
    with open(folder / LOCK, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _end_of_last_line(file: Any) -> int:
    end: int = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return int(start + newline + 1)
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _commit() -> str | None:
    here = Path(__file__).parent
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    commands = (
        # An installed copy may lie inside somebody else's repository, which does not track this file.
        ["git", "ls-files", "--error-unmatch", Path(__file__).name],
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
    )
    output = ""
    for command in commands:
        try:
            done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0:
            return None
        output = done.stdout.strip()
    return output or None


def _device() -> str:
    description = f"{_cpu_model()}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")  # asking for GPUs is not worth the seconds of importing torch
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        description += "; " + ", ".join(names)
        from metabench.core import precision

        if not precision.is_exact():
            description += " with tf32 products"
    return description


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
