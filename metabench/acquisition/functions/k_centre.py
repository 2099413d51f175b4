"""Core-set selection: whatever lies farthest from all that has a label."""

from __future__ import annotations

import torch
from torch import Tensor

from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose


def k_centre(view: View, b: int, noise: Tensor) -> Tensor:
    between = choose.squared_distances(view.x, view.x)
    if len(view.seen_x):
        nearest = choose.squared_distances(view.x, view.seen_x).amin(-1)
    else:  # the first centre of all is the example that is nearest to the mean
        nearest = -(view.x - view.x.mean(0)).square().sum(-1)

    def pick(number: int, taken: Tensor, picks: Tensor) -> Tensor:
        to_picks = between[:, picks].amin(-1) if number else nearest
        # Without a start the first value is no distance, and is forgotten.
        reached = torch.minimum(nearest, to_picks) if len(view.seen_x) else to_picks
        # argmax over i of the least |f_i - f_j|, j in A
        return choose.best(reached, taken, 1)

    return choose.in_turn(pick, view.taken, b)


ACQUISITIONS = {
    "k_centre": Acquisition(
        k_centre,
        "Sener and Savarese 2018, arXiv 1708.00489, algorithm 1 (k-centre-greedy), with squared "
        "distances, which order alike. Distractors that were asked for count as centres. With nothing "
        "labelled the first is the example nearest to the pool's mean.",
    )
}
