"""A local folder that mirrors a folder of an object store, and which addresses of one are understood."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import os
import queue
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metabench.core import MetabenchError, OutOfOrder, signals

STORE_TIMEOUT_SECONDS = 300.0
"""For which a store that does not answer is asked again, before the process gives up."""

CONTACT_SECONDS = 15.0
"""The same before its first answer: what refuses then does not pass by waiting."""

SAID_AFTER = 5.0
"""Seconds after which it is said what is waited for."""

LEAVING_TIMEOUT_SECONDS = 10.0
"""The same once the process was asked to stop: it will be killed if it does not."""

TEMPORARY = ".part"
"""Ending of a file that is being written; its name begins with a dot."""

ORIGIN = ".storage"
"""File of a mirror that says which address it mirrors."""

PART = 64 * 1024
"""Bytes after which a file of JSON lines goes on in another object, at the next end of a line."""

EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""Scheme to the library that it needs, and the extra that installs it."""

NO_BUCKET = "there is no such bucket; make it first, or check its name"

GOES_ON = "what was stored is safe: run the same command again"

CHECK = "check the address, AWS_ENDPOINT_URL and the network"

NO_CREDENTIALS = (
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("TokenRetrievalError", "NoRegionError", "DefaultCredentialsError"),
)
"""Names of what libraries raise where they have nothing to show."""

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}}
}


