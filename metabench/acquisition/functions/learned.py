"""A policy that is learnt across tasks: quality times diversity, set by set, the learner left as it is."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from metabench import nets
from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose
from metabench.core import Tree

HIDDEN, KEY = 16, 8
"""Widths of the hidden layer, and of what diversity is measured by."""


def n_statistics(n_ways: int) -> int:
    """Return how many statistics an example has."""
    return n_ways + 5


def init(n_ways: int, generator: Generator) -> Tree:
    """Draw the weights of quality and of diversity."""
    n = n_statistics(n_ways)
    return {
        "hidden": nets.init_head(HIDDEN, n, generator),
        "quality": nets.init_head(1, HIDDEN, generator),
        "key": nets.init_head(KEY, HIDDEN, generator),
    }


def statistics(view: View) -> Tensor:
    """Describe each example by numbers that no order of classes and no scale of features changes: [M, n]."""
    p = view.p.sort(-1, descending=True).values
    distance = choose.squared_distances(view.x, view.x).sqrt()
    scale = distance.mean().clamp(min=1e-12)
    itself = torch.eye(len(p), dtype=torch.bool, device=p.device)
    alone = distance.masked_fill(itself, torch.inf).amin(-1) / scale
    reached = torch.ones_like(alone)
    if len(view.seen_x):
        reached = choose.squared_distances(view.x, view.seen_x).sqrt().amin(-1) / scale
    unsure = torch.special.entr(p).sum(-1) / math.log(p.shape[-1])
    more = (unsure, p[:, 0] - p[:, 1], reached, distance.mean(-1) / scale, alone)
    return torch.cat([p, torch.stack(more, -1)], -1)


def scores(weights: Tree, view: View, tau: float) -> tuple[Tensor, Tensor]:
    """Return each example's quality [M], and sines between all pairs over tau [M, M]."""
    hidden = nets.head(weights["hidden"], statistics(view)).tanh()
    q = nets.head(weights["quality"], hidden)[:, 0]
    phi = nets.head(weights["key"], hidden)
    unit = phi / phi.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    # A small number keeps the root's slope finite where two are alike.
    return q, (1 - (unit @ unit.T).square() + 1e-6).clamp(min=1e-6).sqrt() / tau


def log_chances(scored: tuple[Tensor, Tensor], taken: Tensor) -> Tensor:
    """Return the log-probability of each example to be next, minus infinity of what is taken: [M]."""
    q, apart = scored
    # v_i = least sine to whatever is taken; q_i + v_i / tau
    v = torch.where(taken, apart, torch.inf).amin(-1)
    v = torch.where(v.isfinite(), v, 0.0)
    return (q + v).masked_fill(taken, -torch.inf).log_softmax(-1)


def log_p(weights: Tree, view: View, picks: Tensor, tau: float) -> Tensor:
    """Return the log-probability of picking these, one after another."""
    scored, taken, total = scores(weights, view, tau), view.taken, view.x.new_zeros(())
    for one in picks.unbind():
        total = total + log_chances(scored, taken).gather(0, one[None])[0]
        taken = taken.scatter(0, one[None], torch.ones_like(taken[:1]))
    return total


def pick(weights: Tree, view: View, b: int, noise: Tensor | None, tau: float) -> Tensor:
    """Pick b by their probabilities, drawn with noise [b, M], or the likeliest each time."""
    scored = scores(weights, view, tau)

    def one(number: int, taken: Tensor, picks: Tensor) -> Tensor:
        chances = log_chances(scored, taken)
        gumbel = 0.0 if noise is None else -(-noise[number].log()).log()
        return choose.best(chances + gumbel, taken, 1)

    return choose.in_turn(one, view.taken, b)


def acquire(weights: Tree, tau: float, view: View, b: int, noise: Tensor) -> Tensor:
    return pick(weights, view, b, None, tau)


ACQUISITIONS = {
    "learned": Acquisition(
        None,
        "After Ravi and Larochelle 2018: a product of two experts, exp(quality) exp(diversity / tau), the "
        "latter the least sine to what was asked for before; both from statistics of an example, by one "
        "small network. Learnt in meta-train's tasks by REINFORCE over all rounds, the learner fixed, the "
        "baseline of each trajectory the mean of the others of its task; asks for the likeliest afterwards. "
        "The start's examples do not count for diversity. Statistics, widths and the reward, the accuracy "
        "of the queries, are choices of this code.",
        learns=acquire,
    )
}
