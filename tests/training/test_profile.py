"""A profile of meta-steps: it has their ranges, and changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from typer.testing import CliRunner

from metabench.cli import app
from metabench.storage import files
from metabench.training import loop, profile
from tests.support import small


def trained(folder: Path | None, tasks: int) -> tuple[torch.Tensor, list[str]]:
    """Train, profiled if there is a folder; return a weight, and what was told."""
    messages: list[str] = []
    config = small.config(tasks=tasks, rungs=(tasks,))
    if folder is None:
        ((_, state),) = loop.train(config, small.splits())
    else:
        with profile.to(folder, messages.append):
            ((_, state),) = loop.train(config, small.splits())
    return state.meta["theta"]["head"]["weight"], messages


def test_a_profile_names_the_parts_of_a_meta_step_and_changes_no_bit(tmp_path: Path) -> None:
    weight, messages = trained(tmp_path / "out", tasks=32)
    assert torch.equal(weight, trained(None, tasks=32)[0])
    assert messages == [
        f"profile of 3 meta-steps: {tmp_path / 'out' / profile.TRACE}; open it at ui.perfetto.dev"
    ]
    trace = json.loads((tmp_path / "out" / profile.TRACE).read_text())
    count = Counter(event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation")
    parts = {
        name: count[name] for name in ("sampling", "outer gradient", "outer optimiser", "inner gradient")
    }
    assert parts == {"sampling": 3, "outer gradient": 3, "outer optimiser": 3, "inner gradient": 6}
    assert "outer gradient" in (tmp_path / "out" / profile.SUMMARY).read_text()


def test_too_few_meta_steps_are_said(tmp_path: Path) -> None:
    _, messages = trained(tmp_path, tasks=20)
    assert messages == ["no profile: it takes 6 meta-steps"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_a_profile(tmp_path: Path) -> None:
    arguments = [
        "--algorithm",
        "protonet",
        "--dataset",
        "glyphs",
        "--width",
        "4",
        "--tasks",
        "70",
        "--reports",
        "1",
    ]
    arguments += ["--validation-tasks", "2", "--set", "task_batch_size=2", "--out", str(tmp_path / "run")]
    asked = ["train", *arguments, "--profile", str(tmp_path / "out")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / profile.TRACE).exists()
    assert len(files.read_lines(tmp_path / "run" / files.REPORTS)) == 1
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2
    assert "holds a profile already; choose another folder" in again.output
