"""Whether a file holds what it should, and whether a folder is held."""

from __future__ import annotations

import fcntl
from pathlib import Path

from metabench.storage import files, records


def test_what_is_missing_is_not_whole_but_lines_need_not_be_there_yet(tmp_path: Path) -> None:
    assert not records.is_whole(tmp_path / files.CHOSEN)
    assert records.is_whole(tmp_path / files.TRIALS)
    files.write_json(tmp_path / files.CHOSEN, {"maml": None})
    assert records.is_whole(tmp_path / files.CHOSEN)
    (tmp_path / files.CHOSEN).write_text("[]")
    assert not records.is_whole(tmp_path / files.CHOSEN)


def test_who_asks_whether_a_folder_is_held_is_not_taken_for_its_holder(tmp_path: Path) -> None:
    with files.lock(tmp_path):
        pass
    with open(tmp_path / files.LOCK) as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # as another `is_locked` does
        assert not files.is_locked(tmp_path)
