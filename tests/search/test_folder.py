"""The search folder: started once, continued as the same search, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from metabench import data
from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import SearchSpace
from metabench.data.reading.splits import make_splits
from metabench.search import search
from metabench.search import space as spaces
from metabench.search.folder import check_resume, create_or_resume, document
from metabench.storage import files as store

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


@pytest.fixture
def splits() -> Splits:
    """Return a data set of black squares."""
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    return make_splits("squares", split, split, split)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_search_records_itself_and_is_continued_as_the_same(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    assert create_or_resume(tmp_path / "a", space, splits, seed=0) == (space, False)
    record = store.read_json(tmp_path / "a" / store.SEARCH)
    assert record["seed"] == 0
    assert record["data_fingerprint"] == splits.fingerprint
    assert {"protocol", "version", "space", "created", "versions", "commit", "device"} <= set(record)
    assert spaces.load(tmp_path / "a" / store.SPACE) == space
    before = files(tmp_path / "a")
    assert create_or_resume(tmp_path / "a", space, splits, seed=0) == (space, True)
    assert files(tmp_path / "a") == before


def test_another_space_seed_or_data_is_refused_with_the_difference(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    budget = space.budget.model_copy(update={"trials": 10})
    fewer = {"maml": space.algorithms["maml"]}
    with pytest.raises(MetabenchError) as caught:
        create_or_resume(
            tmp_path, space.model_copy(update={"budget": budget, "algorithms": fewer}), splits, seed=1
        )
    assert "seed: 0 there, 1 given" in str(caught.value)
    assert "budget.trials: 9 there, 10 given" in str(caught.value)
    assert "algorithms.maml_pp.multi_step_loss.default: True there, nothing given" in str(caught.value)
    assert "tasks" not in str(caught.value).replace(str(tmp_path), "")
    with pytest.raises(MetabenchError, match="data_fingerprint"):
        create_or_resume(tmp_path, space, splits._replace(fingerprint="other"), seed=0)


def test_never_refuses_what_is_there_and_must_what_is_not(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    new, old, other = tmp_path / "new", tmp_path / "old", tmp_path / "other"
    create_or_resume(old, space, splits, seed=0)
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    check_resume(new, "auto")
    check_resume(new, "never")
    check_resume(old, "auto")
    check_resume(old, "must")
    with pytest.raises(MetabenchError, match=r"resume=must: .*new holds no search"):
        check_resume(new, "must")
    with pytest.raises(MetabenchError, match=r"resume=never: .*old is there already"):
        check_resume(old, "never")
    with pytest.raises(MetabenchError, match=r"something else than a search \(thesis\.tex\)"):
        check_resume(other, "auto")
    with pytest.raises(MetabenchError, match="is a file"):
        check_resume(other / "thesis.tex", "auto")
    assert files(tmp_path) == before


def test_a_start_that_was_killed_before_its_record_is_a_new_start(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    (tmp_path / store.SEARCH).unlink()
    check_resume(tmp_path, "auto")
    assert create_or_resume(tmp_path, space, splits, seed=5) == (space, False)
    assert len(list((tmp_path / store.TENSORBOARD).iterdir())) == 1


def test_a_second_driver_on_the_same_folder_is_refused(
    tmp_path: Path, space: SearchSpace, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", lambda task: splits)
    small = space.task.model_copy(update={"test_query": 5})
    with store.lock(tmp_path / "a"), pytest.raises(MetabenchError, match="in use by process"):
        search(space.model_copy(update={"task": small}), tmp_path, "a", quiet=True)


def test_a_task_that_the_data_cannot_give_is_refused_before_anything_is_written(
    tmp_path: Path, space: SearchSpace, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", lambda task: splits)
    wide = space.task.model_copy(update={"way": 7})
    with pytest.raises(MetabenchError, match="way=7"):
        search(space.model_copy(update={"task": wide}), tmp_path, "a", quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_file_of_one_of_its_algorithms_is_searched_alike(path: Path, tmp_path: Path) -> None:
    for name in spaces.load(path).algorithms:
        space = spaces.override(spaces.load(path), names=[name])
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(document(space)))
        assert spaces.of(spaces.load(tmp_path / "space.yaml"), name) == spaces.of(space, name)
