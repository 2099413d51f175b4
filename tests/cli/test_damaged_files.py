"""Whatever a file of a search or run holds in place of what it should, each command says one thing, or works."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from metabench.cli import app
from metabench.search.journal.ledger import JOURNAL
from metabench.storage import files
from metabench.training import run as runs
from tests.report import played
from tests.report.conftest import quickly
from tests.support import small

LONGEST = 3000
"""Characters of a message, long paths included."""

SECONDS = 10

DEEP = "[" * 100_000
OTHERS: tuple[Any, ...] = (None, True, "x", -1, 0.5, 10**30, [], {}, [None], [[0]], {"x": {}})
"""What may stand in a leaf's place."""


class Case(NamedTuple):
    """One file with something else in it."""

    file: str
    what: str
    damage: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


class Folders(NamedTuple):
    """A search, a run, and a search of another setting."""

    search: Path
    run: Path
    other: Path
    space: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """Play a search of few trials whose final runs are real."""
    base, splits = tmp_path_factory.mktemp("damaged"), small.splits()
    space = played.space(4, ("maml_pp", "protonet"))
    other = space.model_copy(update={"task": space.task.model_copy(update={"way": 2})})
    with quickly():
        found = []
        for name, described in (("search", space), ("other", other)):
            folder = played.finish(played.play(base / name, described, splits), described, splits)
            test = files.read_json(next(folder.glob(f"final/*/{files.TEST}")))
            floor = {key: test[key] for key in ("protocol", "tasks_hash", "accuracy")}
            files.write_json(folder / files.FINAL / files.NEAREST_MEAN, floor)
            for run in folder.glob("final/*-tuned-*"):
                counts = {"queries": [40] * 6, "hits": [20] * 6}
                result = files.read_json(run / files.TEST)
                one = {"accuracy_one_at_a_time": result["accuracy"], "by_class": counts}
                files.write_json(run / files.TEST, {**result, **one, "confused": [[0, 1, 5, 30]]})
            live = {"algorithm": "maml_pp", "tasks_seen": 400, "finite": True, "val_score": 0.5, "seconds": 1.0}
            node = {"address": "10.0.0.1", "cpus": 2.0, "gpus": 0.0}
            snapshot = {"updated": played.FINISHED, "slots": 2, "nodes": [node], "trials": {"maml_pp-009": live}}
            files.write_json(folder / files.RUNNING, snapshot)
            found.append(folder)
        run = Path(shutil.copytree(next(found[0].glob("final/maml_pp-tuned-*")), base / "run"))
        (run / files.TEST).unlink()
        runs.test_run(run, splits, 8)
        path = base / "search.yaml"
        path.write_text(yaml.safe_dump(space.model_dump(mode="json", exclude_none=True)))
        yield Folders(found[0], run, found[1], path)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where everything stands in a value; of a list, its first and last."""
    if place:
        yield place
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*place, key))
    elif isinstance(value, list):
        for key in sorted({0, len(value) - 1} if value else ()):
            yield from leaves(value[key], (*place, key))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return a value with something else at one place, or without it."""
    value = copy.deepcopy(value)
    at = value
    for key in place[:-1]:
        at = at[key]
    if new is Ellipsis:
        del at[place[-1]]
    else:
        at[place[-1]] = new
    return value


