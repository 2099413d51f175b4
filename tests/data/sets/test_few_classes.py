"""A folder of few classes is cut by their pictures, once or into folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metabench.core import SPLITS, Split
from tests.data.sets.test_folder import load, paint, refused


def test_two_classes_are_enough_where_each_split_has_pictures_of_its_own(tmp_path: Path) -> None:
    for row in range(2):
        for column in range(12 + row):
            paint(tmp_path / f"class{row}" / f"{column}.png", 20 * row + column)
    cut = load(tmp_path, split_by="pictures", meta_train=0.4, meta_validation=0.3)
    parts = [getattr(cut, part) for part in SPLITS]
    assert [part.classes for part in parts] == [("class0", "class1")] * 3
    for row, n_pictures in enumerate((12, 13)):
        counts = [
            int(part.counts[row]) if part.counts is not None else part.images.shape[1] for part in parts
        ]
        shown = [
            part.images[row, :n].flatten(1)[:, 0].tolist() for part, n in zip(parts, counts, strict=True)
        ]
        assert sorted(one for row in shown for one in row) == [
            20 * row + column for column in range(n_pictures)
        ]
    again = load(tmp_path, split_by="pictures", meta_train=0.4, meta_validation=0.3, seed=1)
    assert again.fingerprint != cut.fingerprint


def test_each_picture_that_is_not_of_meta_validation_is_tested_in_one_fold(tmp_path: Path) -> None:
    for row in range(2):
        for column in range(13 + row):
            paint(tmp_path / f"class{row}" / f"{column}.png", 20 * row + column)
    cuts = [load(tmp_path, split_by="pictures", meta_validation=0.25, folds=3, fold=k) for k in range(3)]
    assert len({cut.fingerprint for cut in cuts}) == 3
    shown = [[shades(getattr(cut, part)) for part in SPLITS] for cut in cuts]
    for row in range(2):
        assert len({tuple(validated[row]) for _, validated, _ in shown}) == 1
        tested = sorted(one for _, _, test in shown for one in test[row])
        assert sorted([*tested, *shown[0][1][row]]) == [20 * row + column for column in range(13 + row)]
        for parts in shown:
            assert len({one for part in parts for one in part[row]}) == 13 + row
    assert cuts[0].shares_classes
    assert cuts[0].meta_test.classes == ("class0", "class1")


def shades(part: Split) -> list[list[int]]:
    """Return the shade of each picture of each class, in order."""
    counts = [part.images.shape[1]] * 2 if part.counts is None else part.counts.tolist()
    return [sorted(part.images[row, :n, 0, 0, 0].tolist()) for row, n in enumerate(counts)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 3}, "folds=3 and split_by='auto': folds are of pictures; set split_by"),
        ({"split_by": "pictures", "folds": 1}, "folds=1: must be 2 or more, or 0 for one cut"),
        ({"split_by": "pictures", "fold": 1}, "folds=0: must be 2 or more, or 0 for one cut"),
        ({"split_by": "pictures", "folds": 2, "fold": 2}, "fold=2: must be < folds=2"),
        ({"split_by": "pictures", "folds": 9, "fold": 8}, "'meta_test/class0' has no picture"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    for column in range(6):
        paint(tmp_path / "class0" / f"{column}.png", column)
        paint(tmp_path / "class1" / f"{column}.png", 20 + column)
    assert message in refused(tmp_path, **options)


def test_a_class_with_too_few_pictures_to_split_is_refused_by_name(tmp_path: Path) -> None:
    for row in range(2):
        for column in range(2):
            paint(tmp_path / f"class{row}" / f"{column}.png", 20 * row + column)
    assert "'meta_test/class0' has no picture" in refused(tmp_path, split_by="pictures")
    assert "split_by=pictures" in refused(tmp_path)
