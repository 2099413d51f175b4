"""Expected error reduction for prototypes: what would leave the whole pool least unsure."""

from __future__ import annotations

import torch
from torch import Tensor

from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose


def expected_entropy(view: View) -> Tensor:
    """Return the pool's entropy that is expected once the label of each example is known: [M]."""
    f, c, (n_pool, n_ways) = view.x, view.c, view.p.shape
    n = (view.seen_y[:, None] == torch.arange(n_ways, device=f.device)).sum(0).to(f.dtype)
    # c'_k = (n_k c_k + f_i) / (n_k + 1), for each example i and each label k it may have: [M, N, F]
    moved = (n[:, None] * c + f[:, None]) / (n[:, None] + 1)
    before = -view.scale * choose.squared_distances(f, c)  # [M, N]
    after = -view.scale * choose.squared_distances(moved.flatten(0, 1), f).view(n_pool, n_ways, n_pool)
    # One prototype has moved: its logits take the place of the old ones: [M, N, M, N].
    has_moved = torch.eye(n_ways, dtype=torch.bool, device=f.device)[:, None]
    logits = torch.where(has_moved, after[..., None], before)
    unsure = torch.special.entr(logits.softmax(-1)).sum((-1, -2))  # [M, N]
    # sum over k of p_ik sum over x in the pool of H(p'(. | x))
    return (view.p * unsure).sum(-1)


def expected_error(view: View, b: int, noise: Tensor) -> Tensor:
    return choose.best(-expected_entropy(view), view.taken, b)


ACQUISITIONS = {
    "expected_error": Acquisition(
        expected_error,
        "Roy and McCallum 2001, with log loss: the lowest entropy that the pool is expected to have once the "
        "label is known, by the learner's own probabilities, in closed form for prototypes. Several at once "
        "are the best by themselves.",
        needs_labels=True,
        heads=("prototypes",),
    )
}
