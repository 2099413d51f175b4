"""Learning what to ask for: the policy of `functions/learned.py`, across the tasks of meta-train.

It has weights of its own; the learner stays as it is.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from metabench.acquisition import Acquisition, View
from metabench.acquisition.config import LabelConfig
from metabench.acquisition.functions import learned
from metabench.acquisition.pools import Block, blocks
from metabench.acquisition.rounds import HIDDEN, outlook, view_of
from metabench.core import Split, Tree, seeds, trees
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.training.vectorise import Model

TASKS = 20
"""That a step learns from."""


def learn(model: Model, split: Split, task: TaskConfig, config: LabelConfig) -> Tree:
    """Learn the policy's weights from tasks of meta-train, as `config.task_of` describes them."""
    way, shot, query = task.ways[0], task.shots[0], task.test_query
    shape = sampling.Shape(way, shot, query, unlabelled=task.unlabelled, distractors=task.distractors)
    generator = seeds.generator("learned acquisition")
    weights = trees.map(
        lambda leaf: leaf.to(split.images.device).requires_grad_(), learned.init(shape.way, generator)
    )
    optimizer = torch.optim.Adam(trees.leaves(weights), lr=config.learn_rate)
    source = sampling.pool(split, task)
    for _ in range(-(-config.learn_tasks // TASKS)):
        group = frozen.Group(shape, torch.arange(TASKS), sampling.sample(generator, source, shape, TASKS))
        seeing, in_blocks = blocks(model, split.images, frozen.FrozenTasks((group,), ""), config)
        for block in in_blocks():
            optimizer.zero_grad()
            surrogate(weights, seeing, block, config, generator).backward()
            optimizer.step()
    return trees.map(Tensor.detach, weights)


def surrogate(
    weights: Tree, model: Model, block: Block, config: LabelConfig, generator: torch.Generator
) -> Tensor:
    """Return what has the policy gradient of the mean accuracy over rounds as its own: a loss.

    Each task is gone through S times; what a pick is worth is the accuracy from then on, less what the others
    of its task had.
    """
    n_sets, n_tasks = config.sets, len(block.x)
    rows = torch.arange(n_tasks, device=block.x.device).repeat_interleave(n_sets)
    x, *ys = (leaf.repeat_interleave(n_sets, 0) for leaf in block[:4])
    wide = Block(x, ys[0], ys[1], ys[2], block.n_ways)
    revealed, picked = torch.full_like(wide.pool_y, HIDDEN), wide.pool_y[:, :0]
    fixed = trees.map(Tensor.detach, weights)
    said, rewards = [], []
    for _ in range(config.rounds):
        look = outlook(model, block, rows, revealed, of_pool=True)
        rewards.append(look.score)
        view = view_of(model, wide, revealed, picked, look)
        shape = (len(rows), config.batch, revealed.shape[1])
        noise = torch.rand(shape, generator=generator).clamp(1e-7, 1 - 1e-7).to(block.x)
        draw = vmap(lambda view, noise: learned.pick(fixed, view, config.batch, noise, config.tau))
        picks = draw(view, noise)
        said.append(vmap(partial(_log_p, weights, config.tau))(view, picks))
        revealed = revealed.scatter(1, picks, wide.pool_y.gather(1, picks))
        picked = torch.cat([picked, picks], 1)
    rewards.append(outlook(model, block, rows, revealed, of_pool=False).score)
    to_go = torch.stack(rewards[1:]).flip(0).cumsum(0).flip(0).view(config.rounds, n_tasks, n_sets)
    log_p = torch.stack(said).view(config.rounds, n_tasks, n_sets)
    return -(advantages(to_go).to(log_p) * log_p).mean() / config.rounds


def _log_p(weights: Tree, tau: float, view: View, picks: Tensor) -> Tensor:
    return learned.log_p(weights, view, picks, tau)


def advantages(rewards: Tensor) -> Tensor:
    """Return rewards [..., S] less the mean of the others."""
    n_sets = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * n_sets / (n_sets - 1)


def bound(rule: Acquisition, weights: dict[str, Tensor], config: LabelConfig) -> Acquisition:
    """Return an acquisition that asks as it has learnt to.

    Args:
        weights: by their names, joined by dots.
    """
    assert rule.learns is not None, "or there is nothing to learn"
    form = learned.init(2, seeds.generator("form"))
    return rule._replace(acquire=partial(rule.learns, trees.fill(form, weights), config.tau))
