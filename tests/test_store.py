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

from metabench import store
from metabench.core import MetabenchError


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": []}}
    store.write_json(tmp_path / "deep" / "x.json", value)
    assert store.read_json(tmp_path / "deep" / "x.json") == value


def test_a_number_that_is_not_finite_is_null_in_standard_json(tmp_path: Path) -> None:
    value = {"x": math.nan, "y": [math.inf, np.float32("nan")], "z": np.array([[1.0, -math.inf]])}
    store.write_json(tmp_path / "x.json", value)
    store.append_line(tmp_path / "x.jsonl", value)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    expected = {"x": None, "y": [None, None], "z": [[1.0, None]]}
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse) == expected
    assert store.read_lines(tmp_path / "x.jsonl") == [expected]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    store.write_json(path, 1)

    def fail(*names: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        store.write_json(path, 2)
    assert store.read_json(path) == 1
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_torn_last_line_is_dropped_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    store.append_line(path, {"n": 1})
    for torn in (b'{"n": 2', b'{"n": 2}', b"x" * 200_000, b"\x00\xff"):
        path.write_bytes(b'{"n": 1}\n' + torn)
        assert store.read_lines(path) == [{"n": 1}]
        store.append_line(path, {"n": 3})
        assert store.read_lines(path) == [{"n": 1}, {"n": 3}]


def test_a_file_with_only_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n"')
    assert store.read_lines(path) == []
    store.append_line(path, 1)
    assert store.read_lines(path) == [1]
    assert store.read_lines(tmp_path / "absent.jsonl") == []


def test_a_broken_file_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("1\n{\n3\n")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(MetabenchError, match=r"x\.jsonl: line 2"):
        store.read_lines(tmp_path / "x.jsonl")
    with pytest.raises(MetabenchError, match=r"x\.json: not JSON"):
        store.read_json(tmp_path / "x.json")
    with pytest.raises(MetabenchError, match=r"absent\.json: cannot be read"):
        store.read_json(tmp_path / "absent.json")


def test_a_later_line_of_a_trial_replaces_the_earlier(tmp_path: Path) -> None:
    for trial, status in (("a-0", "failed"), ("a-1", "complete"), ("a-0", "complete")):
        store.append_line(tmp_path / store.TRIALS, {"trial": trial, "status": status})
    assert {name: line["status"] for name, line in store.read_trials(tmp_path).items()} == {
        "a-0": "complete",
        "a-1": "complete",
    }


HOLD = """
import sys, pathlib
from metabench import store
with store.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_told_who_holds_the_folder_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MetabenchError, match=f"in use by process {holder.pid};"), store.lock(tmp_path):
            raise AssertionError("two drivers")
        holder.kill()
    with store.lock(tmp_path):
        assert (tmp_path / store.LOCK).read_text() == str(os.getpid())
    with store.lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused_and_a_check_leaves_no_trace(tmp_path: Path) -> None:
    store.check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(MetabenchError, match="cannot write in"):
        store.check_writable(tmp_path / "file" / "runs")
    with pytest.raises(MetabenchError, match="cannot write in"):
        store.check_writable(Path("/proc/metabench"))


def test_the_environment_names_versions_but_not_the_host_and_imports_no_torch() -> None:
    script = "import sys, json; from metabench import store; e = store.environment();"
    script += "assert 'torch' not in sys.modules; print(json.dumps(e))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    environment = json.loads(done.stdout)
    assert set(environment) == {"versions", "commit", "device"}
    assert environment["versions"]["numpy"] == np.__version__
    assert "cores" in environment["device"]
    assert os.uname().nodename not in environment["device"].split()


def test_lines_that_are_rewritten_replace_the_file(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        store.append_line(tmp_path / "x.jsonl", value)
    store.write_lines(tmp_path / "x.jsonl", [1, 2])
    store.append_line(tmp_path / "x.jsonl", 4)
    assert store.read_lines(tmp_path / "x.jsonl") == [1, 2, 4]
    store.write_lines(tmp_path / "x.jsonl", [])
    assert store.read_lines(tmp_path / "x.jsonl") == []
