"""What is fetched is the server's bytes, whatever the connection does; nothing half has a final name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from metabench.core import MetabenchError
from metabench.data.reading import fetch
from tests.data.reading.server import Behaviour, serving

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause for milliseconds where users wait for seconds."""
    monkeypatch.setattr(fetch, "PAUSE", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Behaviour]]:
    """Serve a folder with one file."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    with serving(folder) as served:
        yield served


def save(url: str, folder: Path, md5: str | None = MD5) -> bytes:
    path = folder / "got"
    fetch.Client(url, 2).save(f"{url}/file", path, md5)
    assert sorted(one.name for one in folder.iterdir() if one.is_file()) == ["got"], "nothing else is left"
    return path.read_bytes()


def test_a_part_is_those_bytes_and_the_length_of_all(server: tuple[str, Behaviour]) -> None:
    url, _ = server
    client = fetch.Client(url, 1)
    assert client.part(f"{url}/file", 1000, 1300) == (CONTENT[1000:1300], len(CONTENT))
    end = len(CONTENT)
    assert client.part(f"{url}/file", end - 10, end + 90) == (CONTENT[-10:], end)


def test_a_file_that_moved_is_followed(server: tuple[str, Behaviour]) -> None:
    url, _ = server
    part = fetch.Client(url, 1).part(f"{url}/moved/file", 1000, 1300)
    assert part == (CONTENT[1000:1300], len(CONTENT))


def test_proxies_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "here.org")
    assert isinstance(fetch.Client("https://there.org", 1).pool, urllib3.ProxyManager)
    assert not isinstance(fetch.Client("https://here.org", 1).pool, urllib3.ProxyManager)


def test_one_connection_carries_many_requests(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    client = fetch.Client(url, 1)
    for start in range(20):
        client.part(f"{url}/file", start, start + 1)
    assert len(behaviour.seen) == 20
    assert len(behaviour.connections) == 1


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_file_that_is_cut_off_goes_on_where_it_broke(
    server: tuple[str, Behaviour], tmp_path: Path, md5: str | None
) -> None:
    url, behaviour = server
    behaviour.cuts = [100_000, 0, 200_000]
    assert save(url, tmp_path, md5) == CONTENT
    assert [span for _, span in behaviour.seen] == [None, "bytes=100000-", "bytes=100000-", "bytes=300000-"]


def test_connections_that_bring_something_each_time_are_never_given_up(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.cuts = [50_000] * (fetch.TRIES + 3)
    assert save(url, tmp_path) == CONTENT


def test_another_process_goes_on_with_what_a_killed_one_left(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    (tmp_path / ".got.part").write_bytes(CONTENT[:300_000])
    assert save(url, tmp_path) == CONTENT
    assert [span for _, span in behaviour.seen] == ["bytes=300000-"]


@pytest.mark.parametrize("left", [b"another version" * 100, CONTENT + b"more"])
def test_what_was_left_of_another_version_is_thrown_away(
    server: tuple[str, Behaviour], tmp_path: Path, left: bytes
) -> None:
    (tmp_path / ".got.part").write_bytes(left)
    assert save(server[0], tmp_path) == CONTENT


def test_a_part_that_was_whole_already_is_only_renamed(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    (tmp_path / ".got.part").write_bytes(CONTENT)
    assert save(server[0], tmp_path) == CONTENT


def test_wrong_bytes_are_refused_and_not_kept(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.change = lambda path, content: content[:-1] + b"?"
    with pytest.raises(
        MetabenchError, match=rf"{url}/file: damaged or replaced: its MD5 is \w+, must be {MD5}"
    ):
        save(url, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["served"]


def test_a_missing_file_is_told_at_once(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    with pytest.raises(MetabenchError, match=rf"{url}/nothing: HTTP 404 Not Found; check the address"):
        fetch.Client(url, 1).part(f"{url}/nothing", 0, 10)
    assert len(behaviour.seen) == 1


@pytest.mark.parametrize("code", sorted(fetch.PASSING))
def test_a_server_in_trouble_is_asked_again(server: tuple[str, Behaviour], code: int) -> None:
    url, behaviour = server
    behaviour.codes = [code, code]
    assert fetch.Client(url, 1).part(f"{url}/file", 0, 10)[0] == CONTENT[:10]
    assert len(behaviour.seen) == 3


def test_a_server_that_stays_in_trouble_is_given_up(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.codes = [500] * 100
    with pytest.raises(MetabenchError, match=r"HTTP 500 .* given up after 5 attempts.* goes on from here"):
        fetch.Client(url, 1).part(f"{url}/file", 0, 10)
    assert len(behaviour.seen) == fetch.TRIES


def test_a_part_that_is_cut_off_is_asked_for_again(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.cuts = [5, 0]
    assert fetch.Client(url, 1).part(f"{url}/file", 0, 10)[0] == CONTENT[:10]


def test_a_server_that_does_not_answer_at_all_is_named() -> None:
    with pytest.raises(MetabenchError, match=r"http://127.0.0.1:1/file: .*refused.*given up after 5"):
        fetch.Client("http://127.0.0.1:1", 1).part("http://127.0.0.1:1/file", 0, 10)


@pytest.mark.parametrize("url", ["ftp://here", "/a/folder", "here.org"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(MetabenchError, match=rf"url={url}: must be an address that starts with https://"):
        fetch.Client(url, 1)


def test_a_server_without_ranges_is_refused_for_parts_but_serves_whole_files(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.has_ranges = False
    with pytest.raises(MetabenchError, match=r"HTTP 200: it sends whole files only.*or fetch whole files"):
        fetch.Client(url, 1).part(f"{url}/file", 0, 10)
    behaviour.cuts = [1000]
    assert save(url, tmp_path, None) == CONTENT


def test_a_file_of_unknown_length_is_kept_only_where_a_checksum_tells_its_end(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.has_length = False
    with pytest.raises(MetabenchError, match="does not tell the file's length"):
        save(url, tmp_path, None)
    assert not (tmp_path / "got").exists()
    assert save(url, tmp_path) == CONTENT


def test_silence_is_waited_for_only_so_long(
    server: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = server
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.02)
    monkeypatch.setattr(fetch, "TRIES", 2)
    behaviour.silence = 0.1
    with pytest.raises(MetabenchError, match=r"[Tt]imed out.*given up after 2 attempts"):
        fetch.Client(url, 1).part(f"{url}/file", 0, 10)


def test_a_trickle_is_waited_for_only_so_long(
    server: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = server
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.08)
    monkeypatch.setattr(fetch, "TRIES", 2)
    behaviour.silence, behaviour.piece = 0.02, 1
    with pytest.raises(MetabenchError, match=r"\d bytes in 0 seconds; given up after 2 attempts"):
        fetch.Client(url, 1).part(f"{url}/file", 0, 100)


def test_a_slow_server_is_patiently_read(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.silence, behaviour.piece = 0.01, 50_000
    assert save(url, tmp_path) == CONTENT


def test_the_first_failure_leaves_the_rest(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    client = fetch.Client(url, 2)
    names = ["file", "nothing", *["file"] * 500]
    with pytest.raises(MetabenchError, match="nothing: HTTP 404"):
        list(client.each(2, names, lambda name: client.part(f"{url}/{name}", 0, 10)))
    assert len(behaviour.seen) < 400
