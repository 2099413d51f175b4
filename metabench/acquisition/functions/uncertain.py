"""Asking for what the learner is least sure of."""

from __future__ import annotations

import torch
from torch import Tensor

from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose


def entropy(view: View, b: int, noise: Tensor) -> Tensor:
    # - sum over k of p_k log p_k
    return choose.best(torch.special.entr(view.p).sum(-1), view.taken, b)


def least_confidence(view: View, b: int, noise: Tensor) -> Tensor:
    # 1 - max over k of p_k
    return choose.best(1 - view.p.amax(-1), view.taken, b)


def margin(view: View, b: int, noise: Tensor) -> Tensor:
    first, second = view.p.topk(2).values.unbind(-1)
    # -(p_(1) - p_(2))
    return choose.best(second - first, view.taken, b)


ACQUISITIONS = {
    "entropy": Acquisition(entropy, "The highest entropy of the learner's probabilities.", needs_labels=True),
    "least_confidence": Acquisition(
        least_confidence, "The lowest probability of the likeliest class.", needs_labels=True
    ),
    "margin": Acquisition(
        margin, "The smallest lead of the likeliest class over the next (Scheffer et al. 2001).", True
    ),
}