class Mirror:
    """A local folder that mirrors a folder of an object store."""

    def __init__(self, local: Path, url: str, is_scratch: bool = False) -> None:
        import fsspec

        self.local = local
        self.is_scratch = is_scratch
        self.url = check_url(url)
        options = OPTIONS.get(urlsplit(url).scheme, {})
        # It prints a traceback for each connection that breaks, which is seen, and tried again, here.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # Listings are asked for anew: other processes write there.
        self.fs, self.root = fsspec.core.url_to_fs(
            self.url, use_listings_cache=False, skip_instance_cache=True, **options
        )
        self.guard: Callable[[], None] = lambda: None
        """Called before each writing; raises where this process may not write any more."""
        self._is_reached = False  # the store has answered once
        self._parts: dict[str, list[int]] = {}  # checksums of what is stored of growing files

    def name_of(self, path: Path) -> str:
        """Return a path's name in the store; the mirror's own is empty."""
        name = path.absolute().relative_to(self.local).as_posix()
        return "" if name == "." else name

    def upload(self, path: Path) -> None:
        """Store a file as it is now; a file of JSON lines in parts."""
        name = self.name_of(path)
        self.guard()
        data = path.read_bytes()
        if path.suffix != ".jsonl":
            self.write(name, data)
            return
        parts = split(data, PART)
        sums, stored = [zlib.crc32(part) for part in parts], self._parts.get(name)
        for number, part in enumerate(parts):
            if stored is None or stored[number : number + 1] != [sums[number]]:
                self.write(part_name(name, number), part)
        if stored is None:
            stale = [other for other in self._find(name + ".") if int(other.rpartition(".")[2]) >= len(parts)]
        else:
            stale = [part_name(name, number) for number in range(len(parts), len(stored))]
        for other in stale:
            self._delete(other)
        self._parts[name] = sums

    def remove(self, path: Path) -> None:
        """Remove a file or a folder from the store; one that is not there is fine."""
        name = self.name_of(path)
        self.guard()
        for stored in self._find(name):
            if stored == name or stored.startswith((name + "/", name + ".000")):
                self._delete(stored)
        self._parts = {
            other: sums
            for other, sums in self._parts.items()
            if other != name and not other.startswith(name + "/")
        }

    def fetch(self, within: str = "", skip: Callable[[str], bool] = lambda name: False) -> None:
        """Make the mirror, or a folder in it, what the store holds; what is the same already is not read.

        Args:
            within: path of the folder in the mirror.
            skip: tells of a path in the mirror whether it is left alone.
        """
        seen = self._seen()
        listed = {name: tag for name, tag in self._listing(within).items() if not skip(name)}
        whole: dict[str, list[str]] = {}
        for name in sorted(listed):
            whole.setdefault(whole_name(name), []).append(name)
        for name, parts in whole.items():
            tags, path = [listed[part] for part in parts], self.local / name
            if seen.get(name) != [*tags, _stamp(path)]:
                write_atomically(path, b"".join(self._ask("cat_file", part) for part in parts))
                self._parts.pop(name, None)
                seen[name] = [*tags, _stamp(path)]
        for path in sorted((self.local / within).rglob("*")):
            name = self.name_of(path)
            is_gone = (
                path.is_file() and not path.name.startswith(".") and name not in whole and not skip(name)
            )
            if is_gone and (self.is_scratch or name in seen):  # what a person put there stays
                path.unlink()
                seen.pop(name, None)
        write_atomically(self.local / ORIGIN, json.dumps({"url": self.url, "seen": seen}).encode())

    def read(self, name: str) -> bytes | None:
        """Read one object; None where there is none."""
        try:
            data: bytes = self._ask("cat_file", name)
        except FileNotFoundError:
            return None
        return data

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name; tell whether it was written."""
        try:
            self._ask("pipe_file", name, data, mode="create")
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise MetabenchError(f"{self.url}: {NO_BUCKET}") from error
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write one object; a bucket that is gone was there, and may be again."""
        self._ask("pipe_file", name, data, transient=FileNotFoundError)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask("rm_file", name)

    def _listing(self, within: str) -> dict[str, str]:
        """Map the paths of the store's objects in a folder to what changes when their content does."""
        return {
            path[len(self.root) + 1 :]: _tag(info)
            for path, info in self._ask("find", within, detail=True).items()
            if info["type"] == "file" and not Path(path).name.startswith(".")
        }

    def _find(self, prefix: str) -> list[str]:
        return [name for name in self._listing(prefix.rpartition("/")[0]) if name.startswith(prefix)]

    def _seen(self) -> dict[str, list[Any]]:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            seen: dict[str, list[Any]] = json.loads((self.local / ORIGIN).read_bytes())["seen"]
            return seen
        return {}

    def _ask(
        self, method: str, name: str, *args: Any, transient: type[OSError] | None = None, **options: Any
    ) -> Any:
        """Ask the store, again while it is out of order, longer each time, and give up in the end.

        Args:
            transient: an answer that counts as being out of order too.
        """
        request = functools.partial(
            getattr(self.fs, method), f"{self.root}/{name}".rstrip("/"), *args, **options
        )
        what, begun, pause = f"{self.url}/{name}", time.monotonic(), 0.2
        is_said = threading.Event()
        while True:
            try:
                answer = _in_time(request, begun, self._patience(), what, is_said)
                self._is_reached = True
                return answer
            except faults() as error:
                no_bucket = _code(error) == "NoSuchBucket"
                is_answer = isinstance(error, FileNotFoundError | FileExistsError) and not no_bucket
                if is_answer and not (transient and isinstance(error, transient)):
                    self._is_reached = True
                    raise
                if refusal := self._refusal(error, no_bucket):
                    raise OutOfOrder(f"{what}: {refusal}") from error
                seconds = time.monotonic() - begun
                if seconds + pause > self._patience():
                    advice = GOES_ON if self._is_reached else CHECK
                    silence = f"has not answered for {seconds:.0f} s ({type(error).__name__})"
                    raise OutOfOrder(f"{what}: the storage {silence}; {advice}") from error
                if seconds > SAID_AFTER:
                    _say(what, is_said)
                time.sleep(pause)
                pause = min(2 * pause, 20)

    def _patience(self) -> float:
        """Return for how many seconds a request is made again and again."""
        if signals.received() is not None:
            return LEAVING_TIMEOUT_SECONDS
        return STORE_TIMEOUT_SECONDS if self._is_reached else CONTACT_SECONDS

    def _refusal(self, error: BaseException, no_bucket: bool) -> str:
        """Say what is wrong that does not pass by waiting; nothing where it may."""
        if isinstance(error, PermissionError):
            return "access is denied; check the credentials and the bucket"
        if self._is_reached:
            return ""
        if no_bucket:
            return NO_BUCKET
        if type(error).__name__ in NO_CREDENTIALS:
            return f"there are no credentials ({error}); set AWS_ACCESS_KEY_ID and the like"
        return ""


