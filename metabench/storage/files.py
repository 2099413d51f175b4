"""The run and search folders: their file names, atomic writes, JSON lines, and who may write to them.

Every file is standard JSON: a number that is not finite is written as null, so it is read back as None. An
object ends with a checksum of the text before it, which is compared, and left out, when it is read. That of a
line also takes in the checksum of the line before, so that none can go, or change its place, unnoticed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metabench
from metabench.core import MetabenchError
from metabench.storage import remote
from metabench.storage.remote.mirror import TEMPORARY, write_atomically

# A run folder: one training run.
CONFIG = "config.json"
REPORTS = "reports.jsonl"
WEIGHTS = "weights.safetensors"
INPUTS = "inputs.json"
CALIBRATION = "calibration.safetensors"
STATE = "state"
TEST = "test.json"
LABELLED = "labelled.jsonl"  # openings of meta-test by `metabench label`
DIAGNOSTICS = "diagnostics.json"

# A search folder: many trials, and the runs that came of them.
SEARCH = "search.json"
SPACE = "space.yaml"
RAY = "ray"
TENSORBOARD = "tb"
TRIALS = "trials.jsonl"
RUNNING = "running.json"
FINISH = "finish.json"  # somebody asks for that
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

CHECKSUM = "checksum"
"""Last entry of an object; one without, which a person has written, is taken as it is."""

DAMAGED = ".damaged"
"""Ending of a file that was set aside."""

_END = re.compile(rb',\s*"' + CHECKSUM.encode() + rb'": "(\w+)"\s*}\s*\Z')
TAIL = 100
"""Bytes at the end of a line that hold its checksum."""


MADE_ANEW = {
    REPORTS,
    WEIGHTS,
    TEST,
    DIAGNOSTICS,
    INPUTS,
    CALIBRATION,
    TRIALS,
    RUNNING,
    CHOSEN,
    NEAREST_MEAN,
    ZERO,
    META_TEST,
}
"""Files that follow from others, as do those of a state and of the confirmation."""


class Damaged(MetabenchError):
    """A file is not what was written to it."""

    def __init__(self, path: Path, why: str) -> None:
        self.path, self.why = path, why
        self.problem = f"{path}: {why}"
        is_made_anew = path.name in MADE_ANEW or path.parent.name in (STATE, CONFIRM)
        again = "take it from a copy, or run again the command that wrote it, which makes it anew"
        once = "take it from a copy, as nothing makes it anew, or choose another name"
        super().__init__(f"{self.problem}; {again if is_made_anew else once}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Be made again of what was said, where it goes from a worker to its driver."""
        return Damaged, (self.path, self.why)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees all of it or none of it."""
    write_atomically(path, data)
    remote.upload(path)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as standard JSON."""
    write_text(path, _seal(json.dumps(plain(value), indent=1, allow_nan=False), "\n") + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is missing is a MetabenchError, one that is broken is `Damaged`."""
    return _unseal(_read(path), path)


def is_missing(path: Path) -> bool:
    """Tell whether nothing stands at a path; what does, and is no file, is for its reader to refuse."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # such as of a folder that one may not look into
        return False
    return False


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would keep its reader waiting
            raise MetabenchError(f"{path}: cannot be read: is no file; put a copy of the file in its place")
        return path.read_bytes()
    except OSError as error:
        raise MetabenchError(f"{path}: cannot be read: {error.strerror}; take it from a copy") from error


def recover(
    path: Path,
    say: Callable[[str], None] = lambda text: None,
    read: Callable[[Path], Any] = read_json,
) -> Any:
    """Read a file that can be made again, None where there is none; a damaged one is set aside, and said."""
    if is_missing(path):
        return None
    try:
        return read(path)
    except Damaged as error:
        aside = path.with_name(path.name + DAMAGED)
        path.replace(aside)
        remote.remove(path)
        say(f"{error.problem}; it lies in {aside.name} now, and is made anew")
        return None


def _seal(text: str, space: str = "", before: bytes = b"") -> str:
    """Add a checksum to an object; what else JSON may be is left as it is."""
    if not text.startswith("{") or text == "{}":
        return text
    body = text[:-1].rstrip()
    return f'{body},{space} "{CHECKSUM}": "{_sum(before + body.encode())}"{space}}}'


def _sealed(line: bytes) -> bytes:
    """Return the checksum at the end of a line; nothing where it has none."""
    end = _END.search(line)
    return end[1] if end else b""


def _unseal(data: bytes, path: Path, where: str = "", before: bytes = b"") -> Any:
    """Read JSON and compare the checksum, where there is one; lines of old take in none before them."""
    try:
        value = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, f"{where}is not JSON: {error}") from None
    if end := _END.search(data):
        body = data[: end.start()]
        if end[1].decode() not in (_sum(before + body), _sum(body)):
            missing = ", or the line before it is missing" if where else ""
            raise Damaged(path, f"{where}is not what was written, by its checksum{missing}")
        del value[CHECKSUM]
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def append_line(path: Path, value: Any) -> None:
    """Add one JSON line, safe on disk and stored when this returns; a file has one writer at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", opener=_open_no_link) as file:
        if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.truncate(path.read_bytes().rfind(b"\n") + 1)  # a line torn by a crash would swallow this one
        end = file.seek(0, os.SEEK_END)
        before = _sealed(os.pread(file.fileno(), TAIL, max(0, end - TAIL)))
        file.write(_line(value, before).encode())
        file.flush()
        os.fsync(file.fileno())
    remote.upload(path)


def read_lines(path: Path) -> list[Any]:
    """Read JSON lines; a last line without its newline was torn by a crash and is dropped."""
    if is_missing(path):
        return []
    *lines, _torn = _read(path).split(b"\n")
    before = [b"", *map(_sealed, lines)]
    return [_unseal(line, path, f"line {at + 1} ", before[at]) for at, line in enumerate(lines)]


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write JSON lines atomically, in place of what was there."""
    lines: list[str] = []
    for value in values:
        lines.append(_line(value, _sealed(lines[-1].encode()) if lines else b""))
    write_text(path, "".join(lines))


