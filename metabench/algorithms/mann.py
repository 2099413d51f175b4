"""MANN: a recurrent network that reads a task into a memory, whose least used rows it writes over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import vmap

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms.matching import lstm_cell
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting

FAINT = 0.1
"""The length of a row of the memory, below which it is read the less the shorter it is."""


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The sizes of controller and memory."""

    hidden_size: int = setting(200, "units of the controller, an LSTM", minimum=1, maximum=4_096)
    memory_rows: int = setting(128, "rows of the memory", minimum=1, maximum=65_536)
    row_size: int = setting(40, "numbers in a row", minimum=1, maximum=4_096)
    reads: int = setting(
        4, "rows that are read and written in a step, at most memory_rows", minimum=1, maximum=64
    )
    usage_decay: float = setting(0.95, "share of its usage that a row keeps in a step", above=0, maximum=1)
    cosine_scale: float = setting(10.0, "factor of the cosine by which rows are read; published: 1", above=0)


def check(h: Settings) -> list[str]:
    if h.reads <= h.memory_rows:
        return []
    return [f"reads={h.reads}: more than memory_rows={h.memory_rows}; lower reads, or raise memory_rows"]


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = inner.init_body(net, generator)
    n_read = h.reads * h.row_size
    n_inputs = 2 * net.features + net.outputs + n_read
    sizes = {
        "controller": (4 * h.hidden_size, n_inputs + h.hidden_size),  # an LSTM's four gates
        "key": (n_read, n_inputs + h.hidden_size),
        "row": (n_read, n_inputs + h.hidden_size),
        "gate": (h.reads, h.hidden_size),
        "output": (net.outputs, h.hidden_size + n_read),
    }
    weights = {name: nets.init_head(*size, generator) for name, size in sizes.items()}
    seen, label = (nets.init_head(n_read, n, generator)["weight"] for n in (net.features, net.outputs))
    # A key begins as a view of its example alone; a row as the same view of the one before, with its label:
    # so that alike examples read each other's labels from the first.
    blocks = {"key": (seen, 0 * seen, 0 * label), "row": (0 * seen, seen, label)}
    for name, shown in blocks.items():
        start = torch.cat(shown, 1)
        weights[name]["weight"] = F.pad(start, (0, n_inputs + h.hidden_size - start.shape[1]))
    return {"theta": theta, "weights": weights}, {}


def start(net: Net, h: Settings, like: Tensor) -> Tree:
    """Return the state before a sequence: nothing seen, nothing written, no row used."""

    def zeros(*shape: int) -> Tensor:
        return like.new_zeros(shape)

    return {
        "f": zeros(net.features),  # the example before, and its label
        "y": zeros(net.outputs),
        "hidden": zeros(h.hidden_size),
        "cell": zeros(h.hidden_size),
        "memory": zeros(h.memory_rows, h.row_size),
        "usage": zeros(h.memory_rows),
        "read_weights": zeros(h.reads, h.memory_rows),
        "read": zeros(h.reads, h.row_size),
        "decay": torch.as_tensor(h.usage_decay, dtype=like.dtype, device=like.device),
        "scale": torch.as_tensor(h.cosine_scale, dtype=like.dtype, device=like.device),
    }


def least_used(usage: Tensor, n: int) -> Tensor:
    """Return a row of zeros and a one for each of the n rows of the memory that are used least: [n, rows]."""
    order = usage.argsort(stable=True)[:n]
    return (order[:, None] == torch.arange(len(usage), device=usage.device)).to(usage.dtype)


def address(keys: Tensor, memory: Tensor, scale: Tensor) -> Tensor:
    """Return how much each key [n, D] reads of each row of the memory: [n, rows]."""
    # eqs. 2 and 3: w^r is the softmax of the cosines of a key and the rows
    # but of rows that hold next to nothing, whose direction would weigh as much as any other's
    return (scale * F.normalize(keys, dim=-1) @ F.normalize(memory, dim=-1, eps=FAINT).T).softmax(-1)


