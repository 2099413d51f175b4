"""Evaluation scores each frozen task on its own, and the raw-pixel floor is what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metabench import nets
from metabench.data.tasks import frozen
from metabench.training import evaluate, loop
from tests.support import small


@pytest.mark.parametrize("name", ["maml", "maml_pp"])
def test_batched_evaluation_equals_one_task_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, splits = small.config(name), small.splits()
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    tasks = frozen.frozen(splits, "meta_test", config.task, 7, "test")
    args = (loop.model(learner, state), splits.meta_test.images, tasks)
    together = evaluate.evaluate(*args)
    monkeypatch.setattr(evaluate, "BLOCK", 1)
    alone = evaluate.evaluate(*args)
    assert together.score.shape == (7,)
    assert np.array_equal(together.score, alone.score)
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)


def test_nearest_mean_equals_numpy() -> None:
    splits = small.splits()
    tasks = frozen.frozen(splits, "meta_test", small.TASK.model_copy(update={"shot": 2}), 5, "test")
    found = evaluate.nearest_mean(splits.meta_test.images, tasks).score
    images = splits.meta_test.images.numpy().reshape(6, 6, -1) / 255
    for index in range(5):
        indices = tasks.groups[0].indices
        classes, examples = indices.classes[index].numpy(), indices.examples[index].numpy()
        unit = images / np.linalg.norm(images, axis=-1, keepdims=True)
        means = np.stack([unit[c, e[:2]].mean(0) for c, e in zip(classes, examples, strict=True)])
        means /= np.linalg.norm(means, axis=-1, keepdims=True)
        right = [
            np.argmax(means @ unit[c, q]) == label
            for label, (c, e) in enumerate(zip(classes, examples, strict=True))
            for q in e[2:]
        ]
        assert found[index] == pytest.approx(np.mean(right))


def test_nothing_that_evaluation_returns_holds_a_graph() -> None:
    config, splits = small.config(), small.splits()
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    tasks = frozen.frozen(splits, "meta_test", config.task, 3, "test")
    before = torch.is_grad_enabled()
    evaluate.evaluate(loop.model(learner, state), splits.meta_test.images, tasks)
    assert torch.is_grad_enabled() == before


def test_the_score_of_a_regression_is_the_mean_squared_error_of_each_task() -> None:
    config, splits = small.regression(eval_steps=0), small.sinusoids()
    learner = loop.build(config, splits)
    state = loop.start(config, learner)
    tasks = frozen.frozen(splits, "meta_test", config.task, 7, "test")
    images = splits.meta_test.images
    found = evaluate.evaluate(loop.model(learner, state), images, tasks)
    (group,) = tasks.groups
    drawn = frozen.gather(images, group.indices, group.shape)
    for index in range(7):
        outputs, _ = nets.apply(learner.net, state.meta["theta"], drawn.query.x[index])
        squares = (outputs - drawn.query.y[index]).numpy() ** 2
        assert found.score[index] == found.loss[index] == pytest.approx(squares.mean(), rel=1e-5)
