"""BADGE: examples whose gradients of the last layer are large, and unlike each other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose

LEAST = 1e-12  # of a squared distance, whose logarithm is taken


def products(view: View) -> Tensor:
    """Return <g_i, g_j> of all pairs [M, M], g_i,k = a_i,k (f_i - c_k), without an outer product."""
    f, c = view.x, view.c
    a = view.p - F.one_hot(view.p.argmax(-1), view.p.shape[-1])
    # sum over k of a_i,k a_j,k (f_i - c_k).(f_j - c_k), multiplied out
    mixed = (a * (f @ c.T)) @ a.T
    return (a @ a.T) * (f @ f.T) - mixed - mixed.T + (a * c.square().sum(-1)) @ a.T


def badge(view: View, b: int, noise: Tensor) -> Tensor:
    gram = products(view)
    size = gram.diagonal()
    # |g_i - g_j|^2
    between = (size[:, None] + size - 2 * gram).clamp(min=0)
    gumbel = -(-noise.log()).log()

    def pick(number: int, taken: Tensor, picks: Tensor) -> Tensor:
        if not number:
            return choose.best(size, taken, 1)
        # D^2 sampling: in proportion to the squared distance to the nearest pick, by the Gumbel trick
        nearest = between[:, picks].amin(-1)
        return choose.best((nearest + LEAST).log() + gumbel[number], taken, 1)

    return choose.in_turn(pick, view.taken, b)


ACQUISITIONS = {
    "badge": Acquisition(
        badge,
        "Ash et al. 2020, arXiv 1906.03671, algorithm 1: gradients of the last layer under the guessed "
        "label, (p - e) f', then k-means++ among them, as in the authors' code from the largest on. For "
        "prototypes the gradient is theirs, (p_k - e_k)(f - c_k), but for a factor.",
        needs_labels=True,
        heads=("linear", "prototypes"),
    )
}
