"""Fair-MAML: MAML whose inner and outer losses both pay for what a protected group is denied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms import maml
from metabench.core import GROUPED, Algorithm, Aux, GroupedQuery, GroupedSupport, Net, Task, Tree, setting

LABELS = {"parity": ((0, 1),), "opportunity": ((1,),), "odds": ((0,), (1,))}
"""Whose rates are compared: of all rows, of those with the wanted label, of those with each label."""


@dataclass(frozen=True)
class Settings(inner.OrderedSettings):
    """MAML's settings, and what fairness is."""

    gamma: float = setting(1.0, "how much fairness counts beside the cross-entropy; 0 is MAML", minimum=0)
    fairness: str = setting(
        "parity",
        "whose rates of the wanted outcome are to be alike in both groups: of all rows, of those that "
        "deserve it, of those that do and of those that do not, each",
        choices=tuple(LABELS),
    )
    regulariser: str = setting(
        "one_sided",
        "what is paid for: how far the protected group's rate is from 1, the squared difference of both "
        "groups' rates, or its size",
        choices=("one_sided", "squared", "absolute"),
    )
    part: str = setting(
        "all",
        "layers that the inner loop moves: all, the head as in ANIL, or all but that",
        choices=("all", "head", "body"),
    )


def regulariser(outputs: Tensor, part: GroupedSupport | GroupedQuery, h: Settings) -> tuple[Tensor, Tensor]:
    """Return R of a part of a task, and of how many of its terms the rows say nothing; these are 0."""
    p = outputs.softmax(-1)[:, 1]  # of the wanted outcome
    terms, n_undefined = p.new_zeros(()), p.new_zeros(())
    for labels in LABELS[h.fairness]:
        counted = sum(((part.y == label).to(p.dtype) for label in labels), torch.zeros_like(p))
        members = torch.stack([part.group == 0, part.group == 1]).to(p.dtype) * counted  # [2, n]
        sizes = members.sum(1)
        rest, protected = members @ p / sizes.clamp(min=1)
        if h.regulariser == "one_sided":
            # sec. 4: R = 1 - mean of p over the protected rows, or those of them with the wanted label
            term, is_defined = 1 - protected, sizes[1] > 0
        else:
            gap = protected - rest
            term = gap.square() if h.regulariser == "squared" else gap.abs()
            is_defined = (sizes > 0).all()
        terms = terms + torch.where(is_defined, term, torch.zeros_like(term))
        n_undefined = n_undefined + (~is_defined).to(p.dtype)
    return terms, n_undefined


def fair(net: Net, part: GroupedSupport | GroupedQuery, h: Settings) -> Net:
    """Return the network under the loss CE + gamma R of a part of a task."""
    plain = net.objective.loss

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return plain(outputs, y) + h.gamma * regulariser(outputs, part, h)[0]

    return net._replace(objective=net.objective._replace(loss=loss))


def task_loss(net: Net, meta: Tree, buffers: Tree, task: Task, h: Any, progress: float) -> tuple[Tensor, Aux]:
    support: Any = task.support
    query: Any = task.query
    phi = maml.descend(fair(net, support, h), meta["theta"], support, h, h.inner_steps, h.derivative, h.part)
    outputs = inner.predict(net, inner.adapted(net, phi, support), query.x)
    loss, aux = inner.judge(fair(net, query, h), outputs, query.y, buffers)
    value, n_undefined = regulariser(outputs, query, h)
    return loss, aux._replace(
        logs={**aux.logs, "fairness/regulariser": value, "fairness/undefined": n_undefined}
    )


def adapt(net: Net, meta: Tree, buffers: Tree, support: Any, h: Any) -> Tree:
    steps = inner.steps_at_evaluation(h)
    phi = maml.descend(fair(net, support, h), meta["theta"], support, h, steps, "first", h.part)
    return inner.adapted(net, phi, support)


def check(h: Settings) -> list[str]:
    return maml.check_anil(h) if h.part == "head" else []


ALGORITHMS = {
    "fair_maml": Algorithm(
        hparams=Settings,
        init=maml.init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optim.descend,
        reference="Slack, Friedler and Givental 2020, arXiv 1908.09092, section 4: the loss of the inner and "
        "of the outer loop is CE + gamma R, with R for demographic parity or equal opportunity (one_sided). "
        "The authors' code computes something else: from the second inner step on it descends R alone, "
        "outputs pass the softmax twice, R is averaged over both groups' rows, inner gradients are "
        "constants, and support and query share rows. The squared and absolute gap, and equalised odds, are "
        "additions: R as published raises the protected group's rate and lowers nobody's, so that much of it "
        "has all predicted positive. A group that the rows do not hold costs nothing. At evaluation the "
        "groups of a support set are known, and those of queries are not.",
        kinds=(GROUPED,),
        check=check,
        inner_steps=inner.INNER_STEPS,
        has_recompute=True,
    )
}
