"""The files that `wandb sync` uploads say of searches and runs what their journals and reports say."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import Result

from metabench.leaderboard import folders
from metabench.search.journal.ledger import look
from metabench.storage import files

# W&B leaves pipes and processes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("wandb", reason="wandb is not installed: pip install 'metabench[wandb]'")

Export = Callable[..., Result]

BLOCK = 32768
HEADER = 7


class Offline(NamedTuple):
    """What the file of one offline run holds."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int


def read(path: Path) -> Offline:
    run, history, summary, exit_code = None, [], {}, -1
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
            case "history":
                history.append({one.nested_key[0]: json.loads(one.value_json) for one in record.history.item})
            case "summary":
                for one in record.summary.update:
                    summary[one.key or one.nested_key[0]] = json.loads(one.value_json)
            case "exit":
                exit_code = record.exit.exit_code
    assert run is not None
    config = {one.key: json.loads(one.value_json) for one in run.config.update}
    return Offline(run, config, history, summary, exit_code)


def records(path: Path) -> Iterator[Any]:
    """Read W&B's file: LevelDB's log format, of which each record is a message of theirs."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    at, message = HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # what is left of a block is filled
            at += BLOCK - at % BLOCK
            continue
        _, size, part = struct.unpack_from("<IHB", content, at)
        message += content[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if part in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


@pytest.fixture(scope="module")
def out(searched: Path, export: Export, calls: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    single = searched / files.FINAL / "protonet-tuned-seed0"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_RUN_ID": "one"}.items():
            patch.setenv(name, value)
        result = export(searched, single, "--to", "wandb", "--out", folder)
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"wandb sync {folder}/wandb/offline-run-*" in result.stdout
    return folder


@pytest.fixture(scope="module")
def offline(out: Path) -> list[Offline]:
    return [read(path) for path in sorted(out.glob("wandb/offline-run-*/*.wandb"))]


def of(offline: list[Offline], kind: str) -> dict[str, Offline]:
    of_kind = [one for one in offline if one.run.job_type == kind]
    named = {one.run.display_name: one for one in of_kind}
    assert len(named) == len(of_kind)
    return named


def figures(one: Offline, key: str) -> dict[int, float]:
    return {line["tasks_seen"]: line[key] for line in one.history if key in line}


def test_each_trial_is_a_run_that_says_what_the_journal_says(searched: Path, offline: list[Offline]) -> None:
    by_name, trials = of(offline, "trial"), look(searched).trials
    code = files.read_json(searched / files.SEARCH)["code"]
    assert by_name.keys() == trials.keys()
    for name, trial in trials.items():
        one = by_name[name]
        config = {key: value for key, value in one.config.items() if key not in ("_wandb", "metabench")}
        assert config == trial.hyperparameters
        assert {"seed": trial.seed, "code": code}.items() <= one.config["metabench"].items()
        assert one.config["metabench"].get("error") == trial.error
        assert (one.run.project, one.run.run_group) == ("tried", trial.algorithm)
        assert list(one.run.tags) == [trial.state] == [one.summary["status"]]
        assert one.exit_code == (1 if trial.state in ("failed", "diverged") else 0)
        for metric, key in (("meta_validation/accuracy", "val_score"), ("meta_validation/loss", "val_loss")):
            values = {line["tasks_seen"]: line[key] for line in trial.reports if line[key] is not None}
            assert figures(one, metric) == values
        assert [line["_step"] for line in one.history] == [line["tasks_seen"] for line in trial.reports]


def test_each_final_run_tells_its_meta_test(searched: Path, offline: list[Offline]) -> None:
    by_name = of(offline, "final")
    finals = [run for group in folders.read_search(searched).runs.values() for run in group]
    assert by_name.keys() == {run.folder.name for run in finals}
    for final in finals:
        one = by_name[final.folder.name]
        values = {line["tasks_seen"]: line["val_score"] for line in final.reports}
        assert figures(one, "meta_validation/accuracy") == values
        if final.test is None:
            assert (set(one.run.tags), one.exit_code) == ({"failed", "default"}, 1)
            continue
        mean = sum(final.test["accuracy"]) / len(final.test["accuracy"])
        assert figures(one, "meta_test/accuracy") == {final.reports[-1]["tasks_seen"]: pytest.approx(mean)}
        assert one.summary["meta_test/accuracy"] == pytest.approx(mean)


def test_runs_given_by_themselves_are_a_project(offline: list[Offline]) -> None:
    (one,) = of(offline, "run").values()
    assert one.run.project == "runs"


def test_nothing_was_sent_and_no_host_is_named(offline: list[Offline], calls: list[Any]) -> None:
    assert calls == []
    assert {one.run.host for one in offline} == {"-"}


def test_a_second_export_is_refused(searched: Path, export: Export, out: Path) -> None:
    before = sorted(out.rglob("*"))
    result = export(searched, "--to", "wandb", "--out", out)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert sorted(out.rglob("*")) == before
