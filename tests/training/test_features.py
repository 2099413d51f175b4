"""Classes of features: rows of numbers are sampled, learnt, tested and predicted as pictures are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad

import metabench
from metabench import algorithms
from metabench.core import MetabenchError, Task, seeds, trees
from metabench.core.config import AugmentConfig, NetworkConfig
from metabench.data.tasks import augment, frozen, sampling
from metabench.storage import files
from metabench.training import loop, vectorise
from metabench.training import run as runs
from tests.support import small

CLASSIFIERS = algorithms.names("classification")
LATE = ("mann",)
"""Learners of which so few tasks make nothing yet: how to use a memory takes thousands."""


def drawn(n_tasks: int) -> tuple[Tensor, sampling.Indices, Task]:
    split, shape = small.features().meta_train, sampling.Shape(3, 2, 2)
    pool = sampling.pool(split, small.FEATURES)
    indices = sampling.sample(seeds.generator("features"), pool, shape, n_tasks)
    return split.images, indices, frozen.gather(split.images, indices, shape)


def test_a_task_holds_the_very_rows_and_whole_labels() -> None:
    images, indices, task = drawn(4)
    assert task.support.x.shape == (4, 6, 10)
    assert task.query.y.dtype == torch.int64
    row = images[indices.classes[1, 2], indices.examples[1, 2, 3]]
    assert torch.equal(task.query.x[1, 2 * 2 + 1], row)


@pytest.mark.parametrize("name", ["maml", "r2d2", "protonet"])
def test_the_vectorised_gradient_is_the_mean_over_a_loop_of_tasks(name: str) -> None:
    config, splits = small.on_features(name), small.features()
    learner = loop.build(config, splits)
    model = loop.model(learner, loop.start(config, learner))
    model = model._replace(meta=trees.map(Tensor.double, model.meta))
    _, _, tasks = drawn(5)
    halves = [part._replace(x=part.x.double()) for part in (tasks.support, tasks.query)]
    tasks = tasks._replace(support=halves[0], query=halves[1])

    def loss(meta: dict, task: Task) -> Tensor:
        return model.algorithm.task_loss(model.net, meta, model.buffers, task, model.h, 0.5)[0]

    looped = []
    for index in range(5):
        support, query = (
            type(part)(*[leaf[index] for leaf in part]) for part in (tasks.support, tasks.query)
        )
        looped.append(grad(loss)(model.meta, Task(support, query, tasks.classes[index])))
    mean = trees.map(lambda *leaves: torch.stack(leaves).mean(0), *looped)
    together = vectorise.meta_gradient(model, tasks, 0.5).gradient
    for one, other in zip(trees.leaves(mean), trees.leaves(together), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)  # float64, another order of sums


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_learns_from_features(name: str) -> None:
    *_, (report, _) = loop.train(small.on_features(name), small.features())
    assert report.finite
    if name in LATE:
        return
    assert report.val_accuracy > 1 / 3, "classes lie well apart; those that compare reach more than half"


def test_a_run_is_trained_tested_and_predicts_rows_of_numbers(tmp_path: Path) -> None:
    config, splits = small.on_features("protonet"), small.features()
    runs.train_run(config, splits, tmp_path)
    result = runs.test_run(tmp_path, splits, 20)
    assert np.mean(result["accuracy"]) > 0.5
    assert json.loads((tmp_path / files.INPUTS).read_text())["shape"] == [10]
    rows = splits.meta_test.images
    classifier = metabench.load(tmp_path, prepared=True).fit(rows[:3, :2].flatten(0, 1), list("aabbcc"))
    shares = classifier.predict_proba(rows[:3, 2:].flatten(0, 1))
    np.testing.assert_allclose(classifier.predict_proba(rows[:3, 2:].flatten(0, 1).tolist()), shares)
    assert (classifier.predict(rows[:3, 2:].flatten(0, 1)) == np.repeat(list("abc"), 4)).mean() > 0.6
    with pytest.raises(MetabenchError, match=r"shape \[2, 9\].*\[n, 10\]"):
        classifier.predict(np.zeros((2, 9)))
    with pytest.raises(MetabenchError, match="finite"):
        classifier.predict([[np.nan] * 10])


@pytest.mark.parametrize("name", ["conv4", "resnet12"])
def test_a_network_for_pictures_refuses_features(name: str) -> None:
    config = small.on_features().model_copy(update={"network": NetworkConfig(name=name)})
    with pytest.raises(MetabenchError, match=r"inputs of shape \[10\] are no images.*choose network mlp"):
        loop.build(config, small.features())


def test_features_are_not_augmented() -> None:
    h = algorithms.hparams("maml", {"augment": "both"})
    assert augment.problem(h, "classification", (10,), AugmentConfig()) == (
        "augment='both': only images can be augmented; leave it out for features"
    )
