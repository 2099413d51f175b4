"""Downloading parts of files or whole ones, tried again, and never half a file under its final name.

fsspec's web file system is not used for it: it takes a whole file for the part that was asked for where a
server knows no ranges, tries nothing again, and does not tell how long a file is.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from metabench.core import MetabenchError
from metabench.data.reading import cache
from metabench.data.reading.archives import find

TRIES = 5
"""Attempts in a row that bring nothing before we give up."""

PAUSE = 0.5
"""Seconds before the second attempt, on average; each later pause is twice as long."""

TIMEOUT_SECONDS = 20.0
"""How long a server may take to connect, or be silent."""

SLOWEST = 1000
"""Bytes a second below which, after the timeout, a connection is given up and made again."""

CHUNK = 1 << 16
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP codes that may be gone at the next attempt."""

T = TypeVar("T")
Item = TypeVar("Item")

Progress = Callable[[int, int], None]
"""(done, total)"""


class Order(NamedTuple):
    """How a data set is to be fetched."""

    url: str | None = None  # folder of a mirror; None for the official address
    jobs: int = 16  # requests at once
    is_whole: bool = False  # whole files where rows would do
    progress: Progress = lambda done, total: None
    say: Callable[[str], None] = lambda line: None  # tells the user something


class _Passing(Exception):
    """What may be gone at the next attempt."""


class _Stopped(Exception):
    """Another thread failed, or the user pressed Ctrl-C."""


