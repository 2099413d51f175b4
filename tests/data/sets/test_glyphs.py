"""Glyphs are the same in every process, look different from each other, and are drawn once."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metabench import data
from metabench.core import MetabenchError
from metabench.core.config import TaskConfig
from metabench.data.reading import cache
from metabench.data.sets import glyphs

ROOT = Path(__file__).parents[3]
SMALL = TaskConfig(dataset="glyphs", options={"n_classes": 30, "n_examples": 14})
PROGRAM = """
from metabench import data
from metabench.core.config import TaskConfig
print(data.load(TaskConfig(dataset="glyphs", options={"n_classes": 30, "n_examples": 14})).fingerprint)
"""


def test_another_process_with_a_cache_of_its_own_draws_the_same_bytes(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "METABENCH_CACHE": str(tmp_path),
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": "2",
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert data.load(SMALL).fingerprint == run.stdout.strip()


def test_a_second_load_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(SMALL)
    monkeypatch.setattr(glyphs, "_draw_all", lambda *_: pytest.fail("drawn again"))
    assert data.load(SMALL).fingerprint == first.fingerprint


def test_a_class_looks_the_same_whatever_other_classes_there_are() -> None:
    few, many = glyphs.Options(n_classes=30, n_examples=14), glyphs.Options(n_classes=40, n_examples=14)
    characters = glyphs._choose(many)
    assert glyphs._choose(few) == characters[:30]
    alone = glyphs._draw(characters[3], few)
    assert (alone[0] == glyphs._draw(characters[:6], many)[3]).all()


def test_there_are_hundreds_of_characters_of_several_scripts_split_by_class() -> None:
    distinct = glyphs.distinct()
    assert len(distinct) >= glyphs.Options().n_classes >= 800
    assert list(distinct) == sorted(set(distinct))
    assert {"Latin", "Greek", "Cyrillic", "Armenian", "Georgian"} <= set(map(glyphs.script, distinct))
    splits = data.load(SMALL)
    sizes = [len(part.classes) for part in (splits.meta_train, splits.meta_validation, splits.meta_test)]
    assert sizes == [19, 5, 6]


@pytest.mark.parametrize(
    "group",
    [
        "A\N{CYRILLIC CAPITAL LETTER A}\N{GREEK CAPITAL LETTER ALPHA}",
        "B\N{CYRILLIC SMALL LETTER VE}",
        "9\N{SUPERSCRIPT NINE}",
        "oO0\N{CYRILLIC SMALL LETTER O}\N{GREEK SMALL LETTER OMICRON}\N{DEGREE SIGN}",
        "\N{CYRILLIC CAPITAL LETTER SHA}\N{CYRILLIC SMALL LETTER SHA}",
        "\N{CYRILLIC CAPITAL LETTER YERU}\N{CYRILLIC SMALL LETTER YERU}",
        "\N{BLACK SQUARE}\N{BLACK SMALL SQUARE}\N{LOWER FIVE EIGHTHS BLOCK}\N{LOWER THREE QUARTERS BLOCK}",
        "\N{GREEK CAPITAL LETTER SIGMA}\N{N-ARY SUMMATION}",
    ],
)
def test_of_characters_that_look_alike_one_is_left_at_most(group: str) -> None:
    assert len(set(glyphs.distinct()) & set(group)) <= 1


def test_blanks_marks_and_dots_are_left_out_and_others_are_not() -> None:
    distinct = set(glyphs.distinct())
    assert not distinct & set(" \u00a0\u00ad\u0301.")  # blank, soft hyphen, combining acute, dot
    assert {"A", "K", "8", "\N{CYRILLIC CAPITAL LETTER ZHE}", "\N{INFINITY}"} <= distinct


@pytest.mark.slow
def test_no_character_of_one_split_looks_like_one_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs of the list, so that it holds for every seed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    shapes = importlib.import_module("glyph_shapes")
    distinct = glyphs.distinct()
    pairs = (
        shapes.alike(distinct, slack=0.005).triu(1).nonzero()
    )  # other versions of Pillow draw a bit otherwise
    assert [(distinct[one], distinct[other]) for one, other in pairs] == []
    assert shapes.alike("B\N{CYRILLIC SMALL LETTER VE}").all(), "or nothing is alike"


def test_examples_of_a_class_differ_and_stay_on_the_canvas() -> None:
    images = data.load(SMALL).meta_train.images
    flat = images.flatten(2)
    assert all(len(one.unique(dim=0)) == 14 for one in flat)
    ink = images.float().mean((2, 3, 4))
    assert 1 < ink.min() < ink.max() < 200


def test_asking_for_more_characters_than_there_are_is_refused() -> None:
    with pytest.raises(MetabenchError, match=r"n_classes=5000: at most \d+ characters look different"):
        data.load(TaskConfig(dataset="glyphs", options={"n_classes": 5000}))


def test_a_damaged_cache_file_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path))
    expected = np.arange(1000)
    assert (cache.cached("x", 1, lambda: expected) == expected).all()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:500])
    assert (cache.cached("x", 1, lambda: expected) == expected).all()
    assert (cache.cached("x", 1, lambda: pytest.fail("kept")) == expected).all()
    assert list(tmp_path.iterdir()) == [path], "nothing temporary is left"


def test_a_cache_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # root may write to a read-only folder, but nobody into a file
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MetabenchError, match="set METABENCH_CACHE to a folder that can be written"):
        cache.cached("x", 1, lambda: pytest.fail("worked in vain"))


def test_interrupted_work_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path))

    def interrupted() -> cache.Array:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached("x", 1, interrupted)
    assert list(tmp_path.iterdir()) == []
