"""Evaluation scores each frozen task on its own, and the raw-pixel floor is what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from metabench import algorithms, nets
from metabench.core import Query, Splits, Support, Task
from metabench.data.tasks import frozen
from metabench.training import evaluate, loop
from metabench.training.vectorise import Model
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
    scores = evaluate.nearest_mean(splits.meta_test.images, tasks).score
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
        assert scores[index] == pytest.approx(np.mean(right))


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
    evaluated = evaluate.evaluate(loop.model(learner, state), images, tasks)
    (group,) = tasks.groups
    drawn = frozen.gather(images, group.indices, group.shape)
    for index in range(7):
        outputs, _ = nets.apply(learner.net, state.meta["theta"], drawn.query.x[index])
        squares = (outputs - drawn.query.y[index]).numpy() ** 2
        assert evaluated.score[index] == evaluated.loss[index] == pytest.approx(squares.mean(), rel=1e-5)


MODES = ("transductive", "support_stats", "with_support")


def started(name: str, batch_norm: str) -> tuple[Model, Splits, frozen.FrozenTasks]:
    config, splits = small.config(name), small.splits()
    network = config.network.model_copy(update={"batch_norm": batch_norm})
    kept = {field.name for field in dataclasses.fields(algorithms.get(name).hparams)}
    settings = {key: value for key, value in config.hyperparameters.items() if key in kept}
    config = config.model_copy(update={"network": network, "hyperparameters": settings})
    learner = loop.build(config, splits)
    tasks = frozen.frozen(splits, "meta_test", config.task, 20, "test")
    return loop.model(learner, loop.start(config, learner)), splits, tasks


@pytest.mark.parametrize("name", algorithms.names("classification"))
@pytest.mark.parametrize("batch_norm", MODES)
def test_one_at_a_time_is_what_a_loop_over_single_queries_scores(name: str, batch_norm: str) -> None:
    model, splits, tasks = started(name, batch_norm)
    tested = evaluate.test(model, splits.meta_test.images, tasks)
    (group,) = tasks.groups
    drawn = frozen.gather(splits.meta_test.images, group.indices, group.shape)
    alone = []
    for index in range(20):
        task = Task(
            Support(*[leaf[index] for leaf in drawn.support]),
            Query(*[leaf[index] for leaf in drawn.query]),
            drawn.classes[index],
        )
        learner = model.algorithm.adapt(model.net, model.meta, model.buffers, task.support, model.h)
        guesses = [
            model.algorithm.predict(model.net, learner, one[None]).argmax().item() for one in task.query.x
        ]
        alone.append(np.mean(np.array(guesses) == task.query.y.numpy()))
    # A tie between two logits may fall either way in another order of sums.
    assert np.abs(tested.alone - alone).mean() <= 0.01
    if batch_norm != "transductive":
        assert np.array_equal(tested.alone, tested.score)


def test_queries_share_their_moments_only_where_batch_norm_is_transductive() -> None:
    model, splits, tasks = started("protonet", "transductive")
    tested = evaluate.test(model, splits.meta_test.images, tasks)
    assert not np.array_equal(tested.alone, tested.score)


def test_classes_and_confusions_add_up_to_the_accuracy() -> None:
    model, splits, tasks = started("protonet", "support_stats")
    tested = evaluate.test(model, splits.meta_test.images, tasks)
    assert tested.confusion is not None
    assert np.allclose(tested.confusion.trace(axis1=1, axis2=2) / 9, tested.score)
    assert (tested.confusion.sum(axis=2) == 3).all()  # queries of each label, whatever is guessed
    counted = evaluate.by_class(tested.confusion, frozen.classes_of(tasks), 6)
    queries, hits = (np.array(counted["by_class"][key]) for key in ("queries", "hits"))
    assert queries.sum() == 20 * 9
    assert hits.sum() == round(tested.score.sum() * 9)


def test_the_worst_confusion_is_the_one_that_was_planted() -> None:
    # Two tasks, of classes (4, 2) and (2, 5, 0): 2 is taken for 4 three times of three, for 0 once of three.
    confusion = np.zeros((2, 3, 3))
    confusion[0, :2, :2] = [[3, 0], [3, 0]]
    confusion[1] = [[2, 0, 1], [0, 3, 0], [0, 0, 3]]
    counted = evaluate.by_class(confusion, [[4, 2], [2, 5, 0]], 6)
    assert counted["confused"] == [[2, 4, 3, 3], [2, 0, 1, 3]]
    assert counted["by_class"]["queries"] == [3, 0, 6, 0, 3, 3]
    assert counted["by_class"]["hits"] == [3, 0, 2, 0, 3, 3]


def test_of_two_domains_the_classes_of_the_queries_are_counted() -> None:
    counted = evaluate.by_class(np.array([[[3, 0], [1, 2]]], dtype=np.float64), [[0, 1, 4, 5]], 6)
    assert counted["by_class"] == {"queries": [0, 0, 0, 0, 3, 3], "hits": [0, 0, 0, 0, 3, 2]}
    assert counted["confused"] == [[5, 4, 1, 3]]


def test_rare_confusions_do_not_crowd_out_a_frequent_one() -> None:
    rare = evaluate.MOST_CONFUSED
    confusion = np.array([[[1, 2], [0, 3]]] * 20 + [[[0, 3], [0, 3]]] * rare, dtype=np.float64)
    classes = [[0, 1]] * 20 + [[2 + 2 * pair, 3 + 2 * pair] for pair in range(rare)]
    assert evaluate.by_class(confusion, classes, 2 + 2 * rare)["confused"][0] == [0, 1, 40, 60]
