"""Who may drive a search in object storage: one process at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metabench.core import MetabenchError
from metabench.storage import files, remote
from metabench.storage.remote import lease


@pytest.fixture
def copies(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> list[remote.Mirror]:
    """Return two machines' copies of one address, in a world where everything goes faster."""
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(lease, "SILENT_AFTER", 1.0)
    monkeypatch.setattr(lease, "SETTLING", 0.1)
    return [remote.Mirror(tmp_path / name, url) for name in ("a", "b")]


def elsewhere(copy: remote.Mirror) -> None:
    """Leave the lease of a machine that is not this one."""
    content = {"token": "x", "count": 0, "free": False, "host": "another", "pid": 1}
    copy.write(lease.NAME, json.dumps(content).encode())


def test_a_second_driver_is_refused_while_the_first_lives(copies: list[remote.Mirror]) -> None:
    first, second = copies
    with (
        lease.hold(first),
        pytest.raises(MetabenchError, match=r"in use by process \d+ on .*choose another name"),
        lease.hold(second),
    ):
        pass
    with lease.hold(second):  # and let in once the first has ended
        pass


def test_a_driver_that_fell_silent_is_waited_for_and_replaced(copies: list[remote.Mirror]) -> None:
    first, second = copies
    elsewhere(first)
    messages: list[str] = []
    begun = time.monotonic()
    with lease.hold(second, messages.append):
        assert 1.0 < time.monotonic() - begun < 10
    assert messages == [f"{second.url}: waiting whether process 1 on another still drives this search"]


HOLD = """
import sys, time
from pathlib import Path
from metabench.core import MetabenchError
from metabench.storage import remote
from metabench.storage.remote import lease
lease.RENEWED_EVERY, lease.SILENT_AFTER, lease.SETTLING = 0.5, 4.0, 0.1
folder, url, seconds = sys.argv[1:]
try:
    with lease.hold(remote.Mirror(Path(folder), url)):
        Path(folder).touch()
        time.sleep(float(seconds))
except MetabenchError as error:
    print(error)
"""


ISOLATED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def cannot_isolate() -> str:
    """Say why no process can get a world of its own here; nothing where it can."""
    if shutil.which("unshare") is None:
        return "needs unshare"
    tried = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True)
    return f"needs root: {tried.stderr.strip()}" if tried.returncode else ""


@pytest.mark.skipif(bool(cannot_isolate()), reason=cannot_isolate() or "-")
def test_a_live_driver_in_another_container_with_the_name_of_this_machine_is_not_taken_over(
    tmp_path: Path, url: str
) -> None:
    def hold(name: str, seconds: int) -> subprocess.Popen[str]:
        # The holder is no first process, so that its number is nobody's in the other container.
        script = '/bin/true; "$0" -c "$1" "$2" "$3" "$4"; exit' if seconds else 'exec "$0" "$@"'
        arguments = [HOLD] if seconds else ["-c", HOLD]
        command = ["sh", "-c", script, sys.executable, *arguments, str(tmp_path / name), url, str(seconds)]
        return subprocess.Popen([*ISOLATED, *command], stdout=subprocess.PIPE, text=True)

    first = hold("first", 600)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "first").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        second, _ = hold("second", 0).communicate(timeout=60)
    finally:
        first.kill()
        first.communicate()
    assert "in use by process" in second
    assert not (tmp_path / "second").exists()


def is_lost(copy: remote.Mirror) -> bool:
    """Tell whether nothing may be written any more."""
    try:
        copy.guard()
    except MetabenchError:
        return True
    return False


def test_who_lost_the_lease_writes_nothing_more(copies: list[remote.Mirror], tmp_path: Path) -> None:
    first, second = copies
    remote._mirrors[first.local] = first
    try:
        with lease.hold(first):
            files.write_text(first.local / "before", "a")
            deadline = time.monotonic() + 60  # the first notices at its next renewal
            while not is_lost(first) and time.monotonic() < deadline:
                second.write(lease.NAME, b'{"token": "other"}')  # again: a renewal may have been under way
                time.sleep(0.2)
            with pytest.raises(MetabenchError, match="another process has taken this search over"):
                files.write_text(first.local / "after", "a")
    finally:
        remote.detach(first.local)
    assert second.read("before") == b"a"
    assert second.read("after") is None
    assert second.read(lease.NAME) == b'{"token": "other"}'  # nor does it free what is not its own
