"""The store: what survives a crash, a second writer and a number that is not finite."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metabench.core import MetabenchError
from metabench.storage import files, records


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": []}}
    files.write_json(tmp_path / "deep" / "x.json", value)
    assert files.read_json(tmp_path / "deep" / "x.json") == value


def test_a_number_that_is_not_finite_is_null_in_standard_json(tmp_path: Path) -> None:
    value = {"x": math.nan, "y": [math.inf, np.float32("nan")], "z": np.array([[1.0, -math.inf]])}
    files.write_json(tmp_path / "x.json", value)
    files.append_line(tmp_path / "x.jsonl", value)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    expected = {"x": None, "y": [None, None], "z": [[1.0, None]]}
    standard = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert standard == {**expected, files.CHECKSUM: standard[files.CHECKSUM]}
    assert files.read_lines(tmp_path / "x.jsonl") == [expected]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, 1)

    def fail(*names: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_json(path, 2)
    assert files.read_json(path) == 1
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_torn_last_line_is_dropped_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    files.append_line(path, {"n": 1})
    for torn in (b'{"n": 2', b'{"n": 2}', b"x" * 200_000, b"\x00\xff"):
        path.write_bytes(b'{"n": 1}\n' + torn)
        assert files.read_lines(path) == [{"n": 1}]
        files.append_line(path, {"n": 3})
        assert files.read_lines(path) == [{"n": 1}, {"n": 3}]


def test_a_file_with_only_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n"')
    assert files.read_lines(path) == []
    files.append_line(path, 1)
    assert files.read_lines(path) == [1]
    assert files.read_lines(tmp_path / "absent.jsonl") == []


def test_a_broken_file_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("1\n{\n3\n")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(MetabenchError, match=r"x\.jsonl: line 2"):
        files.read_lines(tmp_path / "x.jsonl")
    with pytest.raises(MetabenchError, match=r"x\.json: is not JSON"):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(MetabenchError, match=r"absent\.json: cannot be read"):
        files.read_json(tmp_path / "absent.json")


def test_a_later_line_of_a_trial_replaces_the_earlier(tmp_path: Path) -> None:
    line = {"algorithm": "a", "hyperparameters": {}, "is_default": False, "tasks_seen": 1, "seconds": 1.0}
    for trial, status in (("a-0", "failed"), ("a-1", "complete"), ("a-0", "complete")):
        files.append_line(tmp_path / files.TRIALS, {**line, "trial": trial, "status": status})
    assert {name: line["status"] for name, line in records.trials(tmp_path).items()} == {
        "a-0": "complete",
        "a-1": "complete",
    }


HOLD = """
import sys, pathlib
from metabench.storage import files
with files.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_told_who_holds_the_folder_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MetabenchError, match=f"in use by process {holder.pid};"), files.lock(tmp_path):
            raise AssertionError("two drivers")
        holder.kill()
    with files.lock(tmp_path):
        assert (tmp_path / files.LOCK).read_text() == str(os.getpid())
    with files.lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused_and_a_check_leaves_no_trace(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(MetabenchError, match="cannot write in"):
        files.check_writable(tmp_path / "file" / "runs")
    with pytest.raises(MetabenchError, match="cannot write in"):
        files.check_writable(Path("/proc/metabench"))


def test_the_environment_names_versions_but_not_the_host_and_imports_no_torch() -> None:
    script = "import sys, json; from metabench.storage import files; e = files.environment();"
    script += "assert 'torch' not in sys.modules; print(json.dumps(e))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    environment = json.loads(done.stdout)
    assert set(environment) == {"versions", "commit", "device"}
    assert environment["versions"]["numpy"] == np.__version__
    assert "cores" in environment["device"]
    assert os.uname().nodename not in environment["device"].split()


def test_lines_that_are_rewritten_replace_the_file(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        files.append_line(tmp_path / "x.jsonl", value)
    files.write_lines(tmp_path / "x.jsonl", [1, 2])
    files.append_line(tmp_path / "x.jsonl", 4)
    assert files.read_lines(tmp_path / "x.jsonl") == [1, 2, 4]
    files.write_lines(tmp_path / "x.jsonl", [])
    assert files.read_lines(tmp_path / "x.jsonl") == []


def flips(data: bytes) -> list[bytes]:
    """Change each digit, one at a time."""
    return [
        data[:place] + (b"1" if byte != ord("1") else b"2") + data[place + 1 :]
        for place, byte in enumerate(data)
        if chr(byte).isdigit()
    ]


def test_a_changed_digit_is_noticed_wherever_it_stands(tmp_path: Path) -> None:
    value = {"accuracy": [0.25, 0.75], "seen": 100, "deep": {"n": 3}}
    record, lines = tmp_path / "x.json", tmp_path / "x.jsonl"
    files.write_json(record, value)
    files.append_line(lines, value)
    files.append_line(lines, value)
    whole = record.read_bytes()
    assert len(flips(whole)) > 10
    for changed in flips(whole):
        record.write_bytes(changed)
        with pytest.raises(files.Damaged, match=r"x\.json: is not what was written.*take it from a copy"):
            files.read_json(record)
    for changed in flips(lines.read_bytes()):
        lines.write_bytes(changed)
        with pytest.raises(files.Damaged, match=r"x\.jsonl: line [12] is not what was written"):
            files.read_lines(lines)


def test_a_line_that_is_gone_or_in_another_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for number in range(4):
        files.append_line(path, {"n": number})
    lines = path.read_bytes().splitlines(keepends=True)
    files.write_lines(path, [{"n": number} for number in range(4)])
    assert path.read_bytes().splitlines(keepends=True) == lines
    for order in ([1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 2]):
        path.write_bytes(b"".join(lines[number] for number in order))
        with pytest.raises(files.Damaged, match=r"line \d is not what was written, by its checksum"):
            files.read_lines(path)
    path.write_bytes(lines[0] + lines[1])
    assert files.read_lines(path) == [{"n": 0}, {"n": 1}]  # as after a kill


def test_lines_of_before_are_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for number in range(2):
        files.write_lines(tmp_path / f"{number}.jsonl", [{"n": number}])
    path.write_bytes(b"".join((tmp_path / f"{number}.jsonl").read_bytes() for number in range(2)))
    files.append_line(path, {"n": 2})
    assert [line["n"] for line in files.read_lines(path)] == [0, 1, 2]
    first, _, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + last)
    with pytest.raises(files.Damaged, match="line 2"):
        files.read_lines(path)


def test_what_a_person_wrote_needs_no_checksum(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n[]\n')
    assert files.read_json(tmp_path / "x.json") == {"a": 1}
    assert files.read_lines(tmp_path / "x.jsonl") == [{"a": 1}, []]


def test_what_can_be_made_again_is_set_aside_and_said(tmp_path: Path) -> None:
    path, said = tmp_path / "x.json", list[str]()
    assert files.recover(path, said.append) is None
    files.write_json(path, {"a": 1})
    assert files.recover(path, said.append) == {"a": 1}
    assert said == []
    path.write_text('{"a": 1')
    assert files.recover(path, said.append) is None
    assert "x.json: is not JSON" in said[0]
    assert "it lies in x.json.damaged now, and is made anew" in said[0]
    assert [one.name for one in tmp_path.iterdir()] == ["x.json.damaged"]


def test_what_is_written_in_place_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("everything")
    folder = tmp_path / "it"
    folder.mkdir()
    (folder / files.LOCK).symlink_to(precious)
    (folder / "journal.jsonl").symlink_to(precious)
    with pytest.raises(MetabenchError, match="is a link to another file"), files.lock(folder):
        pass
    with pytest.raises(MetabenchError, match="is a link to another file"):
        files.append_line(folder / "journal.jsonl", {})
    assert precious.read_text() == "everything"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "a\x1b[1m", "a" * 101, "a\n"])
def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(MetabenchError, match=r"(?s)^name=.*one plain name"):
        files.check_name(name, "name")
    files.check_name("A-plain_name.2", "name")


def test_a_cell_is_no_formula() -> None:
    for text in ("=1+1", "+1", "-a", "@a", "\tx"):
        assert files.as_cell(text) == f"'{text}"
    for value in ("a=1", -1.5, None, "", {"a": 1}):
        assert files.as_cell(value) == value


WRITE = """
import os, pathlib, sys
from metabench.storage import files
os.replace = lambda *names: os._exit(9)  # as a kill in the middle of a writing
files.write_json(pathlib.Path(sys.argv[1]) / "deep" / "x.json", 1)
"""


def test_what_a_killed_process_was_writing_goes_when_the_folder_is_held_again(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", WRITE, str(tmp_path)]).returncode == 9
    (tmp_path / "deep" / "mine.part").touch()
    assert len(list((tmp_path / "deep").iterdir())) == 2
    with files.lock(tmp_path):
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mine.part"]