def _line(value: Any, before: bytes) -> str:
    return _seal(json.dumps(plain(value), allow_nan=False), before=before) + "\n"


def as_cell(value: Any) -> Any:
    """Keep a text from being a formula where a table is opened as a spreadsheet."""
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )


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


def path_of(value: Any, setting: str) -> Path:
    """Return the path that a setting is, or refuse what neither is nor says one."""
    try:
        return Path(value)
    except TypeError:
        raise MetabenchError(f"`{setting}` {value!r}: must be text or a Path") from None


def check_name(name: str, setting: str) -> None:
    """Refuse a name that another system, or a table, cannot hold as it is."""
    if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII) or name in (".", ".."):
        raise MetabenchError(
            f"{setting}={name}: must be one plain name: letters, digits, '.', '_' and '-', at most 100"
        )


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


def search_around(folder: Path) -> Path | None:
    """Return the search folder that a path is, or lies in; None where there is none."""
    path = folder.absolute()
    return next((one for one in (path, *path.parents) if (one / SEARCH).is_file()), None)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it even when the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8", opener=_open_no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            message = f"{folder}: in use by process {holder}; wait for it, stop it, or choose another name"
            raise MetabenchError(message) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for left in folder.rglob(f".*{TEMPORARY}"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        yield


def _open_no_link(path: str, flags: int) -> int:
    """Open a file that is written in place; through a link another would be emptied."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise MetabenchError(
            f"{path}: is a link to another file, which is not written to; remove it"
        ) from error


def is_locked(folder: Path) -> bool:
    """Tell whether a process of this machine holds a folder."""
    if not (folder / LOCK).exists():
        return False
    with open(folder / LOCK, encoding="utf-8", opener=_open_no_link) as file:
        try:
            # Shared, so that those who ask do not take each other for a holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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
