"""A local folder that stands for a folder of an object store."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from metabench.core import MetabenchError, OutOfOrder, signals
from metabench.storage.remote import address
from metabench.storage.remote.parts import part_name, split, whole_name

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds for which a store that does not answer is asked again, before the process gives up."""

LEAVING = 10.0
"""Seconds for the same once the process was asked to stop: it will be killed if it does not."""

ORIGIN = ".storage"
"""File of a copy that says which address it is a copy of."""


class Copy:
    """A local folder that stands for a folder of an object store."""

    def __init__(self, local: Path, url: str, is_scratch: bool = False) -> None:
        import fsspec

        self.local = local
        self.is_scratch = is_scratch
        self.url = address.check_url(url)
        options = address.OPTIONS.get(urlsplit(url).scheme, {})
        # It prints a traceback for each connection that breaks, which is seen, and tried again, here.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        # Listings are asked for anew: other processes write there.
        self.fs, self.root = fsspec.core.url_to_fs(
            self.url, use_listings_cache=False, skip_instance_cache=True, **options
        )
        self.guard: Callable[[], None] = lambda: None
        """Called before each writing; raises where this process may not write any more."""
        self._parts: dict[str, list[int]] = {}  # checksums of what is stored of growing files

    def put(self, path: Path) -> None:
        """Store a file as it is now; a file of JSON lines in parts."""
        name = path.absolute().relative_to(self.local).as_posix()
        self.guard()
        data = path.read_bytes()
        if path.suffix != ".jsonl":
            self.write(name, data)
            return
        parts = split(data)
        known = self._parts.get(name)
        sums = [zlib.crc32(part) for part in parts]
        for number, part in enumerate(parts):
            if known is None or known[number : number + 1] != [sums[number]]:
                self.write(part_name(name, number), part)
        if known is None:
            stale = [other for other in self._find(name + ".") if int(other.rpartition(".")[2]) >= len(parts)]
        else:
            stale = [part_name(name, number) for number in range(len(parts), len(known))]
        for other in stale:
            self._delete(other)
        self._parts[name] = sums

    def remove(self, path: Path) -> None:
        """Remove a file or a folder from the store; one that is not there is fine."""
        name = path.absolute().relative_to(self.local).as_posix()
        self.guard()
        for found in self._find(name):
            if found == name or found.startswith((name + "/", name + ".000")):
                self._delete(found)
        for known in [known for known in self._parts if known == name or known.startswith(name + "/")]:
            del self._parts[known]

    def fetch(self, within: str = "", skip: Callable[[str], bool] = lambda name: False) -> None:
        """Make the copy, or a folder in it, what the store holds; what is the same already is not read.

        Args:
            within: path of the folder in the copy.
            skip: tells of a path in the copy whether it is left alone.
        """
        seen = self._seen()
        listed = {name: tag for name, tag in self._listing(within).items() if not skip(name)}
        whole: dict[str, list[str]] = {}
        for name in sorted(listed):
            whole.setdefault(whole_name(name), []).append(name)
        for name, parts in whole.items():
            tag = [listed[part] for part in parts]
            path = self.local / name
            if seen.get(name) != [*tag, _stamp(path)]:
                data = b"".join(self._read(part) for part in parts)
                _replace(path, data)
                self._parts.pop(name, None)
                seen[name] = [*tag, _stamp(path)]
        for path in sorted((self.local / within).rglob("*")):
            name = path.relative_to(self.local).as_posix()
            is_gone = (
                name not in whole and path.is_file() and not path.name.startswith(".") and not skip(name)
            )
            if is_gone and (self.is_scratch or name in seen):  # what a person put there stays
                path.unlink()
                seen.pop(name, None)
        _replace(self.local / ORIGIN, json.dumps({"url": self.url, "seen": seen}).encode())

    def read(self, name: str) -> bytes | None:
        """Read one object; None where there is none."""
        try:
            return self._read(name)
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name; tell whether it was written."""
        try:
            self._patiently(
                lambda: self.fs.pipe_file(f"{self.root}/{name}", data, mode="create"), f"{self.url}/{name}"
            )
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise MetabenchError(f"{self.url}: there is no such bucket; make it first") from error
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write one object."""
        self._patiently(lambda: self._write(name, data), f"{self.url}/{name}")

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.fs.pipe_file(f"{self.root}/{name}", data)
        except FileNotFoundError as error:
            raise ConnectionError(
                f"{self.url}: the bucket is gone"
            ) from error  # it was there, and may be again

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self.fs.rm_file(f"{self.root}/{name}"), f"{self.url}/{name}")

    def _read(self, name: str) -> bytes:
        data: bytes = self._patiently(lambda: self.fs.cat_file(f"{self.root}/{name}"), f"{self.url}/{name}")
        return data

    def _listing(self, within: str) -> dict[str, str]:
        """Map the paths of the store's objects in a folder to what changes when their content does."""
        found = self._patiently(
            lambda: self.fs.find(f"{self.root}/{within}".rstrip("/"), detail=True), f"{self.url}/{within}"
        )
        prefix = len(self.root) + 1
        return {
            path[prefix:]: _tag(info)
            for path, info in found.items()
            if info["type"] == "file" and not Path(path).name.startswith(".")
        }

    def _find(self, prefix: str) -> list[str]:
        folder, _, start = prefix.rpartition("/")
        return [name for name in self._listing(folder) if name.startswith(f"{folder}/{start}".lstrip("/"))]

    def _seen(self) -> dict[str, list[Any]]:
        path = self.local / ORIGIN
        if not path.exists():
            return {}
        try:
            seen: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))["seen"]
        except (ValueError, KeyError, TypeError):
            return {}
        return seen

    def _patiently(self, ask: Callable[[], T], what: str) -> T:
        """Ask again while the store is out of order, longer each time, and give up in the end."""
        begun, pause = time.monotonic(), 0.2
        while True:
            try:
                return ask()
            except (FileNotFoundError, FileExistsError):
                raise
            except PermissionError as error:
                raise OutOfOrder(f"{what}: access is denied; check the credentials and the bucket") from error
            except address.faults() as error:
                patience = PATIENCE if signals.seconds_since() is None else LEAVING
                if time.monotonic() - begun + pause > patience:
                    raise OutOfOrder(
                        f"{what}: the storage has not answered for {time.monotonic() - begun:.0f} s "
                        f"({type(error).__name__}); what was stored is safe, and the same command goes on"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, 20)


def _tag(info: dict[str, Any]) -> str:
    changing = next((info[key] for key in ("ETag", "etag", "mtime", "created", "updated") if key in info), "")
    return f"{changing} {info.get('size')}"


def _stamp(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return f"{found.st_mtime_ns} {found.st_size}"
    return ""


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
