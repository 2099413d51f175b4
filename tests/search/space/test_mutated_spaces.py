"""Spaces that somebody has broken: whatever stands in a file, one bounded message comes, and soon."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from metabench.core import MetabenchError
from metabench.search import space as spaces

FOLDER = Path(__file__).parents[3] / "search_spaces"
SECONDS = 10.0
CHARACTERS = 30_000

ODD: list[Any] = [
    *(
        None,
        True,
        "",
        "x",
        "\x1b[31m",
        "maml",
        "é" * 40,
        "x" * 5000,
        [],
        {},
        [[]],
        [1, "a", None],
        {"low": 1},
    ),
    *(0, -1, 1, 10**9, 10**17, -(10**17), 0.5, -0.5, 1e300, 1e-300, float("nan"), float("inf")),
    {"choices": []},
    {"choices": [1, 1], "default": 1},
    {"choices": [[1]], "default": [1]},
    {"choices": list(range(1500)), "default": 3},
    {"low": 1, "high": 10**17, "default": 2},
    {"low": 0.0, "high": 1e17, "step": 1e-17, "default": 0.0},
    {"low": 1, "high": 5, "step": 0.3, "default": 2, "when": {"inner_steps": [1, "x"]}},
    {"low": 1e-8, "high": 1.0, "log": True, "default": 1e-8, "when": {"nothing": 1}},
    {"low": 3, "high": 10},
]

LINES = (
    "a: &a [*a]",
    "? [x]\n: 1",
    "1: 2",
    "task: !!python/object:os.x {}",
    "\t",
    "%",
    "b: *c",
    "- 1",
    "---",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the way to every value of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield (*path, key)
        yield from places(inside, (*path, key))


def mutate(document: dict[str, Any], rng: random.Random) -> str:
    """Change a few values, keys or lines of a document."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 4)):
        *path, last = rng.choice(list(places(document)))
        holder: Any = document
        for key in path:
            holder = holder[key]
        match rng.randrange(4):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(["", "x", 1, None, "MAML++", "maml.a", "low", "when", str(last) * 9])] = (
                    holder.pop(last)
                )
            case _:
                holder[last] = copy.deepcopy(rng.choice(ODD))
        if not list(places(document)):
            break
    text = yaml.safe_dump(document, allow_unicode=True)
    if rng.random() < 0.2:
        lines = text.splitlines()
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
        text = "\n".join(lines)
    if rng.random() < 0.1:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(["\x00", "\x7f", "\ufffe", "{", "'", ":", "\n  \n"]) + text[at:]
    return text


@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(200, 2000), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_broken_space_is_refused_in_one_message_or_loads(tmp_path: Path, seeds: range) -> None:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))]
    n_refused = 0
    for seed in seeds:
        rng = random.Random(seed)
        path = tmp_path / f"{seed}.yaml"
        path.write_text(
            mutate(documents[seed % len(documents)], rng), encoding="utf-8", errors="surrogatepass"
        )
        begun = time.process_time()
        try:
            spaces.load(path)
        except MetabenchError as error:
            n_refused += 1
            text = str(error)
            assert len(text) < CHARACTERS, path
            assert all(one.isprintable() or one == "\n" for one in text), path
        assert time.process_time() - begun < SECONDS, path
    assert n_refused > len(seeds) / 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else 'x'] * 10)}]" for k in range(10)),
            "more than 5000 values",
        ),
        ("a: &a [*a]", "an alias stands within what it stands for"),
        ("[" * 5000, "too deeply"),
        ("a: " + "[" * 80 + "]" * 80, "more than 50 levels"),
        ("a: \x01", r"character U\+0001 is not allowed"),
        ("1: 2\ntask: {null: 3}", r"2 problems\n.*key 1 in line 1 is no word[\s\S]*task: key null in line 2"),
        ("? [a]\n: 1", "a key in line 1 is a list or mapping"),
        ("a: 1\na: 2", r"a: the key stands twice \(again in line 2\)"),
        ("a: " + "9" * 2000, "a whole number of more than 18 digits"),
        ("a: 2020-13-45", "a value cannot be read: month must be in 1..12"),
        ("a: !!timestamp x", "a value cannot be read"),
        ("x" * 2**21, "larger than 1 MB"),
        ("a\n---\nb", "another document"),
    ],
)
def test_what_is_no_document_is_said_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(MetabenchError, match=line) as caught:
        spaces.load(path)
    assert len(str(caught.value).splitlines()) <= 6


def test_bytes_that_are_no_text_and_a_folder_are_said(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes("a: ü".encode("utf-16"))
    with pytest.raises(MetabenchError, match="byte 0 is no UTF-8"):
        spaces.load(path)
    with pytest.raises(MetabenchError, match="is no file"):
        spaces.load(tmp_path)
