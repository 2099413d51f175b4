"""Sets of classes, and probabilities that can be trusted: what holds of them, by two routes."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import metabench
from metabench.core import MetabenchError
from metabench.storage import files
from metabench.training import calibration
from metabench.training import run as runs
from tests.predict import trained
from tests.predict.test_laws import tasks_of

SUPPORT, LABELS = [*trained.draw(3)], ["a", "b", "c"]
QUERIES = [*trained.draw(5, seed=1)]


@pytest.mark.parametrize("batch_norm", ["support_stats", "transductive"])
@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_sets_are_as_large_and_right_as_meta_test_says(name: str, batch_norm: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.run(name, batch_norm=batch_norm), tmp_path / "run"))
    classifier = metabench.load(folder, prepared=True)
    tasks, _ = tasks_of(folder, 4)
    judged = files.read_json(folder / files.TEST)["calibration"]
    assert judged["temperature"] == calibration.of([folder]).temperatures[0]
    for position, task in enumerate(tasks):
        is_in = classifier.fit(task.support.x, task.support.y).predict_set(task.query.x, judged["level"])
        holds = is_in[np.arange(len(is_in)), task.query.y]
        assert holds.mean() == pytest.approx(judged["coverage"][position])
        assert is_in.sum(1).mean() == pytest.approx(judged["set_size"][position])


def test_sets_grow_with_coverage_up_to_what_can_be_told() -> None:
    classifier = metabench.load(trained.run()).fit(SUPPORT, LABELS)
    sets = [classifier.predict_set(QUERIES, coverage) for coverage in (0.05, 0.5, 0.9, 0.99)]
    assert all(one.dtype == bool and one.shape == (5, 3) for one in sets)
    assert all((small <= large).all() for small, large in itertools.pairwise(sets))
    assert sets[0].sum() < sets[-1].sum()
    shares = classifier.predict_proba(QUERIES)
    for one in sets:  # the likelier classes first
        assert (np.where(one, shares, 1).min(1) >= np.where(one, 0, shares).max(1)).all()
    for coverage in (0.0, 1.0, -1, 0.999, math.nan, "0.9", None, [0.9]):
        with pytest.raises(MetabenchError, match="`coverage`"):
            classifier.predict_set(QUERIES, coverage)


def test_a_temperature_changes_probabilities_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = metabench.load(trained.run()).fit(SUPPORT, LABELS)
    opened = classifier.members
    answers, shares = classifier.predict(QUERIES), classifier.predict_proba(QUERIES)
    sure = opened.calibration._replace(temperatures=(10 * opened.calibration.temperatures[0],))
    monkeypatch.setattr(type(classifier), "members", opened._replace(calibration=sure))
    assert classifier.predict(QUERIES).tolist() == answers.tolist()
    flatter = classifier.predict_proba(QUERIES)
    assert (flatter.max(1) < shares.max(1)).all()
    ratios = np.log(flatter[:, 0] / flatter[:, 1]) / np.log(shares[:, 0] / shares[:, 1])
    np.testing.assert_allclose(ratios, 0.1, rtol=1e-3)


def test_an_ensemble_has_a_calibration_of_its_own(tmp_path: Path) -> None:
    place = trained.search(tmp_path / "search", {"maml": 0.5}, seeds=2)
    folders = [trained.run("maml", seed) for seed in range(2)]
    sure = metabench.load(place).members.calibration
    singles = [calibration.of([folder]) for folder in folders]
    assert sure.temperatures == (*singles[0].temperatures, *singles[1].temperatures)
    mean = 1 - np.mean([1 - one.scores for one in singles], 0)
    np.testing.assert_allclose(sure.scores, mean, rtol=1e-9)


def test_a_run_without_a_calibration_predicts_and_says_what_adds_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.run(), tmp_path / "run"))
    before = metabench.load(folder).fit(SUPPORT, LABELS)
    (folder / files.CALIBRATION).unlink()
    after = metabench.load(folder).fit(SUPPORT, LABELS)
    assert before.predict(QUERIES).tolist() == after.predict(QUERIES).tolist()
    cure = f"`metabench train --config {folder} --out {folder}` adds it"
    assert any(cure in note for note in after.notes)
    assert not any("calibrat" in note for note in before.notes)
    with pytest.raises(MetabenchError, match=r"has no calibration\.safetensors") as refused:
        after.predict_set(QUERIES)
    assert cure in str(refused.value)
    with trained.quickly():
        assert "calibration" not in runs.test_run(folder, trained.splits(), 4)


@pytest.mark.parametrize(
    ("images", "labels"), [([*trained.draw(2)], ["a", "b"]), ([*trained.draw(6)], ["a", "b", "c"] * 2)]
)
def test_a_support_set_of_another_kind_has_no_guarantee_and_is_said_to(images: list, labels: list) -> None:
    classifier = metabench.load(trained.run())
    classifier.fit(images, labels).predict_set(QUERIES)
    assert "calibrated on 3-way 1-shot tasks" in classifier.notes[-1]
    classifier.fit(SUPPORT, LABELS)
    assert not any("calibrated" in note for note in classifier.notes)


def test_a_file_that_is_no_calibration_is_damaged(tmp_path: Path) -> None:
    from metabench.storage import tensors

    folder = Path(shutil.copytree(trained.run(), tmp_path / "run"))
    flat, text = tensors.load(folder / files.CALIBRATION)
    for changed in (
        {"log_p": flat["log_p"]},
        {**flat, "y": flat["y"] + 1},
        {**flat, "y": flat["y"][:, 1:]},
        {**flat, "log_p": flat["log_p"].float()},
        {name: leaf[:0] for name, leaf in flat.items()},
        {**flat, "y": torch.full_like(flat["y"], -1)},
    ):
        tensors.save(folder / files.CALIBRATION, changed, text)
        with pytest.raises(MetabenchError, match="holds something else than what a run says of queries"):
            metabench.load(folder)