class Client:
    """Connections that are kept open between requests, for several threads."""

    def __init__(self, url: str, n_connections: int) -> None:
        scheme, host = url.partition("://")[0].lower(), urlsplit(url).hostname or ""
        if scheme not in ("http", "https"):
            raise MetabenchError(f"url={url}: must be an address that starts with https:// or http://")
        is_direct = host in ("127.0.0.1", "localhost") or proxy_bypass(host)
        proxy = None if is_direct else getproxies().get(scheme)
        # As many connections as there are threads, kept open.
        manager = partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
        self.pool = manager(maxsize=n_connections)
        self.stopped = threading.Event()

    def part(self, url: str, start: int, stop: int) -> tuple[bytes, int]:
        """Return bytes [start, stop) of a file, fewer where it ends before, and the length of the file."""

        def attempt() -> tuple[bytes, int]:
            with self._opened(url, f"bytes={start}-{stop - 1}") as response:
                if response.status != 206:
                    answer = f"answered a request for {stop - start} bytes with HTTP {response.status}"
                    problem = f"the server {answer}: it sends whole files only"
                    raise MetabenchError(f"{url}: {problem}. Take another url, or fetch whole files")
                first, total = _range_of(response)
                content = b"".join(self._chunks(response))
            expected = min(stop, total) - start
            if first != start or len(content) != expected:
                raise _Passing(f"{len(content)} bytes from {first} came, must be {expected} from {start}")
            return content, total

        return self._tried(url, attempt)

    def save(self, url: str, path: Path, md5: str | None = None, progress: Progress | None = None) -> None:
        """Fetch a whole file, going on where an earlier attempt was cut off; hold a lock meanwhile."""
        part = path.with_name(f".{path.name}.part")
        is_continued = part.is_file() and part.stat().st_size > 0
        with open(part, "ab+") as file:
            while not self._tried(url, lambda: self._more(url, file, md5 is not None, progress)):
                pass
            os.fsync(file.fileno())
            file.seek(0)
            new = partial(hashlib.md5, usedforsecurity=False)
            actual = hashlib.file_digest(file, new).hexdigest() if md5 else None
        if actual == md5:
            os.replace(part, path)
            return
        part.unlink()
        if is_continued:  # the rest may have been appended to the start of another version
            return self.save(url, path, md5, progress)
        problem = f"damaged or replaced: its MD5 is {actual}, must be {md5}; it was not kept"
        raise MetabenchError(f"{url}: {problem}. Run the same command again, or take another url")

    def _more(self, url: str, file: BinaryIO, is_checked: bool, progress: Progress | None) -> bool:
        """Append what is missing; False where the connection broke after something came."""
        here = start = file.seek(0, os.SEEK_END)
        with self._opened(url, f"bytes={start}-" if start else None) as response:
            if response.status == 416:  # nothing lies behind what is here
                if response.headers.get("Content-Range", "").endswith(f"/{start}"):
                    return True
                file.truncate(0)
                return False
            if response.status == 206:
                first, total = _range_of(response)
                if first != start:
                    raise _Passing(f"the answer starts at byte {first}, must start at {start}")
            else:
                here = start = file.truncate(0)
                total = int(response.headers.get("Content-Length", 0))
            if not total and not is_checked:
                raise MetabenchError(f"{url}: the server does not tell the file's length; take another url")
            try:
                for chunk in self._chunks(response):
                    here += file.write(chunk)
                    if progress:
                        progress(here, total or here)
            except (urllib3.exceptions.HTTPError, _Passing):
                if here == start:
                    raise
                return False
        return here == (total or here)

    def _opened(self, url: str, span: str | None) -> urllib3.BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "metabench"}
        response = self.pool.request(
            "GET",
            url,
            headers=headers | ({"Range": span} if span else {}),
            preload_content=False,
            timeout=urllib3.Timeout(connect=TIMEOUT_SECONDS, read=TIMEOUT_SECONDS),
            retries=urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=5),
        )
        if response.status in (200, 206, 416):
            return response
        response.close()
        problem = f"HTTP {response.status} {response.reason}"
        if response.status in PASSING:
            raise _Passing(problem)
        raise MetabenchError(f"{url}: {problem}; check the address, or take another url")

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        begun, n_bytes = time.monotonic(), 0
        while chunk := response.read1(CHUNK):
            yield chunk
            n_bytes += len(chunk)
            seconds = time.monotonic() - begun
            if self.stopped.is_set():
                raise _Stopped
            if seconds > TIMEOUT_SECONDS and n_bytes < SLOWEST * seconds:
                raise _Passing(f"{n_bytes} bytes in {seconds:.0f} seconds")

    def _tried(self, url: str, attempt: Callable[[], T]) -> T:
        for number in range(TRIES):
            if self.stopped.is_set():
                raise _Stopped
            try:
                return attempt()
            except (urllib3.exceptions.HTTPError, _Passing) as error:
                reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
            if number + 1 < TRIES:
                self.stopped.wait(PAUSE * 2**number * random.uniform(0.5, 1.5))
        raise MetabenchError(
            f"{url}: {reason}; given up after {TRIES} attempts. Check the network or take another url; "
            "the same command goes on from here"
        )

    def each(self, jobs: int, items: Iterable[Item], work: Callable[[Item], T]) -> Iterator[tuple[Item, T]]:
        """Do work on all items in threads; at the first failure, or Ctrl-C, the rest is left."""
        with ThreadPoolExecutor(jobs) as pool:
            waiting = {pool.submit(work, item): item for item in items}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except BaseException:
                self.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise


def _range_of(response: urllib3.BaseHTTPResponse) -> tuple[int, int]:
    """Return the first byte of an answer, and how many the file has."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", text.strip())
    if not match:
        raise _Passing(f"Content-Range is {text!r}, must be 'bytes FIRST-LAST/LENGTH'")
    return int(match[1]), int(match[2])


def alone(folder: Path, order: Order) -> AbstractContextManager[None]:
    """Let one process at a time fetch into a folder; the others wait, and then find what it fetched."""
    waiting = f"Waiting for another process that fetches into {folder}"
    return cache.locked(folder / ".fetch.lock", order.say, waiting)


def archives(
    folder: Path, official: str, sums: Mapping[str, str], unpacked: Mapping[str, str], order: Order
) -> None:
    """Fetch the archives of which neither they themselves nor what was unpacked from them are in a folder.

    Args:
        official: address of the folder that they are published in.
        sums: names of the archives to their MD5.
        unpacked: the same to the folders that were unpacked from them.
    """
    base = (order.url or official).rstrip("/")
    client = Client(base, 1)
    with alone(folder, order):
        for name, md5 in sums.items():
            if place := find(folder, unpacked).get(name):
                order.say(f"{place} is here already")
            else:
                client.save(f"{base}/{name}", folder / name, md5, order.progress)
