"""Labels asked for in rounds: the learner adapts, an acquisition says what to label, and labels are revealed.

Every learner goes with every acquisition. A task's labelled examples are adapted to as a support set of the
classes that have any, so that a learner meets neither a distractor nor a class without examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap
from torch.nn.functional import pad

from metabench.acquisition import NO_CLASS, Acquisition, View
from metabench.acquisition.config import LabelConfig
from metabench.acquisition.pools import Block, blocks, normalised_alike
from metabench.core import Query, SemiSupport, Support, Task, Tree, seeds
from metabench.data.tasks.frozen import FrozenTasks
from metabench.training import vectorise
from metabench.training.vectorise import Model

HIDDEN = -2
"""Stands for a label that was not asked for."""

MOST = 1_000
"""States that are computed at once, where they are of features."""

LEAST = -20.0
"""Log-probability that a query counts with at least: of a class without a label it is minus infinity."""


class Labelled(NamedTuple):
    """What came of asking, before the first round and after each of R."""

    accuracy: NDArray[np.float64]  # [T, R + 1], of the queries
    classes: NDArray[np.int64]  # [T, R + 1], that have a label
    wasted: NDArray[np.int64]  # [T, R + 1], labels of distractors so far
    picked: NDArray[np.int64]  # [T, R * b], places in the pool, in turn


class Outlook(NamedTuple):
    """What the learner says in S states of labelling."""

    score: Tensor  # [S]
    loss: Tensor  # [S], mean cross-entropy of the queries
    classes: Tensor  # int64 [S], that have a label
    p: Tensor  # [S, M, N], of the pool; empty where nobody asked
    x: Tensor  # [S, N*K + M, F], features of the start and the pool; empty where nobody asked


class Shown(NamedTuple):
    """What a learner may see of a task in a state: the support set, and all that is no query."""

    x: Tensor  # [A, ...]
    y: Tensor  # [A]
    around: Tensor  # [N*K + M, ...], start and pool
    hidden: Tensor  # int64 [H], places in `around` whose labels were not asked for


def label(
    model: Model, images: Tensor, tasks: FrozenTasks, rules: Mapping[str, Acquisition], config: LabelConfig
) -> Iterator[tuple[str, Labelled]]:
    """Ask for labels in frozen tasks of one shape as each acquisition says, and score the learner."""
    model, in_blocks = blocks(model, images, tasks, config)
    for name, rule in rules.items():
        done = []
        for number, block in enumerate(in_blocks()):
            # What is drawn depends on nothing but the tasks and the acquisition, whatever the learner.
            generator = seeds.generator("label", tasks.hash, name, number)
            shape = (config.rounds, len(block.x), config.batch, block.pool_y.shape[1])
            noise = torch.rand(shape, generator=generator).clamp(1e-7, 1 - 1e-7).to(block.x)
            done.append(ask(model, block, rule, config, noise))
        yield name, Labelled(*(np.concatenate(parts) for parts in zip(*done, strict=True)))


def ask(model: Model, block: Block, rule: Acquisition, config: LabelConfig, noise: Tensor) -> Labelled:
    """Ask in the tasks of a block, with noise [R, T, b, M] for what is drawn."""
    revealed = torch.full_like(block.pool_y, HIDDEN)
    picked = block.pool_y[:, :0]
    rows = torch.arange(len(revealed), device=revealed.device)
    figures: list[Tensor] = []
    for number in range(config.rounds + 1):
        is_last = number == config.rounds
        look = outlook(model, block, rows, revealed, of_pool=rule.acquire is not None and not is_last)
        figures.append(
            torch.stack([look.score, look.classes.to(look.score), _wasted(revealed).to(look.score)])
        )
        if is_last:
            break
        if rule.acquire is None:
            picks = _best_of_all(model, block, revealed, config.batch)
        else:
            view = view_of(model, block, revealed, picked, look)
            picks = vmap(partial(_acquire, rule, config.batch))(view, noise[number])
        revealed = revealed.scatter(1, picks, block.pool_y.gather(1, picks))
        picked = torch.cat([picked, picks], 1)
    score, classes, wasted = torch.stack(figures, -1).cpu().numpy()
    return Labelled(score, classes.astype(int), wasted.astype(int), picked.cpu().numpy())


def _acquire(rule: Acquisition, b: int, view: View, noise: Tensor) -> Tensor:
    assert rule.acquire is not None, "or it is for those who know the labels"
    return rule.acquire(view, b, noise)


def _wasted(revealed: Tensor) -> Tensor:
    return (revealed == NO_CLASS).sum(-1)


def view_of(model: Model, block: Block, revealed: Tensor, picked: Tensor, look: Outlook) -> View:
    """Show what may be seen of each task: leaves [T, ...]."""
    pool = look.x[:, block.n_start :]
    at = picked[..., None].expand(-1, -1, pool.shape[-1])
    seen_x = torch.cat([look.x[:, : block.n_start], pool.gather(1, at)], 1)
    seen_y = torch.cat([block.start_y, revealed.gather(1, picked)], 1)
    c = seen_x.new_zeros(len(pool), block.n_ways, pool.shape[-1])
    if model.algorithm.head == "prototypes":
        belongs = (seen_y[:, None] == torch.arange(block.n_ways, device=pool.device)[:, None]).to(pool)
        c = belongs @ seen_x / belongs.sum(-1, keepdim=True).clamp(min=1)
    scale = pool.new_full((len(pool),), getattr(model.h, "distance_scale", 1.0))
    return View(pool, look.p, revealed > HIDDEN, seen_x, seen_y, c, scale)


def _best_of_all(model: Model, block: Block, revealed: Tensor, b: int) -> Tensor:
    """Pick b labels one after another, each the one after which the queries are classified best."""
    n_tasks, n_pool = revealed.shape
    rows = torch.arange(n_tasks, device=revealed.device).repeat_interleave(n_pool)
    picks = []
    for _ in range(b):
        ahead = revealed[:, None].expand(-1, n_pool, -1).clone()
        ahead.diagonal(dim1=1, dim2=2).copy_(block.pool_y)
        look = outlook(model, block, rows, ahead.flatten(0, 1), of_pool=False)
        taken = revealed > HIDDEN
        score = look.score.view(n_tasks, n_pool).masked_fill(taken, -1)
        # As good, a label of a class that had none comes before one that is wasted: no loss is above -LEAST.
        loss = (look.loss.double() + LEAST * look.classes).view(n_tasks, n_pool)
        loss = loss.masked_fill(score < score.amax(1, keepdim=True), torch.inf)
        picks.append(loss.argmin(1, keepdim=True))
        revealed = revealed.scatter(1, picks[-1], block.pool_y.gather(1, picks[-1]))
    return torch.cat(picks, 1)


def outlook(model: Model, block: Block, rows: Tensor, revealed: Tensor, of_pool: bool) -> Outlook:
    """Adapt to what is labelled in each of S states, and predict.

    States are computed together with those of as many labels, classes and hidden labels: of one shape.

    Args:
        rows: int64 [S], the task of each.
        revealed: int64 [S, M], labels of the pool's examples, HIDDEN where they were not asked for.
        of_pool: whether to predict the pool as well.
    """
    y = torch.cat([block.start_y[rows], revealed], 1)
    has_label = (y[..., None] == torch.arange(block.n_ways, device=y.device)).any(1)  # [S, N]
    shape = torch.stack([(y >= 0).sum(1), has_label.sum(1), (y == HIDDEN).sum(1)], 1)
    size = vectorise.at_once(model.net, y.device, MOST)
    parts, order = [], []
    for one in torch.unique(shape, dim=0):
        alike = (shape == one).all(1).nonzero().flatten()

        def predicted(part: slice, alike: Tensor = alike, n_labels: int = int(one[0])) -> Tree:
            some = alike[part]
            tasks = _support_sets(block, rows[some], y[some], has_label[some], n_labels)
            return _judged(block, _predict(model, block, tasks, of_pool), tasks.classes, rows[some])

        done, size = vectorise.in_parts(predicted, len(alike), size)
        parts += done
        order.append(alike)
    width = max(part["x"].shape[2] for part in parts)
    for part in parts:  # inputs, of states without a label, beside features: zeros change no distance
        part["x"] = pad(part["x"], (0, width - part["x"].shape[2]))
    back = torch.cat(order).argsort()
    joined = {key: torch.cat([part[key] for part in parts])[back] for key in parts[0]}
    return Outlook(classes=shape[:, 1], **joined)


def _support_sets(block: Block, rows: Tensor, y: Tensor, has_label: Tensor, n_labels: int) -> Task:
    """Make a task of those classes that have a label, from a state's labelled examples, class by class."""
    classes = has_label.nonzero()[:, 1].view(len(rows), -1)  # [S, n], the class of each label of the support
    place = y.masked_fill(y < 0, block.n_ways).sort(dim=1, stable=True).indices[:, :n_labels]
    labels = (has_label.cumsum(1) - 1).gather(1, y.gather(1, place))
    x = block.x[rows[:, None], place]
    around, query = block.x[rows].split([block.n_around, block.query_y.shape[1]], 1)
    hidden = (y == HIDDEN).nonzero()[:, 1].view(len(rows), -1)
    support: Any = Shown(x, labels, around, hidden)
    return Task(support, Query(query, block.query_y[rows]), classes)


