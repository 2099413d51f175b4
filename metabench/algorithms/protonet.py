"""Prototypical networks: an embedding in which the nearest class mean is the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The outer loop is all the training there is."""

    distance_scale: float = setting(1.0, "factor of the squared distance; published: 1", above=0)


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": inner.init_body(net, generator)}, {}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings | Untrained) -> Tree:
    features, moments = net.embed(meta["theta"], support.x)
    learner = inner.adapted(net, meta["theta"], support, moments)
    # eq. 1: c_k = mean of f(x_i) over S_k
    c = inner.class_means(features, support.y, net.way)
    scale = torch.as_tensor(h.distance_scale, dtype=features.dtype, device=features.device)
    return {**learner, "c": c, "scale": scale}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features, _ = inner.embed(net, learner, x)
    # eq. 2: p(y = k | x) is proportional to exp(-d(f(x), c_k)), with d the squared Euclidean distance
    d = (features[:, None] - learner["c"]).square().sum(-1)
    return -learner["scale"] * d


PROTONET = Algorithm(
    hparams=Settings,
    init=init,
    task_loss=task_loss,
    adapt=adapt,
    predict=predict,
    optimizer=optim.descend,
    head="prototypes",
    is_of_features=True,
    also_called=("Prototypical Networks", "Prototypical Nets", "ProtoNets"),
    reference="Snell, Swersky and Zemel 2017, arXiv 1703.05175, equations 1 and 2. Support and query "
    "pass through the network apart, as the batch norm mode says; the authors' code trains on them "
    "together and evaluates with running statistics. Training has as many ways as evaluation, where the "
    "published results train with more. distance_scale is an addition, without effect at 1.",
    compares=lambda h: True,
)


@dataclass(frozen=True)
class Untrained:
    """What is left of the settings where nothing is learnt."""

    distance_scale: float = setting(
        1.0, "factor of the squared distance, without effect on the class", above=0
    )


def untrained_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Untrained, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, trees.map(Tensor.detach, meta), buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


ALGORITHMS = {
    "protonet": PROTONET,
    "simpleshot": PROTONET._replace(
        hparams=Untrained,
        task_loss=untrained_loss,
        optimizer=lambda h: optim.still(),
        also_called=(),
        reference="Wang, Chao, Weinberger and van der Maaten 2019, arXiv 1911.04623, section 3: the nearest "
        "class mean of features that are centred by meta-train and of unit length, which those of a frozen "
        "backbone are here; nothing is learnt. On another network, features are those that it starts with.",
        is_trained=False,
    ),
}
