"""TypiClust: typical examples of clusters that have no label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metabench.acquisition import Acquisition, View
from metabench.acquisition.functions import _choose as choose

NEIGHBOURS = 20
"""That density is measured by, at most."""

TIES = 1e-4
"""By how much chance may move a density, as a share."""

STEPS = 10
"""Of k-means."""


def k_means(x: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """Cluster rows [M, F] from centres that lie far apart: each one's cluster [M, n], one-hot; centres."""
    between = choose.squared_distances(x, x)
    # Farthest first from the mean on: of no order, unlike what is drawn.
    distance, centres = (x - x.mean(0)).square().sum(-1), []
    for number in range(n_clusters):
        one = distance.argmax()
        centres.append(x[one])
        distance = between[one] if not number else torch.minimum(distance, between[one])
    c = torch.stack(centres)
    for _ in range(STEPS):
        belongs = nearest(x, c)
        sizes = belongs.sum(0)[:, None]
        c = torch.where(sizes > 0, belongs.T @ x / sizes.clamp(min=1), c)
    return nearest(x, c), c


def nearest(x: Tensor, c: Tensor) -> Tensor:
    """Say which centre is nearest to each row, one-hot: [n, clusters]."""
    return F.one_hot(choose.squared_distances(x, c).argmin(-1), len(c)).to(x.dtype)


def typicality(x: Tensor, belongs: Tensor) -> Tensor:
    """Return 1 / the mean distance to the nearest of the same cluster: [M]; of one alone, that to all."""
    n_neighbours = min(NEIGHBOURS, len(x) - 1)
    distance = choose.squared_distances(x, x).sqrt()
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    elsewhere = (belongs @ belongs.T == 0) | itself
    near = distance.masked_fill(elsewhere, torch.inf).sort(-1).values[:, :n_neighbours]
    is_there = near.isfinite()
    mean = near.masked_fill(~is_there, 0).sum(-1) / is_there.sum(-1).clamp(min=1)
    return 1 / torch.where(is_there.any(-1), mean, distance.amax(-1)).clamp(min=1e-12)


def typiclust(view: View, b: int, noise: Tensor) -> Tensor:
    belongs, c = k_means(view.x, min(len(view.seen_x) + b, len(view.x)))
    sizes, typical = belongs.sum(0), typicality(view.x, belongs)
    typical = typical * (1 + TIES * noise[0])  # two alone in a cluster are as typical: by chance
    order = typical.argsort().argsort() / len(typical)  # within [0, 1), so that the cluster goes first
    covered = nearest(view.seen_x, c).amax(0) if len(view.seen_x) else torch.zeros_like(sizes)

    def pick(number: int, taken: Tensor, picks: Tensor) -> Tensor:
        done = torch.maximum(covered, belongs[picks].amax(0)) if number else covered
        # The largest cluster without a label, then its most typical example; where all have one, as well.
        rank = torch.where(done > 0, sizes - len(typical) - 1, sizes)
        return choose.best(belongs @ rank + order, taken, 1)

    return choose.in_turn(pick, view.taken, b)


ACQUISITIONS = {
    "typiclust": Acquisition(
        typiclust,
        "Hacohen, Dekel and Weinshall 2022, arXiv 2202.02794, TPC with k-means: as many clusters as there "
        "will be labels, of those without one the largest, of it the example of the smallest mean distance "
        "to at most 20 neighbours in it. k-means begins from points far apart, without chance. Features are "
        "the learner's, not those of self-supervision. Clusters without a label that are equally large go by "
        "their most typical example, equally typical ones by chance.",
    )
}