def _predict(model: Model, block: Block, tasks: Task, of_pool: bool) -> Tree:
    """Return logits of the queries, and of the pool, [S, n, classes with a label], and features."""
    around = tasks.support.around  # type: ignore[attr-defined]
    if not tasks.support.y.shape[1]:  # nothing to adapt to, so inputs are all that there is to go by
        n_outputs = block.query_y.shape[1] + of_pool * block.pool_y.shape[1]
        x = around if of_pool else around[:, :0]
        return {"logits": around.new_zeros(len(around), n_outputs, 0), "x": x.flatten(2)}

    def look(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        x, y, around, hidden = task.support  # type: ignore[misc]
        net = normalised_alike(net, around)
        labelled: Any = Support(x, y)
        if algorithm.taken is not None and len(hidden):  # who reads unlabelled examples gets what is left
            labelled = SemiSupport(x, y, around[hidden])
        learner = algorithm.adapt(net, meta, buffers, labelled, h)
        if not of_pool:
            return {"logits": algorithm.predict(net, learner, task.query.x), "x": around[:0].flatten(1)}
        seen = torch.cat([task.query.x, around[block.n_start :]])
        x = around.flatten(1)
        if "params" in learner:
            x, _ = net.embed(learner["params"], around, learner.get("moments"))
        return {"logits": algorithm.predict(net, learner, seen), "x": x}

    sized = model._replace(net=vectorise.for_tasks(model.net, tasks))
    predicted: Tree = vectorise.per_task_of(sized, look, tasks)
    return predicted


def _judged(block: Block, predicted: Tree, classes: Tensor, rows: Tensor) -> Tree:
    """Score queries among all classes of a task, those without a label included, which nobody guesses."""
    logits, y = predicted["logits"], block.query_y[rows]
    at = classes[:, None].expand(-1, logits.shape[1], -1)
    wide = logits.new_full((*logits.shape[:2], block.n_ways), -torch.inf).scatter(2, at, logits)
    if not classes.shape[1]:  # all classes are as likely
        wide = torch.zeros_like(wide)
    n_queries = y.shape[1]
    log_p = wide[:, :n_queries].log_softmax(-1).clamp(min=LEAST).gather(2, y[..., None])[..., 0]
    right = (wide[:, :n_queries].argmax(-1) == y).double().mean(1)
    p = wide[:, n_queries:].softmax(-1)
    if not classes.shape[1]:
        p = torch.zeros_like(p)
    return {"score": right, "loss": -log_p.mean(1), "p": p, "x": predicted["x"]}