def step(weights: Tree, state: Tree, f: Tensor) -> tuple[Tree, Tensor]:
    """Take in an embedded example [F] after the label of the one before; return what its label is said by."""
    inputs = torch.cat([f, state["f"], state["y"], state["read"].flatten()])
    hidden, cell = lstm_cell(weights["controller"], inputs, state["hidden"], state["cell"])
    n = len(state["read"])
    both = torch.cat([inputs, hidden])
    keys, rows = (nets.head(weights[name], both).tanh().view(n, -1) for name in ("key", "row"))
    gate = nets.head(weights["gate"], hidden).sigmoid()[:, None]
    w_lu = least_used(state["usage"], n)
    # eq. 7: w^w_t = sigmoid(alpha) w^r_(t-1) + (1 - sigmoid(alpha)) w^lu_(t-1)
    w_w = gate * state["read_weights"] + (1 - gate) * w_lu
    # eq. 8: M_t = M_(t-1) + w^w_t k_t, its least used rows being emptied before
    memory = state["memory"] * (1 - w_lu.sum(0))[:, None] + w_w.T @ rows
    w_r = address(keys, memory, state["scale"])
    # eq. 5: w^u_t = gamma w^u_(t-1) + w^r_t + w^w_t
    usage = state["decay"] * state["usage"] + w_r.sum(0) + w_w.sum(0)
    # eq. 4: r_t = sum_i w^r_t(i) M_t(i)
    read = w_r @ memory
    after = {"f": f, "hidden": hidden, "cell": cell, "memory": memory, "usage": usage}
    after |= {"read_weights": w_r, "read": read}
    return {**state, **after}, torch.cat([hidden, read.flatten()])


def read(weights: Tree, state: Tree, features: Tensor, labels: Tensor) -> tuple[Tree, list[Tensor]]:
    """Take in examples [n, F], the label [n, O] of each after it; return what each was said by, too."""
    said = []
    for f, y in zip(features, labels, strict=True):
        after, one = step(weights, state, f)
        state = {**after, "y": y}
        said.append(one)
    return state, said


def order(x: Tensor) -> Tensor:
    """Return an order of examples that tells no class, whichever order they come in: that of their sums."""
    return x.flatten(1).sum(1).argsort()


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    features, moments = net.embed(meta["theta"], support.x)
    learner = inner.adapted(net, meta["theta"], support, moments)
    state, _ = read_support(net, meta, features, support, h)
    return {**learner, "weights": meta["weights"], "state": state}


def read_support(
    net: Net, meta: Tree, features: Tensor, support: Support, h: Settings
) -> tuple[Tree, list[Tensor]]:
    """Read a support set in its order from the start."""
    labels = (support.y[:, None] == torch.arange(net.outputs, device=support.y.device)).to(features.dtype)
    place = order(support.x)
    return read(meta["weights"], start(net, h, features), features[place], labels[place])


def reading(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> tuple[Tensor, Tensor]:
    features, _ = net.embed(meta["theta"], support.x)
    _, said = read_support(net, meta, features, support, h)
    logits = nets.outputs(net, meta["weights"]["output"], torch.stack(said))
    return logits, support.y[order(support.x)]


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features, _ = inner.embed(net, learner, x)

    def after_support(f: Tensor) -> Tensor:
        return step(learner["weights"], learner["state"], f)[1]

    # For one query without vmap, which an exported graph could not pass with a support set of any size.
    said = after_support(features[0])[None] if len(features) == 1 else vmap(after_support)(features)
    return nets.outputs(net, learner["weights"]["output"], said)


ALGORITHMS = {
    "mann": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=optim.descend,
        check=check,
        reading=reading,
        also_called=("Memory-Augmented Neural Network",),
        reference="Santoro et al. 2016, arXiv 1605.06065, section 3: an LSTM and a memory with least "
        "recently used access, which are shown a label one step after its example. Deviations: the loss is "
        "that of queries, each of which ends a sequence of its own, and not of every step, whose labels are "
        "partly known by how often each was shown; the example before is seen again beside its label, by the "
        "heads past the controller, too; what is written is a vector of its own, not the key, but begins as "
        "its view, of the example before; rows of next to nothing are read less; the n-th head "
        "writes over the n-th least used row alone; cosine_scale sharpens reading, and 1 is as published; "
        "examples are embedded by the network and come in the order of their sums, so that the support "
        "set's own order does not matter.",
    )
}
