"""Which runs of a search predict: its best tuned row by confirmation, all of its seeds together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import metabench
from metabench.core import MetabenchError
from metabench.storage import files
from metabench.training import run as runs
from tests.predict import trained

SUPPORT, LABELS = [*trained.draw(4)], ["a", "b", "a", "b"]
QUERIES = [*trained.draw(3, seed=1)]


def shares(place: Path, row: str | None = None) -> np.ndarray:
    return metabench.load(place, row).fit(SUPPORT, LABELS).predict_proba(QUERIES)


def test_a_search_stands_for_its_best_tuned_row_by_confirmation_never_by_test(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"protonet": 0.6, "maml": 0.7, "nearest_mean": 0.9})
    for name, accuracy in (("protonet", 1.0), ("maml", 0.0)):
        folder = place / files.FINAL / f"{name}-tuned-seed0"
        with trained.quickly():
            test = runs.test_run(folder, trained.splits(), 4)
        test |= dict.fromkeys(("accuracy", "accuracy_one_at_a_time"), [accuracy] * 4)
        files.write_json(folder / files.TEST, test)
    classifier = metabench.load(place)
    assert classifier.members.row == "maml:tuned"
    assert any("maml:tuned is the best tuned row by confirmation" in note for note in classifier.notes)
    np.testing.assert_array_equal(shares(place), shares(trained.run("maml")))


@pytest.mark.parametrize("row", ["protonet:tuned", "protonet", "protonet:default"])
def test_a_row_may_be_named(row: str, tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"protonet": 0.6, "maml": 0.7})
    np.testing.assert_array_equal(shares(place, row), shares(trained.run("protonet")))


def test_a_figure_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"maml": None, "protonet": 0.1})
    assert metabench.load(place).members.row == "protonet:tuned"


def test_seeds_are_averaged_and_said_to_be(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"maml": 0.5}, seeds=2)
    each = [shares(trained.run("maml", seed)) for seed in range(2)]
    assert not np.allclose(*each)
    np.testing.assert_allclose(shares(place), np.mean(each, 0), rtol=1e-12)
    assert "the probabilities are the mean over 2 seeds, an ensemble" in metabench.load(place).notes


def test_a_seed_that_diverged_has_no_say_and_is_counted(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"maml": 0.5}, seeds=2)
    diverged = place / files.FINAL / "maml-tuned-seed1"
    (diverged / files.WEIGHTS).unlink()
    (report,) = files.read_lines(diverged / files.REPORTS)
    files.write_lines(diverged / files.REPORTS, [{**report, "finite": False}])
    np.testing.assert_array_equal(shares(place), shares(trained.run("maml")))
    assert "1 of 2 seeds diverged, and have no say" in metabench.load(place).notes


def test_a_seed_whose_weights_are_lost_is_no_diverged_one(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"maml": 0.5}, seeds=2)
    (place / files.FINAL / "maml-tuned-seed1" / files.WEIGHTS).unlink()
    with pytest.raises(MetabenchError, match=r"maml-tuned-seed1: has no weights.safetensors"):
        metabench.load(place)


def test_a_search_that_has_not_come_to_its_final_runs_says_what_goes_on(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {})
    with pytest.raises(MetabenchError, match=r"no final run yet; the same `metabench search` goes on"):
        metabench.load(place)


def test_an_unknown_row_names_those_that_there_are(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"maml": 0.5})
    with pytest.raises(
        MetabenchError,
        match=r"`row` mam:tuned: no such row.*maml:tuned, maml:default|maml:default, maml:tuned",
    ):
        metabench.load(place, "mam:tuned")
    with pytest.raises(MetabenchError, match=r"`row` maml: .* is one run"):
        metabench.load(trained.run("maml"), "maml")
