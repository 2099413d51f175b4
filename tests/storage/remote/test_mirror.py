"""Copies of folders in object storage, against a real S3 server on this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metabench.core import MetabenchError
from metabench.storage import files, remote
from metabench.storage.remote import mirror as copy_module
from tests.storage.remote import server


@pytest.fixture
def there(tmp_path: Path, url: str) -> Iterator[Path]:
    """Attach another machine's folder to the same address."""
    folder = tmp_path / "there"
    remote.attach(folder, url, is_scratch=True)
    yield folder
    remote.detach(folder)


def test_what_is_written_here_is_there_at_once(here: Path, there: Path) -> None:
    files.write_json(here / "final" / "config.json", {"a": 1})
    files.append_line(here / "journal.jsonl", {"n": 1})
    files.append_line(here / "journal.jsonl", {"n": 2})
    remote.refresh(there)
    assert files.read_json(there / "final" / "config.json") == {"a": 1}
    assert files.read_lines(there / "journal.jsonl") == [{"n": 1}, {"n": 2}]
    files.write_lines(there / "journal.jsonl", [{"n": 9}])
    remote.refresh(here)
    assert files.read_lines(here / "journal.jsonl") == [{"n": 9}]


def test_a_folder_outside_of_copies_is_not_stored(tmp_path: Path, s3: server.Server) -> None:
    before = s3.objects()
    files.write_text(tmp_path / "a.txt", "a")
    remote.upload(tmp_path / "a.txt")
    remote.refresh(tmp_path)
    assert remote.canonical_url(tmp_path) == str(tmp_path)
    assert s3.objects() == before


def test_a_long_journal_is_stored_in_parts_of_which_only_the_last_is_written_again(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "PART", 200)
    written: list[str] = []
    copy = remote.mirror_of(here)
    assert copy is not None
    write = copy.write
    monkeypatch.setattr(copy, "write", lambda name, data: (written.append(name), write(name, data)))
    for number in range(100):
        files.append_line(here / "journal.jsonl", {"number": number})
    assert len(set(written)) == 20  # 4,490 bytes in parts of 200 and a little more
    assert len(written) == 100  # one writing a line
    remote.refresh(there)
    assert files.read_lines(there / "journal.jsonl") == [{"number": number} for number in range(100)]
    files.write_lines(here / "journal.jsonl", [{"number": -1}])
    remote.refresh(there)
    assert files.read_lines(there / "journal.jsonl") == [{"number": -1}]


def test_another_process_that_goes_on_with_a_journal_keeps_its_lines(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "PART", 100)
    for number in range(40):
        files.append_line(here / "journal.jsonl", {"number": number})
    remote.refresh(there)
    for number in range(40, 60):
        files.append_line(there / "journal.jsonl", {"number": number})
    remote.refresh(here)
    assert files.read_lines(here / "journal.jsonl") == [{"number": number} for number in range(60)]


def test_only_what_has_changed_is_read_again(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        files.write_text(here / name, name)
    remote.refresh(there)
    files.write_text(here / "b", "other")
    read: list[str] = []
    copy = remote.mirror_of(there)
    assert copy is not None
    really = copy.fs.cat_file
    monkeypatch.setattr(copy.fs, "cat_file", lambda path: (read.append(path[-1]), really(path))[1])
    remote.refresh(there)
    assert read == ["b"]
    (there / "a").write_text("spoilt")
    remote.refresh(there)
    assert (there / "a").read_text() == "a"


def test_removing_removes_from_the_store_and_refresh_from_other_copies(here: Path, there: Path) -> None:
    for name in ("trials/maml-1/state/x", "trials/maml-1/reports", "trials/maml-10/state/x"):
        files.write_text(here / name, name)
    remote.refresh(there)
    remote.remove(here / "trials/maml-1/state")
    remote.remove(here / "trials/nobody")
    remote.refresh(there)
    paths = sorted(str(path.relative_to(there)) for path in there.rglob("x"))
    assert paths == ["trials/maml-10/state/x"]


def test_a_persons_own_file_in_a_copy_stays(here: Path, url: str) -> None:
    files.write_text(here / "a", "a")
    (here / "notes.txt").write_text("mine")
    remote.refresh(here)
    assert (here / "notes.txt").read_text() == "mine"


def test_what_is_skipped_is_neither_read_nor_removed(here: Path, there: Path) -> None:
    files.write_text(here / "tb/events", "many")
    files.write_text(here / "a", "a")
    files.write_text(there / "tb/other", "there")
    remote.refresh(there, skip=lambda name: name.startswith("tb/"))
    assert (there / "a").exists()
    assert not (there / "tb/events").exists()
    assert (there / "tb/other").exists()


def test_what_was_forgotten_on_a_node_is_still_stored(here: Path, there: Path) -> None:
    files.write_text(there / "trials/a/state", "state")
    remote.evict(there / "trials/a")
    assert not (there / "trials/a").exists()
    remote.evict(here / "trials")  # no scratch: stays
    remote.refresh(here)
    assert (here / "trials/a/state").read_text() == "state"


def test_a_store_that_is_away_for_a_while_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = server.Server()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "here"
    remote.attach(folder, f"{store.url}/away")
    starter = threading.Timer(1.0, store.start)
    try:
        store.start()
        files.write_text(folder / "before", "b")
        store.stop()
        starter.start()
        begun = time.monotonic()
        files.write_text(folder / "a", "a")  # first no connection, then no bucket, then the bucket
        assert time.monotonic() - begun > 0.5
        assert store.objects() == {"searches/away/a": b"a"}
    finally:
        starter.join()
        store.stop()
        remote.detach(folder)


def test_a_store_that_stays_away_is_named_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = server.Server()
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(copy_module, "STORE_TIMEOUT_SECONDS", 0.5)
    folder = tmp_path / "here"
    remote.attach(folder, f"{store.url}/gone")
    try:
        with pytest.raises(MetabenchError, match=r"s3://.*/gone/a: the storage has not answered"):
            files.write_text(folder / "a", "a")
    finally:
        remote.detach(folder)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/x", "must hold no credentials"),
        ("s3://bucket/x?versionId=1", "must hold no credentials and no parameters"),
        ("ftp://host/x", "must be a path, or start with one of s3://, gs://"),
        ("s3://", "names no bucket"),
    ],
)
def test_an_address_that_will_not_do_is_refused_without_repeating_a_secret(url: str, message: str) -> None:
    with pytest.raises(MetabenchError, match=message) as caught:
        copy_module.check_url(url)
    assert "secret" not in str(caught.value)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copy_module.EXTRAS, "gs", ("no_such_library", "gcs"))
    with pytest.raises(MetabenchError, match=r"needs no_such_library.*pip install 'metabench\[gcs\]'"):
        copy_module.check_url("gs://bucket/x")


def test_a_bucket_that_is_not_there_is_named_at_once(tmp_path: Path, s3: server.Server) -> None:
    with pytest.raises(MetabenchError, match="s3://nowhere/x/lease: there is no such bucket; make it first"):
        remote.Mirror(tmp_path, "s3://nowhere/x").create("lease", b"")
