"""How right a learner that reads a sequence is at each example of a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metabench import algorithms, leaderboard
from metabench.core import Support
from metabench.data.tasks import frozen
from metabench.training import evaluate, loop
from metabench.training import run as runs
from tests.algorithms import problems
from tests.support import small

READERS = [name for name in algorithms.names() if algorithms.get(name).reading is not None]


def test_learners_that_read_sequences_are_known() -> None:
    assert READERS == ["mann", "snail"]


@pytest.mark.parametrize("name", READERS)
def test_what_is_said_of_an_example_follows_from_those_before_it(name: str) -> None:
    net = problems.network(norm="none")
    algorithm, h, meta, buffers = problems.start(name, net)
    support = problems.one(problems.tasks(1), 0).support
    assert algorithm.reading is not None
    logits, y = algorithm.reading(net, meta, buffers, support, h)
    order = torch.arange(len(y)) if name == "snail" else support.x.flatten(1).sum(1).argsort()
    assert torch.equal(y, support.y[order])
    x = support.x[order]
    for n in range(1, len(y)):
        learner = algorithm.adapt(net, meta, buffers, Support(x[:n], y[:n]), h)
        assert torch.allclose(algorithm.predict(net, learner, x[n : n + 1])[0], logits[n], atol=1e-11)
    changed = algorithm.reading(net, meta, buffers, support._replace(y=support.y.roll(1)), h)[0]
    assert torch.equal(changed[0], logits[0]), "no label is shown before the first"


@pytest.mark.parametrize("name", READERS)
def test_the_last_instance_is_the_queries_and_is_recorded(name: str, tmp_path: Path) -> None:
    task = small.TASK.model_copy(update={"shot": 2})
    described = small.config(name, 4, (4,))
    described = described.model_copy(update={"task": task, "hyperparameters": {"task_batch_size": 4}})
    runs.train_run(described, small.splits(), tmp_path)
    result = runs.test_run(tmp_path, small.splits(), 12, "cpu")
    assert len(result["by_instance"]) == 3
    mean, low, high = result["by_instance"][-1]
    assert mean == pytest.approx(np.mean(result["accuracy"]))
    assert low <= mean <= high
    board = leaderboard.leaderboard([tmp_path])
    row = next(one for one in board["rows"] if one["algorithm"] == name)
    assert row["by_instance"] == pytest.approx([one[0] for one in result["by_instance"]])
    assert "At each instance %" in leaderboard.as_markdown(board)


def test_instances_that_no_task_has_are_left_out() -> None:
    task = small.TASK.model_copy(update={"shot": 2, "most_shots": 4})
    described = small.config("mann").model_copy(update={"task": task, "hyperparameters": {}})
    learner = loop.build(described, small.splits())
    tasks = frozen.frozen(small.splits(), "meta_test", task, 3, "test")
    counts = tasks.groups[0].indices.shots
    assert counts is not None
    model = loop.model(learner, loop.start(described, learner))
    shown = evaluate.by_instance(model, small.splits().meta_test.images, tasks)
    enough = sum(int((counts >= k).any(1).sum()) > 1 for k in range(1, 5))
    assert enough <= len(shown) <= 5
    assert np.isfinite(shown).all()
