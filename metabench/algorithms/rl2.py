"""RL²: a policy with a memory, which learns a task by reading what it did there and what it was paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms.matching import lstm_cell
from metabench.core import HEAD, Algorithm, Aux, Net, Support, Task, Tree, setting
from metabench.core.control import discounted, entropy, mean_over_steps

MOMENTUM = 0.9
"""Share of the running moments of returns that a meta-update keeps."""


@dataclass(frozen=True)
class Settings(optim.Settings):
    """How much is read, the memory, and the values that returns are compared with."""

    inner_steps: int = setting(1, "batches of trajectories that memory reads in meta-training", minimum=0)
    eval_steps: int = setting(-1, "batches at evaluation; -1 for as many as in meta-training", minimum=-1)
    gamma: float = setting(0.99, "discount of rewards, over all batches", minimum=0, maximum=1)
    hidden_size: int = setting(64, "units of the memory, an LSTM", minimum=1, maximum=4_096)
    value_weight: float = setting(0.5, "weight of the squared error of values", minimum=0)
    entropy_weight: float = setting(
        0.003, "weight of the policy's entropy, which keeps it exploring", minimum=0
    )


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = net.init(generator)
    head, width = theta.pop(HEAD), net.features + h.hidden_size
    sizes = {
        "policy": (net.outputs, width),
        "value": (1, width),
        # an LSTM's four gates see features, action, reward and its own output
        "memory": (4 * h.hidden_size, net.features + net.outputs + 1 + h.hidden_size),
    }
    weights = {name: nets.init_head(*size, generator) for name, size in sizes.items()}
    zero = torch.zeros_like(weights["value"]["bias"][0])
    buffers = {"mean": zero, "square": torch.ones_like(zero)}
    return {"theta": theta, **weights, "policy": {**head, **weights["policy"]}}, buffers


def start(meta: Tree) -> Tree:
    """Return a memory that has read nothing: the LSTM's output and its cell."""
    nothing = torch.zeros_like(meta["memory"]["bias"].chunk(4)[0])
    return {"output": nothing, "cell": nothing}


def read(net: Net, meta: Tree, memory: Tree, batch: Any) -> Tree:
    """Read each of M trajectories on its own, to its end; return the mean of the memories that leaves."""
    x, y = batch
    features = net.embed(meta["theta"], x)[0].view(*y.reward.shape, -1)  # [M, H, F]
    action = y.action
    if not action.is_floating_point():
        arms = torch.arange(net.outputs, device=action.device)
        action = (action[..., None] == arms).to(features.dtype)
    rows = torch.cat([features, action, y.reward[..., None]], -1)
    output, cell = (memory[name].expand(len(rows), -1) for name in ("output", "cell"))
    for time in range(rows.shape[1]):
        after = lstm_cell(meta["memory"], rows[:, time], output, cell)
        is_on = y.is_on[:, time, None] > 0
        output, cell = (torch.where(is_on, *pair) for pair in zip(after, (output, cell), strict=True))
    return {"output": output.mean(0), "cell": cell.mean(0)}


def remembering(features: Tensor, memory: Tree) -> Tensor:
    """Put what memory says beside the features [n, F] of each observation."""
    return torch.cat([features, memory["output"].expand(len(features), -1)], -1)


def returns_to_go(batches: list[Any], gamma: float) -> list[Tensor]:
    """Return what follows each step [M, H] in its trajectory, and in the batches that read it."""
    following, returns = batches[-1].y.reward.new_zeros(()), []
    for _, y in reversed(batches):
        left = discounted(y.is_on, 1.0)
        returns.append(discounted(y.reward * y.is_on, gamma) + gamma**left * following)
        following = returns[-1][:, 0].mean()
    return returns[::-1]


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    batches: list[Any] = [*inner.batches(task.support, h.inner_steps), task.query]
    returns = returns_to_go(batches, h.gamma)
    scale = (buffers["square"] - buffers["mean"].square()).clamp(min=1e-8).sqrt()
    memory, losses, moments = start(meta), [], []
    for k, ((x, y), following) in enumerate(zip(batches, returns, strict=True)):
        memory = read(net, meta, memory, batches[k - 1]) if k else memory
        seen = remembering(net.embed(meta["theta"], x)[0], memory)
        outputs = nets.outputs(net, meta["policy"], seen)
        error = (following - buffers["mean"]) / scale - nets.head(meta["value"], seen).view_as(following)
        # The gradient of the return of all batches: what is done in one is paid in those that read it, too.
        policy = net.objective.loss(outputs, y._replace(advantage=error.detach() * y.is_on))
        policy = policy - h.entropy_weight * entropy(outputs, y)
        losses.append(policy + h.value_weight * mean_over_steps(error.square(), y))
        moments.append(torch.stack([mean_over_steps(one, y) for one in (following, following.square())]))
    now = dict(zip(("mean", "square"), torch.stack(moments).mean(0), strict=True))
    buffers = {name: MOMENTUM * buffers[name] + (1 - MOMENTUM) * one for name, one in now.items()}
    _, aux = inner.judge(net, outputs, task.query.y, buffers)
    return torch.stack(losses).mean(), aux


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    memory = start(meta)
    for batch in inner.batches(support, inner.steps_at_evaluation(h)):
        memory = read(net, meta, memory, batch)
    return {"theta": meta["theta"], "policy": meta["policy"], "memory": memory}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features = net.embed(learner["theta"], x)[0]
    return nets.outputs(net, learner["policy"], remembering(features, learner["memory"]))


ALGORITHMS = {
    "rl2": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=optim.descend,
        reference="Duan et al. 2016, arXiv 1611.02779, section 2: a recurrent policy that reads "
        "observations, actions and rewards, trained for the return of a whole trial. Deviations: memory is "
        "read between trajectories and stands still within one, so that it is the published learner where a "
        "trajectory is one step, as in a bandit; those of a batch are read each on its own, and the memories "
        "that they leave are averaged; the policy gradient has a learned value of standardised returns as "
        "its baseline (as in Wang et al. 2016, arXiv 1611.05763) and no TRPO; an LSTM stands for the GRU.",
        also_called=("RL²",),
        kinds=("control",),
        inner_steps=inner.INNER_STEPS,
    )
}
