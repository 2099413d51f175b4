"""The picture of walks: it begins where they begin, ends where they end, and shows the goal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metabench import data
from metabench.leaderboard import folders
from metabench.report.html.pictures import paths
from metabench.report.html.reading import Final
from metabench.training import run
from tests.support import small


@pytest.mark.parametrize("name", ["maml", "joint"])
def test_walks_are_drawn_from_the_start_to_their_end_with_the_goal(name: str, tmp_path: Path) -> None:
    config = small.acting(name, tasks=4, eval_steps=1 if name == "maml" else 0).model_copy(
        update={"rungs": [4], "validation_tasks": 2}
    )
    splits = data.load(config.task)
    run.train_run(config, splits, tmp_path)
    final = Final("One", "run", folders.read_run(tmp_path))
    picture = paths.picture(1, final, splits)
    assert picture.name == "episodes_1_one"
    axes = picture.draw(8.0).axes
    assert len(axes) == paths.TASKS
    for axis in axes:
        *walks, goal = axis.get_lines()
        bundles = {label: [one for one in walks if one.get_label() == label] for label in ("before", "after")}
        assert [len(one) for one in bundles.values()] == [name == "maml", 1]  # each named once
        # Five trajectories to adapt to, and six that are judged.
        assert len(walks) == (5 + 6 if name == "maml" else 6)
        for walk in walks:
            x, y = (torch.tensor(one) for one in walk.get_data())
            assert (float(x[0]), float(y[0])) == (0, 0)
            assert len(x) <= 10
            assert float(torch.stack([x.diff(), y.diff()]).abs().max()) <= 0.1 + 1e-6
        place = torch.tensor([float(one[0]) for one in goal.get_data()])
        assert bool((splits.meta_validation.images == place).all(1).any())
    assert ("before" in picture.alt) == (name == "maml")
