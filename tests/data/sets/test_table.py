"""Tables of one's own: classes of rows, regression by task, and each mistake as one message."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import metabench as mb
from metabench import data
from metabench.core import SPLITS, MetabenchError, Splits
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen

CRIME = {
    "path": "communities_and_crime/communities_and_crime.csv",
    "target": "ViolentCrimesPerPop numeric",
    "task": "state numeric",
    "missing": "?",
    "skip": True,
    "smallest": 20,
    "leave_out": "community numeric, county numeric, fold numeric",
}


def flowers(n_classes: int = 10, n_rows: int = 6) -> pd.DataFrame:
    """Make a table of classes: two columns of numbers, one of words, one that never changes."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([f"kind {i}" for i in range(n_classes)], n_rows)
    centre = np.repeat(rng.normal(size=n_classes), n_rows)
    columns = {"width": centre + rng.normal(size=len(kinds)), "length": rng.normal(5, 2, len(kinds))}
    return pd.DataFrame({**columns, "still": 3.0, "place": "here", "kind": kinds})


def load(frame: pd.DataFrame, folder: Path, **options: Any) -> Splits:
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return data.load(TaskConfig(dataset="table", options={"path": str(path), **options}))


def rows_of(splits: Splits) -> dict[str, np.ndarray]:
    """Return the rows of each class, whichever split it is in."""
    rows = {}
    for part in (getattr(splits, name) for name in SPLITS):
        counts = [part.images.shape[1]] * len(part.classes) if part.counts is None else part.counts.tolist()
        for name, table, count in zip(part.classes, part.images, counts, strict=True):
            rows[name] = table[:count].numpy()
    return rows


def test_each_class_has_its_rows_and_all_columns_of_numbers(tmp_path: Path) -> None:
    frame = flowers().drop(index=[3, 59])
    splits = load(frame, tmp_path, label="kind", standardise=False)
    assert splits.meta_train.images.dtype == torch.float32
    assert splits.kind == "classification"
    rows = rows_of(splits)
    assert sorted(rows) == sorted(frame["kind"].unique())
    for name, values in rows.items():
        wanted = frame[frame["kind"] == name][["width", "length", "still"]].to_numpy(np.float32)
        assert np.array_equal(values, wanted)


def test_inputs_have_mean_0_and_deviation_1_over_meta_train_alone(tmp_path: Path) -> None:
    splits = load(flowers(), tmp_path, label="kind", features="width,length")
    rows = splits.meta_train.images.flatten(0, 1)
    torch.testing.assert_close(rows.mean(0), torch.zeros(2), atol=1e-6, rtol=0)  # of float32
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2), atol=1e-6, rtol=0)
    assert splits.meta_test.images.flatten(0, 1).mean(0).abs().max() > 0.01


def test_what_is_constant_and_what_holds_words_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        splits = load(flowers(), tmp_path, label="kind")
    assert "no inputs, as they hold words: 'place'" in caplog.text
    assert "constant in meta-train, and not divided: 'still'" in caplog.text
    assert not splits.meta_train.images[..., 2].any()


def test_row_numbers_that_pandas_wrote_are_no_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flowers().drop(columns="place").to_csv(tmp_path / "table.csv")
    options = {"path": str(tmp_path / "table.csv"), "label": "kind"}
    with caplog.at_level(logging.WARNING):
        splits = data.load(TaskConfig(dataset="table", options=options))
    assert splits.rows is not None
    assert splits.rows.names == ("width", "length", "still")
    assert "no inputs, as they have no name, like row numbers: 'Unnamed: 0'" in caplog.text
    assert "inputs: 'width', 'length', 'still'" in caplog.text


def test_parquet_gives_what_csv_gives_and_a_folder_splits_as_it_does(tmp_path: Path) -> None:
    frame = flowers()
    frame.to_parquet(tmp_path / "table.parquet")
    options = {"path": str(tmp_path / "table.parquet"), "label": "kind", "seed": 3}
    as_parquet = data.load(TaskConfig(dataset="table", options=options))
    assert as_parquet.fingerprint == load(frame, tmp_path, label="kind", seed=3).fingerprint


