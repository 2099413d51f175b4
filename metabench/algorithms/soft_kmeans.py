"""Prototypical networks whose prototypes move towards unlabelled images that look like their class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms import protonet
from metabench.core import Algorithm, Aux, Net, SemiSupport, Support, Task, Tree, setting

HIDDEN = 20
"""Units of the perceptron that makes the mask."""

START = 0.01
"""Standard deviation of its weights at the start, at which every mask is nearly alike."""

LEAST_VARIANCE = 1e-8
"""Of distances, below which their skew and kurtosis mean nothing."""


@dataclass(frozen=True)
class Settings(protonet.Settings):
    """How prototypes are refined; without unlabelled images they are not."""

    refinement: str = setting(
        "masked",
        "how unlabelled images count: each for the classes by its distances; with a further cluster for "
        "distractors; or by a learnt mask",
        choices=("soft", "cluster", "masked"),
    )
    refinements: int = setting(
        1, "refinement steps; 0: unlabelled images give batch norm moments at most", minimum=0, maximum=100
    )
    refine_in_training: bool = setting(True, "refine in meta-training, too, and not at evaluation alone")
    r_init: float = setting(
        100.0, "radius that the distractors' cluster starts with, in which classes have 1", above=0
    )
    moments_of: str = setting(
        "with_unlabelled",
        "images that batch norm takes moments of, where it takes the support's",
        choices=("with_unlabelled", "support"),
    )


def check(h: Settings) -> list[str]:
    if not h.refine_in_training and h.refinements and h.refinement != "soft":
        learnt = {"cluster": "radius", "masked": "mask"}[h.refinement]
        return [
            f"refine_in_training=false: the {learnt} of refinement={h.refinement} is learnt there; "
            "take refinement=soft, or leave it out"
        ]
    return []


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    meta = {"theta": inner.init_body(net, generator)}
    if h.refinement == "cluster":
        meta["log_radius"] = torch.tensor(math.log(h.r_init))
    if h.refinement == "masked":
        meta["mask"] = {"hidden": near_zero(HIDDEN, 5, generator), "output": near_zero(2, HIDDEN, generator)}
    return meta, {}


def near_zero(outputs: int, inputs: int, generator: Generator) -> Tree:
    """Draw a layer whose outputs hardly depend on its inputs."""
    weight = START * torch.randn(outputs, inputs, generator=generator)
    return {"weight": weight, "bias": torch.zeros(outputs)}


def distances(h: Tensor, p: Tensor) -> Tensor:
    """Return the squared distances of features [n, F] from prototypes [N, F]: [n, N]."""
    return (h[:, None] - p).square().sum(-1)


Weigh = Callable[[Tensor, Tensor, Tree, Tensor], Tensor]
"""(unlabelled features h~ [M, F], prototypes [N, F], meta, scale of distances) -> weights [M, N]."""


def soft(h: Tensor, p: Tensor, meta: Tree, scale: Tensor) -> Tensor:
    # sec. 3.1.1: z~_jc is proportional to exp(-|h~_j - p_c|^2)
    return (-scale * distances(h, p)).softmax(-1)


def cluster(h: Tensor, p: Tensor, meta: Tree, scale: Tensor) -> Tensor:
    # eq. 6: z~_jc is proportional to exp(-|h~_j - p_c|^2 / r_c^2 - A(r_c)), A(r) = log(2 pi) / 2 + log r;
    # r_c = 1 for a class, and log(2 pi) / 2 is the same for all
    log_r = meta["log_radius"]
    distractor = -scale * h.square().sum(-1) * (-2 * log_r).exp() - log_r  # its prototype is the origin
    logits = torch.cat([-scale * distances(h, p), distractor[:, None]], 1)
    return logits.softmax(-1)[:, :-1]


def masked(h: Tensor, p: Tensor, meta: Tree, scale: Tensor) -> Tensor:
    d = distances(h, p)
    mean = d.mean(0)
    # eq. 7: d~_jc = d_jc / mean_j d_jc
    d = d / torch.where(mean > 0, mean, 1)
    # eq. 8: [beta_c, gamma_c] = MLP([min, max, var, skew, kurtosis] of d~_.c)
    hidden = nets.head(meta["mask"]["hidden"], statistics(d.detach())).tanh()
    beta, gamma = nets.head(meta["mask"]["output"], hidden).exp().unbind(-1)
    # eq. 9: m_jc = sigmoid(-gamma_c (d~_jc - beta_c)), and p~_c takes z~_jc m_jc
    return soft(h, p, meta, scale) * torch.sigmoid(-gamma * (d - beta))


def statistics(d: Tensor) -> Tensor:
    """Return minimum, maximum, variance, skew and excess kurtosis of each column of [M, N]: [N, 5]."""
    centred = d - d.mean(0)
    var = centred.square().mean(0)
    spread = var.clamp(min=LEAST_VARIANCE).sqrt()
    skew, kurtosis = ((centred / spread).pow(power).mean(0) for power in (3, 4))
    return torch.stack([d.amin(0), d.amax(0), var, skew, kurtosis - 3], -1)


REFINEMENTS: dict[str, Weigh] = {"soft": soft, "cluster": cluster, "masked": masked}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    n_steps = h.refinements if h.refine_in_training else 0
    learner = adapt(net, meta, buffers, task.support, h, n_steps)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(
    net: Net, meta: Tree, buffers: Tree, support: Support | SemiSupport, h: Settings, steps: int | None = None
) -> Tree:
    """Refine the class means of the support set by the unlabelled images beside it, where there are any."""
    if not isinstance(support, SemiSupport):
        return protonet.adapt(net, meta, buffers, support, h)
    features, unlabelled, learner = embed(net, meta["theta"], support, h.moments_of)
    belongs = (support.y[:, None] == torch.arange(net.way, device=support.y.device)).to(features.dtype)
    scale = torch.as_tensor(h.distance_scale, dtype=features.dtype, device=features.device)
    weights = features.new_zeros(len(unlabelled), net.way)
    p = belongs.T @ features / belongs.sum(0)[:, None]
    for _ in range(h.refinements if steps is None else steps):
        weights = REFINEMENTS[h.refinement](unlabelled, p, meta, scale)
        # eq. 4: p~_c = (sum_i h_i z_ic + sum_j h~_j z~_jc) / (sum_i z_ic + sum_j z~_jc)
        total = belongs.sum(0) + weights.sum(0)
        p = (belongs.T @ features + weights.T @ unlabelled) / total[:, None]
    return {**learner, "c": p, "scale": scale, "taken": weights.sum(-1)}


def embed(net: Net, theta: Tree, support: SemiSupport, moments_of: str) -> tuple[Tensor, Tensor, Tree]:
    """Embed a support set and what is beside it; return both, and a learner that embeds queries."""
    n, x = len(support.y), torch.cat([support.x, support.unlabelled])
    if moments_of == "with_unlabelled":
        features, moments = net.embed(theta, x)
        return features[:n], features[n:], inner.adapted(net, theta, Support(x, support.y), moments)
    features, moments = net.embed(theta, support.x)
    unlabelled, _ = net.embed(theta, support.unlabelled, moments)
    return features, unlabelled, inner.adapted(net, theta, support, moments)


predict = protonet.predict


ALGORITHMS = {
    "soft_kmeans": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=optim.descend,
        check=check,
        taken=lambda learner: learner["taken"],
        is_of_features=True,
        also_called=("Masked Soft k-Means",),
        reference="Ren et al. 2018, arXiv 1803.00676, sections 3.1.1 to 3.1.3. Deviations from the authors' "
        "code, where it is not the paper's equations: the mask is applied once, and not squared; distances "
        "to the cluster are divided by r^2 and not 2 r^2; its prototype is not refined, and queries are "
        "scored over the N classes alone. The perceptron of the mask has the two outputs that are used; what "
        "it sees of the distances are constants, as there. Support and unlabelled images pass through the "
        "network together, queries as the batch norm mode says; the authors' code trains on all together and "
        "evaluates with running statistics. distance_scale is an addition, without effect at 1.",
    )
}
