"""What the system refuses is one message and exit code 2 in every command: too long, unreadable, no path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from metabench import data
from metabench.storage import files
from metabench.training import run as runs
from tests.cli.test_bad_input import SPACE, metabench, refused
from tests.support import small

LONG = "a" * 260
READING = ("status", "leaderboard", "compare", "across", "tensorboard", "report", "test")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder with a space and a run."""
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    splits = small.splits()
    runs.claim(small.config(), splits, tmp_path / "run")


@pytest.mark.parametrize(
    "command",
    [
        *(f"search space.yaml --name {name}" for name in (LONG, f"z --out {LONG}", f"z --storage {LONG}")),
        f"search space.yaml --name z --warm-start {LONG}",
        *(f"{name} {LONG}" for name in (*READING, "simulate")),
        f"report run --out {LONG}.html",
        f"report run --out {LONG[:250]}.html",
        f"datasets tasks glyphs --out {LONG}",
        f"train --algorithm maml --dataset glyphs --out {LONG}",
        f"export run --out {LONG}",
    ],
)
def test_what_is_too_long_is_one_message(command: str) -> None:
    said = refused(metabench(*command.split()))
    assert LONG not in said
    assert "..." in said or "at most 100" in said


@pytest.mark.parametrize(
    "command",
    [
        "search space.yaml --out s3://bucket/x",
        "search s3://bucket/space.yaml",
        "train --algorithm maml --dataset glyphs --out s3://bucket/x",
        "test s3://bucket/x",
        "report run --out gs://bucket/report.html",
        "export run --out s3://bucket/x",
        "datasets tasks glyphs --out s3://bucket/x",
    ],
)
def test_an_address_is_no_path(command: str) -> None:
    refused(metabench(*command.split()), "must be a path on this machine", "search --storage")
    assert sorted(os.listdir()) == ["run", "space.yaml"]


def test_what_a_user_typed_moves_no_cursor() -> None:
    said = refused(metabench("status", "no\x1b[2Jsearch"))
    assert "\x1b" not in said
    assert "no\\x1b[2Jsearch" in said


def test_nothing_is_trained_into_a_search() -> None:
    files.write_json(Path("it") / files.SEARCH, {"seed": 0})
    for folder in ("it", "it/final/mine"):
        flags = ("--algorithm", "maml", "--dataset", "glyphs", "--out", folder)
        refused(metabench("train", *flags), "--out", "lies in the search", "choose a folder outside")
    assert os.listdir("it") == [files.SEARCH]


def test_out_of_memory_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB")

    monkeypatch.setattr(runs, "train_run", fail)
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits())
    flags = ("--algorithm", "maml", "--dataset", "glyphs", "--way", "3", "--query", "2", "--test-query", "3")
    refused(metabench("train", *flags), "out of memory: ", "1 TB", "`task_batch_size`")


def as_nobody(command: list[str]) -> tuple[int, str]:
    """Run a command as a user who owns nothing, and return its exit code and what it said."""
    metabench(*command)  # imports what it needs: nobody may read where this Python lies
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setgid(65534)
        os.setuid(65534)
        result = metabench(*command)
        os.write(writing, f"{type(result.exception).__name__} {result.stderr}".encode()[:4000])
        os._exit(result.exit_code)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize("name", [*READING, "export --out out"])
def test_what_may_not_be_read_is_one_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").chmod(0o700)
    code, said = as_nobody([*name.split(), str(tmp_path / "run")])
    assert code == 2, said
    assert said.startswith("SystemExit")
    assert "Permission denied" in said
