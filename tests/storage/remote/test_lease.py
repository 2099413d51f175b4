"""Who may drive a search in object storage: one process at a time."""

from __future__ import annotations

import json
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
    told: list[str] = []
    begun = time.monotonic()
    with lease.hold(second, told.append):
        assert 1.0 < time.monotonic() - begun < 10
    assert told == [f"{second.url}: waiting whether process 1 on another still drives this search"]


def test_a_driver_of_this_machine_whose_process_is_gone_is_not_waited_for(
    copies: list[remote.Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENT_AFTER", 60.0)
    first, second = copies
    content = {"token": "x", "count": 0, "free": False, "host": lease.socket.gethostname(), "pid": 2**22 + 1}
    first.write(lease.NAME, json.dumps(content).encode())
    begun = time.monotonic()
    with lease.hold(second):
        assert time.monotonic() - begun < 5


def test_who_lost_the_lease_writes_nothing_more(copies: list[remote.Mirror], tmp_path: Path) -> None:
    first, second = copies
    remote._mirrors[first.local] = first
    try:
        with lease.hold(first):
            files.write_text(first.local / "before", "a")
            second.write(lease.NAME, b'{"token": "other"}')
            time.sleep(0.5)
            with pytest.raises(MetabenchError, match="another process has taken this search over"):
                files.write_text(first.local / "after", "a")
    finally:
        remote.detach(first.local)
    assert second.read("before") == b"a"
    assert second.read("after") is None
    assert second.read(lease.NAME) == b'{"token": "other"}'  # nor does it free what is not its own