def is_url(text: str) -> bool:
    """Tell whether a text is an address such as s3://bucket/folder, rather than a path."""
    return "://" in text


def check_url(url: str) -> str:
    """Return an address without its last slash, or say what is wrong with it."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise MetabenchError(
            f"{parts.scheme}://...: an address must hold no credentials and no parameters, which would be "
            "written into files; set AWS_ACCESS_KEY_ID and the like, or use the machine's own role"
        )
    library, extra = EXTRAS.get(parts.scheme, ("", ""))
    if not library and parts.scheme != "memory":
        raise MetabenchError(f"{url}: must be a path, or start with one of s3://, gs://")
    if not parts.netloc:
        raise MetabenchError(f"{url}: names no bucket; give {parts.scheme}://BUCKET/FOLDER")
    if library and importlib.util.find_spec(library) is None:
        raise MetabenchError(
            f"{url}: needs {library}, which is not installed; do: pip install 'metabench[{extra}]'"
        )
    return url.rstrip("/")


def _in_time(
    request: Callable[[], Any], begun: float, patience: float, what: str, is_said: threading.Event
) -> Any:
    """Make a request, for as long as is left since a time, and say once what is waited for."""
    results: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            results.put((request(), None))
        except BaseException as error:  # noqa: BLE001  it is handed on
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    for limit in (SAID_AFTER, patience):
        with contextlib.suppress(queue.Empty):
            answer, error = results.get(timeout=max(0.1, begun + limit - time.monotonic()))
            if error is not None:
                raise error
            return answer
        _say(what, is_said)
    raise TimeoutError


def _say(what: str, is_said: threading.Event) -> None:
    if not is_said.is_set():
        logging.getLogger(__name__).warning("%s: waiting for the storage", what)
        is_said.set()


def _code(error: BaseException) -> str:
    """Return the store's own word for an error."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def faults() -> tuple[type[BaseException], ...]:
    """Return what the libraries raise where the network or the store is out of order."""
    names = {
        "botocore.exceptions": ("BotoCoreError", "ClientError"),
        "aiohttp": ("ClientError",),
        "gcsfs.retry": ("HttpError",),
        "google.auth.exceptions": ("GoogleAuthError",),
    }
    loaded = [
        (sys.modules[module], name) for module in names if module in sys.modules for name in names[module]
    ]
    return (OSError, *(getattr(module, name) for module, name in loaded))


def split(data: bytes, size: int) -> list[bytes]:
    """Split JSON lines where a part is full, always at the same places; no data are one empty part."""
    parts, start = [], 0
    while len(data) - start > size:
        end = data.find(b"\n", start + size - 1) + 1
        if not end or end == len(data):
            break
        parts.append(data[start:end])
        start = end
    return [*parts, data[start:]]


def part_name(name: str, number: int) -> str:
    """Name a part of a growing file: the first has the file's own name."""
    return name if number == 0 else f"{name}.{number:06d}"


def whole_name(name: str) -> str:
    """Return the name of the file that an object is, or is a part of."""
    stem, _, number = name.rpartition(".")
    return stem if stem.endswith(".jsonl") and number.isdigit() else name


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, safe on disk when this returns, of which a reader, or a crash, sees all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide results from a colleague
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _tag(info: dict[str, Any]) -> str:
    changing = next((info[key] for key in ("ETag", "etag", "mtime", "created", "updated") if key in info), "")
    return f"{changing} {info.get('size')}"


def _stamp(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return f"{status.st_mtime_ns} {status.st_size}"
    return ""
