"""Adapt and predict over frozen tasks; meta-validation and meta-test are this one function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap

from metabench import algorithms, nets, stats
from metabench.core import GroupedQuery, Split, Task, Tree
from metabench.core.config import NetworkConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks, Group
from metabench.training import vectorise
from metabench.training.graphs.trace import TraceCache
from metabench.training.vectorise import Model

BLOCK = 50
"""Tasks that are gathered and adapted at once."""


MOST_CONFUSED = 200
"""Pairs of classes that a result names: so many that seeds name the same of the worst."""


class Evaluation(NamedTuple):
    """The figure and the mean loss of each task's queries."""

    score: NDArray[np.float64]  # [T], accuracy in [0, 1] or error
    loss: NDArray[np.float64]  # [T]
    groups: NDArray[np.float64] | None = None  # [T, 8], queries by group, label and guess, where it is known


def evaluate(
    model: Model, images: Tensor, tasks: FrozenTasks, traces: TraceCache | None = None
) -> Evaluation:
    """Adapt to each frozen task's support set and score its queries.

    Args:
        traces: where the operations are recorded, when the same is done again and again.
    """

    def score(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        query: Any = task.query
        outputs, y = algorithm.predict(net, learner, query.x), query.y
        figures = {"score": net.objective.score(outputs, y), "loss": net.objective.loss(outputs, y)}
        if isinstance(query, GroupedQuery):
            place = 4 * query.group + 2 * y + outputs.argmax(-1)
            figures["groups"] = (place[:, None] == torch.arange(8, device=y.device)).sum(0)
        return figures

    return Evaluation(**over(score, model, images, tasks, traces))


class Tested(NamedTuple):
    """What meta-test asks of each task."""

    score: NDArray[np.float64]  # [T], of all queries of a task together
    alone: NDArray[np.float64]  # [T], of each query by itself
    loss: NDArray[np.float64]  # [T]
    # [T, N, N], queries by position and guess, classes that a task lacks behind its own; None in regression
    confusion: NDArray[np.float64] | None
    # [O, O], queries of all tasks by label and guess, where labels are fixed
    of_labels: NDArray[np.float64] | None
    right: NDArray[np.float64] | None  # [T, 2, Q], each query's, together and by itself; NaN: no such query
    judged: dict[str, NDArray[np.float64]]  # what a `Judge` says of each task


Judge = Callable[[Tensor, Tensor], Tree]
"""Says more of the logits and labels of a task's queries, predicted as pictures of a user are."""


def test(model: Model, images: Tensor, tasks: FrozenTasks, judge: Judge | None = None) -> Tested:
    """Adapt to each frozen task's support set; score its queries together, and one at a time.

    Both are the same unless queries are normalised by each other's moments.
    """
    objective = model.net.objective
    most = max(group.shape.n_labels for group in tasks.groups)
    n_queries = max(group.shape.way * group.shape.query for group in tasks.groups)
    is_transductive = model.algorithm.batch_norm(model.net, model.h) == "transductive"

    def score(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        x, y = task.query[:2]
        outputs = algorithm.predict(net, learner, x)
        alone = (
            vmap(lambda one: algorithm.predict(net, learner, one[None])[0])(x) if is_transductive else outputs
        )
        scores = {
            "score": objective.score(outputs, y),
            "alone": objective.score(alone, y),
            "loss": objective.loss(outputs, y),
        }
        if objective.metric.has_chance:
            labels = torch.arange(most, device=y.device)
            true, guess = ((one[:, None] == labels).to(outputs.dtype) for one in (y, outputs.argmax(-1)))
            scores["confusion"] = true.T @ guess
            right = torch.stack([one.argmax(-1) == y for one in (outputs, alone)]).to(outputs.dtype)
            scores["right"] = F.pad(right, (0, n_queries - len(y)), value=math.nan)
        if judge is not None:
            scores |= judge(_by_support(model, task) if is_transductive else outputs, y)
        return scores

    scored = over(score, model, images, tasks)
    figures, alone, loss = (scored.pop(name) for name in Tested._fields[:3])
    confusion, of_labels = scored.pop("confusion", None), None
    if confusion is not None:
        of_labels = confusion.sum(0) if all(group.shape.outputs for group in tasks.groups) else None
        _by_position(confusion, tasks)
    return Tested(figures, alone, loss, confusion, of_labels, scored.pop("right", None), scored)


def by_instance(model: Model, images: Tensor, tasks: FrozenTasks) -> list[list[float]]:
    """Say how right a learner that reads a sequence is at the k-th example of a class: mean and interval.

    Support examples count as they are said before their labels are shown, and queries as those that follow.
    """
    most = 1 + max(group.shape.max_shots for group in tasks.groups)

    def count(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        assert algorithm.reading is not None, "or it reads no sequence"
        logits, y = algorithm.reading(net, meta, buffers, task.support, h)
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        asked = algorithm.predict(net, learner, task.query.x)
        before = torch.ones(len(y), len(y), dtype=torch.bool, device=y.device).tril(-1)
        instance = ((y[:, None] == y) & before).sum(1)
        place = torch.cat([instance, (task.query.y[:, None] == y).sum(1)])
        right = torch.cat([logits.argmax(-1) == y, asked.argmax(-1) == task.query.y])
        at = place[:, None] == torch.arange(most, device=y.device)
        return {"right": (at & right[:, None]).sum(0), "all": at.sum(0)}

    counts = over(count, model, images, tasks)
    of_each = []
    for right, n_all in zip(counts["right"].T, counts["all"].T, strict=True):
        is_there = n_all > 0  # unbalanced tasks may have no class of so many
        if is_there.sum() > 1:
            shares = right[is_there] / n_all[is_there]
            of_each.append(stats.mean_interval(shares, model.net.objective.metric.scale))
    return [[one.mean, one.low, one.high] for one in of_each]


def _by_position(confusion: NDArray[np.float64], tasks: FrozenTasks) -> None:
    """Let confusions of fixed labels begin with those of a task's classes, in the order of its classes."""
    for group in (one for one in tasks.groups if one.indices.labels is not None):
        fixed = sampling.tensors(group.indices)["labels"].tolist()
        for place, labels in zip(group.positions.tolist(), fixed, strict=True):
            order = [*labels, *(label for label in range(len(confusion[place])) if label not in labels)]
            confusion[place] = confusion[place][np.ix_(order, order)]


def by_picture(tested: Tested, tasks: FrozenTasks, split: Split) -> dict[str, Any]:
    """Say what each picture of a split moved the mean by, where tasks share their pictures.

    Returns:
        `moved` and `one_at_a_time` [P], with queries together and each by itself; `strata` [P], the row of
        its class; `repeats`, and the `classes` of each task, which the interval needs beside them.
    """
    assert tested.right is not None, "or there are no classes that splits could share"
    queries, support, strata = frozen.pictures_of(tasks, split)
    together, alone = (stats.influences(tested.right[:, part], queries, support, strata) for part in range(2))
    return {
        "moved": together[0].tolist(),
        "one_at_a_time": alone[0].tolist(),
        "strata": strata.tolist(),
        "repeats": together[1],
        "classes": [" ".join(map(str, one)) for one in frozen.classes_of(tasks)],
    }


def _by_support(model: Model, task: Task) -> Tensor:
    algorithm, net, meta, buffers, h = by_itself(model)
    return algorithm.predict(net, algorithm.adapt(net, meta, buffers, task.support, h), task.query.x)


def by_itself(model: Model) -> Model:
    """Let no prediction depend on other queries: those who normalise by them do so by the support set."""
    if model.algorithm.batch_norm(model.net, model.h) != "transductive":
        return model
    return model._replace(net=model.net._replace(batch_norm="support_stats"))


def by_class(
    confusion: NDArray[np.float64], classes: Sequence[Sequence[int]], n_classes: int
) -> dict[str, Any]:
    """Add up tasks' confusions [T, N, N] by the classes that each task's labels stand for.

    Returns:
        `by_class`, queries of each class and hits among them; `confused`, the worst pairs [label, guess,
        times, chances]; chances are the queries of the label's class in tasks that hold the guess.
    """
    times, chances = np.zeros((2, n_classes, n_classes))
    for counts, rows in zip(confusion, classes, strict=True):
        way = int(counts.any(1).sum())  # no queries are of the labels beyond, which a task lacks
        label, guess = np.ix_(rows[-way:], rows[-way:])  # of two domains, the queries' stand last
        times[label, guess] += counts[:way, :way]
        chances[label, guess] += counts[:way].sum(1, keepdims=True)
    queries, hits = chances.diagonal().copy(), times.diagonal().copy()
    np.fill_diagonal(times, 0)
    worst = np.argsort(-stats.weighed(times, chances), axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(one), n_classes) for one in worst if times.flat[one] > 0]
    return {
        "by_class": {"queries": queries.astype(int).tolist(), "hits": hits.astype(int).tolist()},
        "confused": [[*pair, int(times[pair]), int(chances[pair])] for pair in pairs],
    }


def nearest_mean(images: Tensor, tasks: FrozenTasks) -> Tested:
    """Score the nearest class mean of raw inputs by cosine: the floor for anything that learns.

    It knows of no class that a task lacks, also where labels are fixed.
    """
    tasks = frozen.shuffled(tasks)
    most = max(group.shape.way for group in tasks.groups)
    net = nets.build(NetworkConfig(name="mlp"), most, tuple(images.shape[2:]))  # only for the ways
    return test(Model(algorithms.get("nearest_mean"), net, {}, {}, None), images, tasks)


def over(
    function: Callable[[Model, Task], Tree],
    model: Model,
    images: Tensor,
    tasks: FrozenTasks,
    traces: TraceCache | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Apply a function of a model and one task, which returns a dict, to frozen tasks.

    Args:
        traces: for a function whose operations depend on the model and its name alone.

    Returns:
        Arrays [T, ...] by the names in that dict.
    """
    blocks, positions = [], []
    size = vectorise.at_once(model.net, images.device, BLOCK)
    for group in tasks.groups:

        def applied(part: slice, group: Group = group) -> Tree:
            block = frozen.gather(images, sampling.part(group.indices, part), group.shape)
            sized = model._replace(net=vectorise.for_tasks(model.net, block))
            return vectorise.per_task_of(sized, function, block, traces)

        parts, size = vectorise.in_parts(applied, len(group.positions), size)
        blocks += parts
        positions.append(group.positions)
    order = torch.cat(positions).argsort()
    whole = {key: torch.cat([block[key] for block in blocks]).double().cpu() for key in blocks[0]}
    return {key: values[order].numpy() for key, values in whole.items()}
