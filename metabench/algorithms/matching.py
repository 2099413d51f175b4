"""Matching networks: a label by attention over the support set, with or without full context embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The attention's sharpness and what an embedding may know of the support set."""

    cosine_scale: float = setting(10.0, "factor of the cosine in the attention; published: 1", above=0)
    full_context: bool = setting(
        False,
        "embed each example in the context of the whole support set, by LSTMs as wide as the features",
    )
    processing_steps: int = setting(
        5, "attention reads over the support set for each query, with full_context", minimum=0
    )


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    meta = {"theta": inner.init_body(net, generator)}
    if not h.full_context:
        return meta, {}
    width = net.features

    def lstm(inputs: int) -> Tree:
        """Draw the weights of four gates, over inputs and hidden state side by side."""
        return nets.init_head(4 * width, inputs + width, generator)

    # f's hidden state is [h, r], as wide as two embeddings
    return {**meta, "context": {"forward": lstm(width), "backward": lstm(width), "f": lstm(2 * width)}}, {}


def lstm_cell(weights: Tree, inputs: Tensor, hidden: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return an LSTM's next output and cell state."""
    gates = nets.head(weights, torch.cat([inputs, hidden], -1))
    into, forget, candidate, out = gates.chunk(4, -1)
    c = forget.sigmoid() * c + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * c.tanh(), c


def lstm(weights: Tree, rows: Tensor) -> Tensor:
    """Run an LSTM over rows [n, F], from the first to the last: [n, F]."""
    h = c = torch.zeros_like(rows[0])
    states = []
    for row in rows:
        h, c = lstm_cell(weights, row, h, c)
        states.append(h)
    return torch.stack(states)


def support_context(context: Tree, g: Tensor) -> Tensor:
    """Embed support examples g' [n, F] in the context of each other."""
    # app. A.2: g(x_i, S) = h->_i + h<-_i + g'(x_i)
    return lstm(context["forward"], g) + lstm(context["backward"], g.flip(0)).flip(0) + g


def query_context(reads: Tree, f: Tensor, g: Tensor) -> Tensor:
    """Embed queries f' [n, F], each on its own, in the context of the support set."""
    h, c = f, torch.zeros_like(f)
    for weights in reads.values():
        # app. A.1: r_(k-1) = sum over i of a(h_(k-1), g(x_i)) g(x_i), with a the softmax of h . g(x_i)
        r = (h @ g.T).softmax(-1) @ g
        # h^_k, c_k = LSTM(f'(x), [h_(k-1), r_(k-1)], c_(k-1))
        estimate, c = lstm_cell(weights, f, torch.cat([h, r], -1), c)
        # h_k = h^_k + f'(x)
        h = estimate + f
    return h


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    g, moments = net.embed(meta["theta"], support.x)
    learner = inner.adapted(net, meta["theta"], support, moments)
    reads: Tree = {}
    if h.full_context:
        g = support_context(meta["context"], g)
        # The same cell at every step: a learner is a tree of tensors and has no place for a count.
        reads = {str(step): meta["context"]["f"] for step in range(h.processing_steps)}
    scale = torch.as_tensor(h.cosine_scale, dtype=g.dtype, device=g.device)
    belongs = support.y == torch.arange(net.way, device=g.device)[:, None]  # [N, N*K]
    return {**learner, "g": g, "belongs": belongs, "scale": scale, "reads": reads}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    """Return log-probabilities [n, N]."""
    f, _ = inner.embed(net, learner, x)
    f = query_context(learner["reads"], f, learner["g"])
    # sec. 2.1.1: a(x, x_i) is the softmax of the cosines c(f(x), g(x_i))
    cosine = F.normalize(f, dim=-1) @ F.normalize(learner["g"], dim=-1).T
    log_a = (learner["scale"] * cosine).log_softmax(-1)
    # eq. 1: p(y | x) = sum over i of a(x, x_i) y_i
    return log_a[:, None].masked_fill(~learner["belongs"], -torch.inf).logsumexp(-1)


ALGORITHMS = {
    "matching": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=optim.descend,
        is_of_features=True,
        also_called=("Matching Networks", "Matching Nets", "MatchingNet"),
        reference="Vinyals et al. 2016, arXiv 1606.04080, equation 1, section 2.1.1 and, for full_context, "
        "appendices A.1 and A.2. The published attention has the raw cosine, within [-1, 1], which leaves it "
        "nearly flat and barely trains; cosine_scale sharpens it, and 1 is as published. With full_context "
        "both LSTMs have the features' width, as the sums ask for; the query's starts from h = f'(x) and "
        "c = 0, and the support's reads the examples in the order given, class by class.",
        compares=lambda h: True,
    )
}
