"""Returns on the paper's 40 goals by its protocol: 40 trajectories a step, half the rate from the second on.

python benchmarks/navigation.py RUN [--later 0.5] [--validation]

RUN is a folder of `metabench train --dataset navigation --split published`, of MAML, first-order MAML or
joint training. Each goal is met once; what is printed is the mean over goals with 1.96 standard errors,
as in the authors' result files, and the median.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabench import data
from metabench.algorithms import _inner_loop as inner
from metabench.core import MetabenchError, Net, Task, Tree, seeds, trees
from metabench.data.tasks import sampling
from metabench.data.tasks.frozen import FrozenTasks, Group
from metabench.training import evaluate
from metabench.training import run as runs
from metabench.training.vectorise import Model

STEPS, TRAJECTORIES = 4, 40


def adapt(net: Net, meta: Tree, buffers: Tree, support: Any, h: Any, later: float) -> Tree:
    """Descend by the inner rate once, and by a share of it from then on."""

    def loss(params: Tree, batch: Any) -> tuple[torch.Tensor, Tree]:
        return inner.support_loss(net, params, batch)

    phi = meta["theta"]
    for step, batch in enumerate(inner.batches(support, h.eval_steps)):
        gradient, _ = inner.gradient(loss, phi, {}, batch, "first")
        rate = h.inner_lr * (later if step else 1.0)
        phi = trees.map(lambda w, g, rate=rate: w - rate * g, phi, gradient)
    return {"params": phi}


def returns(model: Model, task: Task) -> Tree:
    """Return the mean return after 0, 1, ... steps: batch k is what the policy walked after k of them."""
    support, query = (half.y for half in (task.support, task.query))
    walked = [*support.reward.sum(-1).mean(-1).unbind(), query.reward.sum(-1).mean()]
    return {str(step): one for step, one in enumerate(walked)}


def main() -> None:
    """Print a line of returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--later", type=float, default=0.5, help="share of the inner rate from the second step on"
    )
    parser.add_argument("--validation", action="store_true", help="100 goals of meta-validation instead")
    options = parser.parse_args()
    folder = options.run
    try:
        splits = data.load(runs.read_config(folder).task)
        run = runs.open_run(folder, splits)
    except MetabenchError as error:
        parser.error(str(error))
    if splits.environment is None or not hasattr(run.model.h, "inner_lr"):
        parser.error(
            f"{folder}: takes no gradient steps in an environment; give a run of maml, fomaml or joint"
        )
    algorithm = run.model.algorithm._replace(adapt=partial(adapt, later=options.later))
    h = type(run.model.h)(**{**vars(run.model.h), "eval_steps": STEPS})
    goals = splits.meta_validation.images[:100] if options.validation else splits.meta_test.images
    n_goals = len(goals)
    drawn = torch.randint(sampling.SEEDS, (n_goals, 1, 2 * TRAJECTORIES), generator=seeds.generator("goals"))
    indices = sampling.Indices(torch.arange(n_goals)[:, None], drawn)
    shape = sampling.Shape(1, TRAJECTORIES, TRAJECTORIES)
    tasks = FrozenTasks((Group(shape, torch.arange(n_goals), indices),), "")
    figures = evaluate.over(returns, run.model._replace(algorithm=algorithm, h=h), goals, tasks)
    words = (
        f"{one.mean():.2f} +- {1.96 * one.std() / n_goals**0.5:.2f} ({np.median(one):.2f})"
        for one in figures.values()
    )
    sys.stdout.write(f"{folder}, after 0 to {STEPS} steps: {', '.join(words)}\n")


if __name__ == "__main__":
    main()
