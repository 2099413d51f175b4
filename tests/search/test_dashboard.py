"""What TensorBoard is sent of a search: every chart of the layout finds a tag that some run writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from metabench.core import Report, Split
from metabench.core.config import SearchSpace
from metabench.core.metrics import METRICS
from metabench.core.objectives import OBJECTIVES
from metabench.data.reading.splits import make_splits
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import Ledger
from metabench.search.journal.rule import decide
from metabench.search.progress import final_rows
from metabench.search.progress import watch as dashboard
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray.experiment import Endings
from metabench.storage import files
from metabench.storage.tensorboard import Events
from metabench.training import run as runs
from tests.search.played import make_report
from tests.support import small


@pytest.fixture
def folder(tmp_path: Path, space: SearchSpace) -> Path:
    """Return a search of which two trials were judged at two rungs, with all that TensorBoard is sent."""
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    create_or_resume(tmp_path, space, make_splits("squares", split, split, split), seed=0)
    ledger = Ledger(tmp_path, 2)
    searcher = FairSearcher(space, ledger, seed=0)
    watch = Watch(tmp_path, space, quiet=True)
    watch.slots = 4
    endings = Endings(ledger, watch)
    with watch.showing(ledger):
        names = [searcher.suggest(str(number))["trial"] for number in range(3)]
        for name, accuracies in ((names[0], (0.4, 0.5, 0.6)), (names[2], (0.3,))):
            trial = ledger.trials[name]
            events = Events(tmp_path / files.TENSORBOARD / trial.algorithm / name)
            for rung, accuracy in zip((100, 300, 900), accuracies, strict=False):
                values = {**make_report(rung, accuracy), "val_scores": (accuracy,)}
                logs = {"lr/inner/a": 0.1, "lr/inner/b": 0.2, "lr/outer": 0.01}
                report = Report(**{**values, "logs": logs})
                runs.write_report(events, report, OBJECTIVES["classification"])
                events.scalars(rung, logs)
                decide(ledger, space.budget, name, values)
            events.close()
            endings.catch_up()
    return tmp_path


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_search_run_tells_counts_cost_and_incumbents(folder: Path) -> None:
    by_tag = scalars(folder / files.TENSORBOARD / dashboard.SEARCH_RUN)
    last = {tag: values[-1] for tag, values in by_tag.items()}
    assert last["trials/complete"] == (1000, 1)
    assert last["trials/pruned"] == (1000, 1)
    assert last["trials/running"] == (1000, 1)
    assert last["system/utilisation"] == (1000, 0.25)
    assert [last[f"rungs/{rung}"][1] for rung in (100, 300, 900)] == [2, 1, 1]
    assert last["accuracy/so_far/maml"][1] == pytest.approx(0.6)
    assert "accuracy/so_far/maml_pp" not in last
    assert last["spent/tasks/maml"] == (1000, 1000)


def test_every_chart_of_the_layout_finds_tags(folder: Path) -> None:
    row = {"algorithm": "maml", "variant": "tuned", "accuracy": 0.7, "ci_low": 0.6, "ci_high": 0.8}
    dashboard.show_result(folder, row, METRICS["accuracy"])
    root = EventAccumulator(str(folder / files.TENSORBOARD), size_guidance={"tensors": 0})
    root.Reload()
    (event,) = root.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    written: set[str] = set()
    for path in (folder / files.TENSORBOARD).rglob("*"):
        if path.is_dir():
            written |= set(scalars(path))
    for category in layout.category:
        for chart in category.chart:
            margin = [
                tag for series in chart.margin.series for tag in (series.value, series.lower, series.upper)
            ]
            patterns = [*chart.multiline.tag, *margin]
            assert patterns, chart.title
            for pattern in patterns:
                assert any(re.fullmatch(pattern, tag) for tag in written), f"{chart.title}: {pattern}"
    assert root.Tensors("run card")


def test_a_leaderboard_is_shown_once_and_again_only_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row: dict[str, Any] = {"algorithm": "maml", "variant": "tuned", "accuracy": 0.7, "ci_low": 0.6}
    row["accuracy_one_at_a_time"] = 0.5
    leaderboard = {"metric": {"name": "accuracy"}, "rows": [{**row, "ci_high": 0.8}]}

    def write(folder: Path) -> dict[str, Any]:
        files.write_json(folder / f"{files.LEADERBOARD}.json", leaderboard)
        return leaderboard

    monkeypatch.setattr(dashboard.board, "write", write)
    monkeypatch.setattr(dashboard.board, "as_markdown", lambda board, **how: "a table")
    for _ in range(2):
        dashboard.write_leaderboard(tmp_path)
    root = tmp_path / files.TENSORBOARD
    assert len(list((root / dashboard.LEADERBOARD_RUN).iterdir())) == 1
    shown = scalars(final_rows.run_folder(tmp_path, "maml-tuned"))
    assert {tag: value for tag, [(_, value)] in shown.items()} == pytest.approx(
        {
            "accuracy/meta_test": 0.7,
            "accuracy_details/meta_test/low": 0.6,
            "accuracy_details/meta_test/high": 0.8,
            "accuracy_details/meta_test/one_at_a_time": 0.5,
        }
    )


def test_the_seeds_of_a_row_are_one_run_with_their_mean_and_each_by_itself(tmp_path: Path) -> None:
    names = [f"maml-tuned-seed{seed}" for seed in range(2)]
    planned = dict.fromkeys(names, small.config())
    rows = final_rows.FinalRows(tmp_path, METRICS["accuracy"], planned)
    for seen, accuracies in ((50, (0.4, 0.6)), (100, (0.5, None))):
        for name, accuracy in zip(names, accuracies, strict=True):
            if accuracy is not None:
                line = {**make_report(seen, accuracy), "logs": {"lr/outer": 0.01}}
                files.append_line(tmp_path / files.FINAL / name / files.REPORTS, line)
        rows.catch_up()
    rows.close()
    (run,) = (tmp_path / files.TENSORBOARD / final_rows.FINAL_RUN).iterdir()
    by_tag = scalars(run)
    assert by_tag["accuracy/meta_validation"] == [(50, pytest.approx(0.5))]
    assert [value for _, value in by_tag["accuracy_details/meta_validation/seed0"]] == pytest.approx(
        [0.4, 0.5]
    )
    assert [value for _, value in by_tag["accuracy_details/meta_validation/seed1"]] == pytest.approx([0.6])
    for bound, value in (("low", 0.4), ("high", 0.6)):  # of the two seeds
        assert by_tag[f"accuracy_details/meta_validation/{bound}"] == [(50, pytest.approx(value))]
    again = final_rows.FinalRows(tmp_path, METRICS["accuracy"], planned)  # as after a crash
    again.catch_up()
    again.close()
    assert scalars(run) == by_tag


def test_what_is_judged_sorts_before_everything_else_and_why_a_trial_was_stopped_after_it(
    folder: Path,
) -> None:
    tags: set[str] = set()
    for path in (folder / files.TENSORBOARD).rglob("*"):
        tags |= set(scalars(path)) if path.is_dir() else set()
    assert sorted(tags)[0] == "accuracy/meta_validation"
    groups = sorted({name.partition("/")[0] for name in tags})
    assert groups[:2] == ["accuracy", "accuracy_details"]
    assert "stopping" in groups