def test_communities_are_tasks_by_state() -> None:
    splits = data.load(TaskConfig(dataset="table", way=1, options=CRIME))
    assert splits.kind == "regression"
    assert splits.meta_train.counts is not None
    assert int(splits.meta_train.counts.sum()) > 1000
    assert {one for part in splits[1:4] for one in part.classes} >= {"NJ", "CA", "TX"}
    assert int(splits.meta_test.counts.min()) >= 20
    task = TaskConfig(dataset="table", way=1, shot=10, test_query=10, options=CRIME)
    data.check(task, splits)
    drawn = frozen.frozen(splits, "meta_test", task, 5, "test").groups[0]
    tasks = frozen.gather(splits.meta_test.images, drawn.indices, drawn.shape)
    assert tasks.support.x.shape == (5, 10, splits.meta_test.images.shape[2] - 1)
    assert tasks.query.y.shape == (5, 10, 1)


@pytest.mark.slow
def test_own_table_is_learnt_by_maml_and_by_ridge_on_one_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape: dict[str, Any] = {"way": 1, "shot": 10, "query": 10, "test_query": 10, "validation_tasks": 20}
    network: dict[str, Any] = {"network": "mlp", "norm": "none", "reports": 2, "quiet": True}
    settings = {
        "maml": {"tasks": 800, "inner_lr": 0.01, "inner_steps": 3, "outer_lr": 0.003},
        "ridge": {"tasks": 8, "penalty": 30.0},
    }
    runs = []
    for name, its in settings.items():
        runs.append(mb.train(name, {"name": "table", "options": CRIME}, **shape, **network, **its))
        runs[-1].test(100, quiet=True)
    errors = {row["algorithm"]: row["error"] for row in mb.leaderboard(*runs).rows}
    assert set(errors) == {"maml", "ridge"}
    assert max(errors.values()) < 0.8, "the mean of meta-train has 1, as targets are standardised"


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {}, "label and target are not set"),
        ({}, {"label": "kind", "target": "width"}, "label and target are both set"),
        ({}, {"target": "width"}, "needs task"),
        ({}, {"target": "width", "task": "kind", "group": "place"}, "group='place': needs label and task"),
        ({}, {"label": "knid"}, "label='knid': no such column. Did you mean 'kind'?"),
        (
            {},
            {"label": "kind", "features": "widht"},
            "features='widht': no such column. Did you mean 'width'?",
        ),
        ({}, {"label": "kind", "features": "place"}, "features='place': holds 'here' in row 0, no numbers"),
        ({}, {"label": "kind", "features": "kind,width"}, "features: 'kind' is to be predicted"),
        (
            {},
            {"label": "width"},
            "'width' holds numbers with a point, no classes; for such a number give target",
        ),
        ({}, {"target": "place", "task": "kind"}, "target='place': holds 'here' in row 0, no numbers"),
        (
            {"width": [None] + [1.0] * 59},
            {"label": "kind"},
            "1 of 60 rows have values that are missing ('width' 1)",
        ),
        ({"width": [np.inf] + [1.0] * 59}, {"label": "kind"}, "1 of 60 rows have values that are infinite"),
        ({"width": [1e300] + [1.0] * 59}, {"label": "kind"}, "1 of 60 rows have values that are infinite"),
        ({"width": ["?"] + [1.0] * 59}, {"label": "kind", "features": "width"}, "set missing to it"),
        ({"kind": [None] * 2 + ["a"] * 58}, {"label": "kind"}, "'kind' is missing in 2 of 60 rows"),
        ({"kind": ["a"] * 30 + ["b"] * 30}, {"label": "kind"}, "meta_train has 1 classes and needs 2"),
        ({}, {"target": "width", "task": "place"}, "meta_validation has 0 tasks and needs 2"),
        ({}, {"label": "kind", "smallest": 7}, "holds no class"),
        ({}, {"label": "kind", "path": "no.csv"}, "path='no.csv': no such file"),
        ({}, {"label": "kind", "meta_train": 0.9, "meta_validation": 0.2}, "together they must be < 1"),
    ],
)
def test_each_mistake_is_one_message(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(MetabenchError) as caught:
        load(flowers().assign(**changes), tmp_path, **options)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "cannot be read as a table"),
        ("t.csv", b"\xff\xfe\x00bad", "cannot be read as a table"),
        ("t.csv", b"PAR1 and more", "is Parquet inside"),
        ("t.parquet", b"a,b\n1,2\n", "is no Parquet, perhaps CSV"),
        ("t.parquet", b"PAR1 cut off", "cannot be read as a table"),
        ("t.csv", b"a;kind\n1;x\n", "has one column, 'a;kind'; set separator=';'"),
        ("t.xlsx", b"PK", "must be a .csv or a .parquet file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MetabenchError) as caught:
        data.load(TaskConfig(dataset="table", options={"path": str(tmp_path / name), "label": "kind"}))
    assert words in str(caught.value)


def test_tasks_may_have_names_with_a_point(tmp_path: Path) -> None:
    frame = flowers(12).assign(site=np.repeat(np.arange(12) / 10, 6))
    for name in ("t.csv", "t.parquet"):
        path = tmp_path / name
        frame.to_csv(path, index=False) if name == "t.csv" else frame.to_parquet(path, index=False)
        options = {"path": str(path), "target": "width", "task": "site"}
        splits = data.load(TaskConfig(dataset="table", way=1, options=options))
        assert {*map(float, rows_of(splits))} == {*(np.arange(12) / 10)}


def test_too_few_rows_of_a_class_are_told_with_its_name(tmp_path: Path) -> None:
    splits = load(flowers().drop(index=range(5)), tmp_path, label="kind")
    with pytest.raises(MetabenchError, match=r"shot=1 and \w+=5 need 6 examples a class.*in class 'kind 0'"):
        data.check(TaskConfig(dataset="table", way=2, query=5, test_query=5), splits)


def test_a_run_predicts_rows_as_they_stand_in_a_table(tmp_path: Path) -> None:
    frame = flowers(12)
    named = mb.data.from_frame(frame, folder=tmp_path, label="kind")
    shape: dict[str, Any] = {
        "way": 2,
        "query": 1,
        "test_query": 1,
        "tasks": 8,
        "reports": 1,
        "validation_tasks": 4,
    }
    run = mb.train("protonet", named, network="mlp", out=tmp_path / "run", quiet=True, **shape)
    splits = data.load(run.config.task)
    support, query = frame[frame.kind.isin(splits.meta_test.classes[:2])].iloc[::2], frame.iloc[:7]
    by_name = mb.load(run).fit(support, support.kind.tolist()).predict_proba(query[query.columns[::-1]])
    columns = ["width", "length", "still"]
    by_place = mb.load(run).fit(support[columns].to_numpy(), support.kind.tolist())
    np.testing.assert_array_equal(by_name, by_place.predict_proba(query[columns].to_numpy()))
    ready = splits.meta_test.images[:2].flatten(0, 1)
    labels = np.repeat(splits.meta_test.classes[:2], 6)
    rows = pd.concat([frame[frame.kind == name] for name in splits.meta_test.classes[:2]])
    as_inputs = mb.load(run, prepared=True).fit(ready, labels).predict_proba(ready)
    np.testing.assert_array_equal(mb.load(run).fit(rows, labels).predict_proba(rows), as_inputs)
    with pytest.raises(MetabenchError, match=r"no column 'width'. Did you mean 'widht'\?"):
        by_place.predict(query.rename(columns={"width": "widht"}))