def whole_cases(file: str) -> Iterator[Case]:
    """Yield what may stand in the place of a whole file."""
    for what, text in {
        "null": "null\n",
        "list": "[]\n",
        "object": "{}\n",
        "number": "3\n",
        "nothing": "",
        "deep": DEEP,
        "deep object": '{"a":' * 100_000,
        "deep line": f"{DEEP}\n",
        "not a number": '{"protocol": NaN}\n',
        "much": '{"protocol": 1e999, "run": 1' + "0" * 5000 + "}\n",
    }.items():
        yield Case(file, what, lambda path, text=text: path.write_text(text))  # type: ignore[misc]
    yield Case(file, "not UTF-8", lambda path: path.write_bytes(b'{"a": "\xff\xfe\xf3"}\n'))
    yield Case(file, "half", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))
    yield Case(file, "a flipped byte", flip)
    yield Case(file, "a folder", lambda path: (path.unlink(), path.mkdir()))  # type: ignore[func-returns-value]
    yield Case(file, "a loop", lambda path: (path.unlink(), path.symlink_to(path.name)))  # type: ignore[func-returns-value]
    yield Case(file, "gone", lambda path: path.unlink())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def leaf_cases(root: Path, file: str) -> Iterator[Case]:
    """Yield a JSON file with something else at each of its places, in turn, as if it had been written so."""
    path = root / file
    if path.suffix == ".json":
        value = files.read_json(path)
        for place in leaves(value):
            for new in (*OTHERS, ...):
                yield Case(file, f"{place} {new!r}", lambda path, v=value, p=place, n=new: files.write_json(path, changed(v, p, n)))  # type: ignore[misc]
    elif path.suffix == ".jsonl":
        lines = files.read_lines(path)
        kinds = {line.get("event", ""): number for number, line in enumerate(lines)}
        for number in kinds.values():
            for place in leaves(lines[number]):
                for new in (*OTHERS, ...):
                    yield Case(
                        file,
                        f"line {number} {place} {new!r}",
                        lambda path, ls=lines, k=number, p=place, n=new: files.write_lines(  # type: ignore[misc]
                            path, [*ls[:k], changed(ls[k], p, n), *ls[k + 1 :]]
                        ),
                    )


def cases(root: Path) -> list[Case]:
    """List all of a folder; of final runs, those of one."""
    names = sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl", ".safetensors", ".txt")
    )
    names = [name for name in names if not name.startswith("final/") or name.startswith(("final/maml_pp-tuned", "final/near"))]
    return [case for name in names for case in (*whole_cases(name), *leaf_cases(root, name))]


def metabench(*words: object) -> str:
    """Run a command, which ends well or says one thing."""
    begun = time.monotonic()
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code in (0, 2), (words, result.output[-2000:], repr(result.exception))
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
    assert "Traceback" not in result.output
    assert time.monotonic() - begun < SECONDS, words
    if result.exit_code == 2:
        assert result.stderr.startswith("metabench: "), result.stderr
        assert len(result.stderr) < LONGEST, result.stderr
    return str(result.stderr)


def damaged(root: Path, case: Case, look: Callable[[], object]) -> None:
    """Look at a folder with one damage, and mend it."""
    path, before = root / case.file, (root / case.file).read_bytes()
    try:
        case.damage(path)
        look()
    except BaseException as error:
        error.add_note(str(case))
        raise
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(before)


def read_all(folders: Folders, out: Path) -> None:
    """Ask everything that is quick of a search."""
    metabench("status", folders.search)
    metabench("leaderboard", folders.search)
    metabench("compare", folders.search, "--rows", "maml_pp:tuned,protonet:tuned")
    metabench("across", folders.search, folders.other)
    metabench("export", folders.search, "--out", out)


def all_cases(root: Path, n: int | None = None) -> list[Case]:
    """Return all cases, or some of each kind of file."""
    every = cases(root)
    if n is None:
        return every
    rng = random.Random(0)
    names = sorted({case.file for case in every})
    return [case for name in names for case in rng.sample([c for c in every if c.file == name], n)]


def test_reading_commands_say_one_thing_of_a_damaged_search(folders: Folders, tmp_path: Path) -> None:
    for case in all_cases(folders.search, 4):
        damaged(folders.search, case, lambda: read_all(folders, tmp_path))


@pytest.mark.slow
def test_they_do_so_whatever_is_damaged(folders: Folders, tmp_path: Path) -> None:
    for case in all_cases(folders.search):
        damaged(folders.search, case, lambda: read_all(folders, tmp_path))
