"""Whatever stands in a file of a search or run, every command that reads it works, or says one thing."""

from __future__ import annotations

import copy
import functools
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

SUFFIXES = (".json", ".jsonl", ".safetensors", ".txt")

DEEP = "[" * 100_000
OTHERS: tuple[Any, ...] = (None, True, "x", -1, 0.5, 10**30, [], {}, [None], [[0]], {"x": {}}, ...)
"""What may stand in a leaf's place; `...` for nothing at all."""

EACH = 2
"""Of these, how many take a place in turn."""


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
        searches = []
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
            live = {
                "algorithm": "maml_pp",
                "tasks_seen": 400,
                "finite": True,
                "val_score": 0.5,
                "seconds": 1.0,
            }
            node = {"address": "10.0.0.1", "cpus": 2.0, "gpus": 0.0}
            snapshot = {
                "updated": played.FINISHED,
                "slots": 2,
                "nodes": [node],
                "trials": {"maml_pp-009": live},
            }
            files.write_json(folder / files.RUNNING, snapshot)
            searches.append(folder)
        run = Path(shutil.copytree(next(searches[0].glob("final/maml_pp-tuned-*")), base / "run"))
        (run / files.TEST).unlink()
        runs.test_run(run, splits, 8)
        path = base / "search.yaml"
        path.write_text(yaml.safe_dump(space.model_dump(mode="json", exclude_none=True)))
        yield Folders(searches[0], run, searches[1], path)


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
        yield Case(file, what, lambda path, text=text: path.write_text(text))
    yield Case(file, "not UTF-8", lambda path: path.write_bytes(b'{"a": "\xff\xfe\xf3"}\n'))
    yield Case(file, "half", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))
    yield Case(file, "a flipped byte", flip)
    yield Case(file, "a folder", lambda path: (path.unlink(), path.mkdir()))
    yield Case(file, "a loop", lambda path: (path.unlink(), path.symlink_to(path.name)))
    yield Case(file, "gone", lambda path: path.unlink())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def leaf_cases(root: Path, file: str) -> Iterator[Case]:
    """Yield a JSON file with something else at each of its places, as if it had been written so.

    Of lines, the last of each kind of event.
    """
    path = root / file
    if path.suffix not in (".json", ".jsonl"):
        return
    values = files.read_lines(path) if path.suffix == ".jsonl" else [files.read_json(path)]
    rng = random.Random(file)
    kinds = {value.get("event", ""): number for number, value in enumerate(values)}
    for number in kinds.values():
        for place in leaves(values[number]):
            for new in rng.sample(OTHERS, EACH):
                what = f"{number} {place} {new!r}"
                yield Case(file, what, functools.partial(rewrite, values, number, place, new))


def rewrite(values: list[Any], number: int, place: tuple[Any, ...], new: Any, path: Path) -> None:
    other = [*values[:number], changed(values[number], place, new), *values[number + 1 :]]
    if path.suffix == ".jsonl":
        files.write_lines(path, other)
    else:
        files.write_json(path, other[0])


def cases(root: Path, n: int | None = None) -> list[Case]:
    """List all of a folder, or some of each file; of final runs, those of one."""
    names = sorted(
        str(path.relative_to(root))
        for path in root.rglob("*.*")
        if path.is_file() and path.suffix in SUFFIXES
    )
    every = [
        [*whole_cases(name), *leaf_cases(root, name)]
        for name in names
        if "-seed" not in name or name.startswith("final/maml_pp-tuned")
    ]
    rng = random.Random(0)
    return [
        case for group in every for case in (group if n is None else rng.sample(group, min(n, len(group))))
    ]


def metabench(*words: object) -> None:
    """Run a command, which ends well or says one thing."""
    begun = time.process_time()
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code in (0, 2), (words, result.output[-2000:], repr(result.exception))
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
    assert "Traceback" not in result.output
    assert time.process_time() - begun < SECONDS, words
    if result.exit_code == 2:
        assert result.stderr.startswith("metabench: "), result.stderr
        assert len(result.stderr) < LONGEST, result.stderr


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


def read_search(folders: Folders, out: Path) -> None:
    """Ask everything that is quick of a search."""
    metabench("status", folders.search)
    metabench("leaderboard", folders.search)
    metabench("compare", folders.search, "--rows", "maml_pp:tuned,protonet:tuned")
    metabench("across", folders.search, folders.other)
    metabench("export", folders.search, "--out", out)


def read_slowly(folders: Folders, out: Path) -> None:
    """Ask the rest."""
    metabench("report", folders.search, "--out", out / "report.html")
    metabench("export", folders.search, "--to", "optuna", "--out", out / f"studies{time.monotonic_ns()}")
    metabench("simulate", folders.search, "--repeats", 1)


def read_run(folders: Folders, out: Path) -> None:
    """Ask everything of a run."""
    metabench("leaderboard", folders.run)
    metabench("export", folders.run, "--out", out)
    metabench("test", folders.run, "--tasks", 2)


@pytest.mark.parametrize(("n", "n_slow"), [(1, 0), pytest.param(None, 10, marks=pytest.mark.slow)])
def test_reading_a_damaged_search_works_or_says_one_thing(
    folders: Folders, tmp_path: Path, n: int | None, n_slow: int
) -> None:
    for case in cases(folders.search, n):
        damaged(folders.search, case, lambda: read_search(folders, tmp_path))
    for case in cases(folders.search, n_slow):
        damaged(folders.search, case, lambda: read_slowly(folders, tmp_path))


@pytest.mark.parametrize("n", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_reading_a_damaged_run_works_or_says_one_thing(folders: Folders, tmp_path: Path, n: int) -> None:
    for case in cases(folders.run, n):
        damaged(folders.run, case, lambda: read_run(folders, tmp_path))


@pytest.mark.parametrize("file", [files.SEARCH, JOURNAL])
@pytest.mark.parametrize("text", ["null", "[]", "{}", DEEP])
def test_what_nothing_makes_anew_is_told_with_its_place_and_its_cure(
    folders: Folders, file: str, text: str
) -> None:
    def look() -> None:
        result = CliRunner().invoke(app, ["status", str(folders.search)])
        assert result.exit_code == 2
        assert f"{folders.search / file}: " in result.stderr
        assert "take it from a copy, as nothing makes it anew" in result.stderr

    damaged(folders.search, Case(file, text, lambda path: path.write_text(f"{text}\n")), look)


def test_the_same_search_again_says_one_thing_before_it_starts(folders: Folders, tmp_path: Path) -> None:
    shutil.copytree(folders.search, tmp_path / "search")
    for text in ("null", "[]", "{}", DEEP):
        (tmp_path / "search" / files.SEARCH).write_text(text)
        metabench("search", folders.space, "--out", tmp_path, "--quiet")
